"""Generate plausible values that match a JSON schema, the same ones for the same schema, digest and prompt.

Every choice is determined by its path, so fields are independent of each other. Keywords of JSON Schema and of Google's
OpenAPI subset are supported, except ``not``, ``if``, ``dependent...`` and ``contains``. Strings for a ``pattern`` are
generated along the parse tree of Python's own regular expressions.

Source: https://json-schema.org/draft/2020-12/json-schema-validation (read 2026-11-27).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from hashlib import blake2b
from typing import Any, Final, TypeAlias

import msgspec

from re import _parser  # type: ignore[attr-defined]  # isort: skip - the parser of the module that checks the result

from llmhub.core.json_schema import resolve_ref
from llmhub.sim.lexicon import NOUNS, SIM_MARKER, WORD_PATTERN

FORMAT_TEMPLATES: Final[Mapping[str, str]] = {
    "date": "2026-{:02}-{:02}",
    "date-time": "2026-{:02}-{:02}T12:00:00Z",
    "time": "{:02}:{:02}:00Z",
    "duration": "P{}DT{}H",
    "email": "ada{}.{}@example.org",
    "hostname": "host{}-{}.example.org",
    "uri": "https://example.org/{}/{}",
    "ipv4": "192.0.{}.{}",
    "ipv6": "2001:db8::{}:{}",
    "uuid": "5f0c1e2a-00{:02}-4b3d-8a9c-0123456789{:02}",
}
"""Strings by format, with placeholders for two numbers from 1 to 12."""
KEYWORDS_BY_TYPE: Final = (
    ("object", ("properties", "required", "additionalProperties", "minProperties")),
    ("array", ("items", "prefixItems", "minItems", "maxItems", "uniqueItems")),
    ("string", ("pattern", "format", "minLength", "maxLength")),
    ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
)
"""Keywords that imply a type if the schema has none."""
DEFAULT_RANGE: Final = 100
"""Range of numbers with one bound, or of those from 0 without bounds."""
DEFAULT_ITEMS: Final = 3
"""Maximum of list items and entries of an open object without bounds, and of repetitions of a recursive reference."""
NULL_ONE_IN: Final = 8
"""One of this many nullable values is null."""
MAX_TRIES: Final = 12
MAX_SIZE: Final = 4096
"""Maximum of generated items and characters, whatever the schema requires."""


@dataclass(frozen=True, slots=True)
class _Generator:
    """State of a generation: ``refs`` are the references followed so far; ``minimal`` ends recursion."""

    root: Mapping[str, Any]
    digest: bytes
    words: tuple[str, ...]
    refs: tuple[str, ...] = ()
    minimal: bool = False

    def pick(self, purpose: str, below: int) -> int:
        drawn = blake2b(purpose.encode("utf-8", "surrogatepass"), digest_size=8, key=self.digest[:64]).digest()
        return int.from_bytes(drawn, "big") % below


CONSTRAINT_KEYWORDS: Final = (
    "minimum|maximum|exclusiveMinimum|exclusiveMaximum|multipleOf|minLength|maxLength|pattern|format|minItems|maxItems|"
    "uniqueItems|minProperties|maxProperties"
)
CONSTRAINT_IN_DESCRIPTION: Final = re.compile(
    rf"[{{ ]({CONSTRAINT_KEYWORDS}): (.*?)(?=, (?:{CONSTRAINT_KEYWORDS}): |\}}$)", re.DOTALL
)
"""Constraints in a description (``{minimum: 1, maximum: 9}``), where clients put those that a provider rejects."""


def generate_value(schema: object, digest: bytes, prompt: str = "") -> Any:
    """Generate a value that matches a schema.

    Parameters
    ----------
    schema
        JSON schema, unvalidated; anything else is matched by any text.
    digest
        Determines, with the path, all choices; at most 64 bytes.
    prompt
        Source of words for strings.

    Examples
    --------
    >>> fields = {"size": {"enum": ["S", "M"]}, "n": {"type": "integer", "minimum": 7}}
    >>> schema = {"type": "object", "properties": fields}
    >>> value = generate_value(schema, b"seed")
    >>> value["size"] in {"S", "M"}, value["n"] >= 7, value == generate_value(schema, b"seed")
    (True, True, True)
    """
    root = schema if isinstance(schema, Mapping) else {}
    echoes = WORD_PATTERN.findall(SIM_MARKER.sub(" ", prompt[:2000]))[:24]
    return _generate(_Generator(root, digest, (*echoes, *NOUNS)), schema, "$")


def _generate(generator: _Generator, schema: Any, path: str) -> Any:
    """Generate one value: resolve the reference, choose a branch, then generate by type."""
    if not isinstance(schema, Mapping):
        return None if schema is False else generator.words[generator.pick(path, len(generator.words))]
    pointer = schema.get("$ref")
    if isinstance(pointer, str):
        turns = generator.refs.count(pointer)
        if turns > DEFAULT_ITEMS:
            return None
        generator = replace(generator, refs=(*generator.refs, pointer), minimal=generator.minimal or turns > 0)
        siblings = {key: value for key, value in schema.items() if key != "$ref"}
        return _generate(generator, {**_as_mapping(resolve_ref(schema, generator.root)), **siblings}, path)
    return _generate_resolved(generator, schema, path)


def _generate_resolved(generator: _Generator, schema: Mapping[str, Any], path: str) -> Any:
    """Generate a value of a resolved schema; models also follow constraints in descriptions."""
    description = schema.get("description")
    if isinstance(description, str) and description.endswith("}"):
        schema = {**dict(CONSTRAINT_IN_DESCRIPTION.findall(description)), **schema}
    if "const" in schema:
        return schema["const"]
    allowed = _list_keyword(schema, "enum")
    if allowed:
        return allowed[generator.pick(path, len(allowed))]
    merged = _merge_all_of(schema, generator.root)
    choices = _list_keyword(merged, "anyOf") or _list_keyword(merged, "oneOf")
    if choices:
        siblings = {key: value for key, value in merged.items() if key not in {"anyOf", "oneOf"}}
        chosen = _choose_branch(generator, choices, path)
        return _generate(generator, {**siblings, **chosen} if isinstance(chosen, Mapping) else chosen, path)
    kind = _choose_type(generator, merged, path)
    return (
        GENERATORS[kind](generator, merged, path)
        if kind in GENERATORS
        else generator.words[generator.pick(path, len(generator.words))]
    )


def _merge_all_of(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Merge the schemas of ``allOf`` into one."""
    merged = {key: value for key, value in schema.items() if key != "allOf"}
    for piece in _list_keyword(schema, "allOf"):
        subschema = _merge_all_of(_as_mapping(resolve_ref(piece, root)), root)
        fields = {**_as_mapping(merged.get("properties")), **_as_mapping(subschema.get("properties"))}
        required = [*_list_keyword(merged, "required"), *_list_keyword(subschema, "required")]
        merged = {**merged, **subschema, **({"properties": fields} if fields else {}), "required": required}
    return merged


def _choose_branch(generator: _Generator, choices: list[Any], path: str) -> Any:
    """Choose a branch; null is rare, and within recursion the branch with the fewest references is chosen."""
    if generator.minimal:
        return min(choices, key=lambda choice: _ref_depth(choice, generator.root))
    not_null = [choice for choice in choices if _as_mapping(choice).get("type") != "null"]
    candidates = not_null if not_null and generator.pick(f"{path}?", NULL_ONE_IN) else choices
    return candidates[generator.pick(f"{path}|", len(candidates))]


def _ref_depth(schema: Any, root: Mapping[str, Any], refs: tuple[str, ...] = ()) -> float:
    """Return the minimum number of references that a value requires."""
    node = _as_mapping(schema)
    pointer = node.get("$ref")
    if isinstance(pointer, str):
        circular = pointer in refs or len(refs) > DEFAULT_ITEMS
        return math.inf if circular else 1 + _ref_depth(resolve_ref(node, root), root, (*refs, pointer))
    choices = _list_keyword(node, "anyOf") or _list_keyword(node, "oneOf")
    if choices:
        return min(_ref_depth(choice, root, refs) for choice in choices)
    fields = _as_mapping(node.get("properties"))
    inside = [fields[name] for name in _required_names(node) if name in fields]
    inside += [node.get("items")] if _fraction(node, "minItems") else []
    return max((_ref_depth(one, root, refs) for one in inside), default=0)


def _choose_type(generator: _Generator, schema: Mapping[str, Any], path: str) -> str:
    """Choose a type: a declared one, or the one that the keywords imply."""
    declared = schema.get("type")
    kinds = [declared] if isinstance(declared, str) else _list_keyword(schema, "type")
    names = [str(kind).lower() for kind in kinds] + ["null"] * bool(schema.get("nullable") is True)
    if not names:
        return next((kind for kind, keywords in KEYWORDS_BY_TYPE if any(word in schema for word in keywords)), "")
    if generator.minimal and "null" in names:
        return "null"
    return str(_choose_branch(generator, [{"type": name} for name in names], path)["type"])


def _generate_object(generator: _Generator, schema: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Generate all named fields, or a few entries of an open object without any."""
    fields, required = _as_mapping(schema.get("properties")), _required_names(schema)
    rest, room = schema.get("additionalProperties"), _count_keyword(schema, "maxProperties")
    names = [name for name in (*fields, *required) if name in required or not generator.minimal]
    if room is not None:
        optional = iter([name for name in names if name not in required][: max(0, room - len(required))])
        kept_names = {*required, *optional}
        names = [name for name in names if name in kept_names]
    generated = {name: _generate(generator, fields.get(name, rest), f"{path}.{name}") for name in dict.fromkeys(names)}
    min_fields = _count_keyword(schema, "minProperties") or 0
    wished = (
        1 + generator.pick(f"{path}#", DEFAULT_ITEMS)
        if "properties" not in schema and not required and not generator.minimal
        else 0
    )
    max_fields = (
        len(generated) if rest is False else max(min_fields, min(wished, DEFAULT_ITEMS if room is None else room))
    )
    spare_names = iter(generator.words[generator.pick(f"{path}.", len(generator.words)) :] + generator.words)
    while len(generated) < max_fields and (name := next(spare_names, None)) is not None:
        generated.setdefault(name.lower(), _generate(generator, rest, f"{path}.{name}"))
    return generated


def _generate_array(generator: _Generator, schema: Mapping[str, Any], path: str) -> list[Any]:
    """Generate one to three items, or as many as required."""
    first = _list_keyword(schema, "prefixItems")
    low, high = _count_keyword(schema, "minItems") or 0, _count_keyword(schema, "maxItems")
    high = max(low, DEFAULT_ITEMS) if high is None else high
    rest = schema.get("items")
    if rest is False:
        high = min(high, len(first))
    min_size = min(max(low, len(first), 0 if generator.minimal else 1), high)
    max_size = min_size if generator.minimal else min(high, max(DEFAULT_ITEMS, min_size))
    kinds = (
        first[index] if index < len(first) else rest
        for index in range(min_size + generator.pick(f"{path}#", max_size - min_size + 1))
    )
    generated: dict[bytes, Any] = {}
    for index, kind in enumerate(kinds):
        for attempt in range(MAX_TRIES if schema.get("uniqueItems") else 1):
            item = _generate(generator, kind, f"{path}[{index}]{attempt or ''}")
            key = msgspec.json.encode(item) if schema.get("uniqueItems") else b"%d" % index
            if key not in generated:
                generated[key] = item
                break
    return [*generated.values()]


def _generate_string(generator: _Generator, schema: Mapping[str, Any], path: str) -> str:
    """Generate a string of the pattern or format, or one or two words."""
    low, longest = _count_keyword(schema, "minLength") or 0, _count_keyword(schema, "maxLength")
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        spelled = (generate_match(pattern, partial(_pick_at, generator, f"{path}{turn}")) for turn in range(MAX_TRIES))
        fitting = (
            text
            for text in spelled
            if text is not None and low <= len(text) <= (len(text) if longest is None else longest)
        )
        match = next(fitting, None)
        if match is not None:
            return match
    shape = FORMAT_TEMPLATES.get(str(schema.get("format")))
    if shape is not None:
        return shape.format(*(1 + generator.pick(f"{path}{which}", 12) for which in "ab"))
    words = [
        generator.words[generator.pick(f"{path} {index}", len(generator.words))]
        for index in range(1 + generator.pick(f"{path}#", 2))
    ]
    text = " ".join(words)
    while len(text) < low:
        text = f"{text} {generator.words[generator.pick(f'{path} {len(text)}', len(generator.words))]}"
    return text if longest is None else text[:longest]


def _pick_at(generator: _Generator, place: str, purpose: str, below: int) -> int:
    return generator.pick(f"{place}{purpose}", below)


def _generate_number(generator: _Generator, schema: Mapping[str, Any], path: str) -> float:
    """Generate a number within its bounds: a multiple if required, otherwise with two decimal places if possible."""
    step = _fraction(schema, "multipleOf") or None
    low, high, open_low, open_high = _number_range(schema, step or Fraction(1))
    if step is not None:
        return float(_choose_multiple(generator, (low, high, open_low, open_high), step, path))
    if low >= high:
        return float(low)
    drawn = float(low + (high - low) * Fraction(1 + generator.pick(path, 9999), 10001))
    short = round(drawn, 2)
    return short if low < short < high else drawn


def _generate_integer(generator: _Generator, schema: Mapping[str, Any], path: str) -> int:
    """Generate an integer within its bounds."""
    # Of the multiples of p/q in lowest terms, those of p are whole.
    step = Fraction((_fraction(schema, "multipleOf") or Fraction(1)).numerator)
    return int(_choose_multiple(generator, _number_range(schema, step), step, path))


def _choose_multiple(
    generator: _Generator, bounds: tuple[Fraction, Fraction, bool, bool], step: Fraction, path: str
) -> Fraction:
    """Choose a multiple, preferably one whose float division is exact."""
    low, high, open_low, open_high = bounds
    first, last = math.ceil(low / step), math.floor(high / step)
    first += open_low and first * step == low
    last -= open_high and last * step == high
    count = max(1, last - first + 1)
    tried = [(first + generator.pick(f"{path}{turn or ''}", count)) * step for turn in range(MAX_TRIES)]
    return next((one for one in tried if (float(one) / float(step)).is_integer()), tried[0])


def _number_range(schema: Mapping[str, Any], step: Fraction) -> tuple[Fraction, Fraction, bool, bool]:
    """Return minimum and maximum, and whether each is exclusive."""
    ends: dict[str, tuple[Fraction | None, bool]] = {}
    for name, tighter in (("minimum", max), ("maximum", min)):
        bound, other = _fraction(schema, name), f"exclusive{name.capitalize()}"
        exclusive = _fraction(schema, other)
        if exclusive is not None and (bound is None or tighter(bound, exclusive) == exclusive):
            ends[name] = exclusive, True
        else:
            ends[name] = bound, schema.get(other) is True
    (low, open_low), (high, open_high) = ends["minimum"], ends["maximum"]
    if low is None:
        low = Fraction(0) if high is None or high > 0 else high - DEFAULT_RANGE * step
    return low, low + DEFAULT_RANGE * step if high is None else high, open_low, open_high


def _fraction(schema: Mapping[str, Any], name: str) -> Fraction | None:
    """Read a number, which Google also writes as a string."""
    value = schema.get(name)
    if value is None or isinstance(value, (bool, Mapping, list)):
        return None
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        return None


def _count_keyword(schema: Mapping[str, Any], name: str) -> int | None:
    """Read a count."""
    number = _fraction(schema, name)
    return None if number is None else max(0, min(int(number), MAX_SIZE))


def _list_keyword(schema: Mapping[str, Any], name: str) -> list[Any]:
    value = schema.get(name)
    return value if isinstance(value, list) else []


def _required_names(schema: Mapping[str, Any]) -> list[str]:
    return [name for name in _list_keyword(schema, "required") if isinstance(name, str)]


def _as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


GENERATORS: Final[Mapping[str, Any]] = {
    "object": _generate_object,
    "array": _generate_array,
    "string": _generate_string,
    "number": _generate_number,
    "integer": _generate_integer,
    "boolean": lambda generator, _schema, path: generator.pick(path, 2) == 1,
    "null": lambda _make, _schema, _path: None,
}


# Strings for regular expressions


PickFunction: TypeAlias = Callable[[str, int], int]
"""Purpose and exclusive upper bound to an integer from 0."""
CATEGORY_CHARACTERS: Final = {"CATEGORY_DIGIT": "0123456789", "CATEGORY_SPACE": " ", "CATEGORY_NOT_DIGIT": "abcdefgh"}
LOWERCASE: Final = "abcdefghijklmnopqrstuvwxyz"
PRINTABLE: Final = "".join(map(chr, range(32, 127)))
MAX_EXTRA_REPEATS: Final = 3
"""Repetitions beyond the required ones, at most."""


def generate_match(pattern: str, pick: PickFunction) -> str | None:
    r"""Return a text that ``re.search`` matches, or ``None`` if the pattern is too complex.

    Examples
    --------
    >>> generate_match(r"^[A-Z]{2}-\d{3}$", lambda purpose, below: 0)
    'AA-000'
    >>> generate_match("(", lambda purpose, below: 0) is None
    True
    """
    try:
        text = _generate_sequence(_parser.parse(pattern), pick, "")
        return text if re.search(pattern, text) else None
    except (re.error, ValueError, OverflowError, RecursionError, MemoryError):
        return None


def _generate_sequence(steps: Iterable[tuple[Any, Any]], pick: PickFunction, path: str) -> str:
    return "".join(
        _generate_step(str(kind), value, pick, f"{path}.{index}") for index, (kind, value) in enumerate(steps)
    )


def _generate_step(kind: str, value: Any, pick: PickFunction, path: str) -> str:
    """Generate one node of the parse tree; assertions and positions generate nothing."""
    match kind:
        case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
            allowed = _allowed_characters(value if kind == "IN" else [(kind, value)])
            return allowed[pick(path, len(allowed))]
        case "BRANCH":
            branches = value[1]
            return _generate_sequence(branches[pick(path, len(branches))], pick, path)
        case "SUBPATTERN":
            return _generate_sequence(value[-1], pick, path)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            low, high, repeated = value
            times = low + pick(path, min(int(high) - low, MAX_EXTRA_REPEATS) + 1)
            return "".join(_generate_sequence(repeated, pick, f"{path}#{turn}") for turn in range(times))
        case _:
            return ""


def _allowed_characters(members: Iterable[tuple[Any, Any]]) -> str:
    """Return the characters of a set."""
    named, negated = "", False
    for kind, value in members:
        match str(kind):
            case "NEGATE":
                negated = True
            case "NOT_LITERAL":
                named, negated = chr(value), True
            case "LITERAL":
                named += chr(value)
            case "RANGE":
                named += "".join(map(chr, range(value[0], min(value[1], value[0] + 127) + 1)))
            case _:
                named += CATEGORY_CHARACTERS.get(str(value), LOWERCASE)
    return "".join(one for one in PRINTABLE if one not in named) if negated else named
