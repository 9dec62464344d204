"""Generative adversarial network on MNIST (Goodfellow et al. 2014, arXiv:1406.2661), fully connected.

    python code/a3_gan_template.py               train, and judge the samples
    python code/a3_gan_template.py --sample 64   a grid of samples from the trained generator, no training
    python code/a3_gan_template.py --quick       a small run in half a minute

Measured on 2 cores of an AMD EPYC with bfloat16 instructions, torch 2.15, MNIST: Frechet distance of 10,000 samples to
the test images 3.79 where as many training images have 0.96 (features of a classifier of our own), 0.89 of the samples
classified with more than 90 % confidence, coverage 0.90. 566 s of training, seed 42.

50 epochs instead of the template's 200: by then the learning rate, constant at first, has fallen to 0.
"""

import copy
import math
import sys
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` lies beside this folder
import experiment
import extras
import figures
import quality
from datasets import GREY
from datasets.mnist import mnist
from experiment import at_least_float32

AVERAGING = 0.999  # decay of the averaged generator's weights, per step
JUDGE_EVERY = 5  # epochs between two looks at the Frechet distance to validation images
LARGEST_GRID = 400


class Generator(nn.Module):
    """G: noise z [B, latent_dim] to images [B, 784] in [-1, 1]; `width` multiplies the template's hidden layers."""

    def __init__(self, latent_dim=100, width=1):
        super().__init__()
        self.latent_dim, self.width = latent_dim, width
        a, b, c, d = (width * units for units in (128, 256, 512, 1024))
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, a), nn.LeakyReLU(0.2),
            nn.Linear(a, b), nn.BatchNorm1d(b), nn.LeakyReLU(0.2),
            nn.Linear(b, c), nn.BatchNorm1d(c), nn.LeakyReLU(0.2),
            nn.Linear(c, d), nn.BatchNorm1d(d), nn.LeakyReLU(0.2),
            nn.Linear(d, 784),
        )  # fmt: skip

    def forward(self, z):
        return torch.tanh(at_least_float32(self.layers(z)))


class Discriminator(nn.Module):
    """D: images [B, 784] in [-1, 1] to the probability [B, 1] that each is real.

    With `groups` the last layer also sees how much the features vary within groups of that many images (Karras et al.
    2018): a generator that repeats itself is found out."""

    def __init__(self, width=1, dropout=0.0, groups=0):
        super().__init__()
        self.groups = groups
        self.layers = nn.Sequential(
            nn.Linear(784, 512 * width), nn.LeakyReLU(0.2), nn.Dropout(dropout),
            nn.Linear(512 * width, 256 * width), nn.LeakyReLU(0.2), nn.Dropout(dropout),
        )  # fmt: skip
        self.out = nn.Linear(256 * width + bool(groups), 1)

    def logits(self, img):
        h = at_least_float32(self.layers(img.flatten(1)))  # [B, 256 width]
        if self.groups:
            size = self.groups if len(h) % self.groups == 0 else len(h)
            grouped = h.view(-1, size, h.shape[1])
            variance = (grouped - grouped.mean(1, keepdim=True)).square().mean(1)  # var() is four times as slow
            spread = (variance + 1e-8).sqrt().mean(1, keepdim=True)  # [groups, 1]
            h = torch.cat([h, spread.repeat_interleave(size, 0)], 1)
        return at_least_float32(self.out(h))

    def forward(self, img):
        return torch.sigmoid(self.logits(img))


def jitter(images, pixels=1):
    """Move each eighth of a batch [B, 784] by up to `pixels` rows and columns, with a gradient.

    D sees real and generated images moved alike, so it cannot learn the real ones by heart, and G is not drawn towards
    moved digits, as it would be if the real images alone were moved (DiffAugment, Zhao et al. 2020)."""
    parts = []
    for part in images.view(-1, 28, 28).chunk(8):
        row, column = torch.randint(2 * pixels + 1, (2,)).tolist()
        parts.append(F.pad(part, [pixels] * 4, value=-1)[:, row : row + 28, column : column + 28])
    return torch.cat(parts).flatten(1)


def discriminator_loss(real_logits, fake_logits):
    """-log D(x) - log(1 - D(G(z))), averaged: Equation 15 with the sign turned. 2 log 2 where D = 1/2."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits):
    """-log D(G(z)), averaged: the non-saturating loss (Question 2.4). log 2 where D = 1/2."""
    return F.softplus(-fake_logits).mean()


@torch.no_grad()
def follow(average, generator, decay):
    """Move the averaged generator's weights a little towards the generator's."""
    for mean, now in zip(average.parameters(), generator.parameters()):
        mean.lerp_(now, 1 - decay)


@torch.no_grad()
def settle(average):
    """Averaged weights need BatchNorm statistics of their own: measured on fresh noise, then fixed by eval mode."""
    norms = [module for module in average.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain averages over the batches
    average.train()
    for _ in range(20):
        average(torch.randn(500, average.latent_dim, device=norms[0].weight.device))
    return average.eval()


def train(dataloader, discriminator, generator, optimizer_G, optimizer_D, after_step=lambda: None):
    """One epoch. One batch of noise serves both steps. Returns the epoch's average losses, D(x) and D(G(z))."""
    device = next(generator.parameters()).device
    generator.train()
    discriminator.train()
    records = []
    for imgs, _ in dataloader:
        real = imgs.to(device) / 127.5 - 1  # [B, 784] in [-1, 1], as the generator's tanh
        if len(real) == 1:
            continue  # BatchNorm has no variance of one image
        with experiment.autocast(device):
            fake = generator(torch.randn(len(real), generator.latent_dim, device=device))
            real_logits, fake_logits = discriminator.logits(jitter(real)), discriminator.logits(jitter(fake.detach()))
        loss_D = discriminator_loss(real_logits, fake_logits)
        optimizer_D.zero_grad()
        loss_D.backward()
        optimizer_D.step()

        discriminator.requires_grad_(False)  # the generator's step leaves no gradient in D
        with experiment.autocast(device):
            loss_G = generator_loss(discriminator.logits(jitter(fake)))
        optimizer_G.zero_grad()
        loss_G.backward()
        optimizer_G.step()
        discriminator.requires_grad_(True)

        scores = torch.sigmoid(real_logits).mean(), torch.sigmoid(fake_logits).mean()
        records.append(torch.stack([loss_D, loss_G, *scores]).detach())
        after_step()
    experiment.require_finite([record.sum() for record in records])
    loss_D, loss_G, D_x, D_G_z = torch.stack(records).mean(0).tolist()
    return {"loss_D": loss_D, "loss_G": loss_G, "D_x": D_x, "D_G_z": D_G_z}


def warn_if_dead(epoch, losses, say):
    """One side that wins for a whole epoch leaves nothing to learn from."""
    for side, other in ("D", "G"), ("G", "D"):
        loss = losses[f"loss_{side}"]
        if loss < 0.01:
            say(f"epoch {epoch}: the loss of {side} is stuck at {loss:.1g}, so {other} learns nothing any more.")
            say("What cured it elsewhere: a lower --lr, --dropout 0.3 in D, another --seed.")


@torch.no_grad()
def images_of(generator, z):
    """Images in 0..1, on the CPU, from a generator in eval mode: none depends on its neighbours in the batch."""
    device = next(generator.parameters()).device
    assert not generator.training
    return torch.cat([(generator(part.to(device)).cpu() + 1) / 2 for part in z.split(1000)])


def straight(a, b, n=9):
    """n points from a to b, both included, on a line: [n, D]."""
    return torch.stack([torch.lerp(a, b, float(t)) for t in torch.linspace(0, 1, n)])


def spherical(a, b, n=9):
    """The same on a great circle, its radius changing evenly: no point is nearer to 0 than both ends, as noise is."""
    angle = torch.acos(F.cosine_similarity(a, b, dim=0).clamp(-1, 1))
    t = torch.linspace(0, 1, n).unsqueeze(1)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def choose_ends(generator, judge, n, seed):
    """n codes, each surely (p > 0.99) another digit than the one before: the classifier's choice, not the eye's."""
    z = torch.randn(500, generator.latent_dim, generator=torch.Generator().manual_seed(seed))
    sureness, classes = quality.look(judge, images_of(generator, z))[1].max(1)
    candidates = [i for i in range(500) if sureness[i] > 0.99] or sureness.argsort(descending=True).tolist()
    ends = candidates[:1]
    for i in candidates[1:]:
        if len(ends) < n and classes[i] != classes[ends[-1]]:
            ends.append(i)
    return z[ends], classes[ends].tolist()


def save_interpolations(run, title, generator, judge):
    """Question 2.7: a chain of rows, each from the end of the last one to another digit, 7 steps between."""
    ends, classes = choose_ends(generator, judge, 6, ARGS.seed)
    if len(ends) < 2:
        run.say("no two classes among 500 samples: no interpolation is drawn")
        return
    paths = {"straight": straight, "spherical": spherical}
    grids = {
        f"{name} path": images_of(generator, torch.cat([path(a, b) for a, b in pairwise(ends)]))
        for name, path in paths.items()
    }
    rows = [f"{a} to {b}" for a, b in pairwise(classes)]
    caption = f"{title}: each row starts where the last ended"
    figures.image_grids(run.figure("interpolation.png"), grids, 9, caption, rows)


def save_figures(run, title, snapshots, floor):
    """What Question 2.6 asks for, and the curves."""
    epochs = run.column("epoch")
    losses = {"discriminator": run.column("loss_D"), "generator": run.column("loss_G")}
    marks = [(2 * math.log(2), "2 log 2"), (math.log(2), "log 2")]
    figures.curves(run.figure("losses.pdf"), epochs[1:], {k: v[1:] for k, v in losses.items()},
                   ylabel="loss, nats", title=f"{title}; dotted: where D = 1/2", marks=marks)  # fmt: skip
    scores = {"D(x), real images": run.column("D_x")[1:], "D(G(z)), samples": run.column("D_G_z")[1:]}
    figures.curves(run.figure("scores.pdf"), epochs[1:], scores, ylabel="mean output of D", title=title,
                   marks=[(0.5, "1/2")], ylim=(0, 1))  # fmt: skip
    judged = [(row["epoch"], row["frechet_val"]) for row in run.history if row["frechet_val"] is not None]
    figures.curves(run.figure("frechet.pdf"), [epoch for epoch, _ in judged], {"": [value for _, value in judged]},
                   log=True, ylabel="Frechet distance", title=f"{title}, to validation images",
                   marks=[(floor, "as many training images")])  # fmt: skip
    chosen = {0: "start", run.epochs // 2: "half-way", run.epochs: "end"}
    grids = {f"epoch {epoch}, {name}": snapshots[epoch].float() / 255 for epoch, name in chosen.items()}
    figures.image_grids(run.figure("samples.png"), grids, 5, f"{title}: the same noise in all")


def main():
    if ARGS.sample:
        return draw_samples()
    train_data, val, test = mnist(ARGS.data_root, ARGS.batch_size, data=ARGS.data)
    run = experiment.Run(ARGS, __file__, "gan", train_data.name, ARGS.n_epochs)
    print(f"Data:   {train_data.title}, {train_data.source}")
    if run.finished and not ARGS.extra:
        return
    judge = quality.classifier(train_data, run.device, run.say, ARGS.quick)
    n_judged = 10000
    if ARGS.quick:
        train_data, val, test, n_judged = train_data.subset(5000), val.subset(1000), test.subset(1000), 1000
    train_data = train_data.to(run.device)
    val_features, _ = quality.look(judge, val.images / 255)
    floor = quality.frechet(quality.look(judge, train_data.subset(n_judged).images / 255)[0], val_features)

    torch.manual_seed(ARGS.seed)
    generator = Generator(ARGS.latent_dim, ARGS.width).to(run.device)
    discriminator = Discriminator(ARGS.d_width, ARGS.dropout, ARGS.groups).to(run.device)
    average = copy.deepcopy(generator)
    # no momentum: the game turns faster than an average of past gradients
    optimizer_G = torch.optim.Adam(generator.parameters(), ARGS.lr, betas=(0.0, 0.999), fused=True)
    optimizer_D = torch.optim.Adam(discriminator.parameters(), ARGS.d_lr, betas=(0.0, 0.999), fused=True)
    parts = {"generator": generator, "discriminator": discriminator, "average": average,
             "optimizer_G": optimizer_G, "optimizer_D": optimizer_D}  # fmt: skip
    noise = torch.randn(25, ARGS.latent_dim)  # the same in every picture
    snapshots, best, steps = [], None, 0

    if state := run.load():
        for name, part in parts.items():
            experiment.fill(part, state[name], run.checkpoint)
        snapshots, best, steps = state["snapshots"], state["best"], state["steps"]

    def after_step():
        nonlocal steps
        steps += 1
        follow(average, generator, min(AVERAGING, (1 + steps) / (10 + steps)))
        if steps % ARGS.save_interval == 0:
            preview = images_of(copy.deepcopy(generator).eval(), noise)
            figures.picture(run.figure(f"step-{steps:06d}.png"), preview, 5)

    for epoch in range(len(run.history), ARGS.n_epochs + 1):
        run.seed(epoch)
        losses = dict.fromkeys(["loss_D", "loss_G", "D_x", "D_G_z"])
        if epoch > 0:
            # full speed for the first half, then evenly down to 0: the averaged weights stop wandering
            speed = min(1.0, 2 * (1 - (epoch - 1) / ARGS.n_epochs))
            for optimizer, lr in (optimizer_G, ARGS.lr), (optimizer_D, ARGS.d_lr):
                optimizer.param_groups[0]["lr"] = lr * speed
            losses = train(run.watch(train_data), discriminator, generator, optimizer_G, optimizer_D, after_step)
            warn_if_dead(epoch, losses, run.say)
        settle(average)
        distance = None
        if epoch % JUDGE_EVERY == 0 or epoch == ARGS.n_epochs:
            samples = images_of(average, torch.randn(n_judged, ARGS.latent_dim))
            distance = quality.frechet(quality.look(judge, samples)[0], val_features)
        run.record(epoch, **losses, frechet_val=distance)
        if distance is not None and distance <= min(d for d in run.column("frechet_val") if d is not None):
            best = {name: value.clone() for name, value in average.state_dict().items()}
        snapshots.append((255 * images_of(average, noise)).round().to(torch.uint8))
        run.save(
            **{name: part.state_dict() for name, part in parts.items()}, best=best, snapshots=snapshots, steps=steps
        )

    experiment.fill(average, best, run.checkpoint)
    average.eval()
    title = f"GAN, {train_data.title}"
    save_figures(run, title, snapshots, floor)
    save_interpolations(run, title, average, judge)
    sizes = {"latent_dim": ARGS.latent_dim, "width": ARGS.width}
    experiment.save_checked(run.folder / "generator.pt", {**sizes, "state": average.state_dict()})
    if ARGS.extra:
        extras.gan(run, title, average, judge, train_data, snapshots, images_of)
        extras.gan_gradients(run, title, train_data, Generator, Discriminator)
    if not run.finished:  # the test images are looked at once
        run.seed(ARGS.n_epochs + 1)
        samples = images_of(average, torch.randn(n_judged, ARGS.latent_dim))
        figures_ = quality.judge(judge, samples, test.images / 255, train_data.subset(n_judged).images.cpu() / 255)
        chosen = min((row for row in run.history if row["frechet_val"] is not None), key=lambda row: row["frechet_val"])
        run.finish(
            [generator, discriminator], best_epoch=chosen["epoch"], frechet_val=chosen["frechet_val"],
            frechet_floor_val=floor, **figures_,
        )  # fmt: skip


def draw_samples():
    """--sample N: a grid from a generator.pt, without data and without training."""
    path = Path(ARGS.generator) if ARGS.generator else None
    if path is None:
        folders = [experiment.ROOT / "runs" / data / (ARGS.name or "gan") for data in GREY]
        path = next((folder / "generator.pt" for folder in folders if (folder / "generator.pt").exists()), None)
        if path is None:
            raise experiment.UserError("no trained generator found: train one first, or name its file with --generator")
    state = experiment.load_checked(path)
    if not isinstance(state, dict) or set(state) != {"latent_dim", "width", "state"}:
        raise experiment.UserError(f"{experiment.show(path)} is not a generator of this script")
    generator = Generator(state["latent_dim"], state["width"])
    experiment.fill(generator, state["state"], path)
    torch.manual_seed(ARGS.seed)
    images = images_of(generator.eval(), torch.randn(ARGS.sample, generator.latent_dim))
    target = path.with_name(f"samples-{ARGS.sample}.png")
    figures.picture(target, images, math.ceil(math.sqrt(ARGS.sample)))
    print(f"{ARGS.sample} samples: {experiment.show(target)}")


def parse_args(arguments=None):
    number = experiment.number
    parser = experiment.Parser(__doc__)
    group = parser.add_argument_group("model and training")
    group.add_argument("--n_epochs", type=number(int, 1), default=50, help="passes over the training images")
    group.add_argument("--batch_size", type=number(int, 2), default=128, help="images a step; BatchNorm needs two")
    group.add_argument("--lr", type=number(float, above=0), default=8e-4, help="Adam's learning rate for G")
    group.add_argument("--d_lr", type=number(float, above=0), default=3e-4, help="the same for D")
    group.add_argument("--latent_dim", type=number(int, 1, 10000), default=100, help="dimensions of the noise")
    group.add_argument("--width", type=number(int, 1, 32), default=2, help="G's width, in multiples of the template's")
    group.add_argument("--d_width", type=number(int, 1, 32), default=3, help="the same of D")
    group.add_argument("--dropout", type=number(float, 0, below=1), default=0.0, help="dropout in the discriminator")
    group.add_argument(
        "--groups", type=number(int, 0), default=16, help="images that D compares with one another; 0: none"
    )
    group.add_argument("--save_interval", type=number(int, 1), default=500, help="steps between two saved previews")
    group = parser.add_argument_group("sampling without training")
    group.add_argument("--sample", type=number(int, 1, LARGEST_GRID), metavar="N", help="draw N images and stop")
    group.add_argument("--generator", metavar="FILE", help="the generator.pt to draw from (default: the run's)")
    experiment.run_options(parser, GREY)
    args = parser.parse_args(arguments)
    if args.quick:
        args.n_epochs = min(args.n_epochs, 4)
    return args


if __name__ == "__main__":
    ARGS = parse_args()
    experiment.start(main)
