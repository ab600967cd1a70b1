"""Embeddings through Batch APIs: the same vectors at the price of batches, resumed, and late texts sent alone."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import SimBatches, Simulator, SimulatorThread, serving

MODELS = ("openai/text-embedding-3-small", "google/gemini-embedding-001", "mistral/mistral-embed")
TEXTS = [*(f"text {number}" for number in range(20)), None, "text 3", ""]
STATUSES = [*["ok"] * 20, "skipped", "ok", "error"]


def hub_of(served: SimulatorThread, path: Path) -> llmhub.Hub:
    return llmhub.Hub(endpoints=served.endpoints(), settings=Settings(), cache=llmhub.DiskCache(path / "c.db"))


def embed(model: str, hub: llmhub.Hub, texts: Any = TEXTS, **options: Any) -> pa.Table:
    given = {"progress": False, "dimensions": None if model.startswith("mistral") else 8, **options}
    given = {name: value for name, value in given.items() if value is not None}
    return llmhub.embed_table({"t": pa.array(texts, pa.string())}, "t", model=model, hub=hub, **given)


def column(table: pa.Table, name: str) -> list[Any]:
    found: list[Any] = table.column(name).to_pylist()
    return found


@pytest.mark.parametrize("model", MODELS)
def test_texts_are_embedded_in_a_batch_at_its_price(tmp_path: Path, model: str) -> None:
    with serving(Simulator(seed=5, batches=SimBatches(duration_s=3600.0))) as served:
        with hub_of(served, tmp_path) as hub:
            pending = embed(model, hub, mode="batch", deadline=0.01)
            assert column(pending, "status") == [*["pending"] * 20, "skipped", "pending", "error"]
        served.advance_clock(4000.0)
        with hub_of(served, tmp_path) as hub, hub_of(served, tmp_path / "other") as other:
            table = embed(model, hub, mode="batch", poll_s=0.02)
            live = embed(model, other)
            assert column(table, "status") == STATUSES
            assert table.column("embedding").equals(live.column("embedding"))
            assert column(table, "mode") == ["batch"] * 20 + [None] * 3
            assert column(table, "list_cost_usd") == column(live, "list_cost_usd")
            # The costs of a live pack are shared out, so that they are equal in sum.
            halves = sum(column(table, "cost_usd")[:20])
            assert halves * 2 == sum(column(live, "cost_usd")[:20]) > 0
            assert [len(batch.rows) for batch in served.batches()] == [20]
            sent = served.counts()["requests"]
            again = embed(model, hub)
            assert column(again, "cache_hit")[:20] == [True] * 20
            assert again.column("embedding").equals(table.column("embedding"))
            assert column(embed(model, hub, mode="batch"), "mode") == [None] * 23
            assert served.counts()["requests"] == sent


def test_texts_that_a_batch_did_not_process_are_sent_by_themselves(tmp_path: Path) -> None:
    settings = Simulator(seed=5, batches=SimBatches(stuck=0.5, window_s=0.0))
    with serving(settings) as served, hub_of(served, tmp_path) as hub:
        table = embed(MODELS[0], hub, mode="batch", late="live", poll_s=0.02)
        assert column(table, "status") == STATUSES
        modes = column(table, "mode")
        assert 0 < modes.count("live") < 20
        assert modes.count("live") + modes.count("batch") == 20
        assert embed(MODELS[0], hub).column("embedding").equals(table.column("embedding"))


def test_a_text_that_another_process_embedded_meanwhile_is_not_sent(tmp_path: Path) -> None:
    with serving(Simulator(seed=5)) as served, hub_of(served, tmp_path) as hub:
        jobs = [embed(MODELS[0], hub, texts, mode="batch", poll_s=0.02) for texts in (["a", "b"], ["b", "c", "a"])]
        assert [column(table, "cache_hit") for table in jobs] == [[False, False], [True, False, True]]
        assert set(served.batch_rows().values()) == {1}


@pytest.mark.filterwarnings("ignore:token counts are estimates")
def test_frames_have_the_column_of_how_a_row_was_sent(tmp_path: Path) -> None:
    with serving(Simulator(seed=5)) as served, hub_of(served, tmp_path) as hub:
        frame = pd.DataFrame({"t": ["a", "b"]})
        options: dict[str, Any] = {"model": MODELS[0], "hub": hub, "progress": False}
        found = frame.llm.embed("t", mode="batch", poll_s=0.02, **options)
        assert found["mode"].tolist() == ["batch", "batch"]
        assert "mode" not in frame.llm.embed("t", **options)
        plan = frame.llm.plan_embeddings("t", model=MODELS[1], hub=hub, mode="batch", cache="off")
        assert plan.usd is not None
        assert plan.live_usd == 2 * plan.usd > Decimal(0)
        assert "(50%)" in str(plan)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("azure/text-embedding-3-small", {}, "mode: azure has no batches of embeddings"),
        ("voyage/voyage-3.5", {}, "mode: voyage has no Batch API"),
        (MODELS[0], {"late": "never"}, "late: must be"),
        (MODELS[0], {"mode": "live", "late": "live"}, "late: is an option of batches"),
        (MODELS[0], {"cache": "off"}, "cache: batches are remembered in the cache"),
    ],
)
def test_what_batches_cannot_do_is_refused(tmp_path: Path, model: str, options: dict[str, Any], message: str) -> None:
    with serving(Simulator(seed=5)) as served, hub_of(served, tmp_path) as hub:
        with pytest.raises(BadRequestError, match=message):
            embed(model, hub, **{"mode": "batch", **options})
        assert served.counts()["requests"] == 0
