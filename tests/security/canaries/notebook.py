"""Execute a notebook that shows what a hub has and what fails; run by test_canaries.py."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

TABLE = """frame = pd.DataFrame({'text': ['a', 'b']})
frame.llm.complete('{text}', model=['openai/ok', 'anthropic/fail'], hub=hub, columns='all')"""
CELLS = [
    "import logging, pandas as pd, llmhub\nlogging.basicConfig(level=0)\nhub = llmhub.Hub(cache='notebook.db')\nhub",
    "hub.settings, hub.endpoints",
    "llmhub.complete('hi', model='openai/ok', hub=hub)",
    TABLE,
    "llmhub.complete('hi', model='anthropic/fail', hub=hub)",
    "%xmode Verbose",
    "llmhub.complete('hi', model='compatible/fail', hub=hub)",
    "frame.llm.complete('{text}', model='google/fail', hub=hub, on_error='raise')",
    "hub.decisions()",
    "hub.close()",
]
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
NotebookClient(notebook, timeout=60, allow_errors=True).execute()
nbformat.write(notebook, Path("out.ipynb"))
