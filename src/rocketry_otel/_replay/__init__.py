"""Sending a stored history again."""
