"""Summary of a load test: one row of figures from the table of its calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.bench.load import Load
from llmhub.bench.stream_times import StreamTimes
from llmhub.core.errors import invalid
from llmhub.plots.model_summary import quantile
from llmhub.tables.cost_columns import to_nanos

QUANTILES: Final = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
TIME_METRICS: Final = ("latency_s", "ttft_s", "tpot_s")
MEASURED_TIMES: Final = (*TIME_METRICS, "ttfo_s")
NANOS_PER_USD: Final = 1e9


HIGH_END: Final = "upper end, null if so few calls cannot bound it, of the interval of the"


def _field(name: str, kind: pa.DataType, about: str, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"description": about, **({"unit": unit} if unit else {})})


SUMMARY: Final[pa.Schema] = pa.schema(
    [
        _field("model", pa.string(), "provider/model"),
        _field("load", pa.string(), "shape of the load"),
        _field("offered_per_s", pa.float64(), "calls due per second; null for a closed load", "1/s"),
        _field("requests", pa.int64(), "number of measured calls"),
        _field("ok", pa.int64(), "number of answered calls"),
        _field("errors", pa.map_(pa.string(), pa.int64()), "number of failed calls by error type"),
        _field("duration_s", pa.float64(), "from the first call to the last answer", "s"),
        _field("requests_per_s", pa.float64(), "answered calls per second", "1/s"),
        _field("output_tokens_per_s", pa.float64(), "output tokens per second, as reported by the provider", "1/s"),
        _field("total_tokens_per_s", pa.float64(), "input and output tokens per second", "1/s"),
        *(
            _field(f"{time}_{name}{end}", pa.float64(), f"{about} {name} of answered calls", "s")
            for time in (*MEASURED_TIMES, "service_s")
            for name, _ in QUANTILES
            for end, about in (("", ""), ("_low", "lower end of the interval of the"), ("_high", HIGH_END))
        ),
        *(
            _field(f"{time}_{name}", pa.float64(), f"{name} of answered calls", "s")
            for time in MEASURED_TIMES
            for name in ("mean", "std")
        ),
        *(
            _field(f"itl_s_{name}", pa.float64(), f"{name} of the gaps between the pieces of all streams", "s")
            for name in (*(name for name, _ in QUANTILES), "mean", "std")
        ),
        _field("input_tokens_mean", pa.float64(), "mean of answered calls, as reported by the provider", "tokens"),
        _field("output_tokens_mean", pa.float64(), "mean of answered calls, as reported by the provider", "tokens"),
        _field("tokens_per_s", pa.float64(), "median of a call's tokens per second after the first", "1/s"),
        _field("schedule_delay_s_p95", pa.float64(), "p95 of the time from a call's being due to being sent", "s"),
        _field("rate_wait_s_p95", pa.float64(), "p95 of the waits for limits of the hub", "s"),
        _field("goodput_share", pa.float64(), "share of calls answered within the targets; null without targets"),
        _field("goodput_per_s", pa.float64(), "such calls per second; null without targets", "1/s"),
        _field("usd_per_1k_requests", pa.float64(), "list price of 1,000 answers; null if the price is unknown", "USD"),
        _field("usd_per_million_output_tokens", pa.float64(), "list price, input included, per output tokens", "USD"),
    ]
)
"""One row per model and load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Service-level targets of a call, in seconds: latency, time to first token, and time per output token.

    Examples
    --------
    >>> Targets(ttft_s=0.5).is_set
    True
    """

    latency_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None

    def __post_init__(self) -> None:
        """Validate the targets."""
        for name, value in self.limits.items():
            if not value > 0:
                raise invalid(f"targets.{name}", f"{value!r} is not a duration; pass seconds > 0")

    @property
    def limits(self) -> dict[str, float]:
        """The targets that are set, by name."""
        values = {name: getattr(self, name) for name in TIME_METRICS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def is_set(self) -> bool:
        """Whether any target is set."""
        return bool(self.limits)


def response_times(
    table: pa.Table, *, is_open: bool = False, hidden_tokens: Any = 0.0, stream: StreamTimes | None = None
) -> dict[str, Any]:
    """Return the times of answered calls in seconds, by metric; NaN for a call without one.

    Parameters
    ----------
    table
        The calls, in the results schema.
    is_open
        Whether latency and time to first token count from the time a call was due, waits included.
    hidden_tokens
        Output tokens of each call that came before the first token: reasoning that was not streamed.
    stream
        Times of the chunks of each call.

    Notes
    -----
    The time per output token (TPOT) is the time from the first token to the end of the response divided by the number
    of tokens less one. Tokens are counted by the provider, because the chunks of a stream are not tokens.
    """
    is_answered = pc.fill_null(pc.equal(table.column("status"), "ok"), False).to_numpy()
    answered = table.filter(pa.array(is_answered))
    names = ("latency_s", "ttft_s", "output_tokens", "queue_s", "rate_wait_s")
    service, ttft, tokens, queue, rate_wait = (answered.column(name).cast(pa.float64()).to_numpy() for name in names)
    visible = tokens - np.broadcast_to(hidden_tokens, len(table))[is_answered]
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot = np.where(visible > 1, (service - ttft) / (visible - 1), np.nan)
    waited = np.nan_to_num(queue) + np.nan_to_num(rate_wait) if is_open else 0.0
    first = ttft + waited
    output = first + (np.full(len(first), np.nan) if stream is None else stream.output_delay_s[is_answered])
    return {"latency_s": service + waited, "ttft_s": first, "tpot_s": tpot, "ttfo_s": output, "service_s": service}


def summarise_run(
    model: str,
    load: Load,
    table: pa.Table,
    duration_s: float,
    targets: Targets,
    *,
    hidden_tokens: Any = 0.0,
    level: float = 0.95,
    stream: StreamTimes | None = None,
) -> Mapping[str, Any]:
    """Return the row of `SUMMARY` for the calls of a load.

    Parameters
    ----------
    table
        The calls, in the results schema.
    duration_s
        Seconds from the first call's being due to the last answer.
    hidden_tokens
        Output tokens of each call that came before its first token.
    level
        Confidence level of the intervals.
    stream
        Times of the chunks of each call.
    """
    times = response_times(table, is_open=load.per_s is not None, hidden_tokens=hidden_tokens, stream=stream)
    ok = len(times["latency_s"])
    errors = table.filter(pc.equal(table.column("status"), "error")).column("error_type").value_counts().to_pylist()
    output_tokens = pc.sum(table.column("output_tokens")).as_py() or 0
    input_tokens = pc.sum(table.column("input_tokens")).as_py() or 0
    list_cost = table.column("list_cost_usd")
    all_priced = ok and list_cost.null_count == len(table) - ok
    list_cost_usd = to_nanos(list_cost).sum() / NANOS_PER_USD if all_priced else None
    good = _count_within(times, targets)
    return {
        "model": model,
        "load": str(load),
        "offered_per_s": load.per_s,
        "requests": len(table),
        "ok": ok,
        "errors": {item["values"]: item["counts"] for item in errors},
        "duration_s": duration_s,
        "requests_per_s": ok / duration_s if duration_s else None,
        "output_tokens_per_s": output_tokens / duration_s if duration_s else None,
        "total_tokens_per_s": (input_tokens + output_tokens) / duration_s if duration_s else None,
        **_quantiles(times, level),
        **_moments(times),
        **_gap_figures(np.empty(0) if stream is None else stream.gaps_s),
        "input_tokens_mean": input_tokens / ok if ok else None,
        "output_tokens_mean": output_tokens / ok if ok else None,
        "tokens_per_s": 1 / tpot_s if (tpot_s := quantile_if_any(times["tpot_s"], 0.5)) else None,
        "schedule_delay_s_p95": quantile_if_any(table.column("queue_s").cast(pa.float64()).to_numpy(), 0.95),
        "rate_wait_s_p95": quantile_if_any(table.column("rate_wait_s").cast(pa.float64()).to_numpy(), 0.95),
        "goodput_share": good / len(table) if targets.is_set else None,
        "goodput_per_s": good / duration_s if targets.is_set and duration_s else None,
        "usd_per_1k_requests": None if list_cost_usd is None else list_cost_usd / ok * 1000,
        "usd_per_million_output_tokens": (
            list_cost_usd / output_tokens * 1e6 if list_cost_usd is not None and output_tokens else None
        ),
    }


def _quantiles(times: Mapping[str, Any], level: float) -> dict[str, float | None]:
    """Return the quantiles of each time with their intervals."""
    figures: dict[str, float | None] = {}
    for name, values in times.items():
        for mark, share in QUANTILES:
            low, high = order_statistic_interval(values[np.isfinite(values)], share, level)
            column = f"{name}_{mark}"
            figures |= {column: quantile_if_any(values, share), f"{column}_low": low, f"{column}_high": high}
    return figures


def _moments(times: Mapping[str, Any]) -> dict[str, float | None]:
    figures: dict[str, float | None] = {}
    for name in MEASURED_TIMES:
        finite = times[name][np.isfinite(times[name])]
        figures[f"{name}_mean"] = float(finite.mean()) if len(finite) else None
        figures[f"{name}_std"] = float(finite.std(ddof=1)) if len(finite) > 1 else None
    return figures


def _gap_figures(gaps: Any) -> dict[str, float | None]:
    """Return quantiles and moments of the gaps between pieces; without intervals, since gaps of a call are alike."""
    figures = {f"itl_s_{mark}": quantile_if_any(gaps, share) for mark, share in QUANTILES}
    figures["itl_s_mean"] = float(gaps.mean()) if len(gaps) else None
    figures["itl_s_std"] = float(gaps.std(ddof=1)) if len(gaps) > 1 else None
    return figures


def order_statistic_interval(values: Any, share: float, level: float = 0.95) -> tuple[float | None, float | None]:
    """Return a distribution-free interval of a quantile; ``None`` for an end that so few values cannot bound.

    The ranks of its ends are quantiles of the binomial distribution of the number of values below the quantile.

    Examples
    --------
    >>> order_statistic_interval(np.arange(1.0, 41.0), 0.99), order_statistic_interval(np.arange(1.0, 12.0), 0.5)
    ((38.0, None), (2.0, 10.0))
    """
    count = len(values)
    if not count:
        return None, None
    successes = np.arange(count + 1)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    log_weights = log_factorials[-1] - log_factorials - log_factorials[::-1]
    log_weights = log_weights + successes * np.log(share) + (count - successes) * np.log1p(-share)
    cumulative = np.cumsum(np.exp(log_weights))
    tail = (1 - level) / 2
    below, above = (int(np.searchsorted(cumulative, bound * (1 - 1e-12))) for bound in (tail, 1 - tail))
    ordered = np.sort(values)
    low = None if below < 1 else float(ordered[below - 1])
    return low, None if above >= count else float(ordered[above])


def quantile_if_any(values: Any, share: float) -> float | None:
    """Return the smallest value that is at least as large as ``share`` of the finite values; ``None`` without any.

    Examples
    --------
    >>> quantile_if_any(np.array([3.0, 1.0, 2.0, np.nan]), 0.5)
    2.0
    """
    finite = np.sort(values[np.isfinite(values)])
    return quantile(finite, share) if len(finite) else None


def _count_within(times: Mapping[str, Any], targets: Targets) -> int:
    """Count the calls that meet all targets; a call without the time of a target does not meet it."""
    meets = np.ones(len(times["latency_s"]), np.bool_)
    for name, limit in targets.limits.items():
        with np.errstate(invalid="ignore"):
            meets &= times[name] <= limit
    return int(meets.sum())
