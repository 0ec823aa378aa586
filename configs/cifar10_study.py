"""CIFAR-10 under five noises: cross entropy with RMDNet and its controls, labels corrected over the graph (our extension), both.

python launch/sweep.py configs/cifar10_study.py --workdir runs/cifar10 --run --match ^full  # on an accelerator; on a CPU ^small, ^medium
python -m rmdnet_jax.report table runs/cifar10/full/[afis]*

Symmetric noise is `inclusive`, as in the published figures. Human labels (CIFAR-10N) are read from `cifar10n.npz`.
"""

import itertools

from rmdnet_jax.app.config import ARGUMENTS, CONTROLS, assemble, cifar, parse
from rmdnet_jax.types import Config

SEEDS = range(3)
NOISES = (
    ("symmetric", 0.5),
    ("symmetric", 0.8),
    ("asymmetric", 0.4),
    ("file", 0.0),
    ("instance", 0.4),
)
FIELDS = {
    "symmetric": {"inclusive": True},
    "asymmetric": {"mapping": "cifar10"},
    "file": {"path": "cifar10n.npz", "field": "worse_label"},
}
ARMS = {
    "rmdnet": "controls",
    "propagation": "weight=0.0,targets=propagated",
    "both": "targets=propagated",
}
# Size -> arguments of all its runs, and of its teachers besides. A CPU's teacher is by SimCLR, which knows more after 10 epochs, and sees
# all images, its students the first 5,000; or both are twice as wide, the teacher learns for longer and the students see 10,000.
SIZES = {
    "full": ("", ""),
    "small": ("small,ssl=simclr,weight=3.0", ",limit=50000,modeling=10"),
    "medium": (
        "small,wide,ssl=simclr,temperature=0.2,weight=3.0,limit=10000,in_doubt=use",
        ",limit=50000,modeling=32",
    ),
}


def get_config(arg: str = "") -> Config:
    args = parse(
        arg, **ARGUMENTS, small=False, wide=False, noise="symmetric", rate=0.5, teacher="", limit=0, modeling=0, epochs=0, weight=1.0,
        temperature=0.5, in_doubt="keep", controls=False,
    )  # fmt: skip
    fields = FIELDS.get(args.noise, {}) | ({} if args.noise == "file" else {"rate": args.rate})
    config = assemble(cifar("cifar10"), args, args.noise, **fields)
    guided = config.relation_guided
    if args.wide:
        config.encoder.widths = (32, 64, 128, 256)
    if args.ssl == "simclr":
        config.relation_modeling.ssl.temperature = args.temperature
    config.teacher, config.controls = args.teacher, CONTROLS if args.controls else ()
    config.data.limit = args.limit or config.data.limit
    config.relation_modeling.epochs = args.modeling or config.relation_modeling.epochs
    guided.epochs, guided.weight = args.epochs or guided.epochs, args.weight
    guided.propagation.in_doubt = args.in_doubt
    return config


def sweep(root: str) -> dict[str, str]:
    """Directory below `root` -> config argument, teachers before the students that they serve."""
    points = {}
    for (size, (common, teachers)), seed in itertools.product(SIZES.items(), SEEDS):
        here = ",".join(filter(None, (f"seed={seed}", common)))
        teacher = f"{size}/teacher/{seed}"
        points[teacher] = f"{here}{teachers},epochs=1"
        for (noise, rate), (arm, arguments) in itertools.product(NOISES, ARMS.items()):
            points[f"{size}/{noise}-{rate:g}-{arm}-{seed}"] = (
                f"{here},noise={noise},rate={rate},{arguments},teacher={root}/{teacher}"
            )
    return points
