"""The only training loop: `fit` minimises any `Objective`, and survives being killed."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import time
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rmdnet_jax import sharding
from rmdnet_jax.data.resident import Examples, Pipeline, Prepare
from rmdnet_jax.errors import UserError
from rmdnet_jax.training import checkpoint
from rmdnet_jax.training.metrics import Progress, Writer
from rmdnet_jax.training.objectives import Objective
from rmdnet_jax.training.optimizer import Optimizer
from rmdnet_jax.training.stop import Asked, Stopped, agreed, on_stop
from rmdnet_jax.types import Array, PyTree, Variables

ORDER, INIT, STEPS = range(3)  # the streams of a stage's key


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


def step(
    stage: Stage, state: TrainState, frozen: PyTree, rows: Examples, key: Array
) -> tuple[TrainState, Array]:
    """One optimiser step; returns the new state and the loss."""
    keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, STEPS), state.step))
    epoch = state.step / stage.pipeline.steps_per_epoch
    batch = stage.prepare(rows, keys[0])

    def loss(params):
        return stage.objective.loss(
            params, state.variables.stats, state.memory, frozen, batch, keys[1], epoch
        )

    (value, (stats, memory, metrics, predicted)), gradient = jax.value_and_grad(loss, has_aux=True)(
        state.variables.params
    )
    updates, optimizer = stage.optimizer.transform.update(
        gradient, state.optimizer, state.variables.params
    )
    params = optax.apply_updates(state.variables.params, updates)
    average = (
        jax.tree.map(
            lambda a, p: stage.average * a + (1 - stage.average) * p, state.average, params
        )
        if stage.average
        else ()
    )
    metrics = _measure(value, metrics, predicted, rows)
    fresh = state.step % stage.pipeline.steps_per_epoch == 0
    totals = {
        name: jnp.where(fresh, 0.0, state.totals[name]) + metric for name, metric in metrics.items()
    }
    failed = jnp.where((state.failed < 0) & ~jnp.isfinite(value), state.step + 1, state.failed)
    return TrainState(
        state.step + 1, Variables(params, stats), memory, optimizer, average, totals, failed
    ), value


def initial(stage: Stage, frozen: PyTree, rows: Examples, key: Array) -> TrainState:
    """The state before the first step."""
    image = jnp.zeros((2, *rows.image.shape[1:]))
    variables, memory = stage.objective.init(jax.random.fold_in(key, INIT), image)

    def metrics():
        batch = stage.prepare(rows, key)
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
    """The shapes of the state, from a batch or its shapes: what parts refuse, they refuse here."""
    place = sharding.everywhere(mesh)
    found = jax.eval_shape(
        functools.partial(initial, stage), stage.objective.frozen, rows, stage.key
    )
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), found)


def start(stage: Stage, mesh: Mesh, manager: Any, writer: Writer) -> tuple[int, TrainState]:
    """The steps done and the state: of the newest readable checkpoint, or before the first step.

    Raises `UserError` where there are checkpoints and none can be read: what may only be out of
    reach is not written over; and where the records are not those of the checkpoint.
    """
    first = stage.pipeline.batch(0)
    like = shapes(stage, mesh, first)
    found = checkpoint.restore(manager, like, remove=True, records=True)
    if found:
        writer.rewind(stage.name, found.step, found.records)
        return found.step, found.state
    if checkpoint.numbered(manager):
        raise UserError(
            f"{stage.name}: no checkpoint in {manager.directory} can be read; move them away and "
            "the stage starts anew"
        )
    writer.rewind(stage.name, 0)
    build = jax.jit(functools.partial(initial, stage), out_shardings=sharding.everywhere(mesh))
    return 0, build(stage.objective.frozen, first, stage.key)


def fit(
    stage: Stage, mesh: Mesh, directory: pathlib.Path, save_every: int, writer: Writer
) -> TrainState:
    """Trains a stage to its end, from the newest checkpoint there is; returns its final state.

    Args:
      stage: what to train.
      mesh: the devices.
      directory: of the stage's checkpoints.
      save_every: steps between checkpoints; there is one at the end, too.
      writer: gets one record an epoch.

    Raises:
      UserError: the loss is not finite, or `stage.evaluate` stops the run.
      Stopped: after SIGTERM, SIGINT or SIGHUP, with everything saved.
    """
    per_epoch = stage.pipeline.steps_per_epoch
    total = stage.epochs * per_epoch
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        manager = stack.enter_context(checkpoint.opened(directory, save_every))
        stop = stack.enter_context(on_stop())
        begin, state = start(stage, mesh, manager, writer)
        bar = Progress(stage.name, total, begin, per_epoch, stage.pipeline.batch_size)
        progress = stack.enter_context(contextlib.closing(bar))
        run = jax.jit(functools.partial(step, stage), donate_argnums=0)
        loss, first, began = None, begin, time.perf_counter()
        for number in range(begin, total):
            rows, before = stage.pipeline.batch(number), loss
            state, loss = run(state, stage.objective.frozen, rows, stage.key)
            # One step late: reading a loss then does not stall the device.
            if before is not None and progress.due(number):
                progress.show(number, float(before))
            done = number + 1
            if done % per_epoch == 0:
                _end_epoch(stage, state, done, (done - first, began), writer, progress, manager)
                if done < total:
                    state = _refreshed(stage, mesh, state, done // per_epoch)
                first, began = done, time.perf_counter()
            stopping = agreed(stop, done % per_epoch == 0)
            if done == total or stopping or manager.should_save(done):
                _refuse_failed(stage, state, manager)
                checkpoint.save(manager, done, state, writer.metrics.digest(stage.name, done))
            if stopping and done < total:
                checkpoint.settle(manager)
                raise _stopped(stage, f"stopped at step {done} of {total}, saved", stop)
        checkpoint.settle(manager)
        if agreed(stop, True):
            raise _stopped(stage, "finished and saved, then stopped", stop)
    return state


def _stopped(stage: Stage, where: str, stop: Asked) -> Stopped:
    return Stopped(f"{stage.name}: {where}; the same command continues", stop.number)


def _refreshed(stage: Stage, mesh: Mesh, state: TrainState, epoch: int) -> TrainState:
    """The state with its memory as it is after an epoch."""
    if stage.refresh is None:
        return state
    memory = stage.refresh(state.variables, jax.device_get(state.memory), epoch)
    return state._replace(memory=sharding.replicate(mesh, memory))


def _end_epoch(
    stage: Stage,
    state: TrainState,
    done: int,
    lap: tuple,
    writer: Writer,
    progress: Progress,
    manager: Any,
) -> None:
    """Evaluates, writes the epoch's record and shows it.

    `lap`: (steps, begin) of the part of the epoch that this process ran.
    """
    steps, began = lap
    values = {
        name: float(total) / stage.pipeline.steps_per_epoch
        for name, total in jax.device_get(state.totals).items()
    }
    trained = time.perf_counter()
    _refuse_failed(stage, state, manager)
    epoch = done // stage.pipeline.steps_per_epoch
    values["learning_rate"] = float(stage.optimizer.learning_rate(done - 1))
    values |= stage.evaluate(final_variables(state), epoch, values)
    times = {"train_seconds": trained - began, "evaluate_seconds": time.perf_counter() - trained}
    times["images"] = steps * stage.pipeline.batch_size
    writer.write(stage.name, done, {"epoch": epoch, **values}, times)
    if epoch == stage.epochs or progress.due(done):
        progress.show(done, values["loss"], _note(values))


def _note(values: dict[str, float]) -> str:
    shown = [name for name in ("test_accuracy", "knn_accuracy") if name in values]
    return "".join(f"  {name.replace('_', ' ')} {100 * values[name]:.1f} %" for name in shown)


def _refuse_failed(stage: Stage, state: TrainState, manager: Any) -> None:
    """Stops a run whose loss or network is not finite before anything of it is saved."""
    failed, what = int(state.failed), "the loss is"
    if failed < 0 and not _finite(state.variables):
        failed, what = int(state.step), "parameters are"  # of a gradient that is not finite
    if failed >= 0:
        checkpoint.settle(manager)
        good = manager.latest_step()
        where = f"step {good} in {manager.directory}" if good is not None else "none yet"
        raise UserError(
            f"{stage.name}: {what} not finite at step {failed}; last good checkpoint: {where}. "
            "Try a lower learning rate"
        )


@jax.jit
def _finite(tree: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
