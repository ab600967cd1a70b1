"""An encrypted file of credentials, which ``llmhub credentials`` writes.

It is encrypted with AES-256-GCM under a key in the operating system's keyring, or one derived from a passphrase with
scrypt. The names of providers and fields are readable without the key, and authenticated by it. A file is replaced as a
whole, so that a reader never sees half of it, and only its owner may
read it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from returns.result import Result

from llmhub.config import PASSPHRASE_VARIABLE, credentials_path, secret_from_variable
from llmhub.core.errors import LLMError, invalid
from llmhub.core.optional_imports import import_optional
from llmhub.core.provider import CREDENTIAL_FIELDS
from llmhub.core.secret import Secret
from llmhub.security.credentials.credential_store import (
    CredentialContext,
    Credentials,
    CredentialStore,
    credentials_from_values,
    fetch_in_thread,
)

EXTRA: Final = "credentials"
FORMAT: Final = "llmhub-credentials"
VERSION: Final = 1
KEYRING_SERVICE: Final = "llmhub"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
SALT_BYTES: Final = 16
SCRYPT_COST: Final = {"n": 2**17, "r": 8, "p": 1}
"""Cost of deriving a key: 128 MB of memory and some tenths of a second."""
MAX_SCRYPT_COST: Final = {"n": 2**20, "r": 16, "p": 8}
"""A file that asks for more is refused: it would take the memory of the computer."""
PADDING: Final = 256
"""The plaintext is padded to a multiple of this many bytes, so that its size does not tell the lengths of keys."""


@dataclass(frozen=True, slots=True)
class StoredProvider:
    """A provider in the file: the names of its fields, and when they were last changed (ISO 8601)."""

    name: str
    fields: tuple[str, ...]
    updated_at: str


@dataclass(frozen=True, slots=True, init=False)
class EncryptedFileCredentials:
    """Credentials of an encrypted file (extra ``credentials``).

    Parameters
    ----------
    path
        The file; by default the one of ``llmhub credentials``: ``LLMHUB_CREDENTIALS_FILE``, or ``credentials.json`` in
        the user's configuration folder.
    passphrase
        Passphrase; by default the one in ``LLMHUB_CREDENTIALS_PASSPHRASE``. A file made without one has its key in the
        operating system's keyring.
    except_for
        Providers whose credentials are not taken from the file.

    Examples
    --------
    >>> EncryptedFileCredentials("no-such-file.json").providers
    frozenset()
    """

    path: Path
    passphrase: Secret
    except_for: frozenset[str] = field(default=frozenset())

    def __init__(
        self,
        path: str | Path | None = None,
        passphrase: str | Secret | None = None,
        except_for: frozenset[str] = frozenset(),
    ) -> None:
        given = passphrase if isinstance(passphrase, Secret) else Secret(passphrase or "")
        object.__setattr__(self, "path", credentials_path() if path is None else Path(path).expanduser())
        object.__setattr__(self, "passphrase", given or secret_from_variable(PASSPHRASE_VARIABLE))
        object.__setattr__(self, "except_for", except_for)

    @property
    def providers(self) -> frozenset[str] | None:
        """The providers in the file, which is not decrypted for that."""
        return frozenset(stored.name for stored in self.list()) - self.except_for

    @property
    def needs_passphrase(self) -> bool:
        """Whether the file exists and its key is derived from a passphrase."""
        document = _read(self.path)
        return document is not None and document["key"]["kind"] == "scrypt"

    def open(self, context: CredentialContext) -> CredentialStore:
        """Return the store."""
        keys: dict[str, Secret] = {}

        def read(provider: str) -> Credentials | None:
            document = None if provider in self.except_for else _read(self.path)
            if document is None or provider not in document["providers"]:
                return None
            place = json.dumps(document["key"], sort_keys=True)
            if place not in keys:
                keys[place] = self._key(document["key"])
            values = _decrypt(self.path, document, keys[place])
            return credentials_from_values(provider, values.get(provider, {}), self.path.name)

        async def fetch(provider: str) -> Result[Credentials | None, LLMError]:
            return await fetch_in_thread(context, str(self.path), partial(read, provider))

        return CredentialStore(str(self.path), fetch)

    def list(self) -> tuple[StoredProvider, ...]:
        """Return the providers in the file and the names of their fields, without decrypting it."""
        document = _read(self.path)
        providers: Mapping[str, Any] = {} if document is None else document["providers"]
        return tuple(StoredProvider(name, tuple(of["fields"]), of["updated_at"]) for name, of in providers.items())

    def set(self, provider: str, **values: str | Secret) -> None:
        """Store credentials of a provider; its other fields are kept.

        Parameters
        ----------
        provider
            Name of the provider.
        **values
            Fields of `llmhub.Endpoint` that are credentials: ``api_key="..."``.

        Raises
        ------
        BadRequestError
            A field is not one, a value is empty, or the file cannot be decrypted or written.
        """
        for name in values:
            if name not in CREDENTIAL_FIELDS:
                raise invalid(name, f"is not a credential; those are {', '.join(CREDENTIAL_FIELDS)}")
        # From here on, no local variable holds a text that a traceback could show.
        values = {name: _stripped(value) for name, value in values.items()}
        for name, value in values.items():
            if not value:
                raise invalid(name, "is empty")
        self._change(provider, lambda old: {**old, **values})

    def remove(self, provider: str) -> None:
        """Remove a provider.

        Raises
        ------
        BadRequestError
            The file does not hold it, or cannot be decrypted or written.
        """
        if provider not in {stored.name for stored in self.list()}:
            held = ", ".join(stored.name for stored in self.list()) or "none"
            raise invalid("provider", f"{self.path} has no credentials of {provider!r}; it has: {held}")
        self._change(provider, lambda _: {})

    def rotate(self, passphrase: str | Secret | None = None) -> EncryptedFileCredentials:
        """Encrypt the file under a new key, and return it with its new passphrase.

        Parameters
        ----------
        passphrase
            New passphrase; ``None`` or empty for a new key in the operating system's keyring.

        Raises
        ------
        BadRequestError
            There is no file, or it cannot be decrypted or written, or there is no keyring.
        """
        text = passphrase.reveal() if isinstance(passphrase, Secret) else passphrase or ""
        with _locked(self.path):
            document = _read(self.path)
            if document is None:
                raise invalid(str(self.path), "does not exist; `llmhub credentials set PROVIDER` makes it")
            values = _decrypt(self.path, document, self._key(document["key"]))
            place, key = _new_key(text)
            _write(self.path, place, key, document["providers"], values)
            _forget(document["key"])
        return EncryptedFileCredentials(self.path, Secret(text), self.except_for)

    def _change(self, provider: str, change: Callable[[_Fields], _Fields]) -> None:
        """Replace the fields of a provider; without any left, it is removed."""
        with _locked(self.path):
            document = _read(self.path)
            if document is None:
                place, key = _new_key(self.passphrase.reveal())
                names, values = {}, {}
            else:
                place, key = document["key"], self._key(document["key"])
                names, values = dict(document["providers"]), _decrypt(self.path, document, key)
            fields = change(values.pop(provider, {}))
            names.pop(provider, None)
            if fields:
                values[provider] = fields
                now = datetime.now(UTC).replace(microsecond=0).isoformat()
                names[provider] = {"fields": sorted(fields), "updated_at": now}
            _write(self.path, place, key, dict(sorted(names.items())), values)

    def _key(self, place: Mapping[str, Any]) -> Secret:
        """Return the key of the file, in hexadecimal digits."""
        if place["kind"] == "keyring":
            return _keyring_key(place["id"])
        if not self.passphrase:
            remedy = f"set {PASSPHRASE_VARIABLE}, or pass EncryptedFileCredentials(passphrase=...)"
            raise invalid("passphrase", f"{self.path} is encrypted with a passphrase; {remedy}")
        return _derived_key(self.passphrase.reveal(), place)


_Fields: TypeAlias = dict[str, Any]
"""Credentials by field, as `Secret`."""


def _stripped(value: str | Secret) -> Secret:
    return Secret((value.reveal() if isinstance(value, Secret) else str(value)).strip())


# Keys


def _new_key(passphrase: str) -> tuple[dict[str, Any], Secret]:
    """Return where a new key is found, as the file describes it, and the key."""
    if passphrase:
        place = {"kind": "scrypt", "salt": _encode(secrets.token_bytes(SALT_BYTES)), **SCRYPT_COST}
        return place, _derived_key(passphrase, place)
    key, place = Secret(secrets.token_hex(KEY_BYTES)), {"kind": "keyring", "id": secrets.token_hex(8)}
    _keyring(lambda keyring: keyring.set_password(KEYRING_SERVICE, place["id"], key.reveal()))
    return place, key


def _derived_key(passphrase: str, place: Mapping[str, Any]) -> Secret:
    scrypt = import_optional("cryptography.hazmat.primitives.kdf.scrypt", EXTRA)
    cost = {name: place[name] for name in SCRYPT_COST}
    kdf = scrypt.Scrypt(salt=_decode(place["salt"]), length=KEY_BYTES, **cost)
    return Secret(kdf.derive(passphrase.encode()).hex())


def _keyring_key(key_id: str) -> Secret:
    found: Secret = _keyring(lambda keyring: Secret(keyring.get_password(KEYRING_SERVICE, key_id) or ""))
    if not found:
        raise invalid("keyring", f"has no key {key_id!r} of {KEYRING_SERVICE!r}, which the file is encrypted with")
    return found


def _forget(place: Mapping[str, Any]) -> None:
    """Delete a replaced key from the keyring."""
    if place["kind"] == "keyring":
        _keyring(lambda keyring: keyring.delete_password(KEYRING_SERVICE, place["id"]))


def _keyring(use: Callable[[Any], Any]) -> Any:
    """Use the operating system's keyring; raise with the remedy if there is none."""
    keyring = import_optional("keyring", EXTRA)
    errors = import_optional("keyring.errors", EXTRA)
    try:
        return use(keyring)
    except errors.KeyringError as error:
        kind = type(error).__name__
    remedy = f"use a passphrase: set {PASSPHRASE_VARIABLE}"
    raise invalid("keyring", f"the operating system's keyring cannot be used ({kind}); {remedy}")


# The file


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _read(path: Path) -> dict[str, Any] | None:
    """Return the document of a file, checked; ``None`` if there is no file."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise invalid(str(path), f"cannot be read: {error.strerror}") from None
    try:
        document = json.loads(text)
        is_valid = _is_valid(document)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error):
        is_valid = False
    if not is_valid:
        raise invalid(str(path), f"is not a credentials file of version {VERSION}, or is damaged")
    checked: dict[str, Any] = document
    return checked


def _is_valid(document: Any) -> bool:
    """Return whether a document has the fields of a credentials file. May raise for others."""
    if document["format"] != FORMAT or document["version"] != VERSION:
        return False
    key = document["key"]
    for name, highest in MAX_SCRYPT_COST.items() if key["kind"] == "scrypt" else ():
        if type(key[name]) is not int or not 1 <= key[name] <= highest:
            return False
    is_key = (
        _decode(key["salt"]) if key["kind"] == "scrypt" else key["kind"] == "keyring" and isinstance(key["id"], str)
    )
    texts = (_decode(document["nonce"]), _decode(document["ciphertext"]))
    for name, of in document["providers"].items():
        if not isinstance(of["updated_at"], str) or not all(isinstance(item, str) for item in (name, *of["fields"])):
            return False
    return bool(is_key) and len(texts[0]) == NONCE_BYTES


def _header(document: Mapping[str, Any]) -> bytes:
    """Return the readable part of a document, which the ciphertext authenticates."""
    names = ("format", "version", "key", "providers")
    return json.dumps({name: document[name] for name in names}, sort_keys=True).encode()


def _aead(key: Secret) -> Any:
    aead = import_optional("cryptography.hazmat.primitives.ciphers.aead", EXTRA)
    try:
        return aead.AESGCM(bytes.fromhex(key.reveal()))
    except ValueError:
        return None


def _decrypt(path: Path, document: Mapping[str, Any], key: Secret) -> dict[str, _Fields]:
    """Return the credentials of a document by provider and field, as `Secret`."""
    exceptions, aead = import_optional("cryptography.exceptions", EXTRA), _aead(key)
    values: dict[str, _Fields] | None = None
    if aead is not None:
        try:
            values = _parse(
                aead.decrypt(_decode(document["nonce"]), _decode(document["ciphertext"]), _header(document))
            )
        except exceptions.InvalidTag:
            values = None
    if values is None:
        raise invalid(str(path), "cannot be decrypted: the passphrase or key is another, or the file was changed")
    return values


def _parse(plaintext: bytes) -> dict[str, _Fields]:
    parsed: dict[str, dict[str, str]] = json.loads(plaintext)
    return {provider: {name: Secret(text) for name, text in of.items()} for provider, of in parsed.items()}


def _write(
    path: Path, place: Mapping[str, Any], key: Secret, names: Mapping[str, Any], values: Mapping[str, _Fields]
) -> None:
    """Encrypt and replace the file as a whole."""
    document = {"format": FORMAT, "version": VERSION, "key": dict(place), "providers": dict(names)}
    text = json.dumps({**document, **_encrypt(document, key, values)}, indent=1)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise invalid(str(path), f"cannot be written: {error.strerror}") from None


def _encrypt(document: Mapping[str, Any], key: Secret, values: Mapping[str, _Fields]) -> dict[str, str]:
    texts = {provider: {name: secret.reveal() for name, secret in of.items()} for provider, of in values.items()}
    plaintext, nonce = json.dumps(texts).encode(), secrets.token_bytes(NONCE_BYTES)
    plaintext += b" " * (-len(plaintext) % PADDING)
    return {"nonce": _encode(nonce), "ciphertext": _encode(_aead(key).encrypt(nonce, plaintext, _header(document)))}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from changing the file meanwhile, where the platform has file locks."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise invalid(str(path), f"cannot be written: {error.strerror}") from None
    try:
        try:
            import fcntl  # noqa: PLC0415 - not on Windows

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except ImportError:
            pass
        yield
    finally:
        os.close(descriptor)


def default_file(except_for: frozenset[str] = frozenset()) -> tuple[EncryptedFileCredentials, ...]:
    """Return the file of ``llmhub credentials``, if it exists, for the default hub.

    Examples
    --------
    >>> len(default_file()) in {0, 1}
    True
    """
    try:
        source = EncryptedFileCredentials(except_for=except_for)
    except RuntimeError:  # a user without a home directory
        return ()
    return (source,) if source.path.exists() else ()
