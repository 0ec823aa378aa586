"""CIFAR-10 with pair noise, by default 40 % of each class to the next.

    python -m rmdnet_jax.main --config configs/cifar10_pair.py --workdir runs/cifar10_pair
    python -m rmdnet_jax.main --config configs/cifar10_pair.py:small --workdir runs/small      # minutes on two cores

Not yet measured at full size: that needs an accelerator.
"""

from rmdnet_jax.app.config import ARGUMENTS, assemble, cifar, parse
from rmdnet_jax.types import Config


def get_config(arg: str = "") -> Config:
    args = parse(arg, **ARGUMENTS, small=False, rate=0.4)
    return assemble(cifar("cifar10"), args, "pair", rate=args.rate)
