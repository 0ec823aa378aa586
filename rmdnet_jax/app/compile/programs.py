"""The programs of an experiment, from its config and the shapes of its data alone.

They are those that a run compiles: `setup.Run` is built of shapes, and its own stages are asked.
"""

from __future__ import annotations

import inspect
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rmdnet_jax import sharding
from rmdnet_jax.app import learning, setup, teacher
from rmdnet_jax.app.arms import Arm, arms
from rmdnet_jax.app.resolve import build
from rmdnet_jax.app.schema import Config
from rmdnet_jax.data.resident import Examples, Flat, gather
from rmdnet_jax.data.sources import Source
from rmdnet_jax.errors import under, wrong
from rmdnet_jax.relations import graph, neighbours, propagation, votes
from rmdnet_jax.training import predict, steps
from rmdnet_jax.training.objectives import classifier, ensemble, relation_modeling
from rmdnet_jax.types import AXIS, PyTree

NAMES = (
    "data", "modeling", "features", "guided", "evaluation", "neighbours", "graph", "votes",
)  # fmt: skip


class Data(NamedTuple):
    """All that programs know of the data."""

    examples: int  # to train on
    classes: int
    image: tuple[int, ...]  # height, width, channels
    tests: int = 0  # examples to test on


class Program(NamedTuple):
    """One program, not yet compiled."""

    name: str  # out of NAMES
    unit: str  # what it does once round
    batch: int  # images over all chips in a round; 0: it knows no batch
    rows: int  # bytes a chip of the arguments that a batch is
    lower: Callable[[], Any]  # for the mesh that it was made for


def programs(config: Config, data: Data, mesh: Mesh, near: bool = True) -> Iterator[Program]:
    """What a run of this config compiles, one program after another.

    Args:
      config: resolved.
      data: shapes; no array of their size is made.
      mesh: of the chips, there or not.
      near: whether images lie on the chips, else they come from the host as they are needed.

    Raises:
      UserError: a batch, a network or an optimiser that cannot be.
    """
    if config.relation_guided.anchors:
        got = f"got {config.relation_guided.anchors}"
        raise wrong("relation_guided.anchors", f"be 0 where a run is compiled only, {got}")
    made = run(config, data, mesh)
    arm, encoder = made.arms[0], _everywhere(mesh, teacher.shapes(made))
    taught = arm.reads_teacher or not config.relation_guided.epochs
    image = jax.ShapeDtypeStruct((2, *data.image), np.float32)
    see = lambda variables, x: made.encoder.apply(variables, x, False)[0]  # noqa: E731
    dim = jax.eval_shape(see, encoder, image).shape[-1]
    guided = made._replace(examples=_columns(made, arm, dim))
    modeling = _modeling(made) if taught and not config.teacher else None
    stage = _guided(guided, arm, encoder) if config.relation_guided.epochs else None
    first = stage or modeling
    if first:
        yield _data(guided, first.pipeline.batch_size, data, near)
    if modeling:
        yield _step("modeling", made, modeling)
    if taught and pathlib.Path(config.teacher).suffix not in teacher.ARRAYS:
        yield _predicted("features", made, made.features, encoder)
    if stage:
        yield _step("guided", guided, stage)
        state = steps.shapes(stage, mesh, _rows(guided, stage.pipeline.batch_size))
        yield _predicted("evaluation", made, made.predict, state.variables)
    if taught:
        yield from _propagation(made, dim)


def run(config: Config, data: Data, mesh: Mesh) -> setup.Run:
    """What `setup.setup` gives, of shapes: arrays by example are one value, read n times."""
    size, network = data.examples, setup.network_of(config)
    mean, std = (np.full(data.image[-1], value, np.float32) for value in (0, 1))
    label, image = (
        np.broadcast_to(np.int32(0), size),
        np.broadcast_to(np.uint8(0), (size, *data.image)),
    )
    tests = np.broadcast_to(np.uint8(0), (data.tests, *data.image))
    names = tuple(map(str, range(data.classes)))
    column: Any = jax.ShapeDtypeStruct((size,), np.int32)
    pixels = jax.ShapeDtypeStruct((size, math.prod(data.image)), np.uint8)
    held = round(config.data.validation * size)
    student = ensemble(classifier(network, data.classes))

    return setup.Run(
        config=config,
        arms=arms(config),
        workdir=pathlib.Path(),
        owner=cast(Any, None),  # nothing is run, so nothing is written
        writer=cast(Any, None),
        mesh=mesh,
        source=Source(config.data.name, image, label, tests, label[:0], names),
        known=True,
        given=label,
        unreviewed=label,
        certain=np.broadcast_to(False, size),
        reviewed="",
        train=label[held:],
        held=label[:held],
        examples=_everywhere(mesh, Examples(Flat(pixels, data.image), column, column, column)),
        images=(image, tests),
        statistics=(mean, std),
        encoder=network,
        features=setup.features(config, network, mesh, (mean, std)),
        predict=predict.predictor(student, mesh, setup.PREDICT_BATCH, mean, std),
    )


def _everywhere(mesh: Mesh, tree: PyTree) -> PyTree:
    """The shapes of arrays that lie on each chip."""
    return _placed(sharding.everywhere(mesh), tree)


def _placed(where: NamedSharding, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)


def _columns(made: setup.Run, arm: Arm, dim: int) -> Examples:
    """The columns that an arm's batches are of."""
    size, config = sharding.padded(len(made.given)), made.config.relation_guided
    columns = {}
    if arm.targets != "given":
        columns["targets"] = jax.ShapeDtypeStruct((size, made.classes), np.float32)
    if arm.weight and config.teacher_features == "stored":
        columns["teacher"] = jax.ShapeDtypeStruct((size, dim), np.float32)
    split = {
        name: _placed(sharding.by_example(made.mesh, x.shape), x) for name, x in columns.items()
    }
    return made.examples._replace(**split)


def _modeling(made: setup.Run) -> steps.Stage:
    """Stage 1, as `teacher.prepared` makes it."""
    dtype = made.config.encoder.get("dtype", "float32")
    ssl = build("relation_modeling.ssl", made.config, made.encoder, dtype)
    objective = relation_modeling(ssl, made.config.relation_modeling.epochs)
    return setup.make_stage(made, "relation_modeling", 0, objective, lambda *_: {})


def _guided(made: setup.Run, arm: Arm, encoder: PyTree) -> steps.Stage:
    """Stage 2; where students start from does not change its program."""
    taught = teacher.Teacher(cast(Any, None), None, encoder, {}, {}) if arm.reads_teacher else None
    return learning.stage(made, learning.learner(made), arm._replace(init="random"), taught)


def _rows(made: setup.Run, batch: int, many: int = 1) -> Examples:
    """The shapes of a batch, or of so many in one call."""
    index = jax.ShapeDtypeStruct((batch,), np.int32)
    rows = jax.eval_shape(gather, made.examples, index)
    if many > 1:
        rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((many, *x.shape), x.dtype), rows)
    spec = PartitionSpec(AXIS) if many == 1 else PartitionSpec(None, AXIS)
    return _placed(NamedSharding(made.mesh, spec), rows)


def _lowered(mesh: Mesh, call: Any, *args: Any, **options: Any) -> Callable[[], Any]:
    """What lowers a jitted function for the chips of a mesh."""

    def lower() -> Any:
        with jax.set_mesh(mesh):
            return call.lower(*args, **options)

    return lower


def _data(made: setup.Run, batch: int, data: Data, near: bool) -> Program:
    """What gathers a batch of the columns that lie on each chip."""
    mesh, pixels = made.mesh, math.prod(data.image)
    train, test = (
        _everywhere(mesh, Flat(jax.ShapeDtypeStruct((n, pixels), np.uint8), data.image))
        for n in (data.examples, data.tests)
    )
    columns = (made.examples._replace(image=train), test) if near else (made.examples, None)
    place = NamedSharding(mesh, PartitionSpec(AXIS))
    index = _placed(place, jax.ShapeDtypeStruct((batch,), np.int32))

    def taken(columns, index):
        if near:
            return gather(columns[0], index)
        return jax.tree.map(lambda column: column[index], columns[0]._replace(image=None))

    call = jax.jit(taken, keep_unused=near)
    return Program("data", "batch", 0, 0, _lowered(mesh, call, columns, index))


def _step(name: str, made: setup.Run, stage: steps.Stage) -> Program:
    """As many steps in a call as there are on such chips."""
    mesh, batch = made.mesh, stage.pipeline.batch_size
    many, call = steps.program(stage)
    state = steps.shapes(stage, mesh, _rows(made, batch))
    rows = _rows(made, batch, many)
    args = [state, stage.objective.frozen, rows, _everywhere(mesh, stage.key)]
    if many > 1:
        args.append(_everywhere(mesh, jax.ShapeDtypeStruct((), np.int32)))
    held = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(rows)) // mesh.size
    lower = _lowered(mesh, call, *args)
    return Program(name, "step", batch, held, lower)


def _predicted(name: str, made: setup.Run, call: predict.Predict, variables: PyTree) -> Program:
    """What a network says of images; `predictor` keeps its program to itself."""
    own = inspect.getclosurevars(call).nonlocals
    size, room = own["size"], own["room"]
    place = NamedSharding(made.mesh, PartitionSpec(None, AXIS))
    shape = (room, size, *made.source.images.shape[1:])
    images = jax.ShapeDtypeStruct(shape, np.uint8, sharding=place)
    args = _everywhere(made.mesh, (variables, jax.ShapeDtypeStruct((), np.int32)))
    lower = _lowered(made.mesh, own["run"], args[0], images, args[1])
    return Program(name, f"{size} images", 0, 0, lower)


def _propagation(made: setup.Run, dim: int) -> Iterator[Program]:
    """The three programs that labels are corrected by."""
    size, mesh, fields = len(made.train), made.mesh, made.config.relation_guided.propagation
    with under("relation_guided.propagation"):
        grid = propagation.settings(fields.neighbours, fields.temperature, fields.alpha, size)
    k = max(one[0] for one in grid)

    def array(*shape: int, dtype: Any = np.float32) -> Any:
        return _everywhere(mesh, jax.ShapeDtypeStruct(shape, dtype))

    near, cosine = array(size, k, dtype=np.int32), array(size, k)
    if fields.search != "approximate":
        call = jax.jit(neighbours.exact, static_argnums=1)
        lower = _lowered(mesh, call, array(size, dim), k)
        yield Program("neighbours", f"{neighbours.BLOCK * mesh.size} rows", 0, 0, lower)
    lower = _lowered(mesh, jax.jit(graph.connect), near, cosine, array())
    yield Program("graph", "all", 0, 0, lower)
    label, made_graph = array(size, dtype=np.int32), graph.Graph(near, cosine)
    lower = _lowered(mesh, votes.held_out, made_graph, array(), label, label,
                     num_classes=made.classes)  # fmt: skip
    yield Program("votes", "round", 0, 0, lower)
