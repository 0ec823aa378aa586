"""A folder of ImageNet's size: `train/<class>/*.JPEG` and `val/<class>/*.JPEG`.

    rmdnet train --config configs/imagenet_folder.py:dir=imagenet --workdir runs/imagenet
    rmdnet train --config configs/imagenet_folder.py:dir=imagenet,noise=none --workdir runs/own

Labels are made wrong by symmetric noise of 40 %; `noise=none` takes them as they are. Images are
decoded as they are needed. Tried on small folders; not yet measured on ImageNet, which needs an
accelerator.
"""

from rmdnet_jax.app.presets import cifar, experiment

SETTINGS = {
    "encoder": "resnet50",
    "size": 224,
    "relation_modeling.epochs": 100,
    "relation_modeling.evaluate_every": 20,
    "relation_guided.epochs": 60,
    "relation_guided.batch_size": 256,
    "relation_guided.teacher_features": "stored",
    "noise": "symmetric",
    "rate": 0.4,
}


def get_config(arg: str = ""):
    return experiment(cifar("folder"), arg, **SETTINGS)
