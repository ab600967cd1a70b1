"""Ready scorers. Each function gives a `Scorer`; ``target`` names the column that the answer is held against.

A target that is a list holds several right answers: one is enough.

Scorers again from what they are known by: llmhub's own, by name and version; judges, by what they were made with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.evals import answer_extraction, scorers, text_overlap
from llmhub.evals._scorer import TARGET, InputRow, Score, ScoreLike, Scorer, target_texts
from llmhub.evals.judge import Judge, ScorerOrJudge, judge, pairwise
from llmhub.evals.optional_imports import import_optional
from llmhub.evals.text_overlap import bleu, edit_similarity, rouge

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
    return _right("normalised", answer_extraction.normalise_text, target)


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


def _contains(target: str, case: bool, row: InputRow, response: str) -> ScoreLike:
    said = response if case else response.casefold()
    return any((each if case else each.casefold()) in said for each in target_texts(row[target]))


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
        raise BadRequestError(InvalidRequest(path="pattern", message=f"{pattern!r:.80}: {bad}")) from bad
    if target is not None and not compiled.groups:
        said = f"{pattern!r} has no group; put what is held against {target!r} in brackets"
        raise BadRequestError(InvalidRequest(path="pattern", message=said))
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


def _finds(read: Callable[[str], str | None], target: str | None, row: InputRow, response: str) -> ScoreLike:
    found = read(response)
    return found is not None if target is None else found in target_texts(row[target])


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
            raise BadRequestError(InvalidRequest(path=path, message=f"{value!r} is not a number from 0"))
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
    return answer_extraction.extract_last_number(text)


def _near(target: str, tolerance: Decimal, relative: Decimal, row: InputRow, response: str) -> ScoreLike:
    said = answer_extraction.extract_last_number(response)
    if said is None:
        return Score(0.0, "no number in the answer")
    wanted_ones = [answer_extraction.extract_last_number(each) for each in target_texts(row[target])]
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
        read=partial(answer_extraction.extract_choice, letters=letters),
    )


def _chosen(target: str, letters: str, row: InputRow, response: str) -> ScoreLike:
    value = row[target]
    place = value if isinstance(value, int) and not isinstance(value, bool) else None
    right = (
        letters[place]
        if place is not None and 0 <= place < len(letters)
        else answer_extraction.extract_choice(str(value), letters)
    )
    if right is None:
        return Score(None, f"the target {value!r:.40} is no letter of {letters}")
    said = answer_extraction.extract_choice(response, letters)
    return said == right if said else Score(0.0, "no letter in the answer")


def label(labels: Sequence[str], target: str = TARGET) -> Scorer:
    """Right when the answer settles on the target among a few labels.

    Examples
    --------
    >>> label(["positive", "negative"])({"target": "positive"}, "I'd say it is positive.")
    True
    """
    known = tuple(labels)
    read = partial(answer_extraction.extract_label, labels=known)
    return Scorer(
        name="label",
        version="1",
        score=partial(_labelled, read, target),
        right=True,
        columns=(target,),
        parameters={"target": target, "labels": list(known)},
        read=read,
    )


def _labelled(read: Callable[[str], str | None], target: str, row: InputRow, response: str) -> ScoreLike:
    said = read(response)
    if said is None:
        return Score(0.0, "no one label in the answer")
    return any(
        answer_extraction.normalise_text(said) == answer_extraction.normalise_text(each)
        for each in target_texts(row[target])
    )


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
        jsonschema = import_optional("jsonschema", "evals")
        kind = jsonschema.validators.validator_for(dict(schema))
        try:
            kind.check_schema(dict(schema))
        except jsonschema.SchemaError as bad:
            raise BadRequestError(InvalidRequest(path="schema", message=bad.message)) from bad
        check = kind(dict(schema))
    return Scorer(
        name="json_valid",
        version="1",
        score=partial(_valid, check),
        right=True,
        parameters={"schema": None if schema is None else dict(schema)},
        read=_canonical,
    )


def _valid(check: Any, _: InputRow, response: str) -> ScoreLike:
    try:
        value = answer_extraction.parse_json(response)
    except answer_extraction.InvalidJSONError as bad:
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


def _same_json(target: str, row: InputRow, response: str) -> ScoreLike:
    value = row[target]
    try:
        right = answer_extraction.parse_json(value) if isinstance(value, str) else value
    except answer_extraction.InvalidJSONError as bad:
        return Score(None, f"the target is no JSON: {bad}")
    try:
        return answer_extraction.json_values_equal(answer_extraction.parse_json(response), right)
    except answer_extraction.InvalidJSONError as bad:
        return Score(0.0, f"no JSON: {bad}")


def _canonical(text: str) -> Hashable | None:
    """Give JSON in one form, whatever the order of names."""
    import msgspec  # noqa: PLC0415 - beside its use

    try:
        return msgspec.json.encode(answer_extraction.parse_json(text), order="sorted")
    except answer_extraction.InvalidJSONError:
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


def _reads(read: Callable[[str], str], target: str, row: InputRow, response: str) -> ScoreLike:
    said = read(response)
    return any(said == read(each) for each in target_texts(row[target]))


BUILT_IN_SCORERS: Final[Mapping[str, Callable[..., Scorer]]] = {
    "exact": scorers.exact,
    "normalised": scorers.normalised,
    "contains": scorers.contains,
    "regex": scorers.regex,
    "numeric": scorers.numeric,
    "choice": scorers.choice,
    "label": scorers.label,
    "json_valid": scorers.json_valid,
    "json_equal": scorers.json_equal,
    "bleu": text_overlap.bleu,
    "edit_similarity": text_overlap.edit_similarity,
    **dict.fromkeys(text_overlap.ROUGE_TYPES, text_overlap.rouge),
}
"""What makes each of llmhub's own scorers of its parameters."""


JUDGE_PARAMETER: Final = "rubric"
"""A parameter that judges alone have."""


def scorer_from_identity(said: Mapping[str, Any], own: Sequence[ScorerOrJudge] = ()) -> ScorerOrJudge:
    """Give the scorer that is known by a name, a version and parameters.

    Parameters
    ----------
    said
        As `llmhub.evals._scorer.identity` gives it.
    own
        Scorers that llmhub does not bring.

    Raises
    ------
    InvalidRequestError
        There is none by that name, or it is of another version or other parameters.

    Examples
    --------
    >>> from llmhub.evals._scorer import identity
    >>> scorer_from_identity(identity(scorers.numeric(tolerance=0.5))).parameters["tolerance"]
    0.5
    """
    name, parameters = str(said["name"]), dict(said["parameters"])
    mine = next((one for one in own if one.name == name), None)
    made: ScorerOrJudge | None = mine
    if made is None and JUDGE_PARAMETER in parameters:
        made = Judge(name=name, version=str(said["version"]), **parameters)
    elif made is None and name in BUILT_IN_SCORERS:
        made = BUILT_IN_SCORERS[name](**parameters)
    if made is None:
        told = f"{name!r} is none of llmhub's scorers; give yours as scorers=[...]"
        raise BadRequestError(InvalidRequest(path="scorers", message=told))
    if made.version != said["version"]:
        told = f"{name!r} is of version {made.version!r} now, and was {said['version']!r}: it may score otherwise"
        raise BadRequestError(InvalidRequest(path="scorers", message=told))
    return made
