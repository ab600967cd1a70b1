"""``df.llm`` and ``series.llm`` feel like a part of pandas: index, missing values, names and types."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import SimulatorThread
from llmhub.tables.schema import RESULTS
from llmhub.tables.tokenizers import EstimateWarning, MissingVocabulary, VocabularySource, load_encoding

MODEL = "openai/gpt-4o-mini"
BOTH = [MODEL, "anthropic/claude-haiku-4-5"]


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as made:
        yield made


def ask(frame: pd.DataFrame, hub: llmhub.Hub, prompt: str = "Say {t}", **options: Any) -> pd.DataFrame:
    return llmhub.llm(frame).complete(prompt, model=options.pop("model", MODEL), hub=hub, progress=False, **options)


@pytest.mark.parametrize(
    "index",
    [
        pd.Index([3, 1, 2]),
        pd.Index(["b", "b", "a"], name="key"),
        pd.MultiIndex.from_tuples([("x", 1), ("x", 1), ("y", 0)], names=["p", "q"]),
        pd.date_range("2026-01-01", periods=3)[::-1],
        pd.Index([None, "b", "b"]),
    ],
    ids=["any order", "duplicates", "several levels", "dates", "a missing label"],
)
def test_the_index_comes_back_as_it_was(hub: llmhub.Hub, index: pd.Index) -> None:
    frame = pd.DataFrame({"t": ["one", "two", "three"]}, index=index)
    pd.testing.assert_index_equal(ask(frame, hub).index, index)
    long = ask(frame, hub, model=BOTH)
    pd.testing.assert_index_equal(long.index, index[[0, 0, 1, 1, 2, 2]])
    assert long["t"].tolist() == ["one", "one", "two", "two", "three", "three"]
    assert long["provider"].tolist() == ["openai", "anthropic"] * 3


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA, pd.NaT], ids=str)
def test_a_missing_value_is_not_asked_and_never_the_text_nan(
    hub: llmhub.Hub, simulator: SimulatorThread, missing: Any
) -> None:
    frame = pd.DataFrame({"t": pd.Series(["one", missing, "three"], dtype=object)})
    answers = ask(frame, hub)
    assert answers["status"].tolist() == ["ok", "skipped", "ok"]
    assert pd.isna(answers["response"].iloc[1])
    assert simulator.counts()["requests"] == 2


def test_a_missing_value_in_a_column_that_is_not_used_does_not_matter(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["one"], "unused": [None]})
    assert ask(frame, hub)["status"].tolist() == ["ok"]


@pytest.mark.parametrize(
    "values",
    [[1, 2], [1.5, 2.5], [True, False], pd.to_datetime(["2026-01-01", "2026-01-02"]), pd.Categorical(["a", "b"])],
    ids=["whole", "broken", "truth", "dates", "categories"],
)
def test_any_column_can_be_asked(hub: llmhub.Hub, simulator: SimulatorThread, values: Any) -> None:
    assert ask(pd.DataFrame({"t": values}), hub)["status"].tolist() == ["ok", "ok"]
    assert simulator.counts()["unique_prompts"] == 2


def test_a_column_of_several_kinds_is_asked_value_by_value(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": [1, "two", None, 3.5, math.nan]})
    assert ask(frame, hub)["status"].tolist() == ["ok", "ok", "skipped", "ok", "skipped"]


def test_the_frame_itself_is_left_as_it_was(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["one"]})
    frame.attrs["source"] = "here"
    before = frame.copy()
    answers = ask(frame, hub)
    pd.testing.assert_frame_equal(frame, before)
    assert list(answers.columns) == ["t", *RESULTS.names]
    assert answers.attrs == {"source": "here"}
    assert all(isinstance(kind, pd.ArrowDtype) for kind in answers[RESULTS.names].dtypes)


def test_an_empty_frame_gives_an_empty_frame(hub: llmhub.Hub) -> None:
    answers = ask(pd.DataFrame({"t": pd.Series([], dtype=object)}), hub, model=BOTH)
    assert (len(answers), list(answers.columns)) == (0, ["t", *RESULTS.names])


def test_a_column_with_a_result_columns_name_is_refused_before_anything_is_sent(
    hub: llmhub.Hub, simulator: SimulatorThread
) -> None:
    frame = pd.DataFrame({"t": ["one"], "model": ["mine"]})
    with pytest.raises(BadRequestError, match=r"prefix: .*'model'.*prefix='llm_'"):
        ask(frame, hub)
    assert simulator.counts()["requests"] == 0
    answers = ask(frame, hub, prefix="llm_")
    assert answers["model"].tolist() == ["mine"]
    assert answers["llm_model"].tolist() == ["gpt-4o-mini"]


def test_two_columns_of_one_name_cannot_be_asked(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame([["one", "two"]], columns=["t", "t"])
    with pytest.raises(BadRequestError, match="2 columns are named 't'"):
        ask(frame, hub)


def test_several_answers_a_row(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    answers = ask(pd.DataFrame({"t": ["one", "two"]}), hub, n=3)
    assert answers["sample"].tolist() == [0, 1, 2] * 2
    assert simulator.counts()["requests"] == 6
    assert answers["request_key"].nunique() == 6


async def test_asked_in_a_running_loop(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["one"]})
    awaited = await llmhub.llm(frame).acomplete("Say {t}", model=MODEL, hub=hub, progress=False)
    assert awaited["response"].tolist() == ask(frame, hub)["response"].tolist()


def test_a_series_gives_a_series_of_texts(hub: llmhub.Hub) -> None:
    values = pd.Series(["one", None, "[[sim:500 always]]", "four"], index=list("dcba"), name="said")
    quick = llmhub.Hub(endpoints=hub.endpoints, settings=Settings(), retry=llmhub.Retry(attempts=1))
    with quick:
        texts = values.llm.complete("Repeat.", model=MODEL, hub=quick, progress=False)  # type: ignore[attr-defined]
    assert isinstance(texts, pd.Series)
    pd.testing.assert_index_equal(texts.index, values.index)
    assert texts.name == "said"
    assert texts.isna().tolist() == [False, True, True, False]


def test_a_series_value_takes_the_place_of_braces(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    values = pd.Series(["one"])
    inside = values.llm.complete("Repeat {} twice.", model=MODEL, hub=hub, progress=False)  # type: ignore[attr-defined]
    same = llmhub.complete("Repeat one twice.", model=MODEL, hub=hub).text
    assert inside.tolist() == [same]


def test_a_series_takes_one_model_and_one_answer(hub: llmhub.Hub) -> None:
    values = pd.Series(["one"])
    with pytest.raises(BadRequestError, match="use a DataFrame"):
        values.llm.complete("Repeat.", model=BOTH, hub=hub)  # type: ignore[attr-defined]
    with pytest.raises(BadRequestError, match="n: "):
        values.llm.complete("Repeat.", model=MODEL, hub=hub, n=2)  # type: ignore[attr-defined]


def test_the_accessor_is_made_anew_and_holds_nothing_but_the_frame() -> None:
    frame = pd.DataFrame({"t": ["one"]})
    first, second = llmhub.llm(frame), llmhub.llm(frame)
    assert first is not second
    assert vars(first) == {"_frame": frame} or list(vars(first)) == ["_frame"]
    assert "llm" in dir(frame)
    assert not hasattr(frame.llm, "nothing")  # type: ignore[attr-defined]


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(BadRequestError, match=r"frame: list is not a frame; pass a pandas DataFrame"):
        llmhub.llm([1, 2])


def test_tokens_of_a_column_say_whether_they_are_estimates(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["one two three", None]}, index=["a", "b"])
    absent = isinstance(load_encoding("o200k_base", VocabularySource(folder=None)), MissingVocabulary)
    with llmhub.using(hub), warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimateWarning)
        counted = llmhub.llm(frame).count_tokens("t", model=MODEL)
    assert list(counted.index) == ["a", "b"]
    assert 1 <= counted["tokens"].iloc[0] <= 6
    assert pd.isna(counted["tokens"].iloc[1])
    assert counted["estimated"].tolist() == [absent] * 2
