"""Templates: rendering equals `str.format` for columns, and invalid templates are rejected with a reason."""

from __future__ import annotations

from datetime import datetime

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


@pytest.mark.parametrize(
    "spec",
    ["99999999999", ">99999999999", "*^+#099999999999,d", "1000001", "9" * 5000, ".99999999999f", "5.1000001%"],
)
@pytest.mark.parametrize("conversion", ["", "!r"])
def test_a_format_that_makes_a_text_of_any_length_is_rejected_before_a_row_is_rendered(
    spec: str, conversion: str
) -> None:
    with pytest.raises(BadRequestError, match=r"^system: \{n\S*:\S+\} formats .* 1,000,000 .*; write a smaller number"):
        parse_template(f"{{n{conversion}:{spec}}}", "system")


def test_a_text_may_be_cut_off_at_any_length_and_padded_to_a_million_characters() -> None:
    assert parse_template("{n:.99999999999s}{n:.99999999999}").render(("x",)) == "xx"
    assert len(parse_template("{n:1000000}").render((1,))) == 1_000_000
    assert parse_template("{n:%Y, 20000000}").render((datetime(2026, 1, 1),)) == "2026, 20000000"  # noqa: DTZ001


@pytest.mark.parametrize("template", ["{n:{width}}", "{n:.{digits}f}", "{n!r:>{width}.{digits}}"])
def test_a_format_cannot_be_taken_from_columns(template: str) -> None:
    with pytest.raises(BadRequestError, match=r"^prompt: .* has a placeholder in its format; write the number itself"):
        parse_template(template)


class Unformattable:
    """A value whose own formatting fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __format__(self, spec: str) -> str:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("no"), TypeError("no"), MemoryError(), OverflowError("no"), KeyError(0)])
def test_whatever_formatting_raises_names_argument_value_and_reason(error: Exception) -> None:
    template = parse_template("{n:x}", "system")
    with pytest.raises(BadRequestError, match=r"^system: \{n:x\} cannot format .* of type Unformattable: (no|0|Mem)"):
        template.render((Unformattable(error),))


@pytest.mark.parametrize("form", ["{{{}}}", "{{{}!s}}", "{{{}:}}"])
def test_template_may_have_many_fields(form: str) -> None:
    names = [f"c{index}" for index in range(100_000)]
    template = parse_template("".join(form.format(name) for name in (*names, *reversed(names))))
    assert template.render(tuple(names)) == "".join((*names, *reversed(names)))
