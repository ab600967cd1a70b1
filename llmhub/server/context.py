"""Context of a request: what is known of it while it is handled."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from llmhub.server.access import Caller

Lane: TypeAlias = Literal["interactive", "bulk"]
LANES: Final[tuple[Lane, ...]] = ("interactive", "bulk")
"""In order of precedence."""
REQUEST_ID_HEADER: Final = "x-request-id"
LANE_HEADER: Final = "x-llmhub-lane"
_VALID_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """One authenticated request.

    Parameters
    ----------
    request_id
        Id in the response, in errors and in logs: the client's own, if it sent a valid one.
    caller
        Whose request it is.
    lane
        ``interactive`` or ``bulk``.
    deadline
        When the request times out, in seconds of the loop's clock.
    route
        ``METHOD /path`` of the route, one of a closed set.
    """

    request_id: str
    caller: Caller
    lane: Lane
    deadline: float
    route: str

    @property
    def key_id(self) -> str:
        """Public id of the caller's key."""
        return self.caller.key_id

    @property
    def team(self) -> str:
        """The caller's team."""
        return self.caller.team


def request_id_of(given: str) -> str:
    """Return the client's request id if it is valid, else a new one.

    Examples
    --------
    >>> request_id_of("notebook-7"), request_id_of("a b")[:4]
    ('notebook-7', 'req_')
    """
    return given if given and _VALID_REQUEST_ID.fullmatch(given) else f"req_{random.getrandbits(128):032x}"
