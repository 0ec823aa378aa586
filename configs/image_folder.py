"""Your own images with labels that may be wrong, as they are.

    rmdnet train --config configs/image_folder.py:dir=photos,size=64 --workdir runs/photos
    rmdnet train --config configs/image_folder.py:data=photos.npz --workdir runs/photos

The folder holds `train/<class>/*.png`, and perhaps `test/<class>/*.png`. No labels are changed.
Give `test/` only if its labels are right. Without it, hold out noisy ones: `validation=0.1`.
"""

from rmdnet_jax.app.presets import cifar, experiment


def get_config(arg: str = ""):
    return experiment(cifar("folder"), arg, noise="none")
