"""The seam to Rocketry.

In: an application, and the records of its tasks. Out: stored records, and events for telemetry.
"""
