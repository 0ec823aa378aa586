"""What every entry of every table must keep: adding an entry is testing it. And the face."""

import doctest
import inspect
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assert_same, tiny

import rmdnet_jax
from rmdnet_jax.app import experiment
from rmdnet_jax.data.augment import AUGMENTATIONS
from rmdnet_jax.labels import noise
from rmdnet_jax.main import main
from rmdnet_jax.methods import METHODS
from rmdnet_jax.networks.encoders import ENCODERS
from rmdnet_jax.networks.heads import mlp
from rmdnet_jax.relations import losses as relation
from rmdnet_jax.ssl import SSL
from rmdnet_jax.training.optimizer import OPTIMIZERS
from rmdnet_jax.types import Batch, Outputs, Variables, hyper

TABLES = {
    "KINDS": noise.KINDS, "AUGMENTATIONS": AUGMENTATIONS, "ENCODERS": ENCODERS, "SSL": SSL,
    "METHODS": METHODS,
    "EDGES": relation.EDGES, "NODES": relation.NODES, "OPTIMIZERS": OPTIMIZERS,
}  # fmt: skip
ENTRIES = [
    pytest.param(name, f, id=f"{table}-{name}")
    for table, entries in TABLES.items()
    for name, f in entries.items()
]


@pytest.mark.parametrize(("name", "factory"), ENTRIES)
def test_the_signature_is_the_schema(name, factory):
    """Every hyper-parameter has a default that a config can hold; every entry says what it is."""
    assert factory.__name__ == name
    assert factory.__doc__
    for field, default in hyper(factory).items():
        beside = [
            relation.EDGES,
            relation.NODES,
            noise.KINDS,
        ]  # their nodes of a config hold a weight or a seed as well
        assert field != "name"
        assert field not in ("weight", "seed") or not any(
            factory in table.values() for table in beside
        )
        assert isinstance(default, bool | int | float | str | tuple), field
    json.dumps(hyper(factory))


@pytest.mark.parametrize(("name", "factory"), ENTRIES)
def test_facts_come_before_hyper_parameters(name, factory):
    kinds = [p.kind for p in inspect.signature(factory).parameters.values()]
    assert set(kinds) <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_pure_function_of_its_arguments(name):
    method = METHODS[name](12, 3)
    keys = jax.random.split(jax.random.key(0), method.peers)
    outputs = tuple(
        Outputs(
            jax.random.normal(k, (method.views, 8, 5)), jax.random.normal(k, (method.views, 8, 3))
        )
        for k in keys
    )
    batch = Batch(jnp.zeros((method.views, 8, 4, 4, 1)), jnp.arange(8) % 3, jnp.arange(4, 12))
    args = (
        outputs,
        batch,
        method.init(),
        lambda image: outputs,
        jax.random.key(1),
        jnp.float32(0.5),
    )
    value, memory, metrics = method.loss(*args)
    assert value.shape == ()
    assert np.isfinite(value)
    assert all(jnp.shape(m) == () for m in metrics.values())
    assert jax.tree.structure(memory) == jax.tree.structure(method.init())
    assert_same(method.loss(*args), (value, memory, metrics))
    gradient = jax.grad(
        lambda logits: method.loss((outputs[0]._replace(logits=logits), *outputs[1:]), *args[1:])[0]
    )(outputs[0].logits)
    assert np.isfinite(gradient).all()
    assert np.any(gradient)


@pytest.mark.parametrize("name", SSL)
def test_an_ssl_objective_lowers_its_loss_and_reports_the_spread(name):
    encoder = ENCODERS["cnn"](widths=(8,))
    ssl = SSL[name](encoder, "float32", projection=16, hidden=8)
    images = jax.random.normal(jax.random.key(0), (ssl.views, 32, 8, 8, 1))
    variables, memory = ssl.init(jax.random.key(1), images[0])
    assert {"encoder"} <= variables.params.keys()
    step = jax.jit(
        jax.value_and_grad(
            lambda p, s, m: (lambda out: (out[0], out))(ssl.loss(p, s, m, images, 0.0)),
            has_aux=True,
        )
    )
    params, stats, losses = *variables, []
    for _ in range(15):
        (value, (_, stats, memory, metrics)), gradient = step(params, stats, memory)
        size = jnp.sqrt(
            sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))
        )  # the objectives' scales differ
        params = jax.tree.map(
            lambda p, g, size=size: p - 0.1 * g / jnp.maximum(size, 1.0), params, gradient
        )
        losses.append(float(value))
    assert losses[-1] < losses[0]
    assert 0 < float(metrics["z_std"]) < 1.5


def test_simsiam_stops_the_gradient_at_the_projections():
    """The loss's gradient equals the one with the targets held constant."""
    from rmdnet_jax.ssl import negative_cosine, simsiam, spread

    encoder = ENCODERS["cnn"](widths=(4,))
    ssl = simsiam(encoder, "float32", projection=8, hidden=4)
    images = jax.random.normal(jax.random.key(0), (2, 16, 8, 8, 1))
    (params, stats), memory = ssl.init(jax.random.key(1), images[0])
    parts = {
        "encoder": encoder,
        "projector": mlp((8, 8)),
        "predictor": mlp((4, 8), norm_last=False),
    }

    def forward(params, image):
        outputs, x = [], image
        for name, part in parts.items():
            x, _ = part.apply(Variables(params[name], stats[name]), x, True)
            outputs.append(x)
        return outputs[1:]

    (t1, _), (t2, _) = forward(params, images[0]), forward(params, images[1])

    def plain(params):
        (_, p1), (_, p2) = forward(params, images[0]), forward(params, images[1])
        return 0.5 * negative_cosine(p1, t2) + 0.5 * negative_cosine(p2, t1)

    expected = jax.value_and_grad(plain)(params)
    found = jax.value_and_grad(lambda p: ssl.loss(p, stats, memory, images, 0.0)[0])(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert float(spread(jnp.ones((5, 3)))) == pytest.approx(0.0, abs=1e-6)
    assert float(spread(jax.random.normal(jax.random.key(2), (4000, 64)))) == pytest.approx(
        1.0, abs=0.02
    )


def test_the_summary_holds_what_outside_code_reads(tmp_path):
    config = tiny(controls=("base", "base_from_teacher", "teacher_knn", "teacher_probe"))
    summary = experiment.run(config, tmp_path).summary
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert set(summary["relation_guided"]["test_accuracy"]) == {
        "last",
        "last10",
        "best",
        "noisy_validation",
    }
    assert set(summary["controls"]) == set(config.controls)
    assert 0 < summary["noise"]["rate"] < 1
    assert len(summary["noise"]["sha256"]) == 64
    assert np.shape(summary["noise"]["transition"]) == (10, 10)
    for part in (
        summary["relation_modeling"],
        summary["relation_guided"],
        summary["controls"]["base"],
    ):
        assert part["seconds"] > 0
        assert part["images_per_second"] > 0
    assert {"jax", "jaxlib", "flax", "python", "git", "device", "devices"} <= summary[
        "environment"
    ].keys()
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"accuracy.png", "relations.png"}
    for part in (summary["relation_guided"], summary["controls"]["teacher_probe"]):
        assert 0 <= part["test_accuracy"]["last"] <= 1
    config = json.loads((tmp_path / "config.json").read_text())
    assert {
        "seed",
        "data",
        "noise",
        "encoder",
        "relation_modeling",
        "teacher",
        "relation_guided",
    } <= config.keys()
    assert {
        "method",
        "weight",
        "edge",
        "node",
        "epochs",
        "batch_size",
        "init",
        "teacher_features",
    } <= config["relation_guided"].keys()
    assert {"ssl", "epochs", "batch_size"} <= config["relation_modeling"].keys()


def test_what_a_file_of_the_users_adds_works_as_written(tmp_path, monkeypatch):
    """The guide's config file, outside the repository: its entries keep the contracts and train."""
    guide = (ROOT / "docs" / "guides" / "extend.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    for table in TABLES.values():
        for name in ("mae", "drained", "alignment", "gram", "tiny"):
            monkeypatch.setitem(table, name, None)  # so that what the file adds is taken back
            monkeypatch.delitem(table, name)
    words = ["rmdnet_jax", "--config", f"{tmp_path / 'mine.py'}:quick,encoder=tiny"]
    more = ["--config.noise.rate=0.25", "--config.relation_guided.method.scale=2"]
    assert main([*words, *more, "--workdir", str(tmp_path / "run")]) == 0
    for table, name in (("METHODS", "mae"), ("KINDS", "drained"), ("SSL", "alignment")):
        test_the_signature_is_the_schema(name, TABLES[table][name])
        test_facts_come_before_hyper_parameters(name, TABLES[table][name])
    test_a_method_is_a_pure_function_of_its_arguments("mae")
    test_an_ssl_objective_lowers_its_loss_and_reports_the_spread("alignment")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 0.15 < summary["noise"]["rate"] < 0.3
    assert 0 <= summary["relation_guided"]["test_accuracy"]["last"] <= 1
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["relation_guided"]["method"] == {"name": "mae", "scale": 2.0}
    assert config["encoder"] == {"name": "tiny", "width": 16, "norm_group": 0}
    assert rmdnet_jax.load(tmp_path / "run").predict(np.zeros((2, 8, 8), np.uint8)).shape == (2, 10)


def test_every_public_name_has_an_example_that_runs():
    """Docstrings of the face: an example each, or of its table's entries, and all of them hold."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for name in rmdnet_jax.__all__:
        shown = getattr(rmdnet_jax, name)
        if name.isupper() or name in ("UserError", "noise"):  # tables; an error; a module, below
            continue
        assert inspect.getdoc(shown), name
        if not inspect.isclass(shown):
            assert ">>>" in inspect.getdoc(shown), name
        _run_examples(shown, name, flags)
    for name in ("symmetric", "asymmetric", "pair", "instance", "matrix", "describe"):
        shown = getattr(rmdnet_jax.noise, name)
        assert ">>>" in inspect.getdoc(shown), name
        _run_examples(shown, name, flags)


def _run_examples(shown, name, flags):
    runner = doctest.DocTestRunner(optionflags=flags)
    for test in doctest.DocTestFinder(recurse=False).find(shown, name, globs={}):
        runner.run(test)
    assert runner.failures == 0, f"the example of {name} does not hold"
