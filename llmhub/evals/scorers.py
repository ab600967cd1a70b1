"""Built-in scorers. Each function returns a `Scorer` or `Judge`; ``target`` names the column with the reference answer.

If a row's target is a list, a response that matches any of its values is correct. `scorer_from_identity` rebuilds a
scorer from the name, version and parameters recorded with its scores.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeVar

from llmhub.core.errors import invalid
from llmhub.core.optional_imports import import_optional
from llmhub.evals import answer_extraction, code_execution
from llmhub.evals._scorer import TARGET, InputRow, Score, ScoreLike, Scorer, target_texts
from llmhub.evals.earlier_extraction import extract_choice_1
from llmhub.evals.judge import Judge, ScorerOrJudge, judge, pairwise
from llmhub.evals.text_overlap import ROUGE_TYPES, bleu, edit_similarity, rouge

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
    "math",
    "normalised",
    "numeric",
    "pairwise",
    "python_tests",
    "regex",
    "rouge",
]


def __dir__() -> list[str]:
    """List the public names only, so that completion shows nothing foreign."""
    return sorted(__all__)


def exact(target: str = TARGET) -> Scorer:
    """Return a scorer of exact matches; surrounding whitespace is ignored.

    Examples
    --------
    >>> exact()({"target": "Paris"}, " Paris "), exact()({"target": "Paris"}, "paris")
    (True, False)
    """
    return _match_scorer("exact", str.strip, target)


def normalised(target: str = TARGET) -> Scorer:
    """Return a scorer of matches that ignore case, punctuation, articles and whitespace.

    Examples
    --------
    >>> normalised()({"target": "the Eiffel Tower"}, "Eiffel tower.")
    True
    """
    return _match_scorer("normalised", answer_extraction.normalise_text, target)


def _match_scorer(name: str, read: Callable[[str], str], target: str) -> Scorer:
    """Return a scorer that compares response and target after applying ``read`` to both."""
    return Scorer(
        name=name,
        version="1",
        score=partial(_reads_equal, read, target),
        right=True,
        columns=(target,),
        parameters={"target": target},
        read=read,
    )


def _reads_equal(read: Callable[[str], str], target: str, row: InputRow, response: str) -> ScoreLike:
    answer = read(response)
    return any(answer == read(text) for text in target_texts(row[target]))


def contains(target: str = TARGET, *, case: bool = False) -> Scorer:
    """Return a scorer of whether the response contains the target; case-sensitive with ``case=True``.

    Examples
    --------
    >>> contains()({"target": "Paris"}, "It is paris, I think.")
    True
    """
    return Scorer(
        name="contains",
        version="1",
        score=partial(_contains, target, case),
        right=True,
        columns=(target,),
        parameters={"target": target, "case": case},
    )


def _contains(target: str, case: bool, row: InputRow, response: str) -> ScoreLike:
    texts = target_texts(row[target])
    if case:
        return any(text in response for text in texts)
    folded = response.casefold()
    return any(text.casefold() in folded for text in texts)


def regex(pattern: str, target: str | None = None) -> Scorer:
    r"""Return a scorer of whether a pattern is found; with a target, of whether the last match's group 1 equals it.

    Examples
    --------
    >>> regex(r"answer: (\w+)", "target")({"target": "Paris"}, "answer: Paris")
    True
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise invalid("pattern", f"{pattern!r:.80} is not a valid regular expression: {error}") from error
    if target is not None and not compiled.groups:
        message = f"{pattern!r} has no group; put the part to compare with {target!r} in parentheses"
        raise invalid("pattern", message)
    read = partial(_last_match, compiled)
    return Scorer(
        name="regex",
        version="1",
        score=partial(_matches, read, target),
        right=True,
        columns=() if target is None else (target,),
        parameters={"pattern": pattern, "target": target},
        read=read,
    )


def _last_match(pattern: re.Pattern[str], text: str) -> str | None:
    matches = [match.group(1 if pattern.groups else 0) for match in pattern.finditer(text)]
    return matches[-1] if matches else None


def _matches(read: Callable[[str], str | None], target: str | None, row: InputRow, response: str) -> ScoreLike:
    match = read(response)
    return match is not None if target is None else match in target_texts(row[target])


def numeric(target: str = TARGET, *, tolerance: float = 0.0, relative: float = 1e-9, version: str = "2") -> Scorer:
    """Return a scorer of whether the answers of response and target are equal numbers within a tolerance.

    The answer is the number that is stated as such ("Answer: 18", "#### 18", a box), else the last one.

    Parameters
    ----------
    tolerance
        Absolute tolerance.
    relative
        Tolerance relative to the target. The larger of the two applies.
    version
        In version ``"1"``, the answer is always the last number.

    Examples
    --------
    >>> numeric()({"target": "... #### 70,000"}, "He made a profit of $70000.00.")
    True
    """
    given: dict[str, Any] = {"tolerance": tolerance, "relative": relative}
    for path, value in given.items():
        if not isinstance(value, (int, float, Decimal)) or isinstance(value, bool) or not value >= 0:
            raise invalid(path, f"{value!r} is not a number >= 0; pass one such as 0.01")
    read = _by_version("numeric", version, NUMBER_READERS)
    return Scorer(
        name="numeric",
        version=version,
        score=partial(_numbers_close, read, target, Decimal(str(tolerance)), Decimal(str(relative))),
        right=True,
        columns=(target,),
        parameters={"target": target, "tolerance": tolerance, "relative": relative},
        read=read,
    )


NUMBER_READERS: Final[Mapping[str, Callable[[str], Decimal | None]]] = {
    "1": answer_extraction.extract_last_number,
    "2": answer_extraction.extract_answer_number,
}
"""Readers of numeric answers by the version of the scorer."""
CHOICE_READERS: Final[Mapping[str, Callable[..., str | None]]] = {
    "1": extract_choice_1,
    "2": answer_extraction.extract_choice,
}
"""Readers of choice letters by the version of the scorer."""
MATH_TIMEOUT_S: Final = 5
_Reader = TypeVar("_Reader")


def _by_version(name: str, version: str, readers: Mapping[str, _Reader]) -> _Reader:
    if version not in readers:
        raise invalid(
            "version", f"{version!r} is not a version of the scorer {name!r}; use one of {', '.join(readers)}"
        )
    return readers[version]


def _numbers_close(
    read: Callable[[str], Decimal | None],
    target: str,
    tolerance: Decimal,
    relative: Decimal,
    row: InputRow,
    response: str,
) -> ScoreLike:
    number = read(response)
    if number is None:
        return Score(0.0, "no number in the response")
    expected = [value for text in target_texts(row[target]) if (value := read(text)) is not None]
    if not expected:
        return Score(None, f"no number in the target {row[target]!r:.40}")
    return any(abs(number - value) <= max(tolerance, relative * abs(value)) for value in expected)


def choice(target: str = TARGET, *, letters: str = "ABCDE", version: str = "2") -> Scorer:
    """Return a scorer of multiple-choice responses. The target is a letter, or an integer position from 0.

    Version ``"1"`` did not read the letter A in every phrasing that it read others in.

    Examples
    --------
    >>> choice()({"target": "C"}, "The answer is (C)."), choice()({"target": 2}, "C")
    (True, True)
    """
    read = partial(_by_version("choice", version, CHOICE_READERS), letters=letters)
    return Scorer(
        name="choice",
        version=version,
        score=partial(_choice_equal, read, target, letters),
        right=True,
        columns=(target,),
        parameters={"target": target, "letters": letters},
        read=read,
    )


def _choice_equal(
    read: Callable[[str], str | None], target: str, letters: str, row: InputRow, response: str
) -> ScoreLike:
    value = row[target]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(letters):
        expected: str | None = letters[value]
    else:
        expected = read(str(value))
    if expected is None:
        return Score(None, f"the target {value!r:.40} is not one of the letters {letters}")
    letter = read(response)
    return letter == expected if letter else Score(0.0, "no choice letter in the response")


def label(labels: Sequence[str], target: str = TARGET) -> Scorer:
    """Return a scorer of single-label classification: the response names the target label and no other.

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
        score=partial(_label_equal, read, target),
        right=True,
        columns=(target,),
        parameters={"target": target, "labels": list(known)},
        read=read,
    )


def _label_equal(read: Callable[[str], str | None], target: str, row: InputRow, response: str) -> ScoreLike:
    extracted = read(response)
    if extracted is None:
        return Score(0.0, "no single label in the response")
    normalise = answer_extraction.normalise_text
    return any(normalise(extracted) == normalise(text) for text in target_texts(row[target]))


def math(target: str = TARGET) -> Scorer:
    r"""Return a scorer of whether the answers of response and target are the same mathematics, in LaTeX or plain.

    Answers are extracted and compared by the library Math-Verify (the extra ``math``): fractions, roots, sets,
    intervals, equations and expressions that are equal by algebra. For numbers alone, `numeric` is faster.

    Raises
    ------
    BadRequestError
        Math-Verify is not installed.

    Examples
    --------
    >>> math()({"target": "3/4"}, r"So the share is $\boxed{\frac{6}{8}}$.")
    True
    """
    import_optional("math_verify", "math")  # reported before anything is sent
    return Scorer(
        name="math",
        version="1",
        score=partial(_same_mathematics, target),
        right=True,
        columns=(target,),
        parameters={"target": target},
        read=_read_mathematics,
    )


def _time_limits() -> tuple[int | None, int | None]:
    """Return the seconds for parsing and for comparing; none outside the main thread, as they need its signals."""
    is_main = threading.current_thread() is threading.main_thread() and os.name == "posix"
    return (MATH_TIMEOUT_S, MATH_TIMEOUT_S) if is_main else (None, None)


def _read_mathematics(text: str) -> str | None:
    parsed = import_optional("math_verify", "math").parse(text, parsing_timeout=_time_limits()[0])
    return str(parsed[0]) if parsed else None


def _same_mathematics(target: str, row: InputRow, response: str) -> ScoreLike:
    library = import_optional("math_verify", "math")
    parsing_s, comparing_s = _time_limits()
    answer = library.parse(response, parsing_timeout=parsing_s)
    if not answer:
        return Score(False, "no mathematics found")
    return any(
        bool(library.verify(library.parse(text, parsing_timeout=parsing_s), answer, timeout_seconds=comparing_s))
        for text in map(_in_latex, target_texts(row[target]))
    )


def _in_latex(target: str) -> str:
    """Return a target so that it is read as LaTeX where it is written as such without delimiters."""
    return f"${target}$" if "\\" in target and "$" not in target and "\\boxed" not in target else target


def python_tests(
    target: str = "test",
    *,
    run_code: bool = False,
    prompt: str = "prompt",
    entry_point: str = "entry_point",
    timeout_s: float = 10.0,
    memory_mb: int = 1024,
) -> Scorer:
    r"""Return a scorer that runs the Python code of a response against tests, as HumanEval does.

    A response may be the whole function or its body. The code runs in a process of its own, with limits on time, memory
    and files and without credentials, which holds mistakes but no attack: use a container or virtual machine for models
    that you do not trust. A frozen dataset is replayed with it only if it is passed to `replay`.

    Parameters
    ----------
    target
        Column with the tests: a function ``check(candidate)``.
    run_code
        Pass ``True`` to allow that code is run.
    prompt, entry_point
        Columns with the beginning of the program, and with the name of the function to test.
    timeout_s, memory_mb
        Limits of one program.

    Raises
    ------
    BadRequestError
        ``run_code`` is not true, a limit is out of range, or the system has no process limits.

    Examples
    --------
    >>> row = {"prompt": "def double(x):\n", "entry_point": "double",
    ...        "test": "def check(candidate):\n    assert candidate(2) == 4"}
    >>> python_tests(run_code=True)(row, "    return 2 * x").value
    True
    """
    if run_code is not True:
        message = "scoring runs code that models wrote; pass run_code=True to allow it, best in a container"
        raise invalid("run_code", message)
    for path, value in (("timeout_s", timeout_s), ("memory_mb", memory_mb)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise invalid(path, f"{value!r} is not a limit; pass a number > 0")
    if os.name != "posix":
        raise invalid("run_code", "limits of processes need Linux or macOS; score in a container")
    limits = {"timeout_s": float(timeout_s), "memory_mb": int(memory_mb)}
    return Scorer(
        name="python_tests",
        version="1",
        score=partial(_passes_tests, target, prompt, entry_point, limits),
        right=True,
        columns=(target, prompt, entry_point),
        parameters={"target": target, "prompt": prompt, "entry_point": entry_point, **limits},
        read=code_execution.extract_code,
    )


def _passes_tests(
    target: str, prompt: str, entry_point: str, limits: Mapping[str, Any], row: InputRow, response: str
) -> ScoreLike:
    name = str(row[entry_point])
    code = code_execution.extract_code(response, name)
    beginning = str(row[prompt])
    if code_execution.defines(code, name):  # the prompt's own definition is incomplete without a body
        beginning = code_execution.before_definition(beginning, name)
    program = f"{beginning}\n{code}\n\n{row[target]}\n\ncheck({name})\n"
    run = code_execution.run_tests(program, **limits)
    return Score(run.passed, run.note)


def json_valid(schema: Mapping[str, Any] | None = None) -> Scorer:
    """Return a scorer of whether the response is JSON and, if given, conforms to a JSON schema.

    A code fence around the JSON is ignored. A schema needs the ``evals`` extra.

    Examples
    --------
    >>> json_valid()({}, '{"a": 1}'), json_valid()({}, "no").value
    (True, 0.0)
    """
    validator = None
    if schema is not None:
        jsonschema = import_optional("jsonschema", "evals")
        validator_class = jsonschema.validators.validator_for(dict(schema))
        try:
            validator_class.check_schema(dict(schema))
        except jsonschema.SchemaError as error:
            raise invalid("schema", error.message) from error
        validator = validator_class(dict(schema))
    return Scorer(
        name="json_valid",
        version="1",
        score=partial(_is_valid_json, validator),
        right=True,
        parameters={"schema": None if schema is None else dict(schema)},
        read=_canonical_json,
    )


def _is_valid_json(validator: Any, _: InputRow, response: str) -> ScoreLike:
    try:
        value = answer_extraction.parse_json(response)
    except answer_extraction.InvalidJSONError as error:
        return Score(0.0, f"not JSON: {error}")
    violation = None if validator is None else next(validator.iter_errors(value), None)
    return True if violation is None else Score(0.0, f"{violation.json_path}: {violation.message:.200}")


def json_equal(target: str = TARGET) -> Scorer:
    """Return a scorer of whether response and target are equal as JSON; key order and whitespace are ignored.

    Examples
    --------
    >>> json_equal()({"target": '{"a": 1, "b": 2}'}, '{"b": 2.0, "a": 1}')
    True
    """
    return Scorer(
        name="json_equal",
        version="1",
        score=partial(_json_equal, target),
        right=True,
        columns=(target,),
        parameters={"target": target},
        read=_canonical_json,
    )


def _json_equal(target: str, row: InputRow, response: str) -> ScoreLike:
    value = row[target]
    try:
        expected = answer_extraction.parse_json(value) if isinstance(value, str) else value
    except answer_extraction.InvalidJSONError as error:
        return Score(None, f"the target is not JSON: {error}")
    try:
        return answer_extraction.json_values_equal(answer_extraction.parse_json(response), expected)
    except answer_extraction.InvalidJSONError as error:
        return Score(0.0, f"not JSON: {error}")


def _canonical_json(text: str) -> Hashable | None:
    """Return the response's JSON with sorted keys; ``None`` if it is not JSON."""
    import msgspec  # noqa: PLC0415 - loaded on first use

    try:
        return msgspec.json.encode(answer_extraction.parse_json(text), order="sorted")
    except answer_extraction.InvalidJSONError:
        return None


BUILT_IN_SCORERS: Final[Mapping[str, Callable[..., Scorer]]] = {
    "exact": exact,
    "normalised": normalised,
    "contains": contains,
    "regex": regex,
    "numeric": numeric,
    "choice": choice,
    "label": label,
    "json_valid": json_valid,
    "json_equal": json_equal,
    "math": math,
    "bleu": bleu,
    "edit_similarity": edit_similarity,
    **dict.fromkeys(ROUGE_TYPES, rouge),
}
"""Factory of each built-in scorer, by the name of the scorer it returns."""

VERSIONED_SCORERS: Final = frozenset({"numeric", "choice"})
"""Scorers of which earlier versions are kept."""
JUDGE_PARAMETER: Final = "rubric"
"""Parameter by which the identity of a judge is recognized."""


def scorer_from_identity(recorded: Mapping[str, Any], custom: Sequence[ScorerOrJudge] = ()) -> ScorerOrJudge:
    """Return the scorer with a recorded identity.

    Parameters
    ----------
    recorded
        Name, version and parameters, as recorded in a comparison's design.
    custom
        The user's own scorers, looked up by name first.

    Raises
    ------
    BadRequestError
        The scorer is unknown, or its version is not the recorded one.

    Examples
    --------
    >>> from llmhub.evals._scorer import identity
    >>> scorer_from_identity(identity(numeric(tolerance=0.5))).parameters["tolerance"]
    0.5
    """
    name, version, parameters = str(recorded["name"]), str(recorded["version"]), dict(recorded["parameters"])
    found: ScorerOrJudge | None = next((scorer for scorer in custom if scorer.name == name), None)
    if found is None and JUDGE_PARAMETER in parameters:
        found = Judge(name=name, version=version, **parameters)
    elif found is None and name in BUILT_IN_SCORERS:
        earlier = {"version": version} if name in VERSIONED_SCORERS else {}
        found = BUILT_IN_SCORERS[name](**parameters, **earlier)
    if found is None:
        raise invalid("scorers", f"{name!r} is not a built-in scorer; pass yours as scorers=[...]")
    if found.version != recorded["version"]:
        message = f"{name!r} has version {found.version!r}, but scores were recorded with version {version!r}"
        raise invalid("scorers", f"{message}; pass the scorer of that version")
    if dict(found.parameters) != parameters:
        differing = sorted(
            name for name in {*found.parameters, *parameters} if found.parameters.get(name) != parameters.get(name)
        )
        message = f"{name!r} has other parameters ({', '.join(differing)}) than the scores were recorded with"
        raise invalid("scorers", f"{message}; pass the scorer with those parameters")
    return found
