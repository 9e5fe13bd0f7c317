import socket

from tests.support import ports
from tests.support.ports import LOOPBACK, free_ports


def test_ports_are_free_and_different():
    """Each can be bound, all at once."""
    found = free_ports(20)
    assert len(set(found)) == 20
    sockets = [socket.socket() for _ in found]
    for sock, port in zip(sockets, found, strict=True):
        sock.bind((LOOPBACK, port))
        sock.close()


def test_port_that_is_in_use_is_not_given(monkeypatch):
    """Of two of which one is taken the other is found."""
    with socket.socket() as taken:
        (used, free) = free_ports(2)
        taken.bind((LOOPBACK, used))
        monkeypatch.setattr(ports, "_CANDIDATES", [used, free])
        assert free_ports(1) == [free]
