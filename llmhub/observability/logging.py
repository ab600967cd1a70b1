"""Log records of calls, requests and decisions, under the loggers ``llmhub.*`` of the standard library.

The loggers have no handler but a `logging.NullHandler`; a program that has set up `logging` sees the records by the
rules of that module, and `configure` sets it up. Records are made and written in threads, from fields
without content: prompts and responses are logged only if asked for, and redacted.
"""

from __future__ import annotations

import atexit
import logging
import queue
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Any, Final, TextIO, TypeAlias

import msgspec
from returns.pipeline import is_successful

from llmhub.core.budget import nano_to_usd
from llmhub.core.errors import invalid
from llmhub.core.types import Message, Text
from llmhub.engine.decision_log import Decision
from llmhub.engine.observer import NS_PER_S, CallFinished, Event, RequestFinished
from llmhub.observability.dispatcher import Dispatcher, flush
from llmhub.observability.instruments import outcome_labels
from llmhub.security.redaction import MIN_SECRET_LENGTH, escape_controls, redact, redact_content

__all__ = ["JsonFormatter", "configure", "is_enabled"]

ROOT: Final = logging.getLogger("llmhub")
CALLS: Final = logging.getLogger("llmhub.calls")
REQUESTS: Final = logging.getLogger("llmhub.requests")
DECISIONS: Final = logging.getLogger("llmhub.decisions")
ROOT.addHandler(logging.NullHandler())

LEVELS: Final = ("debug", "info", "warning", "error")
TEXT_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
WARNED_DECISIONS: Final = frozenset({"circuit", "give_up"})
"""Kinds of decisions that are logged as warnings; the others are information."""
ID_LENGTH: Final = 12
"""Length of ids in messages for people."""

_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
Fields: TypeAlias = dict[str, Any]
Redact: TypeAlias = Callable[[str], str]


def is_enabled() -> bool:
    """Return whether calls are logged: whether the logger ``llmhub.calls`` is enabled for the level ``INFO``."""
    return CALLS.isEnabledFor(logging.INFO)


class JsonFormatter(logging.Formatter):
    r"""Formats a record as one line of JSON: time, level, logger, message, and the fields of llmhub's records.

    Texts are redacted (`llmhub.security.redaction.redact`), those of other loggers too.

    Examples
    --------
    >>> record = logging.LogRecord("app", logging.INFO, "", 0, "key sk-abcdefgh12345", None, None)
    >>> '"message":"key [redacted]"' in JsonFormatter().format(record)
    True
    """

    def __init__(self, redact: Redact = redact) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: Fields = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redact(record.getMessage()),
        }
        fields = getattr(record, "llmhub", None)
        if isinstance(fields, Mapping):
            entry.update({name: self._clean(value) for name, value in fields.items()})
        exception = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else "")
        if exception:
            entry["exception"] = self._redact(exception)
        return _encode(entry).decode()

    def _clean(self, value: Any) -> Any:
        return self._redact(value) if isinstance(value, str) and len(value) >= MIN_SECRET_LENGTH else value


class _TextFormatter(logging.Formatter):
    """Formats a record as a line for people, redacted and without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_controls(redact(super().format(record)))


class _LogWriter:
    """Logs the events that people want to see."""

    def __init__(self) -> None:
        self.with_content = False

    def __call__(self, event: Event, cost_nano_usd: int | None) -> None:
        match event:
            case CallFinished():
                fields = call_fields(event, cost_nano_usd)
                if self.with_content:
                    fields |= _content(event)
                level = logging.WARNING if fields["status"] == "error" else logging.INFO
                _log(CALLS, level, _call_message(fields), fields, event.ended_ns / NS_PER_S)
            case RequestFinished() if REQUESTS.isEnabledFor(logging.DEBUG):
                fields = request_fields(event)
                message = f"{fields['provider']}/{fields['model']} {_outcome(fields)} in {fields['duration_s']:.3f} s"
                _log(REQUESTS, logging.DEBUG, message, fields, event.ended_ns / NS_PER_S)
            case Decision(kind=kind):
                fields = _decision_fields(event)
                level = logging.WARNING if kind in WARNED_DECISIONS else logging.INFO
                wait = f" ({event.wait_s:.3g} s)" if event.wait_s is not None else ""
                message = f"{event.target}: {kind}{wait}{event.detail and ': ' + event.detail}"
                _log(DECISIONS, level, message, fields, event.timestamp)
            case _:
                pass


WRITER: Final = _LogWriter()
LOG_OBSERVER: Final = Dispatcher(WRITER)
"""The observer that logs; it observes while `is_enabled`."""


def _log(logger: logging.Logger, level: int, message: str, fields: Fields, created: float) -> None:
    """Log a message that happened at ``created`` (epoch seconds)."""
    if not logger.isEnabledFor(level):
        return
    record = logger.makeRecord(logger.name, level, "llmhub", 0, message, (), None)
    record.created = created
    record.msecs = created % 1 * 1000
    record.llmhub = fields
    logger.handle(record)


def call_fields(event: CallFinished, cost_nano_usd: int | None) -> Fields:
    """Return what is logged of a call: who, where, how long, how much; never content, error messages included."""
    answer, origin = event.answer, event.origin
    target = (answer.target if answer is not None else None) or event.call.target
    status, error_type = outcome_labels(answer)
    fields: Fields = {
        "request_id": origin.request_id,
        "key_id": origin.key_id,
        "team": origin.team,
        "user": origin.user,
        "run_id": event.run_id.hex(),
        "trace_id": event.trace_id,
        "provider": target.provider.name,
        "model": target.model,
        "status": status,
        "error_type": error_type,
        "duration_s": round((event.ended_ns - event.started_ns) / NS_PER_S, 6),
    }
    if answer is not None:
        fields |= {
            "attempts": answer.attempts,
            "cache_hit": answer.cache_hit,
            "latency_s": answer.latency_s,
            "ttft_s": answer.ttft_s,
            "rate_wait_s": answer.rate_wait_s,
            "cost_usd": None if cost_nano_usd is None else float(nano_to_usd(cost_nano_usd)),
        }
        if is_successful(answer.outcome):
            response = answer.outcome.unwrap()
            fields |= {
                "served_model": response.served_model,
                "provider_request_id": response.request_id,
                "finish_reason": response.finish_reason,
                "input_tokens": response.usage.input_tokens,
                "output_tokens": response.usage.output_tokens,
                "cached_input_tokens": response.usage.cached_input_tokens,
                "reasoning_tokens": response.usage.reasoning_tokens,
            }
        else:
            error = answer.outcome.failure()
            fields |= {
                "http_status": error.status,
                "error_code": error.code,
                "provider_request_id": error.request_id,
                "retry_after_s": error.retry_after_s,
            }
    return {name: value for name, value in fields.items() if value not in ("", None)}


def request_fields(event: RequestFinished) -> Fields:
    """Return what is logged of an HTTP request."""
    status, error_type = outcome_labels(event.answer)
    error = event.answer.outcome.failure() if event.answer is not None and status == "error" else None
    fields = {
        "provider": event.call.target.provider.name,
        "model": event.call.target.model,
        "attempt": event.number,
        "status": status,
        "error_type": error_type,
        "http_status": None if error is None else error.status,
        "duration_s": round((event.ended_ns - event.started_ns) / NS_PER_S, 6),
    }
    return {name: value for name, value in fields.items() if value not in ("", None)}


def _decision_fields(decision: Decision) -> Fields:
    fields = {"decision": decision.kind, "target": decision.target, "detail": decision.detail}
    return fields if decision.wait_s is None else {**fields, "wait_s": decision.wait_s}


def _content(event: CallFinished) -> Fields:
    """Return prompt, response and error message, redacted."""
    fields = {"prompt": redact_content("\n".join(map(_message_text, event.call.request.messages)))}
    if event.answer is None:
        return fields
    if is_successful(event.answer.outcome):
        return {**fields, "response": redact_content(event.answer.outcome.unwrap().text)}
    return {**fields, "error": redact_content(event.answer.outcome.failure().message)}


def _message_text(message: Message) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, Text))


def _outcome(fields: Fields) -> str:
    error_type = fields.get("error_type")
    status = f" {fields['http_status']}" if "http_status" in fields else ""
    return f"{fields['status']} ({error_type}{status})" if error_type else str(fields["status"])


def _call_message(fields: Fields) -> str:
    """Return a call in one line for people."""
    parts = [f"{fields['provider']}/{fields['model']} {_outcome(fields)} in {fields['duration_s']:.3f} s"]
    if "input_tokens" in fields and "output_tokens" in fields:
        parts.append(f"{fields['input_tokens']} + {fields['output_tokens']} tokens")
    if fields.get("cost_usd"):
        parts.append(f"${fields['cost_usd']:.6f}")
    if fields.get("attempts", 0) > 1:
        parts.append(f"{fields['attempts']} requests")
    if "request_id" in fields:
        parts.append(f"request {fields['request_id'][:ID_LENGTH]}")
    return ", ".join(parts)


class _Handler(QueueHandler):
    """Queues records, except for those that were made in a thread already."""

    def __init__(self, records: queue.SimpleQueue[logging.LogRecord], output: logging.Handler) -> None:
        super().__init__(records)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Write or queue a record."""
        if hasattr(record, "llmhub"):
            self._output.handle(record)
        else:
            super().emit(record)


class _Configuration:
    """The way to undo the present configuration."""

    def __init__(self) -> None:
        self.undo: Callable[[], None] | None = None


_CONFIGURED: Final = _Configuration()


def configure(
    level: str = "info", *, json: bool = False, content: bool = False, stream: TextIO | None = None
) -> Callable[[], None]:
    """Write the log records of llmhub to a stream, in a thread. Replaces what an earlier call has set up.

    Parameters
    ----------
    level
        Least level: ``"debug"`` (each HTTP request), ``"info"`` (each call), ``"warning"`` or ``"error"``.
    json
        Whether to write lines of JSON with structured fields (`JsonFormatter`), instead of lines for people.
    content
        Whether to log prompts, responses and error messages too, redacted. They may hold personal data.
    stream
        Where to write; standard error if it is not given.

    Returns
    -------
    Callable
        Writes what is pending and undoes the configuration.

    Raises
    ------
    BadRequestError
        ``level`` is unknown.

    Examples
    --------
    >>> import io
    >>> lines = io.StringIO()
    >>> undo = configure("info", json=True, stream=lines)
    >>> logging.getLogger("llmhub.app").info("started")
    >>> undo()
    >>> lines.getvalue().count("started")
    1
    """
    if level not in LEVELS:
        raise invalid("level", f"must be one of {', '.join(LEVELS)}, not {level!r:.80}")
    if _CONFIGURED.undo is not None:
        _CONFIGURED.undo()
    output: logging.StreamHandler[TextIO] = logging.StreamHandler(stream if stream is not None else sys.stderr)
    output.setFormatter(JsonFormatter() if json else _TextFormatter(TEXT_FORMAT))
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler, listener = _Handler(records, output), QueueListener(records, output)
    level_before, propagate_before = ROOT.level, ROOT.propagate
    ROOT.addHandler(handler)
    ROOT.setLevel(level.upper())
    ROOT.propagate = False
    WRITER.with_content = content
    listener.start()

    def undo() -> None:
        if _CONFIGURED.undo is not undo:
            return
        _CONFIGURED.undo = None
        atexit.unregister(undo)
        flush()
        ROOT.removeHandler(handler)
        ROOT.setLevel(level_before)
        ROOT.propagate = propagate_before
        WRITER.with_content = False
        listener.stop()

    _CONFIGURED.undo = undo
    atexit.register(undo)
    return undo


def configure_from_setting(setting: str) -> None:
    """Configure as the variable ``LLMHUB_LOG`` says: a level, and ``,json`` after it for lines of JSON.

    Does nothing if it is empty or ``off``, or if `configure` was called.
    """
    level, _, form = setting.strip().lower().partition(",")
    if level in {"", "off"} or _CONFIGURED.undo is not None:
        return
    if level not in LEVELS or form.strip() not in {"", "json"}:
        raise invalid("LLMHUB_LOG", f"must be off or one of {', '.join(LEVELS)}, or such a level and ',json'")
    configure(level, json=form.strip() == "json")
