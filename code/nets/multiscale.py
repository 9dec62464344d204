"""The multi-scale architecture of RealNVP (Dinh et al. 2017, Section 3.6) with convolutional coupling layers.

`Flow` has the same interface as the class of that name in a3_nf_template.py, which uses it with `--arch multiscale`.
With `--mix conv1x1` the steps are those of Glow (Kingma and Dhariwal 2018). `Dequantizer` is the learned dequantisation
of Flow++ (Ho et al. 2019).
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import distributed
from datasets.files import UserError


def squeeze(z):
    """[B, C, 2H, 2W] -> [B, 4C, H, W]: the pixels of each 2 x 2 square become channels.

    The first half of the new channels holds the diagonal pixels of each square, the second half the other two. A
    coupling layer that keeps the first half thus applies a checkerboard mask, without computing masked pixels."""
    b, c, h, w = z.shape
    squares = z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4, c, h // 2, w // 2)
    return squares[:, [0, 3, 1, 2]].reshape(b, 4 * c, h // 2, w // 2)


def unsqueeze(z):
    """The inverse of `squeeze`."""
    b, c, h, w = z.shape
    squares = z.view(b, 4, c // 4, h, w)[:, [0, 2, 3, 1]].reshape(b, 2, 2, c // 4, h, w)
    return squares.permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, 2 * h, 2 * w)


class ActNorm(nn.Module):
    """Shift and scale each channel, initialised so that the first training batch gets mean 0 and variance 1."""

    def __init__(self, channels):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_std = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, z, ldj, reverse=False):
        if self.training and not reverse and not self.started:
            with torch.no_grad():
                batch = distributed.whole(z)
                self.mean.copy_(batch.mean((0, 2, 3), keepdim=True))
                self.log_std.copy_(batch.std((0, 2, 3), keepdim=True).clamp_min(1e-3).log())
                self.started.fill_(True)
        logdet = self.log_std.sum() * z.shape[2:].numel()  # the same factor for all pixels of a channel
        if reverse:
            return z * torch.exp(self.log_std) + self.mean, ldj + logdet
        return (z - self.mean) * torch.exp(-self.log_std), ldj - logdet


class Permute(nn.Module):
    """Roll the channels by a quarter, so that the next coupling layer splits them into different halves."""

    def __init__(self, channels):
        super().__init__()
        self.quarter = channels // 4

    def forward(self, z, ldj, reverse=False):
        return z.roll(self.quarter if reverse else -self.quarter, 1), ldj


class Conv1x1(nn.Module):
    """Invertible 1 x 1 convolution: multiply the channels of each pixel with a learned matrix, initially orthogonal."""

    def __init__(self, channels):
        super().__init__()
        self.matrix = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])

    def forward(self, z, ldj, reverse=False):
        with torch.autocast(z.device.type, enabled=False):
            logdet = torch.linalg.slogdet(self.matrix).logabsdet * z.shape[2:].numel()
            if reverse:
                return F.conv2d(z, torch.linalg.inv(self.matrix)[:, :, None, None]), ldj - logdet
            return F.conv2d(z, self.matrix[:, :, None, None]), ldj + logdet


class Net(nn.Module):
    """The network of a coupling layer: [B, c_in, H, W] -> log_scale and shift, each [B, c_out, H, W]."""

    def __init__(self, c_in, c_out, n_hidden, blocks):
        super().__init__()
        self.first = nn.Conv2d(c_in, n_hidden, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Conv2d(n_hidden, n_hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(n_hidden, n_hidden, 1)
            )
            for _ in range(blocks)
        )
        self.last = nn.Conv2d(n_hidden, 2 * c_out, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # every coupling layer starts as the identity
        nn.init.zeros_(self.last.bias)

    def forward(self, x):
        h = self.first(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = h + block(h)
        log_scale, shift = self.last(F.relu(h)).to(x.dtype).chunk(2, dim=1)
        return torch.tanh(log_scale), shift


class Coupling(nn.Module):
    """Affine coupling layer: keeps the first half of the channels, which determines scale and shift of the second."""

    def __init__(self, channels, n_hidden, blocks):
        super().__init__()
        self.nn = Net(channels // 2, channels // 2, n_hidden, blocks)

    def forward(self, z, ldj, reverse=False):
        kept, changed = z.chunk(2, dim=1)  # each [B, C / 2, H, W]
        log_scale, shift = self.nn(kept)
        logdet = log_scale.sum((1, 2, 3))
        if reverse:
            return torch.cat([kept, (changed - shift) * torch.exp(-log_scale)], 1), ldj - logdet
        return torch.cat([kept, changed * torch.exp(log_scale) + shift], 1), ldj + logdet


class Flow(nn.Module):
    """Each level: squeeze, n_flows steps of (ActNorm, mix, coupling layer), then half of the channels is factored out.

    One more coupling layer transforms the factored-out half before it gets its standard normal prior. This equals a
    Gaussian prior whose mean and scale depend on the other half. The last level factors out nothing."""

    def __init__(self, shape, n_flows=6, n_hidden=64, mix="permute", levels=2, blocks=1):
        super().__init__()
        (pixels,) = shape
        self.side = math.isqrt(pixels)
        if self.side**2 != pixels or self.side % 2**levels:
            raise UserError(f"{pixels} pixels are not a square image whose side can be halved {levels} times")
        self.z_shape = (pixels,)
        self.levels, mixer = nn.ModuleList(), {"permute": Permute, "conv1x1": Conv1x1}[mix]
        for level in range(levels):
            channels, steps = 4 * 2**level, []
            for _ in range(n_flows):
                steps += [ActNorm(channels), mixer(channels), Coupling(channels, n_hidden, blocks)]
            if level < levels - 1:
                steps.append(Coupling(channels, n_hidden, blocks))  # for the half that is factored out
            self.levels.append(nn.ModuleList(steps))
        self.to(memory_format=torch.channels_last)

    def forward(self, z, ldj, reverse=False):
        return (self.generate if reverse else self.encode)(z, ldj)

    def encode(self, z, ldj):
        z, factored_out = z.view(-1, 1, self.side, self.side), []
        for steps in self.levels:
            z = squeeze(z)
            for step in steps:
                z, ldj = step(z, ldj)
            if steps is not self.levels[-1]:
                z, half = z.chunk(2, dim=1)
                factored_out.append(half.flatten(1))
        return torch.cat([*factored_out, z.flatten(1)], 1), ldj

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
        """The number of latent variables of each level, the finest first."""
        pixels, levels = self.side**2, len(self.levels)
        return [pixels >> min(level, levels - 1) for level in range(1, levels + 1)]


class Dequantizer(nn.Module):
    """Variational dequantisation: noise u in (0, 1) from a learned q(u | x).

    log P(x) >= E[log p(x + u) - log q(u | x)]. A network computes m and s of every pixel from the image, and
    u = sigmoid(m + s e) with standard normal noise e."""

    def __init__(self, shape, n_hidden=32, blocks=1):
        super().__init__()
        self.side = math.isqrt(shape[0])
        self.nn = Net(4, 4, n_hidden, blocks)
        self.mean, self.log_std = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.full((1,), 0.5))
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        """x [B, 784] -> u [B, 784] and log q(u | x) [B]."""
        log_std, mean = self.nn(squeeze(x.view(-1, 1, self.side, self.side) / 128 - 1))
        e = distributed.noise(torch.randn_like, mean)
        log_std = log_std + self.log_std
        t = self.mean + mean + torch.exp(log_std) * e
        log_q = -0.5 * (e**2 + math.log(2 * math.pi)) - log_std - F.logsigmoid(t) - F.logsigmoid(-t)
        return torch.sigmoid(unsqueeze(t)).flatten(1), log_q.sum((1, 2, 3))
