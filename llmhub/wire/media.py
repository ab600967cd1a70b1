"""Pictures and files as their bytes: what a ``data:`` URL holds, or what was given inline.

Source: https://www.rfc-editor.org/rfc/rfc2397 (read 2026-11-22).
"""

from __future__ import annotations

import base64
from urllib.parse import unquote_to_bytes

from llmhub.core.types import Document, Image


def inline(part: Image | Document) -> tuple[str, str] | None:
    """Give the media type and the base64 data, or ``None`` where the part is held by its address.

    The media type is empty where nobody said it.

    Examples
    --------
    >>> inline(Image(url="data:image/png;base64,iVBORw0K"))
    ('image/png', 'iVBORw0K')
    >>> inline(Document(url="data:,a%20b"))
    ('text/plain', 'YSBi')
    >>> inline(Image(url="https://example.org/a.png")) is None
    True
    """
    if not part.url.startswith("data:"):
        return None if part.url else (part.media_type, part.data)
    head, _, body = part.url.removeprefix("data:").partition(",")
    kind, *parameters = head.split(";")
    whole = body.encode("utf-8", "surrogatepass")
    data = body if "base64" in parameters else base64.b64encode(unquote_to_bytes(whole)).decode()
    return kind or part.media_type or "text/plain", data
