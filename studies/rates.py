"""Digits: the noise rate of methods that select examples, by themselves, by the graph, and true.

rmdnet sweep studies/rates.py --workdir runs/rates --run
rmdnet report table runs/rates/pair-*
"""

from rmdnet_jax.app.presets import digits, experiment

SEEDS = range(3)
# What it is -> its config argument, and the share of labels that move.
NOISES = {
    "pair": ("noise=pair,rate=0.4", 0.4),
    "symmetric": ("noise=symmetric,rate=0.5", 0.5),
    # 1 as 7, 3 and 5 as 9, 8 as 3: four of ten classes.
    "asymmetric": ("noise=asymmetric,rate=0.4,noise.mapping=0 7 2 9 4 9 6 7 3 9", 0.16),
}
OWN = {"co_teaching": "estimate", "jocor": "estimate", "dividemix": "mixture"}


def get_config(arg: str = ""):
    return experiment(digits(), arg, noise="symmetric", rate=0.5, weight=0.0)


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument, teachers before the students that they serve."""
    points = {f"teacher/{seed}": f"seed={seed},epochs=0" for seed in SEEDS}
    for noise, (kind, share) in NOISES.items():
        for method, own in OWN.items():
            for seed in SEEDS:
                here = f"seed={seed},{kind},method={method},teacher={root}/teacher/{seed}"
                for rate in (own, "graph", share):
                    name = f"{noise}-{method}-{rate}-{seed}"
                    points[name] = f"{here},relation_guided.method.rate={rate}"
    return points
