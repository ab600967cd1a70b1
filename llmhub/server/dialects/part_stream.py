"""Reduce the deltas of any wire to the fragments that a client may be shown, and complete them from the response.

Deltas may lack content that is only known at the end: ids of calls that the provider does not number, the last frames
of a reply, everything of a cached response. `PartStream.rest` returns it, so that the fragments of a stream are those
of its response.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llmhub.core.forced_tool import is_forced_call
from llmhub.core.stream import Delta, Fragment
from llmhub.core.types import CompletionResponse, Logprobs, Part, Reasoning, Refusal, Text, ToolCall


@dataclass(slots=True)
class _Shown:
    """Content of one choice that was returned already."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    signatures: list[str] = field(default_factory=list)
    call_ids: set[str] = field(default_factory=set)
    logprobs: bool = False
    nothing: bool = True


class PartStream:
    """Fragments of one streamed response.

    Examples
    --------
    >>> parts = PartStream()
    >>> parts.feed([Fragment(0, Text("He"))])
    [Fragment(index=0, part=Text(text='He'), choice=0, key='')]
    >>> [fragment.part for fragment in parts.rest(CompletionResponse(parts=(Text("Hello"),)))]
    [Text(text='llo')]
    """

    __slots__ = ("_calls", "_shown")

    def __init__(self) -> None:
        self._shown: dict[int, _Shown] = {}
        self._calls: set[tuple[int, int, str]] = set()

    def feed(self, deltas: Sequence[Delta]) -> list[Fragment]:
        """Return the fragments to show of new deltas."""
        fragments: list[Fragment] = []
        for delta in deltas:
            if type(delta) is Fragment:
                part = _visible(delta.part)
                shown = self._shown.get(delta.choice)
                if shown is None:
                    shown = self._shown[delta.choice] = _Shown()
                if self._note(shown, part, (delta.choice, delta.index, delta.key)):
                    fragments.append(
                        delta if part is delta.part else Fragment(delta.index, part, delta.choice, delta.key)
                    )
        return fragments

    def _note(self, shown: _Shown, part: Part, key: tuple[int, int, str]) -> bool:
        """Record a part that is about to be shown; return whether it can be."""
        match part:
            case Text("") | Refusal("") | Reasoning("", "", ""):
                return False
            case Text(text):
                shown.text.append(text)
            case Reasoning(text, signature):
                shown.reasoning.append(text)
                shown.signatures += [signature] if signature else []
            case Refusal(text):
                shown.refusal.append(text)
            case ToolCall(call_id):
                if key not in self._calls:
                    if not call_id:
                        return False
                    self._calls.add(key)
                    shown.call_ids.add(call_id)
            case Logprobs():
                shown.logprobs = True
            case _:
                return False
        shown.nothing = False
        return True

    def rest(self, response: CompletionResponse) -> list[Fragment]:
        """Return the fragments of a response that were not returned before."""
        answers = [response.parts, *(choice.parts for choice in response.others)]
        return [fragment for choice, parts in enumerate(answers) for fragment in self._rest_of(choice, parts)]

    def _rest_of(self, choice: int, parts: Sequence[Part]) -> Iterator[Fragment]:
        shown = self._shown.get(choice) or _Shown()
        if shown.nothing:
            yield from (Fragment(index, part, choice, "rest") for index, part in enumerate(parts))
            return
        reasoning = "".join([part.text for part in parts if isinstance(part, Reasoning)])
        text = "".join([part.text for part in parts if isinstance(part, Text)])
        refusal = "".join([part.text for part in parts if isinstance(part, Refusal)])
        missing: list[Part] = [
            *([Reasoning(suffix)] if (suffix := _suffix(shown.reasoning, reasoning)) else []),
            *([Text(suffix)] if (suffix := _suffix(shown.text, text)) else []),
            *([Refusal(suffix)] if (suffix := _suffix(shown.refusal, refusal)) else []),
        ]
        for part in parts:
            match part:
                case Text() | Refusal():
                    continue
                case Reasoning(_, signature, redacted):
                    if redacted or (signature and signature not in "".join(shown.signatures)):
                        missing.append(Reasoning("", signature, redacted))
                case ToolCall(call_id) if call_id in shown.call_ids:
                    continue
                case Logprobs() if shown.logprobs:
                    continue
                case _:
                    missing.append(part)
        yield from (Fragment(index, part, choice, "rest") for index, part in enumerate(missing))


def _visible(part: Part) -> Part:
    """Return the arguments of the forced tool as the text that they stand for."""
    return Text(part.arguments) if isinstance(part, ToolCall) and is_forced_call(part) else part


def _suffix(shown: Sequence[str], text: str) -> str:
    """Return what follows the shown text; nothing where the final text is another one, such as compact JSON."""
    before = "".join(shown)
    return text[len(before) :] if text.startswith(before) else ""
