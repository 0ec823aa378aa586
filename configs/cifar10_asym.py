"""CIFAR-10 with asymmetric noise, by default 40 %: each of five classes to the one it is mistaken for.

    python -m rmdnet_jax.main --config configs/cifar10_asym.py --workdir runs/cifar10_asym
    python -m rmdnet_jax.main --config configs/cifar10_asym.py:small --workdir runs/small      # minutes on two cores

Not yet measured at full size: that needs an accelerator.
"""

from ml_collections import ConfigDict

from rmdnet_jax.config import assemble, cifar, parse


def get_config(arg: str = "") -> ConfigDict:
    arg = parse(arg, quick=False, small=False, rate=0.4, method="ce", seed=0)
    return assemble(cifar("cifar10"), arg, "asymmetric", rate=arg.rate, mapping="cifar10")
