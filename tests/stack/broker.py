"""A Kafka broker: one process, which is its own controller and keeps its data on the disk."""

from __future__ import annotations

import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.support.ports import LOOPBACK, free_ports
from tests.support.processes import clean_environment

from .programs import KAFKA
from .servers import Server

# Four partitions of each topic that is made by its first message. The topics of the broker's own
# have a single replica, because there is a single broker. A group waits for no other member.
SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={loopback}:{controller}
listeners=PLAINTEXT://{loopback}:{port},CONTROLLER://{loopback}:{controller}
advertised.listeners=PLAINTEXT://{loopback}:{port}
controller.listener.names=CONTROLLER
log.dirs={directory}/data
num.partitions=4
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
group.initial.rebalance.delay.ms=0
"""
CLUSTER_ID = "cm9ja2V0cnktb3RlbC10ZQ"


class Broker(Server):
    """A broker of its own cluster.

    Args:
        directory: For its data and its log.
    """

    # Ten seconds of two processors, and more where they are busy.
    start_timeout = 180

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._port, controller = free_ports(2)
        self.address = f"{LOOPBACK}:{self._port}"
        settings = directory / "server.properties"
        settings.write_text(
            SETTINGS.format(
                loopback=LOOPBACK, port=self._port, controller=controller, directory=directory
            ),
            encoding="utf-8",
        )
        java = ["java", "-Xmx256m", "-cp", str(KAFKA.directory / "lib" / "*")]
        _make_storage(java, settings)
        super().__init__([*java, "kafka.Kafka", str(settings)], {}, "", directory / "broker.log")

    def _answers(self) -> bool:
        # It listens when it has started, not before.
        with suppress(OSError), socket.create_connection((LOOPBACK, self._port), timeout=1):
            return True
        return False


def _make_storage(java: list[str], settings: Path) -> None:
    done = subprocess.run(
        [
            *java,
            "kafka.tools.StorageTool",
            "format",
            "--standalone",
            f"--cluster-id={CLUSTER_ID}",
            f"--config={settings}",
        ],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
