"""Reranking: texts by their relevance, frames with scores and ranks, and scores that are paid for once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import polars as pl
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import SimulatorThread

TEXTS = ["rain on the roof", "boats in the harbour", "fog"]
MODELS = ("cohere/rerank-v3.5", "cohere-native/rerank-v3.5", "jina/jina-reranker-v3", "voyage/rerank-2.5", "vllm/bge")


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache()) as opened:
        yield opened


@pytest.mark.parametrize("model", MODELS)
def test_texts_come_by_their_relevance(model: str, hub: llmhub.Hub) -> None:
    found = llmhub.rerank("boats in fog", TEXTS, model=model, hub=hub, progress=False)
    assert [each.index for each in found] == [1, 2, 0]
    assert [each.text for each in found] == [TEXTS[1], TEXTS[2], TEXTS[0]]
    assert found[0].score > found[1].score > found[2].score
    assert llmhub.rerank("boats in fog", TEXTS, model=model, hub=hub, top_n=1, progress=False) == found[:1]


def test_frames_keep_their_order_and_scores_are_paid_for_once(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    frame = pd.DataFrame({"t": ["rain", "boats in fog", None, "boats", ""]}, index=list("abcde"))
    options: dict[str, Any] = {"model": MODELS[3], "hub": hub, "progress": False}
    found = frame.llm.rerank("boats in fog", "t", **options)
    assert found.index.tolist() == list("abcde")
    assert found["rank"].tolist()[:2] == [3, 1]
    assert found["rank"].isna().tolist() == [False, False, True, False, True]
    assert found["status"].tolist() == ["ok", "ok", "skipped", "ok", "error"]
    sent = simulator.counts()["requests"]
    assert frame.llm.rerank("boats in fog", "t", **options)["score"].equals(found["score"])
    assert simulator.counts()["requests"] == sent
    more = pl.DataFrame({"t": ["boats", "new boats"]}).llm.rerank("boats in fog", "t", **options)
    assert more["cache_hit"].to_list() == [True, False]
    assert frame.llm.rerank("rain", "t", **options)["rank"].tolist()[0] == 1


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("q", ["a"]), {"model": "openai/m"}, "model: openai has no reranking"),
        (("", ["a"]), {}, "query: must be a text"),
        (("q", "a"), {}, "texts: must be a list"),
        (("q", ["a"]), {"top_n": 0}, "top_n"),
        (("q", ["a"]), {"mode": "batch"}, "mode"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: tuple[Any, ...], options: dict[str, Any], message: str, hub: llmhub.Hub, simulator: SimulatorThread
) -> None:
    with pytest.raises(BadRequestError, match=message):
        llmhub.rerank(*arguments, **{"model": MODELS[0], "hub": hub, **options})
    assert simulator.counts()["requests"] == 0
