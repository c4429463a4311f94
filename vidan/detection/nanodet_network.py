"""The network of NanoDet-g: its layers and how they are connected. Loads torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
BINS = 11


class Conv(nn.Module):
    """A convolution with bias, padded to keep the size, then LeakyReLU unless `linear`."""

    def __init__(
        self, i: int, o: int, k: int = 3, stride: int = 1, *, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, stride, padding=k // 2)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if self.linear else functional.leaky_relu(y, 0.1, inplace=True)


class Res(nn.Module):
    """Two convolutions, both outputs concatenated: (N, i, h, w) → (N, 2·c, h, w)."""

    def __init__(self, i: int, c: int) -> None:
        super().__init__()
        self.a = Conv(i, c)
        self.b = Conv(c, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return torch.cat((self.b(y), y), dim=1)


class Csp(nn.Module):
    """A cross-stage partial block with `n` Res: (N, i, h, w) → (N, 2·i, h/stride, w/stride)."""

    def __init__(self, i: int, n: int, stride: int) -> None:
        super().__init__()
        self.inc = Conv(i, i, 3, stride)
        self.res = nn.Sequential(*(Res(i, i // 2) for _ in range(n)))
        self.out = Conv(i, i)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inc(x)
        return torch.cat((self.out(self.res(y)), y), dim=1)


class Network(nn.Module):
    """(N, 3, H, W) normalised RGB → (N, cells, 80 + 4·11) logits, finest stride first."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = Conv(3, 32, 3, 2)
        self.s1 = Csp(32, 1, 1)
        self.s2 = Csp(64, 2, 2)
        self.s3 = Csp(128, 2, 2)
        self.s4 = Csp(256, 3, 2)
        self.lat = nn.ModuleList(Conv(i, 128, 1, linear=True) for i in (128, 256, 512))
        self.hc = nn.ModuleList(Conv(128, 128) for _ in STRIDES)
        self.ho = nn.ModuleList(Conv(128, classes + 4 * BINS, 1, linear=True) for _ in STRIDES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.stem(x), 3, stride=2, padding=1)
        c3 = self.s2(self.s1(x))
        c4 = self.s3(c3)
        c5 = self.s4(c4)
        p3, p4, p5 = (lateral(c) for lateral, c in zip(self.lat, (c3, c4, c5), strict=True))
        p4 = p4 + _resize(p5, p4)
        p3 = p3 + _resize(p4, p3)
        p4 = p4 + _resize(p3, p4)
        p5 = p5 + _resize(p4, p5)
        levels = [
            head(conv(p)).flatten(2).transpose(1, 2)
            for conv, head, p in zip(self.hc, self.ho, (p3, p4, p5), strict=True)
        ]
        return torch.cat(levels, dim=1)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)
