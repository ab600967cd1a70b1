"""AWS Signature Version 4 as a server checks it: over what came, not over what was meant to be sent.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html (read 2026-11-22).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final
from urllib.parse import parse_qsl, quote

from llmhub.sim.types import SimHttpRequest

AUTHORIZATION_PATTERN: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<id>[^/]+)/(?P<scope>(?P<day>\d{8})/[^/]+/[^/]+/aws4_request),\s*"
    r"SignedHeaders=(?P<names>[^,]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)


def signing_key_id(incoming: SimHttpRequest) -> str:
    """Name the access key a request is signed with, or nothing."""
    found = AUTHORIZATION_PATTERN.fullmatch(incoming.headers.get("authorization", ""))
    return found["id"] if found else ""


def is_signature_valid(incoming: SimHttpRequest, secret: str) -> bool:
    """Say whether a request's signature is that of ``secret``."""
    found = AUTHORIZATION_PATTERN.fullmatch(incoming.headers.get("authorization", ""))
    if found is None:
        return False
    names = found["names"].split(";")
    headers = "".join(f"{name}:{' '.join(incoming.headers.get(name, '').split())}\n" for name in names)
    query = "&".join(
        f"{quote(key, safe='-_.~')}={quote(value, safe='-_.~')}"
        for key, value in sorted(parse_qsl(incoming.query, keep_blank_values=True))
    )
    body = hashlib.sha256(incoming.body).hexdigest()
    # The path is encoded once more: what came percent-encoded is signed doubly so.
    path = quote(incoming.path, safe="/-_.~")
    canonical = "\n".join((incoming.method, path, query, headers, found["names"], body))
    stamp = incoming.headers.get("x-amz-date", "")
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, found["scope"], hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{secret}".encode()
    for step in found["scope"].split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    return hmac.compare_digest(hmac.new(key, text.encode(), "sha256").hexdigest(), found["signature"])
