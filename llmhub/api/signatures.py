"""Signatures and docstrings of functions that take options, generated from the typed dictionaries of the options.

Functions take ``**options: Unpack[SomeOptions]``, which type checkers expand. `shows_options` expands it at run time as
well, so that Tab and Shift-Tab in a notebook, ``help`` and `inspect.signature` show every option with one line of
documentation. Each option is described once, in `OPTION_DOCS`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from inspect import Parameter, Signature
from typing import Any, Final, ForwardRef, TypeVar

from llmhub.core.errors import ConnectorError
from llmhub.formatting.tracebacks import is_user_file

F = TypeVar("F", bound=Callable[..., Any])

OPTION_DOCS: Final[Mapping[str, str]] = {
    "target": "Column with the reference answer, for scorers that do not name one.",
    "scores": "Columns of a finished table that hold scores, instead of ``scorers``.",
    "response": "Column of a finished table with the answers to score, if it is not found by itself.",
    "group": "Column whose equal values form one cluster, such as the paragraph that several questions are about.",
    "baseline": "Model that the others are compared with, instead of every pair.",
    "failures": '``"wrong"`` to count a failed row as the worst score, or ``"left_out"``.',
    "level": "Confidence level of intervals and tests.",
    "power": "Power that minimum detectable effects and ``rows_needed`` are for.",
    "resamples": "Number of resamples of bootstrap intervals and permutation tests.",
    "random_state": "Seed of our own random numbers: the order of calls, and resamples.",
    "test": 'Test of graded or clustered scores: ``"studentised"``, ``"permutation"`` or ``"wilcoxon"``.',
    "k": "Values of pass@k if ``n`` is above 1; powers of two up to ``n`` if omitted.",
    "system": "System message; for rows, a template, the name of a column or a function of the row.",
    "messages": "Name of a column of conversations, which precede the prompt.",
    "images": "Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.",
    "examples": "Few-shot examples: pairs of input and output, mappings with both, or a frame.",
    "schema": "Pydantic model, dataclass or JSON schema that responses must match.",
    "response_schema": "Schema to request; a single call parses it like ``schema``, rows are not checked against it.",
    "n": "Responses per row.",
    "temperature": "Sampling temperature; 0 for the most likely tokens.",
    "top_p": "Sample from the most likely tokens whose probabilities add up to this.",
    "top_k": "Sample from this many of the most likely tokens.",
    "max_tokens": "Maximum tokens of a response, reasoning included.",
    "stop": "Text, or several, that ends a response.",
    "seed": "Seed of the model's sampling, where the provider supports one.",
    "presence_penalty": "Penalty for tokens that have occurred.",
    "frequency_penalty": "Penalty for tokens by how often they have occurred.",
    "tools": "Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.",
    "max_turns": "Maximum responses of the model in one conversation with tools (5).",
    "tool_executor": "Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.",
    "tool_choice": "``auto``, ``none``, ``required``, or the name of a tool.",
    "parallel_tool_calls": "Whether the model may call several tools at once.",
    "logprobs": "Return log probabilities, with this many alternatives per token.",
    "reasoning_effort": "How much a reasoning model thinks, such as ``low`` or ``high``.",
    "reasoning_budget": "Maximum tokens of reasoning.",
    "user": "Pseudonymous id of your end user, for providers that accept one.",
    "dimensions": "Length of the vectors; the model's own by default.",
    "kind": '``"document"`` or ``"query"``, for models that embed them differently.',
    "batch_size": "Maximum texts of a request; fewer where the provider's limits are lower (256).",
    "extra": "Fields of the provider's own API, merged into the payload last.",
    "unsupported": '``"error"``, or ``"drop"`` to omit parameters that the provider does not support.',
    "budget_usd": "Maximum cost in US dollars; calls that could exceed it are not sent.",
    "allow_unpriced": "Whether models without a known price may be called in spite of a budget; they do not count.",
    "cache": "Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.",
    "concurrency": "Maximum number of calls in flight.",
    "progress": "Whether to show progress, or a function to call with it; by default where a person watches.",
    "on_error": '``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.',
    "stream": "Stream responses to measure the time to the first token.",
    "n_jobs": "Number of processes (see `complete_parallel`).",
    "mode": '``"live"``, or ``"batch"`` to send rows through the provider\'s Batch API, cheaper and within a day.',
    "late": 'Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.',
    "deadline": 'When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.',
    "poll_s": "Seconds between the first two polls of a batch; the time grows to five minutes (30).",
    "batch_tokens": "Estimated prompt tokens of one batch, at most.",
    "batch_storage": "Object storage (``s3://bucket/folder``), for providers that read batches from there.",
    "batch_role": "ARN of the role that may read and write the storage.",
    "engine": '``"ray"``, ``"spark"``, ``"dask"`` or ``"joblib"``, whose workers send the rows.',
}
"""One line of documentation for each option, in the order in which signatures list them."""
OPTION_DEFAULTS: Final[Mapping[str, Any]] = {
    "n": 1,
    "n_jobs": 1,
    "stop": (),
    "tools": (),
    "unsupported": "error",
    "allow_unpriced": False,
    "on_error": "row",
    "mode": "live",
    "late": "wait",
    "stream": False,
    "scores": (),
    "failures": "wrong",
    "level": 0.95,
    "power": 0.8,
    "resamples": 10_000,
    "random_state": 0,
    "test": "studentised",
}
"""Defaults other than ``None``."""
SECTIONS: Final = frozenset({"Returns", "Yields", "Raises", "Warns", "Examples", "Notes", "See Also"})


def shows_options(options: type) -> Callable[[F], F]:
    """Return a decorator that lists the options of a typed dictionary in the signature and docstring of a function.

    Examples
    --------
    >>> from typing import TypedDict
    >>> class Options(TypedDict, total=False):
    ...     n: int
    >>> @shows_options(Options)
    ... def complete(prompt, **options):
    ...     '''Send a prompt.'''
    >>> inspect.signature(complete)
    <Signature (prompt, *, n: 'int' = 1)>
    >>> "Responses per row." in complete.__doc__
    True
    """

    def decorate(function: F) -> F:
        own = [
            parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is not Parameter.VAR_KEYWORD
        ]
        taken = {parameter.name for parameter in own}
        added = [parameter for parameter in option_parameters(options) if parameter.name not in taken]
        target: Any = _with_short_tracebacks(function)
        target.__signature__ = Signature(
            [*own, *added], return_annotation=inspect.signature(function).return_annotation
        )
        if function.__doc__:
            target.__doc__ = _with_options(inspect.cleandoc(function.__doc__), added)
        decorated: F = target
        return decorated

    return decorate


def _with_short_tracebacks(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose `ConnectorError` exceptions begin here: frames below are llmhub's, not the caller's.

    A missing ``model`` is passed on as ``None``, so that the function can name it and suggest what was meant instead.
    """
    defaults = {
        name: None
        for name, parameter in inspect.signature(function).parameters.items()
        if name == "model" and parameter.kind is Parameter.KEYWORD_ONLY and parameter.default is Parameter.empty
    }
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return function
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def awaited(*args: Any, **options: Any) -> Any:
            try:
                return await function(*args, **{**defaults, **options})
            except ConnectorError as error:
                raise shortened(error)  # noqa: B904 - the same exception

        return awaited

    @wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **{**defaults, **options})
        except ConnectorError as error:
            raise shortened(error)  # noqa: B904 - the same exception

    return called


def shortened(error: ConnectorError) -> ConnectorError:
    """Return an exception without the innermost frames, unless some of them are the user's, such as a row function."""
    traceback = error.__traceback__
    while traceback is not None:
        if is_user_file(traceback.tb_frame.f_code.co_filename):
            return error
        traceback = traceback.tb_next
    return error.with_traceback(None)


def option_parameters(options: type) -> list[Parameter]:
    """Return the options of a typed dictionary as keyword parameters, in the order of `OPTION_DOCS`."""
    annotations = options.__annotations__
    names = [*(name for name in OPTION_DOCS if name in annotations), *(set(annotations) - set(OPTION_DOCS))]
    return [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=OPTION_DEFAULTS.get(name),
            annotation=_annotation_text(annotations[name], optional=OPTION_DEFAULTS.get(name) is None),
        )
        for name in names
    ]


def _annotation_text(annotation: Any, *, optional: bool) -> str:
    text = annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else str(annotation)
    return f"{text} | None" if optional and not text.endswith("None") and text != "Any" else text


def _with_options(text: str, options: Iterable[Parameter]) -> str:
    """Return a docstring with the options in the place of ``**options``, or in a section of their own."""
    entries = [
        line
        for option in options
        for line in (f"{option.name} : {option.annotation}", f"    {OPTION_DOCS.get(option.name, '')}")
    ]
    lines = text.split("\n")
    start = next((index for index, line in enumerate(lines) if line.endswith("**options") and line[0] != " "), None)
    if start is None:
        own = lines.index("Parameters") + 1 if "Parameters" in lines else 0
        end = next((index for index in range(own, len(lines)) if lines[index] in SECTIONS), len(lines))
        section = [*entries, ""] if own else ["", "Parameters", "----------", *entries, ""]
        while end and not lines[end - 1]:
            end -= 1
        return "\n".join([*lines[:end], *section, *lines[end:]]).replace("\n\n\n", "\n\n").rstrip("\n")
    end = next((index for index in range(start + 1, len(lines)) if lines[index][:1] not in {" ", ""}), len(lines))
    while not lines[end - 1]:
        end -= 1
    header = lines[start].removesuffix("**options").rstrip(", ")
    kept = [header, *lines[start + 1 : end]] if header else []
    return "\n".join([*lines[:start], *kept, *entries, *lines[end:]])


def renamed_arguments(**names: str) -> Callable[[F], F]:
    """Return a decorator that accepts former names of keyword arguments, with a `DeprecationWarning`.

    Parameters
    ----------
    **names
        Name of today, by former name.

    Examples
    --------
    >>> @renamed_arguments(models="model")
    ... def compare(*, model):
    ...     return model
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     compare(models="openai/gpt-4o"), str(caught[0].message)
    ('openai/gpt-4o', 'compare: models= is now model=; the former name will be removed')
    """

    def decorate(function: F) -> F:
        @wraps(function)
        def called(*args: Any, **options: Any) -> Any:
            for former, name in names.items():
                if former in options and name not in options:
                    message = f"{function.__name__}: {former}= is now {name}=; the former name will be removed"
                    warnings.warn(message, DeprecationWarning, stacklevel=2)
                    options[name] = options.pop(former)
            return function(*args, **options)

        decorated: Any = called
        result: F = decorated
        return result

    return decorate
