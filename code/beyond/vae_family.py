"""Variants of the VAE on MNIST: other objectives, decoders, posteriors and priors, alone or combined.

    python code/beyond/vae_family.py                         networks and loss of a3_vae_template.py
    python code/beyond/vae_family.py --beta 4                beta-VAE; --beta 0: reconstruction only
    python code/beyond/vae_family.py --warmup 10             KL warm-up over ten epochs
    python code/beyond/vae_family.py --free_bits 0.5         0.5 nats of KL per latent dimension are not penalised
    python code/beyond/vae_family.py --samples 5             importance-weighted bound (IWAE)
    python code/beyond/vae_family.py --posterior sylvester   flow posterior; also planar, householder, iaf
    python code/beyond/vae_family.py --prior coupling        a learned flow as prior
    python code/beyond/vae_family.py --decoder pixelcnn      an autoregressive decoder, which could ignore z
    python code/beyond/vae_family.py --decoder gaussian      8-bit MNIST, variance 1/2; also learned-gaussian
    python code/beyond/vae_family.py --autoencoder           neither noise nor KL term
    python code/beyond/vae_family.py --zdim 2 --encoder grid                  the encoder reads p(x|z) on a grid of z
    python code/beyond/vae_family.py --net conv --prior coupling --zdim 40    residual convolutional networks
    python code/beyond/vae_family.py --quick                 a small run

beta-VAE: Higgins et al. 2017; free bits, IAF: Kingma et al. 2016 (arXiv:1606.04934); IWAE: Burda et al. 2016
(arXiv:1509.00519); planar: Rezende and Mohamed 2015 (arXiv:1505.05770); Householder: Tomczak and Welling 2016
(arXiv:1611.09630); Sylvester: van den Berg et al. 2018 (arXiv:1803.05649).

All variants but the autoencoder record the same bound, log p(x) >= E_q[log p(x|z) + log p(z) - log q(z|x)], in nats,
whatever objective they train. `Family.terms` therefore returns the values of the bound with the gradients of the
objective, and the training loop is that of a3_vae_template.py. Gradients of log q are path gradients (through z only),
as in that script; also behind a flow (Vaitl et al. 2024, arXiv:2403.15881) and with importance weights (Tucker et al.
2019, arXiv:1810.04152). Only free bits use the ordinary gradient.

Measured on one core of an AMD EPYC without bfloat16 instructions, torch 2.14, static binary MNIST, test images, 500
importance samples per image: --net conv --prior coupling --zdim 40 --lr 0.003 --epochs 80 reaches log p(x) =
-80.46 nats after 3077 s of training; the plain VAE reaches -91.64 (1000 images). The report and
report/results/family-*.json have the numbers of the other variants.
"""

import copy
import functools
import math
import sys
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
import a3_vae_template as vae
from a3_nf_template import Coupling, log_prior
from beyond.autoregressive import PixelCNN
from common import cli, figures, models
from common.devices import at_least_float32
from common.run import Run, one_cycle
from datasets.bmnist import BINARY, bmnist
from datasets.mnist import GREY, mnist
from nets.muon import Muon
from nets.residual import ConvDecoder, ConvEncoder

CONTEXT = 100  # image features that a posterior flow is conditioned on
PIXELCNN = [16, 4]  # feature maps and layers of a PixelCNN decoder
MUON = 0.02  # peak learning rate for the weights between hidden layers of a PixelCNN decoder
GAUSSIAN = ("gaussian", "learned-gaussian")
PARTS = {  # option value: words for titles
    "gaussian": "Gaussian decoder, variance 1/2", "learned-gaussian": "Gaussian decoder, learned variance",
    "pixelcnn": "PixelCNN decoder", "planar": "planar posterior", "householder": "Householder posterior",
    "sylvester": "Sylvester posterior", "iaf": "autoregressive posterior",
}  # fmt: skip


class Planar(nn.Module):
    """z + u tanh(w z + b), `steps` times; u, w and b are computed from the image (Rezende and Mohamed 2015, A.1)."""

    def __init__(self, z_dim, steps):
        super().__init__()
        self.sizes = [z_dim, z_dim, 1] * steps
        self.amortised = nn.Linear(CONTEXT, sum(self.sizes))
        nn.init.normal_(self.amortised.weight, std=0.01)

    def forward(self, z, ldj, context):
        """z [..., B, D], ldj [..., B], context [B, CONTEXT] -> transformed z and updated ldj."""
        parts = self.amortised(context).split(self.sizes, 1)
        for u, w, b in zip(parts[0::3], parts[1::3], parts[2::3]):
            wu = (w * u).sum(1, keepdim=True)
            # makes w u = log(1 + exp(w u)) - 1 > -1, so that the step is invertible
            u = u + (F.softplus(wu) - 1 - wu) * w / w.pow(2).sum(1, keepdim=True).clamp_min(1e-8)
            t = torch.tanh((w * z).sum(-1, keepdim=True) + b)
            z = z + u * t
            ldj = ldj + torch.log1p((1 - t[..., 0].pow(2)) * (w * u).sum(1))
        return z, ldj


def reflect(z, v):
    """Reflect z [..., B, D] in the hyperplane through 0 that is orthogonal to the unit vector v [B, D]."""
    return z - 2 * v * (v * z).sum(-1, keepdim=True)


class Householder(nn.Module):
    """Reflections: the posterior stays Gaussian but gets a full covariance. They preserve volume: ldj is unchanged."""

    def __init__(self, z_dim, steps):
        super().__init__()
        self.steps = steps
        self.amortised = nn.Linear(CONTEXT, steps * z_dim)

    def forward(self, z, ldj, context):
        directions = self.amortised(context).view(len(context), self.steps, -1)
        return functools.reduce(reflect, F.normalize(directions, dim=2).unbind(1), z), ldj


class Sylvester(nn.Module):
    """z + Q R tanh(S Q' z + b): Q orthogonal, R and S upper triangular (van den Berg et al. 2018).

    All are computed from the image. Q is a product of reflections, so it is exactly orthogonal."""

    def __init__(self, z_dim, steps, reflections=8):
        super().__init__()
        self.sizes = [reflections * z_dim, z_dim**2, z_dim**2, z_dim, z_dim, z_dim] * steps
        self.amortised = nn.Linear(CONTEXT, sum(self.sizes))
        nn.init.normal_(self.amortised.weight, std=0.01)
        self.register_buffer("above", torch.ones(z_dim, z_dim).triu(1), persistent=False)

    def forward(self, z, ldj, context):
        size, parts = z.shape[-1], self.amortised(context).split(self.sizes, 1)
        for directions, r, s, r_diagonal, s_diagonal, b in zip(*(parts[i::6] for i in range(6))):
            directions = F.normalize(directions.view(len(b), -1, size), dim=2).unbind(1)
            r, s = r.view(-1, size, size) * self.above, s.view(-1, size, size) * self.above
            r_diagonal, s_diagonal = torch.tanh(r_diagonal), torch.tanh(s_diagonal)  # their product is > -1: invertible
            rotated = functools.reduce(reflect, directions, z)  # Q' z
            # elementwise products and sums: four times as fast as one small matrix product per image
            t = torch.tanh(s_diagonal * rotated + (s * rotated.unsqueeze(-2)).sum(-1) + b)
            step = r_diagonal * t + (r * t.unsqueeze(-2)).sum(-1)
            z = z + functools.reduce(reflect, reversed(directions), step)
            ldj = ldj + torch.log1p((1 - t.pow(2)) * r_diagonal * s_diagonal).sum(-1)
        return z, ldj


class InverseAutoregressive(nn.Module):
    """z' = s z + (1 - s) m. A dimension's s and m depend on the image and on earlier dimensions.

    The order of the dimensions is reversed after each step."""

    def __init__(self, z_dim, steps, n_hidden=200):
        super().__init__()
        before = torch.arange(1, z_dim + 1)
        hidden = torch.arange(n_hidden) % max(1, z_dim - 1) + 1  # a unit reads the dimensions up to its number
        self.register_buffer("mask_in", (hidden[:, None] >= before).float(), persistent=False)
        self.register_buffer("mask_out", (before[:, None] > hidden).float().repeat(2, 1), persistent=False)
        self.inward = nn.ModuleList(nn.Linear(z_dim, n_hidden) for _ in range(steps))
        self.from_context = nn.ModuleList(nn.Linear(CONTEXT, n_hidden) for _ in range(steps))
        self.outward = nn.ModuleList(nn.Linear(n_hidden, 2 * z_dim) for _ in range(steps))
        for layer in self.outward:
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, z, ldj, context):
        for inward, from_context, outward in zip(self.inward, self.from_context, self.outward):
            h = F.elu(F.linear(z, inward.weight * self.mask_in, inward.bias) + from_context(context))
            m, gate = F.linear(h, outward.weight * self.mask_out, outward.bias).chunk(2, -1)
            gate = gate + 2  # s is near 1 at first: z hardly changes
            z = torch.sigmoid(gate) * z + torch.sigmoid(-gate) * m
            z, ldj = z.flip(-1), ldj + F.logsigmoid(gate).sum(-1)
        return z, ldj


POSTERIORS = {
    "diagonal": None, "planar": Planar, "householder": Householder, "sylvester": Sylvester,
    "iaf": InverseAutoregressive,
}  # fmt: skip


class FlowPrior(nn.Module):
    """p(z): couplings that map z to normal noise."""

    def __init__(self, z_dim, steps=6, n_hidden=200):
        super().__init__()
        masks = [((torch.arange(z_dim) + 1 + i) % 2).float() for i in range(steps)]  # even dimensions, odd ones, ...
        self.layers = nn.ModuleList(Coupling(z_dim, mask, n_hidden) for mask in masks)

    def log_prob(self, z):
        """[..., D] -> [...], nats."""
        noise, ldj = z.flatten(0, -2), z.new_zeros(z[..., 0].numel())
        for layer in self.layers:
            noise, ldj = layer(noise, ldj)
        return (log_prior(noise).sum(1) + ldj).view(z.shape[:-1])

    def from_noise(self, noise):
        z, ldj = noise, torch.zeros_like(noise[:, 0])
        for layer in reversed(self.layers):
            z, ldj = layer(z, ldj, reverse=True)
        return z


class GridEncoder(vae.Encoder):
    """An encoder for two latent dimensions that reads p(x|z) on a grid of latent vectors instead of the pixels of x.

    The grid's points have equal shares of the prior's mass, so p(x|z_k) / sum_j p(x|z_j) is the posterior on the grid.
    The mean of its fourth root, normalised, is the encoder's first guess. There is little left to learn, because the
    decoder contains nearly all that the encoder needs to know about an image."""

    def __init__(self, decoder, hidden_dim, side=20):
        super().__init__(hidden_dim, 2)
        self.hidden = nn.Linear(side**2, hidden_dim)
        self.logits_of = decoder.logits  # a method, so the decoder's weights are not registered here as well
        self.register_buffer("grid", vae.manifold_grid(side), persistent=False)
        self.scale = side  # of the inputs, which are small: they sum to 1
        nn.init.constant_(self.out.bias[2:], -3.0)  # std 0.08 at first, near that of trained posteriors

    def forward(self, input):
        with torch.no_grad(), torch.autocast(input.device.type, enabled=False):  # the decoder learns through z alone
            logits = self.logits_of(self.grid)  # [side^2, 784]
            log_px_z = input @ logits.T - F.softplus(logits).sum(1)  # [..., side^2]
            # The posterior is often narrower than the grid's spacing. The fourth root spreads it over several points.
            posterior = torch.softmax(log_px_z / 4, -1)
        correction, std = super().forward(self.scale * posterior)
        return posterior @ self.grid + 0.3 * correction, std  # 0.3: smaller steps of Adam, or training is unstable


class PixelDecoder(PixelCNN):
    """p(x|z) pixel by pixel: a PixelCNN conditioned on the output of the VAE's decoder."""

    def __init__(self, n_hidden, layers):
        super().__init__(1, n_hidden, layers)
        self.condition = nn.Conv2d(1, n_hidden, 3, padding=1)
        self.given = None

    def condition_on(self, drawn):
        """Set the decoder output [B, 784] that the following calls are conditioned on."""
        self.given = self.condition(drawn.view(-1, 1, 28, 28))
        return self

    def start(self, x):
        v, h = super().start(x)
        return v, h + self.given

    def next_row(self, x, row, cache):
        super().next_row(x, row, cache)
        cache["first"] = cache["first"] + self.given[:, :, row].mT


def along(z, start, log_q):
    """log q(z|x) [n, B] with its path gradient. log_q was computed from `start`, the input of the flow.

    The gradient with respect to z is that with respect to `start`, times the inverse of the flow's Jacobian. (Vaitl et
    al. 2024 compute it step by step.)"""
    gradient = torch.autograd.grad(log_q.sum(), start, retain_graph=True)[0]
    units = torch.eye(z.shape[-1]).to(z)[:, None, None].expand(-1, *z.shape)
    jacobian = torch.autograd.grad(z, start, units, retain_graph=True, is_grads_batched=True)[0]  # [D of z, n, B, D]
    gradient = torch.linalg.solve_ex(jacobian.movedim(0, -1), gradient)[0]  # transposed Jacobian
    return vae.with_gradient_of((gradient * z).sum(-1), log_q)


class Family(vae.VAE):
    """A VAE with exchangeable decoder, posterior and prior; with the defaults, exactly the VAE."""

    def __init__(
        self, hidden_dim=500, z_dim=20, decoder="bernoulli", posterior="diagonal", prior="normal", flows=4,
        net="mlp", channels=16, pixelcnn=PIXELCNN, autoencoder=False, encoder="pixels",
    ):  # fmt: skip
        super().__init__(hidden_dim, z_dim)
        if net == "conv":
            hidden_dim = 98 * channels
            self.encoder.hidden, self.encoder.out = ConvEncoder(channels), nn.Linear(hidden_dim, 2 * z_dim)
            self.decoder.hidden, self.decoder.out = nn.Linear(z_dim, hidden_dim), ConvDecoder(channels)
        if encoder == "grid":
            self.encoder = GridEncoder(self.decoder, hidden_dim)
        self.autoencoder = autoencoder
        self.beta, self.free_bits, self.samples = 1.0, 0.0, 1  # of the objective in training
        self.flow = None
        if posterior != "diagonal":
            self.context = nn.Linear(hidden_dim, CONTEXT)
            self.flow = POSTERIORS[posterior](z_dim, flows)
        self.prior = FlowPrior(z_dim) if prior == "coupling" else None
        self.pixels = PixelDecoder(*pixelcnn) if decoder == "pixelcnn" else None
        self.gaussian = decoder in GAUSSIAN
        log_variance = torch.tensor(math.log(0.5))
        if decoder == "learned-gaussian":
            self.log_variance = nn.Parameter(log_variance)
        else:
            self.register_buffer("log_variance", log_variance)
        self.standard = (decoder, posterior, prior) == ("bernoulli", "diagonal", "normal")  # only networks may differ

    def log_px_z(self, x, z):
        """x [B, 784] and z [..., B, D] -> log p(x|z) [..., B]."""
        logits = self.decoder.logits(z)
        if self.gaussian:
            square = (x - torch.sigmoid(logits)).pow(2).sum(-1)
            return -0.5 * (square * torch.exp(-self.log_variance) + 784 * (self.log_variance + math.log(2 * math.pi)))
        if self.pixels is not None:
            images = x.expand(*z.shape[:-1], 784).flatten(0, -2)
            logits = at_least_float32(self.pixels.condition_on(logits.flatten(0, -2))(2 * images - 1)).view(
                *z.shape[:-1], 784
            )
        return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)

    def log_p_z(self, z):
        return log_prior(z).sum(-1) if self.prior is None else self.prior.log_prob(z)

    def encode(self, x, n):
        """n samples per image from q(z|x): z [n, B, D], log q(z|x) [n, B], and the encoder's mean and std."""
        mean, std = self.encoder(x)
        z = start = mean + std * torch.randn(n, *mean.shape, device=x.device)
        path = self.training and self.flow is None  # path gradient: mean and std are constants in log q
        fixed_mean, fixed_std = (mean.detach(), std.detach()) if path else (mean, std)
        log_q = (log_prior((z - fixed_mean) / fixed_std) - fixed_std.log()).sum(-1)
        if self.flow is not None:
            z, ldj = self.through_flow(x, start)
            log_q = along(z, start, log_q - ldj) if self.training else log_q - ldj
        return z, log_q, mean, std

    def through_flow(self, x, z):
        """z [..., B, D] from the diagonal Gaussian -> output of the flow and log-determinant [..., B]."""
        context = at_least_float32(self.context(F.gelu(self.encoder.hidden(x))))
        with torch.autocast(x.device.type, enabled=False):  # determinants need full precision
            return self.flow(z, torch.zeros_like(z[..., 0]), context)

    def code(self, x):
        """One code per image, [B, D]: the encoder's mean, sent through the flow if there is one."""
        mean, _ = self.encoder(x)
        return mean if self.flow is None else self.through_flow(x, mean)[0]

    def log_weights(self, x, n):
        """log p(x|z) p(z) / q(z|x) for n samples from q: [n, B].

        Their mean estimates the bound. The log of the mean weight is a tighter bound (Burda et al. 2016)."""
        z, log_q, _, _ = self.encode(x, n)
        return self.log_px_z(x, z) + self.log_p_z(z) - log_q

    def terms(self, input):
        """Like VAE.terms: E_q[log p(x|z)] and KL(q(z|x) || p(z)), each [B], with the gradients of the objective."""
        reconstruction, kl = self.unweighted_terms(input.flatten(1))
        if self.training and self.beta != 1:
            kl = vae.with_gradient_of(self.beta * kl, kl)
        return reconstruction, kl

    def unweighted_terms(self, x):
        if self.autoencoder:  # the code is the encoder's mean
            reconstruction = self.log_px_z(x, self.code(x))
            return reconstruction, torch.zeros_like(reconstruction)
        if self.standard and self.samples == 1 and not self.free_bits:
            return super().terms(x)
        z, log_q, mean, std = self.encode(x, self.samples)
        reconstruction, kl = self.log_px_z(x, z), log_q - self.log_p_z(z)  # [n, B]
        if self.training and self.samples > 1:
            weights = torch.softmax((reconstruction - kl).detach(), 0)  # normalised importance weights
            z.register_hook(lambda gradient: weights.unsqueeze(-1) * gradient)  # path gradients: weights squared
            weighted = (weights * (reconstruction - kl)).sum(0)
            return reconstruction.mean(0).detach(), vae.with_gradient_of(-weighted, kl.mean(0))
        reconstruction, kl = reconstruction.mean(0), kl.mean(0)
        if self.flow is None and self.prior is None:
            exact = vae.kl_per_dimension(mean, std)  # [B, D]
            if self.training and self.free_bits:  # they apply to the batch average, as in the paper
                kl = exact.mean(0).clamp_min(self.free_bits).sum()
            kl = vae.with_gradient_of(kl, exact.sum(1)) if self.training else exact.sum(1)
        return reconstruction, kl

    @torch.no_grad()
    def sample(self, n_samples):
        """Like VAE.sample: binary images and the means of their pixels, each [n, 1, 28, 28]."""
        device = next(self.parameters()).device
        z = self.from_noise(torch.randn(n_samples, self.z_dim, device=device))
        if self.pixels is None:
            means = self.decoder(z)
            images = torch.bernoulli(means)
        else:
            images, logits = self.sample_pixels(z, torch.rand(n_samples, 784, device=device))
            means = torch.sigmoid(logits)
        return images.view(-1, 1, 28, 28), means.view(-1, 1, 28, 28)

    def from_noise(self, noise):
        """Normal noise to samples z of the prior, each [n, D]."""
        return noise if self.prior is None else self.prior.from_noise(noise)

    @torch.no_grad()
    def draw(self, noise, uniforms):
        """Images in 0..1 from normal noise: decoder means, or samples if the decoder is a PixelCNN."""
        z = self.from_noise(noise)
        return self.decoder(z) if self.pixels is None else self.sample_pixels(z, uniforms)[0]

    @torch.no_grad()
    def sample_pixels(self, z, uniforms):
        """Sample from a PixelCNN decoder: pixels [B, 784] from uniform numbers, and the logits of each pixel."""
        x, logits, cache = torch.zeros_like(uniforms), torch.zeros_like(uniforms), {}
        self.pixels.condition_on(self.decoder.logits(z))
        for d in range(784):
            logits[:, d] = self.pixels.at(2 * x - 1, d, cache)[:, 0]
            x[:, d] = (uniforms[:, d] < torch.sigmoid(logits[:, d])).float()
        return x, logits


@torch.no_grad()
def diagnose(model, data):
    """The averages of both terms of the bound, and the number of active latent dimensions, for any variant."""
    reconstruction, kl = (torch.cat(parts).mean() for parts in zip(*map(model.terms, data)))
    return float(reconstruction), float(kl), vae.diagnose(model, data)[1]


def log_likelihood(model, data, n_samples):
    """(average bound, average importance-sampling estimate of log p(x)), as in a3_vae_template.py."""
    return vae.log_likelihood(model, data, n_samples, (250, 20) if model.pixels is None else (50, 4))


def clip_gradients(optimizer, *_):
    """Flows occasionally produce huge gradients, which would distort Adam's averages for thousands of steps.

    The usual norm is below 60."""
    nn.utils.clip_grad_norm_([weights for group in optimizer.param_groups for weights in group["params"]], 100.0)


def save_figures(run, title, snapshots, what):
    """The bound and its two terms, which an autoencoder lacks; images decoded from fixed codes during training."""
    epochs = run.column("epoch")
    lines = {"-log p(x|z)": [-x for x in run.column("val_reconstruction")[1:]]}
    if run.history[0]["val_elbo"] is not None:
        bounds = {"training": run.column("train_elbo"), "validation": run.column("val_elbo")}
        figures.curves(run.figure("elbo.pdf"), epochs, bounds, ylabel="bound, nats per image", title=title, zoom_from=2)
        lines["KL(q || p)"] = run.column("val_kl")[1:]
    title_of_terms = f"{title}, validation images"
    figures.curves(run.figure("terms.pdf"), epochs[1:], lines, ylabel="nats per image", title=title_of_terms)
    grids = {f"epoch {epoch}": grid / 255 for epoch, grid in snapshots.items()}
    figures.image_grids(run.figure("samples.png"), grids, 6, f"{title}: {what} of p(x|z) for the same z")


def load(path):
    return models.load_model(path, f"beyond/{Path(__file__).name}", Family)


def draw(model, n):
    return model.draw(torch.randn(n, model.z_dim), torch.rand(n, 784))


def differences(args):
    """{part of the run's name: words for its title}, for each option that differs from the plain VAE."""
    parts = {value: PARTS[value] for value in (args.decoder, args.posterior) if value in PARTS}
    epochs = "epochs" if args.warmup > 1 else "epoch"
    for differs, name, words in (
        (args.pixelcnn != PIXELCNN, "{}x{}".format(*args.pixelcnn), "{} channels, {} layers".format(*args.pixelcnn)),
        (args.net == "conv", "conv", f"residual networks, {args.channels} channels"),
        (args.encoder == "grid", "grid", "grid encoder"),
        (args.autoencoder, "autoencoder", "Autoencoder"),
        (args.prior != "normal", "prior", "coupling prior"),
        (args.beta != 1, f"beta{args.beta:g}", f"KL weight {args.beta:g}"),
        (args.warmup, f"warmup{args.warmup}", f"KL warm-up, {args.warmup} {epochs}"),
        (args.free_bits, f"free{args.free_bits:g}", f"free bits, {args.free_bits:g} nats"),
        (args.samples > 1, f"iwae{args.samples}", f"importance-weighted, {args.samples} samples"),
    ):
        parts |= {name: words} if differs else {}
    return parts or {"plain": "plain"}


def default_name(args):
    return f"family-{'-'.join(differences(args))}"


def title(args):
    words = differences(args)
    return ", ".join([words.pop("autoencoder", "VAE"), *words.values()])


def main(args):
    if args.sample:
        return models.draw_samples(args, default_name(args), BINARY + GREY, load, draw)
    grey = args.decoder in GAUSSIAN
    splits = (mnist if grey else bmnist)(args.data_root, args.batch_size, data=args.data, shift=1)
    train, val, test = (split.as_means() for split in splits) if grey else splits
    run = Run(args, __file__, default_name(args), train.name, args.epochs)
    print(f"Data:   {train.title}, {train.source}")
    if run.finished:
        return
    if args.quick:
        train, val, test = train.subset(2000), val.subset(500), test.subset(200)
    train, val, test = train.to(run.device), val.to(run.device), test.to(run.device)

    torch.manual_seed(args.seed)
    sizes = {"hidden_dim": args.hidden, "z_dim": args.zdim, "decoder": args.decoder, "posterior": args.posterior,
             "prior": args.prior, "flows": args.flows, "net": args.net, "channels": args.channels,
             "pixelcnn": args.pixelcnn, "autoencoder": args.autoencoder, "encoder": args.encoder}  # fmt: skip
    model = Family(**sizes).to(run.device)
    model.samples, model.free_bits = args.samples, args.free_bits
    # Coupling flows diverged at the full learning rate: flows use a third of it. Layers that compute a flow's weights
    # from the image use a tenth: at a third, Sylvester flows were far worse.
    slower = lambda name: 10 if name.startswith("flow.amortised.") else 3 if name.startswith(("flow.", "prior.")) else 1
    rates = {k: args.lr / k for k in (1, 3, 10)}
    full, *others = ([w for name, w in model.named_parameters() if slower(name) == k] for k in rates)
    hidden = [] if model.pixels is None else model.pixels.hidden()  # without any, Muon is AdamW
    optimizer = Muon(full, args.lr, hidden, MUON, 1e-4, weight_decay=0.02, fused=True)
    for weights in others:
        optimizer.add_param_group({"params": weights})
    schedule = one_cycle(optimizer, [args.lr, MUON, *list(rates.values())[1:]], args.epochs * len(train))
    if not model.standard or (args.net, args.encoder) != ("mlp", "pixels"):
        optimizer.register_step_pre_hook(clip_gradients)
    codes, uniforms = torch.randn(36, args.zdim), torch.rand(36, 784)  # fixed, so that epochs are comparable
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    state = run.load(parts)
    snapshots, best = state.get("snapshots", {}), state.get("best")
    # The best epoch by validation bound if the bound is the objective, otherwise the last epoch.
    for_bound = args.beta == 1 and args.samples == 1 and not args.free_bits and not args.autoencoder
    bound, score = lambda value: None if args.autoencoder else value, lambda row: row["val_elbo"]

    for epoch in range(len(run.history), args.epochs + 1):
        run.seed(epoch)
        if epoch == 0:
            model.eval()
            train_elbo, val_elbo = vae.epoch_iter(model, train.subset(5000), None), vae.epoch_iter(model, val, None)
        else:
            model.beta = args.beta * min(1.0, epoch / (args.warmup + 1))
            train.share = max(0.0, 1 - (epoch - 1) / (0.9 * args.epochs))
            train_elbo, val_elbo = vae.run_epoch(model, (run.train_progress(train), val), optimizer, schedule)
        reconstruction, kl, active = diagnose(model, val)
        run.record(
            epoch, train_elbo=bound(train_elbo), val_elbo=bound(val_elbo),
            val_reconstruction=reconstruction, val_kl=bound(kl), active_units=active,
        )  # fmt: skip
        if for_bound and max(run.history, key=score) is run.history[-1]:
            best = copy.deepcopy(model.state_dict())
        if epoch in vae.stages(args.epochs):
            drawn = model.draw(codes.to(run.device), uniforms.to(run.device))
            snapshots[epoch] = (255 * drawn).round().to(torch.uint8).cpu()
        run.save(parts, best=best, snapshots=snapshots)

    if for_bound:
        model.load_state_dict(best)
    model.eval()
    run.save_model(sizes, model)
    save_figures(run, f"{title(args)}, {train.title}", snapshots, "samples" if model.pixels else "means")
    run.seed(args.epochs + 1)
    batches = run.progress(test.subset(args.eval_images), "test")
    test_elbo = test_log_likelihood = None
    if not args.autoencoder:
        test_elbo, test_log_likelihood = log_likelihood(model, batches, args.eval_samples)
    chosen = max(run.history, key=score) if for_bound else run.history[-1]
    run.finish(
        [model], **{key: chosen[key] for key in ("val_elbo", "val_reconstruction", "val_kl", "active_units")},
        best_epoch=chosen["epoch"], test_elbo=test_elbo, test_log_likelihood=test_log_likelihood,
        eval_samples=args.eval_samples, eval_images=min(args.eval_images, len(test.images)),
    )  # fmt: skip


def parse_args(words=None):
    number = cli.number
    parser = cli.Parser(__doc__, __file__)
    group = parser.add_argument_group("objective")
    group.add_argument("--beta", type=number(float, 0), default=1.0, help="weight of the KL term in training")
    group.add_argument("--warmup", type=number(int, 0), default=0, help="epochs before this weight reaches --beta")
    group.add_argument("--free_bits", type=number(float, 0), default=0.0, help="unpenalised KL per dimension, nats")
    group.add_argument("--samples", type=number(int, 1, 1000), default=1, help="samples of z in the training objective")
    text = "neither noise nor KL term: no bound, and no prior to sample from"
    group.add_argument("--autoencoder", action="store_true", help=text)
    group = parser.add_argument_group("model and training")
    group.add_argument(
        "--decoder", choices=["bernoulli", *GAUSSIAN, "pixelcnn"], default="bernoulli",
        help="p(x|z); gaussian (variance 1/2) and learned-gaussian use 8-bit data",
    )  # fmt: skip
    text = "what the encoder reads: the pixels, or p(x|z) on a grid of z (two latent dimensions only)"
    group.add_argument("--encoder", choices=["pixels", "grid"], default="pixels", help=text)
    group.add_argument("--posterior", choices=list(POSTERIORS), default="diagonal", help="q(z|x)")
    group.add_argument("--flows", type=number(int, 1, 100), default=4, help="steps of the posterior flow")
    group.add_argument("--prior", choices=["normal", "coupling"], default="normal", help="p(z)")
    group.add_argument("--epochs", type=number(int, 1), default=40, help="passes over the training images")
    group.add_argument("--zdim", type=number(int, 2, 1000), default=20, help="dimensions of the latent space")
    group.add_argument("--hidden", type=number(int, 1, 20000), default=500, help="width of the hidden layers")
    group.add_argument(
        "--net", choices=["mlp", "conv"], default="mlp", help="fully connected, or residual convolutional"
    )
    group.add_argument("--channels", type=number(int, 1, 1000), default=16, help="feature maps of 14 x 14, --net conv")
    text = "feature maps and layers of --decoder pixelcnn"
    group.add_argument(
        "--pixelcnn", type=number(int, 1, 1000), nargs=2, default=PIXELCNN, metavar=("C", "L"), help=text
    )
    group.add_argument("--batch_size", type=number(int, 1), default=128, help="images per step")
    group.add_argument("--lr", type=number(float, above=0), default=6e-3, help="peak learning rate")
    text = "importance samples per image for the test log p(x)"
    group.add_argument("--eval_samples", type=number(int, 1), default=500, help=text)
    text = "test images, evenly spaced, for the test bound and log p(x)"
    group.add_argument("--eval_images", type=number(int, 1), default=1000, help=text)
    cli.sample_options(parser)
    cli.run_options(parser, BINARY + GREY)
    args = parser.parse_args(words)
    grey = args.decoder in GAUSSIAN
    for wrong, message in (
        (args.data != "auto" and (args.data in GREY) != grey,
         f"--decoder {args.decoder} needs {'8-bit' if grey else 'binary'} data, not {args.data}"),
        (args.samples > 1 and (args.beta != 1 or args.warmup or args.free_bits),
         "--samples cannot be combined with --beta, --warmup or --free_bits: its bound has no separate KL term"),
        (args.warmup >= args.epochs,
         f"--warmup {args.warmup} must be less than --epochs {args.epochs}: the KL weight would never reach --beta"),
        (args.posterior == "sylvester" and args.zdim > 100,
         "--posterior sylvester: at most 100 dimensions, since its matrices have zdim x zdim elements"),
        (args.autoencoder and (args.samples > 1 or args.beta != 1 or args.warmup or args.free_bits
                               or (args.posterior, args.prior) != ("diagonal", "normal")),
         "--autoencoder has no bound: it cannot be combined with other objectives, posteriors or priors"),
        (args.encoder == "grid" and (args.zdim, args.net, args.posterior) != (2, "mlp", "diagonal"),
         "--encoder grid needs --zdim 2, --net mlp and --posterior diagonal"),
        (args.pixelcnn != PIXELCNN and args.decoder != "pixelcnn", "--pixelcnn needs --decoder pixelcnn"),
        (args.free_bits and (args.posterior, args.prior) != ("diagonal", "normal"),
         "--free_bits needs the KL of each dimension: use a diagonal posterior and a normal prior"),
    ):  # fmt: skip
        if wrong:
            parser.error(message)
    if args.quick:
        args.epochs, args.eval_samples = min(args.epochs, 2), min(args.eval_samples, 20)
        args.warmup = min(args.warmup, args.epochs - 1)
    return args


if __name__ == "__main__":
    cli.start(main, parse_args)
