"""Ready scorers. Each function gives a `Scorer`; ``target`` names the column that the answer is held against.

A target that is a list holds several right answers: one is enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.evals import reading
from llmhub.evals.extras import wanted
from llmhub.evals.judging import judge, pairwise
from llmhub.evals.overlap import bleu, edit_similarity, rouge
from llmhub.evals.score import TARGET, Row, Score, Scorer, Verdict, texts_of

__all__ = [
    "bleu",
    "choice",
    "contains",
    "edit_similarity",
    "exact",
    "json_equal",
    "json_valid",
    "judge",
    "label",
    "normalised",
    "numeric",
    "pairwise",
    "regex",
    "rouge",
]


def exact(target: str = TARGET) -> Scorer:
    """Right when the answer is the target, but for space around it.

    Examples
    --------
    >>> exact()({"target": "Paris"}, " Paris "), exact()({"target": "Paris"}, "paris")
    (True, False)
    """
    return _right("exact", str.strip, target)


def normalised(target: str = TARGET) -> Scorer:
    """Right when answer and target say the same but for case, punctuation, articles and spacing.

    Examples
    --------
    >>> normalised()({"target": "the Eiffel Tower"}, "Eiffel tower.")
    True
    """
    return _right("normalised", reading.normalised, target)


def contains(target: str = TARGET, *, case: bool = False) -> Scorer:
    """Right when the target stands in the answer; ``case`` to tell capitals apart.

    Examples
    --------
    >>> contains()({"target": "Paris"}, "It is paris, I think.")
    True
    """
    score = partial(_contains, target, case)
    return Scorer(
        name="contains", version="1", score=score, right=True, columns=(target,),
        parameters={"target": target, "case": case},
    )  # fmt: skip


def _contains(target: str, case: bool, row: Row, response: str) -> Verdict:
    said = response if case else response.casefold()
    return any((each if case else each.casefold()) in said for each in texts_of(row[target]))


def regex(pattern: str, target: str | None = None) -> Scorer:
    r"""Right when the pattern is found in the answer; with a target, when its last match's first group is the target.

    Examples
    --------
    >>> regex(r"answer: (\w+)", "target")({"target": "Paris"}, "answer: Paris")
    True
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as bad:
        raise InvalidRequestError(InvalidRequest(path="pattern", message=f"{pattern!r:.80}: {bad}")) from bad
    if target is not None and not compiled.groups:
        said = f"{pattern!r} has no group; put what is held against {target!r} in brackets"
        raise InvalidRequestError(InvalidRequest(path="pattern", message=said))
    read = partial(_found, compiled)
    return Scorer(
        name="regex",
        version="1",
        score=partial(_finds, read, target),
        right=True,
        columns=() if target is None else (target,),
        parameters={"pattern": pattern, "target": target},
        read=read,
    )


def _found(pattern: re.Pattern[str], text: str) -> str | None:
    found = [match.group(1 if pattern.groups else 0) for match in pattern.finditer(text)]
    return found[-1] if found else None


def _finds(read: Callable[[str], str | None], target: str | None, row: Row, response: str) -> Verdict:
    found = read(response)
    return found is not None if target is None else found in texts_of(row[target])


def numeric(target: str = TARGET, *, tolerance: float = 0.0, relative: float = 1e-9) -> Scorer:
    """Right when the last number of the answer is the last number of the target, to a tolerance.

    Parameters
    ----------
    tolerance
        Absolute: how far apart they may be.
    relative
        As a share of the target; the larger of the two counts.

    Examples
    --------
    >>> numeric()({"target": "... #### 70,000"}, "He made a profit of $70000.00.")
    True
    """
    for path, value in (("tolerance", tolerance), ("relative", relative)):
        if not value >= 0:
            raise InvalidRequestError(InvalidRequest(path=path, message=f"{value!r} is not a number from 0"))
    return Scorer(
        name="numeric",
        version="1",
        score=partial(_near, target, Decimal(str(tolerance)), Decimal(str(relative))),
        right=True,
        columns=(target,),
        parameters={"target": target, "tolerance": tolerance, "relative": relative},
        read=_number,
    )


def _number(text: str) -> Hashable | None:
    return reading.last_number(text)


def _near(target: str, tolerance: Decimal, relative: Decimal, row: Row, response: str) -> Verdict:
    said = reading.last_number(response)
    if said is None:
        return Score(0.0, "no number in the answer")
    wanted_ones = [reading.last_number(each) for each in texts_of(row[target])]
    known = [each for each in wanted_ones if each is not None]
    if not known:
        return Score(None, f"no number in the target {row[target]!r:.40}")
    return any(abs(said - each) <= max(tolerance, relative * abs(each)) for each in known)


def choice(target: str = TARGET, *, letters: str = "ABCDE") -> Scorer:
    """Right when the answer settles on the target's letter of a multiple choice; a target 0, 1, ... is a position.

    Examples
    --------
    >>> choice()({"target": "C"}, "The answer is (C)."), choice()({"target": 2}, "C")
    (True, True)
    """
    return Scorer(
        name="choice",
        version="1",
        score=partial(_chosen, target, letters),
        right=True,
        columns=(target,),
        parameters={"target": target, "letters": letters},
        read=partial(reading.letter, letters=letters),
    )


def _chosen(target: str, letters: str, row: Row, response: str) -> Verdict:
    value = row[target]
    place = value if isinstance(value, int) and not isinstance(value, bool) else None
    right = letters[place] if place is not None and 0 <= place < len(letters) else reading.letter(str(value), letters)
    if right is None:
        return Score(None, f"the target {value!r:.40} is no letter of {letters}")
    said = reading.letter(response, letters)
    return said == right if said else Score(0.0, "no letter in the answer")


def label(labels: Sequence[str], target: str = TARGET) -> Scorer:
    """Right when the answer settles on the target among a few labels.

    Examples
    --------
    >>> label(["positive", "negative"])({"target": "positive"}, "I'd say it is positive.")
    True
    """
    known = tuple(labels)
    read = partial(reading.label, labels=known)
    return Scorer(
        name="label",
        version="1",
        score=partial(_labelled, read, target),
        right=True,
        columns=(target,),
        parameters={"target": target, "labels": list(known)},
        read=read,
    )


def _labelled(read: Callable[[str], str | None], target: str, row: Row, response: str) -> Verdict:
    said = read(response)
    if said is None:
        return Score(0.0, "no one label in the answer")
    return any(reading.normalised(said) == reading.normalised(each) for each in texts_of(row[target]))


def json_valid(schema: Mapping[str, Any] | None = None) -> Scorer:
    """Right when the answer is JSON, and keeps to a JSON schema if one is given; a fence around it is seen through.

    Needs the ``evals`` extra where a schema is given.

    Examples
    --------
    >>> json_valid()({}, '{"a": 1}'), json_valid()({}, "no").value
    (True, 0.0)
    """
    check = None
    if schema is not None:
        jsonschema = wanted("jsonschema", "evals")
        kind = jsonschema.validators.validator_for(dict(schema))
        try:
            kind.check_schema(dict(schema))
        except jsonschema.SchemaError as bad:
            raise InvalidRequestError(InvalidRequest(path="schema", message=bad.message)) from bad
        check = kind(dict(schema))
    return Scorer(
        name="json_valid",
        version="1",
        score=partial(_valid, check),
        right=True,
        parameters={"schema": None if schema is None else dict(schema)},
        read=_canonical,
    )


def _valid(check: Any, _: Row, response: str) -> Verdict:
    try:
        value = reading.json_of(response)
    except reading.NotJSON as bad:
        return Score(0.0, f"no JSON: {bad}")
    wrong = None if check is None else next(check.iter_errors(value), None)
    return True if wrong is None else Score(0.0, f"{wrong.json_path}: {wrong.message:.200}")


def json_equal(target: str = TARGET) -> Scorer:
    """Right when the answer is the target's JSON, whatever the order of names and the spacing.

    Examples
    --------
    >>> json_equal()({"target": '{"a": 1, "b": 2}'}, '{"b": 2.0, "a": 1}')
    True
    """
    return Scorer(
        name="json_equal",
        version="1",
        score=partial(_same_json, target),
        right=True,
        columns=(target,),
        parameters={"target": target},
        read=_canonical,
    )


def _same_json(target: str, row: Row, response: str) -> Verdict:
    value = row[target]
    try:
        right = reading.json_of(value) if isinstance(value, str) else value
    except reading.NotJSON as bad:
        return Score(None, f"the target is no JSON: {bad}")
    try:
        return reading.json_same(reading.json_of(response), right)
    except reading.NotJSON as bad:
        return Score(0.0, f"no JSON: {bad}")


def _canonical(text: str) -> Hashable | None:
    """Give JSON in one form, whatever the order of names."""
    import msgspec  # noqa: PLC0415 - beside its use

    try:
        return msgspec.json.encode(reading.json_of(text), order="sorted")
    except reading.NotJSON:
        return None


def _right(name: str, read: Callable[[str], str], target: str) -> Scorer:
    """Make a scorer by which an answer is right when it reads as the target does."""
    return Scorer(
        name=name,
        version="1",
        score=partial(_reads, read, target),
        right=True,
        columns=(target,),
        parameters={"target": target},
        read=read,
    )


def _reads(read: Callable[[str], str], target: str, row: Row, response: str) -> Verdict:
    said = read(response)
    return any(said == read(each) for each in texts_of(row[target]))
