"""Settings of the service: the section ``[server]`` of ``llmhub.toml`` with environment variables over it.

A field is set in the file by its name and in the environment by ``LLMHUB_SERVER_`` and its name in capitals; a field of
a section below by ``LLMHUB_SERVER_<SECTION>_<NAME>``. Lists and tables are JSON in the environment. Errors name the key
and its line in the file, or the variable.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from llmhub.config import CONFIG_FILE, variables_with_prefix
from llmhub.core.errors import invalid
from llmhub.core.payload import deep_merge
from llmhub.core.secret import Secret
from llmhub.engine.limits import Limit
from llmhub.server.access_settings import AccessSettings, decode_secret

SECTION: Final = "server"
ENVIRONMENT_PREFIX: Final = "LLMHUB_SERVER_"

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class LimitSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rate limit of a provider or model: requests and tokens per minute."""

    rpm: Annotated[float, Meta(gt=0)] | None = None
    tpm: Annotated[float, Meta(gt=0)] | None = None

    def to_limit(self) -> Limit:
        """Return the limit of a hub."""
        return Limit(rpm=self.rpm, tpm=self.tpm)


class TlsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TLS of a server: files in PEM format.

    Parameters
    ----------
    tls_certificate, tls_key
        Certificate chain and private key of the server; without them, connections are not encrypted.
    tls_client_ca
        Certificates of the authorities of clients; with it, clients have to present a certificate.
    """

    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""


class GrpcSettings(TlsSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the gRPC server, which listens on the service's ``host``.

    Parameters
    ----------
    port
        Port to listen on; 0 for any free one.
    max_message_bytes
        Largest message of a client.
    reflection
        Whether clients may ask for the description of the API.
    """

    port: Annotated[int, Meta(ge=0, le=65_535)] = 50051
    max_message_bytes: Count = 32 << 20
    reflection: bool = True


class RunSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of tables and runs.

    Parameters
    ----------
    folder
        Where runs are kept. By default on the server of a Redis cache, which replicas share, or beside a cache in a
        file; without a cache they end with the service.
    max_table_bytes
        Largest table of ``/v1/tables`` and ``/v1/plans``.
    max_input_bytes
        Largest input of a run.
    max_active
        Runs that are executed at once; others wait.
    max_unfinished
        Runs that are executed or wait; further ones are refused with 503.
    keep_days
        How long runs are kept after their end.
    """

    folder: str = ""
    max_table_bytes: Count = 64 << 20
    max_input_bytes: Count = 1 << 30
    max_active: Count = 16
    max_unfinished: Count = 1000
    keep_days: Annotated[float, Meta(gt=0)] = 30.0


class FlightSettings(TlsSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the Arrow Flight server, which listens on the service's ``host``.

    Parameters
    ----------
    port
        Port to listen on; 0 for any free one.
    max_exchanges
        Exchanges at once; further ones are refused.
    max_buffer_bytes
        Rows that are kept for one exchange before they are sent, and results that its client has not read. A batch may
        not be larger.
    """

    port: Annotated[int, Meta(ge=0, le=65_535)] = 50052
    max_exchanges: Count = 64
    max_buffer_bytes: Count = 64 << 20


class BatchSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of ``/v1/files`` and ``/v1/batches``.

    Parameters
    ----------
    folder
        Where files and batches are kept. By default on the server of a Redis cache, which replicas share, or beside a
        cache in a file; without a cache they end with the service.
    max_file_bytes, max_lines
        Largest input file.
    max_team_bytes
        Size of all files of a team.
    max_redis_bytes
        Size of the files of all teams on a Redis server, whose memory they take; further ones are refused.
    concurrency
        Lines of one batch that are sent at once.
    max_active
        Batches that are executed at once; others wait.
    max_unfinished
        Batches that are executed or wait; further ones are refused with 503.
    keep_days
        How long files are kept, and batches after their end.
    provider_poll_s
        Time between the first two polls of a batch at a provider; it grows to five minutes.
    """

    folder: str = ""
    max_file_bytes: Count = 200 << 20
    max_lines: Count = 50_000
    max_team_bytes: Count = 4 << 30
    max_redis_bytes: Count = 256 << 20
    concurrency: Count = 64
    max_active: Count = 16
    max_unfinished: Count = 1000
    keep_days: Annotated[float, Meta(gt=0)] = 30.0
    provider_poll_s: Seconds = 30.0


class ServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the service.

    Parameters
    ----------
    host, port
        Address to listen on; port 0 is any free one. Without keys only a loopback address is accepted.
    cache
        URL or file of the cache (``sqlite:///runs.db``, ``redis://...``); that of the environment if empty, and
        ``none`` for no cache.
    simulator
        Address of a simulator that answers for every provider.
    limits
        Rate limits by provider or ``provider/model``.
    models
        Names that clients may use besides ``provider/model``, and the model that each stands for.
    concurrency
        Calls sent to providers at once.
    redact
        What requests send as placeholders, which are put back into the answers: ``true`` for credentials and personal
        data of every kind, or names of kinds (see `llmhub.Hub`).
    max_queue
        Calls waiting for that; further ones are refused with 503 and ``Retry-After``.
    max_body_bytes, max_header_bytes
        Largest body of a request, and largest line and field of its head.
    header_timeout_s, body_timeout_s
        How long a client may take to send the head and the body of a request.
    write_timeout_s
        How long a client may take to accept a piece of a stream before it is disconnected.
    request_timeout_s
        How long a request may take in all.
    keepalive_s
        How long an idle connection is kept.
    drain_timeout_s
        How long requests in progress may take after a stop was requested.
    grpc
        Settings of gRPC, which is served if they are given.
    access
        Keys, teams and where they are kept.
    runs
        Settings of tables and runs.
    flight
        Settings of Arrow Flight, which is served if they are given.
    batches
        Settings of files and batches.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    cache: str = ""
    simulator: str = ""
    limits: dict[str, LimitSettings] = {}
    models: dict[str, str] = {}
    concurrency: Count = 256
    redact: bool | list[str] = False
    max_queue: Annotated[int, Meta(ge=0)] = 4096
    max_body_bytes: Count = 32 << 20
    max_header_bytes: Annotated[int, Meta(ge=1024)] = 16 << 10
    header_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 30.0
    write_timeout_s: Seconds = 30.0
    request_timeout_s: Seconds = 600.0
    keepalive_s: Seconds = 75.0
    drain_timeout_s: Annotated[float, Meta(ge=0)] = 30.0
    grpc: GrpcSettings | None = None
    access: AccessSettings = AccessSettings()
    runs: RunSettings = RunSettings()
    flight: FlightSettings | None = None
    batches: BatchSettings = BatchSettings()


def load_server_settings(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> ServerSettings:
    """Load the settings from a file (``llmhub.toml`` in the working directory) and the environment.

    ``overrides`` are options of the command line, which take precedence over both.

    Raises
    ------
    BadRequestError
        The file cannot be read, or a value is wrong: the error names the key and its line, or the variable.
    """
    file = path if path is not None else Path(CONFIG_FILE)
    try:
        text = file.read_text(encoding="utf-8") if path is not None or file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(str(file), f"cannot be read: {error}") from None
    settings = parse_server_settings(text, variables_with_prefix(ENVIRONMENT_PREFIX), str(file))
    if not overrides:
        return settings
    given = deep_merge(msgspec.to_builtins(settings, enc_hook=_reveal), msgspec.to_builtins(overrides))
    return _convert(given, strict=False, where=lambda key: f"--{key.replace('.', '-')}")


def _reveal(secret: Any) -> str:
    return secret.reveal() if isinstance(secret, Secret) else str(secret)


def parse_server_settings(text: str, variables: Mapping[str, str], file: str = CONFIG_FILE) -> ServerSettings:
    r"""Combine the text of a file with environment variables, which take precedence.

    Examples
    --------
    >>> parse_server_settings("[server]\nport = 9000", {"LLMHUB_SERVER_HOST": "::1"}).port
    9000
    >>> parse_server_settings('[server]\nport = "9000"', {})
    Traceback (most recent call last):
    llmhub.core.errors.BadRequestError: llmhub.toml, line 2: server.port: expected `int`, got `str`
    """
    try:
        given = tomllib.loads(text).get(SECTION, {})
    except tomllib.TOMLDecodeError as error:
        raise invalid(file, f"cannot be read: {error}") from None
    if not isinstance(given, dict):
        raise invalid(f"{file}: {SECTION}", f"must be a table; write [{SECTION}] and its fields below")
    _convert(given, strict=True, where=lambda key: _place_in_file(text, key, file))
    fields: dict[str, Any] = given
    for name, value in sorted(variables.items()):
        key = _field_of_variable(name)
        single = _nested(key, _value_of_variable(value))
        _convert(single, strict=False, where=lambda _, name=name: name)
        fields = deep_merge(fields, single)
    return _convert(fields, strict=False, where=lambda key: f"{SECTION}.{key}")


def _convert(values: Mapping[str, Any], *, strict: bool, where: Any) -> ServerSettings:
    """Return the settings of plain values; raise with the place that ``where`` returns for a key."""
    try:
        return msgspec.convert(values, type=ServerSettings, strict=strict, dec_hook=decode_secret)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `")
        key = place.strip("`").removeprefix("$").removeprefix(".")
        unknown = re.search(r"unknown field `([^`]*)`", message)
        if unknown is not None:
            key = f"{key}.{unknown[1]}".strip(".")
            known = _known_names(key)
            message = "; must be one of ".join(["unknown key", *([", ".join(known)] if known else [])])
        message = message[:1].lower() + message[1:]
        raise invalid(where(key), message) from None


def _known_names(key: str) -> tuple[str, ...]:
    """Return the names of the section in which ``key`` is."""
    section: Any = ServerSettings
    for name in key.split(".")[:-1]:
        fields = msgspec.structs.fields(section)
        section = next((_section_type(each.type) for each in fields if each.name == name), None)
        if section is None:
            return ()
    return tuple(each.name for each in msgspec.structs.fields(section))


def _section_type(type_: Any) -> type[Struct] | None:
    """Return the type of a section, which may be optional; ``None`` for the type of a value."""
    types = [each for each in (type_, *get_args(type_)) if isinstance(each, type) and issubclass(each, Struct)]
    return types[0] if types and get_origin(type_) in {None, Union, UnionType} else None


def _place_in_file(text: str, key: str, file: str) -> str:
    line = line_of_key(text, f"{SECTION}.{key}")
    return f"{file}, line {line}: {SECTION}.{key}" if line else f"{file}: {SECTION}.{key}"


def line_of_key(text: str, key: str) -> int:
    r"""Return the line on which a key of a TOML text is set, or that of the closest table around it; 0 without.

    Examples
    --------
    >>> line_of_key("[server]\nhost = 'a'\nport = 1", "server.port")
    3
    >>> line_of_key("[server.limits.openai]\nrpm = 0", "server.limits[...].rpm")
    2
    """
    wanted = [part for part in re.split(r"[.\[\]]+", key) if part and part != "..."]
    found, depth, table = 0, 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?([^\]]+)\]", line)
        assignment = re.match(r"\s*([A-Za-z0-9_.\"'/-]+)\s*=", line)
        if header:
            table = header[1]
        elif not assignment:
            continue
        name = table if header else f"{table}.{assignment[1]}" if assignment else ""
        parts = [part.strip(" \"'") for part in name.split(".")]
        matched = _matching(wanted, parts)
        if matched > depth:
            found, depth = number, matched
    return found


def _matching(wanted: list[str], parts: list[str]) -> int:
    """Return how many names of ``wanted`` are in ``parts`` in their order, if the first and the last part are."""
    rest: Iterator[str] = iter(parts)
    count = sum(1 for name in wanted if any(part == name for part in rest))
    return count if parts and wanted and parts[0] == wanted[0] and parts[-1] in wanted else 0


def _field_of_variable(name: str) -> tuple[str, ...]:
    """Return the path of the field that a variable sets."""
    return _path_of(ServerSettings, name.removeprefix(ENVIRONMENT_PREFIX).lower())


def _path_of(section: type[Struct], name: str) -> tuple[str, ...]:
    """Return the path of a field that is named by the names of its sections and its own, joined by underscores."""
    for each in msgspec.structs.fields(section):
        inner = _section_type(each.type)
        if inner is not None and name.startswith(f"{each.name}_"):
            return each.name, *_path_of(inner, name[len(each.name) + 1 :])
    return (name,)


def _value_of_variable(value: str) -> Any:
    """Return the value of a variable: text, or JSON where it is a list or a table."""
    if value[:1] in {"[", "{"}:
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return value


def _nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    result: dict[str, Any] = value
    return result
