"""Relation matrices and losses: METHOD's fixtures in float64, invariances, degenerate batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rmdnet_jax import sharding
from rmdnet_jax.errors import UserError
from rmdnet_jax.relations import losses as relation
from rmdnet_jax.ssl import negative_cosine

ROW, COLUMN = np.arange(6)[:, None], np.arange(4)[None]
TEACHER = np.sin(1 + 0.7 * ROW + 1.3 * COLUMN) + 0.1 * ROW
STUDENT = np.cos(0.5 + 0.9 * ROW - 0.4 * COLUMN) + 0.05 * COLUMN
FIXTURES = {
    "softmax_kl": 0.60633902,
    "pearson": 3.60306710,
    "rkd_distance": 0.03643716,
    "rkd_angle": 0.05597227,
    "similarity_preserving": 0.03456722,
    "pkt": 0.01354547,
}
BLOCKS = {
    f"softmax_kl in blocks of {block}": functools.partial(relation.softmax_kl, block=block)
    for block in (1, 4, 256)
}
LOSSES = [
    pytest.param(f, id=name) for name, f in {**relation.EDGES, **relation.NODES, **BLOCKS}.items()
]


def slow_matrix(z, temperature):
    rows = []
    for i in range(len(z)):
        weights = [
            0.0
            if i == j
            else np.exp(z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j]) / temperature)
            for j in range(len(z))
        ]
        rows.append(np.array(weights) / sum(weights))
    return np.array(rows)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("temperature", [0.04, 0.1, 1.0])
def test_matrix_is_a_softmax_of_cosines_without_the_diagonal(temperature):
    found = relation.matrix(jnp.asarray(TEACHER), temperature)
    np.testing.assert_allclose(found, slow_matrix(TEACHER, temperature), atol=1e-12)
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-12)
    assert np.all(np.diag(found) == 0.0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", FIXTURES)
def test_edge_losses_reach_their_fixtures(name):
    assert (
        abs(
            float(relation.EDGES[name](jnp.asarray(STUDENT), jnp.asarray(TEACHER))) - FIXTURES[name]
        )
        < 1e-8
    )


@pytest.mark.usefixtures("x64")
def test_node_losses_reach_their_fixtures():
    s, t = jnp.asarray(STUDENT), jnp.asarray(TEACHER)
    node = relation.pearson_identity(s, t)
    assert abs(float(node) - 5.53369225) < 1e-8
    assert abs(float(node + 0.3 * relation.pearson(s, t)) - 6.61461238) < 1e-8
    assert float(relation.pearson(s, t, normalize=True)) == pytest.approx(3.60306710 / 6)
    assert float(relation.pearson_identity(s, t, normalize=True)) == pytest.approx(5.53369225 / 6)


@pytest.mark.usefixtures("x64")
def test_infonce_is_a_cross_entropy_over_the_batch():
    s, t = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (STUDENT, TEACHER))
    scores = np.exp(s @ t.T / 0.2)
    slow = -np.mean([np.log(scores[i, i] / scores[i].sum()) for i in range(6)])
    np.testing.assert_allclose(
        relation.infonce(jnp.asarray(STUDENT), jnp.asarray(TEACHER), temperature=0.2),
        slow,
        rtol=1e-10,
    )


@pytest.mark.usefixtures("x64")
def test_softmax_kl_is_the_mean_divergence_of_the_rows():
    target, guess = slow_matrix(TEACHER, 0.04), slow_matrix(STUDENT, 0.1)
    slow = np.mean(
        [sum(t * np.log(t / g) for t, g in zip(ts, gs) if t > 0) for ts, gs in zip(target, guess)]
    )
    np.testing.assert_allclose(
        relation.softmax_kl(jnp.asarray(STUDENT), jnp.asarray(TEACHER)), slow, rtol=1e-10
    )


@pytest.mark.usefixtures("x64")
def test_simsiam_distance_reaches_its_fixture_and_falls_as_views_agree():
    assert (
        abs(float(negative_cosine(jnp.asarray(STUDENT), jnp.asarray(TEACHER))) - 0.35565157) < 1e-8
    )
    assert float(negative_cosine(jnp.asarray(TEACHER), jnp.asarray(TEACHER))) == pytest.approx(-1.0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_do_not_depend_on_scale_or_order(loss):
    s, t, order = jnp.asarray(STUDENT), jnp.asarray(TEACHER), np.array([3, 1, 5, 0, 2, 4])
    near = 1e-5 if loss is relation.pkt else 1e-10  # pkt's authors add 1e-7 to norms
    np.testing.assert_allclose(loss(3.7 * s, t), loss(s, t), rtol=near)
    np.testing.assert_allclose(loss(s[order], t[order]), loss(s, t), rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", relation.EDGES)
def test_which_edge_losses_see_rotations_and_shifts(name):
    loss, s, t = relation.EDGES[name], jnp.asarray(STUDENT), jnp.asarray(TEACHER)
    rotation, _ = np.linalg.qr(np.sin(np.arange(16.0)).reshape(4, 4) + np.eye(4))
    turned, moved = (abs(float(loss(z, t) - loss(s, t))) for z in (s @ rotation, s + 1.0))
    assert (turned > 1e-3) == (name == "pearson"), (
        "correlation is over the features, which a rotation mixes"
    )
    if name == "pearson":
        moved = abs(
            float(loss(s + jnp.arange(4.0), t) - loss(s, t))
        )  # the same shift of all features is centred away
    assert (moved > 1e-5) == (not name.startswith("rkd")), moved


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [*relation.EDGES, "cosine", "softmax_kl in blocks of 4"])
def test_losses_vanish_where_student_and_teacher_agree(name):
    equal = (
        {"student_temperature": 0.07, "teacher_temperature": 0.07}
        if name.startswith("softmax_kl")
        else {}
    )
    loss = {**relation.EDGES, **relation.NODES, **BLOCKS}[name]
    assert abs(float(loss(jnp.asarray(TEACHER), jnp.asarray(TEACHER), **equal))) < 1e-12


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_agree_with_differences(loss):
    check_grads(
        lambda s: loss(s, jnp.asarray(TEACHER)),
        (jnp.asarray(STUDENT),),
        order=1,
        modes=["rev"],
        eps=1e-6,
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "student",
    [
        np.zeros((4, 3)),
        np.ones((4, 3)),
        np.repeat([[1.0, 2.0, 3.0]], 4, 0),
        np.eye(4, 3),
        np.array([[1.0, 0, 0], [-1.0, 0, 0]]),
    ],
    ids=["zero", "constant", "duplicate", "one zero row", "two"],
)
def test_degenerate_batches_stay_finite(loss, student):
    teacher = np.zeros_like(student)
    for target in (teacher, student):
        value, gradient = jax.value_and_grad(loss)(
            jnp.asarray(student, jnp.float32), jnp.asarray(target, jnp.float32)
        )
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def drawn(batch, student_dim=5, teacher_dim=7):
    generator = np.random.default_rng(0)
    return jnp.asarray(generator.normal(size=(batch, student_dim))), jnp.asarray(
        generator.normal(size=(batch, teacher_dim))
    )


def agree(found, expected, rtol=1e-11):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("temperature", [0.001, 0.04, 1.0])
@pytest.mark.parametrize("block", [1, 7, 16, 50])
def test_blocks_change_neither_value_nor_gradient(block, temperature):
    s, t = drawn(37)
    temperatures = {"student_temperature": temperature, "teacher_temperature": 2 * temperature}
    plain, blocked = (
        jax.value_and_grad(functools.partial(relation.softmax_kl, block=b, **temperatures))
        for b in (0, block)
    )
    agree(blocked(s, t), plain(s, t))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("batch", [37, 64])
def test_blocks_over_devices_change_neither_value_nor_gradient(batch):
    s, t = drawn(batch)
    mesh = sharding.mesh()
    assert mesh.size == 8
    plain, blocked = (
        jax.value_and_grad(functools.partial(relation.softmax_kl, block=b)) for b in (0, 3)
    )
    place = jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec("data" if batch % 8 == 0 else None)
    )
    with jax.set_mesh(mesh):
        found = jax.jit(blocked)(*jax.device_put((s, t), place))
    agree(found, plain(s, t))


def test_blocks_need_memory_in_proportion_to_the_batch():
    def temporaries(batch, block):
        rows = jax.ShapeDtypeStruct((batch, 32), jnp.float32)
        run = jax.jit(jax.value_and_grad(functools.partial(relation.softmax_kl, block=block)))
        return run.lower(rows, rows).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(4096, 64) < 2.5 * temporaries(2048, 64), "linear in the batch"
    assert temporaries(4096, 64) < temporaries(4096, 0) / 10


@pytest.mark.parametrize(
    ("shape", "temperature"), [((1, 3), 0.1), ((4,), 0.1), ((4, 3), 0.0), ((4, 3), -1.0)]
)
def test_bad_arguments_are_refused(shape, temperature):
    with pytest.raises(UserError, match="must be"):
        relation.matrix(jnp.ones(shape), temperature)
    if len(shape) == 2:
        with pytest.raises(UserError, match="must be"):
            relation.softmax_kl(
                jnp.ones(shape), jnp.ones(shape), student_temperature=temperature, block=2
            )
