"""CIFAR-10 with 50 % symmetric noise in the shortest time on one large GPU; goals: teacher kNN >= 85 %, last accuracy > 91 %.

    python -m rmdnet_jax.main --config configs/cifar10_speedrun.py:data=cifar10.npz --workdir runs/speedrun

`data` is an .npz file with `images`, `labels`, `test_images`, `test_labels` in TFDS's order of the `id` feature; without it TFDS is asked.
Neither goal has been measured yet: that needs a GPU. The lengths come from SimSiam's published kNN curve (86 % after 400 epochs).
"""

from rmdnet_jax.app.config import ARGUMENTS, assemble, choose, cifar, parse
from rmdnet_jax.networks.encoders import ENCODERS
from rmdnet_jax.types import Config


def get_config(arg: str = "") -> Config:
    args = parse(arg, **ARGUMENTS, data="", rate=0.5)
    config = cifar("cifar10")
    with config.unlocked():
        config.encoder = choose(ENCODERS, "resnet18", dtype="bfloat16")
    modeling, guided = config.relation_modeling, config.relation_guided
    modeling.epochs, modeling.evaluate_every = 400, 50
    guided.epochs, guided.batch_size, guided.optimizer.learning_rate = 60, 512, 0.2
    guided.optimizer.nesterov, guided.optimizer.warmup_epochs = True, 5.0
    config.checkpoint_steps = 10_000
    config = assemble(config, args, "symmetric", rate=args.rate)
    if args.data and not args.quick:
        config.data.name, config.data.dir = "npz", args.data
    return config
