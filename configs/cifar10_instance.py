"""CIFAR-10 with instance-dependent noise, by default 40 %: labels move by what is in the image.

    rmdnet train --config configs/cifar10_instance.py --workdir runs/cifar10_instance

Not yet measured: that needs an accelerator.
"""

from rmdnet_jax.app.presets import cifar, experiment


def get_config(arg: str = ""):
    return experiment(cifar("cifar10"), arg, noise="instance", rate=0.4)
