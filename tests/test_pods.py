"""Many devices: tables by example are split, nothing large travels, batch norm by groups."""

import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same, tiny

from rmdnet_jax import sharding
from rmdnet_jax.app import experiment, learning
from rmdnet_jax.app.arms import Arm
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.setup import setup
from rmdnet_jax.errors import UserError
from rmdnet_jax.networks.encoders import ENCODERS
from rmdnet_jax.networks.layers import grouped
from rmdnet_jax.training import checkpoint, fit, objectives, steps
from rmdnet_jax.training.objectives import Anchors
from rmdnet_jax.types import Batch, Variables

BASE = Arm("base", stage="x")
MOVED = re.compile(r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)")


def made_of(workdir, **values):
    return setup(resolve(tiny(**values)), workdir)


def stage_of(made):
    stage = learning.stage(made, learning.learner(made), BASE)
    return stage._replace(evaluate=lambda *_: {})


def compiled(made, stage):
    """The compiled step, over the run's devices."""
    with jax.set_mesh(made.mesh):
        rows = stage.pipeline.batch(0)
        like = steps.shapes(stage, made.mesh, rows)
        step = jax.jit(functools.partial(steps.step, stage), donate_argnums=0)
        return step.lower(like, stage.objective.frozen, rows, stage.key).compile()


def moved(program):
    """How many numbers the largest array of each collective has."""
    found = []
    for shapes, _ in MOVED.findall(program.as_text()):
        sizes = re.findall(r"\w+\[([\d,]*)\]", shapes)
        found.append(max(math.prod(map(int, filter(None, size.split(",")))) for size in sizes))
    return found


@pytest.mark.parametrize("method", ["elr", "dividemix"])
def test_a_memory_by_example_is_split_and_does_not_travel(method, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "ROWS", 1 << 16)  # so that it is larger than a batch of images
    made = made_of(tmp_path, method=method, epochs=3)
    stage = stage_of(made)
    program = compiled(made, stage)
    (memory,) = jax.tree.leaves(steps.shapes(stage, made.mesh, stage.pipeline.batch(0)).memory)
    assert memory.sharding.shard_shape(memory.shape)[0] * 8 == memory.shape[0]
    (after,) = jax.tree.leaves(program.output_shardings[0].memory)
    assert after.is_equivalent_to(memory.sharding, 2)
    assert 0 < max(moved(program)) < math.prod(memory.shape) / 8


@pytest.mark.parametrize("method", ["elr", "dividemix"])
def test_a_run_goes_on_with_other_devices(method, tmp_path, monkeypatch):
    made = made_of(tmp_path / "8", method=method, epochs=3)
    made.workdir.mkdir()
    stage = stage_of(made)
    fit.fit(stage._replace(epochs=1), made.mesh, tmp_path / "x", 100, made.writer)
    one_device = jax.make_mesh(
        (1,), ("data",), devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,)
    )
    monkeypatch.setattr(sharding, "mesh", lambda: one_device)
    other = made_of(tmp_path / "8", method=method, epochs=3)
    found = []
    for here in (made, other):
        own = stage_of(here)
        with jax.set_mesh(here.mesh), checkpoint.opened(tmp_path / "x", 100) as manager:
            like = steps.shapes(own, here.mesh, own.pipeline.batch(0))
            found.append(jax.device_get(checkpoint.restore(manager, like, records=True).state))
    assert_same(*found)
    assert len(jax.tree.leaves(found[0].memory)[0]) % sharding.ROWS == 0
    end = fit.fit(stage_of(other), other.mesh, tmp_path / "x", 100, other.writer)
    assert int(end.step) == 3 * stage.pipeline.steps_per_epoch


def test_a_table_that_devices_cannot_share_evenly_is_everywhere():
    mesh = sharding.mesh()
    assert sharding.by_example(mesh, (16, 3)).shard_shape((16, 3)) == (2, 3)
    for shape in ((12, 3), ()):
        assert sharding.by_example(mesh, shape).is_fully_replicated
    for rows in (1, 3071, 3072, 3073, 50_000):
        assert rows <= sharding.padded(rows) < rows + sharding.ROWS
        for count in (1, 6, 8, 12, 16, 256, 1024):
            assert sharding.padded(rows) % count == 0


def test_the_loss_of_relations_moves_no_matrix_of_the_batch(tmp_path):
    made = made_of(tmp_path, **{"relation_guided.teacher_features": "stored"})
    rng = np.random.default_rng(0)
    teacher = experiment.Teacher(
        rng.normal(size=(len(made.given), 8)).astype(np.float32), None, None, {}, {}
    )
    arm = Arm("rmdnet", weight=1.0, stage="x")
    stage = learning.stage(made, learning.learner(made), arm, teacher)
    batch = stage.pipeline.batch_size
    assert max(moved(compiled(made, stage))) < batch * batch


def test_batch_norm_by_groups_sees_each_group_alone():
    network = ENCODERS["cnn"](widths=(4, 8))
    x = jax.random.normal(jax.random.key(0), (12, 8, 8, 1))
    variables = network.init(jax.random.key(1), x)
    y, stats = grouped(network, 4).apply(variables, x, True)
    parts = [network.apply(variables, part, True) for part in x.reshape(3, 4, 8, 8, 1)]
    np.testing.assert_allclose(y, np.concatenate([part for part, _ in parts]), atol=1e-5)
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(part for _, part in parts))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), stats, mean)
    whole, _ = network.apply(variables, x, True)
    assert np.abs(np.asarray(y) - np.asarray(whole)).max() > 1e-2
    assert_same(grouped(network, 4).apply(variables, x, False), network.apply(variables, x, False))
    assert grouped(network, 0) is network
    with pytest.raises(UserError, match="norm_group must divide the batch of 12 images, got 5"):
        grouped(network, 5).apply(variables, x, True)
    with pytest.raises(UserError, match=r"norm_group must be >= 0, got -1"):
        grouped(network, -1)


def test_devices_wait_for_no_batch_norm_where_a_group_is_a_devices_own(tmp_path):
    """What is left are sums that nothing in the forward pass waits for."""

    def collectives(group):
        network = grouped(ENCODERS["resnet18"](width=4), group)
        like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((2, 8, 8, 3)))
        mesh = sharding.mesh()
        everywhere, split = sharding.everywhere(mesh), sharding.by_example(mesh, (64,))

        def forward(variables: Variables, x):
            return network.apply(variables, x, True)[0]

        shape = jax.ShapeDtypeStruct((64, 8, 8, 3), np.float32, sharding=split)
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), like
        )
        with jax.set_mesh(mesh):
            return len(moved(jax.jit(forward, out_shardings=split).lower(like, shape).compile()))

    assert collectives(8) == 0 < 10 <= collectives(0)


def test_a_run_by_groups_of_images(tmp_path):
    summary = experiment.run(tiny(**{"encoder.norm_group": 8}), tmp_path / "groups").summary
    assert np.isfinite(summary["relation_guided"]["test_accuracy"]["last"])
    with pytest.raises(UserError, match=r"encoder\.norm_group must divide .*=64, got 7"):
        experiment.run(tiny(**{"encoder.norm_group": 7}), tmp_path / "seven")
    assert not (tmp_path / "seven").exists()


@pytest.mark.parametrize("features", ["online", "stored"])
def test_a_run_related_to_anchors(features, tmp_path):
    """On anchors that are the batch itself the loss would be the batch's own; here it is learnt."""
    values = {"relation_guided.anchors": 96, "relation_guided.teacher_features": features}
    experiment.run(tiny(**values), tmp_path / "x")
    lines = [json.loads(x) for x in (tmp_path / "x" / "metrics.jsonl").read_text().splitlines()]
    edges = [line["edge"] for line in lines if line["stage"] == "relation_guided"]
    assert 0 < edges[-1] < edges[0]


def test_each_step_draws_its_own_anchors_without_the_example_itself():
    seen = []

    def loss(student, teacher, anchors, own):
        seen.append((anchors[:, 0].astype(int), np.asarray(own)))
        return jnp.zeros(())

    bank = jnp.arange(32.0)[:, None] * jnp.ones(3)
    anchors = Anchors(bank, 20, 500, loss)
    batch = Batch(jnp.zeros((1, 4, 2, 2, 1)), jnp.zeros(4, int), jnp.array([3, 19, 7, 0]))
    for key in (0, 0, 1):
        edge = objectives._anchored(anchors, bank, batch, jax.random.key(key))
        edge(jnp.zeros((4, 3)), jnp.zeros((4, 3)))
    (first, own), (again, _), (other, _) = seen
    assert_same(first, again)
    assert np.any(first != other)
    assert set(np.unique(first)) == set(range(20)), "padding is never drawn"
    np.testing.assert_array_equal(own, first == np.array([3, 19, 7, 0])[:, None])


def test_anchors_need_softmax_kl(tmp_path):
    with pytest.raises(
        UserError, match="anchors must be 0 but for edge=softmax_kl, got 8 with pkt"
    ):
        experiment.run(tiny(edge="pkt", **{"relation_guided.anchors": 8}), tmp_path / "x")
