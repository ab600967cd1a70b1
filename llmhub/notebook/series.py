"""``series.llm``: a column of texts becomes a column of answers, under the same index and name."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, Unpack

from llmhub import api
from llmhub.api import RowOptions
from llmhub.hub import Hub
from llmhub.notebook import token_counts
from llmhub.notebook.token_counts import CountOptions
from llmhub.tables import frames
from llmhub.tables import frames as frames_module

S = TypeVar("S")


class SeriesAccessor(Generic[S]):
    """What llmhub does with a Series: ``series.llm``."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def complete(self, prompt: str = "", *, model: str, hub: Hub | None = None, **options: Unpack[RowOptions]) -> S:
        """Ask about every value and give the answers' text, null where there is none.

        Parameters
        ----------
        prompt
            What to do with each value, which takes the place of ``{}`` or else follows after an empty line.
        model
            ``provider/model``.
        **options
            See `llmhub.complete_table`.

        Returns
        -------
        series of the same kind
            Texts, under the same index and name; with ``schema=``, structs of what the answers say.
        """
        table = api.complete_series(self._values, prompt, model=model, hub=hub, **options)
        texts: S = frames_module.series_like(
            self._values, table.column("parsed" if options.get("schema") else "response")
        )
        return texts

    def count_tokens(self, *, model: str, **options: Unpack[CountOptions]) -> Any:
        """Count the tokens of each text (see `llmhub.notebook.accessor.FrameAccessor.count_tokens`)."""
        texts = [None if value is None else str(value) for value in frames.series_values(self._values)]
        return frames_module.frame_like(self._values, token_counts.count_tokens_table(texts, model, options))
