"""Augmentation of a whole batch on its device, each image with its own draw.

Images are float NCHW in [0, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)


def _uniform(x: Tensor, low: float, high: float) -> Tensor:
    return torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(low, high)


def crop_flip(x: Tensor, padding: int = 4) -> Tensor:
    """A random shift within `padding` zeros, and a flip half of the time."""
    n, _, height, width = x.shape
    padded = F.pad(x, (padding,) * 4)
    top, left = (torch.randint(2 * padding + 1, (n, 1), device=x.device) for _ in range(2))
    rows = top + torch.arange(height, device=x.device)
    columns = left + torch.arange(width, device=x.device)
    columns = torch.where(torch.rand(n, 1, device=x.device) < 0.5, columns.flip(1), columns)
    which = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def resized_crop_flip(
    x: Tensor, scale: tuple[float, float] = (0.2, 1.0), ratio: float = 4 / 3
) -> Tensor:
    """A crop of random area and aspect ratio, resized to its size, flipped half the time."""
    area, aspect = (
        _uniform(x, *scale),
        torch.exp(_uniform(x, -1, 1) * torch.log(torch.tensor(ratio))),
    )
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    across, down = _uniform(x, -1, 1) * (1 - width), _uniform(x, -1, 1) * (1 - height)
    sign = torch.where(_uniform(x, 0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(width)
    affine = torch.cat([sign * width, zero, across, zero, height, down], 1).reshape(len(x), 2, 3)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _grey(x: Tensor) -> Tensor:
    return (x * torch.tensor(GREY, device=x.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * x + (1 - factor) * other).clamp(0, 1)


def _hue(x: Tensor, shift: Tensor) -> Tensor:
    """Hue moved by `shift` of a turn: RGB to HSV and back."""
    high, low = x.amax(1), x.amin(1)
    span = high - low
    r, g, b = ((high - c) / span.clamp(min=1e-12) for c in x.unbind(1))
    hue = torch.where(x[:, 0] == high, b - g, torch.where(x[:, 1] == high, 2 + r - b, 4 + g - r))
    hue = (hue / 6 + shift[:, 0]) % 1 * 6
    saturation = span / high.clamp(min=1e-12)
    turn = (torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1) + hue[:, None]) % 6
    return high[:, None] * (1 - saturation[:, None] * torch.minimum(turn, 4 - turn).clamp(0, 1))


def jitter(x: Tensor, strength: float = 0.4, hue: float = 0.1) -> Tensor:
    """Brightness, contrast, saturation and hue; strengths are an image's, the order the batch's."""
    changes = (
        lambda y: _blend(y, torch.zeros_like(y), _uniform(y, 1 - strength, 1 + strength)),
        lambda y: _blend(
            y, _grey(y).mean((1, 2, 3), keepdim=True), _uniform(y, 1 - strength, 1 + strength)
        ),
        lambda y: _blend(y, _grey(y), _uniform(y, 1 - strength, 1 + strength)),
        lambda y: _hue(y, _uniform(y, -hue, hue)),
    )
    for i in torch.randperm(len(changes)).tolist():
        x = changes[i](x)
    return x


def simsiam(x: Tensor) -> Tensor:
    """SimSiam's view: resized crop, flip, jitter in 4 of 5 images, greyscale in 1 of 5."""
    x = resized_crop_flip(x)
    x = torch.where(_uniform(x, 0, 1) < 0.8, jitter(x), x)
    return torch.where(_uniform(x, 0, 1) < 0.2, _grey(x), x)
