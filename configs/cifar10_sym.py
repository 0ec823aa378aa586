"""CIFAR-10 with symmetric noise, by default 50 % moved to other classes (`inclusive`: redrawn from all).

    python -m rmdnet_jax.main --config configs/cifar10_sym.py --workdir runs/cifar10_sym
    python -m rmdnet_jax.main --config configs/cifar10_sym.py:small --workdir runs/small      # minutes on two cores

`small`, one seed, images from JPEG, two CPU cores, jax 0.10: 45.2 %, cross entropy 31.2 % (last).
Not yet measured at full size: that needs an accelerator.
"""

from rmdnet_jax.app.config import ARGUMENTS, assemble, cifar, parse
from rmdnet_jax.types import Config


def get_config(arg: str = "") -> Config:
    args = parse(arg, **ARGUMENTS, small=False, rate=0.5, inclusive=False)
    return assemble(cifar("cifar10"), args, "symmetric", rate=args.rate, inclusive=args.inclusive)
