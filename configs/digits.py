"""Digits with symmetric noise, or any other kind: cross entropy + RMDNet, with its controls.

    python -m rmdnet_jax.main --config configs/digits.py --workdir runs/digits
    python -m rmdnet_jax.main --config configs/digits.py:noise=pair,rate=0.3 --workdir runs/pair
"""

from ml_collections import ConfigDict

from rmdnet_jax.config import CONTROLS, choose, default, parse, quick
from rmdnet_jax.data.noise import KINDS
from rmdnet_jax.methods import METHODS


def get_config(arg: str = "") -> ConfigDict:
    arg = parse(arg, quick=False, noise="symmetric", rate=0.5, method="ce", seed=0)
    config = default()
    config.seed = arg.seed
    with config.unlocked():
        config.noise = choose(KINDS, arg.noise, rate=arg.rate)
        config.noise.seed = arg.seed
        config.relation_guided.method = choose(METHODS, arg.method)
    config.controls = CONTROLS
    return quick(config) if arg.quick else config
