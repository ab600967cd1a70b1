"""Send calls with placeholders in place of credentials and personal data, and put the values back into the answers.

The client redacts a call before it computes its key: so the cache, the ledger, logs, traces and the provider get the
placeholders, and only the caller gets the values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from llmhub.core.stream import ChoiceFinished, Delta, Fragment
from llmhub.core.types import CompletionRequest, Logprobs, Opaque, Part, Reasoning, Refusal, StreamChunk, Text, ToolCall
from llmhub.engine.call import Answer, Call
from llmhub.security.placeholders import (
    Placeholders,
    PlaceholderStream,
    is_json_response,
    redact_request,
    restore_response,
)
from llmhub.security.redaction import Redactor

StreamKey: TypeAlias = tuple[int, int, str, type[Part]]

STREAMED_FIELDS = {Text: "text", Reasoning: "text", Refusal: "text", ToolCall: "arguments", Opaque: "data"}
"""The field of each kind of part that arrives in pieces."""


class RedactedCall:
    """A call with placeholders, and what its answer needs.

    Parameters
    ----------
    call
        The call to send.
    placeholders
        Its placeholders; none if it is the call as it was.
    """

    __slots__ = ("_chunks", "_deltas", "call", "placeholders")

    def __init__(self, call: Call, redactor: Redactor) -> None:
        request, self.placeholders = redact_request(call.request, redactor)
        is_json = is_json_response(request)
        self._chunks: _RestoredChunks | None = None
        self._deltas: _RestoredDeltas | None = None
        if not self.placeholders:
            self.call = call
            return
        if call.on_chunk is not None:
            self._chunks = _RestoredChunks(call.on_chunk, self.placeholders, is_json=is_json)
        if call.on_deltas is not None:
            self._deltas = _RestoredDeltas(call.on_deltas, self.placeholders, is_json=is_json)
        self.call = replace(
            call,
            request=request,
            prepared=None,
            key=None,
            on_chunk=self._chunks,
            on_deltas=self._deltas,
        )

    def restore(self, answer: Answer) -> Answer:
        """Return the answer with the values, after what its stream has held back."""
        for stream in (self._chunks, self._deltas):
            if stream is not None:
                stream.close()
        return restore_answer(answer, self.call.request, self.placeholders)


def restore_answer(answer: Answer, request: CompletionRequest, placeholders: Placeholders) -> Answer:
    """Return the answer to a request with placeholders, with the values."""
    if not placeholders:
        return answer
    is_json = is_json_response(request)
    outcome = answer.outcome.map(lambda response: restore_response(response, placeholders, is_json=is_json))
    return replace(answer, outcome=outcome)


class _RestoredChunks:
    """Passes the chunks of a stream on, with the values in their texts."""

    def __init__(self, on_chunk: Callable[[StreamChunk], None], placeholders: Placeholders, *, is_json: bool) -> None:
        self._on_chunk = on_chunk
        self._text = PlaceholderStream(placeholders, is_json=is_json)
        self._reasoning = PlaceholderStream(placeholders)
        self._arguments = PlaceholderStream(placeholders, is_json=True)

    def __call__(self, chunk: StreamChunk) -> None:
        tool_calls = []
        for call in chunk.tool_calls:
            if call.id or call.name:
                tool_calls += self._rest_of_arguments()
            arguments = self._arguments.feed(call.arguments)
            tool_calls += [replace(call, arguments=arguments)] if arguments or call.id or call.name else []
        text, reasoning = self._text.feed(chunk.text), self._reasoning.feed(chunk.reasoning)
        if text or reasoning or tool_calls:
            self._on_chunk(replace(chunk, text=text, reasoning=reasoning, tool_calls=tuple(tool_calls)))

    def _rest_of_arguments(self) -> list[ToolCall]:
        rest = self._arguments.close()
        return [ToolCall("", "", rest)] if rest else []

    def close(self) -> None:
        """Pass on what was held back."""
        text, reasoning, tool_calls = self._text.close(), self._reasoning.close(), self._rest_of_arguments()
        if text or reasoning or tool_calls:
            self._on_chunk(StreamChunk(text=text, reasoning=reasoning, tool_calls=tuple(tool_calls)))


class _RestoredDeltas:
    """Passes the deltas of a stream on, with the values in their parts."""

    def __init__(
        self, on_deltas: Callable[[Sequence[Delta]], None], placeholders: Placeholders, *, is_json: bool
    ) -> None:
        self._on_deltas = on_deltas
        self._placeholders = placeholders
        self._is_json = is_json
        self._streams: dict[StreamKey, tuple[PlaceholderStream, Fragment]] = {}

    def __call__(self, deltas: Sequence[Delta]) -> None:
        passed: list[Delta] = []
        for delta in deltas:
            match delta:
                case Fragment(part=Logprobs()):
                    passed.append(delta)
                case Fragment():
                    passed += self._feed(delta)
                case ChoiceFinished(choice=choice):
                    passed += [*self._rest(choice), delta]
                case _:
                    passed.append(delta)
        if passed:
            self._on_deltas(tuple(passed))

    def _feed(self, fragment: Fragment) -> list[Delta]:
        name = STREAMED_FIELDS.get(type(fragment.part))
        if name is None:
            return [fragment]
        key = (fragment.choice, fragment.index, fragment.key, type(fragment.part))
        if key not in self._streams:
            is_json = self._is_json or name != "text"
            self._streams[key] = PlaceholderStream(self._placeholders, is_json=is_json), fragment
        text = getattr(fragment.part, name)
        restored = self._streams[key][0].feed(text)
        if not restored and fragment.part == _continuation(fragment.part, text):
            return []  # it is held back as a whole
        return [fragment if restored == text else _with_text(fragment, name, restored)]

    def _rest(self, choice: int | None) -> list[Delta]:
        """Return what was held back of a choice, or of all."""
        rest: list[Delta] = []
        for key, (stream, first) in self._streams.items():
            text = stream.close() if choice is None or key[0] == choice else ""
            if text:
                rest.append(replace(first, part=_continuation(first.part, text)))
        return rest

    def close(self) -> None:
        """Pass on what was held back."""
        rest = self._rest(None)
        if rest:
            self._on_deltas(tuple(rest))


def _continuation(part: Part, text: str) -> Part:
    """Return a further piece of a part."""
    match part:
        case ToolCall():
            return ToolCall("", "", text)
        case Reasoning():
            return Reasoning(text)
        case Opaque(kind=kind):
            return Opaque(kind, text)
        case Refusal():
            return Refusal(text)
        case _:
            return Text(text)


def _with_text(fragment: Fragment, name: str, text: str) -> Fragment:
    fields: dict[str, Any] = {name: text}
    return replace(fragment, part=replace(fragment.part, **fields))
