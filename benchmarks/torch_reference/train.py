"""Both stages on images from an .npz file, under symmetric noise: SimSiam, then relations.

    python -m benchmarks.torch_reference.train --data cifar10.npz --rate 0.5

The file holds `images` uint8 [n, h, w, c], `labels` [n], `test_images`, `test_labels`. The data
lie on the device; on a GPU the networks run in channels_last, under bfloat16 autocast and
torch.compile.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.torch_reference import augment, losses
from benchmarks.torch_reference.models import ENCODERS, SimSiam, Student


class Normalise(nn.Module):
    """uint8 NHWC -> float NCHW in [0, 1], augmented if asked, then normalised per channel."""

    def __init__(self, images: Tensor):
        super().__init__()
        values = images.float() / 255
        self.register_buffer("mean", values.mean((0, 1, 2)).view(1, -1, 1, 1))
        self.register_buffer("std", values.std((0, 1, 2)).view(1, -1, 1, 1))

    def forward(self, images: Tensor, change: Callable = lambda x: x) -> Tensor:
        x = images.permute(0, 3, 1, 2).float() / 255
        return ((change(x) - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def sgd(
    model: nn.Module, rate: float, steps: int
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.LRScheduler]:
    """SGD with momentum, weight decay on everything, cosine schedule over `steps`."""
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def autocast(device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def wide(x: Tensor) -> Tensor:
    """bfloat16 -> float32: losses are computed there."""
    return x.float() if x.dtype == torch.bfloat16 else x


def simsiam_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x1: Tensor, x2: Tensor
) -> Tensor:
    """One step of relation modeling on two views; returns the loss."""
    with autocast(x1.device.type):
        (z1, p1), (z2, p2) = model(x1), model(x2)
    loss = losses.simsiam(*map(wide, (z1, z2, p1, p2)))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def guided_step(
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    label: Tensor,
    teacher: nn.Module | Tensor | None,
    weight: float,
) -> Tensor:
    """One step of relation-guided learning.

    The teacher is a frozen encoder in eval mode, its features, or None for the base method.
    """
    with autocast(x.device.type):
        feature, logits = student(x)
        with torch.no_grad():
            target = teacher(x) if isinstance(teacher, nn.Module) else teacher
    loss = F.cross_entropy(wide(logits), label)
    if target is not None:
        feature, target = wide(feature), wide(target)
        loss = loss + weight * (losses.edge(feature, target) + losses.node(feature, target))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def batches(n: int, size: int, device: str) -> Iterator[Tensor]:
    """Indices of an epoch's full batches."""
    order = torch.randperm(n, device=device)
    yield from order[: n - n % size].split(size)


@torch.no_grad()
def apply(
    model: nn.Module, images: Tensor, normalise: Normalise, size: int = 1000
) -> Tensor | tuple[Tensor, ...]:
    """Outputs for all images, in eval mode."""
    model.eval()
    with autocast(images.device.type):
        parts = [model(normalise(part)) for part in images.split(size)]
    model.train()
    return tuple(map(torch.cat, zip(*parts))) if isinstance(parts[0], tuple) else torch.cat(parts)


def knn(
    bank: Tensor, label: Tensor, query: Tensor, classes: int, k: int = 200, temperature: float = 0.1
) -> Tensor:
    """Weighted k-nearest-neighbour prediction by cosine."""
    bank, query = F.normalize(bank.float(), dim=1), F.normalize(query.float(), dim=1)
    votes = []
    for part in query.split(1000):
        similarity, near = (part @ bank.T).topk(k)
        votes.append(
            (F.one_hot(label[near], classes) * (similarity / temperature).exp()[..., None])
            .sum(1)
            .argmax(1)
        )
    return torch.cat(votes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--encoder", default="resnet18", choices=ENCODERS)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--weight", type=float, default=1.0, help="K")
    parser.add_argument(
        "--epochs", type=int, nargs=2, default=(200, 100), help="of SimSiam and of the student"
    )
    parser.add_argument("--batch", type=int, nargs=2, default=(512, 128))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with np.load(args.data, allow_pickle=False) as file:
        images, clean, test_images, test_labels = (
            torch.from_numpy(file[name].astype(kind)).to(device)
            for name, kind in (
                ("images", np.uint8),
                ("labels", np.int64),
                ("test_images", np.uint8),
                ("test_labels", np.int64),
            )
        )
    classes, n = int(clean.max()) + 1, len(images)
    wrong = (clean + torch.randint(1, classes, (n,), device=device)) % classes
    label = torch.where(torch.rand(n, device=device) < args.rate, wrong, clean)
    normalise = Normalise(images).to(device)
    prepare: Callable = lambda model: model.to(device, memory_format=torch.channels_last)  # noqa: E731
    fast: Callable = torch.compile if device == "cuda" else (lambda model: model)

    model = prepare(SimSiam(ENCODERS[args.encoder]()))
    run, (optimizer, schedule) = (
        fast(model),
        sgd(model, 0.03 * args.batch[0] / 256, args.epochs[0] * (n // args.batch[0])),
    )
    began = time.perf_counter()
    for epoch in range(args.epochs[0]):
        for index in batches(n, args.batch[0], device):
            views = (normalise(images[index], augment.simsiam) for _ in range(2))
            loss = simsiam_step(run, optimizer, *views)
            schedule.step()
        print(
            f"SimSiam epoch {epoch + 1} loss {loss:.4f} {time.perf_counter() - began:.1f} s",
            flush=True,
        )
    teacher = copy.deepcopy(model.encoder).eval().requires_grad_(False)
    near = knn(
        apply(teacher, images, normalise), clean, apply(teacher, test_images, normalise), classes
    )
    print(f"teacher kNN, clean labels {100 * (near == test_labels).float().mean():.2f} %")

    student = prepare(Student(ENCODERS[args.encoder](), classes))
    run, (optimizer, schedule) = (
        fast(student),
        sgd(student, 0.05, args.epochs[1] * (n // args.batch[1])),
    )
    look, began = fast(teacher), time.perf_counter()
    for epoch in range(args.epochs[1]):
        for index in batches(n, args.batch[1], device):
            x = normalise(images[index], augment.crop_flip)
            loss = guided_step(
                run, optimizer, x, label[index], look if args.weight else None, args.weight
            )
            schedule.step()
        right = apply(student, test_images, normalise)[1].argmax(1) == test_labels
        print(
            f"student epoch {epoch + 1} loss {loss:.4f} "
            f"test {100 * right.float().mean():.2f} % {time.perf_counter() - began:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
