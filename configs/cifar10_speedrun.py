"""CIFAR-10 with 50 % symmetric noise in the shortest time on one large GPU.

    rmdnet train --config configs/cifar10_speedrun.py:data=cifar10.npz --workdir runs/speedrun

Goals: teacher kNN >= 85 %, last accuracy > 91 %. `data` is an .npz file with `images`, `labels`,
`test_images`, `test_labels`; without it TFDS is asked. Measured on one H200, one run, CIFAR-10
(JPEG): kNN 80.0 % after 330 epochs and 7.5 minutes (docs/benchmarks.md), so the first goal is not
met. The student has not been measured.
"""

from rmdnet_jax.app.presets import cifar, experiment

SETTINGS = {
    "encoder": "resnet18",
    "encoder.dtype": "bfloat16",
    "relation_modeling.epochs": 400,
    "relation_modeling.evaluate_every": 50,
    "relation_guided.epochs": 60,
    "relation_guided.batch_size": 512,
    "relation_guided.optimizer.learning_rate": 0.2,
    "relation_guided.optimizer.nesterov": True,
    "relation_guided.optimizer.warmup_epochs": 5.0,
    "checkpoint_steps": 10_000,
    "noise": "symmetric",
    "rate": 0.5,
}


def get_config(arg: str = ""):
    return experiment(cifar("cifar10"), arg, **SETTINGS)
