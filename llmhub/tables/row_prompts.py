"""The prompt of each row: text, and optionally a system prompt, a conversation and images.

`compile_row_template` turns the caller's arguments into one `RowTemplate`: the columns they use, and a function of
their values. Functions of a row are called there, in the caller's thread; cells are parsed later, row by row, so that
an invalid one fails in its own row.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final, NamedTuple, TypeAlias

from llmhub.core.errors import InvalidRequest, invalid
from llmhub.core.types import CompletionRequest, Image, Message, Part, Text
from llmhub.tables.images import ImageParser, LocalFiles
from llmhub.tables.rows import FrameColumns, is_conversation, map_over_rows, parse_conversation
from llmhub.tables.templates import Template, parse_template

RowPrompt: TypeAlias = str | tuple[Message, ...] | CompletionRequest
"""The prompt of a row: the text of a user message, a conversation, or a complete request."""
RowValues: TypeAlias = tuple[Any, ...]
"""The values of one row in the columns that a template uses."""


@dataclass(frozen=True, slots=True)
class RowExtras:
    """Message content in addition to the prompt.

    Parameters
    ----------
    system
        System prompt: a template over the columns, the name of a column, or a function of a row.
    messages
        Name of a column of conversations; the prompt, if any, is appended as the last message.
    images
        Name of a column of images, placed before the prompt's text.
    examples
        Few-shot examples, placed after a system prompt that depends on the row.
    local_files
        Whether paths of images are read, or the folder in which they are.
    warns
        Whether to warn if all rows ask the same, because a person sees it.
    """

    system: Any = None
    messages: str | None = None
    images: str | None = None
    examples: tuple[Message, ...] = ()
    local_files: LocalFiles = True
    warns: bool = True


NO_EXTRAS: Final = RowExtras()


@dataclass(frozen=True, slots=True)
class RowTemplate:
    """The prompts of all rows, not yet rendered.

    Parameters
    ----------
    n_rows
        Number of rows.
    columns
        The columns that are used, as lists of values.
    template
        Function of a row's values in these columns.
    is_plain_text
        Whether every prompt is a string.
    reads_files
        Whether rendering may read files: those of images.
    """

    n_rows: int
    columns: Sequence[Sequence[Any]]
    template: Template[RowPrompt | InvalidRequest]
    is_plain_text: bool
    reads_files: bool = False


class _PromptPart(NamedTuple):
    """One part of the prompts (system prompt, conversation, images or text), and the columns it uses."""

    columns: Sequence[Sequence[Any]]
    template: Template[Any]


def compile_row_template(frame: Any, prompt: Any, extras: RowExtras = NO_EXTRAS) -> RowTemplate:
    """Return the template of the prompts of a frame's rows.

    Raises
    ------
    BadRequestError
        A column does not exist, or there is neither prompt, conversation nor image.
    Exception
        Any exception of a function of a row, with a note that names the row.
    """
    columns = FrameColumns(frame)
    _require_prompt(prompt, extras)
    text = None if prompt is None else _compile_part(prompt, columns, "prompt")
    system = None if extras.system is None else _compile_part(extras.system, columns, "system")
    messages = _compile_column(extras.messages, columns, "messages", parse_conversation)
    images = _compile_column(extras.images, columns, "images", ImageParser(extras.local_files).parse)
    if extras.warns:
        _warn_if_constant(prompt, [part for part in (text, system, messages, images) if part], len(columns))
    if text is not None and system is messages is images is None:
        returned = text.columns[0] if callable(prompt) else ()
        is_plain_text = text.template.render is not prompt_from_cell and all(
            isinstance(value, (str, NoneType)) for value in returned
        )
        return RowTemplate(len(columns), *text, is_plain_text)
    parts = [part for part in (system, messages, images, text) if part is not None]
    for part in parts:
        _try_formats(part)
    fields = tuple(dict.fromkeys(name for part in parts for name in part.template.fields))
    template = Template(fields, _compose([system, messages, images, text], extras.examples))
    return RowTemplate(
        len(columns),
        [column for part in parts for column in part.columns],
        template,
        is_plain_text=False,
        reads_files=images is not None,
    )


def _warn_if_constant(prompt: Any, parts: Sequence[_PromptPart], n_rows: int) -> None:
    """Warn if no part of the prompts depends on the row, so that all rows ask the same."""
    if n_rows > 1 and isinstance(prompt, str) and not any(part.columns for part in parts):
        message = (
            f"prompt: {prompt!r:.80} names no column, so all {n_rows:,} rows send the same request; write '{{column}}' "
            "where the value belongs"
        )
        warnings.warn(message, UserWarning, stacklevel=2)


def constant_system_prompt(system: Any, names: Sequence[str] = ()) -> str | None:
    """Return a system prompt that is the same for every row; ``None`` if it depends on the row or names a column.

    Examples
    --------
    >>> constant_system_prompt("Answer in {{}}."), constant_system_prompt("Answer in {language}.")
    ('Answer in {}.', None)
    >>> constant_system_prompt("instructions", ["instructions"])
    """
    if not isinstance(system, str) or system in names:
        return None
    template = parse_template(system, "system")
    return None if template.fields else template.render(())


def is_single_placeholder(prompt: str, fields: Sequence[str]) -> bool:
    """Return whether a template is one placeholder and nothing else."""
    return len(fields) == 1 and prompt == f"{{{fields[0]}}}"


def prompt_from_cell(values: RowValues) -> RowPrompt | InvalidRequest:
    """Return a cell's conversation if it holds one, else its text."""
    return parse_conversation(values[0]) if is_conversation(values[0]) else str(values[0])


def _require_prompt(prompt: Any, extras: RowExtras) -> None:
    """Raise if there is no prompt, or a column is not named by a string."""
    names: dict[str, Any] = {"messages": extras.messages, "images": extras.images}
    for argument, name in names.items():
        if name is not None and not isinstance(name, str):
            raise invalid(argument, f"{type(name).__name__} is not a column name; pass {argument}='column'")
    if prompt is None and extras.messages is None and extras.images is None:
        raise invalid("prompt", "there is no prompt; pass a template such as 'Summarise: {text}', or messages='column'")


def _compile_part(source: Any, columns: FrameColumns, argument: str) -> _PromptPart:
    """Compile a template or a function of a row; the function is called for all rows now."""
    if callable(source):
        values = map_over_rows(source, columns, argument)
        checked = [_check_function_value(value, argument, row) for row, value in enumerate(values)]
        return _PromptPart([checked], Template((), lambda row_values: row_values[0]))
    if not isinstance(source, str):
        raise invalid(
            argument,
            f"{type(source).__name__} is not a template; write '{{column}}' for a column, or pass a function of a row",
        )
    if argument == "system" and source in columns.positions:
        template = Template((source,), lambda row_values: str(row_values[0]))
        return _PromptPart([columns.column(source, argument)], template)
    template = parse_template(source, argument)
    used = [columns.column(name, argument) for name in template.fields]
    if argument == "prompt" and is_single_placeholder(source, template.fields) and any(map(is_conversation, used[0])):
        return _PromptPart(used, Template(template.fields, prompt_from_cell))
    return _PromptPart(used, template)


def _check_function_value(value: Any, argument: str, row: int) -> Any:
    """Return what a function of a row returned, as a string, a conversation, or ``None``."""
    if value is None or isinstance(value, str):
        return value
    parsed: Any = InvalidRequest(message=f"{type(value).__name__} is not a string")
    if argument == "prompt":
        parsed = parse_conversation(value)
    if isinstance(parsed, InvalidRequest):
        raise invalid(argument, f"the function returned an invalid value for row {row}: {parsed.message}")
    return parsed


def _compile_column(
    name: str | None, columns: FrameColumns, argument: str, parse: Callable[[Any], Any]
) -> _PromptPart | None:
    """Return the part of a column whose cells are parsed; ``None`` without a column."""
    if name is None:
        return None
    return _PromptPart([columns.column(name, argument)], Template((name,), lambda values: parse(values[0])))


def _try_formats(part: _PromptPart) -> None:
    """Render a part for every row, so that format errors are raised before anything is sent."""
    if part.template.has_format_specs:
        rows = (values for values in zip(*part.columns, strict=True) if all(value is not None for value in values))
        deque(map(part.template.render, rows), maxlen=0)


def _compose(
    parts: Sequence[_PromptPart | None], examples: tuple[Message, ...]
) -> Callable[[RowValues], RowPrompt | InvalidRequest]:
    """Return the function that renders all parts into one conversation, or returns the first error."""
    bounds: list[tuple[int, int]] = []
    end = 0
    for part in parts:
        start, end = end, end + (len(part.columns) if part else 0)
        bounds.append((start, end))

    def render(values: RowValues) -> RowPrompt | InvalidRequest:
        rendered = [
            None if part is None else part.template.render(values[start:end])
            for part, (start, end) in zip(parts, bounds, strict=True)
        ]
        error = next((value for value in rendered if isinstance(value, InvalidRequest)), None)
        return error or _build_messages(*rendered, examples=examples)

    return render


def _build_messages(
    system: str | None,
    conversation: tuple[Message, ...] | None,
    images: tuple[Image, ...] | None,
    prompt: str | tuple[Message, ...] | None,
    *,
    examples: tuple[Message, ...] = (),
) -> tuple[Message, ...]:
    """Return the messages in order: system prompt, examples, conversation, then the user's images and text."""
    first = (Message("system", system),) if system else ()
    last: tuple[Message, ...] = ()
    if isinstance(prompt, tuple):
        last = (Message("user", images), *prompt) if images else prompt
    else:
        # An empty text is kept only where the message would otherwise be missing.
        text = (Text(prompt or ""),) if prompt or not (images or conversation) else ()
        parts: tuple[Part, ...] = (*(images or ()), *text)
        last = (Message("user", parts),) if parts else ()
    return (*first, *examples, *(conversation or ()), *last)
