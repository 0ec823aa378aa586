"""WebVision 1.0 (Li et al. 2017): images that Google found for the 1,000 classes of ImageNet.

    rmdnet train --config configs/webvision.py:dir=webvision --workdir runs/webvision
    rmdnet train --config configs/webvision.py:dir=webvision,data=mini_webvision --workdir runs/mini

The folder holds `google/`, `val_images_256/` and `info/` as its authors give them out.
`mini_webvision` takes the first 50 classes, as most papers do. Images are decoded as they are
needed. Tried on a small folder of this layout; not yet measured on the real one, which needs an
accelerator.
"""

from rmdnet_jax.app.presets import cifar, experiment

SETTINGS = {
    "encoder": "resnet50",
    "size": 224,
    "relation_modeling.epochs": 40,
    "relation_modeling.batch_size": 256,
    "relation_modeling.evaluate_every": 10,
    "relation_guided.epochs": 40,
    "relation_guided.batch_size": 256,
    "relation_guided.teacher_features": "stored",
    "noise": "none",
}


def get_config(arg: str = ""):
    return experiment(cifar("webvision"), arg, **SETTINGS)
