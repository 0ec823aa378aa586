"""Digits with 40 % asymmetric (pair) noise: cross entropy + RMDNet, with its controls.

    python -m rmdnet_jax.main --config configs/digits_asym.py --workdir runs/demo
"""

from ml_collections import ConfigDict

from rmdnet_jax.config import CONTROLS, choose, default, parse, quick
from rmdnet_jax.data.noise import KINDS
from rmdnet_jax.methods import METHODS


def get_config(arg: str = "") -> ConfigDict:
    arg = parse(arg, quick=False, rate=0.4, method="ce", seed=0)
    config = default()
    config.seed = arg.seed
    with config.unlocked():
        config.noise = choose(KINDS, "asymmetric", rate=arg.rate, mapping="pair")
        config.noise.seed = arg.seed
        config.relation_guided.method = choose(METHODS, arg.method)
    config.controls = CONTROLS
    return quick(config) if arg.quick else config
