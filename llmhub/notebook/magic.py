"""IPython magics of ``%load_ext llmhub``: ``%%llm`` sends a cell as a prompt, ``%llm_config`` sets defaults.

Errors are raised as IPython's ``UsageError``, which is displayed as one line without a traceback.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn, TypeAlias

from llmhub import api
from llmhub.formatting.text import escape_control_characters

Options: TypeAlias = Mapping[str, tuple[Callable[[str], Any], str]]
"""Options of a magic: type and help text by name."""
NEST_ASYNCIO_HELP: Final = (
    "make asyncio.run(...) work in cells with nest-asyncio; llmhub does not need it. Known limits: cells queued by "
    "'Run all' may not run afterwards (ipykernel 7), asyncio is slower in the whole process, and uvloop cannot be "
    "patched."
)
LLM_DESCRIPTION: Final = """Send the cell as a prompt to a model, or, with --df, for every row of a frame.
With --df the cell is a template over the columns, otherwise it is sent as it is. The response is displayed, or assigned
to a variable with --out.
Examples: %%llm openai/gpt-4o-mini --temperature 0
          %%llm --df reviews --out answers -m openai/gpt-4o-mini -m anthropic/claude-haiku-4-5"""
REQUEST_OPTIONS: Final[Options] = {
    "temperature": (float, "sampling temperature"),
    "top_p": (float, "nucleus sampling: cumulative probability of candidate tokens"),
    "top_k": (int, "number of candidate tokens"),
    "max_tokens": (int, "maximum output tokens"),
    "seed": (int, "seed, for providers that accept one"),
    "presence_penalty": (float, "penalty on tokens that have occurred"),
    "frequency_penalty": (float, "penalty on tokens by their frequency"),
    "reasoning_effort": (str, "reasoning effort"),
    "reasoning_budget": (int, "maximum reasoning tokens"),
}
"""Request parameters."""
VARIABLE_OPTIONS: Final[Mapping[str, str]] = {
    "schema": "variable with a pydantic model, dataclass or JSON schema that responses must match",
    "tools": "variable with a list of tools",
    "hub": "variable with a Hub",
}
"""Options whose value is the name of a variable."""
CALL_OPTIONS: Final[Options] = {"budget_usd": (float, "maximum cost of the cell in US dollars")}
HUB_OPTIONS: Final[Options] = {
    "cache": (str, "URL or path of the cache; none for no cache"),
    "budget_usd": (float, "maximum cost of all calls in US dollars"),
    "concurrency": (int, "maximum number of calls in flight"),
}
"""Options of `%llm_config` that are set on the default hub."""
FRAME_OPTIONS: Final[Options] = {
    "n": (int, "responses per row"),
    "concurrency": (int, "maximum number of calls in flight"),
    "images": (str, "column of images"),
    "messages": (str, "column of conversations"),
    "prefix": (str, "prefix of the result columns"),
    "n_jobs": (int, "number of processes"),
}
"""Options that need --df."""


class _Parser(argparse.ArgumentParser):
    """Parser that raises usage errors instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise a usage error."""
        raise _usage_error(f"{self.prog}: {message}; see {self.prog} -h")


@dataclass(slots=True)
class _Defaults:
    """Defaults for the cells of this kernel, set by ``%llm_config``."""

    models: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the settings and the available providers, without credentials."""
        hub = api.current_hub()
        settings = {
            "model": ", ".join(self.models) or "none; pass one in the cell",
            **{name: str(value) for name, value in self.parameters.items()},
            "cache": "none" if hub.cache is None else str(getattr(hub.cache, "path", type(hub.cache).__name__)),
            "budget": "none" if hub.budget_usd is None else f"{hub.budget_usd} USD",
            "providers": ", ".join(hub.available_providers()) or "none; set a key, or run `llmhub doctor`",
        }
        return "\n".join(f"{name:<18} {value}" for name, value in settings.items())


def load_ipython_extension(shell: Any) -> None:
    """Register the magics with an IPython shell."""
    magics = _Magics(shell, _Defaults())
    shell.register_magic_function(magics.llm, "cell", "llm")
    shell.register_magic_function(magics.llm_config, "line", "llm_config")


def unload_ipython_extension(shell: Any) -> None:
    """Remove the magics from the shell."""
    for kind, name in (("cell", "llm"), ("line", "llm_config")):
        shell.magics_manager.magics[kind].pop(name, None)


class _Magics:
    """Magics of one IPython shell."""

    def __init__(self, shell: Any, defaults: _Defaults) -> None:
        self._shell = shell
        self._defaults = defaults

    def llm(self, line: str, cell: str) -> Any:
        """Send a cell as a prompt, and return the response (see ``%%llm -h``)."""
        args = _parse(_llm_parser(), line)
        if args is None:
            return None
        models = [*args.models, *args.model] or list(self._defaults.models)
        if not models:
            raise _usage_error(
                "%%llm: no model; pass %%llm provider/model, or set one with %llm_config --model provider/model"
            )
        _require_identifier(args.out)
        options = {**self._defaults.parameters, **_set_options(args, [*REQUEST_OPTIONS, *CALL_OPTIONS, "system"])}
        options |= {name: self._variable(args, name) for name in VARIABLE_OPTIONS if getattr(args, name)}
        result = (
            self._complete_frame(args, cell, models, options)
            if args.df
            else self._complete(args, cell, models, options)
        )
        if args.out:
            self._shell.user_ns[args.out] = result
        return None if args.out or (args.stream and not args.df) else result

    def _complete_frame(
        self, args: argparse.Namespace, cell: str, models: Sequence[str], options: dict[str, Any]
    ) -> Any:
        """Send the cell as a template for every row of a frame."""
        from llmhub.notebook.accessor import llm  # noqa: PLC0415 - loads Arrow

        frame: Any = llm(self._variable(args, "df"))
        options |= _set_options(args, FRAME_OPTIONS) | ({"stream": True} if args.stream else {})
        options |= {"progress": False} if args.no_progress else {}
        model: dict[str, Any] = {"model": models[0] if len(models) == 1 else models}
        if args.plan:
            plan_options = {
                name: value for name, value in options.items() if name not in {"prefix", "n_jobs", "progress"}
            }
            return frame.plan(cell.strip("\n") or None, **model, **plan_options)
        return frame.complete(cell.strip("\n") or None, **model, **options)

    def _complete(self, args: argparse.Namespace, cell: str, models: Sequence[str], options: dict[str, Any]) -> Any:
        """Send the cell as one prompt."""
        frame_option = next(
            (name for name in (*FRAME_OPTIONS, "plan") if getattr(args, name) not in (None, False)), None
        )
        if frame_option is not None:
            raise _usage_error(f"%%llm: --{frame_option.replace('_', '-')} needs --df NAME")
        if len(models) > 1:
            raise _usage_error("%%llm: several models need --df NAME; pass one model otherwise")
        if "schema" in options:
            options["response_schema"] = options.pop("schema")
        prompt = (self._fill(cell) if args.fill else cell).strip("\n")
        if args.stream:
            return _print_stream(prompt, models[0], options)
        return api.complete(prompt, model=models[0], **options)

    def _fill(self, cell: str) -> str:
        """Replace ``{name}`` by variables."""
        from llmhub.tables.templates import parse_template  # noqa: PLC0415 - only here

        template = parse_template(cell, "--fill")
        variables = self._shell.user_ns
        missing = next((name for name in template.fields if name not in variables), None)
        if missing is not None:
            raise _usage_error(f"%%llm --fill: no variable {missing!r}")
        return template.render(tuple(variables[name] for name in template.fields))

    def _variable(self, args: argparse.Namespace, argument: str) -> Any:
        name = getattr(args, argument)
        if name not in self._shell.user_ns:
            raise _usage_error(f"%%llm --{argument}: no variable {name!r}")
        return self._shell.user_ns[name]

    def llm_config(self, line: str) -> Any:
        """Set defaults for this kernel, and return them (see ``%llm_config -h``)."""
        args = _parse(_config_parser(), line)
        if args is None:
            return None
        if args.nest_asyncio:
            import nest_asyncio  # noqa: PLC0415 - it patches asyncio, so only on request

            nest_asyncio.apply()
        if args.reset:
            self._defaults.models, self._defaults.parameters = (), {}
            api.configure(None)
        self._defaults.models = tuple(args.model) or self._defaults.models
        self._defaults.parameters |= _set_options(args, REQUEST_OPTIONS)
        changes = _set_options(args, HUB_OPTIONS) | ({"cache": None} if args.cache == "none" else {})
        if changes:
            api.configure(replace(api.current_hub(), **changes))
        return self._defaults


# Without this attribute IPython would replace {column} in a template by a variable.
for _magic in (_Magics.llm, _Magics.llm_config):
    vars(_magic)["_ipython_magic_no_var_expand"] = True


def _print_stream(prompt: str, model: str, options: dict[str, Any]) -> Any:
    """Print a response while it arrives, with control characters escaped, and return it."""
    response = None
    for chunk in api.stream(prompt, model=model, **options):
        sys.stdout.write(escape_control_characters(chunk.text))
        sys.stdout.flush()
        response = chunk.response or response
    sys.stdout.write("\n")
    return response


def _llm_parser() -> _Parser:
    parser = _parser("%%llm", LLM_DESCRIPTION)
    parser.add_argument("models", nargs="*", metavar="provider/model", help="model to call")
    parser.add_argument("-m", "--model", action="append", default=[], help="model to call (may be repeated)")
    parser.add_argument(
        "-o", "--out", metavar="NAME", help="assign the response to this variable instead of displaying it"
    )
    parser.add_argument("-d", "--df", metavar="NAME", help="variable with a frame; the cell is sent for each row")
    parser.add_argument("-s", "--system", help="system message; with --df a template over the columns")
    for name, help_text in VARIABLE_OPTIONS.items():
        parser.add_argument(f"--{name}", metavar="NAME", help=help_text)
    parser.add_argument("-f", "--fill", action="store_true", help="replace {name} by variables (without --df)")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="print the response while it arrives; with --df, measure the time to the first token",
    )
    parser.add_argument("--plan", action="store_true", help="with --df: estimate the cost, and send nothing")
    parser.add_argument("--no-progress", action="store_true", help="with --df: show no progress")
    _add(parser, {**REQUEST_OPTIONS, **CALL_OPTIONS})
    _add(parser, FRAME_OPTIONS, "with --df: ")
    return parser


def _config_parser() -> _Parser:
    parser = _parser("%llm_config", "Set defaults for this kernel, and show them.")
    parser.add_argument("-m", "--model", action="append", default=[], help="default model of %%%%llm (may be repeated)")
    _add(parser, REQUEST_OPTIONS)
    _add(parser, HUB_OPTIONS, "all calls: ")
    parser.add_argument("--reset", action="store_true", help="restore the defaults of the environment")
    parser.add_argument("--nest-asyncio", action="store_true", help=NEST_ASYNCIO_HELP)
    return parser


def _parser(name: str, description: str) -> _Parser:
    formatter = argparse.RawDescriptionHelpFormatter
    return _Parser(prog=name, description=description, exit_on_error=False, formatter_class=formatter)


def _add(parser: _Parser, options: Options, prefix: str = "") -> None:
    """Add an option for each name, with hyphens for underscores."""
    for name, (type_, help_text) in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=type_, help=prefix + help_text)


def _parse(parser: _Parser, line: str) -> argparse.Namespace | None:
    """Parse a line; return ``None`` if it asked for help, which is printed."""
    try:
        return parser.parse_args(shlex.split(line))
    except SystemExit:  # raised by argparse after printing help
        return None
    except (ValueError, argparse.ArgumentError) as error:
        raise _usage_error(f"{parser.prog}: {error}; see {parser.prog} -h") from error


def _set_options(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return the options that were set."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _require_identifier(name: str | None) -> None:
    if name is not None and not name.isidentifier():
        raise _usage_error(f"%%llm --out: {name!r} is not a variable name")


def _usage_error(message: str) -> Exception:
    """Return the exception that IPython displays as one line without a traceback."""
    from IPython.core.error import UsageError  # noqa: PLC0415 - a shell exists, so IPython is imported

    error: Exception = UsageError(message)
    return error
