"""What importing llmhub does, and does not: each case in a new interpreter, with warnings as errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "pandas",
    "pyarrow",
    "numpy",
    "aiohttp",
    "matplotlib",
    "tiktoken",
    "ipywidgets",
    "joblib",
    "genai_prices",
    "IPython",
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_it_loads_nothing_heavy() -> None:
    assert run(f"import sys, llmhub; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_importing_it_does_not_load_the_simulator_or_the_engine() -> None:
    assert (
        run("import sys, llmhub; print([n for n in sys.modules if n.startswith(('llmhub.sim', 'llmhub.engine'))])")
        == "[]"
    )


def test_every_public_name_can_be_had_and_is_listed() -> None:
    said = run(
        "import llmhub; print([n for n in llmhub.__all__ if getattr(llmhub, n) is None or n not in dir(llmhub)])"
    )
    assert said == "[]"


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    assert run("import llmhub; print(hasattr(llmhub, 'nothing'))") == "False"


@pytest.mark.parametrize(
    "order",
    ["import pandas, llmhub", "import llmhub, pandas", "import llmhub; from pandas import DataFrame; import pandas"],
)
def test_the_accessor_is_there_whichever_is_imported_first(order: str) -> None:
    code = f"{order}\nprint(type(pandas.DataFrame({{'a': [1]}}).llm).__name__, type(pandas.Series([1]).llm).__name__)"
    assert run(code) == "FrameAccessor SeriesAccessor"


def test_pandas_is_imported_as_if_llmhub_were_not_there() -> None:
    code = """
import llmhub, importlib.util, importlib.resources
assert importlib.util.find_spec("pandas").loader is not None
import pandas
spec = pandas.__spec__
assert type(spec.loader).__module__.startswith(("_frozen_importlib", "importlib")), spec.loader
assert importlib.resources.files("pandas").joinpath("__init__.py").is_file()
import importlib; importlib.reload(pandas)
print("llm" in dir(pandas.DataFrame()), "llm" in dir(pandas.Series(dtype=float)))
"""
    assert run(code) == "True True"


def test_a_pandas_that_is_not_there_is_not_missed() -> None:
    code = """
import sys
sys.modules["pandas"] = None
import llmhub
try:
    import pandas
except ImportError:
    print("absent")
"""
    assert run(code) == "absent"


def test_asking_one_question_does_not_load_frames() -> None:
    code = f"""
import sys, llmhub
from llmhub.config import Settings
hub = llmhub.Hub(settings=Settings())
try:
    llmhub.complete("hi", model="openai/x", hub=hub)
except llmhub.ConnectorError:
    pass
print([name for name in {("pandas", "pyarrow", "matplotlib", "tiktoken", "genai_prices")} if name in sys.modules])
"""
    assert run(code) == "[]"
