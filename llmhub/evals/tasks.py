"""Evaluation tasks: prompt template, parameters and scorers as one frozen value; and constructors of common tasks.

The instructions at the end of a template are part of the cache key of every request: changing them changes the keys.
Tasks of public benchmarks read the records of their datasets on the Hugging Face Hub as ``datasets.load_dataset``
returns them; what a template cannot say, such as the letters of a list of choices, becomes a column of the rows
(`prepare`), so that frozen datasets hold it and are replayed without the task.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeAlias

import pyarrow as pa

from llmhub.core.errors import invalid
from llmhub.core.types import JSON
from llmhub.evals import scorers as built_in
from llmhub.evals._scorer import Scorer, check_name_and_version, identity, target_texts
from llmhub.evals.dataset_reader import read_dataset
from llmhub.evals.judge import Judge, ScorerOrJudge
from llmhub.tables import frames
from llmhub.tables.templates import parse_template

Row: TypeAlias = Mapping[str, Any]

NUMBER_INSTRUCTION: Final = 'Work it out step by step. End with a line "Answer: N", where N is the number alone.'
LETTER_INSTRUCTION: Final = 'End with a line "Answer: X", where X is the letter of the right choice.'
CODE_INSTRUCTION: Final = "Complete this Python function. Answer with the whole function in one block of code."
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

EXAMPLES: Final = "examples"
"""Column of the worked examples of a few-shot prompt."""

__all__ = ["Task", "arc", "choice", "classification", "few_shot", "gsm8k", "human_eval", "mmlu", "numeric"]


def __dir__() -> list[str]:
    """List the public names only, so that completion shows nothing foreign."""
    return sorted(__all__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Prompt template and scoring of an evaluation.

    Parameters
    ----------
    name, version
        Identity of the results.
    template
        Prompt template over the dataset's columns.
    scorers
        One scorer or judge, or several; models are ranked by the first.
    target
        Column with the reference answer; scorers see it as ``target``.
    system
        System message.
    parameters
        Request parameters: ``temperature``, ``max_tokens``, ...
    prepare
        Function that turns the records of a dataset into the rows of the template; ``None`` for rows as they are.
    example
        Function of a prepared row that returns it as a worked example of a few-shot prompt; by default the prompt and
        the reference answer.

    Examples
    --------
    >>> Task(name="sums", template="{a} + {b} = ", scorers=built_in.numeric(), target="c").identity["name"]
    'sums'
    """

    name: str
    template: str
    scorers: ScorerOrJudge | Sequence[ScorerOrJudge]
    target: str | None = None
    system: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    version: str = "1"
    prepare: Callable[[pa.Table], pa.Table] | None = None
    example: Callable[[Row], str] | None = None

    def __post_init__(self) -> None:
        """Validate the task and store the scorers as a tuple."""
        check_name_and_version(self.name, self.version)
        if not self.scorer_list:
            raise invalid("scorers", "a task needs at least one scorer; pass one of llmhub.evals.scorers")
        object.__setattr__(self, "scorers", self.scorer_list)

    @property
    def scorer_list(self) -> tuple[ScorerOrJudge, ...]:
        """The scorers as a tuple."""
        return (self.scorers,) if isinstance(self.scorers, (Scorer, Judge)) else tuple(self.scorers)

    @property
    def identity(self) -> dict[str, JSON]:
        """Everything the results depend on; tasks with equal identities send and score alike."""
        return {
            "name": self.name,
            "version": self.version,
            "template": self.template,
            "system": self.system,
            "target": self.target,
            "parameters": {**self.parameters},
            "scorers": [identity(scorer) for scorer in self.scorer_list],
        }


def numeric(question: str = "question", target: str = "answer", *, tolerance: float = 0.0, **parameters: Any) -> Task:
    r"""Return a task with numeric answers, such as GSM8K.

    Parameters
    ----------
    question, target
        Columns. The last number of the target counts, such as the one after ``####``.
    tolerance
        Absolute tolerance of a correct answer.
    **parameters
        Request parameters: ``temperature``, ``max_tokens``, ...

    Examples
    --------
    >>> numeric().template
    '{question}\n\nWork it out step by step. End with a line "Answer: N", where N is the number alone.'
    """
    return Task(
        name="numeric",
        template=f"{{{question}}}\n\n{NUMBER_INSTRUCTION}",
        scorers=(built_in.numeric(tolerance=tolerance),),
        target=target,
        parameters=parameters,
        example=partial(_numeric_example, question, target),
    )


def _numeric_example(question: str, target: str, row: Row) -> str:
    return f"{row[question]}\n\n{str(row[target]).replace('#### ', 'Answer: ')}"


def gsm8k(**parameters: Any) -> Task:
    """Return the task of grade school mathematics: ``load_dataset("openai/gsm8k", "main", split="test")``.

    Examples
    --------
    >>> gsm8k(temperature=0).name
    'gsm8k'
    """
    return replace(numeric(**parameters), name="gsm8k")


def choice(
    question: str = "question",
    options: str | Sequence[str] = ("A", "B", "C", "D"),
    target: str = "answer",
    **parameters: Any,
) -> Task:
    r"""Return a multiple-choice task.

    Parameters
    ----------
    question
        Column of the question.
    options
        Columns with the choices, one per letter; or the name of one column that holds a list of choices, or their
        texts and labels (``{"text": [...], "label": [...]}``).
    target
        Column of the right choice: a letter, a label, or a position from 0.
    **parameters
        Request parameters: ``temperature``, ``max_tokens``, ...

    Examples
    --------
    >>> print(choice(options=["yes", "no"]).template)
    {question}
    <BLANKLINE>
    A) {yes}
    B) {no}
    <BLANKLINE>
    End with a line "Answer: X", where X is the letter of the right choice.
    >>> rows = pa.table({"question": ["2 + 2?"], "choices": [["3", "4"]], "answer": [1]})
    >>> choice(options="choices").prepare(rows).to_pylist()
    [{'question': '2 + 2?', 'choices': 'A) 3\nB) 4', 'answer': 'B'}]
    """
    if isinstance(options, str):
        lines, letters = f"{{{options}}}", LETTERS
    else:
        if not 2 <= len(options) <= len(LETTERS):  # noqa: PLR2004 - a choice needs an alternative
            raise invalid("options", f"{len(options)} columns cannot be lettered; pass 2 to {len(LETTERS)} columns")
        repeated = next((column for column in options if list(options).count(column) > 1), None)
        if repeated is not None:
            message = f"the column {repeated!r} is given twice; pass one column per choice, or the column of a list"
            raise invalid("options", message)
        letters = LETTERS[: len(options)]
        lines = "\n".join(f"{letter}) {{{column}}}" for letter, column in zip(letters, options, strict=True))
    return Task(
        name="choice",
        template=f"{{{question}}}\n\n{lines}\n\n{LETTER_INSTRUCTION}",
        scorers=(built_in.choice(letters=letters),),
        target=target,
        parameters=parameters,
        prepare=partial(_letter_choices, options, target) if isinstance(options, str) else None,
        example=partial(_choice_example, f"{{{question}}}\n\n{lines}", target, letters),
    )


def _choice_example(shown: str, target: str, letters: str, row: Row) -> str:
    template = parse_template(shown)
    text = template.render(tuple(row[name] for name in template.fields))
    return f"{text}\n\nAnswer: {_letter(row[target], letters)}"


def _letter(answer: Any, letters: str) -> str:
    """Return the letter of a right choice that is given as a letter or as a position from 0."""
    text = str(answer).strip()
    return letters[int(text)] if text.isdigit() and int(text) < len(letters) else text


def _letter_choices(options: str, target: str, records: pa.Table) -> pa.Table:
    """Return records with the choices of a column of lists as lettered lines, and the right one by its letter."""
    frames.require_columns((options, target), records, "dataset")
    lines, answers = [], []
    pairs = zip(records.column(options).to_pylist(), records.column(target).to_pylist(), strict=True)
    for position, (choices, answer) in enumerate(pairs):
        texts = choices["text"] if isinstance(choices, Mapping) else choices
        if not isinstance(texts, list) or not 1 < len(texts) <= len(LETTERS):
            raise invalid("dataset", f"row {position}: {options!r} is {choices!r:.80}, not a list of choices")
        labels = choices["label"] if isinstance(choices, Mapping) else list(range(len(texts)))
        own = [str(label) for label in labels]
        text = str(answer).strip()
        if text not in own and text in LETTERS[: len(texts)]:
            own = list(LETTERS[: len(texts)])
        if answer is not None and text not in own:
            raise invalid("dataset", f"row {position}: {target!r} is {answer!r:.80}, which is none of {own}")
        lines.append("\n".join(f"{letter}) {text}" for letter, text in zip(LETTERS, texts, strict=False)))
        answers.append(None if answer is None else LETTERS[own.index(text)])
    return _with_columns(records, {options: pa.array(lines, pa.string()), target: pa.array(answers, pa.string())})


def _with_columns(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """Return a table with columns replaced, or appended where it has none of that name."""
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.append_column(name, values) if place < 0 else table.set_column(place, name, values)
    return table


def mmlu(**parameters: Any) -> Task:
    """Return the task of MMLU: ``load_dataset("cais/mmlu", "all", split="test")``, also those of single subjects.

    ``evaluation.by("subject")`` has the score of each subject and their mean; `few_shot` adds examples of the same
    subject.

    Examples
    --------
    >>> record = {"question": "2 + 2?", "subject": "algebra", "choices": ["1", "4", "3", "5"], "answer": 1}
    >>> mmlu().prepare(pa.Table.from_pylist([record])).column("answer").to_pylist()
    ['B']
    """
    return replace(choice("question", "choices", "answer", **parameters), name="mmlu")


def arc(**parameters: Any) -> Task:
    """Return the task of ARC: ``load_dataset("allenai/ai2_arc", "ARC-Challenge", split="test")``, or ``"ARC-Easy"``.

    Examples
    --------
    >>> choices = {"text": ["ice", "steam", "fog"], "label": ["1", "2", "3"]}
    >>> record = {"id": "r", "question": "Which is solid?", "choices": choices, "answerKey": "1"}
    >>> arc().prepare(pa.Table.from_pylist([record])).column("answerKey").to_pylist()
    ['A']
    """
    return replace(choice("question", "choices", "answerKey", **parameters), name="arc")


def human_eval(*, run_code: bool = False, timeout_s: float = 10.0, memory_mb: int = 1024, **parameters: Any) -> Task:
    """Return the task of HumanEval: ``load_dataset("openai/openai_humaneval", split="test")``.

    Scoring runs the code that models wrote. With ``n=`` samples the evaluation has pass@k.

    Parameters
    ----------
    run_code
        Pass ``True`` to allow it. The code runs in a process of its own, with limits on time, memory and files and no
        credentials, which holds mistakes but no attack: use a container or virtual machine for models you do not trust.
    timeout_s, memory_mb
        Limits of one program.
    **parameters
        Request parameters: ``temperature``, ``max_tokens``, ...

    Raises
    ------
    BadRequestError
        ``run_code`` is not true.

    Examples
    --------
    >>> human_eval(run_code=True, temperature=0.2).target
    'test'
    """
    scorer = built_in.python_tests(run_code=run_code, timeout_s=timeout_s, memory_mb=memory_mb)
    return Task(
        name="human_eval",
        template=f"{CODE_INSTRUCTION}\n\n```python\n{{prompt}}```",
        scorers=(scorer,),
        target="test",
        parameters=parameters,
        example=_code_example,
    )


def _code_example(row: Row) -> str:
    return f"```python\n{row['prompt']}{row['canonical_solution']}```"


def few_shot(task: Task, rows: Any, k: int = 5, *, by: str | None = None, random_state: int | None = None) -> Task:
    """Return a task whose prompts begin with worked examples.

    Parameters
    ----------
    task
        The task.
    rows
        Rows with answers, such as a training or development split: a frame, a dataset, or the path of a file.
    k
        Number of examples in a prompt.
    by
        Column whose value the examples have in common with the row, such as ``"subject"``.
    random_state
        Seed of a random choice of examples; the first ones if ``None``.

    Returns
    -------
    Task
        The task; its rows have the examples in the column ``examples``. A row is never an example of itself.

    Raises
    ------
    BadRequestError
        There are fewer than ``k`` examples, or a column is missing.

    Examples
    --------
    >>> shots = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": "4"}]
    >>> task = few_shot(numeric(), shots, k=1)
    >>> print(task.prepare(pa.table({"question": ["3 + 3?"], "answer": ["6"]})).column("examples")[0])
    1 + 1?
    <BLANKLINE>
    2
    <BLANKLINE>
    <BLANKLINE>
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise invalid("k", f"{k!r} is not a number of examples; pass an integer >= 1")
    template = parse_template(task.template)
    source = _prepared(task, frames.to_table(read_dataset(rows, "rows")))
    frames.require_columns((*template.fields, *((by,) if by else ())), source, "rows")
    known = source.to_pylist()
    if random_state is not None:
        random.Random(random_state).shuffle(known)  # noqa: S311 - not for security
    pools: dict[Any, list[tuple[str, str]]] = {}
    for row in known:
        text = template.render(tuple(row[name] for name in template.fields))
        pool = pools.setdefault(row[by] if by else None, [])
        if len(pool) <= k:  # one more than are shown, in place of the row itself
            pool.append((text, _example(task, row, text)))

    prepare = _ExampleColumn(task, {group: tuple(pool) for group, pool in pools.items()}, k, by)
    return replace(task, name=f"{task.name}, {k}-shot", template=f"{{{EXAMPLES}}}{task.template}", prepare=prepare)


@dataclass(frozen=True, slots=True)
class _ExampleColumn:
    """Function that prepares records and adds the column of examples.

    ``pools`` are prompts and worked examples by the value of the column ``by``, one more than the ``k`` that are shown.
    """

    task: Task
    pools: Mapping[Any, tuple[tuple[str, str], ...]]
    k: int
    by: str | None

    def __call__(self, records: pa.Table) -> pa.Table:
        """Return the rows with their examples."""
        template = parse_template(self.task.template)
        table = _prepared(self.task, records)
        if EXAMPLES in table.column_names:
            raise invalid("dataset", f"has a column {EXAMPLES!r}, which few-shot prompts need; rename it")
        frames.require_columns((*template.fields, *((self.by,) if self.by else ())), table, "dataset")
        texts = []
        for row in table.to_pylist():
            own = template.render(tuple(row[name] for name in template.fields))
            group = row[self.by] if self.by else None
            shown = [example for prompt, example in self.pools.get(group, ()) if prompt != own][: self.k]
            if len(shown) < self.k:
                place = f" with {self.by} {group!r}" if self.by else ""
                message = f"{self.k} examples are wanted, but the rows{place} have {len(shown)}; pass a smaller k"
                raise invalid("k", message)
            texts.append("".join(f"{example}\n\n" for example in shown))
        return table.append_column(EXAMPLES, pa.array(texts, pa.string()))


def _prepared(task: Task, records: pa.Table) -> pa.Table:
    return records if task.prepare is None else task.prepare(records)


def _example(task: Task, row: Row, prompt: str) -> str:
    if task.example is not None:
        return task.example(row)
    answers = target_texts(row.get(task.target or "target"))
    return f"{prompt}\n\n{answers[0] if answers else ''}"


def classification(labels: Sequence[str], text: str = "text", target: str = "label", **parameters: Any) -> Task:
    r"""Return a task that assigns one of several labels to each text.

    Examples
    --------
    >>> classification(["spam", "ham"]).template
    '{text}\n\nWhich of these is it: spam, ham? Answer with that word alone.'
    """
    known = tuple(labels)
    if len(set(known)) < 2 or len(set(known)) < len(known):  # noqa: PLR2004 - one label classifies nothing
        raise invalid("labels", f"{known!r:.80} are not valid labels; pass at least two distinct labels")
    listed = ", ".join(known).replace("{", "{{").replace("}", "}}")
    return Task(
        name="classification",
        template=f"{{{text}}}\n\nWhich of these is it: {listed}? Answer with that word alone.",
        scorers=(built_in.label(known),),
        target=target,
        parameters=parameters,
    )
