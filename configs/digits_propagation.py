"""Digits: labels corrected over the teacher's relation graph (our extension), with and without RMDNet, beside cross entropy.

python launch/sweep.py configs/digits_propagation.py --workdir runs/propagation --run
python -m rmdnet_jax.report table runs/propagation/[a-su-z]*
"""

from rmdnet_jax.app.config import ARGUMENTS, assemble, default, parse
from rmdnet_jax.types import Config

SEEDS = range(10)
NOISES = {"none": (0.0,), "pair": (0.4,), "symmetric": (0.5, 0.8), "instance": (0.4,)}
ARMS = {
    "rmdnet": "base",
    "propagation": "targets=propagated,weight=0.0",
    "both": "targets=propagated",
}


def get_config(arg: str = "") -> Config:
    args = parse(
        arg,
        **ARGUMENTS,
        noise="symmetric",
        rate=0.5,
        teacher="",
        modeling=150,
        weight=30.0,
        epochs=80,
        refresh=0,
        base=False,
    )
    config = default()
    guided = config.relation_guided
    config.teacher, config.controls = (
        args.teacher,
        ("base", "base_from_teacher") if args.base else (),
    )
    config.relation_modeling.epochs, guided.epochs, guided.weight = (
        args.modeling,
        args.epochs,
        args.weight,
    )
    guided.propagation.refresh = args.refresh
    return assemble(
        config, args, args.noise, **({} if args.noise == "none" else {"rate": args.rate})
    )


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument, teachers before the students that they serve."""
    points = {}
    for seed in SEEDS:
        points[f"teacher/{seed}"] = f"seed={seed},epochs=1"
        for noise, rates in NOISES.items():
            for rate in rates:
                for arm, arguments in ARMS.items():
                    here = f"seed={seed},noise={noise},rate={rate},{arguments}"
                    points[f"{noise}-{rate:g}-{arm}-{seed}"] = (
                        f"{here},teacher={root}/teacher/{seed}"
                    )
        points[f"random-pair-0.4-{seed}"] = (
            f"seed={seed},noise=pair,rate=0.4,modeling=0,weight=0.0,targets=propagated"
        )
    return points
