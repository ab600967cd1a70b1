"""Values that fit a JSON schema: made up, plausible, and the same for the same schema, digest and prompt.

Every choice is drawn by the place it is made at, so a value in one field depends on no other. Keywords of JSON schema
and of the OpenAPI subset that Google writes are understood; ``not``, ``if``, ``dependent...`` and ``contains`` are not.

Source: https://json-schema.org/draft/2020-12/json-schema-validation (read 2026-11-27).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from hashlib import blake2b
from typing import Any, Final

import msgspec

from llmhub.core.fits import resolved
from llmhub.sim.patterns import spell
from llmhub.sim.words import LEXICON, WORD

MARK: Final = re.compile(r"\[\[sim:[^\]]*\]\]")
FORMATS: Final[Mapping[str, str]] = {
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
KINDS: Final = (
    ("object", ("properties", "required", "additionalProperties", "minProperties")),
    ("array", ("items", "prefixItems", "minItems", "maxItems", "uniqueItems")),
    ("string", ("pattern", "format", "minLength", "maxLength")),
    ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
)
"""Keywords that tell what a value is where no type does."""
SPAN: Final = 100
"""How far numbers go from the one bound they have, or from nought."""
FEW: Final = 3
"""Items in a list and entries in an open object, where it says nothing; turns a pointer may take in a circle."""
NULLS: Final = 8
"""One value of so many that may be null is."""
TRIES: Final = 12
LARGEST: Final = 4096
"""Items and characters that are made at most, whatever a schema wants."""


@dataclass(frozen=True, slots=True)
class _Maker:
    """What a whole value is made of; ``followed`` are the pointers on the way here."""

    root: Mapping[str, Any]
    digest: bytes
    words: tuple[str, ...]
    followed: tuple[str, ...] = ()
    spare: bool = False

    def pick(self, purpose: str, below: int) -> int:
        drawn = blake2b(purpose.encode("utf-8", "surrogatepass"), digest_size=8, key=self.digest[:64]).digest()
        return int.from_bytes(drawn, "big") % below


BOUNDS: Final = (
    "minimum|maximum|exclusiveMinimum|exclusiveMaximum|multipleOf|minLength|maxLength|pattern|format|minItems|maxItems|"
    "uniqueItems|minProperties|maxProperties"
)
TOLD: Final = re.compile(rf"[{{ ]({BOUNDS}): (.*?)(?=, (?:{BOUNDS}): |\}}$)", re.DOTALL)
"""Bounds in a description, as clients put them there for providers that hold to none: ``{minimum: 1, maximum: 9}``."""


def fabricate(schema: object, digest: bytes, prompt: str = "") -> Any:
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
    >>> made = fabricate(wanted, b"seed")
    >>> made["size"] in {"S", "M"}, made["n"] >= 7, made == fabricate(wanted, b"seed")
    (True, True, True)
    """
    root = schema if isinstance(schema, Mapping) else {}
    echoes = WORD.findall(MARK.sub(" ", prompt[:2000]))[:24]
    return _value(_Maker(root, digest, (*echoes, *LEXICON["noun"])), schema, "$")


def _value(make: _Maker, schema: Any, path: str) -> Any:
    """Make one value: follow its pointer, choose among its forms, then go by its type."""
    if not isinstance(schema, Mapping):
        return None if schema is False else make.words[make.pick(path, len(make.words))]
    pointer = schema.get("$ref")
    if isinstance(pointer, str):
        turns = make.followed.count(pointer)
        if turns > FEW:
            return None
        make = replace(make, followed=(*make.followed, pointer), spare=make.spare or turns > 0)
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _value(make, {**_mapping(resolved(schema, make.root)), **beside}, path)
    return _formed(make, schema, path)


def _formed(make: _Maker, schema: Mapping[str, Any], path: str) -> Any:
    """Make a value by what its schema says itself; a model heeds the bounds that a description tells, too."""
    told = schema.get("description")
    if isinstance(told, str) and told.endswith("}"):
        schema = {**dict(TOLD.findall(told)), **schema}
    if "const" in schema:
        return schema["const"]
    allowed = _items(schema, "enum")
    if allowed:
        return allowed[make.pick(path, len(allowed))]
    whole = _joined(schema, make.root)
    choices = _items(whole, "anyOf") or _items(whole, "oneOf")
    if choices:
        beside = {key: value for key, value in whole.items() if key not in {"anyOf", "oneOf"}}
        chosen = _chosen(make, choices, path)
        return _value(make, {**beside, **chosen} if isinstance(chosen, Mapping) else chosen, path)
    kind = _kind(make, whole, path)
    return MAKERS[kind](make, whole, path) if kind in MAKERS else make.words[make.pick(path, len(make.words))]


def _joined(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put together what ``allOf`` sets apart."""
    whole = {key: value for key, value in schema.items() if key != "allOf"}
    for piece in _items(schema, "allOf"):
        found = _joined(_mapping(resolved(piece, root)), root)
        fields = {**_mapping(whole.get("properties")), **_mapping(found.get("properties"))}
        required = [*_items(whole, "required"), *_items(found, "required")]
        whole = {**whole, **found, **({"properties": fields} if fields else {}), "required": required}
    return whole


def _chosen(make: _Maker, choices: list[Any], path: str) -> Any:
    """Choose a form: now and then null where there are others; in a circle, the one that ends it soonest."""
    if make.spare:
        return min(choices, key=lambda choice: _reach(choice, make.root))
    full = [choice for choice in choices if _mapping(choice).get("type") != "null"]
    among = full if full and make.pick(f"{path}?", NULLS) else choices
    return among[make.pick(f"{path}|", len(among))]


def _reach(schema: Any, root: Mapping[str, Any], followed: tuple[str, ...] = ()) -> float:
    """Say how many pointers a value of a schema needs at least."""
    node = _mapping(schema)
    pointer = node.get("$ref")
    if isinstance(pointer, str):
        circular = pointer in followed or len(followed) > FEW
        return math.inf if circular else 1 + _reach(resolved(node, root), root, (*followed, pointer))
    choices = _items(node, "anyOf") or _items(node, "oneOf")
    if choices:
        return min(_reach(choice, root, followed) for choice in choices)
    fields = _mapping(node.get("properties"))
    inside = [fields[name] for name in _names(node) if name in fields]
    inside += [node.get("items")] if _bound(node, "minItems") else []
    return max((_reach(one, root, followed) for one in inside), default=0)


def _kind(make: _Maker, schema: Mapping[str, Any], path: str) -> str:
    """Say what a value is: by its type, or by the keywords that only one type has."""
    said = schema.get("type")
    kinds = [said] if isinstance(said, str) else _items(schema, "type")
    names = [str(kind).lower() for kind in kinds] + ["null"] * bool(schema.get("nullable") is True)
    if not names:
        return next((kind for kind, keywords in KINDS if any(word in schema for word in keywords)), "")
    if make.spare and "null" in names:
        return "null"
    return str(_chosen(make, [{"type": name} for name in names], path)["type"])


def _object(make: _Maker, schema: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Make every field that is named; of an open object without any, a few entries."""
    fields, required = _mapping(schema.get("properties")), _names(schema)
    rest, room = schema.get("additionalProperties"), _size(schema, "maxProperties")
    names = [name for name in (*fields, *required) if name in required or not make.spare]
    if room is not None:
        optional = iter([name for name in names if name not in required][: max(0, room - len(required))])
        kept = {*required, *optional}
        names = [name for name in names if name in kept]
    made = {name: _value(make, fields.get(name, rest), f"{path}.{name}") for name in dict.fromkeys(names)}
    least = _size(schema, "minProperties") or 0
    wished = 1 + make.pick(f"{path}#", FEW) if "properties" not in schema and not required and not make.spare else 0
    most = len(made) if rest is False else max(least, min(wished, FEW if room is None else room))
    spare_names = iter(make.words[make.pick(f"{path}.", len(make.words)) :] + make.words)
    while len(made) < most and (name := next(spare_names, None)) is not None:
        made.setdefault(name.lower(), _value(make, rest, f"{path}.{name}"))
    return made


def _array(make: _Maker, schema: Mapping[str, Any], path: str) -> list[Any]:
    """Make one to three items, or as many as there have to be."""
    first = _items(schema, "prefixItems")
    low, high = _size(schema, "minItems") or 0, _size(schema, "maxItems")
    high = max(low, FEW) if high is None else high
    rest = schema.get("items")
    if rest is False:
        high = min(high, len(first))
    least = min(max(low, len(first), 0 if make.spare else 1), high)
    most = least if make.spare else min(high, max(FEW, least))
    kinds = (first[at] if at < len(first) else rest for at in range(least + make.pick(f"{path}#", most - least + 1)))
    made: dict[bytes, Any] = {}
    for at, kind in enumerate(kinds):
        for turn in range(TRIES if schema.get("uniqueItems") else 1):
            item = _value(make, kind, f"{path}[{at}]{turn or ''}")
            key = msgspec.json.encode(item) if schema.get("uniqueItems") else b"%d" % at
            if key not in made:
                made[key] = item
                break
    return [*made.values()]


def _string(make: _Maker, schema: Mapping[str, Any], path: str) -> str:
    """Make a date or what its format is, a text of its pattern, or a word or two."""
    low, longest = _size(schema, "minLength") or 0, _size(schema, "maxLength")
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        spelled = (spell(pattern, partial(_placed, make, f"{path}{turn}")) for turn in range(TRIES))
        fitting = (
            text
            for text in spelled
            if text is not None and low <= len(text) <= (len(text) if longest is None else longest)
        )
        found = next(fitting, None)
        if found is not None:
            return found
    shape = FORMATS.get(str(schema.get("format")))
    if shape is not None:
        return shape.format(*(1 + make.pick(f"{path}{which}", 12) for which in "ab"))
    words = [make.words[make.pick(f"{path} {at}", len(make.words))] for at in range(1 + make.pick(f"{path}#", 2))]
    said = " ".join(words)
    while len(said) < low:
        said = f"{said} {make.words[make.pick(f'{path} {len(said)}', len(make.words))]}"
    return said if longest is None else said[:longest]


def _placed(make: _Maker, place: str, purpose: str, below: int) -> int:
    return make.pick(f"{place}{purpose}", below)


def _number(make: _Maker, schema: Mapping[str, Any], path: str) -> float:
    """Make a number within its bounds: a multiple where it has to be one, else of two places where they do."""
    step = _bound(schema, "multipleOf") or None
    low, high, open_low, open_high = _bounds(schema, step or Fraction(1))
    if step is not None:
        return float(_multiple(make, (low, high, open_low, open_high), step, path))
    if low >= high:
        return float(low)
    drawn = float(low + (high - low) * Fraction(1 + make.pick(path, 9999), 10001))
    short = round(drawn, 2)
    return short if low < short < high else drawn


def _integer(make: _Maker, schema: Mapping[str, Any], path: str) -> int:
    """Make a whole number within its bounds."""
    # Of the multiples of p/q in lowest terms, those of p are whole.
    step = Fraction((_bound(schema, "multipleOf") or Fraction(1)).numerator)
    return int(_multiple(make, _bounds(schema, step), step, path))


def _multiple(make: _Maker, bounds: tuple[Fraction, Fraction, bool, bool], step: Fraction, path: str) -> Fraction:
    """Choose a multiple, one that divides evenly as floats do where there is any."""
    low, high, open_low, open_high = bounds
    first, last = math.ceil(low / step), math.floor(high / step)
    first += open_low and first * step == low
    last -= open_high and last * step == high
    many = max(1, last - first + 1)
    tried = [(first + make.pick(f"{path}{turn or ''}", many)) * step for turn in range(TRIES)]
    return next((one for one in tried if (float(one) / float(step)).is_integer()), tried[0])


def _bounds(schema: Mapping[str, Any], step: Fraction) -> tuple[Fraction, Fraction, bool, bool]:
    """Give the lowest and the highest number, and whether each of them is itself too low or too high."""
    ends: dict[str, tuple[Fraction | None, bool]] = {}
    for name, tighter in (("minimum", max), ("maximum", min)):
        bound, other = _bound(schema, name), f"exclusive{name.capitalize()}"
        exclusive = _bound(schema, other)
        if exclusive is not None and (bound is None or tighter(bound, exclusive) == exclusive):
            ends[name] = exclusive, True
        else:
            ends[name] = bound, schema.get(other) is True
    (low, open_low), (high, open_high) = ends["minimum"], ends["maximum"]
    if low is None:
        low = Fraction(0) if high is None or high > 0 else high - SPAN * step
    return low, low + SPAN * step if high is None else high, open_low, open_high


def _bound(schema: Mapping[str, Any], name: str) -> Fraction | None:
    """Read a number, which Google also writes as text."""
    said = schema.get(name)
    if said is None or isinstance(said, (bool, Mapping, list)):
        return None
    try:
        return Fraction(str(said))
    except (ValueError, ZeroDivisionError):
        return None


def _size(schema: Mapping[str, Any], name: str) -> int | None:
    """Read how many there may be of something."""
    said = _bound(schema, name)
    return None if said is None else max(0, min(int(said), LARGEST))


def _items(schema: Mapping[str, Any], name: str) -> list[Any]:
    said = schema.get(name)
    return said if isinstance(said, list) else []


def _names(schema: Mapping[str, Any]) -> list[str]:
    return [name for name in _items(schema, "required") if isinstance(name, str)]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


MAKERS: Final[Mapping[str, Any]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "number": _number,
    "integer": _integer,
    "boolean": lambda make, _schema, path: make.pick(path, 2) == 1,
    "null": lambda _make, _schema, _path: None,
}
