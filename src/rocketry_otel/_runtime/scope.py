"""The instrumentation scope of everything that this package sends.

In: the metadata of the installed package. Out: name, version and schema of the scope.
"""

from importlib.metadata import version

NAME = "rocketry_otel"
VERSION = version("rocketry-otel")
# The semantic conventions whose names are sent. It is a constant, because the names are: another
# version of OpenTelemetry's package changes none of them.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.38.0"
