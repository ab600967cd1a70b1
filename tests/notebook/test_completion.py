"""Tab and Shift-Tab show every option of a call, the plots, the scorers and the tasks."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jedi  # type: ignore[import-untyped]
import pandas as pd
import pytest

import llmhub
from llmhub import api, plots
from llmhub.api import options
from llmhub.api.signatures import OPTION_DOCS, option_parameters
from llmhub.evals import scorers, tasks
from llmhub.evals._compare import CompareOptions
from llmhub.evals._evaluate import EvaluateOptions
from llmhub.notebook.accessor import FrameAccessor
from llmhub.notebook.series_accessor import SeriesAccessor
from tests.typing import write_signatures

FRAME = pd.DataFrame({"text": ["Hi"]})
FUNCTIONS: dict[Callable[..., Any], type] = {
    **dict.fromkeys(
        (llmhub.complete, llmhub.acomplete, llmhub.try_complete, llmhub.stream, llmhub.astream),
        options.CompletionOptions,
    ),
    **dict.fromkeys((llmhub.complete_table, llmhub.acomplete_table, FrameAccessor.complete), options.TableOptions),
    **dict.fromkeys(
        (llmhub.submit, llmhub.plan, llmhub.stream_table, FrameAccessor.acomplete, FrameAccessor.stream,
         FrameAccessor.submit, FrameAccessor.plan, SeriesAccessor.complete),
        options.RowOptions,
    ),
    FrameAccessor.chat: options.ChatOptions,
    **dict.fromkeys((FrameAccessor.extract, FrameAccessor.classify), options.TypedTableOptions),
    **dict.fromkeys((SeriesAccessor.extract, SeriesAccessor.classify), options.MessageOptions),
    llmhub.compare: CompareOptions,
    llmhub.evaluate: EvaluateOptions,
    **dict.fromkeys((api.map_rows, FrameAccessor.map, SeriesAccessor.map), options.MapOptions),
}  # fmt: skip


def completed(code: str) -> list[str]:
    """Return what Tab offers at the end of a line in a notebook."""
    namespace = {"df": FRAME, "series": FRAME.text, "llmhub": llmhub}
    return [name.name_with_symbols for name in jedi.Interpreter(code, [namespace]).complete()]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: f"{function.__module__}.{function.__qualname__}")
def test_signatures_and_docstrings_show_every_option(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters
    assert not [each for each in parameters.values() if each.kind is inspect.Parameter.VAR_KEYWORD]
    lines = (function.__doc__ or "").split("\n")
    for option in option_parameters(FUNCTIONS[function]):
        assert parameters[option.name].kind is inspect.Parameter.KEYWORD_ONLY
        if option.name != "schema":
            assert f"    {OPTION_DOCS[option.name]}" in lines, option.name


def test_every_option_is_described_and_every_description_is_of_an_option() -> None:
    declared = {
        name
        for each in (*vars(options).values(), CompareOptions, EvaluateOptions)
        if typing.is_typeddict(each) and each.__name__.endswith("Options")
        for name in each.__annotations__
    }
    assert set(OPTION_DOCS) == declared
    assert all(text.endswith(".") and "\n" not in text for text in OPTION_DOCS.values())


@pytest.mark.parametrize(
    "code",
    [
        "df.llm.complete('{text}', ",
        "df.llm.submit(",
        "series.llm.complete(",
        "llmhub.complete(",
        "df.llm.classify(",
        "llmhub.compare(df, ",
        "llmhub.evaluate(df, ",
    ],
)
def test_tab_offers_the_options_of_a_call(code: str) -> None:
    assert {"temperature=", "max_tokens=", "budget_usd=", "model="} <= set(completed(code))


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("llmhub.complete('Hi', ", {"temperature=", "schema=", "cache="}),
        ("llmhub.compare(df, ", {"baseline=", "level=", "temperature="}),
        ("llmhub.evaluate(df, ", {"k=", "temperature="}),
        ("llmhub.plan(df, ", {"pilot=", "max_tokens="}),
        ("llmhub.submit(df, ", {"concurrency="}),
        ("llmhub.llm(df).complete('{text}', ", {"columns=", "budget_usd="}),
        ("llmhub.llm(df).classify('{text}', ", {"labels=", "examples="}),
        ("llmhub.llm(df.text).extract('{}', ", {"schema=", "seed="}),
        ("llmhub.llm(df).plot.cost_by_model(", {"ax="}),
    ],
)
def test_editors_that_run_nothing_offer_the_options(code: str, names: set[str]) -> None:
    script = f"import llmhub\nimport pandas as pd\ndf = pd.DataFrame({{'text': ['Hi']}})\n{code}"
    project = jedi.Project(Path(llmhub.__file__).parents[1])
    assert names <= {each.name_with_symbols for each in jedi.Script(script, project=project).complete()}


def test_the_stub_of_signatures_is_current() -> None:
    message = "run: python -m tests.typing.write_signatures"
    assert write_signatures.STUB.read_text(encoding="utf-8") == write_signatures.stub_text(), message


def test_tab_offers_plots_scorers_and_tasks_and_nothing_foreign() -> None:
    drawn = {name for name in plots.__all__ if "table" in inspect.signature(getattr(plots, name)).parameters}
    assert {name for name in completed("df.llm.plot.") if not name.startswith("_")} == drawn
    for module, own in (("scorers", scorers), ("tasks", tasks)):
        assert {name for name in completed(f"llmhub.{module}.") if not name.startswith("_")} == set(own.__all__)


def test_a_plot_method_has_the_signature_of_its_plot_without_the_table() -> None:
    own = list(inspect.signature(plots.cost_by_model).parameters)
    assert list(inspect.signature(llmhub.llm(FRAME).plot.cost_by_model).parameters) == own[1:]
    with pytest.raises(AttributeError, match="no plot 'pie'; the plots are "):
        FRAME.llm.plot.pie  # noqa: B018 - raises


def test_accessors_say_what_they_are() -> None:
    assert repr(FRAME.llm).startswith("<llmhub methods of a DataFrame: acomplete, chat, classify, complete")
    assert repr(FRAME.text.llm).startswith("<llmhub methods of a Series: classify")
    assert repr(FRAME.llm.plot).startswith("<plots of results: cost_against_latency")


def test_options_that_say_their_default_change_nothing() -> None:
    with llmhub.simulate():
        given: Any = {
            each.name: each.default
            for each in inspect.signature(llmhub.complete).parameters.values()
            if each.name not in ("prompt", "model")
        }
        assert llmhub.complete("Hi", model="openai/gpt-4o-mini", **given).text
        rows: Any = {
            each.name: each.default
            for each in inspect.signature(llmhub.complete_table).parameters.values()
            if each.name not in ("frame", "prompt", "model")
        }
        again = llmhub.complete_table(FRAME, "{text}", model="openai/gpt-4o-mini", **rows).to_pylist()[0]
        assert (again["status"], again["cache_hit"]) == ("ok", True)


def test_options_of_a_comparison_that_say_their_default_change_nothing() -> None:
    frame = pd.DataFrame({"text": ["2+2", "3+3", "4+4"], "target": ["4", "6", "8"]})
    with llmhub.simulate():
        common: Any = {"model": ["openai/gpt-4o-mini", "openai/gpt-4o"]}
        plain = llmhub.compare(frame, "{text}", scorers=[llmhub.scorers.exact()], **common)
        defaults: Any = {
            each.name: each.default
            for each in inspect.signature(llmhub.compare).parameters.values()
            if each.name not in ("frame", "prompt", "model", "scorers")
        }
        given = llmhub.compare(frame, "{text}", scorers=[llmhub.scorers.exact()], **common, **defaults)
    assert given.scores.equals(plain.scores)
    assert given.pairs.equals(plain.pairs)
