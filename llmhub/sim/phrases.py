"""Texts of simulated answers: a small set of plausible sentences by kind of prompt, chosen by hash.

The first pattern of `KINDS` that matches the prompt decides the kind. Each kind has openings and continuations with
``{topic}``, the words of the prompt that the answer is about.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from llmhub.sim.lexicon import SIM_MARKER

MAX_TOPIC_WORDS: Final = 8
MAX_PROMPT: Final = 2000
"""Characters of a prompt that are read: a longer one is a document, and its start says what it is."""


class Kind(NamedTuple):
    """A kind of prompt.

    Parameters
    ----------
    pattern
        Matches prompts of this kind; its group ``topic``, if it has one, is what the answer is about.
    openings, continuations
        Sentences to begin with, and to go on with.
    """

    pattern: re.Pattern[str]
    openings: tuple[str, ...]
    continuations: tuple[str, ...]


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE | re.DOTALL)


_MORE: Final = (
    "In practice the details depend on the situation, but the principle stays the same.",
    "A good way to see it is to look at one concrete case first.",
    "Most people notice the effect long before they know its cause.",
    "The exceptions are few, and they are well documented.",
    "It is a small point, but it explains most of what one observes.",
)

KINDS: Final = (
    Kind(
        _pattern(r"\b(?:summari[sz]e|summary|tl;?dr|in short)\b[^:]*:?\s*(?P<topic>.+)"),
        (
            "The text is about {topic}.",
            "In short, it describes {topic} and why it matters.",
            "The main point is {topic}.",
            "It makes one claim about {topic} and supports it with an example.",
        ),
        (
            "The author gives a short reason and leaves the rest to the reader.",
            "No figures are given.",
            "The tone is factual.",
            "It ends with a practical remark.",
        ),
    ),
    Kind(
        _pattern(r"\btranslate\b[^:]*:?\s*(?P<topic>.+)"),
        ("Voici une traduction : « {topic} ».", "Eine Übersetzung: „{topic}“.", "Una traducción: «{topic}»."),
        ("The register of the original is kept.", "Proper names are unchanged."),
    ),
    Kind(
        _pattern(r"\buse\b\s+(?P<topic>.+?)\s+in\s+a\s+sentence"),
        (
            "We reached the {topic} just before it started to rain.",
            "Nobody had mentioned the {topic} until the last evening.",
            "She drew the {topic} from memory.",
            "The {topic} was older than the town itself.",
        ),
        ("",),
    ),
    Kind(
        _pattern(r"\b(?:name|suggest|think of|invent)\b\s+(?P<topic>(?:a|an|the|one|some|\w+)[^.?!,]+)"),
        (
            "The Copper Lantern.",
            "North & Vale.",
            "Juniper.",
            "Harbour House would be a good name for {topic}.",
            "Meridian: it would suit {topic}.",
        ),
        ("It is easy to spell.", "It works in several languages.", "I would check that it is not taken."),
    ),
    Kind(
        _pattern(r"\b(?:poem|haiku|story|verse)\b\s*(?:about|on|of)?\s*(?P<topic>[^.?!]*)"),
        (
            "Morning comes slowly; {topic} waits by the door.",
            "Once, {topic} kept a secret from the sea.",
            "Quiet as paper, {topic} turns to the light.",
        ),
        ("The evening answers in its own time.", "Nothing is lost, only put aside.", "And the wind goes on."),
    ),
    Kind(
        _pattern(r"\b(?:compare|difference between|versus|vs\.?)\b\s*(?P<topic>[^.?!]+)"),
        (
            "The two differ mainly in scope: {topic} is a matter of what one wants to measure.",
            "As to {topic}, the first is simpler and the second is more exact.",
        ),
        _MORE,
    ),
    Kind(
        _pattern(r"\b(?:repeat|echo)\b[^:]*:\s*(?P<topic>.+)"),
        ("{topic}",),
        ("",),
    ),
    Kind(
        _pattern(r"\bhow (?:many|much|long|far|old)\b|\btotal\b|\bcalculate\b|\bplus\b|\btimes\b|\bminus\b"),
        (
            "Step by step: take the numbers as given and combine them.",
            "Let us compute it.",
            "The calculation is short.",
        ),
        ("",),
    ),
    Kind(
        _pattern(r"\b(?:hi|hello|hey|say hi)\b"),
        (
            "Hi.",
            "Hello.",
            "Hi there.",
            "Good to see you.",
            "Hello there.",
            "Hi, and welcome.",
        ),
        (
            "How can I help you today.",
            "Tell me what you would like to work on.",
            "I am ready when you are.",
            "Ask me anything.",
            "It is good to hear from you.",
        ),
    ),
    Kind(
        _pattern(r"\b(?:why)\b\s+(?:is|are|do|does|did|was|were)?\s*(?P<topic>[^.?!]+)"),
        (
            "Because small effects add up until they can be seen.",
            "The usual explanation is that the shortest path needs the least energy.",
            "There are two reasons: one is physical, the other is habit.",
            "Mostly because of light: its colours are scattered differently.",
        ),
        _MORE,
    ),
    Kind(
        _pattern(
            r"\b(?:explain|describe|what is|what are|how do(?:es)?|tell me about)\b\s*(?P<topic>.+?)(?:\bto\b|[.?!]|$)"
        ),
        (
            "Think of {topic} as a slow exchange: something gives way on one side and builds up on the other.",
            "At its simplest, {topic} is what happens when many small parts follow the same rule.",
            "The idea behind {topic} is that a steady pull wins over a strong push.",
            "What people call {topic} is a balance between two forces that never quite settles.",
            "With {topic}, timing matters more than strength.",
        ),
        _MORE,
    ),
)

DEFAULT: Final = Kind(
    _pattern(""),
    (
        "The short answer is yes.",
        "That depends, but a sensible default exists.",
        "Start with the simplest option and measure.",
        "It is common, and it is well understood.",
    ),
    _MORE,
)


def write_answer(prompt: str, digest: bytes) -> str:
    """Return one to three sentences that answer ``prompt``; the same prompt and digest give the same text.

    Examples
    --------
    >>> write_answer("Use harbour in a sentence.", bytes(64))
    'We reached the harbour just before it started to rain.'
    >>> write_answer("Translate: good morning", bytes(64))
    'Voici une traduction : « good morning ». The register of the original is kept.'
    """
    head = SIM_MARKER.sub(" ", prompt[:MAX_PROMPT])
    kind, topic = DEFAULT, ""
    for one in KINDS:
        found = one.pattern.search(head)
        if found is not None:
            kind, topic = one, found.groupdict().get("topic") or ""
            break
    opening = kind.openings[digest[1] % len(kind.openings)].replace("{topic}", _topic(topic or head))
    sentences = [opening[:1].upper() + opening[1:]]
    for index in range(1 + digest[0] % 2):
        sentence = kind.continuations[digest[2 + index] % len(kind.continuations)]
        if sentence and sentence not in sentences:
            sentences.append(sentence)
    return " ".join(sentences)


def _topic(text: str) -> str:
    """Return the first words of a text, up to where its clause ends.

    Examples
    --------
    >>> _topic("The tide turns twice a day because of the moon.")
    'the tide turns twice a day'
    """
    clause = re.split(r"[.?!;:\n]|\b(?:because|which|in one|in a few|in two)\b", text.strip(), maxsplit=1)[0]
    words = clause.split()[:MAX_TOPIC_WORDS] or ["this"]
    if words[0] in {"The", "A", "An", "This", "These", "It", "My", "Your"}:
        words[0] = words[0].lower()
    return " ".join(words).rstrip(",'\"")
