"""Templates: rendering equals `str.format` for columns, and invalid templates are rejected with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core.errors import BadRequestError
from llmhub.tables.templates import parse_template

NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)

PLAIN = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(PLAIN, NAMES), max_size=5), PLAIN, st.data())
def test_a_template_renders_as_str_format_does(pieces: list[tuple[str, str]], end: str, data: st.DataObject) -> None:
    template = "".join(f"{text}{{{name}}}" for text, name in pieces) + end
    values = {name: data.draw(st.text(max_size=5) | st.integers() | st.floats(allow_nan=False)) for _, name in pieces}
    parsed = parse_template(template)
    assert parsed.render(tuple(values[name] for name in parsed.fields)) == template.format(**values)


@pytest.mark.parametrize(
    ("template", "fields", "values", "text"),
    [
        ("{a} {b} {a}", ("a", "b"), (1, 2), "1 2 1"),
        ("{{a}} {a}", ("a",), ("x",), "{a} x"),
        ("100 % of {a}", ("a",), ("%s",), "100 % of %s"),
        ("{a:.2f}", ("a",), (1.005,), "1.00"),
        ("{a!r}", ("a",), ("x",), "'x'"),
        ("{a!r:>5}|", ("a",), ("x",), "  'x'|"),
        ("no column", (), (), "no column"),
        ("{two words}", ("two words",), ("x",), "x"),
    ],
)
def test_placeholders_braces_and_formats(
    template: str, fields: tuple[str, ...], values: tuple[object, ...], text: str
) -> None:
    parsed = parse_template(template)
    assert (parsed.fields, parsed.render(values)) == (fields, text)


@pytest.mark.parametrize("template", ["{", "}", "{a", "{}", "{0}", "{a!x}", "{a}}", 7, None, ["{a}"]])
def test_an_invalid_template_is_rejected(template: object) -> None:
    with pytest.raises(BadRequestError, match=r"^prompt: "):
        parse_template(template)


@pytest.mark.parametrize("form", ["{{{}}}", "{{{}!s}}", "{{{}:}}"])
def test_template_may_have_many_fields(form: str) -> None:
    names = [f"c{index}" for index in range(100_000)]
    template = parse_template("".join(form.format(name) for name in (*names, *reversed(names))))
    assert template.render(tuple(names)) == "".join((*names, *reversed(names)))
