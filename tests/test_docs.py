"""README and docs: what they show runs, what they name exists, and README is short and plain."""

import re
import shlex
import textwrap

import pytest
from conftest import ROOT

from benchmarks import methods_figure
from rmdnet_jax import main
from rmdnet_jax.app.load import get_config, module_of, presets
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.methods import METHODS

README = ROOT / "README.md"
OTHERS = [
    ROOT / name
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "launch/README.md", "examples/README.md")
]
PAGES = [README, *OTHERS, *sorted((ROOT / "docs").rglob("*.md"))]
EXPERIMENTS = [*sorted((ROOT / "configs").glob("*.py")), *sorted((ROOT / "studies").glob("*.py"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [code for language, code in FENCED.findall(README.read_text()) if language == "python"]
LINK = re.compile(r"\[([^\]]*)\]\(([^)]+)\)")


def commands(word):
    """(page, words) of each `rmdnet word ...` that is shown on a line of its own."""
    found = []
    for page in [*PAGES, *EXPERIMENTS]:
        for line in page.read_text().splitlines():
            if re.match(rf"\s*rmdnet {word} ", line) and "$" not in line:
                words = shlex.split(line.partition(";")[0], comments=True)
                found.append(pytest.param(words[2:], id=f"{page.stem}: {' '.join(words[2:])}"))
    return found


def sentences(text):
    """The sentences of prose: no code, no tables, no headings; a list's item ends one."""
    text = LINK.sub(r"\1", FENCED.sub("\n\n", text.replace("![", "[").replace("*", "")))
    lines = [
        "" if line.startswith(("    ", "|", "#")) else re.sub(r"^(- |\d+\. )", "\n\n", line)
        for line in text.splitlines()
    ]
    parts = "\n".join(lines).split("\n\n")
    found = [one for part in parts for one in re.split(r"(?<=[.?!])\s+", " ".join(part.split()))]
    return [one.split() for one in found if re.search(r"\w", one)]


def headings(page):
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_figure_of_the_methods_draws_what_the_page_prints_as_gains():
    page = methods_figure.PAGE.read_text()
    found = methods_figure.accuracies(page)
    drawn = [(name, arms) for noise in found.values() for name, arms in noise.items()]
    table = page.split("### Every base method\n")[1].split("![")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)
    assert [name for name, _ in drawn] == [name for name, _ in rows] == 2 * list(METHODS)
    for (_, arms), (name, cells) in zip(drawn, rows):
        alone, *gains = [cell.split()[0].replace("−", "-") for cell in cells.split(" | ")]
        assert arms["alone"][0] == float(alone)
        for arm, gain in zip(methods_figure.ARMS[1:], gains):
            if gain != "–":  # both are rounded
                assert abs(arms[arm][0] - float(alone) - float(gain)) < 0.16, (name, arm)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_python_of_the_readme_runs_as_it_stands(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    for told in re.findall(r"# right before: (\S+), after: (\S+)", code):
        *_, last = capsys.readouterr().out.splitlines()
        assert [float(x) for x in last.split()] == pytest.approx([*map(float, told)], abs=0.005)


def test_the_readme_is_short_and_plain():
    text = README.read_text()
    assert len(BLOCKS) >= 3
    assert len(text.splitlines()) <= 150
    lengths = [len(words) for words in sentences(text)]
    assert sum(lengths) / len(lengths) <= 15
    assert max(lengths) <= 30


def test_sentences_are_told_apart():
    text = "# No\n\nOne. Two\nthree [four](five.md): six.\n\n    no.\n\n- Seven\n- Eight.\n| no |"
    found = [" ".join(words) for words in sentences(text)]
    assert found == ["One.", "Two three four: six.", "Seven", "Eight."]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`\n]+`", "code", FENCED.sub("", page.read_text()))
    for _, target in LINK.findall(text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in headings(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_are_named_exist(page):
    text = page.read_text()
    if page.name == "CHANGELOG.md":  # its tables name what was
        text = "".join(re.findall(r"\| ([^|]*) \|$", text, re.MULTILINE))
    folders = "configs|studies|benchmarks|rmdnet_jax|docs|tests"
    named = re.findall(rf"(?<![\w/])((?:{folders})/[\w/]+\.\w+)", text)
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("words", commands("train"))
def test_commands_that_train_are_allowed(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    args, overrides = main.read(words)
    if args.config.startswith("mine.py"):
        pytest.skip("a file of the reader's")
    resolve(get_config(args.config, overrides))


def test_configs_within_sentences_are_allowed():
    text = "".join(page.read_text() for page in (ROOT / "docs" / "guides").glob("*.md"))
    named = re.findall(r'`"?([a-z]\w+:[^`"\s]+)"?`', text)
    configs = [config for config in named if config.partition(":")[0] in presets()]
    assert "image_folder:small,dir=photos" in configs, "they are found"
    for config in configs:
        resolve(get_config(config))


@pytest.mark.parametrize("words", commands("sweep"))
def test_commands_that_sweep_have_points(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    pattern = words[words.index("--match") + 1] if "--match" in words else ""
    points = module_of(words[0])["sweep"]("runs")
    assert [name for name in points if re.search(pattern, name)]


def test_an_example_is_whole():
    """No block of the README leans on one before it."""
    assert all(textwrap.dedent(code).startswith("import") for code in BLOCKS)
