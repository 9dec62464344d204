"""Fully connected RealNVP flow on MNIST (Dinh et al. 2017, arXiv:1605.08803): affine couplings, checkerboard mask.

    python code/a3_nf_template.py                                train for 40 epochs
    python code/a3_nf_template.py --epochs 10 --name nf-short    a short run
    python code/a3_nf_template.py --arch multiscale              a multi-scale flow (nets/multiscale.py), 5 epochs
    python code/a3_nf_template.py --sample 64                    a grid of samples from the trained flow, no training
    python code/a3_nf_template.py --quick                        a small run in half a minute

Measured on one core of an AMD EPYC with bfloat16 instructions, torch 2.14, MNIST, seed 42: 697 s of training. The
validation result falls below 1.85 bits per dimension after 67 s and is 1.57 at the end. The test result is 1.56 with
one dequantisation sample per image and 1.52 with eight. The same two numbers of --arch multiscale: 1.05 and 1.04 after
902 s; of --arch multiscale --mix conv1x1 --hidden 64 --flows 8 --epochs 36: 1.01 and 1.00 after 11699 s. The test split
is evaluated once, after training.

Changes to the template: half-size networks with 512 hidden units and SiLU, AdamW with a one-cycle learning rate with a
peak of 0.001, images shifted by up to one pixel, gradients clipped after the backward pass, and a larger alpha in the
logit transform. docs/flow.md explains them.
"""

import copy
import functools
import math
import sys
from pathlib import Path

import torch
import torch.nn as nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that contains `datasets`
from common import cli, distributed, figures, models
from common.devices import autocast, in_double
from common.figures import stage_name
from common.run import Run, one_cycle, require_finite
from datasets.mnist import GREY, mnist
from nets import multiscale
from nets.muon import Muon

TARGET = 1.85  # bits per dimension, to be reached in Question 3.8
# default options of each architecture
DEFAULTS = {
    "template": {
        "epochs": 40, "flows": 4, "hidden": 512, "batch_size": 256, "lr": 1e-3, "weight_decay": 0.02, "shift": 1,
        "mix": "permute", "dequantize": "uniform", "components": 0, "muon": 0.0, "alpha": 1e-3,
    },
    "multiscale": {
        "epochs": 5, "flows": 6, "hidden": 48, "batch_size": 32, "lr": 4e-3, "weight_decay": 0.0, "shift": 0,
        "mix": "permute", "dequantize": "variational", "components": 4, "muon": 0.02, "alpha": 1e-5,
    },
}  # fmt: skip


def log_prior(x):
    """log N(x | 0, 1), elementwise."""
    return -0.5 * (x**2 + math.log(2 * math.pi))


def sample_prior(size):
    return torch.randn(size)


def get_mask():
    """The checkerboard mask [1, 784]: 1 where row + column is even."""
    row, column = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    return ((row + column) % 2 == 0).float().reshape(1, 784)


class Coupling(nn.Module):
    """Affine coupling layer: keeps the elements where the mask is 1; they determine scale and shift of the others.

    The network reads only the kept elements and has outputs only for the changed ones. Multiplication by the mask
    would give the same function, but it would compute with zeros and unused outputs."""

    def __init__(self, c_in, mask, n_hidden=1024):
        super().__init__()
        mask = mask.reshape(c_in).bool()
        self.register_buffer("kept", torch.nonzero(mask).squeeze(1))
        self.register_buffer("changed", torch.nonzero(~mask).squeeze(1))
        self.nn = nn.Sequential(
            nn.Linear(len(self.kept), n_hidden), nn.SiLU(),
            nn.Linear(n_hidden, n_hidden), nn.SiLU(),
            nn.Linear(n_hidden, 2 * len(self.changed)),
        )  # fmt: skip
        nn.init.zeros_(self.nn[-1].weight)  # the whole flow starts as the identity
        nn.init.zeros_(self.nn[-1].bias)

    def forward(self, z, ldj, reverse=False):
        """z [B, c_in], ldj [B] -> the same shapes."""
        changed, ldj = self.transform(z[:, self.kept], z[:, self.changed], ldj, reverse)
        return z.index_copy(1, self.changed, changed), ldj

    def transform(self, kept, changed, ldj, reverse=False):
        """The new values changed * exp(s) + t of the changed elements, [B, changed], and ldj [B].

        s (log_scale) and t (shift) depend on the kept elements [B, kept]. The Jacobian is triangular; its diagonal is 1
        for kept and exp(s) for changed elements, so log |det| is the sum of s."""
        # The kept values go to the network in the type of its weights (autocast may compute in bfloat16). Everything
        # else has the type of z, but at least float32: see worst_round_trip.
        parameters = self.nn(kept.to(self.nn[0].weight.dtype)).to(torch.promote_types(kept.dtype, torch.float32))
        log_scale, shift = parameters.chunk(2, dim=1)  # each [B, number of changed elements]
        log_scale = torch.tanh(log_scale)  # in -1..1: each scale is between 1/e and e
        if reverse:
            return (changed - shift) * torch.exp(-log_scale), ldj - log_scale.sum(1)
        return changed * torch.exp(log_scale) + shift, ldj + log_scale.sum(1)


class Flow(nn.Module):
    """2 * n_flows coupling layers that alternate between the checkerboard mask and its complement."""

    def __init__(self, shape, n_flows=4, n_hidden=512):
        super().__init__()
        (channels,) = shape
        mask = get_mask()
        self.layers = nn.ModuleList(Coupling(channels, m, n_hidden) for _ in range(n_flows) for m in (mask, 1 - mask))
        self.z_shape = (channels,)

    def forward(self, z, logdet, reverse=False):
        """Apply all layers: z [B, 784], logdet [B] -> the same shapes, or the inverse with `reverse`.

        Both halves of the pixels are separated once and not in every layer, which is faster."""
        halves = [z[:, layer.kept] for layer in self.layers[:2]]
        for i in reversed(range(len(self.layers))) if reverse else range(len(self.layers)):
            kept, changed = halves[i % 2], halves[1 - i % 2]
            halves[1 - i % 2], logdet = self.layers[i].transform(kept, changed, logdet, reverse)
        order = torch.cat([layer.kept for layer in self.layers[:2]]).argsort()
        return torch.cat(halves, 1)[:, order], logdet


class Model(nn.Module):
    """Dequantisation, logit and flow: log p(x) of images with integers 0..255, and samples.

    `shape` is [784]. The defaults are those of the course's template where it has them; the script uses DEFAULTS. `mix`
    and `components` are options of multiscale.Flow."""

    def __init__(
        self, shape, n_flows=4, n_hidden=512, alpha=1e-5, arch="template", mix="permute", dequantize="uniform",
        components=0,
    ):  # fmt: skip
        super().__init__()
        self.alpha = alpha
        size = shape, n_flows, n_hidden
        self.flow = multiscale.Flow(*size, mix, components) if arch == "multiscale" else Flow(*size)
        self.noise = multiscale.Dequantizer(shape) if dequantize == "variational" else None

    def dequantize(self, z):
        """Add uniform noise in [0, 1). The mean log-density is then a lower bound of log P(x) (Theis et al. 2016)."""
        return z + distributed.noise(torch.rand_like, z)

    def logit_normalize(self, z, logdet, reverse=False):
        """Map z [B, 784] from [0, 256] to the real line: y = alpha / 2 + (1 - alpha) z / 256, then logit(y).

        alpha keeps y away from 0 and 1, where the logit is infinite. logdet [B] is updated. `reverse` inverts it."""
        linear = z.shape[1] * (math.log(1 - self.alpha) - math.log(256))  # log-determinant of z -> y
        if not reverse:
            y = self.alpha / 2 + (1 - self.alpha) * z / 256
            log_y, log_rest = torch.log(y), torch.log(1 - y)
            return log_y - log_rest, logdet + linear - (log_y + log_rest).sum(1)
        logdet = logdet + (nn.functional.logsigmoid(z) + nn.functional.logsigmoid(-z)).sum(1) - linear
        return (torch.sigmoid(z) - self.alpha / 2) / (1 - self.alpha) * 256, logdet

    def encode(self, input):
        """Images [B, 784] to latent vectors [B, 784] and log |det dz/dx| [B].

        With learned dequantisation, log q(u | x) is subtracted from the second."""
        if self.noise is None:
            z, ldj = self.dequantize(input), torch.zeros_like(input[:, 0])
        else:
            u, log_q = self.noise(input)
            z, ldj = input + u, -log_q
        return self.flow(*self.logit_normalize(z, ldj))

    def forward(self, input):
        """log p(x) [B] in nats of images [B, 784] with integers 0..255, from one dequantisation sample per image.

        The density is that of the image with noise, whose values are in [0, 256]: its unit is one grey level."""
        z, ldj = self.encode(input)
        return log_prior(z).sum(1) + ldj

    @torch.no_grad()
    def decode(self, z):
        """Latent vectors [n, 784] to images [n, 784] with integers 0..255."""
        z, ldj = self.flow(z, torch.zeros_like(z[:, 0]), reverse=True)
        x, _ = self.logit_normalize(z, ldj, reverse=True)
        return x.floor().clamp(0, 255)

    @torch.no_grad()
    def sample(self, n_samples):
        device = next(self.parameters()).device
        with autocast(device):  # as in training; only to encode and decode the same image, float32 is more exact
            return self.decode(sample_prior((n_samples, *self.flow.z_shape)).to(device))


def bits_per_dim(log_px, dimensions=784):
    """Nats per image to bits per dimension."""
    return -log_px / (dimensions * math.log(2))


def epoch_iter(model, data, optimizer, schedule=None):
    """One pass over `data`. If the model is in training mode, it is updated. Returns the average bits per dimension.

    Evaluation uses bfloat16, as training does. The likelihood needs no inverse, and the flow with bfloat16 networks is
    itself an invertible function, up to rounding."""
    device = next(model.parameters()).device
    total, images, losses = 0, 0, []
    for imgs, _ in distributed.local_batches(data):
        with torch.set_grad_enabled(model.training), autocast(device):
            log_px = model(imgs.to(device))
        if model.training:
            loss = bits_per_dim(distributed.mean(log_px))
            optimizer.zero_grad()
            loss.backward()
            distributed.sum_gradients(model)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # limits the effect of one unusual batch
            optimizer.step()
            if schedule:
                schedule.step()
            losses.append(loss.detach())
        total = total + in_double(log_px.detach()).sum()  # the last batch is smaller: sum now, divide at the end
        images += len(imgs)
    require_finite(losses, 100)  # bits per dimension; untrained models have less than 30
    total, images = distributed.sum_over_processes(total, images)
    return bits_per_dim(total / images)


def run_epoch(model, data, optimizer, schedule=None):
    """One epoch of training, then validation. Returns both averages in bits per dimension."""
    traindata, valdata = data
    model.train()
    train_bpd = epoch_iter(model, traindata, optimizer, schedule)
    model.eval()
    return train_bpd, epoch_iter(model, valdata, optimizer)


@torch.no_grad()
def sampled_log_px(model, data, n_samples):
    """log p(x) with `n_samples` dequantisation samples per image: [n_samples, N], in float64."""
    device = next(model.parameters()).device
    with autocast(device):
        return torch.cat(
            [torch.stack([in_double(model(imgs.to(device))) for _ in range(n_samples)]) for imgs, _ in data], 1
        )


def averaged_bpd(log_px, n_samples):
    """Bits per dimension [N] with the density averaged over `n_samples` dequantisation samples, from log p(x) [S, N].

    With more samples it approaches the exact -log P(x). The S rows form S / `n_samples` groups, whose results are
    averaged."""
    groups = log_px.unflatten(0, (-1, n_samples))
    return bits_per_dim((groups.logsumexp(1) - math.log(n_samples)).mean(0))


@torch.no_grad()
def worst_round_trip(model, images, dtype):
    """The largest reconstruction error of a pixel, in grey levels, after mapping images to z and back.

    `dtype` is that of the images and of all that the layers do with them. The networks keep the type of their weights:
    in both directions they get nearly the same inputs, so their own rounding errors cancel. 0.5 is the mean noise."""
    model = copy.deepcopy(model).cpu()  # Apple GPUs have no float64
    x = images.cpu().to(dtype) + 0.5
    z, ldj = model.flow(*model.logit_normalize(x, torch.zeros_like(x[:, 0])))
    back, _ = model.logit_normalize(*model.flow(z, ldj, reverse=True), reverse=True)
    return float((back - x).abs().max())


def save_bpd_plot(train_curve, val_curve, filename, title="", seconds=None):
    """Bits per dimension against the epoch (0: untrained). A second panel shows the values near the target.

    `seconds`: the training time of each epoch."""
    crossed = next((epoch for epoch, bpd in enumerate(val_curve) if bpd < TARGET), None)
    start = 1 if crossed == 1 or len(val_curve) < 4 else 2
    points, note = [], f"; dotted: {TARGET}"
    if crossed:
        points = [(crossed, val_curve[crossed])]
        note += f", reached in epoch {crossed}" + (f", {sum(seconds[: crossed + 1]):.0f} s" if seconds else "")
    figures.curves(
        filename, range(len(train_curve)), {"training": train_curve, "validation": val_curve},
        ylabel="bits per dimension", title=title, points=points, marks=[(TARGET, "")], zoom_title=note, zoom_from=start,
        zoom_ylim=(min(val_curve) - 0.05, max(TARGET + 0.1, *val_curve[start:], *train_curve[start:])),
    )  # fmt: skip


@torch.no_grad()
def interpolations(model, val):
    """For five pairs of validation images: 9 images that interpolate their latent vectors [45, 784], and row labels."""
    first = [int(torch.nonzero(val.labels == digit)[0]) for digit in range(10)]
    pairs = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    model.eval()
    codes = model.encode(val.images[first].float())[0]
    steps = torch.linspace(0, 1, 9, device=val.images.device).unsqueeze(1)
    paths = torch.cat([(1 - steps) * codes[a] + steps * codes[b] for a, b in pairs])
    return model.decode(paths), [f"{a} to {b}" for a, b in pairs]


def stages(epochs):
    """The epochs after which samples are drawn: 0, 1/4, 1/2 and all of the training."""
    return sorted({epochs * quarter // 4 for quarter in (0, 1, 2, 4)})


def save_figures(run, title, model, val, snapshots):
    """The curve and the samples of Question 3.8, and interpolations between validation images."""
    save_bpd_plot(run.column("train_bpd"), run.column("val_bpd"), run.figure("bpd.pdf"), title, run.epoch_seconds)
    grids = {stage_name(epoch, run.epochs): snapshots[epoch] / 255 for epoch in stages(run.epochs)}
    figures.image_grids(run.figure("samples.png"), grids, 5, f"{title}: same z in every grid")
    images, rows = interpolations(model, val)
    caption = f"{title}: interpolation in latent space"
    figures.image_grids(run.figure("interpolation.png"), {caption: images / 255}, 9, row_labels=rows)


def load(path):
    return models.load_model(path, Path(__file__).name, lambda **sizes: Model([784], **sizes))


def draw(model, n):
    """n images in 0..1."""
    return model.sample(n) / 255


def default_name(args):
    return "nf" if args.arch == "template" else f"nf-{args.arch}"


def title(args):
    return "RealNVP" if args.arch == "template" else "Multi-scale flow"


def main(args):
    if args.sample:
        return models.draw_samples(args, default_name(args), GREY, load, draw)
    train, val, test = mnist(args.data_root, args.batch_size, data=args.data, shift=args.shift)
    run = Run(args, __file__, default_name(args), train.name, args.epochs)
    print(f"Data:   {train.title}, {train.source}")
    if run.finished:
        return
    if args.quick:
        train, val, test = train.subset(3000), val.subset(500), test.subset(500)
    train, val, test = train.to(run.device), val.to(run.device), test.to(run.device)

    torch.manual_seed(args.seed)
    sizes = {"n_flows": args.flows, "n_hidden": args.hidden, "alpha": args.alpha, "arch": args.arch,
             "mix": args.mix, "dequantize": args.dequantize, "components": args.components}  # fmt: skip
    model = Model([784], **sizes).to(run.device)
    hidden = multiscale.hidden_weights(model) if args.muon else []  # without any, Muon is AdamW
    optimizer = Muon(model.parameters(), args.lr, hidden, args.muon, weight_decay=args.weight_decay, fused=True)
    schedule = one_cycle(optimizer, [args.lr, args.muon], args.epochs * len(train))
    codes = sample_prior((25, 784)).to(run.device)  # the same for the samples of every epoch
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    state = run.load(parts)
    snapshots, best = state.get("snapshots", {}), state.get("best")

    for epoch in range(len(run.history), args.epochs + 1):
        run.seed(epoch)
        if epoch == 0:
            model.eval()
            train_bpd, val_bpd = epoch_iter(model, train.subset(5000), None), epoch_iter(model, val, None)
        else:
            train.share = max(0.0, 1 - (epoch - 1) / (0.9 * args.epochs))  # 0 in the last epochs
            train_bpd, val_bpd = run_epoch(model, (run.train_progress(train), val), optimizer, schedule)
        run.record(epoch, train_bpd=train_bpd, val_bpd=val_bpd)
        if val_bpd <= min(run.column("val_bpd")):
            best = copy.deepcopy(model.state_dict())
        if epoch in stages(args.epochs):
            snapshots[epoch] = model.decode(codes).to(torch.uint8).cpu()
        run.save(parts, best=best, snapshots=snapshots)

    if distributed.end():
        return
    model.load_state_dict(best)
    model.eval()
    run.save_model(sizes, model)
    save_figures(run, f"{title(args)}, {train.title}", model, val, snapshots)
    run.seed(args.epochs + 1)
    test = test.subset(args.eval_images)
    log_px = sampled_log_px(model, run.progress(test, "test, 8 samples"), 8)
    test_bpd, test_bpd_8 = (float(averaged_bpd(log_px, n).mean()) for n in (1, 8))
    chosen = min(run.history, key=lambda row: row["val_bpd"])
    crossed = next((row["epoch"] for row in run.history if row["val_bpd"] < TARGET), None)
    run.finish(
        [model], val_bpd=chosen["val_bpd"], best_epoch=chosen["epoch"], test_bpd=test_bpd, test_bpd_8=test_bpd_8,
        eval_images=len(test.images), round_trip=worst_round_trip(model, val.subset(1000).images, torch.float64),
        round_trip_float32=worst_round_trip(model, val.subset(1000).images, torch.float32),
        first_epoch_below_1_85=crossed,
        seconds_to_1_85=None if crossed is None else sum(run.epoch_seconds[: crossed + 1]),
    )  # fmt: skip


def parse_args(words=None):
    number, parser = cli.number, cli.Parser(__doc__, __file__)
    add = parser.add_argument_group("model and training").add_argument
    add("--arch", choices=list(DEFAULTS), default="template", help="architecture of the flow")
    by_arch = functools.partial(cli.add_with_defaults, add, DEFAULTS)
    by_arch("epochs", "number of epochs", type=number(int, 1))
    by_arch("flows", "pairs of coupling layers; multiscale: steps per level", type=number(int, 1, 100))
    by_arch("hidden", "width of the hidden layers", type=number(int, 1, 20000))
    by_arch("batch_size", "images per step", type=number(int, 1))
    by_arch("lr", "peak learning rate", type=number(float, above=0))
    text = "multiscale only: peak learning rate of Muon for the convolutions between hidden layers; 0: AdamW for all"
    by_arch("muon", text, type=number(float, 0))
    by_arch("weight_decay", "weight decay of AdamW", type=number(float, 0))
    by_arch("shift", "data augmentation: largest shift in pixels", type=number(int, 0, 3))
    by_arch("mix", "multiscale only: channel mixing before each coupling layer", choices=["permute", "conv1x1"])
    text = "multiscale only: logistics in the mixture of each coupling layer; 0: affine coupling layers"
    by_arch("components", text, type=number(int, 0, 100))
    by_arch("dequantize", "dequantisation noise; variational: learned", choices=["uniform", "variational"])
    by_arch("alpha", "alpha of the logit transform", type=number(float, above=0, below=0.5))
    add("--eval_images", type=number(int, 1), default=10000, help="test images to evaluate, with 8 samples each")
    cli.sample_options(parser)
    cli.run_options(parser, GREY)
    args = parser.parse_args(words)
    cli.fill_in(args, DEFAULTS[args.arch])
    if args.arch == "template" and (args.mix != "permute" or args.components or args.muon):
        parser.error("--arch template has neither --mix nor --components nor --muon")
    args.epochs = min(args.epochs, 4) if args.quick else args.epochs
    return args


if __name__ == "__main__":
    cli.start(main, parse_args, torchrun=True)
