"""Manifest of a frozen dataset: the hash of every file, under one digest that can be published, compared and signed.

``manifest.json`` lists the SHA-256 of all other files and, for the JSON files, a short hash of each field, so that an
edited field is named. The digest of a dataset is the SHA-256 of ``manifest.json``: who keeps it notices any edit, a
forgery of the whole folder included. ``manifest.sig`` holds an Ed25519 signature of the manifest (RFC 8032), made and
checked by the ``cryptography`` package.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from llmhub.core.errors import BadRequestError, invalid
from llmhub.core.optional_imports import import_optional
from llmhub.core.types import JSON
from llmhub.datasets.folder import LOCK_FILE, file_sha256, is_plain_name, read_file

MANIFEST_FILE: Final = "manifest.json"
SIGNATURE_FILE: Final = "manifest.sig"
CROISSANT_FILE: Final = "croissant.json"
FIELD_FILES: Final = (LOCK_FILE, CROISSANT_FILE)
"""Files whose fields are hashed one by one."""
MANIFEST_FORMAT: Final = "llmhub manifest"
FIELD_HASH_LENGTH: Final = 16
MAX_FIELDS_NAMED: Final = 20
DIGEST_PREFIX: Final = "sha256:"

SigningKey: TypeAlias = "Any"
"""An Ed25519 private key of ``cryptography``, its PEM bytes, or the path of a PEM file."""
PublicKey: TypeAlias = "Any"
"""An Ed25519 public key of ``cryptography``, its PEM bytes, or the path of a PEM file."""


def write_manifest(folder: Path, signing_key: SigningKey | None = None) -> str:
    """Write the manifest of all files in a folder, and its signature if there is a key; return the digest."""
    names = sorted(path.name for path in folder.iterdir())
    content: dict[str, JSON] = {
        "format": MANIFEST_FORMAT,
        "version": 1,
        "files": {name: file_sha256(folder / name) for name in names},
        "fields": {name: {**_field_hashes(read_file(folder / name))} for name in FIELD_FILES if name in names},
    }
    manifest = msgspec.json.format(msgspec.json.encode(content, order="deterministic"), indent=2) + b"\n"
    (folder / MANIFEST_FILE).write_bytes(manifest)
    if signing_key is not None:
        (folder / SIGNATURE_FILE).write_bytes(_sign(manifest, signing_key))
    return manifest_digest(manifest)


def manifest_digest(manifest: bytes) -> str:
    """Return the digest of a dataset from the bytes of its manifest."""
    return DIGEST_PREFIX + hashlib.sha256(manifest).hexdigest()


class _Manifest(msgspec.Struct):
    format: str
    version: int
    files: dict[str, str]
    fields: dict[str, dict[str, str]]


def check_manifest(folder: Path, content: bytes) -> Iterator[str]:
    """Yield what differs between a folder and its manifest, naming each file and field."""
    try:
        manifest = msgspec.json.decode(content, type=_Manifest)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        yield f"{MANIFEST_FILE}: is not a manifest ({error})"
        return
    present = {path.name for path in folder.iterdir()}
    for name in sorted(present - set(manifest.files) - {MANIFEST_FILE, SIGNATURE_FILE}):
        yield f"{name}: is not part of the dataset"
    for name in sorted(set(manifest.files)):
        if not is_plain_name(name):
            yield f"{MANIFEST_FILE}: lists {name!r}, which is not a plain name in the folder"
            continue
        try:
            found = file_sha256(folder / name)
        except OSError as error:
            yield f"{name}: {error.strerror or error}"
            continue
        if found != manifest.files[name]:
            fields = _changed_fields(folder / name, manifest.fields.get(name))
            yield f"{name}: its sha256 is {found}, not {manifest.files[name]}{fields}"


def _changed_fields(path: Path, recorded: Mapping[str, str] | None) -> str:
    """Return the names of the fields of a JSON file that differ from the manifest."""
    if recorded is None:
        return ""
    try:
        found = _field_hashes(read_file(path))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OSError) as error:
        return f"; it is not valid JSON ({error})"
    names = [name for name in {**recorded, **found} if recorded.get(name) != found.get(name)]
    if not names:
        return "; its fields are the same"
    more = f" and {len(names) - MAX_FIELDS_NAMED:,} more" if len(names) > MAX_FIELDS_NAMED else ""
    return f"; changed fields: {', '.join(names[:MAX_FIELDS_NAMED])}{more}"


def _field_hashes(content: bytes) -> dict[str, str]:
    """Return a short hash of each field of a JSON file by its path, such as ``recipe.prompt``."""
    return {
        path: hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:FIELD_HASH_LENGTH]
        for path, value in _leaves(msgspec.json.decode(content))
    }


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of every field without fields of its own."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    children = list(items)
    if not children:
        yield path, value
    for key, child in children:
        yield from _leaves(child, f"{path}.{key}" if path else str(key))


# Signatures


class _Signature(msgspec.Struct):
    algorithm: str
    public_key: str
    signature: str


def _sign(manifest: bytes, key: SigningKey) -> bytes:
    private = load_signing_key(key)
    signature = _Signature(
        algorithm="ed25519",
        public_key=base64.b64encode(private.public_key().public_bytes_raw()).decode(),
        signature=base64.b64encode(private.sign(manifest)).decode(),
    )
    return msgspec.json.format(msgspec.json.encode(signature, order="deterministic"), indent=2) + b"\n"


def check_signature(  # noqa: PLR0911 - one return a problem
    folder: Path, manifest: bytes, key: PublicKey | None
) -> str | None:
    """Return what is wrong with the signature of a manifest, or ``None``.

    Without a key the signature, if there is one, is checked against the public key beside it: that finds damage, but
    not another signer.
    """
    if key is None and not (folder / SIGNATURE_FILE).exists():
        return None
    try:
        recorded = msgspec.json.decode(read_file(folder / SIGNATURE_FILE), type=_Signature)
        signature = base64.b64decode(recorded.signature, validate=True)
        embedded = base64.b64decode(recorded.public_key, validate=True)
    except OSError as error:
        return f"{SIGNATURE_FILE}: {error.strerror or error}; the dataset is not signed"
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return f"{SIGNATURE_FILE}: is not a signature ({error})"
    ed25519 = import_optional("cryptography.hazmat.primitives.asymmetric.ed25519", "signing")
    exceptions = import_optional("cryptography.exceptions", "signing")
    try:
        public = ed25519.Ed25519PublicKey.from_public_bytes(embedded) if key is None else load_public_key(key)
        if recorded.algorithm != "ed25519" or public.public_bytes_raw() != embedded:
            return f"{SIGNATURE_FILE}: was made with another key"
        public.verify(signature, manifest)
    except exceptions.InvalidSignature:
        return f"{SIGNATURE_FILE}: is no signature of {MANIFEST_FILE}"
    except ValueError as error:
        if isinstance(error, BadRequestError):
            raise
        return f"{SIGNATURE_FILE}: is not a signature ({error})"
    return None


def load_signing_key(key: SigningKey) -> Any:
    """Return an Ed25519 private key from a key, PEM bytes, or the path of an unencrypted PEM file."""
    return _load_key("signing_key", key, "Ed25519PrivateKey")


def load_public_key(key: PublicKey) -> Any:
    """Return an Ed25519 public key from a key, PEM bytes, or the path of a PEM file."""
    return _load_key("public_key", key, "Ed25519PublicKey")


def _load_key(argument: str, key: Any, kind: str) -> Any:
    ed25519 = import_optional("cryptography.hazmat.primitives.asymmetric.ed25519", "signing")
    serialization = import_optional("cryptography.hazmat.primitives.serialization", "signing")
    loaded = key
    try:
        if isinstance(key, (str, Path)):
            loaded = Path(key).read_bytes()
        if isinstance(loaded, bytes):
            is_private = kind == "Ed25519PrivateKey"
            loaded = (
                serialization.load_pem_private_key(loaded, password=None)
                if is_private
                else serialization.load_pem_public_key(loaded)
            )
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it is not an unencrypted PEM file"
        raise invalid(argument, f"the key cannot be read ({reason}); pass an Ed25519 key in PEM") from error
    if not isinstance(loaded, getattr(ed25519, kind)):
        raise invalid(argument, f"{type(loaded).__name__} is not an {kind}; pass an Ed25519 key, its PEM or its path")
    return loaded
