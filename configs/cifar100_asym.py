"""CIFAR-100 with asymmetric noise, by default 40 %: to the next class of the
same superclass.

    rmdnet train --config configs/cifar100_asym.py --workdir runs/cifar100_asym
    rmdnet train --config configs/cifar100_asym.py:small --workdir runs/small  # minutes

Small networks on a CPU: docs/results-tables.md. Full size needs an accelerator: not yet measured.
"""

from rmdnet_jax.app.presets import cifar, experiment


def get_config(arg: str = ""):
    return experiment(cifar("cifar100"), arg, noise="asymmetric", rate=0.4)
