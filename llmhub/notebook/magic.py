"""``%load_ext llmhub``: ``%%llm`` asks what a cell says, and ``%llm_config`` sets things up for the kernel."""

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
"""Options of a line: how each is read, and what it says."""
NEST_ASYNCIO: Final = (
    "let asyncio.run(...) work in cells, by nest-asyncio. llmhub itself never needs it. Known limits: cells queued "
    "by 'Run all' may not run after it (ipykernel 7), the whole process gets a slower asyncio, and uvloop cannot be "
    "patched."
)
LLM: Final = """Ask what the cell says: of a model, or, with --df, of every row of a frame. The body is the prompt: with
--df a template over its columns, else taken as it is. The answer is shown, or with --out put into a variable instead.
Examples: %%llm openai/gpt-4o-mini --temperature 0
          %%llm --df reviews --out answers -m openai/gpt-4o-mini -m anthropic/claude-haiku-4-5"""
PARAMETERS: Final[Options] = {
    "temperature": (float, "how freely it chooses its words"),
    "top_p": (float, "share of likely words it chooses from"),
    "top_k": (int, "number of likely words it chooses from"),
    "max_tokens": (int, "tokens of an answer at most"),
    "seed": (int, "number that makes answers alike, where a provider can"),
    "presence_penalty": (float, "how much it avoids what it spoke of"),
    "frequency_penalty": (float, "how much it avoids what it said often"),
    "reasoning_effort": (str, "how hard it thinks"),
    "reasoning_budget": (int, "tokens to think"),
}
"""Parameters of an answer that stand on the line."""
VARIABLES: Final[Mapping[str, str]] = {
    "schema": "variable that holds a pydantic model, dataclass or JSON schema, which answers must fit",
    "tools": "variable that holds a list of tools",
    "hub": "variable that holds a Hub",
}
"""What stands on the line as a variable's name."""
OF_CALLS: Final[Options] = {"budget_usd": (float, "what the cell may cost at most")}
OF_HUBS: Final[Options] = {
    "cache": (str, "address or path of the cache; none for no cache"),
    "budget_usd": (float, "what all calls together may cost"),
    "concurrency": (int, "calls under way at once"),
}
"""What `%llm_config` says of all calls."""
OF_FRAMES: Final[Options] = {
    "n": (int, "answers a row"),
    "concurrency": (int, "calls under way at once"),
    "images": (str, "column of pictures"),
    "messages": (str, "column of ready conversations"),
    "prefix": (str, "what stands before the names of the result columns"),
    "n_jobs": (int, "processes"),
}
"""What only --df takes."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as an exception: in a notebook nothing may end the process."""

    def error(self, message: str) -> NoReturn:
        """Say it, without a traceback."""
        raise _usage(f"{self.prog}: {message}; {self.prog} -h says what there is")


@dataclass(slots=True)
class _Defaults:
    """What ``%llm_config`` set for this kernel's cells."""

    models: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Say what is set, and who can be asked; no key is shown."""
        hub = api.current_hub()
        said = {
            "model": ", ".join(self.models) or "none; name one on the line",
            **{name: str(value) for name, value in self.parameters.items()},
            "cache": "none" if hub.cache is None else str(getattr(hub.cache, "path", type(hub.cache).__name__)),
            "budget": "none" if hub.budget_usd is None else f"{hub.budget_usd} USD",
            "providers": ", ".join(hub.available_providers()) or "none; set a key, or run `llmhub doctor`",
        }
        return "\n".join(f"{name:<18} {value}" for name, value in said.items())


def load_ipython_extension(shell: Any) -> None:
    """Register the magics with an IPython shell."""
    magics = _Magics(shell, _Defaults())
    shell.register_magic_function(magics.llm, "cell", "llm")
    shell.register_magic_function(magics.llm_config, "line", "llm_config")


def unload_ipython_extension(shell: Any) -> None:
    """Take the magics away again."""
    for kind, name in (("cell", "llm"), ("line", "llm_config")):
        shell.magics_manager.magics[kind].pop(name, None)


class _Magics:
    """The magics of one shell."""

    def __init__(self, shell: Any, defaults: _Defaults) -> None:
        self._shell = shell
        self._defaults = defaults

    def llm(self, line: str, cell: str) -> Any:
        """Ask what a cell says; ``%%llm -h`` says how."""
        given = _parsed(_llm_parser(), line)
        if given is None:
            return None
        models = [*given.models, *given.model] or list(self._defaults.models)
        if not models:
            raise _usage(
                "%%llm: no model; write %%llm provider/model, or set one by %llm_config --model provider/model"
            )
        _expect_name(given.out)
        options = {**self._defaults.parameters, **_said(given, [*PARAMETERS, *OF_CALLS, "system"])}
        options |= {name: self._variable(given, name) for name in VARIABLES if getattr(given, name)}
        found = self._rows(given, cell, models, options) if given.df else self._one(given, cell, models, options)
        if given.out:
            self._shell.user_ns[given.out] = found
        return None if given.out or (given.stream and not given.df) else found

    def _rows(self, given: argparse.Namespace, cell: str, models: Sequence[str], options: dict[str, Any]) -> Any:
        """Run the cell over a frame."""
        from llmhub.notebook.accessor import llm  # noqa: PLC0415 - loads Arrow

        frame: Any = llm(self._variable(given, "df"))
        options |= _said(given, OF_FRAMES) | ({"stream": True} if given.stream else {})
        options |= {"progress": False} if given.no_progress else {}
        asked: dict[str, Any] = {"model": models[0] if len(models) == 1 else models}
        if given.plan:
            left = {name: value for name, value in options.items() if name not in {"prefix", "n_jobs", "progress"}}
            return frame.plan(cell.strip("\n") or None, **asked, **left)
        return frame.complete(cell.strip("\n") or None, **asked, **options)

    def _one(self, given: argparse.Namespace, cell: str, models: Sequence[str], options: dict[str, Any]) -> Any:
        """Ask what the cell says."""
        alone = next((name for name in (*OF_FRAMES, "plan") if getattr(given, name) not in (None, False)), None)
        if alone is not None:
            raise _usage(f"%%llm: --{alone.replace('_', '-')} is for frames; give --df name, too")
        if len(models) > 1:
            raise _usage("%%llm: several models are for frames; give --df name, too, or one model")
        if "schema" in options:
            options["response_schema"] = options.pop("schema")
        prompt = (self._filled(cell) if given.fill else cell).strip("\n")
        if given.stream:
            return _streamed(prompt, models[0], options)
        return api.complete(prompt, model=models[0], **options)

    def _filled(self, cell: str) -> str:
        """Put variables in the place of ``{name}``."""
        from llmhub.tables.templates import parse_template  # noqa: PLC0415 - only here

        template = parse_template(cell, "--fill")
        there = self._shell.user_ns
        missing = next((name for name in template.fields if name not in there), None)
        if missing is not None:
            raise _usage(f"%%llm --fill: there is no variable {missing!r}")
        return template.render(tuple(there[name] for name in template.fields))

    def _variable(self, given: argparse.Namespace, argument: str) -> Any:
        name = getattr(given, argument)
        if name not in self._shell.user_ns:
            raise _usage(f"%%llm --{argument}: there is no variable {name!r}")
        return self._shell.user_ns[name]

    def llm_config(self, line: str) -> Any:
        """Set up llmhub in this kernel, and show how it is set up; ``%llm_config -h`` says what there is."""
        given = _parsed(_config_parser(), line)
        if given is None:
            return None
        if given.nest_asyncio:
            import nest_asyncio  # noqa: PLC0415 - it patches asyncio, so only on request

            nest_asyncio.apply()
        if given.reset:
            self._defaults.models, self._defaults.parameters = (), {}
            api.configure(None)
        self._defaults.models = tuple(given.model) or self._defaults.models
        self._defaults.parameters |= _said(given, PARAMETERS)
        changes = _said(given, OF_HUBS) | ({"cache": None} if given.cache == "none" else {})
        if changes:
            api.configure(replace(api.current_hub(), **changes))
        return self._defaults


# The line is the prompt's: a brace in it is a column's place, not Python's.
for _magic in (_Magics.llm, _Magics.llm_config):
    vars(_magic)["_ipython_magic_no_var_expand"] = True  # IPython's own mark


def _streamed(prompt: str, model: str, options: dict[str, Any]) -> Any:
    """Print an answer as it comes, control characters made visible, and give it whole."""
    response = None
    for chunk in api.stream(prompt, model=model, **options):
        sys.stdout.write(escape_control_characters(chunk.text))
        sys.stdout.flush()
        response = chunk.response or response
    sys.stdout.write("\n")
    return response


def _llm_parser() -> _Parser:
    parser = _parser("%%llm", LLM)
    parser.add_argument("models", nargs="*", metavar="provider/model", help="whom to ask")
    parser.add_argument("-m", "--model", action="append", default=[], help="whom to ask (repeatable)")
    parser.add_argument("-o", "--out", metavar="NAME", help="variable that the answer is put into, instead of shown")
    parser.add_argument("-d", "--df", metavar="NAME", help="variable that holds a frame; the cell is asked of each row")
    parser.add_argument("-s", "--system", help="system turn; with --df a template over the columns")
    for name, about in VARIABLES.items():
        parser.add_argument(f"--{name}", metavar="NAME", help=about)
    parser.add_argument("-f", "--fill", action="store_true", help="put variables in the place of {name} (without --df)")
    parser.add_argument("--stream", action="store_true", help="print the answer as it comes; with --df, time words")
    parser.add_argument("--plan", action="store_true", help="with --df: say what it would cost, and send nothing")
    parser.add_argument("--no-progress", action="store_true", help="with --df: show no progress")
    _add(parser, {**PARAMETERS, **OF_CALLS})
    _add(parser, OF_FRAMES, "with --df: ")
    return parser


def _config_parser() -> _Parser:
    parser = _parser("%llm_config", "Set up llmhub in this kernel, and show how it is set up.")
    parser.add_argument("-m", "--model", action="append", default=[], help="whom %%%%llm asks unless told (repeatable)")
    _add(parser, PARAMETERS)
    _add(parser, OF_HUBS, "from now on: ")
    parser.add_argument("--reset", action="store_true", help="forget what was set; back to what the environment says")
    parser.add_argument("--nest-asyncio", action="store_true", help=NEST_ASYNCIO)
    return parser


def _parser(name: str, about: str) -> _Parser:
    made = argparse.RawDescriptionHelpFormatter
    return _Parser(prog=name, description=about.replace("%", "%%"), exit_on_error=False, formatter_class=made)


def _add(parser: _Parser, options: Options, before: str = "") -> None:
    """Add an option for each name, written with hyphens."""
    for name, (kind, about) in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=kind, help=before + about)


def _parsed(parser: _Parser, line: str) -> argparse.Namespace | None:
    """Read a line; ``None`` where it asked for help, which is then shown."""
    try:
        return parser.parse_args(shlex.split(line))
    except SystemExit:  # argparse's way to end after its help
        return None
    except (ValueError, argparse.ArgumentError) as bad:
        raise _usage(f"{parser.prog}: {bad}; {parser.prog} -h says what there is") from bad


def _said(given: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Give the options that were said."""
    return {name: value for name in names if (value := getattr(given, name)) is not None}


def _expect_name(name: str | None) -> None:
    if name is not None and not name.isidentifier():
        raise _usage(f"%%llm --out: {name!r} is no variable's name")


def _usage(said: str) -> Exception:
    """Make what IPython shows as a line without a traceback."""
    from IPython.core.error import UsageError  # noqa: PLC0415 - there is a shell, so it is there

    wrong: Exception = UsageError(said)
    return wrong
