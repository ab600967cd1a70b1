"""Redact the prompts of a table run, and put the values back into its results.

Placeholders are not kept for each row: those of a row whose response has one are computed again from its prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import InvalidRequest
from llmhub.core.types import CompletionRequest
from llmhub.security.placeholders import PLACEHOLDER, Placeholders, is_json_response
from llmhub.security.redaction import Redactor, map_message, map_request
from llmhub.tables.row_prompts import RowPrompt
from llmhub.tables.templates import Template

if TYPE_CHECKING:
    from llmhub.tables.prompt_batch import PromptBatch, TargetPrompt

RESTORED_COLUMNS = ("response", "tool_calls")


@dataclass(frozen=True, slots=True)
class RowRedaction:
    """How the rows of a batch are redacted.

    Parameters
    ----------
    template
        Renders the prompts as they are.
    redactor
        Finds the values.
    base
        Placeholders of what all rows share: system message, examples, tools.
    """

    template: Template[Any]
    redactor: Redactor
    base: Placeholders

    def render(self, values: tuple[Any, ...]) -> RowPrompt | InvalidRequest | None:
        """Render the prompt of a row with placeholders."""
        rendered: RowPrompt | InvalidRequest | None = self.template.render(values)
        return _map_prompt(rendered, Placeholders(self.redactor, self.base).replace)

    def placeholders(self, values: tuple[Any, ...]) -> Placeholders:
        """Return the placeholders of a row."""
        placeholders = Placeholders(self.redactor, self.base)
        _map_prompt(self.template.render(values), placeholders.replace)
        return placeholders


def _map_prompt(
    prompt: RowPrompt | InvalidRequest | None, change: Callable[[str], str]
) -> RowPrompt | InvalidRequest | None:
    match prompt:
        case str():
            return change(prompt)
        case CompletionRequest():
            return map_request(prompt, change)
        case tuple():
            return tuple([map_message(message, change) for message in prompt])
        case _:
            return prompt  # a missing value or an invalid row


def redact_batch(
    batch: PromptBatch, redactor: Redactor, prepare: Callable[[TargetPrompt, CompletionRequest], TargetPrompt]
) -> PromptBatch:
    """Return a batch whose prompts have placeholders; ``prepare`` makes the prompt of a target for another request."""
    base = Placeholders(redactor)
    target_prompts = []
    for target_prompt in batch.target_prompts:
        request = map_request(target_prompt.request, base.replace)
        same = request is target_prompt.request
        target_prompts.append(target_prompt if same else prepare(target_prompt, request))
    redaction = RowRedaction(batch.template, redactor, base)
    template = replace(batch.template, render=redaction.render)
    return replace(batch, template=template, target_prompts=tuple(target_prompts), redaction=redaction)


def restore_columns(
    batch: PromptBatch, positions: Any, target_index: Any, columns: dict[str, pa.ChunkedArray]
) -> dict[str, pa.ChunkedArray]:
    """Return the columns of outcomes with the values in place of their placeholders."""
    redaction = batch.redaction
    if redaction is None:
        return columns
    is_json = [is_json_response(target_prompt.request) for target_prompt in batch.target_prompts]
    texts, calls = columns["response"], columns["tool_calls"]
    indices = {*_with_placeholder(texts), *_calls_with_placeholder(calls)}
    if not indices:
        return columns
    new_texts, new_calls = texts.to_pylist(), calls.to_pylist()
    for index in indices:
        row = int(positions[index]) // max(1, batch.positions_per_row)
        placeholders = redaction.placeholders(tuple(column[row] for column in batch.columns))
        if new_texts[index] is not None:
            new_texts[index] = placeholders.restore_text(new_texts[index], is_json=is_json[int(target_index[index])])
        for call in new_calls[index] or ():
            call["arguments"] = placeholders.restore_json(call["arguments"])
    restored = {"response": pa.array(new_texts, texts.type), "tool_calls": pa.array(new_calls, calls.type)}
    return {**columns, **{name: pa.chunked_array([array]) for name, array in restored.items()}}


def _with_placeholder(texts: pa.ChunkedArray) -> Sequence[int]:
    """Return where a text has a placeholder."""
    found: list[int] = pc.indices_nonzero(
        pc.fill_null(pc.match_substring_regex(texts, PLACEHOLDER.pattern), False)
    ).to_pylist()
    return found


def _calls_with_placeholder(calls: pa.ChunkedArray) -> Sequence[int]:
    """Return where an argument of a tool call has a placeholder."""
    lists = calls.combine_chunks()
    arguments = pc.struct_field(pc.list_flatten(lists), "arguments")
    parents = pc.list_parent_indices(lists)
    hits = pc.fill_null(pc.match_substring_regex(arguments, PLACEHOLDER.pattern), False)
    found: list[int] = pc.filter(parents, hits).to_pylist()
    return found
