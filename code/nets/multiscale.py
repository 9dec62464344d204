"""The flow of Real NVP itself (Dinh et al. 2017, Section 3.6): convolutional couplings at several scales.

`Flow` is a drop-in for the one of a3_nf_template.py (`--arch multiscale` puts it there): vectors [B, 784] in, as many
numbers out, and their log-determinant. `--mix conv1x1` makes it Glow (Kingma and Dhariwal 2018), and
`Dequantizer` learns the noise that turns grey levels into a density (Flow++, Ho et al. 2019).
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from datasets.files import UserError


def squeeze(z):
    """[B, C, 2H, 2W] -> [B, 4C, H, W]: each square of four pixels becomes a stack.

    First the two white fields of every square, then the two black ones: a coupling that keeps the first half of the
    channels is one on the checkerboard of the larger image, with no masked pixel to compute in vain."""
    b, c, h, w = z.shape
    squares = z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4, c, h // 2, w // 2)
    return squares[:, [0, 3, 1, 2]].reshape(b, 4 * c, h // 2, w // 2)


def unsqueeze(z):
    b, c, h, w = z.shape
    squares = z.view(b, 4, c // 4, h, w)[:, [0, 2, 3, 1]].reshape(b, 2, 2, c // 4, h, w)
    return squares.permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, 2 * h, 2 * w)


class ActNorm(nn.Module):
    """Every channel moved and scaled by numbers of its own; the first training batch leaves with mean 0, variance 1."""

    def __init__(self, channels):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_std = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, z, ldj, reverse=False):
        if self.training and not reverse and not self.started:
            with torch.no_grad():
                self.mean.copy_(z.mean((0, 2, 3), keepdim=True))
                self.log_std.copy_(z.std((0, 2, 3), keepdim=True).clamp_min(1e-3).log())
                self.started.fill_(True)
        change = self.log_std.sum() * z[0, 0].numel()
        if reverse:
            return z * torch.exp(self.log_std) + self.mean, ldj + change
        return (z - self.mean) * torch.exp(-self.log_std), ldj - change


class Permute(nn.Module):
    """The channels move on by a quarter: what the next coupling keeps and changes overlaps with what this one did."""

    def __init__(self, channels):
        super().__init__()
        self.quarter = channels // 4

    def forward(self, z, ldj, reverse=False):
        return z.roll(self.quarter if reverse else -self.quarter, 1), ldj


class Conv1x1(nn.Module):
    """A learned invertible matrix in place of the permutation, the same at every pixel; at first a rotation."""

    def __init__(self, channels):
        super().__init__()
        self.matrix = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])

    def forward(self, z, ldj, reverse=False):
        with torch.autocast(z.device.type, enabled=False):
            change = torch.linalg.slogdet(self.matrix).logabsdet * z[0, 0].numel()
            if reverse:
                return F.conv2d(z, torch.linalg.inv(self.matrix)[:, :, None, None]), ldj - change
            return F.conv2d(z, self.matrix[:, :, None, None]), ldj + change


class Net(nn.Module):
    """What a coupling asks of the kept half [B, c_in, H, W]: two numbers for every changed element."""

    def __init__(self, c_in, c_out, n_hidden, blocks):
        super().__init__()
        self.first = nn.Conv2d(c_in, n_hidden, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Conv2d(n_hidden, n_hidden, 3, padding=1),
                nn.ReLU(), nn.Conv2d(n_hidden, n_hidden, 1),
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.last = nn.Conv2d(n_hidden, 2 * c_out, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # so every coupling starts as the identity
        nn.init.zeros_(self.last.bias)

    def forward(self, x):
        h = self.first(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = h + block(h)
        log_scale, shift = self.last(F.relu(h)).to(x.dtype).chunk(2, dim=1)
        return torch.tanh(log_scale), shift


class Coupling(nn.Module):
    """The first half of the channels stays; the second is scaled and shifted by what a net says of the first."""

    def __init__(self, channels, n_hidden, blocks):
        super().__init__()
        self.nn = Net(channels // 2, channels - channels // 2, n_hidden, blocks)

    def forward(self, z, ldj, reverse=False):
        kept, changed = z.split([z.shape[1] // 2, z.shape[1] - z.shape[1] // 2], dim=1)
        log_scale, shift = self.nn(kept)
        if reverse:
            changed = (changed - shift) * torch.exp(-log_scale)
            ldj = ldj - log_scale.sum((1, 2, 3))
        else:
            changed = changed * torch.exp(log_scale) + shift
            ldj = ldj + log_scale.sum((1, 2, 3))
        return torch.cat([kept, changed], 1), ldj


class Flow(nn.Module):
    """`levels` times: squeeze, n_flows steps of (actnorm, mix, coupling), half of the channels leave.

    A half that leaves is scaled and shifted by what the remaining half lets one expect: under the standard normal that
    meets it at the end, that is a normal prior conditioned on what remains."""

    def __init__(self, shape, n_flows=6, n_hidden=64, mix="permute", levels=2, blocks=1):
        super().__init__()
        (pixels,) = shape
        self.side = math.isqrt(pixels)
        if self.side**2 != pixels or self.side % 2**levels:
            raise UserError(f"{pixels} pixels: no square whose side can be halved {levels} times")
        self.z_shape = (pixels,)
        self.levels, channels = nn.ModuleList(), 1
        for level in range(levels):
            channels *= 4
            steps = []
            for _ in range(n_flows):
                mixer = {"permute": Permute, "conv1x1": Conv1x1}[mix](channels)
                steps += [ActNorm(channels), mixer, Coupling(channels, n_hidden, blocks)]
            if level < levels - 1:
                steps.append(Coupling(channels, n_hidden, blocks))  # the second half leaves after it
            channels //= 2
            self.levels.append(nn.ModuleList(steps))
        self.to(memory_format=torch.channels_last)

    def forward(self, z, ldj, reverse=False):
        return (self.generate if reverse else self.encode)(z, ldj)

    def encode(self, z, ldj):
        z, left = z.view(-1, 1, self.side, self.side), []
        for steps in self.levels:
            z = squeeze(z)
            for step in steps:
                z, ldj = step(z, ldj)
            if steps is not self.levels[-1]:
                z, leaving = z.chunk(2, dim=1)
                left.append(leaving.flatten(1))
        return torch.cat([*left, z.flatten(1)], 1), ldj

    def generate(self, z, ldj):
        parts = list(z.split(self.parts(), dim=1))
        side = self.side >> len(self.levels)
        z = parts.pop().reshape(len(z), -1, side, side)
        for steps in reversed(self.levels):
            if steps is not self.levels[-1]:
                z = torch.cat([z, parts.pop().view_as(z)], 1)
            for step in reversed(steps):
                z, ldj = step(z, ldj, reverse=True)
            z = unsqueeze(z)
        return z.flatten(1), ldj

    def parts(self):
        """How many variables leave after each level, coarsest last."""
        pixels, levels = self.side**2, len(self.levels)
        return [pixels >> (level + 1) for level in range(levels - 1)] + [pixels >> (levels - 1)]


class Dequantizer(nn.Module):
    """Noise u in (0, 1) for integers x, drawn from a learned q(u | x): log p(x) >= E[log p(x + u) - log q(u | x)].

    u = sigmoid(m + s e) with normal e; a net gives m and s for every pixel from the image."""

    def __init__(self, shape, n_hidden=32, blocks=1):
        super().__init__()
        self.side = math.isqrt(shape[0])
        self.nn = Net(4, 4, n_hidden, blocks)
        self.mean, self.log_std = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.full((1,), 0.5))
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        """x [B, 784] -> u [B, 784] and log q(u | x) [B]."""
        log_std, mean = self.nn(squeeze(x.view(-1, 1, self.side, self.side) / 128 - 1))
        e = torch.randn_like(mean)
        log_std = log_std + self.log_std
        t = self.mean + mean + torch.exp(log_std) * e
        log_q = -0.5 * (e**2 + math.log(2 * math.pi)) - log_std - F.logsigmoid(t) - F.logsigmoid(-t)
        return torch.sigmoid(unsqueeze(t)).flatten(1), log_q.sum((1, 2, 3))
