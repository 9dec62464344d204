"""The multi-scale architecture of RealNVP (Dinh et al. 2017, Section 3.6) with convolutional coupling layers.

`Flow` has the same interface as the class of that name in a3_nf_template.py, which uses it with `--arch multiscale`.
With `--mix conv1x1` the channels are mixed as in Glow (Kingma and Dhariwal 2018), which also introduced ActNorm.
`mixture_logit` is the transformation in the coupling layers of Flow++ (Ho et al. 2019). `Dequantizer` is a simple form
of the variational dequantisation of Flow++: it draws independent noise for each pixel, where Flow++ uses a flow.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import distributed
from datasets.files import UserError

MIN_LOG_SCALE = -5.0  # of a logistic: with narrower ones, logit(F(x)) is too steep to invert in float32


def squeeze(z):
    """[B, C, 2H, 2W] -> [B, 4C, H, W]: the pixels of each 2 x 2 square become channels.

    The first half of the new channels holds the diagonal pixels of each square, the second half the other two. A
    coupling layer that keeps the first half applies a checkerboard mask, without computing masked pixels. In `Flow`,
    Permute rolls the channels before each coupling layer: at the first level, every second one has a checkerboard mask,
    and the others keep one column of each square. Conv1x1 mixes all four pixels."""
    b, c, h, w = z.shape
    squares = z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4, c, h // 2, w // 2)
    return squares[:, [0, 3, 1, 2]].reshape(b, 4 * c, h // 2, w // 2)


def unsqueeze(z):
    """The inverse of `squeeze`."""
    b, c, h, w = z.shape
    squares = z.view(b, 4, c // 4, h, w)[:, [0, 2, 3, 1]].reshape(b, 2, 2, c // 4, h, w)
    return squares.permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, 2 * h, 2 * w)


class ActNorm(nn.Module):
    """Shift and scale each channel of z [B, C, H, W], initialised so that the first batch gets mean 0 and variance 1.

    ActNorm, Permute, Conv1x1 and Coupling map z [B, C, H, W] and ldj [B] to the same shapes. `reverse` inverts them."""

    def __init__(self, channels):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_std = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, z, ldj, reverse=False):
        if self.training and not reverse and not self.started:
            with torch.no_grad():
                batch = distributed.global_batch(z)
                self.mean.copy_(batch.mean((0, 2, 3), keepdim=True))
                self.log_std.copy_(batch.std((0, 2, 3), keepdim=True).clamp_min(1e-3).log())
                self.started.fill_(True)
        mean, log_std = self.mean.to(z.dtype), self.log_std.to(z.dtype)
        logdet = log_std.sum() * z.shape[2:].numel()  # the same factor for all pixels of a channel
        if reverse:
            return z * torch.exp(log_std) + mean, ldj + logdet
        return (z - mean) * torch.exp(-log_std), ldj - logdet


class Permute(nn.Module):
    """Roll the channels by a quarter, so that the next coupling layer splits them into different halves."""

    def __init__(self, channels):
        super().__init__()
        self.quarter = channels // 4

    def forward(self, z, ldj, reverse=False):
        return z.roll(self.quarter if reverse else -self.quarter, 1), ldj


class Conv1x1(nn.Module):
    """Invertible 1 x 1 convolution: multiply the channels of each pixel by a learned matrix, initially orthogonal."""

    def __init__(self, channels):
        super().__init__()
        self.matrix = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])

    def forward(self, z, ldj, reverse=False):
        with torch.autocast(z.device.type, enabled=False):  # bfloat16 would change the matrix and its determinant
            matrix = self.matrix.to(z.dtype)
            logdet = torch.linalg.slogdet(matrix).logabsdet * z.shape[2:].numel()
            if reverse:
                matrix, logdet = torch.linalg.inv(matrix), -logdet
            return (matrix @ z.flatten(2)).view_as(z), ldj + logdet


def mixture_logit(x, logits, mean, log_scale):
    """y = logit(F(x)) and log dy/dx, where F is the CDF of a mixture of logistic distributions.

    x [B, ...]; parameters of K components [B, K, ...]: weights w = softmax(logits), mean, scales s = exp(log_scale).
    With t = (x - mean) / s, F is the sum of w sigmoid(t) over the components, 1 - F that of w sigmoid(-t). The terms
    are positive, so the logarithms are accurate in both tails. dy/dx = F'(x) / (F (1 - F))."""
    log_weight = logits.log_softmax(1)
    t = (x.unsqueeze(1) - mean) * torch.exp(-log_scale)
    below = log_weight + t.clamp_max(0) - torch.log(1 + torch.exp(-t.abs()))  # log(w sigmoid(t))
    above = below - t  # log(w sigmoid(-t))
    density = below + above - log_weight - log_scale  # log(w sigmoid(t) sigmoid(-t) / s)
    log_cdf, log_rest, log_density = (terms.logsumexp(1) for terms in (below, above, density))
    return log_cdf - log_rest, log_density - log_cdf - log_rest


@torch.no_grad()
def invert_mixture_logit(y, logits, mean, log_scale):
    """The x with mixture_logit(x, ...) = y, up to rounding, and log dy/dx: Newton's method with bisection.

    F is a weighted mean of sigmoid(t), t = (x - mean) / s, so logit(F(x)) lies between the smallest and the largest t.
    x therefore lies between the solutions mean + s y for single components."""
    shape, eps = y.shape, torch.finfo(y.dtype).eps
    y, (logits, mean, log_scale) = (
        y.reshape(1, -1),
        (part.transpose(0, 1).reshape(1, part.shape[1], -1) for part in (logits, mean, log_scale)),
    )
    solutions = mean + torch.exp(log_scale) * y.unsqueeze(1)
    low, high = solutions.amin(1), solutions.amax(1)
    x, last_step = (logits.softmax(1) * solutions).sum(1), high - low
    solution, slope, open_ = x.clone(), torch.zeros_like(x), torch.arange(y.numel(), device=y.device)
    # open_: the indices of the elements that have not converged
    while len(open_):  # each step is at most half as long as the one before, or halves the bracket
        value, log_slope = mixture_logit(x, logits, mean, log_scale)
        error = value - y
        low, high = torch.where(error < 0, x, low), torch.where(error < 0, high, x)
        new = x - error * torch.exp(-log_slope)
        usable = (low < new) & (new < high) & ((new - x).abs() < last_step / 2)
        new = torch.where(usable, new, (low + high) / 2)
        new = torch.where(error.abs() <= eps * (1 + y.abs()), x, new)
        last_step = (new - x).abs()
        solution[0, open_], slope[0, open_] = new[0], log_slope[0]
        left = torch.nonzero(last_step[0] > eps * (1 + x[0].abs())).squeeze(1)
        open_, x = open_[left], new[:, left]
        y, low, high, last_step = (part[:, left] for part in (y, low, high, last_step))
        logits, mean, log_scale = (part[..., left] for part in (logits, mean, log_scale))
    return solution.view(shape), slope.view(shape)


class Net(nn.Module):
    """The network of a coupling layer: [B, c_in, H, W] -> [B, c_out, H, W]. Its output is 0 at the start."""

    def __init__(self, c_in, c_out, n_hidden):
        super().__init__()
        self.first = nn.Conv2d(c_in, n_hidden, 3, padding=1)
        self.block = nn.Sequential(
            nn.ReLU(), nn.Conv2d(n_hidden, n_hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(n_hidden, n_hidden, 1)
        )
        self.last = nn.Conv2d(n_hidden, c_out, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x):
        h = self.first(x.to(self.first.weight.dtype).contiguous(memory_format=torch.channels_last))
        h = h + self.block(h)
        return self.last(F.relu(h)).to(x.dtype, memory_format=torch.contiguous_format)


def hidden_weights(module):
    """The weights of the convolutions between hidden layers, in all networks of a module."""
    nets = [part for part in module.modules() if isinstance(part, Net)]
    return [layer.weight for net in nets for layer in net.block if isinstance(layer, nn.Conv2d)]


class Coupling(nn.Module):
    """Coupling layer: keeps the first half of the channels, which determines the transformation of the second half.

    It is affine, or that of Flow++: logit(F(x)) with the CDF F of a mixture of logistics, then affine."""

    def __init__(self, channels, n_hidden, components=0):
        super().__init__()
        self.components, changed = components, channels // 2
        self.nn = Net(channels // 2, changed * (2 + 3 * components), n_hidden)
        if components:  # different at the start, because components that are alike would stay alike
            # a view: the next line changes the bias
            means = self.nn.last.bias.data.view(2 + 3 * components, changed)[2 + components : 2 + 2 * components]
            means += torch.linspace(-2, 2, components).unsqueeze(1)

    def forward(self, z, ldj, reverse=False):
        kept, changed = z.chunk(2, dim=1)  # each [B, C / 2, H, W]
        parameters = self.nn(kept).unflatten(1, (-1, changed.shape[1]))  # [B, 2 + 3 K, C / 2, H, W]
        # without components, the three parts of the mixture are empty
        log_scale, shift, *mixture = parameters.split([1, 1, *3 * [self.components]], dim=1)
        log_scale, shift = torch.tanh(log_scale.squeeze(1)), shift.squeeze(1)  # each [B, C / 2, H, W]
        # mixture: logits, mean, log_scale, each [B, K, C / 2, H, W]
        mixture[2] = mixture[2].clamp_min(MIN_LOG_SCALE)
        total = log_scale.sum((1, 2, 3))
        if reverse:
            changed = (changed - shift) * torch.exp(-log_scale)
            if self.components:
                changed, log_slope = invert_mixture_logit(changed, *mixture)
                total = total + log_slope.sum((1, 2, 3))
            return torch.cat([kept, changed], 1), ldj - total
        if self.components:
            changed, log_slope = mixture_logit(changed, *mixture)
            total = total + log_slope.sum((1, 2, 3))
        return torch.cat([kept, changed * torch.exp(log_scale) + shift], 1), ldj + total


class Flow(nn.Module):
    """Each level: squeeze, n_flows steps of (ActNorm, mix, coupling layer), then half of the channels are factored out.

    One more coupling layer transforms the factored-out half before it gets its standard normal prior. If it is affine,
    this equals a Gaussian prior whose mean and scale depend on the other half. The last level factors out nothing."""

    def __init__(self, shape, n_flows=6, n_hidden=64, mix="permute", components=0, levels=2):
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
                steps += [ActNorm(channels), mixer(channels), Coupling(channels, n_hidden, components)]
            if level < levels - 1:
                steps.append(Coupling(channels, n_hidden, components))  # for the half that is factored out
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
        parts = list(z.split(self.sizes(), dim=1))
        side = self.side >> len(self.levels)
        z = parts.pop().reshape(len(z), -1, side, side)
        for steps in reversed(self.levels):
            if steps is not self.levels[-1]:
                z = torch.cat([z, parts.pop().view_as(z)], 1)
            for step in reversed(steps):
                z, ldj = step(z, ldj, reverse=True)
            z = unsqueeze(z)
        return z.flatten(1), ldj

    def sizes(self):
        """The number of latent variables of each level, the finest first: [392, 392] for 784 pixels and two levels."""
        pixels, levels = self.side**2, len(self.levels)
        return [pixels >> min(level, levels - 1) for level in range(1, levels + 1)]


class Dequantizer(nn.Module):
    """Variational dequantisation: noise u in (0, 1) from a learned q(u | x).

    log P(x) >= E[log p(x + u) - log q(u | x)]. u = sigmoid(m + s e) with standard normal noise e. m and log s of each
    pixel are the sum of a learned number and of an output of a network that reads the image (for log s: its tanh)."""

    def __init__(self, shape, n_hidden=32):
        super().__init__()
        self.side = math.isqrt(shape[0])
        self.nn = Net(4, 8, n_hidden)
        # the sigmoid of a normal variable with std exp(0.5) = 1.65 is nearly uniform
        self.mean, self.log_std = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.full((1,), 0.5))
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        """x [B, 784] -> u [B, 784] and log q(u | x) [B]."""
        log_std, mean = self.nn(squeeze(x.view(-1, 1, self.side, self.side) / 128 - 1)).chunk(2, dim=1)
        e = distributed.noise(torch.randn_like, mean)
        log_std = torch.tanh(log_std) + self.log_std
        t = self.mean + mean + torch.exp(log_std) * e
        log_q = -0.5 * (e**2 + math.log(2 * math.pi)) - log_std - F.logsigmoid(t) - F.logsigmoid(-t)
        return torch.sigmoid(unsqueeze(t)).flatten(1), log_q.sum((1, 2, 3))
