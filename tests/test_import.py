"""What importing llmhub does, and does not: each case in a new interpreter, with warnings as errors."""

from __future__ import annotations

import json
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


def test_every_public_name_can_be_loaded() -> None:
    assert run("import llmhub; print([name for name in llmhub.__all__ if getattr(llmhub, name) is None])") == "[]"


def test_dir_lists_what_most_programs_need() -> None:
    listed = json.loads(run("import json, llmhub; print(json.dumps(dir(llmhub)))"))
    assert 40 <= len(listed) <= 64
    assert {"complete", "complete_table", "Hub", "simulate", "scorers", "tasks", "split_by_hash"} <= set(listed)
    assert not [name for name in listed if name.endswith(("Error", "Warning", "extension"))]
    assert run(f"import llmhub; print(set({listed}) - {{*llmhub.__all__, '__version__'}})") == "set()"


def test_exceptions_can_be_imported_from_the_package_and_from_errors() -> None:
    code = """
import llmhub, llmhub.errors
names = [name for name in llmhub.errors.__all__ if name.endswith(("Error", "Warning")) and name != "ServerError"]
assert set(llmhub.core.errors.EXCEPTIONS.values()) <= {getattr(llmhub.errors, name) for name in names}
print([name for name in names if getattr(llmhub, name) is not getattr(llmhub.errors, name)])
"""
    assert run(code) == "[]"


@pytest.mark.parametrize("name", ["types", "errors"])
def test_public_modules_define_what_they_export_and_load_nothing_heavy(name: str) -> None:
    code = f"""
import sys
from llmhub import {name} as module
print([n for n in module.__all__ if not hasattr(module, n)], [n for n in {HEAVY} if n in sys.modules])
"""
    assert run(code) == "[] []"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert run("import llmhub; print(hasattr(llmhub, 'nothing'))") == "False"


def test_a_name_of_a_public_module_is_suggested() -> None:
    code = """
import llmhub
try:
    llmhub.Usage
except AttributeError as error:
    print(error)
"""
    assert run(code) == "module 'llmhub' has no attribute 'Usage'; did you mean llmhub.types.Usage?"


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
