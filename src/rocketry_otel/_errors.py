"""The exceptions of rocketry-otel.

::

    RocketryOTelError
    ├── SettingsError (also a ValueError)
    └── RepositoryError
        ├── RepositoryURLError (also a ValueError)
        └── RepositoryMismatchError
"""


class RocketryOTelError(Exception):
    """Base class of every exception that rocketry-otel raises on purpose."""


class SettingsError(RocketryOTelError, ValueError):
    """A setting has a value that is not allowed.

    The message names the variable, the value (never a secret) and the allowed values.
    """


class RepositoryError(RocketryOTelError):
    """A repository cannot be opened."""


class RepositoryURLError(RepositoryError, ValueError):
    """A repository URL is not understood, or its driver is not installed."""


class RepositoryMismatchError(RepositoryError):
    """An existing table or file has other columns than the record model.

    The message lists the differences. The table or file is left as it was.
    """
