"""CIFAR-100 with symmetric noise, by default 50 % moved to other classes (`inclusive`: redrawn from all).

    python -m rmdnet_jax.main --config configs/cifar100_sym.py --workdir runs/cifar100_sym
    python -m rmdnet_jax.main --config configs/cifar100_sym.py:small --workdir runs/small      # minutes on two cores

Not yet measured at full size: that needs an accelerator.
"""

from rmdnet_jax.app.config import ARGUMENTS, assemble, cifar, parse
from rmdnet_jax.types import Config


def get_config(arg: str = "") -> Config:
    args = parse(arg, **ARGUMENTS, small=False, rate=0.5, inclusive=False)
    return assemble(cifar("cifar100"), args, "symmetric", rate=args.rate, inclusive=args.inclusive)
