"""What more than one of the conservation tests needs."""

from __future__ import annotations

import pytest

# For what is left to the full run, `make test-conservation`.
full_run = pytest.mark.conservation

# Ever so many records fall out of these.
SMALL_QUEUES = {
    "OTEL_BSP_MAX_QUEUE_SIZE": "20",
    "OTEL_BLRP_MAX_QUEUE_SIZE": "20",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "10",
}
