"""One stage of a run: what it is made of, its state, and the steps that change it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rmdnet_jax import sharding
from rmdnet_jax.data.resident import Examples, Pipeline, Prepare
from rmdnet_jax.training.objectives import Objective
from rmdnet_jax.training.optimizer import Optimizer
from rmdnet_jax.types import Array, Batch, PyTree, Variables

ORDER, INIT, STEPS = range(3)  # the streams of a stage's key
MANY = 16  # steps of one call on an accelerator, where starting a program takes its time


class TrainState(NamedTuple):
    """All that a stage changes, and a checkpoint holds; keys and batches follow from the step."""

    step: Array  # int32, steps done
    variables: Variables
    memory: PyTree
    optimizer: PyTree
    average: PyTree  # moving average of the parameters, or () without one
    totals: dict[str, Array]  # sums over the current epoch
    failed: Array  # int32, the first step with a loss that is not finite, or -1


class Evaluate(Protocol):
    """More metrics of an epoch than its means; raises `UserError` to stop the run."""

    def __call__(
        self, variables: Variables, epoch: int, values: dict[str, float], /
    ) -> dict[str, float]: ...


class Refresh(Protocol):
    """A method's memory after so many epochs, from the network that was trained by then."""

    def __call__(self, variables: Variables, memory: PyTree, epoch: int, /) -> PyTree: ...


class Stage(NamedTuple):
    """One stage of a run, built: what `fit` needs."""

    name: str
    objective: Objective
    optimizer: Optimizer
    pipeline: Pipeline
    prepare: Prepare
    key: Array  # of the seed and the stage
    epochs: int
    average: float  # decay of the parameters' moving average, 0: none
    evaluate: Evaluate
    refresh: Refresh | None = None  # after each epoch but the last
    steps_per_call: int = 0  # 0: 1 on a CPU, where convolutions in a loop are slow, else `MANY`


def final_variables(state: TrainState) -> Variables:
    """The network to use: averaged parameters where there is an average."""
    averaged = state.average != ()
    return Variables(state.average, state.variables.stats) if averaged else state.variables


def _measure(
    value: Array, metrics: dict, predicted: Array | None, rows: Examples
) -> dict[str, Array]:
    """A step's metrics. Accuracy on the batch tells learning (clean) from memorising (given)."""
    metrics = {"loss": value, **metrics}
    for name in ("given", "clean") if predicted is not None else ():
        if (label := getattr(rows, name)) is not None:
            metrics[f"train_accuracy_{name}"] = jnp.mean(predicted == label)
    return metrics


def _batch(stage: Stage, averaged: Variables, rows: Examples, key: Array) -> Batch:
    """The rows' views, and what the averaged network says of them where that teaches."""
    batch, say = stage.prepare(rows, key), stage.objective.averaged
    return batch if say is None else batch._replace(averaged=say(averaged, batch.image[0]).logits)


def _averaged(average: PyTree, params: PyTree, decay: float, step: Array) -> PyTree:
    """The next moving average; in the first steps it decays faster, to forget random weights."""
    if not decay:
        return ()
    keep = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, average, params)


def step(
    stage: Stage, state: TrainState, frozen: PyTree, rows: Examples, key: Array
) -> tuple[TrainState, Array]:
    """One optimiser step; returns the new state and the loss."""
    keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, STEPS), state.step))
    epoch = state.step / stage.pipeline.steps_per_epoch
    batch = _batch(stage, final_variables(state), rows, keys[0])

    def loss(params):
        return stage.objective.loss(
            params, state.variables.stats, state.memory, frozen, batch, keys[1], epoch
        )

    (value, (stats, memory, metrics, predicted)), gradient = jax.value_and_grad(loss, has_aux=True)(
        state.variables.params
    )
    if stage.objective.by_example:
        memory = sharding.kept(memory)
    updates, optimizer = stage.optimizer.transform.update(
        gradient, state.optimizer, state.variables.params
    )
    params = optax.apply_updates(state.variables.params, updates)
    average = _averaged(state.average, params, stage.average, state.step)
    metrics = _measure(value, metrics, predicted, rows)
    fresh = state.step % stage.pipeline.steps_per_epoch == 0
    totals = {
        name: jnp.where(fresh, 0.0, state.totals[name]) + metric for name, metric in metrics.items()
    }
    failed = jnp.where((state.failed < 0) & ~jnp.isfinite(value), state.step + 1, state.failed)
    return TrainState(
        state.step + 1, Variables(params, stats), memory, optimizer, average, totals, failed
    ), value


def program(stage: Stage) -> tuple[int, Any]:
    """How many steps a call does at most, and the jitted `step`, or `_loop` of many."""
    many = stage.steps_per_call or (1 if jax.default_backend() == "cpu" else MANY)
    called = functools.partial(step if many == 1 else _loop, stage)
    return many, jax.jit(called, donate_argnums=0)


def caller(stage: Stage) -> tuple[int, Callable[[TrainState, int, int], tuple[TrainState, Array]]]:
    """How many steps a call does at most, and `call(state, first, end) -> (state, last loss)`.

    One compiled program does any number of steps, so where a run stops changes no bit.
    """
    many, run = program(stage)
    frozen, pipeline, key = stage.objective.frozen, stage.pipeline, stage.key
    if many == 1:
        return 1, lambda state, first, end: run(state, frozen, pipeline.batch(first), key)

    def call(state: TrainState, first: int, end: int) -> tuple[TrainState, Array]:
        rows = [pipeline.batch(min(first + i, end - 1)) for i in range(many)]
        return run(state, frozen, _stacked(rows), key, end - first)

    return many, call


@jax.jit
def _stacked(rows: list[Examples]) -> Examples:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def _loop(
    stage: Stage, state: TrainState, frozen: PyTree, rows: Examples, key: Array, count: Array
) -> tuple[TrainState, Array]:
    """The first `count` of the steps that there are rows [step, batch, ...] for."""

    def one(carry):
        i, state, _ = carry
        state, loss = step(stage, state, frozen, jax.tree.map(lambda x: x[i], rows), key)
        return i + 1, state, loss.astype(float)

    begin = jnp.int32(0), state, jnp.zeros(())
    return jax.lax.while_loop(lambda carry: carry[0] < count, one, begin)[1:]


def initial(stage: Stage, frozen: PyTree, rows: Examples, key: Array) -> TrainState:
    """The state before the first step."""
    image = jnp.zeros((2, *rows.image.shape[1:]))
    variables, memory = stage.objective.init(jax.random.fold_in(key, INIT), image)

    def metrics():
        batch = _batch(stage, variables, rows, key)
        value, (_, _, metrics, predicted) = stage.objective.loss(
            *variables, memory, frozen, batch, key, jnp.float32(0)
        )
        return _measure(value, metrics, predicted, rows)

    totals = {name: jnp.zeros(()) for name in jax.eval_shape(metrics)}
    average = variables.params if stage.average else ()
    return TrainState(
        jnp.int32(0),
        variables,
        memory,
        stage.optimizer.transform.init(variables.params),
        average,
        totals,
        jnp.int32(-1),
    )


def shapes(stage: Stage, mesh: Mesh, rows: Examples) -> TrainState:
    """The shapes of the state, from a batch or its shapes: what parts refuse, they refuse here.

    And where it lies: on every device, but for a memory by example.
    """
    found = jax.eval_shape(
        functools.partial(initial, stage), stage.objective.frozen, rows, stage.key
    )

    def placed(tree: PyTree, rows: bool = False) -> PyTree:
        def place(x):
            return sharding.by_example(mesh, x.shape) if rows else sharding.everywhere(mesh)

        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)), tree
        )

    return placed(found)._replace(memory=placed(found.memory, stage.objective.by_example))
