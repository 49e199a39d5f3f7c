"""The notebook, run from top to bottom with small numbers."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks/first_model.ipynb"
SMALL = """
SOURCE, TOKENIZER, RECIPE = "python-docs", "bytes", "tiny_cpu"
STEPS, PROMPT, CUT = 40, "The", 0.0015
"""


@pytest.mark.slow  # a minute: eleven commands, one after the other
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    book = nbformat.read(NOTEBOOK, as_version=4)
    [parameters] = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source += SMALL
    # The commands of this environment, and a folder of its own for what Jupyter keeps.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = ["".join(output.get("text", "") for output in cell.get("outputs", ())) for cell in book.cells]
    cut, continued = (text for text in said if "training: 40 steps" in text)
    assert "Run the same command again to continue" in cut
    assert "continuing after step" in continued
    assert "run: finished, 40 steps" in continued
    assert any("continuation" in text and "acc_norm" in text for text in said)
    assert any(
        "image/png" in output.get("data", {}) for cell in book.cells for output in cell.get("outputs", ())
    )
    assert said[-1].splitlines()[-1].startswith("The")
