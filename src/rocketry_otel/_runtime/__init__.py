"""Forks, threads, file locks, the terminal and the end of the process.

In: the events of a process, such as a fork. Out: calls of the objects that registered for them.
"""
