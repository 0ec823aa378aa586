"""Digits: every base method, alone and with RMDNet, at the same settings (those of configs/digits.py).

python launch/sweep.py configs/digits_methods.py --workdir runs/methods --run --match symmetric
python -m rmdnet_jax.report runs/methods/symmetric-*
"""

from rmdnet_jax.config import ARGUMENTS, assemble, default, parse
from rmdnet_jax.methods import METHODS
from rmdnet_jax.types import Config

NOISES = {"symmetric": 0.5, "pair": 0.4}
SEEDS = range(10)


def get_config(arg: str = "") -> Config:
    args = parse(arg, **ARGUMENTS, noise="symmetric", teacher="")
    config = default()
    config.teacher, config.controls = args.teacher, ("base",)
    return assemble(config, args, args.noise, rate=NOISES[args.noise])


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument: the first method's run of a seed trains the teacher, the others load it."""
    first, *others = METHODS
    points = {}
    for noise in NOISES:
        for seed in SEEDS:
            points[f"{noise}-{first}-{seed}"] = f"noise={noise},seed={seed},method={first}"
            for method in others:
                points[f"{noise}-{method}-{seed}"] = f"noise={noise},seed={seed},method={method},teacher={root}/{noise}-{first}-{seed}"
    return points
