"""Scorers again from what they are known by: llmhub's own, by name and version; judges, by what they were made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.evals import overlap, scorers
from llmhub.evals.inputs import Scoring
from llmhub.evals.judging import Judge
from llmhub.evals.score import Scorer

READY: Final[Mapping[str, Callable[..., Scorer]]] = {
    "exact": scorers.exact,
    "normalised": scorers.normalised,
    "contains": scorers.contains,
    "regex": scorers.regex,
    "numeric": scorers.numeric,
    "choice": scorers.choice,
    "label": scorers.label,
    "json_valid": scorers.json_valid,
    "json_equal": scorers.json_equal,
    "bleu": overlap.bleu,
    "edit_similarity": overlap.edit_similarity,
    **dict.fromkeys(overlap.ROUGE, overlap.rouge),
}
"""What makes each of llmhub's own scorers of its parameters."""
RUBRIC: Final = "rubric"
"""A parameter that judges alone have."""


def scorer_of(said: Mapping[str, Any], own: Sequence[Scoring] = ()) -> Scoring:
    """Give the scorer that is known by a name, a version and parameters.

    Parameters
    ----------
    said
        As `llmhub.evals.score.identity` gives it.
    own
        Scorers that llmhub does not bring.

    Raises
    ------
    InvalidRequestError
        There is none by that name, or it is of another version or other parameters.

    Examples
    --------
    >>> from llmhub.evals.score import identity
    >>> scorer_of(identity(scorers.numeric(tolerance=0.5))).parameters["tolerance"]
    0.5
    """
    name, parameters = str(said["name"]), dict(said["parameters"])
    mine = next((one for one in own if one.name == name), None)
    made: Scoring | None = mine
    if made is None and RUBRIC in parameters:
        made = Judge(name=name, version=str(said["version"]), **parameters)
    elif made is None and name in READY:
        made = READY[name](**parameters)
    if made is None:
        told = f"{name!r} is none of llmhub's scorers; give yours as scorers=[...]"
        raise InvalidRequestError(InvalidRequest(path="scorers", message=told))
    if made.version != said["version"]:
        told = f"{name!r} is of version {made.version!r} now, and was {said['version']!r}: it may score otherwise"
        raise InvalidRequestError(InvalidRequest(path="scorers", message=told))
    return made
