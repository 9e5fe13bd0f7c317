"""Queues, exporters and providers: from spans and log records to a collector."""
