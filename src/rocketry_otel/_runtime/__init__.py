"""Forks, threads, file locks and the end of the process."""
