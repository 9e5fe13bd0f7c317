"""The loggers that the demo changes."""

import logging

LOGGERS = (
    *("rocketry", "rocketry.task", "rocketry.scheduler"),
    *("rocketry_otel", "opentelemetry", "shop"),
)


def state_of_loggers():
    """Return the settings of the loggers, to compare them."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    return [(one.handlers, one.level, one.propagate, one.disabled) for one in loggers]
