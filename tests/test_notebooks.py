"""Every notebook runs in a kernel, says what its stored outputs say, and is short and plain.

All are stored with their outputs, so that they can be read where nothing runs. To store them anew:

    RMDNET_NOTEBOOKS=store pytest -p no:xdist tests/test_notebooks.py
"""

import os
import re

import pytest
from conftest import ROOT
from test_docs import LINK, headings, sentences

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

PATHS = sorted([*(ROOT / "docs").rglob("*.ipynb"), *(ROOT / "examples").glob("*.ipynb")])
all_notebooks = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
STORE = os.environ.get("RMDNET_NOTEBOOKS") == "store"
SECONDS = 500  # a cell; it takes 20, but a machine may be busy
LINES, BYTES = 40, 200_000
POINTS = 10  # by which a run's accuracy may differ on another processor
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def cells(notebook, kind="code"):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def printed(cell):
    """What a cell wrote to stdout; a bar of progress goes to stderr."""
    return "".join(o.text for o in cell.outputs if o.get("name") == "stdout")


def stored(notebook):
    """The notebook as it is kept: without bars, times and the versions of a kernel."""
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in cells(notebook):
        cell.metadata.pop("execution", None)
        said, cell.outputs = printed(cell), [o for o in cell.outputs if "name" not in o]
        if said:
            cell.outputs.insert(0, nbformat.v4.new_output("stream", name="stdout", text=said))
    return notebook


def read(path):
    return nbformat.read(path, as_version=4)


@all_notebooks
def test_a_notebook_is_short_plain_and_small(path):
    notebook = read(path)
    code = "\n".join(cell.source for cell in cells(notebook)).splitlines()
    assert sum(bool(line.strip()) for line in code) <= LINES
    assert max(map(len, code)) <= 100
    prose = sentences("\n\n".join(cell.source for cell in cells(notebook, "markdown")))
    lengths = [len(words) for words in prose]
    assert sum(lengths) / len(lengths) <= 13
    assert max(lengths) <= 30
    assert path.stat().st_size <= BYTES


@all_notebooks
def test_a_notebook_is_stored_as_it_ran(path):
    """From top to bottom, once, without errors; it draws, and names no machine's paths."""
    code = cells(notebook := read(path))
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert nbformat.writes(notebook) == nbformat.writes(stored(read(path)))
    assert not re.search(r"(?<![\w.])/(home|root|tmp|usr|Users)/", path.read_text())


@all_notebooks
def test_links_of_a_notebook_lead_somewhere(path):
    text = "\n".join(cell.source for cell in cells(read(path), "markdown"))
    targets = [target for _, target in LINK.findall(text) if not re.match(r"\w+:", target)]
    for target in targets:
        there, _, anchor = target.partition("#")
        assert (path.parent / there).exists(), target
        assert not anchor or anchor in headings(path.parent / there), target


@all_notebooks
def test_a_maintainer_can_switch_the_badge_on(path):
    """What examples/README.md says to run turns the comment of the first cell into a badge."""
    [(said, goal)] = re.findall(
        r"s\{(<!-- .*?)\}\{\$1\}.*s\{OWNER/REPOSITORY\}\{(.*?)\}g",
        (ROOT / "examples" / "README.md").read_text(),
    )
    first, name = read(path).cells[0].source, path.relative_to(ROOT).as_posix()
    assert ("<!--" in first) == ("OWNER/REPOSITORY" in path.read_text()), "off, or on"
    shown = re.sub(said, r"\1", first).replace("OWNER/REPOSITORY", goal)
    assert "<!--" not in shown
    assert re.search(
        rf"\(https://colab\.research\.google\.com/github/[\w.-]+/[\w.-]+/blob/main/{name}\)", shown
    )


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


def words(text):
    """A text with its numbers taken out, and the numbers."""
    return " ".join(NUMBER.sub("#", text).split()), [float(x) for x in NUMBER.findall(text)]


@all_notebooks
@pytest.mark.filterwarnings("default")  # of the client, not of what is tested
def test_a_notebook_runs_and_says_what_is_stored(path, kernels, tmp_path):
    notebook, before = read(path), cells(read(path))
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources=place
    ).execute()  # raises what a cell raises
    code = cells(notebook)
    said = "".join(o.text for cell in code for o in cell.outputs if o.get("name") == "stderr")
    for line in said.replace("\r\n", "\n").split("\n"):
        assert line == "" or line.startswith("\r"), "each line is a bar, drawn in place"
    notebook = stored(notebook)
    if STORE:
        path.write_text(nbformat.writes(notebook) + "\n")
        return
    for old, new in zip(before, code):
        assert [o.output_type for o in old.outputs] == [o.output_type for o in new.outputs]
        for was, now in zip(printed(old).splitlines(), printed(new).splitlines(), strict=True):
            (text, numbers), (same, values) = words(was), words(now)
            assert text == same
            if "%" in was:
                assert values == pytest.approx(numbers, abs=POINTS, rel=0.1)
