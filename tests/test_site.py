"""The site: each public name is on an API page, each block of Python runs.

`make docs` builds it, looks for each page in the menu, and follows each link. Here is the rest.
"""

import doctest
import importlib
import re
import sys
from types import SimpleNamespace

import pytest
import test_docs
from conftest import ROOT

import rmdnet_jax as rmd

DOCS = ROOT / "docs"
API = sorted((DOCS / "api").glob("*.md"))
NAMED = re.findall(r"^::: (rmdnet_jax[\w.]+)$", "".join(p.read_text() for p in API), re.MULTILINE)
TABLES = {name: getattr(rmd, name) for name in rmd.__all__ if name.isupper()}
PAGES = {page.relative_to(ROOT).as_posix(): page for page in test_docs.PAGES[1:]}  # but README.md


def blocks(page, language):
    return [code for word, code in test_docs.FENCED.findall(page.read_text()) if word == language]


def found(path):
    """The object that a dotted name means."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            value = getattr(value, name)
        return value
    raise AssertionError(path)


# --- the API


def test_each_public_name_is_on_an_api_page_once():
    assert len(NAMED) == len({*NAMED})
    face = {f"rmdnet_jax.{name}" for name in rmd.__all__ if name != "noise"}
    assert face | {f"rmdnet_jax.noise.{name}" for name in rmd.noise.__all__} <= {*NAMED}


@pytest.mark.parametrize("table", TABLES)
def test_each_entry_of_a_table_is_on_an_api_page(table):
    shown = {id(found(path)) for path in NAMED}
    if table == "KINDS":  # a reader calls those of `rmd.noise`, by the same names
        shown |= {id(TABLES[table][name]) for name in rmd.noise.__all__ if name in TABLES[table]}
    assert not [name for name, entry in TABLES[table].items() if id(entry) not in shown]


def test_what_api_pages_name_says_what_it_is():
    assert not [path for path in NAMED if not found(path).__doc__]


# Those of `rmd.__all__` and `rmd.noise` are run in test_contracts.py.
FACE = {f"rmdnet_jax.{name}" for name in {*rmd.__all__} - {"UserError"}}
BESIDE = [
    path
    for path in NAMED
    if ">>>" in found(path).__doc__ and not {path, path.rpartition(".")[0]} & FACE
]


@pytest.mark.parametrize("path", BESIDE)
def test_examples_beside_the_face_hold(path):
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(recurse=False).find(found(path), path, globs={}):
        runner.run(test)
    assert runner.tries
    assert not runner.failures


# --- what pages show


@pytest.fixture
def demo(tmp_path):
    """What pages find in their folder: a run of seconds in place of `make demo`."""
    return lambda: rmd.train("digits:quick", tmp_path / "runs" / "demo")


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if blocks(page, "python")])
def test_python_of_a_page_runs_in_its_order(name, demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for table in TABLES.values():  # a page may add entries
        for entry in [*table]:
            monkeypatch.setitem(table, entry, table[entry])
    before = {key: {*table} for key, table in TABLES.items()}
    code = blocks(PAGES[name], "python")
    if "torch" in "".join(code):
        pytest.importorskip("torch")
    if "runs/demo" in "".join(code):
        demo()
    space = {"__name__": "__main__"}
    try:
        for i, block in enumerate(code):
            exec(compile(block, f"{name}, block {i}", "exec"), space)
    finally:
        for key, table in TABLES.items():
            for entry in {*table} - before[key]:
                del table[entry]


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if blocks(page, "py")])
def test_python_that_does_not_run_says_why(name):
    """A block marked `py` is not run: it begins with a comment, the reason."""
    for code in blocks(PAGES[name], "py"):
        assert code.startswith("# ")


# --- the hooks


@pytest.fixture
def hooks(monkeypatch):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    monkeypatch.syspath_prepend(str(DOCS / "site"))
    yield importlib.import_module("hooks")
    sys.modules.pop("hooks")


@pytest.mark.parametrize(
    ("uri", "text", "said"),
    [
        ("guides/train.md", "[a](../results.md#x)", "[a](../results.md#x)"),
        ("guides/train.md", "[a](../../launch/README.md)", "[a](../launch/README.md)"),
        ("CONTRIBUTING.md", "[a](docs/results.md)", "[a](results.md)"),
        ("guides/train.md", "[a](../../README.md)", "[a](../index.md)"),
        ("guides/train.md", "[a](../../configs/digits.py)", "a (`configs/digits.py`)"),
        ("CONTRIBUTING.md", "[`configs/digits.py`](configs/digits.py)", "`configs/digits.py`"),
        ("guides/train.md", "`[a](../../setup.cfg)`", "`[a](../../setup.cfg)`"),
        ("guides/train.md", "```\n[a](../../setup.cfg)\n```", "```\n[a](../../setup.cfg)\n```"),
        ("guides/train.md", "[a](nowhere.md)", "[a](nowhere.md)"),
        ("guides/train.md", "[a](https://a.org)", "[a](https://a.org)"),
    ],
)
def test_links_lead_from_the_repository_to_the_site(hooks, uri, text, said):
    pages = {"results.md", "index.md", "launch/README.md", "CONTRIBUTING.md"}
    files = SimpleNamespace(get_file_from_path=lambda path: path if path in pages else None)
    page = SimpleNamespace(file=SimpleNamespace(src_uri=uri))
    config = SimpleNamespace(repo_url="")
    assert hooks.on_page_markdown(text, page, config, files) == said


def test_links_to_code_lead_to_the_repository_where_it_has_an_address(hooks):
    files = SimpleNamespace(get_file_from_path=lambda path: None)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="guides/train.md"))
    config = SimpleNamespace(repo_url="https://a.org/b/")
    text = hooks.on_page_markdown("[a](../../setup.cfg)", page, config, files)
    assert text == "[a](https://a.org/b/blob/main/setup.cfg)"


def test_a_notebook_becomes_a_page_with_its_outputs(hooks):
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["\x1b[1mhalf\x1b[0m done\n"]},
        {"output_type": "display_data", "data": {"image/png": "aGk=\n", "text/plain": "<Figure>"}},
        {"output_type": "execute_result", "data": {"text/html": ['<table class="a">', "</table>"]}},
    ]
    text = hooks.cell_text({"cell_type": "code", "source": ["1 + 1\n", "2"], "outputs": outputs})
    code, said, figure, table = text.split("\n\n")
    assert code == "```python\n1 + 1\n2\n```"
    assert said == "```{.text .output}\nhalf done\n```"
    assert 'src="data:image/png;base64,aGk="' in figure
    assert "<Figure>" not in figure
    assert table == '<div class="output"><table></table></div>'


def test_a_badge_becomes_a_link_as_pages_load_nothing_from_elsewhere(hooks):
    source = ["[![Open](https://a.org/badge.svg)](https://a.org/b) ![figure](figure.png)"]
    text = hooks.cell_text({"cell_type": "markdown", "source": source})
    assert text == "[Open](https://a.org/b) ![figure](figure.png)"
