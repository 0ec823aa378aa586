"""CIFAR-100 with instance-dependent noise, by default 40 %: labels move by what is in the image.

    rmdnet train --config configs/cifar100_instance.py --workdir runs/cifar100_instance

Not yet measured: that needs an accelerator.
"""

from rmdnet_jax.app.presets import cifar, experiment


def get_config(arg: str = ""):
    return experiment(cifar("cifar100"), arg, noise="instance", rate=0.4)
