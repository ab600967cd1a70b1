"""Write ``llmhub/_signatures.pyi``: explicit signatures of the functions and methods that take options.

Run ``python -m tests.typing.write_signatures`` after an option was added or its documentation was changed. At run time
`llmhub.api.signatures.shows_options` shows the options; editors and type checkers read this stub instead, because not
all of them expand ``**options: Unpack[...]``.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import llmhub
from llmhub.api.signatures import option_parameters
from llmhub.notebook.accessor import FrameAccessor
from llmhub.notebook.expression import ExprAccessor
from llmhub.notebook.plot_accessor import PLOT_FUNCTIONS, PlotAccessor
from llmhub.notebook.series_accessor import SeriesAccessor

STUB = Path(llmhub.__file__).with_name("_signatures.pyi")
HEADER = '"""All options, for editors and type checkers; written by ``python -m tests.typing.write_signatures``."""\n'
ACCESSORS: tuple[type, ...] = (PlotAccessor, ExprAccessor, SeriesAccessor, FrameAccessor)
TYPE_VARIABLES = {"F", "S"}


def main() -> None:
    STUB.write_text(stub_text(), encoding="utf-8")


def stub_text() -> str:
    """Return the text of the stub."""
    functions = list(_functions_with_options())
    body = [*map(_function_stub, functions), *map(_class_stub, ACCESSORS), _function_stub(llmhub.llm)]
    text = "\n\n".join(body)
    return f"{HEADER}\n{_imports(text, functions)}\n\n{_type_variables()}\n\n{text}\n"


def _functions_with_options() -> Iterator[Callable[..., Any]]:
    """Yield the public functions that take options, in the order of their names."""
    for name in sorted(llmhub.__all__):
        value = getattr(llmhub, name)
        if isinstance(value, FunctionType) and _options_of(value) is not None:
            yield value


def _options_of(function: Callable[..., Any]) -> type | None:
    """Return the typed dictionary of a function's ``**options``; ``None`` if it has none."""
    source = inspect.unwrap(function)
    keywords = [each for each in _own_parameters(source) if each.kind is inspect.Parameter.VAR_KEYWORD]
    if not keywords or not str(keywords[0].annotation).startswith("Unpack["):
        return None
    name = str(keywords[0].annotation).removeprefix("Unpack[").removesuffix("]")
    return typing.cast("type", source.__globals__[name])  # type: ignore[attr-defined]


def _own_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters as they are written."""
    shown = function.__dict__.pop("__signature__", None)
    try:
        return list(inspect.signature(function, follow_wrapped=False).parameters.values())
    finally:
        if shown is not None:
            function.__dict__["__signature__"] = shown


def _function_stub(function: Callable[..., Any], indent: str = "") -> str:
    """Return the definition of a function, or those of its overloads, with all options."""
    source = inspect.unwrap(function)
    overloads = typing.get_overloads(source)
    definitions = [_definition(each, function.__doc__ or "") for each in overloads or [source]]
    mark = "@typing.overload\n" if overloads else ""
    return textwrap.indent("\n".join(f"{mark}{definition}" for definition in definitions), indent)


def _definition(function: Callable[..., Any], doc: str) -> str:
    parameters = _own_parameters(function)
    options = _options_of(function)
    if options is not None:
        parameters = [each for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]
        taken = {each.name for each in parameters}
        parameters += [each for each in option_parameters(options) if each.name not in taken]
    returned = inspect.signature(function, follow_wrapped=False).return_annotation
    prefix = "async def" if inspect.iscoroutinefunction(function) else "def"
    name = function.__name__
    lines = [f"{prefix} {name}("]
    starred = False
    for each in parameters:
        if each.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            starred = True
            lines.append("    *,")
        starred = starred or each.kind is inspect.Parameter.VAR_POSITIONAL
        lines.append(f"    {_parameter(each)},")
    text = inspect.cleandoc(doc).replace("\\", "\\\\")
    docstring = textwrap.indent(f'"""{text}\n"""' if "\n" in text else f'"""{text}"""', "    ") if text else "    ..."
    return "\n".join([*lines, f") -> {returned}:", docstring.replace("    \n", "\n")])


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    annotation = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
    if parameter.default is parameter.empty:
        return f"{stars}{parameter.name}{annotation}"
    is_plain = isinstance(parameter.default, (str, int, float, bool, tuple, type(None)))
    return (
        f"{parameter.name}{annotation} = {parameter.default!r}" if is_plain else f"{parameter.name}{annotation} = ..."
    )


def _class_stub(kind: type) -> str:
    """Return an accessor with its public members."""
    bases = getattr(kind, "__orig_bases__", ())
    base = f"(typing.{bases[0]})".replace("typing.typing.", "typing.").replace("~", "") if bases else ""
    members = []
    for name, value in vars(kind).items():
        if name.startswith("_") and name not in {"__init__", "__call__"}:
            continue
        if isinstance(value, property):
            assert value.fget is not None
            members.append("    @property\n" + _function_stub(value.fget, "    "))
        elif kind is PlotAccessor and name in PLOT_FUNCTIONS:
            members.append(textwrap.indent(_plot_stub(name), "    "))
        elif isinstance(value, FunctionType):
            members.append(_function_stub(value, "    "))
    doc = textwrap.indent(f'"""{(inspect.getdoc(kind) or "").splitlines()[0]}"""', "    ")
    return "\n".join([f"class {kind.__name__}{base}:", doc, "", "\n\n".join(members)])


def _plot_stub(name: str) -> str:
    """Return a plot as a method, without the table."""
    plot = PLOT_FUNCTIONS[name]
    lines = _definition(plot, plot.__doc__ or "").split("\n")
    (table,) = (index for index, line in enumerate(lines) if line.startswith("    table:"))
    return "\n".join([lines[0], "    self,", *lines[1:table], *lines[table + 1 :]])


# Imports


def _imports(text: str, functions: Iterable[Callable[..., Any]]) -> str:
    """Return the imports of all names that annotations use."""
    tree = ast.parse(text)
    defined = {
        node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }
    used = _names_in_annotations(tree) - defined - TYPE_VARIABLES - set(dir(builtins))
    modules = {
        *(inspect.unwrap(function).__module__ for function in functions),
        *(kind.__module__ for kind in ACCESSORS),
        *(plot.__module__ for plot in PLOT_FUNCTIONS.values()),
        "llmhub.api.options",
        "llmhub.evals._compare",
        "llmhub.evals._evaluate",
        llmhub.llm.__module__,
    }
    known: dict[str, str] = {}
    for module in sorted(modules):
        known = {**_importable_names(module), **known}
    lines = sorted({known[name] for name in used if name != "typing"})
    return "\n".join(["import typing", *lines])


def _names_in_annotations(tree: ast.Module) -> set[str]:
    annotations: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = (*node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg)
            annotations += [each.annotation for each in arguments if each is not None and each.annotation is not None]
            annotations += [node.returns] if node.returns is not None else []
    return {name.id for each in annotations for name in ast.walk(each) if isinstance(name, ast.Name)}


def _importable_names(module: str) -> dict[str, str]:
    """Return an import statement for each name that a module imports or defines."""
    source = Path(inspect.getfile(importlib.import_module(module))).read_text(encoding="utf-8")
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                name = alias.asname or alias.name
                names[name] = f"from {node.module} import {alias.name} as {name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name] = f"import {alias.name} as {alias.asname or alias.name}"
    for statement in tree.body:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
            names[statement.name] = f"from {module} import {statement.name} as {statement.name}"
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            names[name] = f"from {module} import {name} as {name}"
    return names


def _type_variables() -> str:
    return "\n".join(f'{name} = typing.TypeVar("{name}")' for name in sorted(TYPE_VARIABLES))


if __name__ == "__main__":
    sys.exit(main())
