"""CIFAR-10 with pair noise, by default 40 % of each class to the next.

    rmdnet train --config configs/cifar10_pair.py --workdir runs/cifar10_pair
    rmdnet train --config configs/cifar10_pair.py:small --workdir runs/small  # minutes

Not yet measured at full size: that needs an accelerator.
"""

from rmdnet_jax.app.presets import cifar, experiment


def get_config(arg: str = ""):
    return experiment(cifar("cifar10"), arg, noise="pair", rate=0.4)
