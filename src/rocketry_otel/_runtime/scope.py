"""The instrumentation scope of everything that this package sends."""

from importlib.metadata import version

NAME = "rocketry_otel"
VERSION = version("rocketry-otel")
