"""Digits: corrected labels, with and without RMDNet, beside cross entropy.

rmdnet sweep studies/propagation.py --workdir runs/propagation --run
rmdnet report table runs/propagation/[a-su-z]*
"""

from rmdnet_jax.app.presets import digits, experiment

SEEDS = range(10)
NOISES = {
    "none": "noise=none",
    "pair-0.4": "noise=pair,rate=0.4",
    "symmetric-0.5": "noise=symmetric,rate=0.5",
    "symmetric-0.8": "noise=symmetric,rate=0.8",
    "instance-0.4": "noise=instance,rate=0.4",
}
ARMS = {
    "rmdnet": "controls=('base','base_from_teacher')",
    "propagation": "targets=propagated,weight=0.0",
    "both": "targets=propagated",
}


def get_config(arg: str = ""):
    return experiment(digits(), arg, noise="symmetric", rate=0.5)


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument, teachers before the students that they serve."""
    points = {}
    for seed in SEEDS:
        points[f"teacher/{seed}"] = f"seed={seed},epochs=1"
        for name, noise in NOISES.items():
            for arm, arguments in ARMS.items():
                here = f"seed={seed},{noise},{arguments},teacher={root}/teacher/{seed}"
                points[f"{name}-{arm}-{seed}"] = here
        random = f"seed={seed},noise=pair,rate=0.4,modeling=0,{ARMS['propagation']}"
        points[f"random-pair-0.4-{seed}"] = random
    return points
