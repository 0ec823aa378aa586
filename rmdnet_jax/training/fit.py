"""The only training loop: `fit` minimises any `Objective`, and survives being killed."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rmdnet_jax import sharding
from rmdnet_jax.errors import UserError
from rmdnet_jax.training import checkpoint, steps
from rmdnet_jax.training.metrics import Progress, Writer
from rmdnet_jax.training.steps import Stage, TrainState
from rmdnet_jax.training.stop import Asked, Stopped, agreed, on_stop
from rmdnet_jax.types import Array, PyTree


def start(stage: Stage, mesh: Mesh, manager: Any, writer: Writer) -> tuple[int, TrainState]:
    """The steps done and the state: of the newest readable checkpoint, or before the first step.

    Raises `UserError` where there are checkpoints and none can be read: what may only be out of
    reach is not written over; and where the records are not those of the checkpoint.
    """
    first = stage.pipeline.batch(0)
    like = steps.shapes(stage, mesh, first)
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
    places = jax.tree.map(lambda x: x.sharding, like)
    build = jax.jit(functools.partial(steps.initial, stage), out_shardings=places)
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
        newest, batch = manager.latest_step() or 0, stage.pipeline.batch_size
        bar = Progress(stage.name, total, newest, per_epoch, batch)
        progress = stack.enter_context(contextlib.closing(bar))
        begin, state = start(stage, mesh, manager, writer)
        many, call = steps.caller(stage)
        loss, first, began, done = None, begin, time.perf_counter(), begin
        while done < total:
            number, before = done, loss
            # A call ends where something is to be done: at an epoch's end, at a checkpoint.
            ends = (number - number % every + every for every in (per_epoch, save_every))
            done = min(number + many, *ends)
            state, loss = call(state, number, done)
            # One call late: reading a loss then does not stall the device.
            if before is not None and progress.due(number):
                progress.show(number, float(before))
            if done % per_epoch == 0:
                _end_epoch(stage, state, done, (done - first, began), writer, progress, manager)
                if done < total:
                    state = _refreshed(stage, state, done // per_epoch)
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


def _refreshed(stage: Stage, state: TrainState, epoch: int) -> TrainState:
    """The state with its memory as it is after an epoch."""
    if stage.refresh is None:
        return state
    memory = stage.refresh(state.variables, sharding.host(state.memory), epoch)
    return state._replace(memory=sharding.placed(memory, state.memory))


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
    run, began = lap
    values = {
        name: float(total) / stage.pipeline.steps_per_epoch
        for name, total in jax.device_get(state.totals).items()
    }
    trained = time.perf_counter()
    _refuse_failed(stage, state, manager)
    epoch = done // stage.pipeline.steps_per_epoch
    values["learning_rate"] = float(stage.optimizer.learning_rate(done - 1))
    values |= stage.evaluate(steps.final_variables(state), epoch, values)
    times = {"train_seconds": trained - began, "evaluate_seconds": time.perf_counter() - trained}
    progress.leave_out(times["evaluate_seconds"])
    times["images"] = run * stage.pipeline.batch_size
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
