"""Relatives of the VAE on static binary MNIST: other objectives, decoders, posteriors, priors, alone or together.

    python code/beyond/vae_family.py                         the VAE of a3_vae_template.py, trained to the same digits
    python code/beyond/vae_family.py --beta 4                beta-VAE; --beta 0: reconstruction alone
    python code/beyond/vae_family.py --warmup 10             the KL term's weight rises over ten epochs
    python code/beyond/vae_family.py --free_bits 0.5         half a nat of every latent dimension costs nothing
    python code/beyond/vae_family.py --samples 5             importance-weighted bound (IWAE)
    python code/beyond/vae_family.py --posterior sylvester   q(z|x) through a flow; planar, householder, iaf, coupling
    python code/beyond/vae_family.py --prior coupling        a flow as prior, learned
    python code/beyond/vae_family.py --decoder pixelcnn      a decoder that could do without z
    python code/beyond/vae_family.py --decoder gaussian      8-bit MNIST, variance 1/2; learned-gaussian
    python code/beyond/vae_family.py --quick                 a small run

beta-VAE: Higgins et al. 2017; free bits, IAF: Kingma et al. 2016 (arXiv:1606.04934); IWAE: Burda et al. 2016
(arXiv:1509.00519); planar: Rezende and Mohamed 2015 (arXiv:1505.05770); Householder: Tomczak and Welling 2016
(arXiv:1611.09630); Sylvester: van den Berg et al. 2018 (arXiv:1803.05649).

Whatever is trained for, what is recorded is the bound itself, log p(x) >= E_q[log p(x|z) + log p(z) - log q(z|x)], in
nats: `Family.terms` returns the bound's values with the gradients of the objective, so that the epochs are those of
a3_vae_template.py. Posteriors keep that script's path gradient, behind a flow (Vaitl et al. 2024, arXiv:2403.15881) and
with importance weights (Tucker et al. 2019, arXiv:1810.04152) as well; only free bits train with the ordinary one.

Measured on one core of an AMD EPYC without bfloat16 instructions, torch 2.14, static binary MNIST, test images judged
once: --prior coupling --zdim 40 --epochs 100, log p(x) -83.34 nats (5000 draws) after 854 s, where the VAE has -91.64
(500 draws on 1000 images). The other members are in the report and in report/results/family-*.json.
"""

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
from common.devices import at_least_float32, in_double
from common.run import Run
from datasets.bmnist import BINARY, bmnist
from datasets.mnist import GREY, mnist

CONTEXT = 100  # numbers that a flow behind the encoder is told about an image
GAUSSIAN = ("gaussian", "learned-gaussian")
PARTS = {  # in titles
    "gaussian": "Gaussian decoder, variance 1/2", "learned-gaussian": "Gaussian decoder, learned variance",
    "pixelcnn": "PixelCNN decoder", "planar": "planar posterior", "householder": "Householder posterior",
    "sylvester": "Sylvester posterior", "iaf": "autoregressive posterior", "coupling": "coupling posterior",
}  # fmt: skip


class Planar(nn.Module):
    """z + u tanh(w z + b), `steps` times, u, w and b made from the image (Rezende and Mohamed 2015, Appendix A.1)."""

    def __init__(self, z_dim, steps):
        super().__init__()
        self.sizes = [z_dim, z_dim, 1] * steps
        self.amortised = nn.Linear(CONTEXT, sum(self.sizes))
        nn.init.normal_(self.amortised.weight, std=0.01)

    def forward(self, z, ldj, context):
        """z [..., B, D], ldj [..., B] and context [B, CONTEXT] -> z and ldj behind the flow."""
        parts = self.amortised(context).split(self.sizes, 1)
        for u, w, b in zip(parts[0::3], parts[1::3], parts[2::3]):
            wu = (w * u).sum(1, keepdim=True)
            # w u becomes log(1 + exp(w u)) - 1 > -1: invertible
            u = u + (F.softplus(wu) - 1 - wu) * w / w.pow(2).sum(1, keepdim=True).clamp_min(1e-8)
            t = torch.tanh((w * z).sum(-1, keepdim=True) + b)
            z = z + u * t
            ldj = ldj + torch.log1p((1 - t[..., 0].pow(2)) * (w * u).sum(1))
        return z, ldj


def reflect(z, v):
    """z [..., B, D] on the other side of the plane through 0 that is orthogonal to v [B, D], of length 1."""
    return z - 2 * v * (v * z).sum(-1, keepdim=True)


class Householder(nn.Module):
    """Reflections: a Gaussian stays one and gets a full covariance, volumes stay."""

    def __init__(self, z_dim, steps):
        super().__init__()
        self.steps = steps
        self.amortised = nn.Linear(CONTEXT, steps * z_dim)

    def forward(self, z, ldj, context):
        directions = self.amortised(context).view(len(context), self.steps, -1)
        return functools.reduce(reflect, F.normalize(directions, dim=2).unbind(1), z), ldj


class Sylvester(nn.Module):
    """z + Q R tanh(S Q' z + b): Q orthogonal, R and S upper triangular (van den Berg et al. 2018), made from the image.

    Q is a product of reflections, so orthogonal without a projection."""

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
            r_diagonal, s_diagonal = torch.tanh(r_diagonal), torch.tanh(s_diagonal)  # product > -1: invertible
            rotated = functools.reduce(reflect, directions, z)  # Q' z
            # sums of products: four times as fast as small matrix products, one for each image
            t = torch.tanh(s_diagonal * rotated + (s * rotated.unsqueeze(-2)).sum(-1) + b)
            step = r_diagonal * t + (r * t.unsqueeze(-2)).sum(-1)
            z = z + functools.reduce(reflect, reversed(directions), step)
            ldj = ldj + torch.log1p((1 - t.pow(2)) * r_diagonal * s_diagonal).sum(-1)
        return z, ldj


class InverseAutoregressive(nn.Module):
    """z' = s z + (1 - s) m, s and m of a dimension from those before it, and the image; the order turns in between."""

    def __init__(self, z_dim, steps, n_hidden=200):
        super().__init__()
        before = torch.arange(1, z_dim + 1)
        hidden = torch.arange(n_hidden) % max(1, z_dim - 1) + 1  # each unit sees the dimensions up to its number
        self.register_buffer("mask_in", (hidden[:, None] >= before).float(), persistent=False)
        self.register_buffer("mask_out", (before[:, None] > hidden).float().repeat(2, 1), persistent=False)
        self.inward = nn.ModuleList(nn.Linear(z_dim, n_hidden) for _ in range(steps))
        self.told = nn.ModuleList(nn.Linear(CONTEXT, n_hidden) for _ in range(steps))
        self.outward = nn.ModuleList(nn.Linear(n_hidden, 2 * z_dim) for _ in range(steps))
        for layer in self.outward:
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, z, ldj, context):
        for inward, told, outward in zip(self.inward, self.told, self.outward):
            h = F.elu(F.linear(z, inward.weight * self.mask_in, inward.bias) + told(context))
            m, gate = F.linear(h, outward.weight * self.mask_out, outward.bias).chunk(2, -1)
            gate = gate + 2  # mostly open at first: z stays
            z = torch.sigmoid(gate) * z + torch.sigmoid(-gate) * m
            ldj = ldj + F.logsigmoid(gate).sum(-1)
            z = z.flip(-1)
        return z, ldj


def halves(z_dim):
    """The mask of every second dimension."""
    return (torch.arange(z_dim) % 2 == 0).float()


class Couplings(nn.Module):
    """The flow's couplings; what is known of the image stands beside z as elements that always stay."""

    def __init__(self, z_dim, steps, n_hidden=200):
        super().__init__()
        masks = [torch.cat([(halves(z_dim) + i) % 2, torch.ones(CONTEXT)]) for i in range(steps)]
        self.layers = nn.ModuleList(Coupling(z_dim + CONTEXT, mask, n_hidden) for mask in masks)

    def forward(self, z, ldj, context):
        both = torch.cat([z, context.expand(*z.shape[:-1], CONTEXT)], -1).flatten(0, -2)
        shape, ldj = z.shape, ldj.flatten()
        for layer in self.layers:
            both, ldj = layer(both, ldj)
        return both[:, : shape[-1]].view(shape), ldj.view(shape[:-1])


POSTERIORS = {
    "diagonal": None, "planar": Planar, "householder": Householder, "sylvester": Sylvester,
    "iaf": InverseAutoregressive, "coupling": Couplings,
}  # fmt: skip


class FlowPrior(nn.Module):
    """p(z): couplings that carry z to normal noise."""

    def __init__(self, z_dim, steps=6, n_hidden=200):
        super().__init__()
        self.layers = nn.ModuleList(Coupling(z_dim, (halves(z_dim) + i) % 2, n_hidden) for i in range(steps))

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


class PixelDecoder(PixelCNN):
    """p(x|z) pixel by pixel: a small PixelCNN that also reads the picture which the VAE's decoder draws of z."""

    def __init__(self, n_hidden=16, layers=4):
        super().__init__(1, n_hidden, layers)
        self.look = nn.Conv2d(1, n_hidden, 3, padding=1)
        self.given = None

    def see(self, drawn):
        """[B, 784]: what the following calls know of z."""
        self.given = self.look(drawn.view(-1, 1, 28, 28))
        return self

    def start(self, image):
        v, h = super().start(image)
        return v, h + self.given

    def next_row(self, image, row, cache):
        super().next_row(image, row, cache)
        cache["first"] = cache["first"] + self.given[:, :, row : row + 1]


def along(z, start, log_q):
    """log q(z|x) [n, B] with a gradient along z alone, though it was computed from where the flow starts.

    The slope at z comes from that at the start through the flow's Jacobian (Vaitl et al. 2024: step by step)."""
    slope = torch.autograd.grad(log_q.sum(), start, retain_graph=True)[0]
    units = torch.eye(z.shape[-1]).to(z)[:, None, None].expand(-1, *z.shape)
    jacobian = torch.autograd.grad(z, start, units, retain_graph=True, is_grads_batched=True)[0]  # [D of z, n, B, D]
    slope = torch.linalg.solve_ex(jacobian.movedim(0, -1), slope)[0]  # transposed Jacobian times new slope: old one
    return log_q.detach() + (slope * (z - z.detach())).sum(-1)


class Family(vae.VAE):
    """The VAE with parts exchanged; without any of the arguments, the VAE."""

    def __init__(
        self, hidden_dim=500, z_dim=20, decoder="bernoulli", posterior="diagonal", prior="normal", flows=4, depth=1
    ):
        super().__init__(hidden_dim, z_dim)
        for half in self.encoder, self.decoder:  # more hidden layers on top of the first
            for _ in range(depth - 1):
                half.hidden = nn.Sequential(half.hidden, nn.GELU(), nn.Linear(hidden_dim, hidden_dim))
        self.free_bits, self.samples = 0.0, 1
        self.flow = self.prior = self.pixels = None
        if posterior != "diagonal":
            self.context = nn.Linear(hidden_dim, CONTEXT)
            self.flow = POSTERIORS[posterior](z_dim, flows)
        if prior == "coupling":
            self.prior = FlowPrior(z_dim)
        if decoder == "pixelcnn":
            self.pixels = PixelDecoder()
        self.gaussian = decoder in GAUSSIAN
        log_variance = torch.tensor(math.log(0.5))
        if decoder == "learned-gaussian":
            self.log_variance = nn.Parameter(log_variance)
        else:
            self.register_buffer("log_variance", log_variance)
        self.plain = (decoder, posterior, prior) == ("bernoulli", "diagonal", "normal")

    def log_px_z(self, x, z):
        """x [B, 784] and z [..., B, D] -> log p(x|z) [..., B]."""
        logits = self.decoder.logits(z)
        if self.gaussian:
            square = (x - torch.sigmoid(logits)).pow(2).sum(-1)
            return -0.5 * (square * torch.exp(-self.log_variance) + 784 * (self.log_variance + math.log(2 * math.pi)))
        if self.pixels is not None:
            images = x.expand(*z.shape[:-1], 784).flatten(0, -2)
            logits = at_least_float32(self.pixels.see(logits.flatten(0, -2))(2 * images - 1)).view(*z.shape[:-1], 784)
        return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)

    def log_p_z(self, z):
        return log_prior(z).sum(-1) if self.prior is None else self.prior.log_prob(z)

    def encode(self, x, n):
        """n draws of q(z|x) for each image: z [n, B, D] and log q(z|x) [n, B]; the mean and std that it starts from."""
        mean, std = self.encoder(x)
        z = mean + std * torch.randn(n, *mean.shape, device=x.device)
        if self.training and self.flow is None:
            fixed_mean, fixed_std = mean.detach(), std.detach()  # the path gradient: along z alone
        else:
            fixed_mean, fixed_std = mean, std
        log_q = (log_prior((z - fixed_mean) / fixed_std) - fixed_std.log()).sum(-1)
        if self.flow is not None:
            start = z
            z, ldj = self.through_flow(x, start)
            log_q = along(z, start, log_q - ldj) if self.training else log_q - ldj
        return z, log_q, mean, std

    def through_flow(self, x, z):
        """z [..., B, D] of the diagonal Gaussian -> z behind the flow, and the log-determinant [..., B]."""
        context = at_least_float32(self.context(F.gelu(self.encoder.hidden(x))))
        with torch.autocast(x.device.type, enabled=False):  # determinants take all digits
            return self.flow(z, torch.zeros_like(z[..., 0]), context)

    def code(self, x):
        """One code for each image, [B, D]: the mean, carried through the flow where there is one."""
        mean, _ = self.encoder(x)
        return mean if self.flow is None else self.through_flow(x, mean)[0]

    def log_weights(self, x, n):
        """log p(x|z) p(z) / q(z|x) for n draws of q: [n, B]. Their mean is the bound, the log of their average weight
        is nearer to log p(x) (Burda et al. 2016)."""
        z, log_q, _, _ = self.encode(x, n)
        return self.log_px_z(x, z) + self.log_p_z(z) - log_q

    def terms(self, input):
        """As in the VAE, [B] each: E_q[log p(x|z)] and KL(q(z|x) || p(z)), but with the objective's gradients."""
        x = input.flatten(1)
        if self.plain and self.samples == 1 and not self.free_bits:
            return super().terms(x)
        z, log_q, mean, std = self.encode(x, self.samples)
        reconstruction, kl = self.log_px_z(x, z), log_q - self.log_p_z(z)  # [n, B]
        if self.training and self.samples > 1:
            share = torch.softmax((reconstruction - kl).detach(), 0)  # of each draw in the objective's gradient
            z.register_hook(lambda gradient: share.unsqueeze(-1) * gradient)  # along z a share counts once more
            weighted = (share * (reconstruction - kl)).sum(0)
            value = reconstruction.mean(0).detach()
            return value, kl.mean(0).detach() + weighted.detach() - weighted
        reconstruction, kl = reconstruction.mean(0), kl.mean(0)
        if self.flow is None and self.prior is None:
            each = 0.5 * (std**2 + mean**2 - 1 - 2 * std.log())  # [B, D], exact
            exact = each.sum(1)
            kl = kl + (exact - kl).detach() if self.training else exact
            if self.training and self.free_bits:
                charged = each.mean(0).clamp_min(self.free_bits).sum()  # averaged over the batch, as in the paper
                kl = exact.detach() + charged - charged.detach()
        return reconstruction, kl

    @torch.no_grad()
    def draw(self, noise, uniforms):
        """Images in 0..1 from standard normal codes: means, or with a PixelCNN decoder draws from uniform numbers."""
        z = noise if self.prior is None else self.prior.from_noise(noise)
        if self.pixels is None:
            return self.decoder(z)
        return self.feed_back(z, uniforms)[0]

    @torch.no_grad()
    def feed_back(self, z, uniforms):
        """A PixelCNN decoder left to itself: its own draws [B, 784], and the logits that it drew them by."""
        x, logits, cache = torch.zeros_like(uniforms), torch.zeros_like(uniforms), {}
        self.pixels.see(self.decoder.logits(z))
        for d in range(784):
            logits[:, d] = self.pixels.at(2 * x - 1, d, cache)[:, 0]
            x[:, d] = (uniforms[:, d] < torch.sigmoid(logits[:, d])).float()
        return x, logits


@torch.no_grad()
def log_likelihood(model, data, n_samples):
    """(average bound, average importance-weighted estimate of log p(x)), as in a3_vae_template.py, for any member."""
    device = next(model.parameters()).device
    images_at_once, chunk = (20, 250) if model.pixels is None else (4, 50)
    bound, estimate, images = 0.0, 0.0, 0
    for batch in data:
        for x in batch.to(device).flatten(1).split(images_at_once):
            sizes = [min(chunk, n_samples - start) for start in range(0, n_samples, chunk)]
            log_w = torch.cat([in_double(model.log_weights(x, size)) for size in sizes])  # [S, B]
            bound += float(log_w.mean(0).sum())
            estimate += float((log_w.logsumexp(0) - math.log(n_samples)).sum())
            images += len(x)
    return bound / images, estimate / images


def clip_gradients(optimizer, *_):
    """A flow may answer one image with a gradient that Adam would remember for thousands of steps; the usual norm is
    below 60."""
    nn.utils.clip_grad_norm_([weights for group in optimizer.param_groups for weights in group["params"]], 100.0)


def save_figures(run, title, grids, what):
    """The bound, its two terms, and what the same codes become during training."""
    figures.curves(
        run.figure("elbo.pdf"), run.column("epoch"),
        {"training": run.column("train_elbo"), "validation": run.column("val_elbo")},
        ylabel="bound, nats per image", title=title, zoom_from=2,
    )  # fmt: skip
    terms = {"-log p(x|z)": [-value for value in run.column("val_reconstruction")], "KL(q || p)": run.column("val_kl")}
    figures.curves(
        run.figure("terms.pdf"), run.column("epoch")[1:], {name: values[1:] for name, values in terms.items()},
        ylabel="nats per image", title=f"{title}, validation images",
    )  # fmt: skip
    shown = {f"epoch {epoch}": grid / 255 for epoch, grid in grids.items()}
    figures.image_grids(run.figure("samples.png"), shown, 6, f"{title}: {what} of p(x|z), the same z in all")


def load(path):
    return models.load_model(path, f"beyond/{Path(__file__).name}", Family)


def draw(model, n):
    return model.draw(torch.randn(n, model.z_dim), torch.rand(n, 784))


def differences(args):
    """{part of the run's name: words for its title} of the options that differ from the plain VAE."""
    parts = {value: PARTS[value] for value in (args.decoder, args.posterior) if value in PARTS}
    parts |= {"prior": "coupling prior"} if args.prior != "normal" else {}
    parts |= {f"beta{args.beta:g}": f"KL weight {args.beta:g}"} if args.beta != 1 else {}
    parts |= {f"warmup{args.warmup}": f"KL warm-up, {args.warmup} epochs"} if args.warmup else {}
    parts |= {f"free{args.free_bits:g}": f"free bits, {args.free_bits:g} nats"} if args.free_bits else {}
    parts |= {f"iwae{args.samples}": f"importance-weighted, {args.samples} samples"} if args.samples > 1 else {}
    return parts or {"plain": "plain"}


def default_name(args):
    return f"family-{'-'.join(differences(args))}"


def title(args):
    return ", ".join(["VAE", *differences(args).values()])


def main(args):
    if args.sample:
        return models.draw_samples(args, default_name(args), BINARY + GREY, load, draw)
    load_data = mnist if args.decoder in GAUSSIAN else bmnist
    splits = load_data(args.data_root, args.batch_size, data=args.data, shift=1)
    train, val, test = (split.as_means() for split in splits) if args.decoder in GAUSSIAN else splits
    run = Run(args, __file__, default_name(args), train.name, args.epochs)
    print(f"Data:   {train.title}, {train.source}")
    if run.finished:
        return
    if args.quick:
        train, val, test = train.subset(2000), val.subset(500), test.subset(200)
    train, val, test = train.to(run.device), val.to(run.device), test.to(run.device)

    torch.manual_seed(args.seed)
    sizes = {"hidden_dim": args.hidden, "z_dim": args.zdim, "decoder": args.decoder, "posterior": args.posterior,
             "prior": args.prior, "flows": args.flows, "depth": args.depth}  # fmt: skip
    model = Family(**sizes).to(run.device)
    model.samples, model.free_bits = args.samples, args.free_bits
    slower = lambda name: 10 if name.startswith("flow.amortised.") else 3 if name.startswith(("flow.", "prior.")) else 1
    groups = [{"params": [w for name, w in model.named_parameters() if slower(name) == k]} for k in (1, 3, 10)]
    optimizer = torch.optim.AdamW(groups, args.lr, weight_decay=0.02, fused=True)
    # Flows learn at a third of the rate: at the full one, couplings behind the encoder diverged after a few epochs.
    # Those whose weights one large layer makes from the image learn at a tenth: Sylvester's was far worse at a third.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [args.lr / k for k in (1, 3, 10)], total_steps=args.epochs * len(train) + 1, pct_start=0.1,
        cycle_momentum=False,
    )  # fmt: skip
    if not model.plain:
        optimizer.register_step_pre_hook(clip_gradients)
    codes = torch.randn(36, args.zdim)  # the same in every picture of every epoch
    uniforms = torch.rand(36, 784)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    state = run.load(parts)
    grids, best = state.get("grids", {}), state.get("best")

    for epoch in range(len(run.history), args.epochs + 1):
        run.seed(epoch)
        if epoch == 0:
            model.eval()
            train_elbo, val_elbo = vae.epoch_iter(model, train, None), vae.epoch_iter(model, val, None)
        else:
            model.beta = args.beta * min(1.0, epoch / (args.warmup + 1))
            train.share = max(0.0, 1 - (epoch - 1) / (0.9 * args.epochs))
            train_elbo, val_elbo = vae.run_epoch(model, (run.train_progress(train), val), optimizer, schedule)
        reconstruction, kl, active = vae.diagnose(model, val)
        run.record(
            epoch, train_elbo=train_elbo, val_elbo=val_elbo,
            val_reconstruction=reconstruction, val_kl=kl, active_units=active,
        )  # fmt: skip
        if val_elbo >= max(run.column("val_elbo")):
            best = {name: value.clone() for name, value in model.state_dict().items()}
        if epoch in vae.stages(args.epochs):
            drawn = model.draw(codes.to(run.device), uniforms.to(run.device))
            grids[epoch] = (255 * drawn).round().to(torch.uint8).cpu()
        run.save(parts, best=best, grids=grids)

    # where the objective is not the bound, validation bounds choose no epoch: the last weights are kept
    for_bound = args.beta == 1 and args.samples == 1 and not args.free_bits
    if for_bound:
        model.load_state_dict(best)
    model.eval()
    run.save_model(sizes, model)
    save_figures(run, f"{title(args)}, {train.title}", grids, "draws" if model.pixels else "means")
    run.seed(args.epochs + 1)
    batches = run.progress(test.subset(args.eval_images), "test")
    test_elbo, test_log_likelihood = log_likelihood(model, batches, args.eval_samples)
    chosen = max(run.history, key=lambda row: row["val_elbo"]) if for_bound else run.history[-1]
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
    group.add_argument("--warmup", type=number(int, 0), default=0, help="epochs over which that weight rises from 0")
    group.add_argument("--free_bits", type=number(float, 0), default=0.0, help="nats of a dimension that cost nothing")
    group.add_argument("--samples", type=number(int, 1, 1000), default=1, help="draws of z in the bound trained for")
    group = parser.add_argument_group("model and training")
    decoders = ["bernoulli", *GAUSSIAN, "pixelcnn"]
    group.add_argument(
        "--decoder", choices=decoders, default="bernoulli", help="p(x|z); Gaussian, variance 1/2 or learned: 8-bit data"
    )
    group.add_argument("--posterior", choices=list(POSTERIORS), default="diagonal", help="q(z|x)")
    group.add_argument("--flows", type=number(int, 1, 100), default=4, help="steps of the posterior's flow")
    group.add_argument("--prior", choices=["normal", "coupling"], default="normal", help="p(z)")
    group.add_argument("--epochs", type=number(int, 1), default=40, help="passes over the training images")
    group.add_argument("--zdim", type=number(int, 2, 1000), default=20, help="dimensions of the latent space")
    group.add_argument("--hidden", type=number(int, 1, 20000), default=500, help="width of the hidden layers")
    group.add_argument("--depth", type=number(int, 1, 10), default=1, help="hidden layers of encoder and decoder")
    group.add_argument("--batch_size", type=number(int, 1), default=128, help="images per step")
    group.add_argument("--lr", type=number(float, above=0), default=6e-3, help="highest learning rate")
    group.add_argument(
        "--eval_samples", type=number(int, 1), default=500, help="importance samples per image for the test log p(x)"
    )
    group.add_argument(
        "--eval_images", type=number(int, 1), default=1000, help="test images that it is estimated on, evenly spread"
    )
    models.sample_options(parser, number)
    cli.run_options(parser, BINARY + GREY)
    args = parser.parse_args(words)
    if args.data != "auto" and (args.data in GREY) != (args.decoder in GAUSSIAN):
        kind = "8-bit data" if args.decoder in GAUSSIAN else "binary data"
        parser.error(f"--decoder {args.decoder} is for {kind}, not {args.data}")
    if args.samples > 1 and (args.beta != 1 or args.warmup or args.free_bits):
        parser.error("--samples: the importance-weighted bound has no KL term that could be weighted or freed")
    if args.warmup >= args.epochs:
        parser.error(f"--warmup {args.warmup}: the KL term would never have its full weight in {args.epochs} epochs")
    if args.posterior == "sylvester" and args.zdim > 100:
        parser.error("--posterior sylvester: matrices of all pairs of dimensions, so 100 dimensions at most")
    if args.free_bits and (args.posterior, args.prior) != ("diagonal", "normal"):
        parser.error("--free_bits needs the KL of each dimension: a diagonal posterior and a normal prior")
    if args.quick:
        args.epochs, args.eval_samples = min(args.epochs, 2), min(args.eval_samples, 20)
        args.warmup = min(args.warmup, args.epochs - 1)
    return args


if __name__ == "__main__":
    cli.start(main, parse_args)
