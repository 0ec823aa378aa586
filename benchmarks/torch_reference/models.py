"""Encoders, SimSiam's heads and the student; parameter names follow torchvision.

Images are float NCHW, normalised."""

from torch import Tensor, nn


class ConvNet(nn.Module):
    """Plain network for tiny images: 3x3 convolution, batch norm, ReLU for each width."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), channels: int = 3):
        super().__init__()
        self.depth, self.dim = len(widths), widths[-1]
        for i, (before, width) in enumerate(zip((channels, *widths), widths), start=1):
            self.add_module(f"conv{i}", nn.Conv2d(before, width, 3, padding=1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(width))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, self.depth + 1):
            if i > 1:
                x = self.pool(x)
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)).relu()
        return x.mean((2, 3))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + shortcut).relu()


class PreActBlock(nn.Module):
    """Norm and ReLU before each convolution; the shortcut starts after the first of them.

    Source: Zagoruyko & Komodakis 2016.
    """

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.bn0 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.downsample = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn0(x).relu()
        shortcut = x if self.downsample is None else self.downsample(y)
        return self.conv2(self.bn1(self.conv1(y)).relu()) + shortcut


def _stage(
    block: type[nn.Module], before: int, width: int, blocks: int, stride: int
) -> nn.Sequential:
    return nn.Sequential(
        *(block(before if i == 0 else width, width, stride if i == 0 else 1) for i in range(blocks))
    )


class ResNet(nn.Module):
    """ResNet with basic blocks and the CIFAR stem: one 3x3 convolution, no pooling."""

    def __init__(self, blocks: tuple[int, ...], width: int = 64, channels: int = 3):
        super().__init__()
        self.dim = 8 * width
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width * 2**i for i in range(4)]
        for i, (before, after) in enumerate(zip([width, *widths], widths), start=1):
            self.add_module(
                f"layer{i}", _stage(BasicBlock, before, after, blocks[i - 1], 1 if i == 1 else 2)
            )

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))


class WideResNet(nn.Module):
    """WRN-28-2: 4 pre-activation blocks in each of three stages."""

    def __init__(self, width: int = 16, channels: int = 3):
        super().__init__()
        self.dim = 8 * width
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        widths = [2 * width, 4 * width, 8 * width]
        for i, (before, after) in enumerate(zip([width, *widths], widths), start=1):
            self.add_module(f"layer{i}", _stage(PreActBlock, before, after, 4, 1 if i == 1 else 2))
        self.bn = nn.BatchNorm2d(self.dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.bn(x).relu().mean((2, 3))


ENCODERS = {
    "cnn": ConvNet,
    "resnet18": lambda **kw: ResNet((2, 2, 2, 2), **kw),
    "resnet34": lambda **kw: ResNet((3, 4, 6, 3), **kw),
    "wrn28_2": WideResNet,
}


class Head(nn.Module):
    """Linear, batch norm, ReLU for each hidden width.

    The last layer ends in a norm without scale and bias, or has a bias of its own.
    """

    def __init__(self, dim: int, widths: tuple[int, ...], norm_last: bool):
        super().__init__()
        self.depth = len(widths)
        for i, (before, width) in enumerate(zip((dim, *widths), widths), start=1):
            last = i == self.depth
            self.add_module(f"fc{i}", nn.Linear(before, width, bias=last and not norm_last))
            if not last or norm_last:
                self.add_module(f"bn{i}", nn.BatchNorm1d(width, affine=not last))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, self.depth + 1):
            x = getattr(self, f"fc{i}")(x)
            if hasattr(self, f"bn{i}"):
                x = getattr(self, f"bn{i}")(x)
            if i < self.depth:
                x = x.relu()
        return x


class SimSiam(nn.Module):
    """Encoder, projector, predictor (Chen & He 2021)."""

    def __init__(
        self, encoder: nn.Module, projection: int = 2048, hidden: int = 512, layers: int = 2
    ):
        super().__init__()
        self.encoder = encoder
        self.projector = Head(encoder.dim, (projection,) * layers, norm_last=True)
        self.predictor = Head(projection, (hidden, projection), norm_last=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.projector(self.encoder(x))
        return z, self.predictor(z)


class Student(nn.Module):
    """An encoder below a linear classifier; gives features and logits."""

    def __init__(self, encoder: nn.Module, classes: int):
        super().__init__()
        self.encoder = encoder
        self.fc = nn.Linear(encoder.dim, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.encoder(x)
        return feature, self.fc(feature)
