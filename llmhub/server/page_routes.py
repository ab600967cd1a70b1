"""The pages of the service: the overview at ``/`` with its sign-in, and the API at ``/docs``.

A browser sends no key of its own accord. The form takes one and keeps it in a cookie that scripts cannot read, that no
other site sends, and that only these pages look at: the API takes no cookies, so that another site cannot use it in a
visitor's name. No state is kept, so that any replica answers, and a key that was revoked is refused at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from http.cookies import CookieError
from typing import Any, Final
from urllib.parse import parse_qs

from aiohttp import web
from multidict import CIMultiDict
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub import __version__
from llmhub.cache.store import StoreError
from llmhub.core.errors import AuthFailed, LLMError, PermissionDenied, to_exception
from llmhub.engine.event_loop import run_in_thread
from llmhub.server.access import LOCAL_CALLER, Caller, OpenAccess
from llmhub.server.activity import Activity
from llmhub.server.app import read_body
from llmhub.server.context import RequestContext
from llmhub.server.error_replies import error_text, status_of
from llmhub.server.key_access import KeyAccess
from llmhub.server.routes import HttpRoute, Parameter, RouteGroup
from llmhub.server.run_views import RunView
from llmhub.server.service import Service
from llmhub.server.virtual_keys import KeyInfo

COOKIE: Final = "llmhub_key"
COOKIE_AGE_S: Final = 12 * 3600
MAX_RUNS: Final = 50
MAX_FIELDS: Final = 10
"""Fields of the form; the one of the page has two."""
FORM: Final = "application/x-www-form-urlencoded"
HTML: Final = "text/html"
ALL_TEAMS_SCOPE: Final = "admin"
"""Scope of keys that see the activity of all teams; others see their own team's."""
CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": CONTENT_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
STATIC: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
"""Files of the pages, and their media types."""
SIGN_IN: Final = "The service does not know this key."
CROSS_SITE: Final = "this form was sent by another site"


@asynccontextmanager
async def watching(service: Service) -> AsyncIterator[None]:
    """Count what the page shows, while the service runs."""
    service.activity = Activity()
    stop = service.activity.start()
    try:
        yield
    finally:
        await run_in_thread(stop)


async def overview(service: Service, request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Return the page with what the caller's team does, or the sign-in form."""
    key = _key_of_cookie(request)
    authenticated = await authenticate_key(service, request.clone(), key)
    if not is_successful(authenticated):
        error = authenticated.failure()
        if not isinstance(error, AuthFailed):
            raise to_exception(error)
        return _html(_login_page(SIGN_IN if key else ""), status=401)
    caller = authenticated.unwrap()
    return _html(await run_in_thread(_render, service, caller))


def _login_page(message: str) -> str:
    from llmhub.server.page_html import render_login_page  # noqa: PLC0415 - not before it is seen

    return render_login_page(message)


def _render(service: Service, caller: Caller) -> str:
    """Return the page of a caller. It reads stores, so it runs in a thread."""
    from llmhub.server.page_html import PageState, render_service_page  # noqa: PLC0415 - as above

    sees_all = ALL_TEAMS_SCOPE in caller.scopes
    team = None if sees_all else caller.team
    client = service.hub.runtime.state()
    assert service.activity is not None  # noqa: S101 - set by the lifespan of these routes
    state = PageState(
        state=service.state,
        version=__version__,
        key_id="" if caller is LOCAL_CALLER else caller.key_id,
        team="" if caller is LOCAL_CALLER else caller.team,
        sees_all=sees_all,
        activity=service.activity.snapshot(team),
        runs=_list_runs(service, team),
        targets=service.hub.runtime.target_states(),
        circuits=client.circuits if client is not None else {},
        limits=service.hub.limits,
        in_use=dict(service.lanes.in_use),
        waiting=service.lanes.waiting,
        budget=service.hub.spending(),
        keys=_list_keys(service, team),
    )
    return render_service_page(state)


def _list_runs(service: Service, team: str | None) -> Sequence[RunView]:
    found = [view for source in service.run_sources for view in source.list_runs(team, MAX_RUNS)]
    return sorted(found, key=lambda view: (view.ended_at is not None, -view.created_at))[:MAX_RUNS]


def _list_keys(service: Service, team: str | None) -> Sequence[KeyInfo] | None:
    """Return the keys of a team, or of all; ``None`` without keys, or while their store is lost."""
    if not isinstance(service.access, KeyAccess):
        return None
    try:
        return [key for key in service.access.registry.describe_all() if team in {None, key.team}]
    except StoreError:
        return None


async def login(service: Service, request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Keep the key of the form in a cookie, and lead to the page; an unknown key gets the form again."""
    _require_same_site(request)
    unread = request.clone()
    body = await read_body(service, request)
    key = _key_of_form(body)
    authenticated = await authenticate_key(service, unread, key)
    if not is_successful(authenticated):
        error = authenticated.failure()
        message = SIGN_IN if isinstance(error, AuthFailed) else error_text(error)
        return _html(_login_page(message), status=status_of(error))
    response = _redirect()
    response.set_cookie(COOKIE, key, max_age=COOKIE_AGE_S, **_cookie_rules(request))
    return response


async def logout(_service: Service, request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Forget the key of this browser."""
    _require_same_site(request)
    response = _redirect()
    response.del_cookie(COOKIE, **_cookie_rules(request))
    return response


async def authenticate_key(service: Service, request: web.Request, key: str) -> Result[Caller, LLMError]:
    """Return the caller of a key as if the request had it in its head; ``request`` must not have been read."""
    if isinstance(service.access, OpenAccess):
        return Success(LOCAL_CALLER)
    if not key or not key.isascii() or not key.isprintable():
        return Failure(AuthFailed(message=SIGN_IN))
    headers = CIMultiDict({"authorization": f"Bearer {key}", "host": request.headers.get("host", "")})
    authenticated = await service.access.authenticate(request.clone(method="GET", headers=headers), OVERVIEW)
    if is_successful(authenticated) and isinstance(error := _unusable(authenticated.unwrap()), PermissionDenied):
        return Failure(error)
    return authenticated


def _unusable(caller: Caller) -> PermissionDenied | None:
    return None if caller.scopes else PermissionDenied(message=f"the key {caller.key_id} has no scope")


def _key_of_form(body: bytes) -> str:
    """Return the key in a form; empty if there is none."""
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=MAX_FIELDS)
    except ValueError:  # more fields than that
        return ""
    return "".join(fields.get("key", ())).strip()


def _key_of_cookie(request: web.Request) -> str:
    try:
        return request.cookies.get(COOKIE, "")
    except CookieError:
        return ""


def _cookie_rules(request: web.Request) -> dict[str, Any]:
    secure = request.secure or request.headers.get("x-forwarded-proto", "").partition(",")[0].strip() == "https"
    return {"httponly": True, "samesite": "Strict", "secure": secure, "path": "/"}


def _require_same_site(request: web.Request) -> None:
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise to_exception(PermissionDenied(message=CROSS_SITE))


def _redirect() -> web.Response:
    return web.Response(status=303, headers={"location": "./", "cache-control": "no-store", **SECURITY_HEADERS})


def _html(page: str, status: int = 200) -> web.Response:
    headers = {"cache-control": "no-store", **SECURITY_HEADERS}
    return web.Response(text=page, status=status, content_type=HTML, headers=headers)


async def openapi_page(service: Service, _request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Return a page that shows the OpenAPI document."""
    from llmhub.server.openapi import build_document  # noqa: PLC0415 - not before it is seen
    from llmhub.server.openapi_html import render_openapi_page  # noqa: PLC0415 - as above

    return _html(render_openapi_page(build_document(service.groups)))


async def static_file(_service: Service, request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Return a style sheet, script or picture of the pages."""
    name = request.match_info["name"]
    headers = {"cache-control": "public, max-age=300", **SECURITY_HEADERS}
    return web.Response(text=_read_static(name), content_type=STATIC[name], charset="utf-8", headers=headers)


@lru_cache(maxsize=len(STATIC))
def _read_static(name: str) -> str:
    from importlib.resources import files  # noqa: PLC0415 - imports much, and is needed once

    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")


OVERVIEW: Final = HttpRoute(
    "GET",
    "/",
    overview,
    summary="A page of runs, spend, limits, errors and the cache; where keys are on, it asks for one",
    response_types=(HTML,),
    statuses={200: "The page", 401: "The form that asks for a key"},
)
GROUP: Final = RouteGroup(
    name="pages",
    routes=(
        OVERVIEW,
        HttpRoute(
            "POST",
            "/login",
            login,
            summary="Keep a key in a cookie of the browser, for the pages only",
            request_types=(FORM,),
            response_types=(HTML,),
            statuses={303: "Signed in", 401: "The form again"},
        ),
        HttpRoute(
            "POST", "/logout", logout, summary="Forget the key", response_types=(HTML,), statuses={303: "Signed out"}
        ),
        HttpRoute("GET", "/docs", openapi_page, summary="A page that shows this document", response_types=(HTML,)),
        HttpRoute(
            "GET",
            f"/static/{{name:{'|'.join(STATIC)}}}",
            static_file,
            summary="Style sheet, script and picture of the pages",
            response_types=tuple(STATIC.values()),
            parameters=(Parameter(name="name", place="path", schema={"enum": sorted(STATIC)}),),
        ),
    ),
    lifespan=watching,
)
