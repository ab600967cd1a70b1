"""The page of the service as HTML: runs, spend, limits and waits, errors and the cache. Pure: values in, markup out.

The file is long because the parts of one page are read together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from llmhub.core.budget import Budget, nano_to_usd
from llmhub.engine.adaptive_limit import MAX_IN_FLIGHT
from llmhub.engine.circuit_breaker import CircuitHealth
from llmhub.engine.limits import Limit
from llmhub.engine.rate_limiter import TargetState
from llmhub.formatting.html import Html
from llmhub.formatting.numbers import format_count, format_duration, format_elapsed, format_percent, format_usd
from llmhub.server.activity import ActivitySnapshot, CallTotals, MinuteTotals, WaitTotals
from llmhub.server.context import Lane
from llmhub.server.html_elements import Child, document, element, join
from llmhub.server.run_views import RunView
from llmhub.server.virtual_keys import KeyInfo, KeyState

LOGO: Final = Html(
    '<svg class="logo" viewBox="0 0 20 20" aria-hidden="true"><path d="M10 10 3.5 4M10 10 3.5 16M10 10h7"/>'
    '<circle cx="10" cy="10" r="3.2"/><circle cx="3.5" cy="4" r="1.6"/><circle cx="3.5" cy="16" r="1.6"/>'
    '<circle cx="16.8" cy="10" r="1.6"/></svg>'
)
SHOWN_ROWS: Final = 8
"""Rows of a table that are shown before the rest is folded away."""
MAX_TABLE_ROWS: Final = 100
CHART_HEIGHT: Final = 100
NONE: Final = "\u2013"
SMALLEST_SHARE: Final = 0.001
STATE_CLASSES: Final = {
    "ready": "good", "done": "good", "completed": "good", "active": "good",
    "running": "busy", "validating": "busy", "in_progress": "busy", "finalizing": "busy",
    "draining": "warn", "stopping": "warn", "cancelling": "warn",
    "failed": "bad", "expired": "bad", "revoked": "bad",
}  # fmt: skip
"""Classes of states of the service, of runs and of batches."""
HEALTH_LABELS: Final = {
    CircuitHealth.HEALTHY: ("good", "healthy"),
    CircuitHealth.DEGRADED: ("warn", "degraded"),
    CircuitHealth.UNHEALTHY: ("bad", "not called"),
}
WAIT_LABELS: Final = {
    "limit": "for a rate limit",
    "retry": "before retries",
    "cache": "for an equal call",
    "queue": "for a free slot",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageState:
    """Everything that the page shows, at one moment.

    Parameters
    ----------
    state, version
        State and version of the service.
    key_id, team
        Who looks at it; both are empty where the service has no keys.
    sees_all
        Whether the activity is that of all teams.
    activity
        Calls, spend, errors and waits.
    runs
        Runs and batches, the newest first.
    targets
        Limiters of the models.
    circuits
        Health by provider.
    limits
        Declared limits by provider or model.
    in_use, waiting
        Calls that have a slot, by lane, and calls that wait for one.
    active_requests
        Requests that are being answered.
    budget
        Budget of the hub.
    keys
        Keys, with what they have spent and may spend; ``None`` if that is unknown.
    """

    state: str
    version: str
    key_id: str = ""
    team: str = ""
    sees_all: bool = True
    activity: ActivitySnapshot
    runs: Sequence[RunView] = ()
    targets: Sequence[TargetState] = ()
    circuits: Mapping[str, CircuitHealth] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    in_use: Mapping[Lane, int] = field(default_factory=dict)
    waiting: int = 0
    active_requests: int = 0
    budget: Budget | None = None
    keys: Sequence[KeyInfo] | None = None


def render_service_page(page: PageState) -> str:
    """Return the page."""
    return document(
        "llmhub",
        _header(page),
        element(
            "main",
            _tiles(page),
            _hour(page.activity),
            _runs(page),
            _spend(page),
            _keys(page) if page.keys is not None else None,
            _targets(page),
            _errors(page),
            id="live",
        ),
        script="page.js",
    )


def render_login_page(message: str = "") -> str:
    """Return the form that asks for a key."""
    return document(
        "llmhub: sign in",
        element(
            "main",
            element("h1", LOGO, "llmhub"),
            element("p", "This service has keys. Yours shows what your team runs and spends.", class_="dim"),
            element(
                "form",
                element("input", type="text", value="llmhub", autocomplete="username", hidden=True, readonly=True),
                element("label", "Key", for_="key"),
                element(
                    "input",
                    type="password",
                    name="key",
                    id="key",
                    autocomplete="current-password",
                    required=True,
                    autofocus=True,
                    spellcheck="false",
                    maxlength=4096,
                    aria_describedby="problem" if message else None,
                ),
                element("p", message, class_="problem", id="problem", role="alert") if message else None,
                element("button", "Sign in", type="submit"),
                method="post",
                action="login",
            ),
            element(
                "p",
                "The key is kept in a cookie of this browser, which scripts cannot read, for twelve hours.",
                class_="dim",
            ),
            class_="card",
        ),
        body_class="login",
    )


def _header(page: PageState) -> Html:
    activity = page.activity
    user = element("span", page.key_id, element("span", f" \u00b7 {page.team}", class_="dim"), class_="user")
    return element(
        "header",
        element("a", LOGO, "llmhub", href="./", class_="brand"),
        _pill(page.state),
        element("span", f"{page.version}, up {format_elapsed(activity.now - activity.started_at)}", class_="dim wide"),
        element("span", class_="space"),
        element("button", "Live", type="button", id="pause", aria_pressed="false", hidden=True),
        element("a", "API", href="docs"),
        user if page.key_id else None,
        element("form", element("button", "Sign out", type="submit"), method="post", action="logout")
        if page.key_id
        else None,
    )


# Tiles and the last hour


def _tiles(page: PageState) -> Html:
    activity, total = page.activity, page.activity.total
    hour = sum(minute.billed_nano_usd for minute in activity.minutes)
    tried = total.calls - total.cancelled
    failures = total.failed / tried if tried else 0.0
    median, slow = activity.quantile_s(0.5), activity.quantile_s(0.95)
    return element(
        "section",
        _tile(
            "Spend",
            _usd(total.billed_nano_usd),
            f"{_usd(hour)} in the last hour",
            [minute.billed_nano_usd for minute in activity.minutes],
        ),
        _tile(
            "Calls",
            format_count(total.calls),
            f"{format_count(activity.minutes[-1].answered + activity.minutes[-1].cached)} this minute",
            [minute.answered + minute.cached + minute.failed for minute in activity.minutes],
        ),
        _tile(
            "From the cache",
            format_percent(total.cached / tried) if tried else NONE,
            f"{_usd(total.saved_nano_usd)} saved",
            [minute.cached for minute in activity.minutes],
        ),
        _tile(
            "Errors",
            format_percent(failures) if tried else NONE,
            f"{format_count(total.failed)} of {format_count(tried)} calls",
            [minute.failed for minute in activity.minutes],
            class_="bad" if failures >= 0.05 else "",  # noqa: PLR2004 - one in twenty
        ),
        _tile(
            "Latency",
            format_duration(median) if median is not None else NONE,
            f"95 % within {format_duration(slow)}" if slow is not None else "no answered call yet",
        ),
        _tile(
            "In progress",
            format_count(sum(page.in_use.values())),
            f"{format_count(page.in_use.get('bulk', 0))} bulk, {format_count(page.waiting)} waiting",
        ),
        class_="tiles",
        aria_label="Since the start of the service",
    )


def _tile(title: str, value: str, note: str, series: Sequence[float] = (), class_: str = "") -> Html:
    return element(
        "div",
        element("h2", title),
        element("p", value, class_="value"),
        element("p", note, class_="dim"),
        _sparkline(series) if any(series) else None,
        class_=f"card tile {class_}".strip(),
    )


def _sparkline(series: Sequence[float]) -> Html:
    """Return the last hour as an area."""
    top = max(series) or 1.0
    points = " ".join(f"{index},{20 - 18 * value / top:.2f}" for index, value in enumerate(series))
    last = len(series) - 1
    return element(
        "svg",
        element("polygon", points=f"0,20 {points} {last},20"),
        element("polyline", points=points),
        viewBox=f"0 0 {last} 20",
        preserveAspectRatio="none",
        class_="spark",
        aria_hidden="true",
    )


def _hour(activity: ActivitySnapshot) -> Html:
    """Return the last hour as stacked columns: answered by providers, by the cache, and failed."""
    highest = max((minute.answered + minute.cached + minute.failed for minute in activity.minutes), default=0)
    top = _round_up(highest)
    bars = [
        _column(index, minute, top, len(activity.minutes) - 1 - index) for index, minute in enumerate(activity.minutes)
    ]
    chart = element(
        "svg",
        *(element("line", x1="0", x2="600", y1=y, y2=y, class_="grid") for y in (0, CHART_HEIGHT // 2, CHART_HEIGHT)),
        *bars,
        viewBox=f"0 0 600 {CHART_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"Calls by minute in the last hour, at most {format_count(highest)}",
    )
    scale = element(
        "div",
        *(element("span", label) for label in (format_count(top), format_count(top / 2) if top > 1 else "", "0")),
        class_="scale",
        aria_hidden="true",
    )
    times = element(
        "div",
        *(element("span", text) for text in ("60 min ago", "45", "30", "15", "now")),
        class_="times",
        aria_hidden="true",
    )
    legend = element(
        "p",
        *(element("span", label, class_=f"key {name}") for name, label in SERIES),
        class_="legend",
    )
    return element(
        "section",
        element("div", element("h2", "Calls by minute"), legend, class_="head"),
        element("div", scale, element("div", chart, times), class_="chart")
        if highest
        else _empty("No calls in the last hour."),
        class_="card",
    )


SERIES: Final = (("answered", "answered by a provider"), ("cached", "from the cache"), ("failed", "failed"))


def _column(index: int, minute: MinuteTotals, top: int, ago: int) -> Html | None:
    counts = [(name, getattr(minute, name)) for name, _ in SERIES]
    if not any(count for _, count in counts):
        return None
    rectangles, bottom = [], float(CHART_HEIGHT)
    for name, count in counts:
        if count:
            height = max(CHART_HEIGHT * count / top, 0.6)
            bottom -= height
            rectangles.append(
                element("rect", x=index * 10 + 1, y=f"{bottom:.2f}", width=8, height=f"{height:.2f}", class_=name)
            )
    when = f"{ago} min ago" if ago else "this minute"
    parts = ", ".join(f"{count:,} {name}" for name, count in counts if count)
    return element("g", element("title", f"{when}: {parts}, {_usd(minute.billed_nano_usd)}"), *rectangles)


def _round_up(number: float) -> int:
    """Return the next number of one digit and zeros, for the top of a scale.

    Examples
    --------
    >>> _round_up(3), _round_up(51), _round_up(0)
    (4, 60, 1)
    """
    scale = 1
    while True:
        for step in STEPS:
            if step * scale >= number:
                return step * scale
        scale *= 10


STEPS: Final = (1, 2, 4, 6, 8, 10)
"""Tops of scales, whose half is a round number too."""


# Runs


def _runs(page: PageState) -> Html:
    columns = ("Run", "State", "Progress", "Spend", "Time", *(("Team",) if page.sees_all else ()))
    body = [_run_row(run, page) for run in page.runs[:MAX_TABLE_ROWS]]
    hint = join(
        "No runs yet: ", element("code", "POST /v1/runs"), " or ", element("code", "POST /v1/batches"), " begins one."
    )
    return _section("Runs", _table(columns, body, (3,)) if body else _empty(hint), id_="runs")


def _run_row(run: RunView, page: PageState) -> Sequence[Child]:
    now = page.activity.now
    models = ", ".join(run.models)
    spend = NONE if run.billed_usd is None else format_usd(run.billed_usd)
    forecast = None
    if run.forecast_usd is not None:
        forecast = element("div", f"forecast {format_usd(run.forecast_usd)}", class_="dim")
    is_open = run.ended_at is None
    if is_open:
        time = f"{format_elapsed(now - run.created_at)}"
        note = f"{format_elapsed(run.remaining_s)} left" if run.remaining_s is not None else ""
    else:
        time, note = f"{format_elapsed((run.ended_at or now) - run.created_at)}", _ago(now - (run.ended_at or now))
    cells: list[Child] = [
        join(
            element("code", run.id[:14], title=run.id),
            element("span", " batch", class_="dim") if run.kind == "batch" else None,
            element("div", models, class_="dim name", title=models) if models else None,
        ),
        join(_pill(run.state), element("div", run.waits_for, class_="dim") if run.waits_for else None),
        _progress(run),
        join(spend, forecast),
        join(time, element("div", note, class_="dim") if note else None),
    ]
    return [*cells, join(run.team, element("div", run.key_id, class_="dim"))] if page.sees_all else cells


def _progress(run: RunView) -> Html:
    failed = f", {format_count(run.failed)} failed" if run.failed else ""
    return join(
        _bar(run.done / run.rows if run.rows else 0.0, run.failed / run.rows if run.rows else 0.0),
        element("div", f"{run.done:,} of {run.rows:,}{failed}", class_="dim"),
    )


# Spend


def _spend(page: PageState) -> Html:
    groups = [("team", "Team"), ("key_id", "Key"), ("model", "Model")]
    tables = [
        element("div", _spend_table(page.activity.by(name), title))
        for name, title in groups
        if page.sees_all or name != "team"
    ]
    budget = None
    if page.budget is not None and page.sees_all:
        spent, limit = page.budget.spent, page.budget.limit
        budget = element(
            "div",
            _bar(spent / limit if limit else 1.0),
            element(
                "p", f"{_usd(spent)} of the hub's budget of {_usd(limit)} spent, {_usd(page.budget.reserved)} reserved"
            ),
            class_="budget",
        )
    return _section(
        "Spend", budget, element("div", *tables, class_="columns"), id_="spend", note="since the start of the service"
    )


def _spend_table(rows: Sequence[tuple[str, CallTotals]], title: str) -> Html:
    if not rows:
        return _empty("Nothing yet.")
    total = sum(totals.billed_nano_usd for _, totals in rows)
    body: list[Sequence[Child]] = []
    for name, totals in rows[:MAX_TABLE_ROWS]:
        share = totals.billed_nano_usd / total if total else 0.0
        spent = _usd(totals.billed_nano_usd) + (" + ?" if totals.unpriced else "")
        unpriced = f"{totals.unpriced:,} calls of unknown cost" if totals.unpriced else None
        body.append([
            join(element("div", name or "host process", class_="name", title=name), _bar(share)),
            element("span", spent, title=unpriced),
            join(
                format_count(totals.calls),
                element("div", f"{format_percent(totals.cached / totals.calls, 0)} cached", class_="dim"),
            ),
        ])  # fmt: skip
    return _table((title, "Spend", "Calls"), body, (1, 2))


# Keys


def _keys(page: PageState) -> Html:
    body: list[Sequence[Child]] = []
    for key in sorted(page.keys or (), key=lambda key: (KEY_STATES.index(key.state), -key.spent_usd, key.id))[
        :MAX_TABLE_ROWS
    ]:
        limits = [
            f"{format_count(rate)} {noun}/min" for rate, noun in ((key.rpm, "requests"), (key.tpm, "tokens")) if rate
        ]
        body.append([
            join(element("code", key.id), element("div", key.name, class_="dim name", title=key.name)),
            key.team,
            _pill(key.state),
            _spent(key.spent_usd_today, key.budget_usd_per_day),
            _spent(key.spent_usd_this_month, key.budget_usd_per_month),
            _spent(key.spent_usd, key.budget_usd),
            _lines(limits),
        ])  # fmt: skip
    columns = ("Key", "Team", "State", "Today", "This month", "In all", "Limits")
    table = (
        _table(columns, body, ()) if body else _empty(join("No keys yet: ", element("code", "llmhub keys create"), "."))
    )
    return _section("Keys and budgets", table, id_="keys", note="of all replicas; days and months are those of UTC")


KEY_STATES: Final[tuple[KeyState, ...]] = ("active", "expired", "revoked")


def _spent(spent: Decimal, budget: Decimal | None) -> Html:
    if budget is None:
        return join(format_usd(spent, digits=2))
    share = float(spent / budget) if budget else 1.0
    return join(f"{format_usd(spent, digits=2)} of {format_usd(budget, digits=2)}", _bar(share))


# Limits and waits


def _targets(page: PageState) -> Html:
    used = {key.model for key in page.activity.rows}
    targets = [target for target in page.targets if page.sees_all or target.name in used]
    body = [_target_row(target, page) for target in sorted(targets, key=_busiest)[:MAX_TABLE_ROWS]]
    columns = ("Model", "Provider", "In flight", "Waiting", "Limits", "Waited so far")
    return _section(
        "Limits and waits", _table(columns, body, (2, 3)) if body else _empty("No model was called yet."), id_="limits"
    )


def _busiest(target: TargetState) -> tuple[int, int, str]:
    return -target.waiting, -target.in_flight, target.name


def _target_row(target: TargetState, page: PageState) -> Sequence[Child]:
    provider = target.name.partition("/")[0]
    health = page.circuits.get(provider, CircuitHealth.HEALTHY)
    class_, label = HEALTH_LABELS[health]
    if target.paused_s > 0:
        class_, label = "warn", f"paused {format_duration(target.paused_s)}"
    at_once = f"of {target.max_in_flight:,.0f}" if target.max_in_flight < MAX_IN_FLIGHT else ""
    reason = element("div", target.wait_reason, class_="dim") if target.wait_reason else None
    waits = [
        f"{format_elapsed(each.seconds)} {WAIT_LABELS.get(kind, kind)}"
        for kind, each in _waits_of(target.name, page.activity.waits)
    ]
    return [
        element("div", target.name, class_="name", title=target.name),
        _pill(label, class_),
        join(f"{target.in_flight:,}", element("div", at_once, class_="dim") if at_once else None),
        join(f"{target.waiting:,}", reason),
        _lines(_limits_of(target, page.limits)),
        _lines(waits),
    ]


def _waits_of(name: str, waits: Mapping[tuple[str, str], WaitTotals]) -> list[tuple[str, WaitTotals]]:
    found = [(reason, totals) for (target, reason), totals in waits.items() if target == name]
    return sorted(found, key=lambda item: -item[1].seconds)


def _limits_of(target: TargetState, declared: Mapping[str, Limit]) -> list[str]:
    lines = []
    for name in (target.name.partition("/")[0], target.name):
        limit = declared.get(name)
        if limit is not None:
            for amount, noun in ((limit.rpm, "requests"), (limit.tpm, "tokens")):
                if amount is not None:
                    lines.append(f"{format_count(amount)} {noun}/min, declared")
    return [*lines, *(f"{format_count(amount)} {noun}/min, reported" for noun, amount in target.reported)]


def _lines(texts: Iterable[str]) -> Html:
    lines = [element("div", text) for text in texts]
    return join(*lines) if lines else element("span", NONE, class_="dim")


# Errors


def _errors(page: PageState) -> Html:
    now = page.activity.now
    body: list[Sequence[Child]] = []
    for key, totals in page.activity.errors[:MAX_TABLE_ROWS]:
        who = f"{key.team or 'host process'} \u00b7 {totals.last_key_id}" if page.sees_all else totals.last_key_id
        body.append([
            join(element("strong", key.error_type), element("div", key.model, class_="dim name", title=key.model)),
            element("div", totals.message, class_="message"),
            f"{totals.count:,}",
            join(_ago(now - totals.last_at), element("div", who, class_="dim")),
        ])  # fmt: skip
    table = _table(("Error", "Last message", "Count", "Last"), body, (2,)) if body else _empty("None.")
    return _section("Errors", table, id_="errors")


# Parts


def _section(title: str, *content: Child, id_: str, note: str = "") -> Html:
    head = element("div", element("h2", title), element("span", note, class_="dim") if note else None, class_="head")
    return element("section", head, *content, class_="card", id=id_)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Child]], numbers: Sequence[int]) -> Html:
    """Return a table; the rows after the first few are folded away."""

    def cell(kind: str, column: int, content: Child, **attributes: object) -> Html:
        return element(kind, content, class_="number" if column in numbers else None, **attributes)

    def body(part: Sequence[Sequence[Child]]) -> Html:
        return element(
            "tbody",
            *(
                element("tr", *(cell("td", at, content, data_label=columns[at]) for at, content in enumerate(row)))
                for row in part
            ),
        )

    head = element("thead", element("tr", *(cell("th", at, name, scope="col") for at, name in enumerate(columns))))
    shown = element("div", element("table", head, body(rows[:SHOWN_ROWS])), class_="scroll")
    rest = rows[SHOWN_ROWS:]
    if not rest:
        return shown
    more = element("div", element("table", head, body(rest)), class_="scroll")
    return join(shown, element("details", element("summary", f"{len(rest)} more"), more))


def _bar(share: float, bad_share: float = 0.0) -> Html:
    share, bad_share = min(max(share, 0.0), 1.0), min(max(bad_share, 0.0), 1.0)
    return element(
        "svg",
        element("rect", width="100%", height="100%", class_="track"),
        element("rect", width=f"{share:.1%}", height="100%") if share >= SMALLEST_SHARE else None,
        element("rect", width=f"{bad_share:.1%}", height="100%", class_="failed")
        if bad_share >= SMALLEST_SHARE
        else None,
        class_="bar",
        aria_hidden="true",
    )


def _pill(text: str, class_: str = "") -> Html:
    return element("span", text.replace("_", " "), class_=f"pill {class_ or STATE_CLASSES.get(text, 'idle')}")


def _empty(text: Child) -> Html:
    return element("p", text, class_="empty dim")


def _usd(nano_usd: int) -> str:
    return format_usd(nano_to_usd(nano_usd), digits=2)


def _ago(seconds: float) -> str:
    return "just now" if seconds < 5 else f"{format_elapsed(seconds)} ago"  # noqa: PLR2004 - the page is that old itself
