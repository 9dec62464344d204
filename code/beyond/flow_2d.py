"""A flow one can look at: affine couplings in the plane, fitted to moons, rings, a checkerboard, letters, a picture.

    python code/beyond/flow_2d.py                      two moons; --target rings, checkerboard, letters
    python code/beyond/flow_2d.py --image letter.png   the dark parts of a picture
    python code/beyond/flow_2d.py --quick              the same with fewer steps

The couplings are those of a3_nf_template.py, with a permutation between them: the two axes change places. In two
dimensions everything can be checked: the density's integral and the divergence from the target come from quadrature.
First the one-dimensional example of a lecture on flows is drawn: u = 0.75 v + 1 for a normal v.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from PIL import Image

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from a3_nf_template import Coupling, log_prior
from common import cli, figures, models
from common.run import Run, require_finite
from datasets.files import UserError, show

STEPS = 250  # training steps an epoch
REACH = 4.0  # what is drawn: -4..4 on both axes
plt = figures.plt


class Flow(nn.Module):
    """Points of the plane to normal noise and back; a coupling keeps the first axis, then the axes change places."""

    def __init__(self, layers=10, n_hidden=64):
        super().__init__()
        self.layers = nn.ModuleList(Coupling(2, torch.tensor([1.0, 0.0]), n_hidden) for _ in range(layers))

    def forward(self, x, ldj, reverse=False):
        for layer in reversed(self.layers) if reverse else self.layers:
            x = x.flip(1) if reverse else x
            x, ldj = layer(x, ldj, reverse)
            x = x if reverse else x.flip(1)
        return x, ldj

    def log_prob(self, x):
        """[N, 2] -> [N], nats."""
        z, ldj = self(x, torch.zeros_like(x[:, 0]))
        return log_prior(z).sum(1) + ldj

    @torch.no_grad()
    def sample(self, n):
        z = torch.randn(n, 2, device=next(self.parameters()).device)
        return self(z, torch.zeros_like(z[:, 0]), reverse=True)[0]

    @torch.no_grad()
    def journey(self, z):
        """Where points of the noise are after each coupling on their way to the data: layers + 1 times [N, 2].

        Axes that have changed places are put back, so that only what a coupling does is seen."""
        ldj, swapped = torch.zeros_like(z[:, 0]), len(self.layers) % 2
        places = [z.flip(1) if swapped else z]
        for layer in reversed(self.layers):
            z, ldj = layer(z.flip(1), ldj, reverse=True)
            swapped = 1 - swapped
            places.append(z.flip(1) if swapped else z)
        return places


class Moons:
    """Two half circles of radius 1.5, blurred."""

    sigma = 0.15

    def points(self, angle):
        """Angles in 0..pi to points on both half circles, each [N, 2]."""
        upper = torch.stack([1.5 * angle.cos() - 0.75, 1.5 * angle.sin() - 0.4], 1)
        return upper, -upper

    def sample(self, n):
        upper, lower = self.points(math.pi * torch.rand(n))
        return torch.where(torch.rand(n, 1) < 0.5, upper, lower) + self.sigma * torch.randn(n, 2)

    def log_prob(self, x):
        """The average over the curve's points, far closer to each other than the blur is wide."""
        centres = torch.cat(self.points(math.pi * (torch.arange(400) + 0.5) / 400)).to(x)
        square = (torch.cdist(part, centres).pow(2) for part in x.split(10_000))
        each = torch.cat([torch.logsumexp(-part / (2 * self.sigma**2), 1) for part in square])
        return each - math.log(2 * math.pi * self.sigma**2 * len(centres))


class Rings:
    """Circles of radius 1 and 2.5, blurred."""

    radii, sigma = (1.0, 2.5), 0.15

    def sample(self, n):
        angle = 2 * math.pi * torch.rand(n)
        radius = torch.tensor(self.radii)[torch.randint(len(self.radii), (n,))] + self.sigma * torch.randn(n)
        return radius.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)

    def log_prob(self, x):
        r = x.norm(dim=1, keepdim=True)
        each = -0.5 * ((r - torch.tensor(self.radii).to(x)) / self.sigma) ** 2
        normal = torch.logsumexp(each, 1) - math.log(len(self.radii) * self.sigma * math.sqrt(2 * math.pi))
        return normal - torch.log(2 * math.pi * r[:, 0])


class Mosaic:
    """Squares of equal size, each with its weight and even in itself: a checkerboard, or a picture's pixels."""

    def __init__(self, weights, side):
        """weights [rows, columns], the first row on top; `side` of a square."""
        self.side, self.shape = side, weights.shape
        self.p = (weights / weights.sum()).double().flatten()

    def sample(self, n):
        place = torch.multinomial(self.p, n, replacement=True)
        row, column = place // self.shape[1], place % self.shape[1]
        corner = torch.stack([column - self.shape[1] / 2, self.shape[0] / 2 - 1 - row], 1)
        return self.side * (corner + torch.rand(n, 2))

    def log_prob(self, x):
        column = torch.floor(x[:, 0] / self.side + self.shape[1] / 2).long()
        row = self.shape[0] - 1 - torch.floor(x[:, 1] / self.side + self.shape[0] / 2).long()
        inside = (column >= 0) & (column < self.shape[1]) & (row >= 0) & (row < self.shape[0])
        place = (row * self.shape[1] + column).clamp(0, len(self.p) - 1)
        p = torch.where(inside, self.p[place.cpu()].to(x), torch.zeros_like(x[:, 0]))
        return torch.log(p) - 2 * math.log(self.side)


def checkerboard():
    row, column = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    return Mosaic(((row + column) % 2).float(), 1.5)


def picture(path, largest=64):
    """The dark parts of a picture: each of at most 64 x 64 pixels as heavy as it is dark."""
    try:
        with Image.open(path) as image:
            image.thumbnail((largest, largest))
            darkness = 255 - torch.from_numpy(np.array(image.convert("L"))).float()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or "is no picture that Pillow can read"
        raise UserError(f"--image {path}: {why}") from None
    darkness[darkness < 64] = 0  # paper is never quite white
    if darkness.sum() == 0:
        raise UserError(f"--image {path}: nothing in it is dark")
    return Mosaic(darkness, 6.0 / max(darkness.shape))


def letters(text="A3"):
    """As a picture of the text would be; the font is the figures' own."""
    figure = plt.figure(figsize=(0.64, 0.64), dpi=100)
    figure.text(0.5, 0.5, text, size=30, weight="bold", ha="center", va="center_baseline")
    figure.canvas.draw()
    red = np.array(figure.canvas.buffer_rgba())[..., 0]
    plt.close(figure)
    return Mosaic(255 - torch.from_numpy(red).float(), 6.0 / 64)


TARGETS = {"moons": Moons, "rings": Rings, "checkerboard": checkerboard, "letters": letters}


def grid(n, reach=REACH):
    """Midpoints of n x n cells that tile -reach..reach, [n * n, 2], and the area of a cell."""
    line = (torch.arange(n) + 0.5) * (2 * reach / n) - reach
    return torch.stack([line.repeat(n), line.flip(0).repeat_interleave(n)], 1), (2 * reach / n) ** 2


@torch.no_grad()
def divergence(model, target, n=400):
    """KL(target || model) in nats, by the midpoint rule."""
    points, area = grid(n)
    log_p = target.log_prob(points)
    inside = log_p > -30
    device = next(model.parameters()).device
    log_q = torch.cat([model.log_prob(part.to(device)).cpu() for part in points[inside].split(50_000)])
    return float((log_p[inside].exp() * (log_p[inside] - log_q)).double().sum() * area)


@torch.no_grad()
def integral(model, n=1200, reach=6.0):
    """Of the model's density over a square that holds all but a trace of it."""
    points, area = grid(n, reach)
    device = next(model.parameters()).device
    return float(sum(model.log_prob(part.to(device)).double().exp().sum() for part in points.split(50_000)) * area)


def epoch_iter(model, target, steps, optimizer, schedule, batch_size):
    """A training step on new points for each of `steps`. Returns the average of -log q in nats."""
    device, losses = next(model.parameters()).device, []
    for _ in steps:
        loss = -model.log_prob(target.sample(batch_size).to(device)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    require_finite(losses)
    return float(torch.stack(losses).mean())


def save_line(path):
    """The lecture's example in one dimension: histogram of u = 0.75 v + 1, and p(u) = p(v) |dv/du|."""
    u = 0.75 * torch.randn(100_000) + 1
    place = torch.linspace(-3, 5, 400)
    formula = log_prior((place - 1) / 0.75).exp() * 4 / 3  # v = (u - 1) / 0.75, so |dv/du| = 4/3
    figure, axes = plt.subplots(figsize=(4.2, 2.6))
    axes.plot(place, log_prior(place).exp(), "--", color=figures.COLOURS[1], label="p(v), standard normal")
    axes.hist(u.numpy(), 80, density=True, color="0.8", label="histogram of u = 0.75 v + 1")
    axes.plot(place, formula, color=figures.COLOURS[0], label="p(v) |dv/du| at v = (u - 1) / 0.75")
    axes.set(xlabel="v or u", ylabel="density", ylim=(0, 0.78))  # room for the legend
    axes.legend(fontsize=7, loc="upper right")
    figures.finish(figure, path)


def bare(axis, title):
    axis.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=[], yticks=[])
    axis.set_title(title, fontsize=8)
    axis.grid(False)
    axis.spines[:].set_visible(False)


@torch.no_grad()
def save_densities(path, model, target, title):
    """Target and model: density and 2000 points of each."""
    points, _ = grid(250)
    figure, axes = plt.subplots(1, 4, figsize=(5.5, 1.7), layout="constrained")
    densities = [target.log_prob(points).exp(), model.cpu().log_prob(points).exp()]
    top = float(densities[0].max())
    for axis, density, name in zip(axes[:2], densities, ("target: density", "flow: density")):
        axis.imshow(density.view(250, 250), extent=[-REACH, REACH] * 2, vmin=0, vmax=top, cmap="magma")
        bare(axis, name)
    for axis, drawn, name in zip(
        axes[2:], (target.sample(2000), model.sample(2000)), ("target: points", "flow: points")
    ):
        axis.scatter(*drawn.T, s=0.6, linewidths=0, color=figures.COLOURS[0], rasterized=True)
        bare(axis, name)
    figure.suptitle(title, fontsize=9)
    figures.finish(figure, path)


def mesh(n=17, m=200, reach=2.5):
    """A square mesh in the noise: 2 n lines of m points, [2 n, m, 2]."""
    lines, along = torch.linspace(-reach, reach, n), torch.linspace(-reach, reach, m)
    vertical = torch.stack([lines.repeat_interleave(m), along.repeat(n)], 1).view(n, m, 2)
    return torch.cat([vertical, vertical.flip(2)])


def draw_mesh(axis, places, lines, title):
    """The lines of the mesh, coloured by where in the noise they come from."""
    for i, line in enumerate(places.view(lines, -1, 2)):
        axis.plot(*line.T, color=plt.cm.viridis((i % (lines // 2)) / (lines // 2)), linewidth=0.4)
    bare(axis, title)


def save_journey(path, model, title):
    """How the couplings move a mesh from the noise to the data."""
    lines = mesh()
    places = model.cpu().journey(lines.flatten(0, 1))
    shown = sorted({round(i * (len(places) - 1) / 5) for i in range(6)})
    figure, axes = plt.subplots(1, len(shown), figsize=(5.5, 1.3), layout="constrained")
    with plt.rc_context({"path.simplify_threshold": 0.5}):  # points of print that a line may be off: half the file
        for axis, k in zip(axes, shown):
            draw_mesh(axis, places[k], len(lines), f"after {k}" if k else "noise")
    figure.suptitle(f"{title}: a mesh, moved by the couplings", fontsize=9)
    figures.finish(figure, path)


def load(path):
    return models.load_model(path, f"beyond/{Path(__file__).name}", Flow)


def save_points(args):
    """--sample N: points of a trained flow, as a picture, without training."""
    name = args.name or f"flow-{'picture' if args.image else args.target}"
    path = Path(args.weights) if args.weights else models.find_model(name, [*TARGETS, "picture"], args.quick)
    torch.manual_seed(args.seed)
    figure, axis = plt.subplots(figsize=(2.6, 2.6))
    axis.scatter(*load(path).sample(args.sample).T, s=0.6, linewidths=0, color=figures.COLOURS[0])
    bare(axis, "")
    target = models.picture_path(path, args.sample)
    figures.finish(figure, target)
    print(f"{args.sample} samples: {show(target)}")


def title(args):
    return f"Flow in the plane, {'picture' if args.image else args.target}"


def main(args):
    if args.sample:
        return save_points(args)
    name = "picture" if args.image else args.target
    target = picture(args.image) if args.image else TARGETS[args.target]()
    run = Run(args, __file__, f"flow-{name}", name, args.epochs)
    if run.finished:
        return
    torch.manual_seed(args.seed)
    sizes = {"layers": args.layers, "n_hidden": args.hidden}
    model = Flow(**sizes).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.epochs * STEPS + 1, pct_start=0.1, cycle_momentum=False
    )
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    run.load(parts)
    for epoch in range(len(run.history), args.epochs + 1):
        run.seed(epoch)
        if epoch == 0:
            nats = float(-model.log_prob(target.sample(10_000).to(run.device)).mean().detach())
        else:
            nats = epoch_iter(model, target, run.train_progress(range(STEPS)), optimizer, schedule, args.batch_size)
        run.record(epoch, train_nats=nats, kl=divergence(model, target, 200))
        run.save(parts)

    run.save_model(sizes, model)
    save_line(run.figure("one-dimension.pdf"))
    figures.curves(
        run.figure("divergence.pdf"), run.column("epoch"), {"KL(target || flow)": run.column("kl")},
        xlabel=f"epoch ({STEPS} steps)", ylabel="nats", title=title(args), log=True,
    )  # fmt: skip
    reach = max(6.0, 1.1 * float(model.sample(100_000).abs().max()))  # rings throw some points far out
    mass = integral(model, int(200 * reach), reach)
    print(f"Check:  the density's integral is {mass:.5f}")
    save_densities(run.figure("densities.pdf"), model, target, title(args))
    save_journey(run.figure("journey.pdf"), model, title(args))
    run.finish([model], kl=divergence(model.to(run.device), target), integral=mass)


def parse_args(words=None):
    number = cli.number
    parser = cli.Parser(__doc__, __file__)
    group = parser.add_argument_group("target")
    group.add_argument("--target", choices=list(TARGETS), default="moons", help="what the flow is fitted to")
    group.add_argument("--image", metavar="FILE", help="a picture whose dark parts are the target instead")
    group = parser.add_argument_group("model and training")
    group.add_argument("--epochs", type=number(int, 1), default=12, help=f"of {STEPS} steps")
    group.add_argument("--layers", type=number(int, 1, 100), default=10, help="couplings")
    group.add_argument("--hidden", type=number(int, 1, 4096), default=64, help="width of the couplings' nets")
    group.add_argument("--batch_size", type=number(int, 1), default=512, help="points per step")
    group.add_argument("--lr", type=number(float, above=0), default=5e-3, help="highest learning rate")
    models.sample_options(parser, number, "points", 100_000)
    cli.run_options(parser)
    args = parser.parse_args(words)
    if args.quick:
        args.epochs = min(args.epochs, 2)
    return args


if __name__ == "__main__":
    cli.start(main, parse_args)
