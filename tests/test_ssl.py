"""Self-supervised objectives against slow NumPy in float64, with heads that give their input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same

from rmdnet_jax import ssl
from rmdnet_jax.errors import UserError
from rmdnet_jax.networks.encoders import cnn
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.ssl import apart, parts, predicted
from rmdnet_jax.types import Variables

Z1, Z2 = np.random.default_rng(0).normal(size=(2, 6, 4))


@pytest.fixture
def through(monkeypatch):
    """Heads that give their input: projections are then what a test says they are."""
    same = Network(lambda key, x: Variables({}, {}), lambda variables, x, train: (x, {}))
    for module in (apart, parts, predicted):
        monkeypatch.setattr(module, "mlp", lambda *args, **kwargs: same)
    return same


def value(objective):
    variables, memory = objective.init(jax.random.key(0), jnp.asarray(Z1))
    return float(objective.loss(*variables, memory, jnp.stack([Z1, Z2]), 0.0)[0])


def rows(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.mark.usefixtures("x64")
def test_simclr(through):
    z = rows(np.concatenate([Z1, Z2]))
    scores = np.exp(z @ z.T / 0.3)
    slow = -np.mean(
        [np.log(scores[i, (i + 6) % 12] / (scores[i].sum() - scores[i, i])) for i in range(12)]
    )
    np.testing.assert_allclose(
        value(ssl.simclr(through, "float64", temperature=0.3)), slow, rtol=1e-10
    )


@pytest.mark.usefixtures("x64")
def test_barlow_twins(through):
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (Z1, Z2))
    slow = sum(
        (1 - np.mean(a[:, i] * b[:, j])) ** 2 if i == j else 0.1 * np.mean(a[:, i] * b[:, j]) ** 2
        for i in range(4)
        for j in range(4)
    )
    np.testing.assert_allclose(
        value(ssl.barlow_twins(through, "float64", redundancy=0.1)), slow, rtol=1e-10
    )


@pytest.mark.usefixtures("x64")
def test_vicreg(through):
    slow = 5.0 * np.mean((Z1 - Z2) ** 2)
    for z in (Z1, Z2):
        slow += (
            3.0 / 2 * np.mean([max(0.0, 1 - np.sqrt(z[:, i].var(ddof=1) + 1e-4)) for i in range(4)])
        )
        covariance = np.cov(z.T)
        slow += 2.0 * sum(covariance[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    found = value(ssl.vicreg(through, "float64", invariance=5.0, variance=3.0, covariance=2.0))
    np.testing.assert_allclose(found, slow, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_byol(through):
    slow = 2 * np.mean([2 - 2 * a @ b for a, b in zip(rows(Z1), rows(Z2))])
    np.testing.assert_allclose(value(ssl.byol(through, "float64")), slow, rtol=1e-10)


def test_byols_target_is_a_moving_average_that_stops_at_the_end():
    objective = ssl.byol(cnn(widths=(4,)), "float32", projection=4, hidden=8, momentum=0.9)
    images = jax.random.normal(jax.random.key(0), (2, 16, 8, 8, 1))
    (params, stats), memory = objective.init(jax.random.key(1), images[0])
    assert_same(memory, {name: params[name] for name in ("encoder", "projector")})
    moved = jax.tree.map(lambda x: x + 1.0, params)
    for progress, share in ((0.0, 0.1), (0.5, 0.05), (1.0, 0.0)):
        _, _, new, _ = objective.loss(moved, stats, memory, images, progress)
        for old, now in zip(jax.tree.leaves(memory), jax.tree.leaves(new)):
            np.testing.assert_allclose(now - old, share, atol=1e-6)


def test_no_gradient_reaches_byols_target():
    objective = ssl.byol(cnn(widths=(4,)), "float32", projection=4, hidden=8)
    images = jax.random.normal(jax.random.key(0), (2, 16, 8, 8, 1))
    (params, stats), memory = objective.init(jax.random.key(1), images[0])
    gradient = jax.grad(lambda m: objective.loss(params, stats, m, images, 0.3)[0])(memory)
    assert not any(np.any(g) for g in jax.tree.leaves(gradient))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("views", [2, 3, 4])
def test_simsiam_of_several_views(views, through):
    z = np.random.default_rng(1).normal(size=(views, 6, 4))
    slow = []
    for v in range(views):
        target = np.mean([z[u] for u in range(views) if u != v], axis=0)
        slow += [-np.mean([a @ b for a, b in zip(rows(z[v]), rows(target))])]
    objective = ssl.simsiam(through, "float64", views=views)
    variables, memory = objective.init(jax.random.key(0), jnp.asarray(z[0]))
    found = objective.loss(*variables, memory, jnp.asarray(z), 0.0)[0]
    assert objective.views == views
    np.testing.assert_allclose(found, np.mean(slow), rtol=1e-10)


def slow_rate(z, eps):
    """The definition, by eigenvalues."""
    batch, dim = z.shape
    return 0.5 * np.sum(np.log(np.linalg.eigvalsh(np.eye(dim) + dim / (batch * eps) * z.T @ z)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("batch", "dim"), [(6, 4), (4, 9)])
def test_the_coding_rate_and_its_gradient(batch, dim):
    z = np.random.default_rng(2).normal(size=(batch, dim))
    np.testing.assert_allclose(ssl.coding_rate(jnp.asarray(z), 0.3), slow_rate(z, 0.3), rtol=1e-10)
    toward = np.random.default_rng(3).normal(size=z.shape)
    step = 1e-5
    slope = (slow_rate(z + step * toward, 0.3) - slow_rate(z - step * toward, 0.3)) / (2 * step)
    gradient = jax.grad(ssl.coding_rate)(jnp.asarray(z), 0.3)
    np.testing.assert_allclose(np.sum(gradient * toward), slope, rtol=1e-6)


def test_the_coding_rate_falls_to_that_of_one_row_where_all_collapse():
    z = rows(np.random.default_rng(4).normal(size=(32, 8)))
    alike = np.tile(z[:1], (32, 1))
    assert ssl.coding_rate(jnp.asarray(z), 0.2) > 3 * ssl.coding_rate(jnp.asarray(alike), 0.2)
    # one direction alone: log(1 + 8 / 0.2) / 2
    np.testing.assert_allclose(ssl.coding_rate(jnp.asarray(alike), 0.2), np.log(41) / 2, rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_emp(through):
    z = np.random.default_rng(5).normal(size=(3, 6, 4))
    units = np.stack([rows(view) for view in z])
    mean = rows(units.mean(0))
    near = np.mean([units[v, i] @ mean[i] for v in range(3) for i in range(6)])
    slow = 7.0 * (1 - near) - np.mean([slow_rate(view, 0.2) for view in units])
    objective = ssl.emp(through, "float64", views=3, invariance=7.0)
    variables, memory = objective.init(jax.random.key(0), jnp.asarray(z[0]))
    found = objective.loss(*variables, memory, jnp.asarray(z), 0.0)[0]
    np.testing.assert_allclose(found, slow, rtol=1e-10)


@pytest.mark.parametrize(
    ("factory", "argument", "value"),
    [
        *((factory, "views", value) for factory in (ssl.simsiam, ssl.emp) for value in (1, 2.5)),
        *((ssl.emp, name, -1.0) for name in ("invariance", "eps")),
        *((ssl.byol, "momentum", value) for value in (-1.0, 1.1, float("nan"), "0.9")),
        *((ssl.simclr, "temperature", value) for value in (-1.0, 0.0, float("nan"), None)),
        (ssl.barlow_twins, "redundancy", -1.0),
        *((ssl.vicreg, name, -1.0) for name in ("invariance", "variance", "covariance")),
        (ssl.simsiam, "layers", 0),
        *((factory, "projection", 0) for factory in ssl.SSL.values()),
        *((factory, "hidden", 1.5) for factory in ssl.SSL.values()),
    ],
)
def test_bad_values_are_refused_by_their_own_name(factory, argument, value):
    with pytest.raises(UserError, match=rf"^{argument} must be .*, got {value!r}$") as caught:
        factory(cnn(), "float32", **{argument: value})
    assert caught.value.argument


def test_no_gradient_reaches_simsiams_projection():
    gradient = jax.grad(ssl.negative_cosine, argnums=(0, 1))(jnp.asarray(Z1), jnp.asarray(Z2))
    assert [bool(np.any(g)) for g in gradient] == [True, False]
