"""Texts that a regular expression matches, spelled out along its own parse.

Values that fit a JSON schema: made up, plausible, and the same for the same schema, digest and prompt.

Every choice is drawn by the place it is made at, so a value in one field depends on no other. Keywords of JSON schema
and of the OpenAPI subset that Google writes are understood; ``not``, ``if``, ``dependent...`` and ``contains`` are not.

Source: https://json-schema.org/draft/2020-12/json-schema-validation (read 2026-11-27).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from re import _parser  # type: ignore[attr-defined]  # isort: skip - the parser of the library that will check it
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from hashlib import blake2b

import msgspec

from llmhub.core.json_schema import resolve_ref
from llmhub.sim.lexicon import LEXICON, WORD_PATTERN

PickFunction: TypeAlias = Callable[[str, int], int]
"""Choose a number below the second argument, for the purpose that the first one names."""
CATEGORY_CHARACTERS: Final = {"CATEGORY_DIGIT": "0123456789", "CATEGORY_SPACE": " ", "CATEGORY_NOT_DIGIT": "abcdefgh"}
LOWERCASE: Final = "abcdefghijklmnopqrstuvwxyz"
PRINTABLE: Final = "".join(map(chr, range(32, 127)))
MAX_EXTRA_REPEATS: Final = 3
"""How often more than it must be something is repeated, at most."""


def generate_match(pattern: str, pick: PickFunction) -> str | None:
    r"""Spell a text that ``re.search`` finds the pattern in; ``None`` where that cannot be done so simply.

    Examples
    --------
    >>> generate_match(r"^[A-Z]{2}-\d{3}$", lambda purpose, below: 0)
    'AA-000'
    >>> generate_match("(", lambda purpose, below: 0) is None
    True
    """
    try:
        said = _generate_sequence(_parser.parse(pattern), pick, "")
        return said if re.search(pattern, said) else None
    except (re.error, ValueError, OverflowError, RecursionError, MemoryError):
        return None


def _generate_sequence(steps: Iterable[tuple[Any, Any]], pick: PickFunction, at: str) -> str:
    return "".join(_generate_step(str(kind), value, pick, f"{at}.{index}") for index, (kind, value) in enumerate(steps))


def _generate_step(kind: str, value: Any, pick: PickFunction, at: str) -> str:
    """Spell one step; what only looks ahead or holds a place spells nothing."""
    match kind:
        case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
            allowed = _allowed_characters(value if kind == "IN" else [(kind, value)])
            return allowed[pick(at, len(allowed))]
        case "BRANCH":
            branches = value[1]
            return _generate_sequence(branches[pick(at, len(branches))], pick, at)
        case "SUBPATTERN":
            return _generate_sequence(value[-1], pick, at)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            low, high, repeated = value
            times = low + pick(at, min(int(high) - low, MAX_EXTRA_REPEATS) + 1)
            return "".join(_generate_sequence(repeated, pick, f"{at}#{turn}") for turn in range(times))
        case _:
            return ""


def _allowed_characters(members: Iterable[tuple[Any, Any]]) -> str:
    """Give the characters of a set, those first that it names."""
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


SIM_MARKER: Final = re.compile(r"\[\[sim:[^\]]*\]\]")
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
"""What texts of a format look like, with two numbers from 1 to 12 in them."""
KEYWORDS_BY_TYPE: Final = (
    ("object", ("properties", "required", "additionalProperties", "minProperties")),
    ("array", ("items", "prefixItems", "minItems", "maxItems", "uniqueItems")),
    ("string", ("pattern", "format", "minLength", "maxLength")),
    ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
)
"""Keywords that tell what a value is where no type does."""
DEFAULT_RANGE: Final = 100
"""How far numbers go from the one bound they have, or from nought."""
DEFAULT_ITEMS: Final = 3
"""Items in a list and entries in an open object, where it says nothing; turns a pointer may take in a circle."""
NULL_ONE_IN: Final = 8
"""One value of so many that may be null is."""
MAX_TRIES: Final = 12
MAX_SIZE: Final = 4096
"""Items and characters that are made at most, whatever a schema wants."""


@dataclass(frozen=True, slots=True)
class _Generator:
    """What a whole value is made of; ``followed`` are the pointers on the way here."""

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
"""Bounds in a description, as clients put them there for providers that hold to none: ``{minimum: 1, maximum: 9}``."""


def generate_value(schema: object, digest: bytes, prompt: str = "") -> Any:
    """Make up a value that fits a schema.

    Parameters
    ----------
    schema
        As it came; what is no schema is met by any text.
    digest
        Decides, with the place in the value, what is chosen: up to 64 bytes.
    prompt
        Texts take words of it.

    Examples
    --------
    >>> fields = {"size": {"enum": ["S", "M"]}, "n": {"type": "integer", "minimum": 7}}
    >>> wanted = {"type": "object", "properties": fields}
    >>> made = generate_value(wanted, b"seed")
    >>> made["size"] in {"S", "M"}, made["n"] >= 7, made == generate_value(wanted, b"seed")
    (True, True, True)
    """
    root = schema if isinstance(schema, Mapping) else {}
    echoes = WORD_PATTERN.findall(SIM_MARKER.sub(" ", prompt[:2000]))[:24]
    return _generate(_Generator(root, digest, (*echoes, *LEXICON["noun"])), schema, "$")


def _generate(make: _Generator, schema: Any, path: str) -> Any:
    """Make one value: follow its pointer, choose among its forms, then go by its type."""
    if not isinstance(schema, Mapping):
        return None if schema is False else make.words[make.pick(path, len(make.words))]
    pointer = schema.get("$ref")
    if isinstance(pointer, str):
        turns = make.refs.count(pointer)
        if turns > DEFAULT_ITEMS:
            return None
        make = replace(make, refs=(*make.refs, pointer), minimal=make.minimal or turns > 0)
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _generate(make, {**_as_mapping(resolve_ref(schema, make.root)), **beside}, path)
    return _generate_resolved(make, schema, path)


def _generate_resolved(make: _Generator, schema: Mapping[str, Any], path: str) -> Any:
    """Make a value by what its schema says itself; a model heeds the bounds that a description tells, too."""
    told = schema.get("description")
    if isinstance(told, str) and told.endswith("}"):
        schema = {**dict(CONSTRAINT_IN_DESCRIPTION.findall(told)), **schema}
    if "const" in schema:
        return schema["const"]
    allowed = _list_keyword(schema, "enum")
    if allowed:
        return allowed[make.pick(path, len(allowed))]
    whole = _merge_all_of(schema, make.root)
    choices = _list_keyword(whole, "anyOf") or _list_keyword(whole, "oneOf")
    if choices:
        beside = {key: value for key, value in whole.items() if key not in {"anyOf", "oneOf"}}
        chosen = _choose_branch(make, choices, path)
        return _generate(make, {**beside, **chosen} if isinstance(chosen, Mapping) else chosen, path)
    kind = _choose_type(make, whole, path)
    return GENERATORS[kind](make, whole, path) if kind in GENERATORS else make.words[make.pick(path, len(make.words))]


def _merge_all_of(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put together what ``allOf`` sets apart."""
    whole = {key: value for key, value in schema.items() if key != "allOf"}
    for piece in _list_keyword(schema, "allOf"):
        found = _merge_all_of(_as_mapping(resolve_ref(piece, root)), root)
        fields = {**_as_mapping(whole.get("properties")), **_as_mapping(found.get("properties"))}
        required = [*_list_keyword(whole, "required"), *_list_keyword(found, "required")]
        whole = {**whole, **found, **({"properties": fields} if fields else {}), "required": required}
    return whole


def _choose_branch(make: _Generator, choices: list[Any], path: str) -> Any:
    """Choose a form: now and then null where there are others; in a circle, the one that ends it soonest."""
    if make.minimal:
        return min(choices, key=lambda choice: _ref_depth(choice, make.root))
    full = [choice for choice in choices if _as_mapping(choice).get("type") != "null"]
    among = full if full and make.pick(f"{path}?", NULL_ONE_IN) else choices
    return among[make.pick(f"{path}|", len(among))]


def _ref_depth(schema: Any, root: Mapping[str, Any], followed: tuple[str, ...] = ()) -> float:
    """Say how many pointers a value of a schema needs at least."""
    node = _as_mapping(schema)
    pointer = node.get("$ref")
    if isinstance(pointer, str):
        circular = pointer in followed or len(followed) > DEFAULT_ITEMS
        return math.inf if circular else 1 + _ref_depth(resolve_ref(node, root), root, (*followed, pointer))
    choices = _list_keyword(node, "anyOf") or _list_keyword(node, "oneOf")
    if choices:
        return min(_ref_depth(choice, root, followed) for choice in choices)
    fields = _as_mapping(node.get("properties"))
    inside = [fields[name] for name in _required_names(node) if name in fields]
    inside += [node.get("items")] if _fraction(node, "minItems") else []
    return max((_ref_depth(one, root, followed) for one in inside), default=0)


def _choose_type(make: _Generator, schema: Mapping[str, Any], path: str) -> str:
    """Say what a value is: by its type, or by the keywords that only one type has."""
    said = schema.get("type")
    kinds = [said] if isinstance(said, str) else _list_keyword(schema, "type")
    names = [str(kind).lower() for kind in kinds] + ["null"] * bool(schema.get("nullable") is True)
    if not names:
        return next((kind for kind, keywords in KEYWORDS_BY_TYPE if any(word in schema for word in keywords)), "")
    if make.minimal and "null" in names:
        return "null"
    return str(_choose_branch(make, [{"type": name} for name in names], path)["type"])


def _generate_object(make: _Generator, schema: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Make every field that is named; of an open object without any, a few entries."""
    fields, required = _as_mapping(schema.get("properties")), _required_names(schema)
    rest, room = schema.get("additionalProperties"), _count_keyword(schema, "maxProperties")
    names = [name for name in (*fields, *required) if name in required or not make.minimal]
    if room is not None:
        optional = iter([name for name in names if name not in required][: max(0, room - len(required))])
        kept = {*required, *optional}
        names = [name for name in names if name in kept]
    made = {name: _generate(make, fields.get(name, rest), f"{path}.{name}") for name in dict.fromkeys(names)}
    least = _count_keyword(schema, "minProperties") or 0
    wished = (
        1 + make.pick(f"{path}#", DEFAULT_ITEMS)
        if "properties" not in schema and not required and not make.minimal
        else 0
    )
    most = len(made) if rest is False else max(least, min(wished, DEFAULT_ITEMS if room is None else room))
    spare_names = iter(make.words[make.pick(f"{path}.", len(make.words)) :] + make.words)
    while len(made) < most and (name := next(spare_names, None)) is not None:
        made.setdefault(name.lower(), _generate(make, rest, f"{path}.{name}"))
    return made


def _generate_array(make: _Generator, schema: Mapping[str, Any], path: str) -> list[Any]:
    """Make one to three items, or as many as there have to be."""
    first = _list_keyword(schema, "prefixItems")
    low, high = _count_keyword(schema, "minItems") or 0, _count_keyword(schema, "maxItems")
    high = max(low, DEFAULT_ITEMS) if high is None else high
    rest = schema.get("items")
    if rest is False:
        high = min(high, len(first))
    least = min(max(low, len(first), 0 if make.minimal else 1), high)
    most = least if make.minimal else min(high, max(DEFAULT_ITEMS, least))
    kinds = (first[at] if at < len(first) else rest for at in range(least + make.pick(f"{path}#", most - least + 1)))
    made: dict[bytes, Any] = {}
    for at, kind in enumerate(kinds):
        for turn in range(MAX_TRIES if schema.get("uniqueItems") else 1):
            item = _generate(make, kind, f"{path}[{at}]{turn or ''}")
            key = msgspec.json.encode(item) if schema.get("uniqueItems") else b"%d" % at
            if key not in made:
                made[key] = item
                break
    return [*made.values()]


def _generate_string(make: _Generator, schema: Mapping[str, Any], path: str) -> str:
    """Make a date or what its format is, a text of its pattern, or a word or two."""
    low, longest = _count_keyword(schema, "minLength") or 0, _count_keyword(schema, "maxLength")
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        spelled = (generate_match(pattern, partial(_pick_at, make, f"{path}{turn}")) for turn in range(MAX_TRIES))
        fitting = (
            text
            for text in spelled
            if text is not None and low <= len(text) <= (len(text) if longest is None else longest)
        )
        found = next(fitting, None)
        if found is not None:
            return found
    shape = FORMAT_TEMPLATES.get(str(schema.get("format")))
    if shape is not None:
        return shape.format(*(1 + make.pick(f"{path}{which}", 12) for which in "ab"))
    words = [make.words[make.pick(f"{path} {at}", len(make.words))] for at in range(1 + make.pick(f"{path}#", 2))]
    said = " ".join(words)
    while len(said) < low:
        said = f"{said} {make.words[make.pick(f'{path} {len(said)}', len(make.words))]}"
    return said if longest is None else said[:longest]


def _pick_at(make: _Generator, place: str, purpose: str, below: int) -> int:
    return make.pick(f"{place}{purpose}", below)


def _generate_number(make: _Generator, schema: Mapping[str, Any], path: str) -> float:
    """Make a number within its bounds: a multiple where it has to be one, else of two places where they do."""
    step = _fraction(schema, "multipleOf") or None
    low, high, open_low, open_high = _number_range(schema, step or Fraction(1))
    if step is not None:
        return float(_choose_multiple(make, (low, high, open_low, open_high), step, path))
    if low >= high:
        return float(low)
    drawn = float(low + (high - low) * Fraction(1 + make.pick(path, 9999), 10001))
    short = round(drawn, 2)
    return short if low < short < high else drawn


def _generate_integer(make: _Generator, schema: Mapping[str, Any], path: str) -> int:
    """Make a whole number within its bounds."""
    # Of the multiples of p/q in lowest terms, those of p are whole.
    step = Fraction((_fraction(schema, "multipleOf") or Fraction(1)).numerator)
    return int(_choose_multiple(make, _number_range(schema, step), step, path))


def _choose_multiple(
    make: _Generator, bounds: tuple[Fraction, Fraction, bool, bool], step: Fraction, path: str
) -> Fraction:
    """Choose a multiple, one that divides evenly as floats do where there is any."""
    low, high, open_low, open_high = bounds
    first, last = math.ceil(low / step), math.floor(high / step)
    first += open_low and first * step == low
    last -= open_high and last * step == high
    many = max(1, last - first + 1)
    tried = [(first + make.pick(f"{path}{turn or ''}", many)) * step for turn in range(MAX_TRIES)]
    return next((one for one in tried if (float(one) / float(step)).is_integer()), tried[0])


def _number_range(schema: Mapping[str, Any], step: Fraction) -> tuple[Fraction, Fraction, bool, bool]:
    """Give the lowest and the highest number, and whether each of them is itself too low or too high."""
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
    """Read a number, which Google also writes as text."""
    said = schema.get(name)
    if said is None or isinstance(said, (bool, Mapping, list)):
        return None
    try:
        return Fraction(str(said))
    except (ValueError, ZeroDivisionError):
        return None


def _count_keyword(schema: Mapping[str, Any], name: str) -> int | None:
    """Read how many there may be of something."""
    said = _fraction(schema, name)
    return None if said is None else max(0, min(int(said), MAX_SIZE))


def _list_keyword(schema: Mapping[str, Any], name: str) -> list[Any]:
    said = schema.get(name)
    return said if isinstance(said, list) else []


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
    "boolean": lambda make, _schema, path: make.pick(path, 2) == 1,
    "null": lambda _make, _schema, _path: None,
}
