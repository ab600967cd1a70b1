from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from llmhub.engine.decision_log import Decision
from llmhub.formatting.palette import PALETTE, series_style
from llmhub.plots import save
from llmhub.plots.bars import cost_by_model, tokens_by_model
from llmhub.plots.latency import ecdf_points, latency_ecdf, ttft_ecdf
from llmhub.plots.model_summary import quantile, summarize_models
from llmhub.plots.point_labels import _spread_apart
from llmhub.plots.ridgeline import token_histogram
from llmhub.plots.style import blend
from llmhub.plots.throughput import throughput, timeline
from llmhub.plots.tradeoff import cost_against_latency, cost_against_quality, pareto_front
from llmhub.tables.cost_columns import from_nanos
from llmhub.tables.result_frames import COMPACT_COLUMNS
from llmhub.tables.schema import RESULTS

Plot = Callable[..., Axes]


PLOTS = (
    cost_by_model,
    latency_ecdf,
    cost_against_latency,
    tokens_by_model,
    ttft_ecdf,
    cost_against_quality,
    throughput,
    timeline,
    token_histogram,
)


NAMES = (
    "openai/gpt-4o-mini",
    "anthropic/claude-sonnet-4-5-20250929",
    "google/gemini-2.5-flash",
    "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "openai/gpt-5-mini",
    "azure/my-deployment",
    "groq/llama-3.3-70b-versatile",
    "mistral/mistral-small-latest",
    "together/meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "fireworks/accounts/fireworks/models/llama-v3p3-70b-instruct",
    "deepseek/deepseek-chat",
    "xai/grok-4",
)


BEGAN = datetime(2026, 11, 20, 12, tzinfo=UTC)


def results(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return a results table with defaults for all columns that rows omit; costs are in billionths of a dollar.

    There is a column of scores beside those of the schema.
    """
    plain = {"provider": "p", "model": "m", "status": "ok", "cache_hit": False, "latency_s": 1.0, "ttft_s": 0.25,
             "input_tokens": 10, "output_tokens": 5, "cost_usd": 1_000, "list_cost_usd": 1_000, "attempts": 1,
             "started_at": BEGAN, "total_s": 1.0, "queue_s": 0.0, "rate_wait_s": 0.0, "score": 0.5}  # fmt: skip
    complete = [plain | row for row in rows]
    arrays = []
    for field in RESULTS:
        values = [row.get(field.name) for row in complete]
        if field.name in {"cost_usd", "list_cost_usd"}:
            nanos = np.array([value or 0 for value in values], np.int64)
            arrays.append(from_nanos(nanos, np.array([value is not None for value in values], np.bool_)))
        else:
            arrays.append(pa.array(values, field.type))
    table = pa.Table.from_arrays(arrays, schema=RESULTS)
    return table.append_column("score", pa.array([row["score"] for row in complete], pa.float64()))


def sample_results(models: int, each: int = 30, *, cached: bool = True) -> pa.Table:
    draw = np.random.default_rng(models)
    rows: list[dict[str, Any]] = []
    for at, name in enumerate(NAMES[:models]):
        provider, _, model = name.partition("/")
        for n in range(each):
            nano = int(1e5 * 2**at + draw.integers(0, 1e4))
            latency_s = float(draw.lognormal(0, 0.4)) * 1.4**at
            rows.append(
                {
                    "provider": provider,
                    "model": model,
                    "latency_s": latency_s,
                    "ttft_s": latency_s / 4,
                    "started_at": BEGAN + timedelta(seconds=n * 0.3),
                    "queue_s": 0.125,
                    "total_s": latency_s + 0.125,
                    "output_tokens": int(draw.lognormal(4, 0.5)),
                    "score": float(draw.random() < 0.4 + at / 24),
                    "cache_hit": cached and n % 3 == 0,
                    "cost_usd": 0 if cached and n % 3 == 0 else nano,
                    "list_cost_usd": nano,
                    "reasoning_tokens": 2 if at % 2 else None,
                }
            )
    return results(rows)


def failed(count: int, **more: Any) -> list[dict[str, Any]]:
    none = dict.fromkeys(
        ("latency_s", "ttft_s", "input_tokens", "output_tokens", "cost_usd", "list_cost_usd", "started_at", "score")
    )
    return [{"status": "error", "error_type": "RateLimited", **none, **more}] * count


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def bars(ax: Axes) -> list[tuple[str, float, float, str]]:
    """Return model, start, width and colour of each bar."""
    rectangles = []
    for container in ax.containers:
        patch = container.patches[0]
        rectangles.append(
            (str(container.get_label()), patch.get_x(), patch.get_width(), to_hex(patch.get_facecolor()).upper())
        )
    return rectangles


def curves(ax: Axes) -> dict[str, Any]:
    lines = {str(line.get_label()): line for line in ax.lines}
    return {name: line for name, line in lines.items() if "/" in name}


def legend_texts(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert isinstance(legend, Legend)
    return [text.get_text() for text in legend.get_texts()]


def drawn_texts(ax: Axes) -> list[Text]:
    ax.figure.draw_without_rendering()
    legend = ax.get_legend()
    own = [text for text in ax.texts if text.get_text()]
    return own + (list(legend.get_texts()) if legend else [])


class TestCost:
    def test_billed_bar_in_front_of_list_price(self) -> None:
        rows = [{"cost_usd": 3_000_000}, {"cost_usd": 0, "list_cost_usd": 5_000_000, "cache_hit": True}]
        ax = cost_by_model(results([rows[0] | {"list_cost_usd": 3_000_000}, rows[1]]))
        ground = to_hex(blend(PALETTE[0], "white", 0.66)).upper()
        assert bars(ax) == [("p/m", 0, 0.008, ground), ("p/m", 0, 0.003, PALETTE[0].upper())]
        assert "$0.00300 billed, $0.00800 list price" in texts(ax)
        assert ax.get_title(loc="left") == "Cost by model: $0.00300 billed, $0.00800 list price"

    def test_sorted_by_list_price(self) -> None:
        ax = cost_by_model(sample_results(4))
        heights = {text.get_text(): text.get_position()[1] for text in ax.texts}
        assert sorted(NAMES[:4], key=lambda name: heights[name]) == list(reversed(NAMES[:4]))
        top, bottom = sorted(ax.get_ylim())
        assert ax.get_ylim() == (bottom, top)

    def test_unknown_price_is_labelled(self) -> None:
        table = results([{"model": "known"}, {"model": "free", "cost_usd": None, "list_cost_usd": None}])
        ax = cost_by_model(table)
        assert "price unknown" in texts(ax)
        assert {name for name, *_ in bars(ax)} == {"p/known"}

    def test_zero_price_is_known(self) -> None:
        ax = cost_by_model(results([{"cost_usd": 0, "list_cost_usd": 0}]))
        assert "$0" in texts(ax)

    def test_unpriced_answers_are_counted(self) -> None:
        ax = cost_by_model(results([{}, {"cost_usd": None, "list_cost_usd": None}]))
        assert "$0.00000100; 1 of unknown price" in texts(ax)

    def test_failed_model_has_no_bar(self) -> None:
        ax = cost_by_model(results([{}, *failed(3, model="bad")]))
        assert "no answer, 3 failed" in texts(ax)
        assert {name for name, *_ in bars(ax)} == {"p/m"}

    def test_title_without_any_price(self) -> None:
        ax = cost_by_model(results([{"cost_usd": None, "list_cost_usd": None}]))
        assert ax.get_title(loc="left") == "Cost by model: no price is known"
        assert bars(ax) == []


class TestTokens:
    def test_token_classes_do_not_overlap(self) -> None:
        row = {"input_tokens": 100, "cached_input_tokens": 30, "output_tokens": 50, "reasoning_tokens": 20}
        ax = tokens_by_model(results([row, row]))
        assert [(start, width) for _, start, width, _ in bars(ax)] == [(0, 60), (60, 140), (200, 60), (260, 40)]
        assert bars(ax)[2][3] == PALETTE[0].upper()
        assert "200 in, 100 out" in texts(ax)

    def test_answers_without_usage_are_counted(self) -> None:
        bare = {"input_tokens": None, "output_tokens": None}
        assert "not reported by the provider" in texts(tokens_by_model(results([bare])))
        assert "10 in, 5 out; 1 not reported" in texts(tokens_by_model(results([bare, {}])))


class TestLatency:
    def test_curve_is_the_ecdf(self) -> None:
        times = [0.3, 0.1, 0.2, 0.2]
        ax = latency_ecdf(results([{"latency_s": time_s} for time_s in times]))
        (line,) = curves(ax).values()
        assert line.get_xdata().tolist() == [0.1, 0.1, 0.2, 0.2, 0.3]
        assert line.get_ydata().tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert line.get_drawstyle() == "steps-post"

    def test_cache_hits_are_left_out_and_failures_counted(self) -> None:
        table = results([{"latency_s": 1.0}, {"latency_s": 9.0, "cache_hit": True}, *failed(7)])
        ax = latency_ecdf(table)
        (line,) = curves(ax).values()
        assert max(line.get_xdata()) == 1.0
        assert legend_texts(ax)[1].split() == ["p/m", "1.00", "s", "1.00", "s", "1.00", "s", "1", "7"]

    def test_percentiles_are_actual_latencies(self) -> None:
        times = np.random.default_rng(1).lognormal(size=5000)
        ax = latency_ecdf(results([{"latency_s": float(time_s)} for time_s in times]))
        (marks,) = (line for line in ax.lines if line.get_label() == "_quantiles")
        exact = np.quantile(times, [0.5, 0.95, 0.99], method="inverted_cdf")
        assert marks.get_xdata() == pytest.approx(exact, abs=0)
        assert list(marks.get_ydata()) == [0.5, 0.95, 0.99]

    @pytest.mark.parametrize("count", [1, 2, 3, 1999, 2000, 2001, 100_000, 1_000_000])
    def test_thinned_curve_has_exact_percentiles(self, count: int) -> None:
        times = np.sort(np.random.default_rng(count).lognormal(size=count))
        x, y = ecdf_points(times)
        assert len(x) == len(y) <= 2000
        assert (y[0], y[-1], x[0], x[-1]) == (0, 1, times[0], times[-1])
        assert (np.diff(x) >= 0).all()
        assert (np.diff(y) > 0).all()
        for share in (0.5, 0.95, 0.99):
            assert quantile(times, share) in x

    def test_log_scale_for_wide_ranges(self) -> None:
        near = results([{"latency_s": 1.0}, {"latency_s": 2.0}])
        far = results([{"latency_s": 0.01}, {"latency_s": 20.0}])
        zero = results([{"latency_s": 0.0}, {"latency_s": 20.0}])
        assert [latency_ecdf(table).get_xscale() for table in (near, far, zero)] == ["linear", "log", "linear"]

    def test_legend_order(self) -> None:
        table = results(
            [
                {"model": "slow", "latency_s": 3.0},
                *failed(2, model="dead"),
                {"model": "fast", "latency_s": 0.5},
            ]
        )
        assert [line.split()[0] for line in legend_texts(latency_ecdf(table))[1:]] == ["p/fast", "p/slow", "p/dead"]

    def test_only_cache_hits(self) -> None:
        ax = latency_ecdf(results([{"cache_hit": True}]))
        assert texts(ax)[-1] == "No latencies: every answer came from the cache"


class TestPareto:
    def test_points_are_median_latency_and_cost(self) -> None:
        rows = [{"latency_s": time_s, "list_cost_usd": 2_000_000} for time_s in (1.0, 2.0, 9.0)]
        hit = {"latency_s": 50.0, "list_cost_usd": 2_000_000, "cost_usd": 0, "cache_hit": True}
        ax = cost_against_latency(results([*rows, hit]))
        (dots,) = ax.collections
        assert dots.get_offsets().tolist() == [[2.0, 2.0]]

    def test_points_on_the_front_are_filled(self) -> None:
        models = {"fast": (1.0, 9), "cheap": (4.0, 1), "worse": (5.0, 2), "middle": (2.0, 5)}
        rows = [{"model": n, "latency_s": s, "list_cost_usd": c * 1_000_000} for n, (s, c) in models.items()]
        ax = cost_against_latency(results(rows))
        filled = {
            str(dots.get_label()).removeprefix("p/"): to_hex(dots.get_facecolor()[0]) == to_hex(dots.get_edgecolor()[0])
            for dots in ax.collections
        }
        assert filled == {"fast": True, "cheap": True, "worse": False, "middle": True}
        twins = cost_against_latency(results([{"model": "one"}, {"model": "two"}]))
        assert [to_hex(dots.get_facecolor()[0]).upper() for dots in twins.collections] == list(PALETTE[:2])
        (stairs,) = (line for line in ax.lines if line.get_label() == "_front")
        assert list(zip(stairs.get_xdata(), stairs.get_ydata(), strict=True)) == [
            (1, 9),
            (2, 9),
            (2, 5),
            (4, 5),
            (4, 1),
        ]

    def test_models_without_price_or_call_are_counted(self) -> None:
        unpriced = {"model": "u", "cost_usd": None, "list_cost_usd": None}
        ax = cost_against_latency(results([{}, unpriced, {"model": "c", "cache_hit": True}]))
        assert len(ax.collections) == 1
        assert any("2 without a known price or a call of their own" in text for text in texts(ax))
        alone = cost_against_latency(results([unpriced]))
        assert texts(alone)[-1] == "No model has both a known price and a call of its own"

    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
    def test_pareto_front_is_not_dominated(self, points: list[tuple[int, int]]) -> None:
        best = [points[at] for at in pareto_front(points)]
        assert len(set(best)) == len(best)
        for point in points:
            beaten = any(x <= point[0] and y <= point[1] and (x, y) != point for x, y in points)
            assert (point in best) == (not beaten)


class TestQuality:
    def test_points_are_cost_and_mean_score(self) -> None:
        rows = [{"score": good, "list_cost_usd": 2_000_000} for good in (1.0, 0.0, 1.0, None)]
        (dots,) = cost_against_quality(results(rows)).collections
        assert dots.get_offsets().tolist() == [[2.0, pytest.approx(2 / 3)]]

    def test_front_is_cheaper_or_better(self) -> None:
        models = {"cheap": (1, 0.2), "good": (9, 0.9), "worse": (9, 0.1), "middle": (4, 0.5)}
        rows = [{"model": name, "list_cost_usd": c * 10**6, "score": q} for name, (c, q) in models.items()]
        ax = cost_against_quality(results(rows))
        filled = {
            str(dots.get_label()).removeprefix("p/"): to_hex(dots.get_facecolor()[0]) == to_hex(dots.get_edgecolor()[0])
            for dots in ax.collections
        }
        assert filled == {"cheap": True, "good": True, "worse": False, "middle": True}
        (stairs,) = (line for line in ax.lines if line.get_label() == "_front")
        assert list(zip(stairs.get_xdata(), stairs.get_ydata(), strict=True)) == [
            (1, 0.2), (4, 0.2), (4, 0.5), (9, 0.5), (9, 0.9),
        ]  # fmt: skip

    def test_scores_by_model_or_boolean(self) -> None:
        table = results([{}, {"model": "other"}])
        ax = cost_against_quality(table, score={"p/m": 7.5})
        assert ax.collections[0].get_offsets().tolist() == [[0.001, 7.5]]
        assert any("1 without a known price or a score" in text for text in texts(ax))
        right = table.append_column("right", pa.array([True, False]))
        ax = cost_against_quality(right, score="right")
        assert [dots.get_offsets().tolist()[0][1] for dots in ax.collections] == [1.0, 0.0]
        with pytest.raises(ValueError, match="'grade' is not a column"):
            cost_against_quality(table, score="grade")


class TestFirstToken:
    def test_curve_of_streamed_calls(self) -> None:
        ax = ttft_ecdf(results([{"ttft_s": 0.2}, {"ttft_s": 0.4}, {"ttft_s": None}]))
        (line,) = curves(ax).values()
        assert line.get_xdata().tolist() == [0.2, 0.2, 0.4]

    def test_no_streamed_calls(self) -> None:
        message = texts(ttft_ecdf(results([{"ttft_s": None}])))[-1]
        assert message == "No times to the first token: pass stream=True to measure them"


class TestHistogram:
    def test_cached_answers_are_included(self) -> None:
        rows = [{"output_tokens": n} for n in (10, 10, 10, 40)] + [{"output_tokens": None}]
        ax = token_histogram(results(rows))
        (hill,) = ax.patches
        values, edges, foot = hill.get_data()
        heights = {edges[at] + 0.5: foot - top for at, top in enumerate(values) if top != foot}
        assert heights == {10: pytest.approx(0.56), 40: pytest.approx(0.56 / 3)}
        assert "median 10, p95 40" in texts(ax)

    def test_bins_contain_all_answers(self) -> None:
        counts = [1, 3, 8, 60, 700, 20_000]
        ax = token_histogram(results([{"output_tokens": n} for n in counts]))
        assert ax.get_xscale() == "log"
        _, edges, _ = ax.patches[0].get_data()
        assert edges[0] < 1
        assert edges[-1] > 20_000

    def test_token_kinds(self) -> None:
        assert "median 10, p95 10" in texts(token_histogram(results([{}]), kind="input"))
        assert texts(token_histogram(results([{}]), kind="reasoning"))[-1] == "No provider reported reasoning tokens"
        with pytest.raises(ValueError, match="kind must be one of 'input', 'output', 'reasoning', not 'inputs'"):
            token_histogram(results([{}]), kind="inputs")  # type: ignore[arg-type]


def at_s(seconds: float, **more: Any) -> dict[str, Any]:
    return {"started_at": BEGAN + timedelta(seconds=seconds), **more}


class TestThroughput:
    def test_answers_are_counted_at_their_time(self) -> None:
        rows = [at_s(0), at_s(0), at_s(5.05), at_s(9, cache_hit=True)]
        ax = throughput(results(rows))
        (hill,) = ax.patches
        values, edges, foot = hill.get_data()
        full = [edges[at] for at, top in enumerate(values) if top != foot]
        assert full == [pytest.approx(1.0), pytest.approx(6.0)]
        heights = [foot - top for top in values if top != foot]
        assert heights == [pytest.approx(0.56), pytest.approx(0.28)]
        assert any("3 answers in 6.05 s" in text and "1 from the cache, not drawn" in text for text in texts(ax))

    def test_rejections_and_limits_are_marked(self) -> None:
        refused = {"status": "error", "error_type": "RateLimited", "latency_s": 0.5, "total_s": 0.5}
        ax = throughput(results([at_s(0), at_s(2, **refused)]), limits_rpm={"p/m": 600})
        (marks,) = (line for line in ax.lines if line.get_label() == "_refused")
        assert list(marks.get_xdata()) == [2.5]
        (limit,) = (line for line in ax.lines if line.get_label() == "_limit")
        assert limit.get_ydata()[0] == pytest.approx(0.96 - 0.56 * min(1, 10 / 20))
        assert "1 per second, 1 rejected" in texts(ax)
        assert "limit\n10/s" in texts(ax)
        assert not any("rpm" in text for text in texts(ax))

    def test_rates_have_an_axis_in_one_unit(self) -> None:
        ax = throughput(results([at_s(0), at_s(0), at_s(5, model="other")]), limits_rpm={"p/m": 60})
        assert ax.get_ylabel() == "answers per second"
        labels = [label.get_text() for label in ax.get_yticklabels()]
        assert labels == ["0", "20", "0", "20"]
        assert any("dashed: limit, as a mean over a minute" in text for text in texts(ax))

    def test_retried_rejections_come_from_the_decisions(self) -> None:
        epoch_s = BEGAN.timestamp()
        log = [
            Decision(epoch_s + 0.5, "retry", "p/m", "RateLimited", 1.0),
            Decision(epoch_s + 0.6, "retry", "p/m", "ServerError", 1.0),
            Decision(epoch_s + 0.7, "retry", "p/other", "RateLimited", 1.0),
            Decision(epoch_s + 0.8, "shrink", "p/m", "to 8 calls at once"),
        ]
        ax = throughput(results([at_s(0, latency_s=2.0, total_s=2.0)]), decisions=log)
        (marks,) = (line for line in ax.lines if line.get_label() == "_refused")
        assert list(marks.get_xdata()) == [pytest.approx(0.5)]

    def test_stages_of_a_call(self) -> None:
        row = at_s(2, queue_s=0.5, rate_wait_s=1.0, latency_s=1.0, total_s=4.5, attempts=2)
        ax = timeline(results([at_s(0), row]))
        second = max(patch.get_y() for patch in ax.patches)
        spans = sorted((patch.get_x(), patch.get_width()) for patch in ax.patches if patch.get_y() > second - 0.01)
        assert spans == [(0.5, 0.5), (1.0, 1.0), (2.0, 2.0), (4.0, 1.0)]
        assert any("queue, limit, earlier tries, provider" in text for text in texts(ax))

    def test_nothing_is_drawn_before_the_start(self) -> None:
        """The waits of all attempts are one sum, of which only a part came before the first attempt."""
        waited = at_s(0, rate_wait_s=0.8, latency_s=0.1, total_s=1.2, attempts=3, status="error", error_type="TimedOut")
        queued = at_s(1, queue_s=0.25)
        ax = timeline(results([waited, queued, at_s(0.1)]))
        assert min(patch.get_x() for patch in ax.patches) == 0
        assert ax.get_xlim()[0] == 0
        (crosses,) = (line for line in ax.lines if line.get_label() == "_failed")
        assert crosses.get_xdata().tolist() == [pytest.approx(1.2)]

    def test_first_call_that_waited_starts_at_zero(self) -> None:
        ax = timeline(results([at_s(2, queue_s=0.5, rate_wait_s=1.0), at_s(3)]))
        assert min(patch.get_x() for patch in ax.patches) == 0
        assert {patch.get_width() for patch in ax.patches} == {0.5, 1.0}

    @pytest.mark.parametrize("models", [1, 2, 8])
    def test_thousands_of_calls_are_sampled_into_visible_lines(self, models: int) -> None:
        rows = [at_s(n / 10, model=f"m{n % models}") for n in range(4000)]
        ax = timeline(results(rows))
        ax.figure.draw_without_rendering()
        heights = {patch.get_window_extent().height / ax.figure.dpi * 72 for patch in ax.patches}
        assert min(heights) > 1.2
        assert len(ax.patches) >= 20 * models
        assert any(f"{len(ax.patches)} of 4,000 calls, evenly chosen" in text for text in texts(ax))

    def test_each_model_has_a_band_of_its_own(self) -> None:
        ax = timeline(results([at_s(n, model=f"m{n % 9}") for n in range(90)]))
        bands = {(int(patch.get_y()), to_hex(patch.get_facecolor()), patch.get_hatch()) for patch in ax.patches}
        assert len(bands) == 9
        assert {f"p/m{n}" for n in range(9)} <= set(texts(ax))

    def test_failed_calls_end_in_a_cross(self) -> None:
        ax = timeline(results([at_s(0), at_s(1, status="error", error_type="TimedOut")]))
        (crosses,) = (line for line in ax.lines if line.get_label() == "_failed")
        assert crosses.get_xdata().tolist() == [2.0]
        assert sum(patch.get_y() < crosses.get_ydata()[0] < patch.get_y() + patch.get_height() for patch in ax.patches)

    @pytest.mark.parametrize("plot", [throughput, timeline])
    def test_only_cache_hits(self, plot: Plot) -> None:
        assert texts(plot(results([{"cache_hit": True}] * 3)))[-1] == "No calls: 3 answers came from the cache"


class TestCompactResults:
    def test_cached_answers_have_no_list_price(self) -> None:
        rows = [{"cost_usd": 500_000_000}, {"cost_usd": 0, "cache_hit": True}]
        table = results(rows).select(list(COMPACT_COLUMNS))
        ax = cost_by_model(table)
        assert ax.get_title(loc="left") == "Cost by model: $0.500 billed"
        assert any("list prices of cached answers need columns=['list_cost_usd']" in text for text in texts(ax))
        cached = cost_by_model(table.slice(1))
        assert cached.get_title(loc="left") == "Cost by model: answered from the cache"
        assert "answered from the cache" in texts(cached)
        placed = cost_against_latency(table)
        assert placed.collections[0].get_offsets().tolist()[0][1] == 500  # of the answer that was paid for

    @pytest.mark.parametrize("plot", PLOTS)
    def test_plots_of_compact_results(self, plot: Plot) -> None:
        table = sample_results(3)
        compact = table.select([*COMPACT_COLUMNS, *(name for name in table.column_names if name == "score")])
        if plot in {throughput, timeline, ttft_ecdf}:
            with pytest.raises(ValueError, match="the plot needs the column"):
                plot(compact)
        else:
            assert texts(plot(compact))


class TestAccessor:
    def test_plot_accessor(self) -> None:
        frame = sample_results(2).to_pandas(types_mapper=pd.ArrowDtype)
        assert texts(frame.llm.plot.cost_by_model()) == texts(cost_by_model(frame))
        ax = Figure().add_subplot()
        assert frame.llm.plot.latency_ecdf(ax) is ax
        assert set(dir(frame.llm.plot)) == {plot.__name__ for plot in PLOTS}

    def test_plot_accessor_with_prefix(self) -> None:
        plain = sample_results(2).to_pandas(types_mapper=pd.ArrowDtype)
        frame = plain.add_prefix("gpt_").assign(model="mine", status=3)
        assert texts(frame.llm.plot(prefix="gpt_").cost_by_model()) == texts(cost_by_model(plain))

    def test_unknown_plot_is_rejected(self) -> None:
        with pytest.raises(AttributeError, match="no plot 'pie'; the plots are cost_against_latency"):
            _ = pd.DataFrame().llm.plot.pie


class TestAllPlots:
    @pytest.mark.parametrize("plot", PLOTS)
    def test_draws_on_the_given_axes(self, plot: Plot) -> None:
        figure = Figure()
        ax = figure.add_subplot()
        assert plot(sample_results(3), ax) is ax
        assert plot(sample_results(3), ax=None).figure is not figure

    @pytest.mark.parametrize("plot", PLOTS)
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([], "No rows"),
            (
                [*failed(3), *failed(5, error_type="TimedOut", model="x")],
                "No answers: 8 of 8 rows failed\nTimedOut 5, RateLimited 3",
            ),
            ([{"status": "skipped", "latency_s": None}] * 2, "No answers: none of 2 rows was sent"),
        ],
    )
    def test_message_without_data(self, plot: Plot, rows: list[dict[str, Any]], message: str) -> None:
        ax = plot(results(rows))
        assert texts(ax)[-1] == message
        assert ax.get_title(loc="left")
        assert [*ax.lines, *ax.patches, *ax.collections] == []

    def test_model_has_one_color_in_all_plots(self) -> None:
        table = sample_results(12)
        expected = {name: series_style(at).color.upper() for at, name in enumerate(NAMES)}
        paid = {name: colour for name, _, _, colour in bars(cost_by_model(table))}
        lines = {name: str(line.get_color()).upper() for name, line in curves(latency_ecdf(table)).items()}
        dots = cost_against_latency(table).collections
        points = {str(each.get_label()): to_hex(each.get_edgecolor()[0]).upper() for each in dots}
        output = {name: colour for name, _, _, colour in bars(tokens_by_model(table)) if colour in expected.values()}
        assert paid == lines == points == output == expected

    def test_models_beyond_the_palette_differ_in_dash_and_marker(self) -> None:
        looks = [series_style(at) for at in range(28)]
        assert len({(look.color, look.dash) for look in looks}) == 28
        assert len({(look.color, look.marker) for look in looks}) == 28
        assert len({(look.color, look.hatch) for look in looks}) == 28
        assert len({look.color for look in looks[:8]}) == 8
        assert (looks[6].hatch, looks[6].marker) == ("", "o")
        assert looks[7].hatch
        assert looks[7].marker != "o"

    @pytest.mark.parametrize("plot", PLOTS)
    @pytest.mark.parametrize("models", [1, 4, 12])
    def test_texts_do_not_overlap_or_leave_the_figure(self, plot: Plot, models: int) -> None:
        ax = plot(sample_results(models))
        written = drawn_texts(ax)
        boxes = [(text.get_text(), text.get_window_extent()) for text in written]
        page = ax.figure.bbox
        for text, box in boxes:
            assert box.x0 >= page.x0, text
            assert box.x1 <= page.x1, text
            assert box.y0 >= page.y0, text
        for (a, first), (b, second) in combinations(boxes, 2):
            shared = (
                min(first.x1, second.x1) - max(first.x0, second.x0),
                min(first.y1, second.y1) - max(first.y0, second.y0),
            )
            assert min(shared) < 2, (a, b)

    def test_crowded_labels_are_listed_in_a_column(self) -> None:
        rows = []
        for at, name in enumerate(NAMES):
            provider, _, model = name.partition("/")
            cost = 1_000_000 + at % 3 * 5_000
            rows.append({"provider": provider, "model": model, "latency_s": 1.0, "list_cost_usd": cost})
        ax = cost_against_latency(results(rows))
        ax.figure.draw_without_rendering()
        labels = [text for text in ax.texts if text.get_text() in NAMES or "…" in text.get_text()]
        assert len(labels) == len(NAMES)
        assert len({round(text.get_window_extent().x0) for text in labels}) == 1
        heights = sorted(text.get_window_extent().y0 for text in labels)
        assert min(np.diff(heights)) >= max(text.get_window_extent().height for text in labels) * 0.8

    @pytest.mark.parametrize("plot", PLOTS)
    def test_dollar_in_a_name_is_not_mathematics(self, plot: Plot) -> None:
        ax = plot(results([{"model": "a$b$c_d"}, {"model": "e$f$g", "latency_s": 2.0}]))
        ax.figure.draw_without_rendering()
        assert any("a$b$c_d" in text.get_text() for text in drawn_texts(ax))
        assert not any(text.get_parse_math() for text in drawn_texts(ax) if "$" in text.get_text())

    @pytest.mark.parametrize("plot", PLOTS)
    @pytest.mark.parametrize("kind", ["numpy", "arrow", "csv"])
    def test_data_frame_equals_table(self, plot: Plot, kind: str, tmp_path: Path) -> None:
        table = sample_results(4)
        frame = table.to_pandas(types_mapper=pd.ArrowDtype if kind == "arrow" else None)
        if kind == "csv":
            flat = frame.drop(columns=["tool_calls", "dropped_params", "request_key"])
            flat.to_csv(tmp_path / "results.csv", index=False)
            frame = pd.read_csv(tmp_path / "results.csv")
        frame.index = pd.Index(range(7, 7 + len(frame)))
        mine, theirs = plot(table), plot(frame)
        assert texts(mine) == texts(theirs)
        assert bars(mine) == bars(theirs)
        assert [line.get_xydata().tolist() for line in mine.lines] == [
            line.get_xydata().tolist() for line in theirs.lines
        ]

    @pytest.mark.parametrize("plot", PLOTS)
    def test_other_tables_are_rejected(self, plot: Plot) -> None:
        with pytest.raises(ValueError, match="needs results of llmhub, but there is no column 'provider'"):
            plot(pa.table({"prompt": ["hi"]}))
        with pytest.raises(ValueError, match=r"no column 'latency_s'"):
            plot(sample_results(1).drop_columns(["latency_s"]).to_pandas())

    def test_dark_theme(self) -> None:
        with mpl.rc_context({"text.color": "white", "axes.facecolor": "black", "figure.facecolor": "black"}):
            ax = cost_by_model(sample_results(2))
        name = next(text for text in ax.texts if text.get_text() == NAMES[0])
        assert to_rgb(name.get_color()) == (1, 1, 1)

    def test_rcparams_are_not_changed(self) -> None:
        cost_by_model(sample_results(2))  # pyplot chooses its backend once
        before = dict(mpl.rcParams)
        for plot in PLOTS:
            plot(sample_results(2))
        assert dict(mpl.rcParams) == before

    def test_matplotlib_is_imported_late(self) -> None:
        code = "import sys, llmhub.plots; sys.exit('matplotlib' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])

    @pytest.mark.parametrize("plot", PLOTS)
    def test_simulated_results_say_so(self, plot: Plot) -> None:
        table = sample_results(2)
        assert "simulated" not in plot(table).get_title(loc="left")
        marked = table.replace_schema_metadata({b"simulated": b"true"})
        assert "(simulated)" in plot(marked).get_title(loc="left")
        frame = table.to_pandas()
        frame.attrs["simulated"] = True
        assert "(simulated)" in plot(frame).get_title(loc="left")

    def test_simulated_costs_are_list_prices_and_nothing_is_billed(self) -> None:
        ax = cost_by_model(sample_results(2).replace_schema_metadata({b"simulated": b"true"}))
        assert not any("billed" in text for text in [ax.get_title(loc="left"), *texts(ax)])
        assert "list price" in ax.get_title(loc="left")

    @pytest.mark.parametrize("plot", [cost_against_latency, cost_against_quality])
    def test_costs_of_a_thousand_answers_are_list_prices(self, plot: Plot) -> None:
        ax = plot(sample_results(3))
        assert any("list price of 1,000 answers" in label for label in (ax.get_xlabel(), ax.get_ylabel()))

    def test_logarithmic_axes_say_so(self) -> None:
        counts = token_histogram(results([{"output_tokens": n} for n in (1, 20_000)]))
        assert counts.get_xlabel() == "output tokens of an answer, logarithmic"
        assert "logarithmic" not in token_histogram(results([{"output_tokens": 5}])).get_xlabel()


class TestDisplay:
    """A new figure joins pyplot's and shows itself; one that cannot be shown is saved."""

    def test_new_figures_join_those_of_pyplot(self) -> None:
        ax = cost_by_model(sample_results(1))
        assert plt.gcf() is ax.figure
        assert plt.gca() is ax
        plt.close(ax.figure)
        assert plt.get_fignums() == []

    def test_given_axes_make_no_figure(self) -> None:
        cost_by_model(sample_results(1), Figure().add_subplot())
        assert plt.get_fignums() == []

    def test_other_threads_do_not_touch_pyplot(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            ax = pool.submit(cost_by_model, sample_results(1)).result()
        assert plt.get_fignums() == []
        assert ax._repr_png_().startswith(b"\x89PNG")

    def test_axes_and_figure_are_pictures(self) -> None:
        ax = cost_by_model(sample_results(1))
        assert ax._repr_png_().startswith(b"\x89PNG")
        assert ax.figure._repr_png_().startswith(b"\x89PNG")

    def test_script_without_windows_says_where_plots_were_saved(self) -> None:
        shown = run_python("ax = plots.cost_by_model(RESULTS.empty_table())\nimport matplotlib.pyplot as p\np.show()")
        path = re.search(r"<Cost by model: no window can be opened here; saved to (.*)>", shown.stderr)
        assert path is not None
        assert Path(path[1]).read_bytes().startswith(b"\x89PNG")
        assert shown.stdout == ""

    def test_prompt_without_windows_says_where_plots_were_saved(self) -> None:
        shown = run_python("plots.cost_by_model(RESULTS.empty_table())\n", "-i")
        path = re.search(r"<Cost by model: no window can be opened here; saved to (.*)>", shown.stdout)
        assert path is not None
        assert Path(path[1]).read_bytes().startswith(b"\x89PNG")


def run_python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run code that plots in a process without windows; with ``-i``, at a prompt."""
    code = f"import llmhub.plots as plots\nfrom llmhub.tables.schema import RESULTS\n{code}"
    environment = {name: value for name, value in os.environ.items() if name not in {"DISPLAY", "MPLBACKEND"}}
    command = [sys.executable, *flags, *([] if flags else ["-c", code])]
    return subprocess.run(
        command,
        input=code if flags else "",
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )


class TestSave:
    @pytest.mark.parametrize(
        ("name", "magic"), [("a.png", b"\x89PNG"), ("deep/er/a.svg", b"<?xml"), ("a.pdf", b"%PDF")]
    )
    def test_extension_decides_the_format(self, tmp_path: Path, name: str, magic: bytes) -> None:
        path = save(latency_ecdf(sample_results(2)), tmp_path / name)
        assert path == tmp_path / name
        assert path.read_bytes().startswith(magic)

    def test_figure_of_several_plots(self, tmp_path: Path) -> None:
        figure = Figure()
        for plot, ax in zip(PLOTS, figure.subplots(3, 3).flat, strict=True):
            plot(sample_results(3), ax)
        assert save(figure, str(tmp_path / "all.png")).stat().st_size > 10_000

    def test_other_objects_are_rejected(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="must be a matplotlib Figure or Axes"):
            save("a plot", tmp_path / "a.png")  # type: ignore[arg-type]


class TestModelSummary:
    def test_totals_by_model_in_order_of_appearance(self) -> None:
        table = results(
            [
                {"model": "b", "cost_usd": 1, "list_cost_usd": 1},
                {"model": "a", "cost_usd": 2, "list_cost_usd": 2},
                {"model": "b", "cost_usd": 0, "list_cost_usd": 4, "cache_hit": True},
                *failed(1, model="b"),
            ]
        )
        b, a = summarize_models(table)
        assert (b.name, b.rows, b.answered, b.failed, b.cache_hits, b.priced) == ("p/b", 3, 2, 1, 1, 2)
        assert (b.billed_usd, b.list_usd) == (1e-9, 5e-9)
        assert dict(b.errors) == {"RateLimited": 1}
        assert (a.name, a.rows) == ("p/a", 1)

    def test_provider_in_the_model_name_is_not_repeated(self) -> None:
        (each,) = summarize_models(results([{"provider": "openai", "model": "openai/gpt-4o"}]))
        assert each.name == "openai/gpt-4o"

    def test_chunked_dictionary_columns(self) -> None:
        parts = [results([{"model": name}]) for name in ("a", "b", "a")]
        assert [(each.name, each.rows) for each in summarize_models(pa.concat_tables(parts))] == [
            ("p/a", 2),
            ("p/b", 1),
        ]


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=12).map(lambda heights: sorted(heights, reverse=True)),
    st.floats(1, 8),
)
def test_labels_are_spread_apart_within_limits(heights: list[float], step: float) -> None:
    moved = _spread_apart(heights, step, 100)
    assert all(high - low >= step - 1e-6 for high, low in pairwise(moved))
    assert moved[-1] >= step / 2 - 1e-6
    assert moved[0] <= 100 - step / 2 + 1e-6
