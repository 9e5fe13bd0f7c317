"""A real Rocketry application that shows the way of its task events.

This file imports nothing, so that a spawned child imports only its task.
"""
