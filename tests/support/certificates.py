"""Certificates for tests: an authority, a server's and a client's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificate:
    """A certificate with its chain and its private key, each in a PEM file."""

    certificate_file: Path
    key_file: Path


@dataclass(frozen=True)
class Certificates:
    """All that TLS between a client and a server needs.

    Attributes:
        ca_file: The authority, which signed both certificates.
        server: For ``127.0.0.1`` and ``localhost``.
        client: For a client that must show one (mTLS).
        stranger: For a client, signed by an untrusted authority.
        stranger_ca_file: The untrusted authority.
        stranger_server: For ``127.0.0.1`` and ``localhost``, signed by that authority.
    """

    ca_file: Path
    server: Certificate
    client: Certificate
    stranger: Certificate
    stranger_ca_file: Path
    stranger_server: Certificate


def make_certificates(directory: Path) -> Certificates:
    """Make an authority and certificates of it, in files in this directory."""
    authority, stranger = trustme.CA(), trustme.CA()
    return Certificates(
        ca_file=_write_authority(authority, directory / "ca.pem"),
        server=_write(authority.issue_cert("127.0.0.1", "localhost"), directory / "server"),
        client=_write(authority.issue_cert("client@example.org"), directory / "client"),
        stranger=_write(stranger.issue_cert("client@example.org"), directory / "stranger"),
        stranger_ca_file=_write_authority(stranger, directory / "stranger-ca.pem"),
        stranger_server=_write(
            stranger.issue_cert("127.0.0.1", "localhost"), directory / "stranger-server"
        ),
    )


def _write_authority(authority: trustme.CA, path: Path) -> Path:
    authority.cert_pem.write_to_path(path)
    return path


def _write(leaf: trustme.LeafCert, stem: Path) -> Certificate:
    certificate = Certificate(stem.with_suffix(".pem"), stem.with_suffix(".key"))
    for pem in leaf.cert_chain_pems:
        pem.write_to_path(certificate.certificate_file, append=True)
    leaf.private_key_pem.write_to_path(certificate.key_file)
    return certificate
