"""Prompts of the demo: combinations of a topic, a kind of question and an audience, written for this project."""

from __future__ import annotations

from typing import Final

TOPICS: Final = (
    ("physics", "why the sky is blue"),
    ("physics", "how a rainbow forms"),
    ("physics", "why ice floats"),
    ("physics", "how a refrigerator moves heat"),
    ("astronomy", "why the moon has phases"),
    ("astronomy", "how tides work"),
    ("astronomy", "why there are seasons"),
    ("biology", "how vaccines train the body"),
    ("biology", "why leaves turn red in autumn"),
    ("biology", "how bees find their way home"),
    ("biology", "what sleep is good for"),
    ("geology", "how mountains rise"),
    ("geology", "why volcanoes erupt"),
    ("geology", "how caves form in limestone"),
    ("computing", "how a search engine ranks pages"),
    ("computing", "what a hash function does"),
    ("computing", "how two computers agree on a secret key"),
    ("computing", "why floating-point sums drift"),
    ("statistics", "what a confidence interval says"),
    ("statistics", "why averages can mislead"),
    ("statistics", "how randomised trials work"),
    ("economics", "what inflation is"),
    ("economics", "why interest compounds"),
    ("economics", "how auctions set prices"),
    ("kitchen", "why bread rises"),
    ("kitchen", "how salt preserves food"),
    ("kitchen", "why onions make us cry"),
    ("history", "how paper spread across the world"),
    ("history", "why cities grew along rivers"),
    ("history", "how clocks came to agree on noon"),
)
QUESTION_FORMS: Final = (
    "Explain {topic}.",
    "Give one everyday example of {topic}.",
    "Name the most common misunderstanding about {topic}.",
    "Write a quiz question about {topic}, with its answer.",
    "Say what is still not known about {topic}.",
    "Compare {topic} to something in a kitchen.",
    "Give three keywords for {topic}.",
    "Write a headline about {topic}.",
)
AUDIENCES: Final = ("a curious child", "a student", "an engineer", "a busy reader", "a sceptic")
MAX_PROMPTS: Final = len(TOPICS) * len(QUESTION_FORMS) * len(AUDIENCES)
TEMPLATE: Final = "In at most two sentences, for {reader}: {question}"


def demo_prompts(rows: int) -> dict[str, list[str]]:
    """Return columns of ``rows`` different prompts.

    Examples
    --------
    >>> demo_prompts(2)["question"]
    ['Explain why the sky is blue.', 'Give one everyday example of how a rainbow forms.']
    >>> len(set(zip(*demo_prompts(MAX_PROMPTS).values(), strict=True))) == MAX_PROMPTS
    True
    """
    frame: dict[str, list[str]] = {"subject": [], "reader": [], "question": []}
    for row in range(rows):
        cycle, index = divmod(row, len(TOPICS))
        subject, topic = TOPICS[index]
        # Form and audience change from row to row; their combination for a topic changes from cycle to cycle.
        form = (cycle + index) % len(QUESTION_FORMS)
        audience = (cycle // len(QUESTION_FORMS) + cycle + index) % len(AUDIENCES)
        frame["subject"].append(subject)
        frame["reader"].append(AUDIENCES[audience])
        frame["question"].append(QUESTION_FORMS[form].format(topic=topic))
    return frame
