"""Tasks of public benchmarks on records of the form that their datasets have, few-shot prompts, and code that runs."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pytest

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.datasets import freeze, replay
from llmhub.evals import scorers, tasks
from llmhub.evals.code_execution import run_tests
from llmhub.evals.tasks import Task, few_shot

MODEL = "openai/gpt-4o-mini"

MMLU_FEATURES = datasets.Features(
    {
        "question": datasets.Value("string"),
        "subject": datasets.Value("string"),
        "choices": datasets.Sequence(datasets.Value("string")),
        "answer": datasets.ClassLabel(names=["A", "B", "C", "D"]),
    }
)
"""The features of ``cais/mmlu``."""
ARC_FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "question": datasets.Value("string"),
        "choices": datasets.Sequence({"text": datasets.Value("string"), "label": datasets.Value("string")}),
        "answerKey": datasets.Value("string"),
    }
)
"""The features of ``allenai/ai2_arc``."""
HUMAN_EVAL = {
    "task_id": "HumanEval/53",
    "prompt": (
        'import math\n\n\ndef add(x: int, y: int):\n    """Add two numbers x and y\n    >>> add(2, 3)\n    5\n    """\n'
    ),
    "canonical_solution": "    return x + y\n",
    "test": (
        "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(0, 1) == 1\n"
        "    assert candidate(2, 3) == 5\n"
    ),
    "entry_point": "add",
}
"""A record of the form of ``openai/openai_humaneval``."""


@pytest.fixture
def mmlu_records() -> datasets.Dataset:
    rows = [
        {
            "question": f"{subject} {index}?",
            "subject": subject,
            "choices": [f"{subject} {index} {letter}" for letter in "wxyz"],
            "answer": index % 4,
        }
        for subject in ("law", "art")
        for index in range(6)
    ]
    return datasets.Dataset.from_list(rows, features=MMLU_FEATURES)


def test_mmlu_has_letters_and_scores_by_subject(mmlu_records: datasets.Dataset, tmp_path: Path) -> None:
    task = tasks.mmlu()
    assert task.prepare is not None
    rows = task.prepare(mmlu_records.with_format("arrow")[:])
    assert rows.column("choices")[1].as_py() == "A) law 1 w\nB) law 1 x\nC) law 1 y\nD) law 1 z"
    assert rows.column("answer").to_pylist() == ["A", "B", "C", "D", "A", "B"] * 2
    with llmhub.simulate():
        evaluation = llmhub.evaluate(mmlu_records, task, MODEL, progress=False)
        groups = evaluation.by("subject").to_pylist()
        assert [(row["group"], row["rows"]) for row in groups] == [("law", 6), ("art", 6), (None, 2)]
        freeze(evaluation, tmp_path / "mmlu")
    assert replay(tmp_path / "mmlu")


def test_arc_of_records_and_of_dicts_of_lists() -> None:
    rows = [
        {
            "id": "1", "question": "Which is solid?", "answerKey": "C",
            "choices": {"text": ["steam", "fog", "ice", "rain"], "label": ["A", "B", "C", "D"]},
        },
        {
            "id": "2", "question": "Which is hot?", "answerKey": "2",
            "choices": {"text": ["ice", "steam", "snow"], "label": ["1", "2", "3"]},
        },
    ]  # fmt: skip
    records = datasets.Dataset.from_list(rows, features=ARC_FEATURES)
    task = tasks.arc()
    assert task.prepare is not None
    prepared = task.prepare(records.with_format("arrow")[:]).to_pylist()
    assert [row["answerKey"] for row in prepared] == ["C", "B"]
    assert prepared[1]["choices"] == "A) ice\nB) steam\nC) snow"
    (scorer,) = task.scorer_list
    assert scorer({**prepared[1], "target": "B"}, "It melts. Answer: B") is True  # type: ignore[operator]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "?", "choices": ["a", "b"], "answer": 7}, r"row 0: 'answer' is 7, which is none of"),
        ({"question": "?", "choices": ["a"], "answer": 0}, r"row 0: 'choices' is .* not a list of choices"),
        ({"question": "?", "choices": "a or b", "answer": 0}, r"not a list of choices"),
        ({"question": "?", "answer": 0}, r"dataset: .*'choices'"),
    ],
)
def test_records_of_another_form_are_refused_before_anything_is_sent(record: Any, message: str) -> None:
    with llmhub.simulate(), pytest.raises(BadRequestError, match=message):
        llmhub.evaluate([record], tasks.mmlu(), MODEL, progress=False)


def test_gsm8k_and_missing_answers() -> None:
    task = tasks.gsm8k()
    rows = [{"question": "1 + 1?", "answer": "It is 1 + 1 = 2.\n#### 2"}, {"question": "2 + 2?", "answer": None}]
    with llmhub.simulate():
        evaluation = llmhub.evaluate(rows, task, MODEL, progress=False)
    assert evaluation.scores.column("counted").to_pylist() == [True, False]
    assert task.example is not None
    assert task.example(rows[0]) == "1 + 1?\n\nIt is 1 + 1 = 2.\nAnswer: 2"


def test_streamed_datasets_and_lists_of_records_are_rows(mmlu_records: datasets.Dataset) -> None:
    given = (
        mmlu_records,
        mmlu_records.to_iterable_dataset(),
        mmlu_records.to_list(),
        pd.DataFrame(mmlu_records.to_list()),
    )
    with llmhub.simulate():
        evaluations = [llmhub.evaluate(one, tasks.mmlu(), MODEL, progress=False) for one in given]
    assert all(one.dataset.select(["question", "choices", "answer"]).equals(
        evaluations[0].dataset.select(["question", "choices", "answer"])) for one in evaluations)  # fmt: skip
    with pytest.raises(BadRequestError, match=r"dataset: it has several splits \('test'\)"):
        llmhub.evaluate(datasets.DatasetDict({"test": mmlu_records}), tasks.mmlu(), MODEL)


def test_tasks_can_be_pickled(mmlu_records: datasets.Dataset) -> None:
    made = [
        tasks.numeric(), tasks.gsm8k(), tasks.choice(), tasks.mmlu(), tasks.arc(), tasks.human_eval(run_code=True),
        few_shot(tasks.mmlu(), mmlu_records, k=1, by="subject"),
    ]  # fmt: skip
    for task in made:
        again = pickle.loads(pickle.dumps(task))
        assert again.identity == task.identity
    assert again.prepare(mmlu_records.with_format("arrow")[:]).column("examples")[0].as_py().startswith("law 1?")


class TestFewShot:
    def test_examples_are_of_the_same_subject_and_never_the_row_itself(self, mmlu_records: datasets.Dataset) -> None:
        task = few_shot(tasks.mmlu(), mmlu_records, k=2, by="subject")
        assert task.prepare is not None
        rows = task.prepare(mmlu_records.with_format("arrow")[:]).to_pylist()
        first, third, art = rows[0]["examples"], rows[2]["examples"], rows[6]["examples"]
        assert first.startswith("law 1?\n\nA) law 1 w\n")
        assert "Answer: B\n\nlaw 2?" in first
        assert first.endswith("D) law 2 z\n\nAnswer: C\n\n")
        assert "law 0?" in third
        assert "law 1?" in third
        assert "law" not in art
        assert task.template.startswith("{examples}{question}")
        assert task.name == "mmlu, 2-shot"

    def test_frozen_few_shot_evaluation_is_replayed(self, mmlu_records: datasets.Dataset, tmp_path: Path) -> None:
        task = few_shot(tasks.mmlu(), mmlu_records, k=1, by="subject", random_state=3)
        with llmhub.simulate():
            freeze(llmhub.evaluate(mmlu_records, task, MODEL, progress=False), tmp_path / "set")
        assert replay(tmp_path / "set")

    def test_random_examples_depend_on_the_seed_only(self) -> None:
        rows = [{"question": f"{n}?", "answer": str(n)} for n in range(30)]
        table = pa.Table.from_pylist([{"question": "x?", "answer": "1"}])
        made = [few_shot(tasks.numeric(), rows, k=3, random_state=seed).prepare(table) for seed in (1, 1, 2)]  # type: ignore[misc]
        texts = [one.column("examples")[0].as_py() for one in made]
        assert texts[0] == texts[1] != texts[2]

    def test_task_of_ones_own(self) -> None:
        own = Task(name="capital", template="Capital of {country}?", scorers=scorers.exact(), target="city")
        task = few_shot(own, pd.DataFrame({"country": ["Peru"], "city": ["Lima"]}), k=1)
        assert task.prepare is not None
        table = task.prepare(pa.table({"country": ["Chad"], "city": ["N'Djamena"]}))
        assert table.column("examples")[0].as_py() == "Capital of Peru?\n\nLima\n\n"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"k": 0}, "k: 0 is not a number of examples"),
            ({"k": 9}, "9 examples are wanted, but the rows have 1"),
            ({"k": 1, "by": "topic"}, "rows: .*'topic'"),
        ],
    )
    def test_too_few_examples_are_an_error(self, options: Any, message: str) -> None:
        rows = [{"question": f"{n}?", "answer": str(n)} for n in range(2)]
        with pytest.raises(BadRequestError, match=message):
            few_shot(tasks.numeric(), rows, **options).prepare(pa.Table.from_pylist(rows[:1]))  # type: ignore[misc]


def _runs(state: Path) -> bool:
    """Return whether the process of a file in /proc has not ended."""
    try:
        return state.read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


class TestCode:
    def test_code_is_run_only_when_asked(self) -> None:
        for make in (tasks.human_eval, scorers.python_tests):
            with pytest.raises(BadRequestError, match="run_code: scoring runs code that models wrote"):
                make()
        with pytest.raises(BadRequestError, match="timeout_s: 0 is not a limit"):
            scorers.python_tests(run_code=True, timeout_s=0)

    @pytest.mark.parametrize(
        ("response", "passes"),
        [
            (HUMAN_EVAL["canonical_solution"], True),
            ("Here:\n```python\ndef add(x, y):\n    return x + y\n```\nIt adds.", True),
            ("```\nfrom math import fsum\ndef add(x, y):\n    return int(fsum([x, y]))\n```", True),
            ("```python\ndef helper(x): return x\n```\nand\n```python\ndef add(x, y):\n    return x - y\n```", False),
            ("    return x - y\n", False),
            ("I cannot do that.", False),
            ("    import os; os._exit(0)\n", False),
            ("    raise SystemExit(0)\n", False),
            ("    print('0' * 32); exit()\n", False),
        ],
    )
    def test_functions_and_bodies_are_tested(self, response: str, passes: bool) -> None:
        scorer = scorers.python_tests(run_code=True, timeout_s=10)
        score: Any = scorer(HUMAN_EVAL, response)
        assert score.value is passes, score.note

    def test_endless_loop_ends(self) -> None:
        started = time.monotonic()
        run = run_tests("while True: pass", timeout_s=0.5, memory_mb=512)
        assert (run.passed, run.note) == (False, "it took more than 0.5 s")
        assert time.monotonic() - started < 30

    def test_memory_and_file_sizes_are_limited(self) -> None:
        assert run_tests("x = bytearray(800 << 20)", timeout_s=20, memory_mb=256).note == "MemoryError"
        big = "open('f', 'wb').write(b'0' * (20 << 20))"
        assert not run_tests(big, timeout_s=20, memory_mb=512).passed

    def test_program_has_no_environment_and_leaves_no_file(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        program = (
            "import os\nassert not any('KEY' in name for name in os.environ), os.environ\n"
            f"open({str(tmp_path / 'where')!r}, 'w').write(os.getcwd())\nopen('rest', 'w').write('x')"
        )
        run = run_tests(program, timeout_s=20, memory_mb=512)
        assert run.passed, run.note
        folder = (tmp_path / "where").read_text()
        assert folder != str(Path.cwd())
        assert not Path(folder).exists()

    def test_children_of_the_program_end_with_it(self, tmp_path: Path) -> None:
        program = (
            "import os, time\npid = os.fork()\n"
            f"if pid == 0:\n    time.sleep(60)\nelse:\n    open({str(tmp_path / 'pid')!r}, 'w').write(str(pid))"
        )
        run = run_tests(program, timeout_s=60, memory_mb=512)
        assert "60 s" not in run.note
        if (tmp_path / "pid").exists():  # a user other than root may not fork at all
            state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
            deadline = time.monotonic() + 30
            while _runs(state):
                assert time.monotonic() < deadline

    def test_evaluation_has_pass_at_k_and_is_replayed_with_the_scorer_only(self, tmp_path: Path) -> None:
        task = tasks.human_eval(run_code=True)
        with llmhub.simulate():
            evaluation = llmhub.evaluate([HUMAN_EVAL], task, MODEL, n=2, progress=False)
            freeze(evaluation, tmp_path / "set")
        assert {row["metric"] for row in evaluation.samples.to_pylist()} == {"pass@1", "pass@2", "majority"}
        assert evaluation.scores.column("score").to_pylist() == [0.0, 0.0]
        with pytest.raises(BadRequestError, match="'python_tests' is not a built-in scorer; pass yours"):
            replay(tmp_path / "set")
        assert replay(tmp_path / "set", scorers=task.scorer_list)
