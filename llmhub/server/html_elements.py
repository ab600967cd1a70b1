"""HTML elements for the pages of the service: every text and attribute is escaped, and none has a style or a script."""

from __future__ import annotations

from html import escape
from typing import Final, TypeAlias

from llmhub.formatting.html import Html
from llmhub.formatting.text import escape_control_characters

Child: TypeAlias = "str | Html | None"
VOID: Final = frozenset({"input", "link", "meta"})
"""Elements without content."""
FORBIDDEN: Final = frozenset({"style"})
"""Attributes that the content security policy blocks."""


def element(name: str, /, *children: Child, **attributes: object) -> Html:
    """Return an element. Text is escaped unless it is `Html`; children that are ``None`` are left out.

    An attribute's trailing underscore is dropped, other underscores become hyphens; ``True`` is an attribute without a
    value, and one that is ``None`` or ``False`` is left out.

    Examples
    --------
    >>> element("a", "<b>", href="?a=1&b", class_="x", hidden=False)
    '<a href="?a=1&amp;b" class="x">&lt;b&gt;</a>'
    """
    parts = [name]
    for key, value in attributes.items():
        label = key.rstrip("_").replace("_", "-")
        if label in FORBIDDEN or label.startswith("on"):
            raise ValueError(f"the attribute {label!r} is blocked by the content security policy; use a class")
        if value is not None and value is not False:
            parts.append(label if value is True else f'{label}="{escape(escape_control_characters(str(value)))}"')
    opening = f"<{' '.join(parts)}>"
    return Html(opening) if name in VOID else Html(f"{opening}{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """Return children one after another.

    Examples
    --------
    >>> join("a < b", element("hr-like"))
    'a &lt; b<hr-like></hr-like>'
    """
    return Html(
        "".join(
            child if isinstance(child, Html) else escape(escape_control_characters(child))
            for child in children
            if child is not None
        )
    )


def document(title: str, *body: Child, root: str = "", body_class: str = "", script: str = "") -> str:
    """Return a whole page with the common style sheet.

    Parameters
    ----------
    root
        Relative path to the page's root, such as ``../``.
    body_class
        Class of the body.
    script
        Name of a script, if the page has one.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("link", rel="icon", href=f"{root}static/icon.svg", type="image/svg+xml"),
        element("link", rel="stylesheet", href=f"{root}static/page.css"),
        element("script", src=f"{root}static/{script}", defer=True) if script else None,
    )
    return f"<!doctype html>{element('html', head, element('body', *body, class_=body_class or None), lang='en')}"
