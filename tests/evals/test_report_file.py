"""The report file: figures and rows in one file that loads nothing, in which no response acts; filters in a browser."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from llmhub.core.errors import BadRequestError
from llmhub.evals import Comparison, compare, scorers

HOSTILE = (
    "</script><script>document.title='acted'</script><img src=x onerror=\"document.title='acted'\"> \u2028 & right"
)
MODELS = ("openai/a", "anthropic/b")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    rows = []
    for index in range(60):
        for provider, model in (name.split("/") for name in MODELS):
            failed = index == 7 and provider == "openai"
            text = "right" if index % 4 or provider == "anthropic" else "wrong"
            rows.append(
                {
                    "row": index, "provider": provider, "model": model, "question": f"question {index} <b>",
                    "answer": "right", "subject": "law" if index % 3 else "art", "status": "error" if failed else "ok",
                    "response": None if failed else HOSTILE if index == 5 else text, "latency_s": 0.25,
                    "error": "it failed" if failed else None, "output_tokens": 3,
                }
            )  # fmt: skip
    return compare(pd.DataFrame(rows), scorers=[scorers.exact("answer"), scorers.edit_similarity("answer")])


def test_file_is_one_and_loads_nothing(comparison: Comparison, tmp_path: Path) -> None:
    path = comparison.write_report(tmp_path / "report.html", by="subject")
    page = path.read_text(encoding="utf-8")
    assert "anthropic/b scores" in page
    assert "mean of the groups" in page
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
    assert "default-src 'none'" in page
    content = page.partition('<script id="rows" type="application/json">')[2].partition("</script>")[0]
    data = json.loads(content)
    assert [row["name"] for row in data["rows"]] == [str(index) for index in range(60)]
    answers = data["rows"][5]["answers"]
    assert answers[0]["response"] == HOSTILE.replace("\u2028", "\u20392028\u203a")
    assert data["rows"][7]["answers"][0]["error"] == "it failed"
    assert data["rows"][0]["answers"][0]["scores"] == [0.0, pytest.approx(0.0)]
    assert page.count("<script") == 2


def test_rows_beyond_the_limit_are_said_to_be_left_out(comparison: Comparison, tmp_path: Path) -> None:
    page = comparison.write_report(tmp_path / "report.html", max_rows=10).read_text(encoding="utf-8")
    assert "The first 10 rows are shown; 50 more are in the results." in page
    assert comparison.write_report(tmp_path / "none.html", max_rows=0).exists()
    with pytest.raises(BadRequestError, match="max_rows: -1 is not a number of rows"):
        comparison.write_report(tmp_path / "report.html", max_rows=-1)
    with pytest.raises(BadRequestError, match="cannot be written"):
        comparison.write_report(tmp_path / "no" / "report.html")
    with pytest.raises(BadRequestError, match="column"):
        comparison.write_report(tmp_path / "report.html", by="topic")


def test_table_of_scores_is_a_report(tmp_path: Path) -> None:
    own = compare({"a": [1.5, 2.0, 3.25], "b": [1.0, 2.0, 3.0]}, model=["a", "b"])
    assert "1.5" in own.write_report(tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.browser
def test_rows_are_filtered_and_responses_do_not_act(comparison: Comparison, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - of this test alone

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "install chromium"
    path = comparison.write_report(tmp_path / "report.html", by="subject")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        assert page.locator("#count").inner_text() == "60 of 60 rows"
        assert page.locator("article").count() == 25
        page.locator("#next").click()
        assert page.locator("#page").inner_text() == "page 2 of 3"
        page.locator("#show").select_option("differ")
        shown = page.locator("#count").inner_text()
        page.locator("#show").select_option("failed")
        assert page.locator("#count").inner_text() == "1 of 60 rows"
        page.locator("#show").select_option("wrong")
        page.locator("#model").select_option("1")
        assert page.locator("#count").inner_text() == "1 of 60 rows"  # the hostile answer
        assert HOSTILE.partition(" ")[0] in page.locator(".answer pre").first.inner_text()
        page.locator("#model").select_option("-1")
        page.locator("#show").select_option("all")
        page.locator("#search").fill("QUESTION 59")
        assert page.locator("#count").inner_text() == "1 of 60 rows"
        assert "question 59 <b>" in page.locator("article").inner_text()
        title = page.title()
        browser.close()
    # One model is wrong in every fourth row; in one more its call failed, and counts as wrong.
    assert shown == "16 of 60 rows"
    assert title.startswith("Comparison: anthropic/b")
    assert not complaints
