"""Delivery of every stored record at least once, across processes."""
