"""Digits: relations off, on, and on while wrong labels are learnt, in short and long training.

    rmdnet sweep studies/strength.py --workdir runs/strength --run
    rmdnet report table runs/strength/pair-80-*

One teacher a seed serves all its points.
"""

import itertools

from rmdnet_jax.app.presets import digits, experiment

SEEDS = range(3)
NOISES = {
    "none": "noise=none",
    "symmetric-0.2": "noise=symmetric,rate=0.2",
    "symmetric-0.5": "noise=symmetric,rate=0.5",
    "symmetric-0.8": "noise=symmetric,rate=0.8",
    "pair": "noise=pair,rate=0.4",
    "asymmetric": "noise=asymmetric,rate=0.4,noise.mapping=0 7 2 9 4 9 6 7 3 9",
}
EPOCHS, WEIGHTS = (10, 20, 80), (0, 30, "auto")


def get_config(arg: str = ""):
    return experiment(digits(), arg, noise="symmetric", rate=0.5, controls=())


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument, teachers before the students that they serve."""
    points = {f"teacher/{seed}": f"seed={seed},epochs=0" for seed in SEEDS}
    cells = itertools.product(NOISES.items(), EPOCHS, WEIGHTS, SEEDS)
    for (noise, kind), epochs, weight, seed in cells:
        here = f"seed={seed},{kind},epochs={epochs},weight={weight},teacher={root}/teacher/{seed}"
        points[f"{noise}-{epochs}-{weight}-{seed}"] = here
    return points
