"""Generative adversarial network on MNIST (Goodfellow et al. 2014, arXiv:1406.2661), fully connected.

    python code/a3_gan_template.py               train, then evaluate the samples
    python code/a3_gan_template.py --arch conv   convolutional networks (nets/convolutional.py), 40 epochs
    python code/a3_gan_template.py --sample 64   a grid of samples from the trained generator, no training
    python code/a3_gan_template.py --quick       a small run in half a minute

Measured on one core of an AMD EPYC with bfloat16 instructions, torch 2.14, MNIST, seed 42: 671 s of training. The
Frechet distance between 10,000 samples and the test images, in the features of a classifier trained in this project, is
2.11. For 10,000 training images it is 0.97. The classifier assigns more than 90 % probability to one class for a share
of 0.95 of the samples. For a share of 0.91 of the test images, a sample is nearer than the fifth nearest test image.

Changes to the template: see docs/gan.md. 80 epochs instead of 200 are enough, because the learning rate falls to
nearly 0.
"""

import copy
import functools
import math
import sys
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that contains `datasets`
from common import cli, distributed, figures, models, quality
from common.devices import at_least_float32, autocast
from common.figures import stage_name
from common.run import Run, require_finite
from datasets.mnist import GREY, mnist
from nets import convolutional

METRICS = ["loss_D", "loss_G", "D_x", "D_G_z"]  # of each training epoch: both losses, mean of D(x) and of D(G(z))
EVALUATE_EVERY = 5  # epochs between two measurements of the Frechet distance to the validation images
PENALTY_EVERY = 4  # steps between two gradient penalties
# default options of each architecture
DEFAULTS = {
    "template": {"n_epochs": 80, "batch_size": 128, "lr": 6e-4, "d_lr": 1e-3, "latent_dim": 24, "waves": 20},
    "conv": {"n_epochs": 40, "batch_size": 64, "lr": 1e-3, "d_lr": 5e-4, "latent_dim": 24, "waves": 0},
}


def cosines(n):
    """The n x n lowest two-dimensional cosine waves [n^2, 784]: cos(pi u (i + 1/2) / 28) cos(pi v (j + 1/2) / 28).

    Their norms are proportional to (1 + (u^2 + v^2)^(1/2))^(-1/2), so smooth waves dominate. The sum of all squared
    values is 784: independent amplitudes of variance 1 give pixels with a variance of 1 on average."""
    pixel, frequency = torch.arange(28) + 0.5, torch.arange(0.0, n)
    waves = torch.cos(math.pi / 28 * frequency[:, None] * pixel)  # [n, 28]
    waves = waves / waves.norm(dim=1, keepdim=True)
    frequencies = torch.hypot(*torch.meshgrid(frequency, frequency, indexing="ij"))  # [n, n]
    images = torch.einsum("ui,vj->uvij", waves, waves) / (1 + frequencies)[..., None, None].sqrt()
    return (28 * images / images.norm()).view(n * n, 784)


class Waves(nn.Module):
    """Images [B, 784] before tanh: a sum of waves with given amplitudes [B, n^2], plus a learned bias per pixel."""

    def __init__(self, n):
        super().__init__()
        self.register_buffer("waves", cosines(n), persistent=False)
        self.bias = nn.Parameter(torch.full((784,), -1.0))

    def forward(self, amplitudes):
        return amplitudes @ self.waves + self.bias


class Generator(nn.Module):
    """G maps noise z [B, latent_dim + codes] to images [B, 784] in [-1, 1].

    With `codes` > 0 the noise also contains one of that many one-hot codes, drawn at random (Mukherjee et al. 2019).
    Codes let G make separate groups of images, such as classes, without images in between.
    With `waves` > 0 the last layer computes the amplitudes of waves^2 smooth waves instead of single pixels, and the
    images start nearly black."""

    def __init__(self, latent_dim=100, codes=0, waves=0, arch="template"):
        super().__init__()
        self.latent_dim, self.codes = latent_dim, codes
        if arch == "conv":
            self.layers = convolutional.Generator(latent_dim + codes)
            return
        self.layers = nn.Sequential(
            nn.Linear(latent_dim + codes, 128), nn.LeakyReLU(0.2),
            nn.Linear(128, 256), distributed.BatchNorm1d(256), nn.LeakyReLU(0.2),
            nn.Linear(256, 512), distributed.BatchNorm1d(512), nn.LeakyReLU(0.2),
            nn.Linear(512, 1024), distributed.BatchNorm1d(1024), nn.LeakyReLU(0.2),
            *([nn.Linear(1024, waves**2), Waves(waves)] if waves else [nn.Linear(1024, 784)]),
        )  # fmt: skip

    def noise(self, n, numbers=None):
        """n noise vectors [n, latent_dim + codes] on the CPU. `numbers`: a torch.Generator; None: the global one."""
        z = torch.randn(n, self.latent_dim, generator=numbers)
        if not self.codes:
            return z
        code = F.one_hot(torch.randint(self.codes, (n,), generator=numbers), self.codes)
        # The factor was chosen on validation images: 1 has little effect; with 4.5, many codes gave one broken digit.
        return torch.cat([z, 2.5 * code], 1)

    def forward(self, z):
        return torch.tanh(at_least_float32(self.layers(z)))


class Discriminator(nn.Module):
    """D maps images [B, 784] in [-1, 1] to the probability [B, 1] that each is real."""

    def __init__(self, arch="template"):
        super().__init__()
        if arch == "conv":
            self.layers = convolutional.Discriminator()
            return
        self.layers = nn.Sequential(
            nn.Linear(784, 512), nn.LeakyReLU(0.2),
            nn.Linear(512, 256), nn.LeakyReLU(0.2),
            nn.Linear(256, 1),
        )  # fmt: skip

    def logits(self, img):
        return at_least_float32(self.layers(img.flatten(1) + 1))  # black pixels are 0

    def forward(self, img):
        return torch.sigmoid(self.logits(img))


def gradient_penalty(discriminator, images):
    """Average squared length of the gradient of D's logit with respect to the image (Mescheder et al. 2018).

    For real images it is their R1, for generated images their R2. Without it, D can become ever steeper between real
    and generated images, and the training may fail to converge even if it starts close to the optimum."""
    images = images.detach().requires_grad_(True)
    with autocast(images.device):
        logits = discriminator.logits(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return distributed.mean(gradient.square().sum(1))


def discriminator_loss(real_logits, fake_logits):
    """Average of -log D(x) - log(1 - D(G(z))), the negative of the assignment's Equation 15, from logits [B, 1].

    It is 2 log 2 if D is 1/2 everywhere."""
    return distributed.mean(F.softplus(-real_logits)) + distributed.mean(F.softplus(fake_logits))


def generator_loss(fake_logits):
    """Average of -log D(G(z)), the non-saturating loss (Question 2.4), from logits [B, 1].

    It is log 2 if D is 1/2 everywhere."""
    return distributed.mean(F.softplus(-fake_logits))


@torch.no_grad()
def update_average(average, generator, decay):
    """Update the moving average of G's weights. BatchNorm statistics are not averaged: see update_batchnorm."""
    for mean, now in zip(average.parameters(), generator.parameters()):
        mean.lerp_(now, 1 - decay)


def update_batchnorm(average, batches):
    """Compute the BatchNorm statistics for the averaged weights on new noise, then switch to eval mode.

    Training uses 100 batches of 500. With a fifth of them, the Frechet distance of the same weights differed from one
    estimate to the next, and the best epoch was partly chosen by chance."""
    device = next(average.parameters()).device
    noise = (average.noise(500).to(device) for _ in range(batches))
    average.train()
    torch.optim.swa_utils.update_bn(noise, average)
    return average.eval()


def train(dataloader, discriminator, generator, optimizer_G, optimizer_D, penalty=0.0, after_step=lambda: None):
    """One epoch; in each step D and G learn from the same generated batch. Returns the averages of METRICS."""
    device = next(generator.parameters()).device
    generator.train()
    discriminator.train()
    records = []
    for step, (imgs, _) in enumerate(distributed.local_batches(dataloader)):
        size = distributed.global_batch_size(imgs)
        if size == 1:
            continue  # BatchNorm needs at least two images
        real = imgs.to(device) / 127.5 - 1  # [B, 784] in [-1, 1], the range of the generator's tanh
        with autocast(device):
            fake = generator(distributed.local_rows(generator.noise(size)).to(device))
            real_logits, fake_logits = discriminator.logits(real), discriminator.logits(fake.detach())
        loss_D = discriminator_loss(real_logits, fake_logits)
        objective = loss_D
        # gamma / 2 (R1 + R2) with gamma = penalty: in every fourth step with four times the weight, the same on average
        if penalty and step % PENALTY_EVERY == 0:
            both = gradient_penalty(discriminator, real) + gradient_penalty(discriminator, fake)
            objective = loss_D + PENALTY_EVERY * penalty / 2 * both
        optimizer_D.zero_grad()
        objective.backward()
        distributed.sum_gradients(discriminator)
        optimizer_D.step()

        discriminator.requires_grad_(False)  # G's step needs no gradients of D's weights
        with autocast(device):
            loss_G = generator_loss(discriminator.logits(fake))
        optimizer_G.zero_grad()
        loss_G.backward()
        distributed.sum_gradients(generator)
        optimizer_G.step()
        discriminator.requires_grad_(True)

        scores = distributed.mean(torch.sigmoid(real_logits)), distributed.mean(torch.sigmoid(fake_logits))
        records.append(torch.stack([loss_D, loss_G, *scores]).detach())
        after_step()
    require_finite([record.sum() for record in records])
    return dict(zip(METRICS, distributed.sum_over_processes(*torch.stack(records).mean(0))))


def warn_if_dead(epoch, losses, say):
    """Print a warning if the average loss of one network is below 0.01: the other one then usually stops improving."""
    for side, other in ("D", "G"), ("G", "D"):
        loss = losses[f"loss_{side}"]
        if loss < 0.01:
            say(f"epoch {epoch}: the loss of {side} is stuck at {loss:.1g}, so {other} no longer learns.")
            say("Try a lower --lr or another --seed.")


@torch.no_grad()
def images_of(generator, z):
    """Images [n, 784] in 0..1, on the CPU, of noise z [n, latent_dim + codes]; the generator is in eval mode."""
    device = next(generator.parameters()).device
    assert not generator.training  # BatchNorm would make an image depend on the others in its batch
    return torch.cat([(generator(part.to(device)).cpu() + 1) / 2 for part in z.split(1000)])


def straight(a, b, n=9):
    """Linear interpolation: n points from a to b, both included: a, b [Z] -> [n, Z]."""
    t = torch.linspace(0, 1, n, device=a.device).unsqueeze(1)
    return (1 - t) * a + t * b


def spherical(a, b, n=9):
    """Spherical interpolation: n points from a to b whose direction and length change at constant rates: [n, Z].

    Normal noise in many dimensions has nearly constant length, and points on the straight line are shorter."""
    t = torch.linspace(0, 1, n, device=a.device).unsqueeze(1)
    length = torch.lerp(a.norm(), b.norm(), t)
    a, b = F.normalize(a, dim=0), F.normalize(b, dim=0)
    across = b - (a @ b) * a  # the part of b that is orthogonal to a; 0 if the directions are equal or opposite
    angle = torch.atan2(across.norm(), a @ b)
    return length * (torch.cos(t * angle) * a + torch.sin(t * angle) * F.normalize(across, dim=0))


def choose_ends(generator, classifier, n, seed):
    """At most n noise vectors and their classes; consecutive ones give different digits.

    All are classified with p > 0.99. If none of 500 samples is, the most confident ones are used instead."""
    z = generator.noise(500, torch.Generator().manual_seed(seed))
    confidence, classes = quality.classify(classifier, images_of(generator, z))[1].max(1)
    candidates = [i for i in range(500) if confidence[i] > 0.99] or confidence.argsort(descending=True).tolist()
    ends = candidates[:1]
    for i in candidates[1:]:
        if len(ends) < n and classes[i] != classes[ends[-1]]:
            ends.append(i)
    return z[ends], classes[ends].tolist()


def save_interpolations(run, title, generator, classifier):
    """Question 2.7: rows of 9 images, two samples and 7 steps between them. Each row starts where the last one ends."""
    ends, classes = choose_ends(generator, classifier, 6, run.args.seed)
    if len(ends) < 2:
        run.say("All 500 samples are of one class: no interpolation is drawn")
        return
    grids = {
        f"{path.__name__} path": images_of(generator, torch.cat([path(a, b) for a, b in pairwise(ends)]))
        for path in (straight, spherical)
    }
    caption, rows = f"{title}: interpolation between samples", [f"{a} to {b}" for a, b in pairwise(classes)]
    figures.image_grids(run.figure("interpolation.png"), grids, 9, caption, rows)


def stages(epochs):
    """The epochs after which samples are drawn; the third grid of Question 2.6 shows the epoch that is chosen."""
    return sorted({0, epochs // 2})


def measured(run):
    """The rows of the epochs in which the Frechet distance was measured."""
    return [row for row in run.history if row["frechet_val"] is not None]


def save_figures(run, title, grids, floor):
    """The samples of Question 2.6, and the curves of the losses, of D's outputs and of the Frechet distance."""
    epochs, loss_D, loss_G, D_x, D_G_z = (run.column(name)[1:] for name in ["epoch", *METRICS])  # epoch 0 has none
    figures.curves(run.figure("losses.pdf"), epochs, {"discriminator": loss_D, "generator": loss_G},
                   ylabel="loss, nats", title=f"{title}; dotted: values for D = 1/2",
                   marks=[(2 * math.log(2), "2 log 2"), (math.log(2), "log 2")])  # fmt: skip
    figures.curves(run.figure("scores.pdf"), epochs, {"D(x), real images": D_x, "D(G(z)), samples": D_G_z},
                   ylabel="mean output of D", title=title, marks=[(0.5, "1/2")], ylim=(0, 1))  # fmt: skip
    epochs, distances = zip(*((row["epoch"], row["frechet_val"]) for row in measured(run)))
    figures.curves(run.figure("frechet.pdf"), epochs, {"": distances}, log=True, ylabel="Fréchet distance",
                   title=f"{title}: distance to validation images", marks=[(floor, "training images")])  # fmt: skip
    figures.image_grids(run.figure("samples.png"), grids, 5, f"{title}: same noise in every grid")


def load(path):
    return models.load_model(path, Path(__file__).name, Generator)


def draw(generator, n):
    """n images in 0..1."""
    return images_of(generator, generator.noise(n))


def default_name(args):
    return "gan" if args.arch == "template" else f"gan-{args.arch}"


def title(args):
    return "GAN" if args.arch == "template" else "Convolutional GAN"


def main(args):
    if args.sample:
        return models.draw_samples(args, default_name(args), GREY, load, draw)
    train_data, val, test = mnist(args.data_root, args.batch_size, data=args.data)
    run = Run(args, __file__, default_name(args), train_data.name, args.n_epochs)
    print(f"Data:   {train_data.title}, {train_data.source}")
    if run.finished:
        return
    classifier = quality.load_classifier(train_data.name, run.device, lambda: (train_data, val, test), run.say)
    n_samples = 10000
    if args.quick:
        train_data, val, test, n_samples = train_data.subset(5000), val.subset(1000), test.subset(1000), 1000
    train_data = train_data.to(run.device)
    val_features, _ = quality.classify(classifier, val.images / 255)
    floor = quality.frechet(quality.classify(classifier, train_data.subset(n_samples).images / 255)[0], val_features)

    torch.manual_seed(args.seed)
    sizes = {"latent_dim": args.latent_dim, "codes": args.codes, "waves": args.waves, "arch": args.arch}
    generator = Generator(**sizes).to(run.device)
    discriminator = Discriminator(args.arch).to(run.device)
    average = copy.deepcopy(generator)
    # no momentum (beta_1 = 0): gradients of earlier steps are outdated, since the other network has changed
    optimizer_G = torch.optim.Adam(generator.parameters(), args.lr, betas=(0.0, 0.999), fused=True)
    optimizer_D = torch.optim.Adam(discriminator.parameters(), args.d_lr, betas=(0.0, 0.999), fused=True)
    noise = generator.noise(25)  # the same for the samples of every epoch
    parts = {"generator": generator, "discriminator": discriminator, "average": average,
             "optimizer_G": optimizer_G, "optimizer_D": optimizer_D}  # fmt: skip
    state = run.load(parts)
    snapshots, best, steps = state.get("snapshots", {}), state.get("best"), state.get("steps", 0)

    def after_step():
        nonlocal steps
        steps += 1
        # the decay rises to args.averaging (0.9995 after 18,000 steps), so that the untrained weights are forgotten
        update_average(average, generator, min(args.averaging, (1 + steps) / (10 + steps)))
        if steps % args.save_interval == 0 and distributed.rank == 0:
            preview = images_of(copy.deepcopy(generator).eval(), noise)
            figures.picture(run.figure(f"step-{steps:06d}.png"), preview, 5)

    for epoch in range(len(run.history), args.n_epochs + 1):
        run.seed(epoch)
        losses = dict.fromkeys(METRICS)
        if epoch > 0:
            # the learning rate is constant in the first 30 % of training, then decays linearly to nearly 0
            decay = min(1.0, (1 - (epoch - 1) / args.n_epochs) / 0.7)
            for optimizer, lr in (optimizer_G, args.lr), (optimizer_D, args.d_lr):
                optimizer.param_groups[0]["lr"] = lr * decay
            batches = run.train_progress(train_data)
            losses = train(batches, discriminator, generator, optimizer_G, optimizer_D, args.penalty, after_step)
            warn_if_dead(epoch, losses, run.say)
        measure = epoch % EVALUATE_EVERY == 0 or epoch == args.n_epochs
        if measure or epoch in stages(args.n_epochs):
            update_batchnorm(average, 2 if args.quick else 100)
        distance = None
        if measure:
            samples = images_of(average, average.noise(n_samples))
            distance = quality.frechet(quality.classify(classifier, samples)[0], val_features)
        run.record(epoch, **losses, frechet_val=distance)
        if distance is not None and distance <= min(row["frechet_val"] for row in measured(run)):
            best = copy.deepcopy(average.state_dict())
        if epoch in stages(args.n_epochs):
            snapshots[epoch] = (255 * images_of(average, noise)).round().to(torch.uint8)
        run.save(parts, best=best, snapshots=snapshots, steps=steps)

    if distributed.end():
        return
    average.load_state_dict(best)
    average.eval()
    run.save_model(sizes, average)
    caption = f"{title(args)}, {train_data.title}"
    chosen = min(measured(run), key=lambda row: row["frechet_val"])
    grids = {stage_name(epoch, run.epochs): snapshots[epoch] / 255 for epoch in stages(run.epochs)}
    grids[f"epoch {chosen['epoch']}, lowest distance"] = images_of(average, noise)
    save_figures(run, caption, grids, floor)
    save_interpolations(run, caption, average, classifier)
    run.seed(args.n_epochs + 1)
    samples = images_of(average, average.noise(n_samples))
    real, training = test.images / 255, train_data.subset(n_samples).images.cpu() / 255
    metrics = quality.evaluate_samples(classifier, samples, real, training)
    run.finish(
        [generator, discriminator], best_epoch=chosen["epoch"], frechet_val=chosen["frechet_val"],
        frechet_floor_val=floor, classifier=quality.origin(run.data), **metrics,
    )  # fmt: skip


def parse_args(words=None):
    number, parser = cli.number, cli.Parser(__doc__, __file__)
    add = parser.add_argument_group("model and training").add_argument
    add("--arch", choices=list(DEFAULTS), default="template", help="architecture of both networks")
    by_arch = functools.partial(cli.add_with_defaults, add, DEFAULTS)
    by_arch("n_epochs", "number of epochs", type=number(int, 1))
    by_arch("batch_size", "images per step, at least 2", type=number(int, 2))
    by_arch("lr", "learning rate of G", type=number(float, above=0))
    by_arch("d_lr", "learning rate of D", type=number(float, above=0))
    by_arch("latent_dim", "dimensions of the normal noise", type=number(int, 1, 10000))
    add("--codes", type=number(int, 0, 1000), default=10, help="random one-hot codes in the noise; 0: off")
    by_arch("waves", "template only: G makes images of waves^2 cosines; 0: of pixels", type=number(int, 0, 28))
    add("--penalty", type=number(float, 0), default=0.3, help="weight of the gradient penalty of D")
    add("--averaging", type=number(float, 0, 1), default=0.9995, help="decay per step of the averaged weights of G")
    add("--save_interval", type=number(int, 1), default=500, help="steps between two saved sample grids")
    cli.sample_options(parser)
    cli.run_options(parser, GREY)
    args = parser.parse_args(words)
    cli.fill_in(args, DEFAULTS[args.arch])
    if args.arch == "conv" and args.waves:
        parser.error("--arch conv has no --waves")
    args.n_epochs = min(args.n_epochs, 4) if args.quick else args.n_epochs
    return args


if __name__ == "__main__":
    cli.start(main, parse_args, torchrun=True)
