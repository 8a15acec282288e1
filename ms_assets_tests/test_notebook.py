"""The notebook that shows the library, run from its first cell to its last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

import ms_assets

FILE = Path(ms_assets.__file__).parents[1] / "docs" / "library.ipynb"
FOUND = """
means = {(row["method"], row["metric"]): row["mean"] for row in board.iter_rows(named=True)}
found_again = again.recommend().equals(models["lightgcn"].recommend())
neighbours = models["lightgcn"].similar(["jazz 0"], k=5)["similar"]
print(
    means["lightgcn", "ndcg"] > 1.3 * means["svd", "ndcg"],
    [method for method in models if means[method, "cold_share"] > 0] == ["lightgcn"],
    all(song.startswith("jazz") for song in neighbours),
    found_again,
)
"""


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(FILE, as_version=4)


def test_every_cell_runs_and_what_the_notebook_says_of_its_data_holds(stored, tmp_path):
    asked = new_code_cell(FOUND)
    run = nbformat.from_dict({**stored, "cells": [*stored.cells, asked]})
    NotebookClient(run, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    assert run.cells[-1].outputs[0].text.split() == ["True"] * 4


def test_the_stored_notebook_was_run_and_shows_tables_and_a_picture(stored):
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    shown = {kind for cell in code for output in cell.outputs for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= shown
    assert not [output for cell in code for output in cell.outputs if output.output_type in ("error", "stream")]
