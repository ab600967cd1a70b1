"""Columns of any frame as Python values: text as pandas shows it, missing values as ``None``, and joined results."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core.errors import BadRequestError
from llmhub.tables import frames
from llmhub.tables.frames import StringColumn, join_results
from llmhub.tables.prompt_batch import batch_from_frame, batch_from_series
from llmhub.tables.rows import FrameColumns


def texts(frame: Any, prompt: str = "{t}") -> list[str | None]:
    """Return the prompt of each row; ``None`` for a skipped row."""
    batch = batch_from_frame(frame, prompt, (), 1)
    rows = zip(*batch.columns, strict=True) if batch.columns else ((),) * batch.n_rows
    rendered = [None if any(value is None for value in row) else batch.template.render(row) for row in rows]
    assert list(batch.iter_chunks()) == []
    assert [bool(skipped) for skipped in batch.skipped] == [text is None for text in rendered]
    return rendered


@given(st.lists(st.lists(st.none() | st.text(max_size=3), max_size=5), max_size=4), st.data())
def test_a_column_of_strings_reads_as_a_list(chunks: list[list[str | None]], data: st.DataObject) -> None:
    values = [value for chunk in chunks for value in chunk]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "STRINGS_AT_ONCE", data.draw(st.integers(1, 3)))
        column = StringColumn(pa.chunked_array([pa.array(chunk, pa.string()) for chunk in chunks], pa.string()))
        assert (len(column), list(column)) == (len(values), values)
        for index in data.draw(st.lists(st.integers(-len(values), len(values) - 1), max_size=9)) if values else ():
            assert column[index] == values[index]
        assert [column[index] for index in range(len(values))] == values
        some = data.draw(st.slices(len(values)))
        assert column[some] == values[some]
        with pytest.raises(IndexError):
            column[len(values)]


def of_objects(*values: Any) -> pd.DataFrame:
    return pd.DataFrame({"t": pd.Series(list(values), dtype=object)})


# Object columns: each value as `str` shows it, whatever else the column contains


class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> Any:
        return np.array([True, False])  # like an array, without a truth value

    __hash__ = None  # type: ignore[assignment]


MIXED: dict[str, list[Any]] = {
    "integers and floats": [1, 2.5, 10**20],
    "booleans and numbers": [True, 1, 0.5],
    "decimals": [Decimal("1.5"), Decimal("1.25"), Decimal(2)],
    "mappings": [{"role": "user"}, {"content": "hi", "n": [1, 2]}, {}],
    "lists": [[1, "a"], [], [None, 1.5]],
    "dates and times": [dt.date(2026, 1, 2), dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC), dt.time(5, 6)],
    "bytes and text": [b"ab", "ab"],
    "text": ["one", "", "nan", "None", "<NA>"],
    "objects": [Named("one"), "two", Named("three")],
}


@pytest.mark.parametrize("kind", sorted(MIXED))
def test_an_object_is_rendered_by_str(kind: str) -> None:
    assert texts(of_objects(*MIXED[kind])) == [str(value) for value in MIXED[kind]]


def test_an_array_in_a_cell_is_a_value() -> None:
    integers, floats = np.array([1, 2]), np.array([1.5, 2.5])
    assert texts(of_objects(integers, "text", None, floats)) == ["[1 2]", "text", None, "[1.5 2.5]"]


@given(st.lists(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()))
def test_mixed_values_are_rendered_one_by_one(values: list[Any]) -> None:
    assert texts(of_objects(*values)) == [None if value is None else str(value) for value in values]


TYPED: dict[str, tuple[Any, list[str]]] = {
    "periods": (pd.period_range("2024-01", periods=2, freq="M"), ["2024-01", "2024-02"]),
    "intervals": (pd.interval_range(0, 2), ["(0, 1]", "(1, 2]"]),
    "categories": (pd.Categorical(["b", "a"]), ["b", "a"]),
    "numeric categories": (pd.Categorical([2, 1]), ["2", "1"]),
    "nullable integers": (pd.array([1, 2], dtype="Int64"), ["1", "2"]),
    "small integers": (np.array([1, 255], dtype=np.uint8), ["1", "255"]),
    "booleans": (pd.array([True, False]), ["True", "False"]),
    "float32": (np.array([0.5, 1.5], dtype=np.float32), ["0.5", "1.5"]),
    "float16": (np.array([0.5, 1.5], dtype=np.float16), ["0.5", "1.5"]),
    "text": (pd.array(["a", "b"], dtype="string"), ["a", "b"]),
    "Arrow strings": (pd.array(["a", "b"], dtype=pd.ArrowDtype(pa.large_string())), ["a", "b"]),
    "sparse": (pd.arrays.SparseArray([0, 1]), ["0", "1"]),
    "dates": (pd.to_datetime(["2026-01-01", "2026-01-02"]), ["2026-01-01 00:00:00", "2026-01-02 00:00:00"]),
    "dates with a time zone": (pd.to_datetime(["2026-01-01T12:00Z"]), ["2026-01-01 12:00:00+00:00"]),
}


@pytest.mark.parametrize("kind", sorted(TYPED))
def test_a_typed_column_is_rendered_as_pandas_shows_it(kind: str) -> None:
    values, written = TYPED[kind]
    assert texts(pd.DataFrame({"t": values})) == written


MISSING: dict[str, pd.Series] = {
    "floats": pd.Series([1.5, np.nan]),
    "objects, None": pd.Series(["a", None], dtype=object),
    "objects, nan": pd.Series(["a", float("nan")], dtype=object),
    "objects, NA": pd.Series(["a", pd.NA], dtype=object),
    "objects, NaT": pd.Series([1, pd.NaT], dtype=object),
    "objects, Decimal nan": pd.Series([Decimal(1), Decimal("nan")], dtype=object),
    "text": pd.Series(["a", None], dtype="str"),
    "dates": pd.Series(pd.to_datetime(["2026-01-01", None])),
    "integers": pd.Series([1, None], dtype="Int64"),
    "masked floats": pd.Series([1.5, None], dtype="Float64"),
    "categories": pd.Series(["a", None], dtype="category"),
    "periods": pd.Series(pd.PeriodIndex(["2024-01", None], freq="M")),
    "Arrow floats": pd.Series([1.5, None], dtype=pd.ArrowDtype(pa.float64())),
    "Arrow NaN": pd.Series(pd.arrays.ArrowExtensionArray(pa.array([1.5, float("nan")]))),
}


@pytest.mark.parametrize("kind", sorted(MISSING))
def test_a_missing_value_is_none(kind: str) -> None:
    first, second = texts(MISSING[kind].to_frame("t"))
    assert first is not None
    assert second is None
    assert [text is None for text in texts_of_series(MISSING[kind], "")] == [False, True]


def test_a_string_that_looks_missing_is_a_string() -> None:
    assert texts(of_objects("nan", "None", "NaT", "<NA>", "")) == ["nan", "None", "NaT", "<NA>", ""]


# Arrow and other frames


class Exporting:
    """A frame of an unknown library, with nothing but ``__arrow_c_stream__``."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize(
    ("column", "written"),
    [
        (pa.array(["a", None]), ["a", None]),
        (pa.array([1.5, float("nan"), None]), ["1.5", None, None]),
        (pa.array([1.5, float("nan")], pa.float32()), ["1.5", None]),
        (pa.array(np.array([1.5, np.nan], np.float16)), ["1.5", None]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        (pa.chunked_array([["a"], [], [None]]), ["a", None]),
        (pa.array([[1, None], None]), ["[1, None]", None]),
        (pa.nulls(2), [None, None]),
        (pa.array([Decimal("1.50")], pa.decimal128(5, 2)), ["1.50"]),
    ],
)
def test_an_arrow_column_is_rendered(column: Any, written: list[str | None]) -> None:
    table = pa.table({"t": column})
    assert texts(table) == texts(Exporting(table)) == texts({"t": column}) == written


@pytest.mark.parametrize(
    "frame",
    [{"t": ["a", "b"], "u": ["c"]}, {"t": "a text alone"}, {"t": 7}, {"t": [object()]}, {1: ["a"]}, {"t": [1, "a"]}],
)
def test_an_invalid_mapping_is_rejected(frame: Any) -> None:
    with pytest.raises(BadRequestError, match=r"^frame: "):
        batch_from_frame(frame, "{t}", (), 1)


@pytest.mark.parametrize("frame", [7, "text", ["a"], None, pd.Series(["a"])])
def test_a_value_that_is_not_a_frame_is_rejected(frame: Any) -> None:
    with pytest.raises(BadRequestError, match=r"^frame: .* is not a frame; pass a pandas DataFrame"):
        batch_from_frame(frame, "{t}", (), 1)


# Column names


def test_an_unknown_column_is_reported_with_the_closest_name() -> None:
    with pytest.raises(BadRequestError, match=r"^prompt: 'txt' is not a column.* Did you mean 'text'\?.*'text', 'n'"):
        batch_from_frame({"text": ["a"], "n": [1]}, "{txt}", (), 1)
    with pytest.raises(BadRequestError, match=r"Its columns are none"):
        batch_from_frame(pa.table({}), "{t}", (), 1)


@pytest.mark.parametrize("name", ["two words", "a.b", "a[0]", "%", "%s", "ünï", "a-b", "class"])
def test_a_placeholder_may_be_any_column_name(name: str) -> None:
    assert texts(pd.DataFrame({name: ["x"]}), f"{{{name}}}%") == ["x%"]


def test_duplicate_columns_are_rejected_only_if_used() -> None:
    frame = pd.DataFrame([["a", "b", "c"]], columns=["t", "t", "u"])
    with pytest.raises(BadRequestError, match=r"^prompt: 2 columns are named 't'"):
        batch_from_frame(frame, "{t}", (), 1)
    assert texts(frame, "{u}") == ["c"]


@pytest.mark.filterwarnings("ignore:prompt:UserWarning")
def test_a_template_without_placeholders_is_the_same_for_every_row() -> None:
    assert texts({"t": ["a", None]}, "Say hi.") == ["Say hi."] * 2


@pytest.mark.parametrize("prompt", ["{t:.2f}", "{t:>4}", "{t!r:>8}", "{t:,}", "{t!s:.2}"])
def test_format_specifications_are_those_of_python(prompt: str) -> None:
    assert texts({"t": [1234.5]}, prompt) == [prompt.format(t=1234.5)]


def test_a_value_that_cannot_be_formatted_is_rejected_before_sending() -> None:
    with pytest.raises(BadRequestError, match=r"^prompt: \{t:\.2f\} cannot format 'n/a' of type str"):
        batch_from_frame(of_objects(1.5, None, "n/a"), "{t:.2f}", (), 1)


# Series


def texts_of_series(values: pd.Series, prompt: str) -> list[str | None]:
    batch = batch_from_series(values, prompt, ())
    return [None if value is None else batch.template.render((value,)) for value in batch.columns[0]]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("", "one"),
        ("Repeat.", "Repeat.\n\none"),
        ("Repeat {} twice: {}", "Repeat one twice: one"),
        ('Answer as {{"said": ...}}: {}', 'Answer as {"said": ...}: one'),
        ("Return {{}} for {}", "Return {} for one"),
        ('Answer as {"said": ...}.', 'Answer as {"said": ...}.\n\none'),
        ("Return {{}}.", "Return {{}}.\n\none"),
        ("100 % of {}", "100 % of one"),
        ("{:>5}", "  one"),
        ("{!r}", "'one'"),
    ],
)
def test_a_value_replaces_the_braces_or_follows_the_prompt(prompt: str, text: str) -> None:
    assert texts_of_series(pd.Series(["one", None]), prompt) == [text, None]


@pytest.mark.parametrize("prompt", ["{", "{} and {other}", "{} and {"])
def test_a_series_prompt_has_only_nameless_placeholders(prompt: str) -> None:
    if prompt == "{":
        assert texts_of_series(pd.Series(["one"]), prompt) == ["{\n\none"]
        return
    with pytest.raises(BadRequestError, match=r"^prompt: "):
        batch_from_series(pd.Series(["one"]), prompt, ())


# Joined results


def results(rows: Sequence[int]) -> pa.Table:
    return pa.table({"row": pa.array(rows, pa.int64()), "response": [f"response {row}" for row in rows]})


@given(st.lists(st.integers(0, 4), max_size=12).map(sorted), st.permutations(["x", "x", "y", None, 3]))
def test_results_are_joined_to_their_rows(rows: list[int], labels: list[Any]) -> None:
    frame = pd.DataFrame({"t": list("abcde")}, index=pd.Index(labels, dtype=object, name="key"))
    joined = join_results(frame, results(rows), "")
    assert joined["t"].tolist() == [frame["t"].iloc[row] for row in rows]
    assert joined["response"].tolist() == [f"response {row}" for row in rows]
    pd.testing.assert_index_equal(joined.index, frame.index[rows])


def test_a_name_clash_is_reported_with_a_free_prefix() -> None:
    frame = pd.DataFrame({"row": [1], "llm_row": [2]})
    with pytest.raises(BadRequestError, match=r"^prefix: .*'row'.*prefix='result_'"):
        join_results(frame, results([0]), "")
    assert join_results(frame, results([0]), "result_")["result_row"].tolist() == [0]
    with pytest.raises(BadRequestError, match=r"'llm_row'"):
        join_results(frame, results([0]), "llm_")


def test_column_labels_that_are_not_strings_are_kept() -> None:
    frame = pd.DataFrame([[1, 2]], columns=[0, ("a", "b")])
    assert list(join_results(frame, results([0]), "").columns) == [0, ("a", "b"), "row", "response"]


def test_reading_a_column_does_not_depend_on_the_decimal_context() -> None:
    with decimal.localcontext(prec=3):
        assert texts(of_objects(Decimal("1.23456"))) == ["1.23456"]


@pytest.mark.parametrize("kind", [pd.DataFrame, pa.table])
def test_names_of_columns_are_listed_once_however_many_are_read(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[Any] = []
    column_names = frames.column_names
    monkeypatch.setattr(frames, "column_names", lambda frame: [listed.append(frame), column_names(frame)][1])
    columns = FrameColumns(kind({f"c{number}": ["a", "b"] for number in range(50)}))
    assert [list(columns.column(name)) for name in columns.names] == [["a", "b"]] * 50
    assert [row["c49"] for row in columns] == ["a", "b"]
    assert len(listed) == 1
