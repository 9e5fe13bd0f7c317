"""Forks, threads, file locks, the terminal and the end of the process."""
