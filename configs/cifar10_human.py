"""CIFAR-10 with human labels (CIFAR-10N, Wei et al., ICLR 2022), from a file that you have.

    rmdnet train --config cifar10_human:path=labels.npz --workdir runs/human

The file holds one label an image in the original order: .npy, .npz (the array `field`) or .csv.
CIFAR-N comes as a .pt file, which becomes one of ours by
`np.savez("cifar10n.npz", **torch.load("CIFAR-10_human.pt", weights_only=False))`.
With `data=cifar10_n,path=,field=worse_label` the labels are TFDS's.
Not yet measured at full size: that needs an accelerator.
"""

from rmdnet_jax.app.presets import cifar, experiment


def get_config(arg: str = ""):
    return experiment(cifar("cifar10"), arg, noise="file", path="cifar10n.npz", field="worse_label")
