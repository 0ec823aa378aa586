"""Figures of a run and of tables, as PNG files."""

from __future__ import annotations

import pathlib

import jax
import numpy as np

from rmdnet_jax.app import arms, tables
from rmdnet_jax.errors import UserError
from rmdnet_jax.files import whole
from rmdnet_jax.relations.losses import matrix


def _figure(rows: int, columns: int, size: tuple[float, float]):
    # pyplot would cost half a second, and choose a window
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure, path: pathlib.Path) -> None:
    if path.suffix != ".png":
        raise UserError(f"a figure's name must end in .png, got {str(path)!r}")
    with whole(path) as part:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(part, dpi=120)


def transition(shares: np.ndarray, names: tuple[str, ...], path: pathlib.Path) -> None:
    """The transition matrix [C, C] as a figure, in %."""
    side = 1.5 + 0.45 * min(len(names), 20)
    figure, axes = _figure(1, 1, (side + 1, side))
    axis, few = axes[0][0], len(names) <= 20
    image = axis.imshow(100 * shares, cmap="magma_r", vmin=0, vmax=100)
    centred = {"ha": "center", "va": "center", "fontsize": 7}
    for i, j in np.argwhere(shares) if few else ():
        colour = "white" if shares[i, j] > 0.5 else "black"
        axis.text(j, i, f"{100 * shares[i, j]:.0f}", color=colour, **centred)
    places = range(len(names)) if few else ()
    axis.set_xticks(places, [names[i] for i in places], rotation=90)
    axis.set_yticks(places, [names[i] for i in places])
    axis.set(xlabel="given label", ylabel="clean label")
    figure.colorbar(image, label="share of the clean class, %")
    _save(figure, path)


def curves(records: list[dict], titles: dict[str, str], path: pathlib.Path) -> None:
    """Test accuracy, and training accuracy on given and on clean labels, one panel a student.

    Two panels stand side by side, so that a page or a phone still shows what is written in them.

    A student memorises where accuracy on given labels rises above that on clean ones while test
    accuracy falls.
    """
    lines = (
        ("test_accuracy", "test", "C0-"),
        ("train_accuracy_clean", "training, clean labels", "C2--"),
        ("train_accuracy_given", "training, given labels", "C3:"),
    )
    seen = {record["stage"] for record in records}
    stages = [stage for stage in titles if stage in seen]
    columns = min(len(stages), 2)
    deep = -(-len(stages) // columns)
    figure, axes = _figure(deep, columns, (4.2 * columns, 3.6 * deep))
    for axis in axes.flat[len(stages) :]:
        axis.remove()
    for axis, stage in zip(axes.flat, stages):
        rows = [r for r in records if r["stage"] == stage]
        for name, label, style in lines:
            points = [(r["epoch"], 100 * r[name]) for r in rows if name in r]
            if points:
                axis.plot(*zip(*points), style, label=label)
        axis.set(title=titles[stage], xlabel="epoch", ylim=(0, 101))
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy, %")
    axes[0][0].legend(loc="lower right")
    _save(figure, path)


def relations(
    features: dict[str, np.ndarray], labels: np.ndarray, temperature: float, path: pathlib.Path
) -> None:
    """Relation matrices of one batch sorted by class, one panel a network.

    Bright blocks on the diagonal are classes that lie together.
    """
    if not features:
        return
    figure, axes = _figure(1, len(features), (4.0 * len(features), 4.0))
    bounds = np.flatnonzero(np.diff(labels)) + 0.5
    for axis, (name, feature) in zip(axes[0], features.items()):
        image = np.asarray(matrix(jax.numpy.asarray(feature), temperature))
        bright = np.quantile(image, 0.99)
        axis.imshow(image, cmap="magma", vmin=0, vmax=bright, interpolation="nearest")
        axis.set(title=name, xticks=[], yticks=[])
        for bound in bounds:
            axis.axhline(bound, color="white", lw=0.3)
            axis.axvline(bound, color="white", lw=0.3)
    title = f"relations in one batch, sorted by class (temperature {temperature:g})"
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def scores(rows: list[tables.Row], column: str, path: pathlib.Path) -> None:
    """A table's rows, one panel a noise: a dot a seed, over them mean and standard deviation."""
    places = list(arms.TITLES)
    rows = sorted(rows, key=lambda row: (row.method, places.index(row.arm)))
    settings, _ = tables.labels(rows)
    titles = [arms.title(row.method, row.arm) for row in rows]
    names = [", ".join(filter(None, pair)) for pair in zip(titles, settings)]
    order = list(dict.fromkeys(names))
    noises = sorted({row.noise for row in rows})
    figure, axes = _figure(1, len(noises), (4.5 + 4.0 * len(noises), 1.2 + 0.22 * len(order)))
    for i, (axis, noise) in enumerate(zip(axes[0], noises)):
        for row, name in zip(rows, names):
            if row.noise != noise:
                continue
            values, place = np.array(list(row.values.values())), order.index(name)
            spread = values.std(ddof=min(1, len(values) - 1))
            style = {"color": f"C{places.index(row.arm)}", "ms": 4}
            axis.plot(values, np.full(len(values), place), ".", alpha=0.3, **style)
            axis.errorbar(values.mean(), place, xerr=spread, fmt="o", **style)
        axis.set(title=noise, xlabel=f"{tables.COLUMNS[column]}, %", ylim=(len(order) - 0.5, -0.5))
        axis.set_yticks(range(len(order)), order if i == 0 else [])
        axis.grid(alpha=0.3)
    _save(figure, path)
