"""Runs the notebooks top to bottom and keeps their outputs; ``--check`` runs them without writing.

A notebook that shows an error or a warning fails.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def execute(path: Path) -> nbformat.NotebookNode:
    """Run one notebook in a new kernel; an error in a cell raises."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": str(HERE)}})
    client.execute()
    for cell in notebook.cells:
        cell.get("metadata", {}).pop("execution", None)
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr" and "Warning" in output.get("text", ""):
                raise SystemExit(f"{path.name}: a cell warns: {output['text']}")
    notebook.metadata.pop("widgets", None)
    return notebook


def main() -> int:
    """Run all notebooks, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args()
    for path in asked.names or sorted(HERE.glob("*.ipynb")):
        notebook = execute(path)
        if not asked.check:
            nbformat.write(notebook, path)
        sys.stdout.write(f"{path.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
