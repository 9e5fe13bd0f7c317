"""Sending the records of a repository again, on request."""
