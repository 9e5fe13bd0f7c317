"""The instrumentation scope of everything that this package sends.

In: the metadata of the installed package. Out: name and version of the scope, and of its loggers.
"""

from importlib.metadata import version

NAME = "rocketry_otel"
VERSION = version("rocketry-otel")
