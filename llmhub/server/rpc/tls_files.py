"""Certificates and keys that the settings of a server name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llmhub.core.errors import invalid
from llmhub.server.server_settings import TlsSettings


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Content of the files, in PEM format.

    Parameters
    ----------
    certificate
        Certificate chain of the server.
    key
        Its private key.
    client_ca
        Certificates of the authorities of clients, which have to present a certificate then; ``None`` for no such need.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None


def read_tls_files(settings: TlsSettings, section: str) -> TlsFiles | None:
    """Read the files that settings name; return ``None`` if the server is not to use TLS.

    Raises
    ------
    BadRequestError
        A file is missing or cannot be read.
    """
    if not settings.tls_certificate and not settings.tls_key:
        if settings.tls_client_ca:
            raise invalid(f"{section}.tls_client_ca", "needs tls_certificate and tls_key")
        return None
    for name, other in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
        if not getattr(settings, name):
            raise invalid(f"{section}.{name}", f"is missing; {other} needs it")
    return TlsFiles(
        _read(settings.tls_certificate, f"{section}.tls_certificate"),
        _read(settings.tls_key, f"{section}.tls_key"),
        _read(settings.tls_client_ca, f"{section}.tls_client_ca") if settings.tls_client_ca else None,
    )


def _read(path: str, setting: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise invalid(setting, f"{path} cannot be read: {error.strerror or error}") from None
