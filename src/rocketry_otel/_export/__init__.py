"""Queues, exporters and providers of our own.

In: spans, log records and metrics of the SDK. Out: requests to a collector, and its answers.
"""
