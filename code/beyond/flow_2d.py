"""A flow in two dimensions: affine couplings fitted to moons, rings, a checkerboard or letters.

    python code/beyond/flow_2d.py            two moons; --target rings, checkerboard, letters
    python code/beyond/flow_2d.py --quick    a small run

The couplings are those of a3_nf_template.py; between them, the two axes are swapped. In two dimensions, quadrature can
check everything: the integral of the density and the KL divergence from the target.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from a3_nf_template import Coupling, log_prior
from common import cli, figures, models
from common.run import Run, one_cycle, require_finite
from datasets.files import show

STEPS = 250  # training steps per epoch
REACH = 4.0  # figures show -4..4 on both axes
FARTHEST = 30.0  # half the side of the largest square for the integral: a larger grid does not fit into memory
plt = figures.plt


class Flow(nn.Module):
    """Maps points to normal noise and back. Each coupling keeps the first axis; then the axes are swapped."""

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
        """Positions of noise points after each coupling, from noise to data: a list of layers + 1 tensors [N, 2].

        Swapped axes are swapped back, so that the positions show only the effect of the couplings."""
        ldj, swapped = torch.zeros_like(z[:, 0]), len(self.layers) % 2
        positions = [z.flip(1) if swapped else z]
        for layer in reversed(self.layers):
            z, ldj = layer(z.flip(1), ldj, reverse=True)
            swapped = 1 - swapped
            positions.append(z.flip(1) if swapped else z)
        return positions


class Moons:
    """Two half circles of radius 1.5 with Gaussian noise."""

    sigma = 0.15

    def points(self, angle):
        """Angles in 0..pi -> points on both half circles, each [N, 2]."""
        upper = torch.stack([1.5 * angle.cos() - 0.75, 1.5 * angle.sin() - 0.4], 1)
        return upper, -upper

    def sample(self, n):
        upper, lower = self.points(math.pi * torch.rand(n))
        return torch.where(torch.rand(n, 1) < 0.5, upper, lower) + self.sigma * torch.randn(n, 2)

    def log_prob(self, x):
        """Average over points on the half circles, spaced much more closely than sigma."""
        centres = torch.cat(self.points(math.pi * (torch.arange(400) + 0.5) / 400)).to(x)
        squares = (torch.cdist(part, centres).pow(2) for part in x.split(10_000))
        log_sums = torch.cat([torch.logsumexp(-square / (2 * self.sigma**2), 1) for square in squares])
        return log_sums - math.log(2 * math.pi * self.sigma**2 * len(centres))


class Rings:
    """Circles of radius 1 and 2.5 with Gaussian noise."""

    radii, sigma = (1.0, 2.5), 0.15

    def sample(self, n):
        angle = 2 * math.pi * torch.rand(n)
        radius = torch.tensor(self.radii)[torch.randint(len(self.radii), (n,))] + self.sigma * torch.randn(n)
        return radius.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)

    def log_prob(self, x):
        r = x.norm(dim=1, keepdim=True)
        exponents = -0.5 * ((r - torch.tensor(self.radii).to(x)) / self.sigma) ** 2
        normal = torch.logsumexp(exponents, 1) - math.log(len(self.radii) * self.sigma * math.sqrt(2 * math.pi))
        return normal - torch.log(2 * math.pi * r[:, 0])


class Mosaic:
    """A piecewise constant density on equal squares: a checkerboard, or the pixels of letters."""

    def __init__(self, weights, side):
        """`weights` [rows, columns], first row at the top; `side`: length of a square's side."""
        self.side, self.shape = side, weights.shape
        self.p = (weights / weights.sum()).double().flatten()

    def sample(self, n):
        index = torch.multinomial(self.p, n, replacement=True)
        row, column = index // self.shape[1], index % self.shape[1]
        corner = torch.stack([column - self.shape[1] / 2, self.shape[0] / 2 - 1 - row], 1)
        return self.side * (corner + torch.rand(n, 2))

    def log_prob(self, x):
        column = torch.floor(x[:, 0] / self.side + self.shape[1] / 2).long()
        row = self.shape[0] - 1 - torch.floor(x[:, 1] / self.side + self.shape[0] / 2).long()
        inside = (column >= 0) & (column < self.shape[1]) & (row >= 0) & (row < self.shape[0])
        index = (row * self.shape[1] + column).clamp(0, len(self.p) - 1)
        p = torch.where(inside, self.p[index.cpu()].to(x), torch.zeros_like(x[:, 0]))
        return torch.log(p) - 2 * math.log(self.side)


def letters(text="A3"):
    """A density proportional to the darkness of a text in the font of the figures."""
    figure = plt.figure(figsize=(0.64, 0.64), dpi=100)
    figure.text(0.5, 0.5, text, size=30, weight="bold", ha="center", va="center_baseline")
    figure.canvas.draw()
    red = np.array(figure.canvas.buffer_rgba())[..., 0]
    plt.close(figure)
    return Mosaic(255 - torch.from_numpy(red).float(), 6.0 / 64)


BOARD = (torch.arange(4)[:, None] + torch.arange(4)) % 2
TARGETS = {"moons": Moons, "rings": Rings, "checkerboard": lambda: Mosaic(BOARD.float(), 1.5), "letters": letters}


def grid(n, reach=REACH):
    """Midpoints [n * n, 2] of an n x n grid on -reach..reach in both axes, and the area of a cell."""
    line = (torch.arange(n) + 0.5) * (2 * reach / n) - reach
    return torch.stack([line.repeat(n), line.flip(0).repeat_interleave(n)], 1), (2 * reach / n) ** 2


@torch.no_grad()
def log_probs(model, points):
    """The model's log density at many points, computed in parts, on the CPU."""
    device = next(model.parameters()).device
    return torch.cat([model.log_prob(part.to(device)).cpu() for part in points.split(50_000)])


def divergence(model, target, n=400):
    """KL(target || model) in nats, by the midpoint rule."""
    points, area = grid(n)
    log_p = target.log_prob(points)
    inside = log_p > -30
    log_p, log_q = log_p[inside], log_probs(model, points[inside])
    return float((log_p.exp() * (log_p - log_q)).double().sum() * area)


def integral(model, n=1200, reach=6.0):
    """Integral of the model's density over a square, by the midpoint rule."""
    points, area = grid(n, reach)
    return float(sum(part.exp().sum() for part in log_probs(model, points).double().split(50_000)) * area)


def epoch_iter(model, target, steps, optimizer, schedule, batch_size):
    """One training step on new points per element of `steps`. Returns the average loss -log q in nats."""
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


def finish_panel(axis, title):
    """Give a panel the figures' limits, without ticks and frame."""
    axis.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=[], yticks=[])
    axis.set_title(title, fontsize=8)
    axis.grid(False)
    axis.spines[:].set_visible(False)


def draw_points(axis, points, title=""):
    axis.scatter(*points.T, s=0.6, linewidths=0, color=figures.COLOURS[0], rasterized=True)
    finish_panel(axis, title)


@torch.no_grad()
def save_densities(path, model, target, title):
    """Density and 2000 points of target and flow."""
    points, _ = grid(250)
    figure, axes = plt.subplots(1, 4, figsize=(5.5, 1.7), layout="constrained")
    densities = {"target: density": target.log_prob(points).exp(), "flow: density": model.cpu().log_prob(points).exp()}
    top = float(densities["target: density"].max())
    for axis, (name, density) in zip(axes, densities.items()):
        axis.imshow(density.view(250, 250), extent=[-REACH, REACH] * 2, vmin=0, vmax=top, cmap="magma")
        finish_panel(axis, name)
    draw_points(axes[2], target.sample(2000), "target: points")
    draw_points(axes[3], model.sample(2000), "flow: points")
    figure.suptitle(title, fontsize=9)
    figures.finish(figure, path)


def save_journey(path, model, title, n=17, m=200, reach=2.5):
    """How the couplings move a square mesh of 2 n lines with m points each, from noise to data.

    Colours: a line's position in the noise."""
    across, along = torch.linspace(-reach, reach, n), torch.linspace(-reach, reach, m)
    vertical = torch.stack([across.repeat_interleave(m), along.repeat(n)], 1).view(n, m, 2)
    positions = model.cpu().journey(torch.cat([vertical, vertical.flip(2)]).flatten(0, 1))
    shown = sorted({round(i * (len(positions) - 1) / 5) for i in range(6)})
    figure, axes = plt.subplots(1, len(shown), figsize=(5.5, 1.3), layout="constrained")
    with plt.rc_context({"path.simplify_threshold": 0.5}):  # coarser lines: half the file size
        for axis, k in zip(axes, shown):
            for i, line in enumerate(positions[k].view(2 * n, m, 2)):
                axis.plot(*line.T, color=plt.cm.viridis((i % n) / n), linewidth=0.4)
            finish_panel(axis, f"after {k}" if k else "noise")
    figure.suptitle(f"{title}: a mesh after 0 to {len(positions) - 1} couplings", fontsize=9)
    figures.finish(figure, path)


def load(path):
    return models.load_model(path, f"beyond/{Path(__file__).name}", Flow)


def save_points(args):
    """--sample N: a figure with N points from a trained flow, without training."""
    path = models.weights_for(args, default_name(args), [args.target, *TARGETS])
    torch.manual_seed(args.seed)
    figure, axis = plt.subplots(figsize=(2.6, 2.6))
    draw_points(axis, load(path).sample(args.sample))
    figure_path = models.picture_path(path, args.sample)
    figures.finish(figure, figure_path)
    print(f"{args.sample} samples: {show(figure_path)}")


def default_name(args):
    return f"flow-{args.target}"


def title(args):
    return f"Flow in the plane, {args.target}"


def main(args):
    if args.sample:
        return save_points(args)
    target = TARGETS[args.target]()
    run = Run(args, __file__, default_name(args), args.target, args.epochs)
    if run.finished:
        return
    torch.manual_seed(args.seed)
    sizes = {"layers": args.layers, "n_hidden": args.hidden}
    model = Flow(**sizes).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.0, fused=True)
    schedule = one_cycle(optimizer, args.lr, args.epochs * STEPS)
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
    lines, xlabel = {"KL(target || flow)": run.column("kl")}, f"epoch ({STEPS} steps)"
    path = run.figure("divergence.pdf")
    figures.curves(path, run.column("epoch"), lines, xlabel, "nats", title=title(args), log=True)
    run.seed(args.epochs + 1)
    farthest = float(model.sample(100_000).abs().max())  # flows for rings map some points far out
    reach = min(max(6.0, 1.1 * farthest), FARTHEST)
    mass = integral(model, int(200 * reach), reach)
    print(f"Check:  the density integrates to {mass:.5f} over a square with sides of {2 * reach:.0f}")
    save_densities(run.figure("densities.pdf"), model, target, title(args))
    save_journey(run.figure("journey.pdf"), model, title(args))
    run.finish([model], kl=divergence(model.to(run.device), target), integral=mass)


def parse_args(words=None):
    number = cli.number
    parser = cli.Parser(__doc__, __file__)
    group = parser.add_argument_group("target")
    group.add_argument("--target", choices=list(TARGETS), default="moons", help="distribution to fit")
    group = parser.add_argument_group("model and training")
    group.add_argument("--epochs", type=number(int, 1), default=12, help=f"epochs of {STEPS} steps")
    group.add_argument("--layers", type=number(int, 1, 100), default=10, help="number of couplings")
    group.add_argument("--hidden", type=number(int, 1, 4096), default=64, help="width of the hidden layers")
    group.add_argument("--batch_size", type=number(int, 1), default=512, help="points per step")
    group.add_argument("--lr", type=number(float, above=0), default=5e-3, help="peak learning rate")
    cli.sample_options(parser, "points", 100_000)
    cli.run_options(parser)
    args = parser.parse_args(words)
    if args.quick:
        args.epochs = min(args.epochs, 2)
    return args


if __name__ == "__main__":
    cli.start(main, parse_args)
