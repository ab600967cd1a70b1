"""``df.llm`` and ``series.llm`` in pandas: index, missing values, names and types."""

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
from llmhub.tables.result_frames import COMPACT_COLUMNS
from llmhub.tables.tokenizers import EstimateWarning, MissingVocabulary, VocabularySource, load_encoding

MODEL = "openai/gpt-4o-mini"
BOTH = [MODEL, "anthropic/claude-haiku-4-5"]


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as open_hub:
        yield open_hub


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
def test_index_is_preserved(hub: llmhub.Hub, index: pd.Index) -> None:
    frame = pd.DataFrame({"t": ["one", "two", "three"]}, index=index)
    pd.testing.assert_index_equal(ask(frame, hub).index, index)
    long = ask(frame, hub, model=BOTH)
    pd.testing.assert_index_equal(long.index, index[[0, 0, 1, 1, 2, 2]])
    assert long["t"].tolist() == ["one", "one", "two", "two", "three", "three"]
    assert long["provider"].tolist() == ["openai", "anthropic"] * 3


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA, pd.NaT], ids=str)
def test_missing_value_is_skipped(hub: llmhub.Hub, simulator: SimulatorThread, missing: Any) -> None:
    frame = pd.DataFrame({"t": pd.Series(["one", missing, "three"], dtype=object)})
    answers = ask(frame, hub)
    assert answers["status"].tolist() == ["ok", "skipped", "ok"]
    assert pd.isna(answers["response"].iloc[1])
    assert simulator.counts()["requests"] == 2


def test_missing_value_in_an_unused_column_is_ignored(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["one"], "unused": [None]})
    assert ask(frame, hub)["status"].tolist() == ["ok"]


@pytest.mark.parametrize(
    "values",
    [[1, 2], [1.5, 2.5], [True, False], pd.to_datetime(["2026-01-01", "2026-01-02"]), pd.Categorical(["a", "b"])],
    ids=["whole", "broken", "truth", "dates", "categories"],
)
def test_columns_of_any_type(hub: llmhub.Hub, simulator: SimulatorThread, values: Any) -> None:
    assert ask(pd.DataFrame({"t": values}), hub)["status"].tolist() == ["ok", "ok"]
    assert simulator.counts()["unique_prompts"] == 2


def test_column_of_mixed_types(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": [1, "two", None, 3.5, math.nan]})
    assert ask(frame, hub)["status"].tolist() == ["ok", "ok", "skipped", "ok", "skipped"]


def test_input_frame_is_not_modified(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["one"]})
    frame.attrs["source"] = "here"
    before = frame.copy()
    answers = ask(frame, hub)
    pd.testing.assert_frame_equal(frame, before)
    assert list(answers.columns) == ["t", *COMPACT_COLUMNS]
    assert answers.attrs == {"source": "here", "simulated": True}


def test_empty_frame(hub: llmhub.Hub) -> None:
    answers = ask(pd.DataFrame({"t": pd.Series([], dtype=object)}), hub, model=BOTH)
    assert (len(answers), list(answers.columns)) == (0, ["t", "row", *COMPACT_COLUMNS])


def test_result_column_clash_is_rejected_before_sending(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    frame = pd.DataFrame({"t": ["one"], "model": ["mine"]})
    with pytest.raises(BadRequestError, match=r"prefix: .*'model'.*prefix='llm_'"):
        ask(frame, hub)
    assert simulator.counts()["requests"] == 0
    answers = ask(frame, hub, prefix="llm_")
    assert answers["model"].tolist() == ["mine"]
    assert answers["llm_model"].tolist() == ["gpt-4o-mini"]


def test_duplicate_columns_are_rejected(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame([["one", "two"]], columns=["t", "t"])
    with pytest.raises(BadRequestError, match="2 columns are named 't'"):
        ask(frame, hub)


def test_several_samples_per_row(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    answers = ask(pd.DataFrame({"t": ["one", "two"]}), hub, n=3, columns=["request_key"])
    assert answers["sample"].tolist() == [0, 1, 2] * 2
    assert simulator.counts()["requests"] == 6
    assert answers["request_key"].nunique() == 6


async def test_blocking_call_in_a_running_loop(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["one"]})
    awaited = await llmhub.llm(frame).acomplete("Say {t}", model=MODEL, hub=hub, progress=False)
    assert awaited["response"].tolist() == ask(frame, hub)["response"].tolist()


def test_series_complete_returns_a_series(hub: llmhub.Hub) -> None:
    values = pd.Series(["one", None, "[[sim:500 always]]", "four"], index=list("dcba"), name="said")
    quick = llmhub.Hub(endpoints=hub.endpoints, settings=Settings(), retry=llmhub.Retry(attempts=1))
    with quick:
        texts = values.llm.complete("Repeat.", model=MODEL, hub=quick, progress=False)  # type: ignore[attr-defined]
    assert isinstance(texts, pd.Series)
    pd.testing.assert_index_equal(texts.index, values.index)
    assert texts.name == "said"
    assert texts.isna().tolist() == [False, True, True, False]


def test_series_value_replaces_braces(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    values = pd.Series(["one"])
    inside = values.llm.complete("Repeat {} twice.", model=MODEL, hub=hub, progress=False)  # type: ignore[attr-defined]
    same = llmhub.complete("Repeat one twice.", model=MODEL, hub=hub).text
    assert inside.tolist() == [same]


def test_series_rejects_several_models_and_samples(hub: llmhub.Hub) -> None:
    values = pd.Series(["one"])
    with pytest.raises(BadRequestError, match="use a DataFrame"):
        values.llm.complete("Repeat.", model=BOTH, hub=hub)  # type: ignore[attr-defined]
    with pytest.raises(BadRequestError, match="n: "):
        values.llm.complete("Repeat.", model=MODEL, hub=hub, n=2)  # type: ignore[attr-defined]


def test_accessor_has_no_state_but_the_frame() -> None:
    frame = pd.DataFrame({"t": ["one"]})
    first, second = llmhub.llm(frame), llmhub.llm(frame)
    assert first is not second
    assert vars(first) == {"_frame": frame} or list(vars(first)) == ["_frame"]
    assert "llm" in dir(frame)
    assert not hasattr(frame.llm, "nothing")  # type: ignore[attr-defined]


def test_invalid_frame_is_rejected() -> None:
    with pytest.raises(BadRequestError, match=r"frame: list is not a frame; pass a pandas DataFrame"):
        llmhub.llm([1, 2])


def test_count_tokens_marks_estimates(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["one two three", None]}, index=["a", "b"])
    absent = isinstance(load_encoding("o200k_base", VocabularySource(folder=None)), MissingVocabulary)
    with llmhub.using(hub), warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimateWarning)
        counted = llmhub.llm(frame).count_tokens("t", model=MODEL)
    assert list(counted.index) == ["a", "b"]
    assert 1 <= counted["tokens"].iloc[0] <= 6
    assert pd.isna(counted["tokens"].iloc[1])
    assert counted["estimated"].tolist() == [absent] * 2
