"""CIFAR-100 with human labels (CIFAR-100N, Wei et al., ICLR 2022), from a file that you have.

    rmdnet train --config cifar100_human:path=labels.npz --workdir runs/human

The file holds one label an image in the original order: .npy, .npz (the array `field`) or .csv.
CIFAR-N comes as a .pt file, which becomes one of ours by
`np.savez("cifar100n.npz", **torch.load("CIFAR-100_human.pt", weights_only=False))`.
With `data=cifar100_n,path=,field=noise_label` the labels are TFDS's.
Not yet measured at full size: that needs an accelerator.
"""

from rmdnet_jax.app.presets import cifar, experiment


def get_config(arg: str = ""):
    return experiment(
        cifar("cifar100"), arg, noise="file", path="cifar100n.npz", field="noisy_label"
    )
