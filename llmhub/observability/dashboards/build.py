"""Write the dashboards as JSON: ``python -m llmhub.observability.dashboards.build``, for those who work on llmhub.

A dashboard is a table of panels; the library of Grafana that makes the JSON is not needed to use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from llmhub.core.optional_imports import import_optional

SOURCE: Final = "$datasource"
SELECTED: Final = 'provider=~"$provider"'
"""Matches the providers that are selected in the dashboard."""
FAILED: Final = ', status="error"'
REFUSED: Final = ', error_type="RateLimited"'
HEIGHT: Final = 8


@dataclass(frozen=True, slots=True)
class PanelSpec:
    """One panel.

    Parameters
    ----------
    title, description
        As they are shown.
    queries
        Queries and the legend of each.
    unit
        Unit as Grafana names it.
    span
        Width in columns of the grid.
    kind
        Lines over time, or the present values.
    """

    title: str
    description: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    span: int = 8
    kind: Literal["lines", "values"] = "lines"


def rate(metric: str, *by: str, extra: str = "") -> str:
    """Return a query of the rate of a counter, summed by labels."""
    return f"sum by ({', '.join(by)}) (rate({metric}{{{SELECTED}{extra}}}[$__rate_interval]))"


def quantile(share: float, metric: str, *by: str) -> str:
    """Return a query of a quantile of a histogram, by labels."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', 'le', *by)})"


def share(metric: str, extra: str) -> str:
    """Return a query of the share of a counter that also matches ``extra``, by provider."""
    return f"{rate(metric, 'provider', extra=extra)} / {rate(metric, 'provider')}"


CACHE_LOOKUPS: Final = (
    f"{rate('llmhub_cache_hits_total', 'provider')} + {rate('llmhub_cache_misses_total', 'provider')}"
)
PROVIDERS: Final = (
    PanelSpec(
        "Circuit breakers",
        "0: healthy, 1: degraded, 2: open, requests are not sent.",
        ((f"max by (provider) (llmhub_circuit_state{{{SELECTED}}})", "{{provider}}"),),
        kind="values",
    ),
    PanelSpec(
        "In flight",
        "Requests sent and not answered.",
        ((f"sum by (provider) (llmhub_requests_in_flight{{{SELECTED}}})", "{{provider}}"),),
    ),
    PanelSpec(
        "Error share of requests",
        "Failed HTTP requests, those that were retried included.",
        (
            (
                share("llmhub_requests_total", FAILED),
                "{{provider}}",
            ),
        ),
        "percentunit",
    ),
    PanelSpec(
        "Requests by provider",
        "HTTP requests a second.",
        ((rate("llmhub_requests_total", "provider"), "{{provider}}"),),
        "reqps",
    ),
    PanelSpec(
        "Errors by type",
        "Failed HTTP requests a second.",
        (
            (
                rate("llmhub_requests_total", "provider", "error_type", extra=FAILED),
                "{{provider}} {{error_type}}",
            ),
        ),
        "reqps",
    ),
    PanelSpec(
        "Retries",
        "Retries a second, by the error that caused them.",
        ((rate("llmhub_retries_total", "provider", "error_type"), "{{provider}} {{error_type}}"),),
        "ops",
    ),
    PanelSpec(
        "Duration of requests, p50 and p95",
        "Time of an HTTP request by model.",
        (
            (quantile(0.5, "llmhub_request_duration_seconds", "provider", "model"), "p50 {{provider}}/{{model}}"),
            (quantile(0.95, "llmhub_request_duration_seconds", "provider", "model"), "p95 {{provider}}/{{model}}"),
        ),
        "s",
        12,
    ),
    PanelSpec(
        "Time to first token, p50 and p95",
        "Of streamed responses, by model.",
        (
            (quantile(0.5, "llmhub_time_to_first_token_seconds", "provider", "model"), "p50 {{provider}}/{{model}}"),
            (quantile(0.95, "llmhub_time_to_first_token_seconds", "provider", "model"), "p95 {{provider}}/{{model}}"),
        ),
        "s",
        12,
    ),
    PanelSpec(
        "Duration of calls, p95",
        "Time of a call with its waits and retries.",
        ((quantile(0.95, "llmhub_call_duration_seconds", "provider"), "{{provider}}"),),
        "s",
        12,
    ),
    PanelSpec(
        "Calls by status",
        "Calls a second.",
        ((rate("llmhub_calls_total", "status"), "{{status}}"),),
        "ops",
        12,
    ),
)
LIMITS_AND_CACHE: Final = (
    PanelSpec(
        "Cache hit share",
        "Calls and rows that were answered without a request.",
        (
            (
                f"{rate('llmhub_cache_hits_total', 'provider')} / ({CACHE_LOOKUPS})",
                "{{provider}}",
            ),
        ),
        "percentunit",
    ),
    PanelSpec(
        "Cache hits and misses",
        "A second.",
        (
            (rate("llmhub_cache_hits_total", "provider"), "hits {{provider}}"),
            (rate("llmhub_cache_misses_total", "provider"), "misses {{provider}}"),
        ),
        "ops",
    ),
    PanelSpec(
        "Rows queued",
        "Rows of runs that have not been started.",
        (("sum(llmhub_rows_queued)", "rows"),),
    ),
    PanelSpec(
        "Calls waiting for a limit",
        "Calls that may not be sent yet.",
        ((f"sum by (provider) (llmhub_calls_waiting{{{SELECTED}}})", "{{provider}}"),),
    ),
    PanelSpec(
        "Time waited",
        "Seconds of waiting a second, by reason.",
        ((rate("llmhub_wait_seconds_total", "reason"), "{{reason}}"),),
        "s",
    ),
    PanelSpec(
        "Refused by rate limits",
        "Requests a second that a provider refused for its rate limits.",
        ((rate("llmhub_requests_total", "provider", extra=REFUSED), "{{provider}}"),),
        "reqps",
    ),
    PanelSpec(
        "Decisions",
        "Retries, pauses, fallbacks, hedges and changes of circuits a second.",
        ((rate("llmhub_decisions_total", "kind"), "{{kind}}"),),
        "ops",
        12,
    ),
    PanelSpec(
        "Tokens",
        "Tokens a second, by type.",
        ((rate("llmhub_tokens_total", "type"), "{{type}}"),),
        "short",
        12,
    ),
)
COST: Final = (
    PanelSpec(
        "Cost a day",
        "At the present rate.",
        ((f"sum(rate(llmhub_cost_usd_total{{{SELECTED}}}[$__rate_interval])) * 86400", "USD a day"),),
        "currencyUSD",
        6,
        "values",
    ),
    PanelSpec(
        "Left of the budget",
        "Neither spent nor reserved.",
        (("sum by (budget) (llmhub_budget_remaining_usd)", "{{budget}}"),),
        "currencyUSD",
        6,
        "values",
    ),
    PanelSpec(
        "Share of the budget spent",
        "",
        (
            (
                "sum by (budget) (llmhub_budget_spent_usd) / sum by (budget) (llmhub_budget_limit_usd)",
                "{{budget}}",
            ),
        ),
        "percentunit",
        6,
        "values",
    ),
    PanelSpec(
        "Calls of unknown cost",
        "Answered calls whose model has no known price.",
        ((f"sum(increase(llmhub_unpriced_calls_total{{{SELECTED}}}[$__range]))", "calls"),),
        "short",
        6,
        "values",
    ),
    PanelSpec(
        "Cost by provider",
        "Dollars an hour.",
        ((f"{rate('llmhub_cost_usd_total', 'provider')} * 3600", "{{provider}}"),),
        "currencyUSD",
        12,
    ),
    PanelSpec(
        "Cost by model",
        "Dollars an hour, the ten dearest.",
        ((f"topk(10, {rate('llmhub_cost_usd_total', 'provider', 'model')}) * 3600", "{{provider}}/{{model}}"),),
        "currencyUSD",
        12,
    ),
    PanelSpec(
        "Spend by team",
        "Dollars in the selected time.",
        (("sum by (team) (increase(llmhub_team_cost_usd_total[$__range]))", "{{team}}"),),
        "currencyUSD",
        8,
        "values",
    ),
    PanelSpec(
        "Spend by team over time",
        "Dollars an hour.",
        (("sum by (team) (rate(llmhub_team_cost_usd_total[$__rate_interval])) * 3600", "{{team}}"),),
        "currencyUSD",
    ),
    PanelSpec(
        "Calls and tokens by team",
        "A second.",
        (
            ("sum by (team) (rate(llmhub_team_calls_total[$__rate_interval]))", "calls {{team}}"),
            ("sum by (team, type) (rate(llmhub_team_tokens_total[$__rate_interval]))", "{{type}} tokens {{team}}"),
        ),
    ),
)
SPECS: Final[Mapping[str, tuple[str, Sequence[PanelSpec]]]] = {
    "llmhub-providers": ("llmhub: providers", PROVIDERS),
    "llmhub-limits-and-cache": ("llmhub: limits and cache", LIMITS_AND_CACHE),
    "llmhub-cost": ("llmhub: cost", COST),
}
"""Title and panels of each dashboard, by its id, which is the name of its file."""


def build(uid: str) -> str:
    """Return the JSON of a dashboard."""
    dashboard = import_optional("grafana_foundation_sdk.builders.dashboard", "dev")
    models = import_optional("grafana_foundation_sdk.models.dashboard", "dev")
    encoder = import_optional("grafana_foundation_sdk.cog.encoder", "dev").JSONEncoder
    title, specs = SPECS[uid]
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .tags(["llmhub"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("provider")
            .label("Provider")
            .query("label_values(llmhub_calls_total, provider)")
            .datasource(models.DataSourceRef(type_val="prometheus", uid=SOURCE))
            .multi(multi=True)
            .include_all(include_all=True)
            .all_value(".*")
        )
    )
    for spec in specs:
        made = made.with_panel(_panel(spec, models))
    encoded = _without_nulls(json.loads(encoder().encode(made.build())))
    return json.dumps(encoded, sort_keys=True, indent=1) + "\n"


def _without_nulls(value: Any) -> Any:
    """Return a value without the fields that are null: Grafana has defaults for those that are absent."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _panel(spec: PanelSpec, models: Any) -> Any:
    prometheus = import_optional("grafana_foundation_sdk.builders.prometheus", "dev")
    kind = "timeseries" if spec.kind == "lines" else "stat"
    panel = import_optional(f"grafana_foundation_sdk.builders.{kind}", "dev").Panel()
    source = models.DataSourceRef(type_val="prometheus", uid=SOURCE)
    panel = panel.title(spec.title).description(spec.description).unit(spec.unit).min(0)
    panel = panel.height(HEIGHT).span(spec.span).datasource(source)
    for index, (expression, legend) in enumerate(spec.queries):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + index))
        panel = panel.with_target(query.datasource(source))
    return panel


def main() -> None:
    """Write all dashboards beside this file."""
    for uid in SPECS:
        Path(__file__).with_name(f"{uid}.json").write_text(build(uid), encoding="utf-8")


if __name__ == "__main__":
    main()
