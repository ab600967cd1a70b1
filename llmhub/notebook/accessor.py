"""``df.llm`` and ``series.llm``: a frame of prompts becomes a frame of answers with the same index.

The accessors hold nothing but the frame: pandas makes them anew at each access.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import pandas as pd
import pyarrow as pa

from llmhub import api
from llmhub.api import Models, TableOptions
from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.hub import Hub
from llmhub.notebook.drawing import FramePlots
from llmhub.tables import frames
from llmhub.tables.plan import Plan
from llmhub.tables.schema import RESULTS
from llmhub.tables.tokens import count_tokens
from llmhub.tables.vocabulary import Vocabularies

if TYPE_CHECKING:
    Column = pd.Series[str]
else:
    Column = pd.Series


class FrameAccessor:
    """What llmhub does with a DataFrame: ``df.llm``."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    @property
    def plot(self) -> FramePlots:
        """Plots of a frame of results: ``df.llm.plot.cost_by_model()``, and the others of `llmhub.plots`."""
        return FramePlots(self._frame)

    def complete(
        self,
        prompt: str,
        *,
        model: Models,
        hub: Hub | None = None,
        prefix: str = "",
        **options: Unpack[TableOptions],
    ) -> pd.DataFrame:
        """Ask every row, of every model, and put the answers beside the rows.

        Parameters
        ----------
        prompt
            A template over the columns: ``"Summarise: {text}"``.
        model
            ``provider/model``, or several: each row then comes once for each, in long form.
        hub
            Who can be asked; the default hub unless given.
        prefix
            Put before the names of the result columns.
        **options
            See `llmhub.complete_table`.

        Returns
        -------
        pandas.DataFrame
            The frame's columns and index, and the result columns (Arrow-backed). A row with a missing value in a
            column that the prompt uses is not asked: its ``status`` is ``skipped``.

        Raises
        ------
        InvalidRequestError
            Before anything is sent; also when a column has the name of a result column.
        """
        frames.clash_free(frames.names(self._frame), RESULTS.names, prefix)
        table = api.complete_table(self._frame, prompt, model=model, hub=hub, **options)
        return frames.joined(self._frame, table, prefix)

    async def acomplete(
        self,
        prompt: str,
        *,
        model: Models,
        hub: Hub | None = None,
        prefix: str = "",
        **options: Unpack[TableOptions],
    ) -> pd.DataFrame:
        """Ask every row, awaited (see `complete`)."""
        frames.clash_free(frames.names(self._frame), RESULTS.names, prefix)
        table = await api.acomplete_table(self._frame, prompt, model=model, hub=hub, **options)
        return frames.joined(self._frame, table, prefix)

    def plan(self, prompt: str, *, model: Models, hub: Hub | None = None, **options: Unpack[TableOptions]) -> Plan:
        """Say what `complete` would do, before anything is sent: calls, cache hits, tokens, USD."""
        return api.plan(self._frame, prompt, model=model, hub=hub, **options)

    def count_tokens(self, column: str, *, model: str) -> pd.DataFrame:
        """Count the tokens of a text column.

        Returns
        -------
        pandas.DataFrame
            ``tokens`` (null for a missing text) and ``estimated``: whether another tokenizer than the model's own
            counted, because that is not public or could not be had.
        """
        frames.expect_columns([column], self._frame, "column")
        return _counted(self._frame[column], model)


class SeriesAccessor:
    """What llmhub does with a Series: ``series.llm``."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def complete(
        self, prompt: str = "", *, model: str, hub: Hub | None = None, **options: Unpack[TableOptions]
    ) -> Column:
        """Ask about every value and give the answers' text, null where there is none.

        Parameters
        ----------
        prompt
            What to do with each value, which takes the place of ``{}`` or else follows after an empty line.
        model
            ``provider/model``.
        **options
            See `llmhub.complete_table`.
        """
        table = api.complete_series(self._values, prompt, model=model, hub=hub, **options)
        texts: Any = pd.arrays.ArrowExtensionArray(table.column("response"))
        return pd.Series(texts, index=self._values.index, name=self._values.name)

    def count_tokens(self, *, model: str) -> pd.DataFrame:
        """Count the tokens of each text (see `FrameAccessor.count_tokens`)."""
        return _counted(self._values, model)


def llm(frame: Any) -> FrameAccessor:
    """Give a frame's accessor in a form that type checkers know: ``llmhub.llm(df).complete(...)``.

    Raises
    ------
    InvalidRequestError
        For what is no DataFrame.
    """
    if not isinstance(frame, pd.DataFrame):
        said = f"{type(frame).__name__} is no pandas DataFrame; for other frames call llmhub.complete_table"
        raise InvalidRequestError(InvalidRequest(path="frame", message=said))
    return FrameAccessor(frame)


def _counted(values: Any, model: str) -> pd.DataFrame:
    texts = frames.series(values)
    folder = api.current_hub().settings.tokenizer_folder
    counted = count_tokens(
        [str(text) for text in texts if text is not None], model.partition("/")[2] or model, Vocabularies(folder=folder)
    )
    each = iter(counted.tokens)
    tokens = pa.array([None if text is None else next(each) for text in texts], pa.int64())
    columns = {"tokens": tokens, "estimated": pa.array([counted.estimated] * len(texts), pa.bool_())}
    counts: pd.DataFrame = pa.table(columns).to_pandas(types_mapper=pd.ArrowDtype).set_index(values.index)
    return counts
