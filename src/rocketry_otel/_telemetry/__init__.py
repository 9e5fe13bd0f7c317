"""Signals to OpenTelemetry's API.

In: events and runs. Out: calls that make spans, log records and measurements.
"""
