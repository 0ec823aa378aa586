"""The house rules: imports go down, each package has one home, nothing heavy comes unasked."""

import ast
import importlib
import pathlib
import re
import statistics
import subprocess
import sys

import pytest
from conftest import ROOT

# From the ground up. A module may import from its own layer and from those below.
LAYERS = (
    ("errors", "types", "sharding", "files", "cpu"),
    ("losses", "evaluation", "relations", "labels", "noise"),
    ("data", "networks", "methods", "ssl"),
    ("training",),
    ("app",),
    ("main", "cli"),
)
HOMES = {
    "flax": {"networks"},
    "orbax": {"training"},
    "clu": {"training"},
    "tensorflow_datasets": {"data"},
    "requests": {"data"},
    "tensorflow": {"data"},
    "ml_collections": {"app"},
    "optax": {"losses", "training"},
    "matplotlib": {"app"},
    "sklearn": {"evaluation", "labels", "app"},
    "faiss": {"relations"},
    "PIL": {"app", "data"},
    "tqdm": {"training", "data", "app", "labels"},
    "safetensors": {"networks"},
    "torch": {"networks"},
    "pandas": {"app", "labels"},
    "scipy": {"app"},
}
FILES = sorted((ROOT / "rmdnet_jax").rglob("*.py"))
EXPERIMENTS = sorted(path for name in ("configs", "studies") for path in (ROOT / name).glob("*.py"))
# What costs a user of one function seconds, or is not installed.
HEAVY = ("jax", "flax", "pandas", "sklearn", "matplotlib", "tensorflow", "ml_collections", "torch")


def name_of(path):
    parts = path.relative_to(ROOT / "rmdnet_jax").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def level(name):
    return next(i for i, names in enumerate(LAYERS) if name.split(".")[0] in names)


def imported(path):
    """Every dotted name that a file imports, `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path):
    modules = {name_of(p) for p in FILES}
    for name in imported(path):
        if name.startswith("rmdnet_jax."):
            parts = name.removeprefix("rmdnet_jax.").split(".")
            yield next(
                (
                    ".".join(parts[:n])
                    for n in range(len(parts), 0, -1)
                    if ".".join(parts[:n]) in modules
                ),
                parts[0],
            )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path):
    name = name_of(path)
    if name:
        assert [other for other in own_imports(path) if level(other) > level(name)] == []


def test_no_import_circles():
    graph = {name_of(path): set(own_imports(path)) - {name_of(path)} for path in FILES}
    while graph:
        free = [name for name, needs in graph.items() if not needs & graph.keys()]
        assert free, f"these import each other: {sorted(graph)}"
        for name in free:
            del graph[name]


def used(path):
    """The packages, other than Python's own, that a file imports."""
    return {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_each_package_has_its_home(path):
    allowed = {"jax", "numpy", "rmdnet_jax"} | {
        package for package, homes in HOMES.items() if name_of(path).split(".")[0] in homes
    }
    assert used(path) <= allowed


@pytest.mark.parametrize("package", HOMES)
def test_no_home_stands_empty(package):
    homes = {name_of(path).split(".")[0] for path in FILES if package in used(path)}
    assert homes == HOMES[package]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_library_knows_no_config_and_prints_no_result(path):
    """All below `app`: it takes values and returns values. Progress goes to standard error."""
    if level(name_of(path) or "cli") >= level("app"):
        return
    assert "ml_collections" not in used(path)
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    prints = [call for call in calls if getattr(call.func, "id", "") == "print"]
    assert all("sys.stderr" in ast.unparse(call) for call in prints)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_an_experiment_is_made_from_presets_and_tables(path):
    """A config is a page at most; grids live in studies."""
    tables = {"methods.METHODS", "ssl.SSL", "relations.losses.EDGES", "relations.losses.NODES"}
    presets = {f"app.presets.{name}" for name in ("digits", "cifar", "experiment")}
    found = {name for name in imported(path) if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name.removeprefix("rmdnet_jax.") for name in found} <= tables | presets
    defined = {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)}
    assert "get_config" in defined
    assert ("sweep" in defined) == (path.parent.name == "studies")
    assert path.parent.name == "studies" or path.read_text().count("\n") <= 40


def functions(path):
    """Name and number of lines of each function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize(
    "path", [*FILES, *EXPERIMENTS], ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_functions_and_lines_keep_their_size(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 300
    assert [(i, len(line)) for i, line in enumerate(lines, 1) if len(line) > 100] == []
    assert [(name, size) for name, size in functions(path) if size > 60] == []


def test_most_functions_are_short():
    assert statistics.median(size for path in FILES for _, size in functions(path)) < 15


def python(code):
    """What a fresh interpreter prints."""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_the_face_costs_nothing_until_it_is_used():
    code = (
        "import sys, time\nbegan = time.perf_counter()\nimport rmdnet_jax\n"
        "seconds = time.perf_counter() - began\n"
        f"print(seconds, sorted({{*{HEAVY}}} & sys.modules.keys()), dir(rmdnet_jax))"
    )
    (line,) = python(code)
    seconds, rest = line.split(" ", 1)
    assert float(seconds) < 0.3
    assert rest.startswith("[] [")
    assert "find_label_errors" in rest


def test_help_is_there_before_jax_is():
    code = (
        "import sys\nfrom rmdnet_jax import main\nstatus = main.main(['x', '--help'])\n"
        f"print(status, sorted({{*{HEAVY}}} & sys.modules.keys()))"
    )
    assert python(code)[-1] == "0 []"


def test_a_type_checker_sees_the_names_that_the_face_gives():
    """The imports for type checkers, which never run, and the table that is used are one list."""
    import rmdnet_jax

    body = ast.parse((ROOT / "rmdnet_jax" / "__init__.py").read_text()).body
    (block,) = (node for node in body if isinstance(node, ast.If))
    said = {
        alias.asname: (node.module.removeprefix("rmdnet_jax").lstrip("."), alias.name)
        for node in block.body
        for alias in node.names
    }
    assert said == {**rmdnet_jax._HOME, "noise": ("", "noise")}
    assert sorted(said) == sorted(rmdnet_jax.__all__)
    for name in said:
        assert getattr(rmdnet_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        rmdnet_jax.trian  # noqa: B018


def test_a_digits_run_never_imports_tensorflow(tmp_path):
    """Nor TFDS, whose import alone takes a second."""
    code = (
        "import sys\nfrom rmdnet_jax import main\n"
        "status = main.main(['x', '--config', 'configs/digits.py:quick,limit=256,controls=()', "
        f"'--workdir', {str(tmp_path)!r}])\n"
        "print(status, sorted({'tensorflow', 'tensorflow_datasets', 'torch'} & sys.modules.keys()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "0 []", run.stderr
    assert pathlib.Path(tmp_path, "figures", "accuracy.png").stat().st_size > 1000


def test_the_page_on_architecture_names_what_is_there():
    """Its drawings and its prose: `module.name` of any package, and files."""
    page = (ROOT / "docs" / "contributing" / "architecture.md").read_text()
    drawn = "".join(re.findall(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    named = re.findall(r"\b([a-z_]+)\.([A-Za-z_]+)\b", drawn)
    named += re.findall(r"`([a-z_]+)\.([A-Za-z_]+)`", page)
    modules = {}
    for path in FILES:
        modules.setdefault(path.stem, []).append(f"rmdnet_jax.{name_of(path)}".rstrip("."))
    files = [(one, kind) for one, kind in named if kind in ("json", "npz", "py")]
    for module, name in {*named} - {*files}:
        there = [importlib.import_module(one) for one in modules[module]]
        assert any(hasattr(one, name) for one in there), f"{module}.{name}"
    places = (ROOT, ROOT / "rmdnet_jax")
    for path in re.findall(r"`([\w/]+/\w+\.py)`", page):
        assert any((place / path).exists() for place in places), path
    assert len(named) > 20
