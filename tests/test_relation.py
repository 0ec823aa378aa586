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
from rmdnet_jax.relations.anchors import anchored_kl
from rmdnet_jax.ssl import negative_cosine
from rmdnet_jax.types import hyper

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
TABLE = {**relation.EDGES, **relation.NODES, **BLOCKS}
LOSSES = [pytest.param(f, id=name) for name, f in TABLE.items()]
TEMPERATURES = [
    pytest.param(f, argument, id=f"{name}, {argument}")
    for name, f in TABLE.items()
    if name not in list(BLOCKS)[::2]
    for argument in hyper(f)
    if argument.endswith("temperature")
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
    loss = TABLE[name]
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


@pytest.mark.parametrize("over", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_gradient_reaches_the_teacher(loss, over):
    gradient = over(jax.grad(loss, argnums=(0, 1)))(*drawn(6, 4, 4))
    assert [bool(np.any(g)) for g in gradient] == [True, False]


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_can_be_mapped_over_batches(loss):
    s, t = (jnp.stack([z, 2 * z[::-1] + 1]) for z in drawn(6, 4, 4))
    run = jax.jit(jax.value_and_grad(loss))
    expected = jax.tree.map(lambda *x: jnp.stack(x), *(run(*pair) for pair in zip(s, t)))
    agree(jax.vmap(run)(s, t), expected, rtol=1e-4)


# --- anyone's devices


def made(kind, **axes):
    kinds = (getattr(jax.sharding.AxisType, kind),) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds)


def on(mesh, run, *arrays, split=None):
    """What `run` gives, jitted, with the mesh set and the arrays split along an axis or whole."""
    with jax.set_mesh(mesh):
        placed = jax.device_put(arrays, jax.sharding.PartitionSpec(split))
        return jax.tree.map(np.asarray, jax.jit(run)(*placed))


SOME = [relation.softmax_kl, BLOCKS["softmax_kl in blocks of 4"]]
MANUAL = [("Auto", "data"), ("Auto", "mine"), ("Explicit", "data")]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("loss", "kind", "axis"),
    [
        *((loss, *mesh) for mesh in MANUAL for loss in SOME),
        *((loss, *MANUAL[0]) for loss in TABLE.values() if loss not in SOME),
    ],
)
def test_losses_work_in_a_shard_map_on_what_a_device_sees(loss, kind, axis):
    s, t = drawn(24, 4, 4)
    mesh, split = made(kind, **{axis: 8}), jax.sharding.PartitionSpec(axis)

    def own(one, two):
        assert "shard_map" not in str(jax.make_jaxpr(jax.grad(loss))(one, two)), "no second one"
        value, slope = jax.value_and_grad(loss)(one, two)
        return value[None], slope

    run = jax.shard_map(own, mesh=mesh, in_specs=split, out_specs=split)
    found = on(mesh, run, s, t, split=axis)
    parts = (z.reshape(8, 3, 4) for z in (s, t))
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(loss)))(*parts)
    agree(found, (value, slope.reshape(24, 4)))
    if kind == "Auto":
        agree(jax.jit(run)(s, t), found)  # no mesh set


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", SOME)
def test_losses_see_all_rows_where_only_another_axis_is_manual(loss):
    (s, t), whole = drawn(24), jax.sharding.PartitionSpec()
    run = jax.value_and_grad(loss)
    partly = jax.shard_map(run, in_specs=whole, out_specs=whole, axis_names={"model"})
    agree(on(made("Auto", data=4, model=2), partly, s, t, split="data"), jax.jit(run)(s, t))


MESHES = [("Auto", {"mine": 8}), ("Auto", {"data": 4, "model": 2}), ("Explicit", {"data": 8})]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("loss", "kind", "axes", "batch"),
    [
        *((loss, *mesh, batch) for mesh in MESHES for batch in (16, 37) for loss in SOME),
        *((loss, *MESHES[2], 16) for loss in TABLE.values() if loss not in SOME),
    ],
)
def test_losses_do_not_depend_on_the_mesh(loss, kind, axes, batch):
    s, t = drawn(batch, 4, 4)
    run, split = jax.value_and_grad(loss), next(iter(axes)) if batch == 16 else None
    agree(on(made(kind, **axes), run, s, t, split=split), jax.jit(run)(s, t))


@pytest.mark.usefixtures("x64")
def test_devices_share_the_blocks_of_rows():
    """With the axis `data` set, and not yet manual, one `shard_map` runs forward, one backward."""
    s, t = drawn(16)
    for kind in ("Auto", "Explicit"):
        with jax.set_mesh(made(kind, data=8)):
            jaxpr = str(jax.make_jaxpr(jax.grad(SOME[1]))(s, t))
        assert jaxpr.count("shard_map[") == 2


# --- anyone's arguments


@pytest.mark.parametrize("loss", LOSSES)
def test_lists_and_numpy_arrays_are_features_too(loss):
    s, t = (np.asarray(z, np.float32) for z in (STUDENT, TEACHER))
    expected = loss(jnp.asarray(s), jnp.asarray(t))
    assert loss(s, t) == loss(s.tolist(), t.tolist()) == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_float32(loss, dtype):
    s, t = (z.astype(dtype) for z in drawn(16, 4, 4))
    value, slope = jax.value_and_grad(loss)(s, t)
    wide, expected = jax.value_and_grad(loss)(s.astype(jnp.float32), t.astype(jnp.float32))
    assert (value.dtype, slope.dtype) == (jnp.float32, s.dtype)
    assert value == wide
    np.testing.assert_array_equal(slope, expected.astype(dtype))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("loss", "argument"), TEMPERATURES)
def test_a_temperature_may_be_traced(loss, argument):
    s, t = drawn(12, 4, 4)
    run = jax.jit(jax.value_and_grad(lambda s, tau: loss(s, t, **{argument: tau}), argnums=(0, 1)))
    value, (slope, along) = run(s, 0.3)
    agree((value, slope), jax.value_and_grad(loss)(s, t, **{argument: 0.3}), rtol=1e-9)
    up, down = (float(loss(s, t, **{argument: 0.3 + step})) for step in (1e-5, -1e-5))
    constant = argument == "teacher_temperature"  # it belongs to the target
    assert float(along) == (0.0 if constant else pytest.approx((up - down) / 2e-5, rel=1e-6))
    agree(loss(s, t, **{argument: jnp.float64(0.3)}), value, rtol=1e-9)


GOOD = np.ones((6, 4), np.float32)
BAD_ROWS = [
    (GOOD[0], "got float32 [4]"),
    (GOOD[None], "got float32 [1, 6, 4]"),
    (GOOD[:1], "got float32 [1, 4]"),
    (GOOD[:, :0], "got float32 [6, 0]"),
    (GOOD.astype(np.int32), "got int32 [6, 4]"),
    (GOOD.astype(bool), "got bool [6, 4]"),
    (GOOD.astype(np.complex64), "got complex64 [6, 4]"),
    ([[1.0, 2.0], [3.0]], "got what is no array: list"),
    ("features", "got what is no array: str"),
    (None, "got what is no array: NoneType"),
    (1.0, "got float32 []"),
]


def refusal(text, function, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    assert str(caught.value) == text
    assert caught.value.argument


@pytest.mark.parametrize(("bad", "got"), BAD_ROWS, ids=[got for _, got in BAD_ROWS])
@pytest.mark.parametrize("loss", LOSSES)
def test_bad_features_are_refused(loss, bad, got):
    must = f"must be a float array [batch >= 2, dim >= 1], {got}"
    refusal(f"student {must}", loss, bad, GOOD)
    refusal(f"teacher {must}", loss, GOOD, bad)
    refusal(f"features {must}", relation.matrix, bad, 0.1)
    if isinstance(bad, np.ndarray):
        refusal(f"student {must}", jax.jit(loss), bad, GOOD)
        refusal(f"teacher {must}", jax.jit(loss), GOOD, bad)


@pytest.mark.parametrize("loss", LOSSES)
def test_features_that_do_not_fit_each_other_are_refused(loss):
    for over in (lambda f: f, jax.jit):
        text = "teacher must have the student's batch size 6, got 5"
        refusal(text, over(loss), GOOD, GOOD[:5])
        if loss in relation.NODES.values():
            text = "teacher must have the student's dimension 4, got 3"
            refusal(text, over(loss), GOOD, GOOD[:, :3])
        else:
            assert np.isfinite(over(loss)(GOOD, GOOD[:, :3]))


@pytest.mark.parametrize("bad", [0, 0.0, -1.0, np.nan, np.inf, "0.1", None, True, 1j])
@pytest.mark.parametrize(("loss", "argument"), TEMPERATURES)
def test_bad_temperatures_are_refused(loss, argument, bad):
    allowed = "> 0 and finite" if bad is np.inf else "> 0"
    must = f"must be {allowed}, got {bad!r}"
    refusal(f"{argument} {must}", loss, GOOD, GOOD, **{argument: bad})
    refusal(f"temperature {must}", relation.matrix, GOOD, bad)
    jitted = jax.jit(lambda s: loss(s, GOOD, **{argument: bad}))
    refusal(f"{argument} {must}", jitted, GOOD)


@pytest.mark.parametrize(("loss", "argument"), TEMPERATURES)
def test_a_temperature_is_one_number(loss, argument):
    text = f"{argument} must be one number, got shape [2]"
    refusal(text, loss, GOOD, GOOD, **{argument: jnp.ones(2)})
    refusal(text, jax.jit(lambda x: loss(GOOD, GOOD, **{argument: x})), jnp.ones(2))


@pytest.mark.parametrize("bad", [-1, 2.5, 2.0, "4", None, True, np.nan])
def test_bad_blocks_are_refused(bad):
    with pytest.raises(UserError, match=r"^block must be .*>= 0, got ") as caught:
        relation.softmax_kl(GOOD, GOOD, block=bad)
    assert str(caught.value).endswith(repr(bad))


@pytest.mark.parametrize("name", ["softmax_kl", "rkd_distance", "rkd_angle", "cosine", "infonce"])
def test_a_zero_row_has_no_gradient_and_huge_rows_are_as_good_as_any(name):
    loss = {**relation.EDGES, **relation.NODES}[name]
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 6, 4)).astype(np.float32)
    for scale in (1e9, 1e20, 1e30):
        value = loss(student * np.float32(scale), teacher * np.float32(scale))
        np.testing.assert_allclose(value, loss(student, teacher), rtol=1e-3)
    if not name.startswith("rkd"):  # they ask for differences of rows
        student[2] = 0
        slope = jax.grad(loss)(student, teacher)
        assert not np.any(slope[2])
        assert np.isfinite(slope).all()


# --- anchors


def slow_anchored(s, t, a, own, tau_s=0.1, tau_t=0.04):
    """Row by row, over the anchors that are not the example itself."""
    s, t, a = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (s, t, a))
    total = 0.0
    for i in range(len(s)):
        p, q = (np.exp(x[i] @ a[~own[i]].T / tau) for x, tau in ((t, tau_t), (s, tau_s)))
        p, q = p / p.sum(), q / q.sum()
        total += np.sum(p * np.log(p / q))
    return total / len(s)


@pytest.mark.usefixtures("x64")
def test_relations_to_anchors_are_the_slow_ones():
    rng = np.random.default_rng(3)
    s, t, a = rng.normal(size=(5, 6)), rng.normal(size=(5, 6)), rng.normal(size=(9, 6))
    own = np.zeros((5, 9), bool)
    own[2, 4] = own[0, 0] = True
    a[4], a[0] = t[2], t[0]
    value, slope = jax.value_and_grad(anchored_kl)(s, t, a, own)
    assert value == pytest.approx(slow_anchored(s, t, a, own), rel=1e-9)
    step = 1e-6 * rng.normal(size=s.shape)
    ahead, behind = (slow_anchored(s + sign * step, t, a, own) for sign in (1, -1))
    assert float(np.sum(slope * step)) == pytest.approx((ahead - behind) / 2, rel=1e-5)
    none = np.zeros_like(own)
    assert anchored_kl(s, t, a) == pytest.approx(slow_anchored(s, t, a, none), rel=1e-9)
    for wrt in (1, 2):  # teacher and anchors are constants
        assert not np.any(jax.grad(anchored_kl, argnums=wrt)(s, t, a))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.eye(3), np.eye(3), np.ones((4, 2))), "anchors must have the student's dimension 3"),
        ((np.eye(3), np.eye(3), np.ones(3)), r"anchors must be a float array \[batch >= 2, dim"),
        ((np.eye(3), np.eye(3, 2), np.eye(3)), "teacher must have the student's dimension 3"),
    ],
)
def test_what_no_anchors_are(arguments, said):
    with pytest.raises(UserError, match=said):
        anchored_kl(*arguments)
