"""Every notebook of docs/guides runs in a kernel as it stands, is short, and is kept clean."""

import os

import pytest
from conftest import ROOT

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

NOTEBOOKS = sorted((ROOT / "docs" / "guides").glob("*.ipynb"))
all_notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
SECONDS = 240  # a cell; it takes 30, but a machine may be busy


def cells(path):
    notebook = nbformat.read(path, as_version=4)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


@all_notebooks
def test_a_notebook_is_short_and_holds_no_outputs(path):
    _, code = cells(path)
    assert sum(bool(line.strip()) for cell in code for line in cell.source.splitlines()) <= 30
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """Kernels of this interpreter, whatever kernel `python3` is elsewhere; none sees the user's."""
    from ipykernel.kernelspec import write_kernel_spec

    write_kernel_spec(tmp_path / "jupyter" / "kernels" / "python3")
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("XLA_FLAGS")  # one device, as a reader has
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@all_notebooks
@pytest.mark.filterwarnings("default")  # of the client, not of what is tested
def test_a_notebook_runs_as_it_stands(path, kernels, tmp_path):
    notebook, code = cells(path)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources=place
    ).execute()  # raises what a cell raises
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs), "it draws"
    said = "".join(o.text for o in outputs if o.get("name") == "stderr")
    assert "Warning" not in said
    assert "relation_guided: epoch" in said
    for line in said.replace("\r\n", "\n").split("\n"):
        assert line == "" or line.startswith("\r"), "each line is a bar, drawn in place"
