"""docs/tutorial.ipynb is committed without outputs, and runs from its first cell to its last."""

import json
import os
import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = "IMAGES, IMAGE_SIZE, WIDTH, EPOCHS = 60, 28, 0.0625, 1"
SIMPLE = 'config.model.update(pooling="max", context="none", head="gap")'


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_nothing_of_a_run_is_committed(notebook):
    for cell in notebook.cells:
        assert not cell.get("outputs"), cell.source
        assert cell.get("execution_count") is None, cell.source


def test_it_runs_where_the_package_is_installed(notebook, tmp_path, monkeypatch):
    [parameters] = [one for one in notebook.cells if "parameters" in one.metadata.get("tags", ())]
    parameters.source = SMALL
    [config] = [one for one in notebook.cells if "rsna.get_config()" in one.source]
    config.source += f"\n{SIMPLE}"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as a notebook has
    # The cells compile more than they compute.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, os.fspath(tmp_path / name))
    folder = tmp_path / "work"
    folder.mkdir()
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=900, startup_timeout=900, resources=where).execute()

    told = json.dumps([cell.get("outputs") for cell in notebook.cells])
    metrics = json.loads((folder / "run/evaluation/test/metrics.json").read_text())
    assert f"AUROC {metrics['auroc']['value']:.3f}" in told
    assert "error: " not in told
    assert len(list((folder / "predictions/overlays").glob("*.png"))) == 6
    [overlay] = [cell for cell in notebook.cells if cell.source.startswith("display(Image")]
    assert "image/png" in overlay.outputs[0].data
