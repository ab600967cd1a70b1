"""Verify AWS Signature Version 4 of a received request.

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


def signing_key_id(http_request: SimHttpRequest) -> str:
    """Return the id of the access key that signed a request, or an empty string."""
    match = AUTHORIZATION_PATTERN.fullmatch(http_request.headers.get("authorization", ""))
    return match["id"] if match else ""


def is_signature_valid(http_request: SimHttpRequest, secret: str) -> bool:
    """Return whether a request was signed with ``secret``."""
    match = AUTHORIZATION_PATTERN.fullmatch(http_request.headers.get("authorization", ""))
    if match is None:
        return False
    names = match["names"].split(";")
    headers = "".join(f"{name}:{' '.join(http_request.headers.get(name, '').split())}\n" for name in names)
    query = "&".join(
        f"{quote(key, safe='-_.~')}={quote(value, safe='-_.~')}"
        for key, value in sorted(parse_qsl(http_request.query, keep_blank_values=True))
    )
    # Services but S3 encode the path once more: what came percent-encoded is signed doubly so.
    is_storage = match["scope"].split("/")[2] == "s3"
    path = http_request.path if is_storage else quote(http_request.path, safe="/-_.~")
    digest = hashlib.sha256(http_request.body).hexdigest()
    body = http_request.headers.get("x-amz-content-sha256", digest) if is_storage else digest
    canonical = "\n".join((http_request.method, path, query, headers, match["names"], body))
    stamp = http_request.headers.get("x-amz-date", "")
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, match["scope"], hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{secret}".encode()
    for step in match["scope"].split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    return hmac.compare_digest(hmac.new(key, text.encode(), "sha256").hexdigest(), match["signature"])
