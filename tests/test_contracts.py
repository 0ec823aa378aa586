"""What every entry of every table must keep: adding an entry is testing it. Also the names that outside code relies on."""

import importlib
import inspect
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assert_same, tiny

from rmdnet_jax.app import experiment
from rmdnet_jax.app.config import build, choose
from rmdnet_jax.data.augment import AUGMENTATIONS
from rmdnet_jax.labels import noise
from rmdnet_jax.methods import METHODS
from rmdnet_jax.networks.encoders import ENCODERS
from rmdnet_jax.relations import losses as relation
from rmdnet_jax.ssl import SSL
from rmdnet_jax.training.optimizer import OPTIMIZERS
from rmdnet_jax.types import Batch, Outputs, Variables, hyper

TABLES = {
    "KINDS": noise.KINDS, "AUGMENTATIONS": AUGMENTATIONS, "ENCODERS": ENCODERS, "SSL": SSL, "METHODS": METHODS,
    "EDGES": relation.EDGES, "NODES": relation.NODES, "OPTIMIZERS": OPTIMIZERS,
}  # fmt: skip
ENTRIES = [
    pytest.param(name, f, id=f"{table}-{name}")
    for table, entries in TABLES.items()
    for name, f in entries.items()
]


@pytest.mark.parametrize(("name", "factory"), ENTRIES)
def test_the_signature_is_the_schema(name, factory):
    """Every hyper-parameter has a default of a type that a config can hold and a flag can override; every entry says what it is."""
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
    json.loads(choose({name: factory}, name).to_json())


@pytest.mark.parametrize(("name", "factory"), ENTRIES)
def test_facts_come_before_hyper_parameters(name, factory):
    kinds = [p.kind for p in inspect.signature(factory).parameters.values()]
    assert set(kinds) <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_pure_function_of_its_arguments(name):
    method = build(METHODS, "method", choose(METHODS, name), 12, 3)
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
    """d loss / d predictor input flows, d loss / d target does not: the loss's gradient equals that with the targets held constant."""
    from rmdnet_jax.ssl import negative_cosine, simsiam, spread

    encoder = ENCODERS["cnn"](widths=(4,))
    ssl = simsiam(encoder, "float32", projection=8, hidden=4)
    images = jax.random.normal(jax.random.key(0), (2, 16, 8, 8, 1))
    (params, stats), memory = ssl.init(jax.random.key(1), images[0])
    from rmdnet_jax.networks.heads import mlp

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
    summary = experiment.run(config, tmp_path)
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


def test_what_the_readme_adds_works_as_written(tmp_path, monkeypatch):
    """Each python block of the README goes into its module and its table; then all of them train together."""
    blocks = re.findall(
        r"```python\n# (\w+) in rmdnet_jax/([\w/]+?)(?:/__init__)?\.py\n(.*?)```",
        (ROOT / "README.md").read_text(),
        re.DOTALL,
    )
    assert [table for table, *_ in blocks] == ["METHODS", "KINDS", "SSL", "EDGES"]
    names = {}
    for table, path, code in blocks:
        module = importlib.import_module(f"rmdnet_jax.{path.replace('/', '.')}")
        space = dict(vars(module))
        exec("from __future__ import annotations\n" + code, space)
        name = re.search(r"def (\w+)", code)[1]
        test_the_signature_is_the_schema(name, space[name])
        test_facts_come_before_hyper_parameters(name, space[name])
        monkeypatch.setitem(TABLES[table], name, space[name])
        names[table] = name
    test_a_method_is_a_pure_function_of_its_arguments(names["METHODS"])
    test_an_ssl_objective_lowers_its_loss_and_reports_the_spread(names["SSL"])
    config = tiny(
        noise={**choose(noise.KINDS, names["KINDS"]), "seed": 0},
        **{
            "relation_guided.method": choose(METHODS, names["METHODS"]),
            "relation_modeling.ssl": choose(SSL, names["SSL"], projection=16, hidden=8),
            "relation_guided.edge": {**choose(relation.EDGES, names["EDGES"]), "weight": 1.0},
        },
    )
    summary = experiment.run(config, tmp_path)
    assert 0.1 < summary["noise"]["rate"] < 0.4
    assert np.isfinite(summary["relation_guided"]["test_accuracy"]["last"])
