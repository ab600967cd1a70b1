"""What a row says: its prompt, and beside it a system turn, a conversation so far, and pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final, Generic, TypeAlias, TypeVar

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.types import CompletionRequest, Image, Message, Part, Text
from llmhub.tables.rows import FrameColumns, is_conversation, map_over_rows, parse_conversation, parse_images
from llmhub.tables.templates import Template, parse_template

RowPrompt: TypeAlias = str | tuple[Message, ...] | CompletionRequest
"""What a row asks: a user's turn, the turns of a conversation, or a request of its own."""


RowValues: TypeAlias = tuple[Any, ...]


T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class RowExtras:
    """What is said beside the prompt.

    Parameters
    ----------
    system
        The system turn: a template over the columns, the name of a column, or a function of a row.
    messages
        Name of a column of ready conversations; the prompt, if any, is their last turn.
    images
        Name of a column of pictures, shown before the prompt.
    """

    system: Any = None
    messages: str | None = None
    images: str | None = None


NO_EXTRAS: Final = RowExtras()


@dataclass(frozen=True, slots=True)
class _PromptPart(Generic[T_co]):
    """A part of what a row says, and the columns it is made of."""

    columns: Sequence[Sequence[Any]]
    render: Callable[[RowValues], T_co]
    fields: tuple[str, ...] = ()
    has_format_specs: bool = False


@dataclass(frozen=True, slots=True)
class RowTemplate:
    """What the rows say: values of the columns that are used, how they are put together, and whether it is but text."""

    columns: Sequence[Sequence[Any]]
    template: Template[RowPrompt | InvalidRequest]
    is_plain_text: bool


def compile_row_template(frame: Any, prompt: Any, extras: RowExtras = NO_EXTRAS) -> tuple[int, RowTemplate]:
    """Read the prompt and what is beside it; give the number of rows, and what they say.

    Raises
    ------
    InvalidRequestError
        Something names no column, or nothing is said at all.
    Exception
        What a function of a row raises, with a note that names the row.
    """
    columns = FrameColumns(frame)
    _require_prompt(prompt, extras)
    text = None if prompt is None else _compile_part(prompt, columns, "prompt")
    system = None if extras.system is None else _compile_part(extras.system, columns, "system")
    turns = _compile_column(extras.messages, columns, "messages", parse_conversation)
    pictures = _compile_column(extras.images, columns, "images", parse_images)
    if text is not None and system is turns is pictures is None:
        values = text.columns[0] if callable(prompt) else ()
        plain = text.render is not prompt_from_cell and all(isinstance(value, (str, NoneType)) for value in values)
        return len(columns), RowTemplate(text.columns, Template(text.fields, text.render, text.has_format_specs), plain)
    pieces: list[_PromptPart[Any]] = [piece for piece in (system, turns, pictures, text) if piece is not None]
    whole = _compose([system, turns, pictures, text])
    fields = tuple(dict.fromkeys(name for piece in pieces for name in piece.fields))
    for piece in pieces:
        if piece.has_format_specs:  # tried before anything is sent
            rows = (row for row in zip(*piece.columns, strict=True) if all(value is not None for value in row))
            deque(map(piece.render, rows), maxlen=0)
    columns_used = [column for piece in pieces for column in piece.columns]
    return len(columns), RowTemplate(columns_used, Template(fields, whole), is_plain_text=False)


def constant_system_prompt(system: Any, names: Sequence[str] = ()) -> str | None:
    """Give a system turn that is the same for every row; ``None`` where it is not, or is a column's name.

    Examples
    --------
    >>> constant_system_prompt("Answer in {{}}."), constant_system_prompt("Answer in {language}."), constant_system_prompt("instructions", ["instructions"])
    ('Answer in {}.', None, None)
    """
    if not isinstance(system, str) or system in names:
        return None
    template = parse_template(system, "system")
    return None if template.fields else template.render(())


def _require_prompt(prompt: Any, aside: RowExtras) -> None:
    """Refuse a question without a question, and names of columns that are no names."""
    names: dict[str, Any] = {"messages": aside.messages, "images": aside.images}
    for argument, name in names.items():
        if name is not None and not isinstance(name, str):
            said = f"{type(name).__name__} is no column's name; give {argument}='column'"
            raise BadRequestError(InvalidRequest(path=argument, message=said))
    if prompt is None and aside.messages is None and aside.images is None:
        said = "nothing is asked; give a template such as 'Summarise: {text}', or messages='column'"
        raise BadRequestError(InvalidRequest(path="prompt", message=said))


def _compile_part(said: Any, columns: FrameColumns, argument: str) -> _PromptPart[RowPrompt | InvalidRequest]:
    """Read a template or a function of a row. A function is called here and now, in the caller's thread."""
    if callable(said):
        values = [
            _check_function_value(value, argument, at)
            for at, value in enumerate(map_over_rows(said, columns, argument))
        ]
        return _PromptPart([values], lambda row: row[0])
    if not isinstance(said, str):
        hint = f"{type(said).__name__} is no template; write '{{column}}' for a column, or give a function of a row"
        raise BadRequestError(InvalidRequest(path=argument, message=hint))
    if argument == "system" and said in columns.names:
        return _PromptPart([columns.column(said, argument)], lambda row: str(row[0]), (said,))
    template = parse_template(said, argument)
    held = [columns.column(name, argument) for name in template.fields]
    if argument == "prompt" and is_single_placeholder(said, template.fields) and any(map(is_conversation, held[0])):
        return _PromptPart(held, prompt_from_cell, template.fields)
    return _PromptPart(held, template.render, template.fields, template.has_format_specs)


def is_single_placeholder(prompt: str, fields: Sequence[str]) -> bool:
    """Say whether a template is one column's place and nothing else."""
    return len(fields) == 1 and prompt == f"{{{fields[0]}}}"


def prompt_from_cell(row: RowValues) -> RowPrompt | InvalidRequest:
    """Take a cell that is a conversation as one, and any other as its text."""
    return parse_conversation(row[0]) if is_conversation(row[0]) else str(row[0])


def _check_function_value(value: Any, argument: str, at: int) -> Any:
    """Take what a function of a row gave: a text, a conversation, or ``None``."""
    if value is None or isinstance(value, str):
        return value
    turns: Any = (
        parse_conversation(value)
        if argument == "prompt"
        else InvalidRequest(message=f"{type(value).__name__} is no text")
    )
    if isinstance(turns, InvalidRequest):
        said = f"the function gave, for row {at}, what cannot be asked: {turns.message}"
        raise BadRequestError(InvalidRequest(path=argument, message=said))
    return turns


def _compile_column(
    name: str | None, columns: FrameColumns, argument: str, parse: Callable[[Any], T_co]
) -> _PromptPart[T_co] | None:
    """Read a column whose cells are more than text."""
    if name is None:
        return None
    return _PromptPart([columns.column(name, argument)], lambda row: parse(row[0]), (name,))


def _compose(pieces: Sequence[_PromptPart[Any] | None]) -> Callable[[RowValues], RowPrompt | InvalidRequest]:
    """Put system turn, conversation, pictures and prompt together; the first that is wrong is what is wrong."""
    bounds: list[tuple[int, int]] = []
    end = 0
    for piece in pieces:
        start, end = end, end + (len(piece.columns) if piece else 0)
        bounds.append((start, end))

    def render(values: RowValues) -> RowPrompt | InvalidRequest:
        found = [
            None if piece is None else piece.render(values[start:end])
            for piece, (start, end) in zip(pieces, bounds, strict=True)
        ]
        wrong = next((one for one in found if isinstance(one, InvalidRequest)), None)
        return wrong or _build_messages(*found)

    return render


def _build_messages(
    system: str | None,
    before: tuple[Message, ...] | None,
    pictures: tuple[Image, ...] | None,
    text: str | tuple[Message, ...] | None,
) -> tuple[Message, ...]:
    """Order what is said: system turn, conversation so far, then the user's pictures and text."""
    first = (Message("system", system),) if system else ()
    last: tuple[Message, ...] = ()
    if isinstance(text, tuple):
        last = (Message("user", pictures), *text) if pictures else text
    else:
        said = (Text(text or ""),) if text or not (pictures or before) else ()
        parts: tuple[Part, ...] = (*(pictures or ()), *said)
        last = (Message("user", parts),) if parts else ()
    return (*first, *(before or ()), *last)
