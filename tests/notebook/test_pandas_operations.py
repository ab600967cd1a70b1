"""Results in pandas behave as pandas frames: a matrix of operations on results of every kind."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest
from pydantic import BaseModel

import llmhub
from llmhub.bench.load import one_at_a_time
from llmhub.config import Settings
from llmhub.sim import Simulator, serving
from llmhub.tables import tokenizers
from llmhub.tables.result_frames import results_table
from tests.old_releases import install_release

BOTH = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]
NESTED = ("tool_calls", "dropped_params", "parsed", "tags", "embedding")
"""Columns of lists, dicts and arrays, which pandas cannot hash."""
OLD_PANDAS = "pandas>=2.2,<2.3"


class Person(BaseModel):
    name: str
    age: int | None
    is_known: bool
    tags: list[str]


class CharacterEncoding:
    """A tokenizer that needs no download."""

    def encode_ordinary(self, text: str) -> list[str]:
        return list(text)


INPUT = pd.DataFrame(
    {"t": ["one", "two", None, "[[sim:500 always]]", "five"], "truth": ["up", "down", "up", "up", "down"]},
    index=pd.Index(list("edcba"), name="key"),
)
QUESTION = "Who is {t}?"


def make_kinds(hub: llmhub.Hub) -> dict[str, pd.DataFrame]:
    options: dict[str, Any] = {"hub": hub, "progress": False}
    llm = llmhub.llm(INPUT)
    prompt = "Say {t}"
    complete = llm.complete(prompt, model=BOTH, **options)
    comparison = llmhub.compare(complete, scorers=llmhub.evals.scorers.exact("truth"), hub=hub)
    few = llmhub.bench.Measure(requests=3, warmup=0)
    load = llmhub.bench.run(BOTH[0], load=one_at_a_time(), prompts=["hi"], measure=few, hub=hub)
    return {
        "complete": llm.complete(prompt, model=BOTH[0], **options),
        "models": complete,
        "samples": llm.complete(prompt, model=BOTH, n=2, prefix="llm_", **options),
        "all": llm.complete(prompt, model=BOTH, columns="all", **options),
        "schema": llm.complete(QUESTION, model=BOTH[0], schema=Person, stream=True, **options),
        "classify": llm.classify(prompt, labels=["up", "down"], model=BOTH, **options),
        "extract": llm.extract(QUESTION, schema=Person, model=BOTH, **options),
        "embed": llm.embed("t", model="openai/text-embedding-3-small", dimensions=4, columns="all", **options),
        "wide": complete.llm.wide("response", "cost_usd", "status"),  # type: ignore[attr-defined]
        "tokens": llm.count_tokens("t", model=BOTH[0]),
        "pyarrow": llm.complete(prompt, model=BOTH, dtype_backend="pyarrow", **options),
        "numpy_nullable": llm.complete(prompt, model=BOTH, dtype_backend="numpy_nullable", **options),
        "table": llmhub.to_pandas(llmhub.complete_table(INPUT, prompt, model=BOTH, **options)),
        "comparison results": llmhub.to_pandas(comparison.results),
        "comparison scores": llmhub.to_pandas(comparison.scores),
        "comparison models": llmhub.to_pandas(comparison.models),
        "comparison pairs": llmhub.to_pandas(comparison.pairs),
        "load test results": llmhub.to_pandas(load.results),
        "load test summary": llmhub.to_pandas(load.summary),
    }


KINDS = (
    "models", "classify", "extract", "all", "embed",
    *(
        pytest.param(kind, marks=pytest.mark.slow)
        for kind in (
            "complete", "samples", "schema", "wide", "tokens", "pyarrow", "numpy_nullable", "table",
            "comparison results", "comparison scores", "comparison models", "comparison pairs", "load test results",
            "load test summary",
        )
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def kinds() -> Iterator[dict[str, pd.DataFrame]]:
    retry = llmhub.Retry(attempts=1)
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(Simulator(seed=7)) as served,
        llmhub.Hub(endpoints=served.endpoints(), settings=Settings(), cache=llmhub.MemoryCache(), retry=retry) as hub,
    ):
        patch.setattr(tokenizers, "load_encoding", lambda *_: CharacterEncoding())
        yield make_kinds(hub)


@pytest.fixture(params=KINDS)
def frame(request: pytest.FixtureRequest, kinds: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return kinds[request.param].copy()


# Operations


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that are not nested."""
    return frame[[name for name in frame.columns if not is_nested(frame, str(name))]]


def is_nested(frame: pd.DataFrame, name: str) -> bool:
    return any(isinstance(value, (list, dict)) for value in frame[name]) or name.removeprefix("llm_") in NESTED


def numeric(frame: pd.DataFrame) -> list[str]:
    return list(frame.select_dtypes("number").columns)


def texts(frame: pd.DataFrame) -> list[str]:
    return [name for name in flat(frame).columns if pd.api.types.is_string_dtype(frame[name].dropna())]


def categories(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if isinstance(frame[name].dtype, pd.CategoricalDtype)]


def labels(frame: pd.DataFrame) -> list[str]:
    """Return categories and texts that are not missing throughout."""
    return [name for name in dict.fromkeys([*categories(frame), *texts(frame)]) if frame[name].notna().any()]


def sort_by_each(frame: pd.DataFrame) -> None:
    for name in flat(frame).columns:
        assert len(frame.sort_values(name)) == len(frame)
    assert len(frame.sort_values(list(flat(frame).columns), ascending=False)) == len(frame)


def describe(frame: pd.DataFrame) -> None:
    frame.describe()
    flat(frame).describe(include="all")
    for name in numeric(frame):
        assert frame[name].describe()["count"] == frame[name].notna().sum()


def group_by_each(frame: pd.DataFrame) -> None:
    for name in labels(frame):
        groups = frame.groupby(name, observed=True)
        assert groups.size().sum() == frame[name].notna().sum()
        for column in numeric(frame):
            groups[column].describe()
            groups[column].agg(["mean", "sum", "median", "max"])


def largest(frame: pd.DataFrame) -> None:
    for name in numeric(frame):
        assert len(frame.nlargest(1, name)) == len(frame.nsmallest(1, name)) == 1


def distinct(frame: pd.DataFrame) -> None:
    plain = flat(frame)
    assert len(pd.concat([plain, plain]).drop_duplicates()) == len(plain.drop_duplicates())
    plain.nunique()
    assert plain.duplicated().sum() < len(plain)
    for name in plain.columns:
        plain[name].value_counts(dropna=False)
        plain[name].unique()


def merge(frame: pd.DataFrame) -> None:
    for name in labels(frame):
        values = pd.DataFrame({name: frame[name].dropna().unique()}).assign(merged=1)
        assert frame.merge(values, on=name, how="left")["merged"].notna().sum() == frame[name].notna().sum()
    assert len(frame.join(pd.Series(1, index=frame.index.unique(), name="joined"))) == len(frame)


def fill(frame: pd.DataFrame) -> None:
    for name in texts(frame):
        if name not in categories(frame):
            assert frame[name].fillna("").notna().all()
    for name in numeric(frame):
        assert frame[name].fillna(0).notna().all()
    filled = frame.fillna(dict.fromkeys(numeric(frame), 0))
    assert filled[numeric(frame)].notna().all(axis=None)
    frame.ffill()
    frame.dropna()


def search(frame: pd.DataFrame) -> None:
    plain = flat(frame)
    if not any(isinstance(dtype, pd.ArrowDtype) for dtype in plain.dtypes):
        plain.isin(["ok", "up", 1, None])  # Arrow compares with values of its type only
    for name in plain.columns:
        first = plain[name].dropna()
        if len(first):
            assert plain[name].isin([first.iloc[0]]).any()
            assert (plain[name] == first.iloc[0]).any()
            plain.query("`" + name + "`.notna()")
    plain.replace("nothing", "something")
    for name in texts(frame):
        plain[name].replace("nothing", "something")


def strings(frame: pd.DataFrame) -> None:
    for name in texts(frame):
        assert frame[name].str.len().notna().sum() == frame[name].notna().sum()
        frame[name].str.contains("a", na=False)
        frame[name].str.upper()


def category_methods(frame: pd.DataFrame) -> None:
    for name in categories(frame):
        assert set(frame[name].cat.categories) == set(frame[name].dropna())
        frame[name].cat.rename_categories(str.upper)
        frame[name].cat.add_categories("").fillna("")


def arithmetic(frame: pd.DataFrame) -> None:
    for name in numeric(frame):
        column = frame[name]
        column.cumsum(), column.mean(), column.std(), column.quantile(0.5), column.round(3), column.rank(), -column
        column.astype(float)
    frame.select_dtypes("number").corr()
    flat(frame).round(3)


def reshape(frame: pd.DataFrame) -> None:
    for name in numeric(frame) if labels(frame) else ():
        frame.pivot_table(index=labels(frame)[0], values=name, aggfunc="mean", observed=True)
    flat(frame).melt(value_vars=numeric(frame), value_name="melted")
    frame.reset_index()
    assert len(pd.concat([frame, frame])) == 2 * len(frame)
    flat(frame).T  # noqa: B018 - it may raise
    frame.sample(1, random_state=0)
    for name in labels(frame):
        pd.crosstab(frame[name], 1)


def draw(frame: pd.DataFrame) -> None:
    if not any(frame[name].notna().any() for name in numeric(frame)):
        return
    with mpl.rc_context({"backend": "agg"}):
        from matplotlib import pyplot as plt  # noqa: PLC0415 - of this operation alone

        for name in numeric(frame):
            if frame[name].notna().any():
                frame[name].plot.hist()
                frame[name].plot()
        for name in labels(frame):
            frame[name].value_counts().plot.bar()
        plt.close("all")


def display(frame: pd.DataFrame) -> None:
    assert str(frame)
    assert frame.to_html()
    assert frame._repr_html_()  # type: ignore[operator]
    frame.info(buf=io.StringIO())


OPERATIONS: dict[str, Callable[[pd.DataFrame], None]] = {
    function.__name__: function
    for function in (
        sort_by_each, describe, group_by_each, largest, distinct, merge, fill, search, strings, category_methods,
        arithmetic, reshape, draw, display,
    )
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:obj.round has no effect:UserWarning")
@pytest.mark.filterwarnings("ignore:.*in a future version:FutureWarning")
@pytest.mark.filterwarnings("ignore:Downcasting:FutureWarning")
@pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation(frame: pd.DataFrame, operation: str) -> None:
    OPERATIONS[operation](frame)


@pytest.mark.parametrize("file", ["parquet", "feather", "csv", "json", "pickle"])
def test_round_trip(frame: pd.DataFrame, file: str, tmp_path: Path) -> None:
    plain = flat(frame.reset_index()).rename(columns=str)
    path = tmp_path / "results"
    if file in {"csv", "json"}:
        text = plain.to_csv(index=False) if file == "csv" else plain.to_json(orient="records", date_format="iso")
        back = pd.read_csv(io.StringIO(text)) if file == "csv" else pd.read_json(io.StringIO(text), orient="records")
        assert list(back.columns) == list(plain.columns)
        assert len(back) == len(plain)
        for name in numeric(plain):
            # pandas writes JSON with ten digits after the point.
            expected = pytest.approx(plain[name].astype(float).sum(), rel=1e-4, abs=len(plain) * 1e-10)
            assert pd.to_numeric(back[name]).sum() == expected
        return
    getattr(plain, f"to_{file}")(path)
    back = getattr(pd, f"read_{file}")(path)
    is_arrow = any(isinstance(dtype, pd.ArrowDtype) for dtype in plain.dtypes)
    for name in plain.columns:  # a column without any value has no type in a file
        if plain[name].notna().any():
            pd.testing.assert_series_equal(back[name], plain[name], check_dtype=not is_arrow)
    if {"status", "model"} <= set(plain.columns):
        assert results_table(back).column("status").to_pylist() == plain["status"].tolist()


def test_nested_values_survive_files(kinds: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    for kind in ("all", "schema", "extract"):
        frame = kinds[kind]
        for file in ("parquet", "feather"):
            getattr(frame.reset_index(), f"to_{file}")(tmp_path / "results")
            back = getattr(pd, f"read_{file}")(tmp_path / "results")
            assert results_table(back, columns=NESTED).to_pydict() == results_table(frame, columns=NESTED).to_pydict()


@pytest.mark.slow
def test_operations_with_the_oldest_pandas(request: pytest.FixtureRequest) -> None:
    folder = install_release(request.config, OLD_PANDAS, "pytz")
    root = Path(__file__).parents[2]
    files = ["tests/notebook/test_pandas_operations.py", "tests/tables/test_result_frames.py"]
    paths = os.pathsep.join([str(folder), str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not oldest_pandas", *files],
        cwd=root,
        env={**os.environ, "PYTHONPATH": paths, "LLMHUB_TEST_PANDAS": "2.2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_the_pandas_that_is_meant_is_tested() -> None:
    assert pd.__version__.startswith(os.environ.get("LLMHUB_TEST_PANDAS", ""))
