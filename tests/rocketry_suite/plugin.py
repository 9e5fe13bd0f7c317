"""A plugin for pytest that runs Rocketry's own tests with the combined handler.

In: the tests that Rocketry's wheel brings. Out: the same tests, with ``OTelRepoHandler`` wherever
Rocketry or one of its tests makes a ``RepoHandler``. Rocketry must not be imported before it.
"""

from __future__ import annotations

import os
import sys

import redbird.logging

from rocketry_otel import OTelRepoHandler

# Spans and log records are made and go all the way to an exporter, which prints them.
os.environ.update(
    OTEL_TRACES_EXPORTER="console",
    OTEL_LOGS_EXPORTER="console",
    OTEL_METRICS_EXPORTER="none",
)

if "rocketry" in sys.modules:
    raise RuntimeError("Rocketry was imported before this plugin: its handlers are its own")

redbird.logging.RepoHandler = OTelRepoHandler
