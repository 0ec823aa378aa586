"""What is timed of the PyTorch reference: the same cases on the same images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.torch_reference import augment, losses
from benchmarks.torch_reference.models import ENCODERS, SimSiam, Student
from benchmarks.torch_reference.train import (
    Normalise,
    apply,
    batches,
    guided_step,
    sgd,
    simsiam_step,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def place(model: torch.nn.Module) -> torch.nn.Module:
    return model.to(DEVICE, memory_format=torch.channels_last)


def fast(model: torch.nn.Module, network: str) -> torch.nn.Module:
    """Compiled where that is faster: anywhere but for the small CNN on a CPU."""
    return model if DEVICE == "cpu" and network == "cnn" else torch.compile(model)


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def run(case: str, data: str, network: str, batch: int, epochs: int, turn: Callable) -> dict:
    """Runs a case, `turn()` after the first step or pass and after each; returns what it knows."""
    with np.load(data) as file:
        images, test = (
            torch.from_numpy(file[name]).to(DEVICE) for name in ("images", "test_images")
        )
        label, test_label = (
            torch.from_numpy(file[name].astype(np.int64)).to(DEVICE)
            for name in ("labels", "test_labels")
        )
    normalise, index = Normalise(images).to(DEVICE), torch.arange(batch, device=DEVICE)
    if case == "simsiam":
        model = place(SimSiam(ENCODERS[network]()))
        trained, (optimizer, schedule) = fast(model, network), sgd(model, 0.06, 10**4)
        while turn():
            simsiam_step(
                trained, optimizer, *(normalise(images[index], augment.simsiam) for _ in range(2))
            )
            schedule.step()
            synchronize()
        return {}
    student = place(Student(ENCODERS[network](), 10))
    teacher = place(ENCODERS[network]()).eval().requires_grad_(False)
    trained, look, (optimizer, schedule) = (
        fast(student, network),
        fast(teacher, network),
        sgd(student, 0.05, 10**4),
    )
    kept = apply(teacher, images, normalise).float() if case == "stored" else None

    def step(index):
        target = None if case == "ce" else kept[index] if kept is not None else look
        guided_step(
            trained,
            optimizer,
            normalise(images[index], augment.crop_flip),
            label[index],
            target,
            1.0,
        )
        schedule.step()

    while turn():
        if case in ("evaluation", "epoch"):
            if case == "epoch":
                for index in batches(len(images), batch, DEVICE):
                    step(index)
            (apply(trained, test, normalise, 256)[1].argmax(1) == test_label).float().mean().item()
        else:
            step(index)
        synchronize()
    return {}


def related(form: str, batch: int, dim: int, turn: Callable) -> dict:
    """The edge loss and its gradient."""
    student, teacher = torch.randn(2, batch, dim, device=DEVICE)
    student.requires_grad_()
    loss = torch.compile(losses.edge) if DEVICE == "cuda" else losses.edge
    while turn():
        student.grad = None
        loss(student, teacher).backward()
        synchronize()
    return {}


def ceiling(turn: Callable) -> dict:
    """A matrix product, large enough for the machine's highest rate."""
    size, kind = (8192, torch.bfloat16) if DEVICE == "cuda" else (2048, torch.float32)
    matrix = torch.randn(size, size, device=DEVICE, dtype=kind)
    while turn():
        matrix @ matrix
        synchronize()
    return {"flops": 2 * size**3, "torch": torch.__version__}


def peak_memory() -> float | None:
    """The device's peak use in bytes, where it is known."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None
