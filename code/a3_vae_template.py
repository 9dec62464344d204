"""Variational auto-encoder with a Bernoulli decoder on static binary MNIST (Kingma and Welling 2014, arXiv:1312.6114).

    python code/a3_vae_template.py               20 latent dimensions
    python code/a3_vae_template.py --zdim 2      2 latent dimensions, with the manifold
    python code/a3_vae_template.py --quick       a small run in half a minute

Measured on one core of an AMD EPYC with bfloat16 instructions, static binary MNIST, seed 42: 120 s of training,
validation ELBO -95.68 nats per image; test ELBO -95.04, test log p(x) -90.66 (with --eval_samples 5000). With --zdim 2:
120 s, validation ELBO -149.86. The test split is evaluated once, after training.

Changes to the template: GELU instead of tanh, wider initial weights of the decoder, a path gradient of the KL term,
AdamW with a one-cycle learning rate, and training images shifted by up to one pixel: all of them at first, three in ten
at the end. The training ELBO is therefore below the validation ELBO for most of the training. docs/vae.md explains the
changes.
"""

import copy
import math
import sys
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that contains `datasets`
from common import cli, distributed, figures, models
from common.devices import at_least_float32, autocast, in_double
from common.figures import stage_name
from common.run import Run, one_cycle, require_finite
from datasets.bmnist import BINARY, bmnist

SOFTPLUS_INVERSE_OF_1 = math.log(math.e - 1)


class Encoder(nn.Module):
    """Encoder q(z|x): images [..., 784] to mean and std [..., z] of a diagonal Gaussian (assignment, Equation 13)."""

    def __init__(self, hidden_dim=500, z_dim=20):
        super().__init__()
        self.hidden = nn.Linear(784, hidden_dim)
        self.out = nn.Linear(hidden_dim, 2 * z_dim)

    def forward(self, input):
        mean, pre_std = at_least_float32(self.out(F.gelu(self.hidden(input)))).chunk(2, dim=-1)  # each [B, z]
        return mean, F.softplus(pre_std + SOFTPLUS_INVERSE_OF_1) + 1e-6  # std > 0, and 1 for output 0


class Decoder(nn.Module):
    """Decoder p(x|z): latent vectors [..., z] to means [..., 784] of Bernoulli pixels (assignment, Equation 4)."""

    def __init__(self, hidden_dim=500, z_dim=20):
        super().__init__()
        self.hidden = nn.Linear(z_dim, hidden_dim)
        self.out = nn.Linear(hidden_dim, 784)
        # For small inputs a, GELU(a) is nearly a / 2 + 0.4 a^2. With torch's default weights and two latent dimensions,
        # this would hold for every hidden unit where p(z) is large. Larger weights and biases make the units nonlinear
        # at different places there. With std (8 / D)^(1/2), w . z has the standard deviation 8^(1/2) for every D.
        scale = (8 / z_dim) ** 0.5
        nn.init.normal_(self.hidden.weight, std=scale)
        nn.init.uniform_(self.hidden.bias, -2 * scale, 2 * scale)
        nn.init.normal_(self.out.weight, std=0.1 / hidden_dim**0.5)  # small, so that all means start near 1/2

    def logits(self, input):
        return at_least_float32(self.out(F.gelu(self.hidden(input))))  # [..., 784]

    def forward(self, input):
        return torch.sigmoid(self.logits(input))


def kl_per_dimension(mean, std):
    """KL(N(mean, std^2) || N(0, 1)) in nats, elementwise (Question 1.5)."""
    return 0.5 * (std**2 + mean**2 - 1 - 2 * std.log())


def with_gradient_of(surrogate, value):
    """A tensor with the value of `value` and the gradient of `surrogate`."""
    return surrogate + (value - surrogate).detach()


class VAE(nn.Module):
    """Prior p(z) = N(0, I), encoder q(z|x), decoder p(x|z)."""

    def __init__(self, hidden_dim=500, z_dim=20):
        super().__init__()
        self.z_dim = z_dim
        self.encoder = Encoder(hidden_dim, z_dim)
        self.decoder = Decoder(hidden_dim, z_dim)

    def terms(self, input):
        """The terms of the ELBO of images [B, ...] in nats, each [B]: log p(x|z) for one z from q(z|x), and the KL."""
        x = input.flatten(1)  # [B, 784]
        mean, std = self.encoder(x)
        z = mean + std * distributed.noise(torch.randn_like, mean)  # [B, z], the reparametrisation trick
        logits = self.decoder.logits(z)
        reconstruction = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)  # log Bern(x | p)
        kl = kl_per_dimension(mean, std).sum(1)
        if self.training:
            # The path gradient of the KL term: that of log q(z|x) - log p(z), taken through z only. Mean and std inside
            # log q are constants, so log std is left out. It is also unbiased, and the total gradient is less noisy
            # when q is close to the posterior (Roeder et al. 2017).
            fixed_mean, fixed_std = mean.detach(), std.detach()
            path = 0.5 * (z**2 - ((z - fixed_mean) / fixed_std) ** 2).sum(1)
            kl = with_gradient_of(path, kl)
        return reconstruction, kl

    def forward(self, input):
        """The average negative ELBO in nats per image."""
        reconstruction, kl = self.terms(input)
        return (kl - reconstruction).mean()

    def log_weights(self, x, n):
        """log p(x|z) p(z) / q(z|x) for images x [B, 784] and n samples of q: [n, B].

        In expectation, the log of the mean weight is a lower bound on log p(x), tighter than the ELBO (Burda et al.
        2016)."""
        mean, std = self.encoder(x)
        eps = torch.randn(n, *mean.shape, device=x.device)  # [n, B, z]
        z = mean + std * eps
        logits = self.decoder.logits(z)  # [n, B, 784]
        # log Bern(x | sigmoid(l)) = x l - softplus(l), summed over pixels
        log_px_z = torch.einsum("nbm,bm->nb", logits, x) - F.softplus(logits).sum(-1)
        return log_px_z + (0.5 * (eps**2 - z**2) + std.log()).sum(-1)  # + log p(z) - log q(z|x)

    @torch.no_grad()
    def sample(self, n_samples):
        """Ancestral sampling. Returns binary images and the Bernoulli means, each [n, 1, 28, 28]."""
        z = torch.randn(n_samples, self.z_dim, device=next(self.parameters()).device)
        im_means = self.decoder(z).view(-1, 1, 28, 28)
        return torch.bernoulli(im_means), im_means


def make_optimizer(model, lr):
    """AdamW, with weight decay for the encoder alone."""
    encoder = {"params": model.encoder.parameters(), "weight_decay": 0.3}
    decoder = {"params": model.decoder.parameters(), "weight_decay": 0.0}
    return torch.optim.AdamW([encoder, decoder], lr, betas=(0.9, 0.99), fused=True)


def epoch_iter(model, data, optimizer, schedule=None):
    """One pass over `data`. If the model is in training mode, it is updated. Returns the average ELBO in nats."""
    device = next(model.parameters()).device
    elbo, images, losses = 0, 0, []
    for x in distributed.local_batches(data):
        x = x.to(device)
        # bfloat16 in training only: validation results are computed in float32
        with torch.set_grad_enabled(model.training), autocast(device, model.training):
            reconstruction, kl = model.terms(x)
        if model.training:
            loss = distributed.mean(kl - reconstruction)
            optimizer.zero_grad()
            loss.backward()
            distributed.sum_gradients(model)
            optimizer.step()
            if schedule:
                schedule.step()
            losses.append(loss.detach())
        elbo = elbo + (reconstruction - kl).detach().sum()  # the last batch is smaller: sum now, divide at the end
        images += len(x)
    require_finite(losses)
    elbo, images = distributed.sum_over_processes(elbo, images)
    return elbo / images


def run_epoch(model, data, optimizer, schedule=None):
    """One epoch of training, then validation. Returns both average ELBOs in nats per image."""
    traindata, valdata = data
    model.train()
    train_elbo = epoch_iter(model, traindata, optimizer, schedule)
    model.eval()
    val_elbo = epoch_iter(model, valdata, optimizer)
    return train_elbo, val_elbo


@torch.no_grad()
def diagnose(model, data):
    """The average KL term, which needs the encoder alone, and the number of active latent dimensions.

    A dimension is active if the variance of the encoder's mean over the data is above 0.01 (Burda et al. 2016)."""
    device = next(model.parameters()).device
    mean, std = (torch.cat(parts) for parts in zip(*(model.encoder(x.to(device).flatten(1)) for x in data)))  # [N, z]
    return float(kl_per_dimension(mean, std).sum(1).mean()), int((mean.var(0) > 0.01).sum())


@torch.no_grad()
def log_likelihood(model, data, n_samples, part=(250, 20)):
    """The average ELBO and the average estimate of log p(x) in nats, from `n_samples` samples of q(z|x) per image.

    log p(x) is estimated by importance sampling, log (1/S) sum_s p(x|z_s) p(z_s) / q(z_s|x). In expectation this is a
    lower bound that increases with S (IWAE, Burda et al. 2016). `part`: samples and images that are computed together;
    larger parts do not fit into caches."""
    device, (samples, images_at_once) = next(model.parameters()).device, part
    sizes = [min(samples, n_samples - start) for start in range(0, n_samples, samples)]
    bound, estimate, images = 0.0, 0.0, 0
    for batch in data:
        for x in batch.to(device).flatten(1).split(images_at_once):
            log_w = torch.cat([in_double(model.log_weights(x, size)) for size in sizes])  # [n_samples, B]
            bound += float(log_w.mean(0).sum())
            estimate += float((log_w.logsumexp(0) - math.log(n_samples)).sum())
            images += len(x)
    return bound / images, estimate / images


def save_elbo_plot(train_curve, val_curve, filename, title=""):
    """Both ELBOs against the epoch; epoch 0 is the untrained model."""
    nats_per_bit = 784 * math.log(2)  # one bit per dimension, in nats per image
    figures.curves(
        filename, range(len(train_curve)), {"training": train_curve, "validation": val_curve},
        ylabel="ELBO, nats per image", title=title, zoom_from=2,
        second_axis=("bits per dimension", lambda nats: -nats / nats_per_bit, lambda bits: -bits * nats_per_bit),
    )  # fmt: skip


def manifold_grid(n=20):
    """A grid of n x n latent vectors at equally spaced percentiles of the prior [n * n, 2]; z_2 increases upwards."""
    # the inverse normal CDF is finite here: for n = 20 the percentiles run from 2.5 % to 97.5 %
    line = torch.special.ndtri((torch.arange(n) + 0.5) / n)
    return torch.stack([line.repeat(n), line.flip(0).repeat_interleave(n)], 1)


@torch.no_grad()
def snapshot(model, z):
    """The decoder's means of z [n, D] as integers 0..255 [n, 784], stored until the figures are drawn."""
    return (255 * model.decoder(z.to(next(model.parameters()).device))).round().to(torch.uint8).cpu()


def stages(epochs):
    """The epochs after which samples are drawn: 0, 1, half of all epochs, and the last one."""
    return sorted({0, 1, epochs // 2, epochs})


def save_figures(run, title, snapshots, manifolds, uniforms):
    """The figures of Questions 1.13 to 1.15. `snapshots` and `manifolds`: {epoch: decoder means 0..255}.

    A pixel of a draw is 1 where its number in `uniforms` [24, 784] is below the mean."""
    save_elbo_plot(run.column("train_elbo"), run.column("val_elbo"), run.figure("elbo.pdf"), title)
    reconstruction, kl = [-value for value in run.column("val_reconstruction")], run.column("val_kl")
    figures.curves(
        run.figure("terms.pdf"), run.column("epoch"),
        {"reconstruction, -log p(x|z)": reconstruction, "KL(q(z|x) || p(z))": kl},
        ylabel="nats per image", title=f"{title}, validation images",
        ylim=(0, 1.3 * (reconstruction[1] + kl[1])),  # the untrained model's value is far above those of epoch 1
    )  # fmt: skip
    means = {stage_name(epoch, run.epochs): grid.cpu() / 255 for epoch, grid in snapshots.items()}
    draws = {name: (uniforms < mean).float() for name, mean in means.items()}
    figures.image_grids(run.figure("samples-means.png"), means, 6, f"{title}: means of p(x|z), same z in every grid")
    figures.image_grids(run.figure("samples-draws.png"), draws, 6, f"{title}: samples of p(x|z), same z in every grid")
    for part, epoch in ("before", 0), ("half-way", run.epochs // 2), ("after", run.epochs):
        if epoch in manifolds:
            grid = {stage_name(epoch, run.epochs): manifolds[epoch].float() / 255}
            figures.image_grids(run.figure(f"manifold-{part}.png"), grid, 20, title)


def load(path):
    return models.load_model(path, Path(__file__).name, VAE)


def draw(model, n):
    """n images in 0..1: the means of p(x|z)."""
    return model.sample(n)[1]


def default_name(args):
    return f"vae-z{args.zdim}"


def title(args):
    return f"VAE, D = {args.zdim}"


def main(args):
    if args.sample:
        return models.draw_samples(args, default_name(args), BINARY, load, draw)
    train, val, test = bmnist(args.data_root, args.batch_size, data=args.data, shift=1)
    run = Run(args, __file__, default_name(args), train.name, args.epochs)
    print(f"Data:   {train.title}, {train.source}")
    if run.finished:
        return
    if args.quick:
        train, val, test = train.subset(5000), val.subset(1000), test.subset(500)
    train, val, test = train.to(run.device), val.to(run.device), test.to(run.device)

    torch.manual_seed(args.seed)
    sizes = {"hidden_dim": args.hidden, "z_dim": args.zdim}
    model = VAE(**sizes).to(run.device)
    optimizer = make_optimizer(model, args.lr)
    schedule = one_cycle(optimizer, args.lr, args.epochs * len(train))
    codes, uniforms = torch.randn(24, args.zdim), torch.rand(24, 784)  # the same noise for the samples of every epoch
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    state = run.load(parts)
    snapshots, manifolds, best = state.get("snapshots", {}), state.get("manifolds", {}), state.get("best")
    score = lambda row: row["val_elbo"]

    for epoch in range(len(run.history), args.epochs + 1):
        run.seed(epoch)
        if epoch == 0:  # the untrained model: the ELBO is near -784 ln 2 = -543.4 nats
            model.eval()
            train_elbo, val_elbo = epoch_iter(model, train.subset(5000), None), epoch_iter(model, val, None)
        else:
            train.share = max(0.3, 1 - (epoch - 1) / (0.9 * args.epochs))
            train_elbo, val_elbo = run_epoch(model, (run.train_progress(train), val), optimizer, schedule)
        kl, active = diagnose(model, val)
        run.record(
            epoch, train_elbo=train_elbo, val_elbo=val_elbo,
            val_reconstruction=val_elbo + kl, val_kl=kl, active_units=active,
        )  # fmt: skip
        if max(run.history, key=score) is run.history[-1]:
            best = copy.deepcopy(model.state_dict())
        if epoch in stages(args.epochs):
            snapshots[epoch] = snapshot(model, codes)
        if args.zdim == 2 and epoch in (0, args.epochs // 2, args.epochs):  # Question 1.15
            manifolds[epoch] = snapshot(model, manifold_grid())
        run.save(parts, best=best, snapshots=snapshots, manifolds=manifolds)

    if distributed.end():
        return
    model.load_state_dict(best)
    model.eval()
    run.save_model(sizes, model)
    save_figures(run, f"{title(args)}, {train.title}", snapshots, manifolds, uniforms)
    run.seed(args.epochs + 1)
    test_elbo, test_log_likelihood = log_likelihood(model, run.progress(test, "test"), args.eval_samples)
    chosen = max(run.history, key=score)
    run.finish(
        [model], val_elbo=chosen["val_elbo"], best_epoch=chosen["epoch"], active_units=chosen["active_units"],
        test_elbo=test_elbo, test_log_likelihood=test_log_likelihood, eval_samples=args.eval_samples,
    )  # fmt: skip


def parse_args(words=None):
    number, parser = cli.number, cli.Parser(__doc__, __file__)
    add = parser.add_argument_group("model and training").add_argument
    add("--epochs", type=number(int, 1), default=50, help="number of epochs")
    add("--zdim", type=number(int, 1, 1000), default=20, help="number of latent dimensions")
    add("--hidden", type=number(int, 1, 20000), default=500, help="width of the hidden layers")
    add("--batch_size", type=number(int, 1), default=256, help="images per step")
    add("--lr", type=number(float, above=0), default=8e-3, help="peak learning rate")
    add("--eval_samples", type=number(int, 1), default=100, help="importance samples per test image, for log p(x)")
    cli.sample_options(parser)
    cli.run_options(parser, BINARY)
    args = parser.parse_args(words)
    if args.quick:
        args.epochs, args.eval_samples = min(args.epochs, 4), min(args.eval_samples, 50)
    return args


if __name__ == "__main__":
    cli.start(main, parse_args, torchrun=True)
