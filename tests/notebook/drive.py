"""Run cells in a real kernel of a notebook, by its protocol.

In, as JSON on the standard input: the cells, in their order; an empty one restarts the kernel. Out,
as JSON: what each cell has printed, and the error that it ended with. At the end the kernel is
shut down, as a notebook server does it. The interpreter needs ipykernel and jupyter_client.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from jupyter_client.manager import KernelManager

TIMEOUT = 240  # seconds


def main() -> None:
    """Run the cells that are given."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=TIMEOUT)
    shown: list[str] = []
    for cell in json.load(sys.stdin):
        if cell:
            texts: list[str] = []
            client.execute_interactive(cell, timeout=TIMEOUT, output_hook=_taker(texts))
            shown.append("".join(texts))
        else:
            manager.restart_kernel()
            client.wait_for_ready(timeout=TIMEOUT)
    manager.shutdown_kernel()
    json.dump(shown, sys.stdout)


def _taker(texts: list[str]) -> Callable[[dict[str, Any]], None]:
    def take(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream":
            texts.append(content["text"])
        elif message["msg_type"] == "error":
            texts.append(f"{content['ename']}: {content['evalue']}\n")

    return take


if __name__ == "__main__":
    main()
