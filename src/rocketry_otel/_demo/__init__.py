"""A real Rocketry application that shows what becomes of its task events.

Nothing is imported here, so that a spawned child imports no more than its task.
"""
