"""What a load came to: one row of figures from the table of its calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.bench.load import Load
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.tables.cost_columns import to_nanos

QUANTILES: Final = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


TIME_METRICS: Final = ("latency_s", "ttft_s", "tpot_s")


NANO: Final = 1e9


def _f(name: str, kind: pa.DataType, about: str, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"description": about, **({"unit": unit} if unit else {})})


SUMMARY: Final[pa.Schema] = pa.schema(
    [
        _f("model", pa.string(), "provider/model"),
        _f("load", pa.string(), "shape of the load"),
        _f("offered_per_s", pa.float64(), "calls a second that were due; null in a closed load", "1/s"),
        _f("requests", pa.int64(), "calls measured"),
        _f("ok", pa.int64(), "answered"),
        _f("errors", pa.map_(pa.string(), pa.int64()), "failures by kind"),
        _f("span_s", pa.float64(), "from the first call to the last answer", "s"),
        _f("requests_per_s", pa.float64(), "answers a second", "1/s"),
        _f("output_tokens_per_s", pa.float64(), "tokens of all answers a second, as the provider counted them", "1/s"),
        *(
            _f(f"{time}_{name}", pa.float64(), f"{name} of answered calls", "s")
            for time in TIME_METRICS
            for name, _ in QUANTILES
        ),
        _f("tokens_per_s", pa.float64(), "median of one answer's tokens a second after its first", "1/s"),
        _f("lag_s_p95", pa.float64(), "p95 of how long after it was due a call was sent", "s"),
        _f("good", pa.float64(), "share of calls that were answered within the targets; null without targets"),
        _f("goodput_per_s", pa.float64(), "such answers a second; null without targets", "1/s"),
        _f("usd_per_1k_requests", pa.float64(), "worth of a thousand answers; null where the price is unknown", "USD"),
        _f("usd_per_million_output_tokens", pa.float64(), "worth, input included, by tokens of output", "USD"),
    ]
)
"""One row for each model and load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What a good answer keeps to, in seconds: the whole of it, its first token, and between tokens.

    Examples
    --------
    >>> Targets(ttft_s=0.5).is_set
    True
    """

    latency_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        for name, value in self.limits.items():
            if not value > 0:
                raise BadRequestError(InvalidRequest(path=f"targets.{name}", message=f"{value!r} is no time; give > 0"))

    @property
    def limits(self) -> dict[str, float]:
        """The targets that are set."""
        found = {name: getattr(self, name) for name in TIME_METRICS}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def is_set(self) -> bool:
        """Whether there is any."""
        return bool(self.limits)


def response_times(table: pa.Table) -> dict[str, Any]:
    """Give the times of answered calls, in seconds; NaN where a call has none.

    Between tokens is the time from the first token to the end over the tokens less one: what a provider counted, since
    the pieces of a stream are no tokens.
    """
    answered = table.filter(pc.equal(table.column("status"), "ok"))
    latency, ttft, tokens = (
        answered.column(name).cast(pa.float64()).to_numpy() for name in ("latency_s", "ttft_s", "output_tokens")
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        between = np.where(tokens > 1, (latency - ttft) / (tokens - 1), np.nan)
    return {"latency_s": latency, "ttft_s": ttft, "tpot_s": between}


def summarise_run(model: str, load: Load, table: pa.Table, span_s: float, targets: Targets) -> Mapping[str, Any]:
    """Sum up the calls of a load.

    Parameters
    ----------
    table
        Its calls, in the schema of results.
    span_s
        From the first call's being due to the last answer.
    """
    times = response_times(table)
    ok = len(times["latency_s"])
    kinds = table.filter(pc.equal(table.column("status"), "error")).column("error_type").value_counts().to_pylist()
    output = pc.sum(table.column("output_tokens")).as_py() or 0
    worth = table.column("list_cost_usd")
    usd = to_nanos(worth).sum() / NANO if ok and worth.null_count == len(table) - ok else None
    good = _within(times, targets)
    return {
        "model": model,
        "load": str(load),
        "offered_per_s": load.per_s,
        "requests": len(table),
        "ok": ok,
        "errors": {each["values"]: each["counts"] for each in kinds},
        "span_s": span_s,
        "requests_per_s": ok / span_s if span_s else None,
        "output_tokens_per_s": output / span_s if span_s else None,
        **{f"{name}_{mark}": quantile(times[name], share) for name in TIME_METRICS for mark, share in QUANTILES},
        "tokens_per_s": _inverse(quantile(times["tpot_s"], 0.5)),
        "lag_s_p95": quantile(table.column("queue_s").cast(pa.float64()).to_numpy(), 0.95),
        "good": good / len(table) if targets.is_set else None,
        "goodput_per_s": good / span_s if targets.is_set and span_s else None,
        "usd_per_1k_requests": usd / ok * 1000 if usd is not None else None,
        "usd_per_million_output_tokens": usd / output * 1e6 if usd is not None and output else None,
    }


def quantile(values: Any, share: float) -> float | None:
    """Give the smallest value that ``share`` of the known ones do not exceed.

    Examples
    --------
    >>> quantile(np.array([3.0, 1.0, 2.0, np.nan]), 0.5)
    2.0
    """
    known = values[np.isfinite(values)]
    return float(np.quantile(known, share, method="inverted_cdf")) if len(known) else None


def _within(times: Mapping[str, Any], targets: Targets) -> int:
    """Count the answers within all targets; one without a time that a target is of is not within it."""
    kept = np.ones(len(times["latency_s"]), np.bool_)
    for name, bound in targets.limits.items():
        with np.errstate(invalid="ignore"):
            kept &= times[name] <= bound
    return int(kept.sum())


def _inverse(time_s: float | None) -> float | None:
    return 1 / time_s if time_s else None
