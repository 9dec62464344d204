"""Autoregressive models of digits: p(x) = prod_d p(x_d | x_<d), pixels in reading order, with exact likelihood.

    python code/beyond/autoregressive.py                                  gated PixelCNN on static binary MNIST
    python code/beyond/autoregressive.py --model rnn                      a GRU; also rnn-plain, conv1d, markov
    python code/beyond/autoregressive.py --likelihood softmax256          8-bit MNIST
    python code/beyond/autoregressive.py --sample 64                      a grid of samples from the trained model
    python code/beyond/autoregressive.py --quick                          a small run

PixelCNN: van den Oord et al. 2016 (arXiv:1606.05328).

Measured on one core of an AMD EPYC with bfloat16 instructions, torch 2.14, static binary MNIST, exact log p(x) of the
test images in nats: PixelCNN -80.77 (1188 s of training), conv1d -83.76 (575 s), rnn -90.03 (599 s), markov -177.66
(74 s). PixelCNN on 8-bit MNIST: 0.847 bits per dimension (1211 s). Without bfloat16, with --hidden 48 --epochs 6
--lr 0.003 --dropout 0.05: -80.32 (9450 s).

Each model has two implementations. `forward` computes all pixels in one pass, for training. `at` computes one pixel
from cached activations of earlier pixels, for sampling. A test checks that both give the same result.
"""

import copy
import functools
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from a3_nf_template import bits_per_dim, stage_name
from common import cli, distributed, figures, models
from common.devices import at_least_float32, autocast, in_double
from common.run import Run, one_cycle, require_finite
from datasets.bmnist import BINARY, bmnist
from datasets.mnist import GREY, mnist
from nets.muon import Muon

SIDE, PIXELS = 28, 784
OCTAVES = 8  # the last one tells even pixel values from odd ones
TITLES = {
    "pixelcnn": "PixelCNN", "markov": "Two-pixel Markov model", "rnn": "GRU", "rnn-plain": "GRU without the row above",
    "conv1d": "1-D convolutions",
}  # fmt: skip
# training settings of each model, unless the command line overrides them
DEFAULTS = {
    "pixelcnn": {"epochs": 4, "hidden": 32, "layers": 7, "batch_size": 16, "lr": 4e-3, "muon": 0.02, "dropout": 0.0},
    "markov": {"epochs": 4, "hidden": 64, "layers": 2, "batch_size": 64, "lr": 4e-3, "muon": 0.0, "dropout": 0.0},
    "rnn": {"epochs": 2, "hidden": 96, "layers": 1, "batch_size": 64, "lr": 5e-3, "muon": 0.0, "dropout": 0.0},
    "rnn-plain": {"epochs": 2, "hidden": 96, "layers": 1, "batch_size": 64, "lr": 5e-3, "muon": 0.0, "dropout": 0.0},
    "conv1d": {"epochs": 2, "hidden": 48, "layers": 10, "batch_size": 16, "lr": 4e-3, "muon": 0.0, "dropout": 0.0},
}


class Markov(nn.Module):
    """Finite memory: one small network, shared by all pixels, reads the two preceding pixels."""

    def __init__(self, n_out, n_hidden=64, layers=2):
        super().__init__()
        self.nn = nn.Sequential(nn.Linear(2, n_hidden), nn.GELU())
        for _ in range(layers - 1):
            self.nn += nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.GELU())
        self.nn.append(nn.Linear(n_hidden, n_out))

    def forward(self, x):
        """x [B, 784] in -1..1 -> [B, 784, n_out]: parameters of each pixel's distribution, given earlier pixels."""
        padded = F.pad(x, (2, 0))  # 0 marks a missing pixel: binary pixels are -1 or 1 here
        return self.nn(torch.stack([padded[:, :-2], padded[:, 1:-1]], 2))

    def at(self, x, d, cache):
        """The same for pixel d only, [B, n_out], from the pixels before d."""
        return self.nn(F.pad(x[:, :d], (2, 0))[:, -2:])


class RNN(nn.Module):
    """A GRU over the pixels. Its inputs: the preceding pixel, the three pixels above (if `above`), and the position.

    The pixel above is 28 steps back in the sequence: as an input, it need not be remembered."""

    def __init__(self, n_out, n_hidden=128, layers=1, above=True):
        super().__init__()
        self.offsets = (1, SIDE - 1, SIDE, SIDE + 1) if above else (1,)
        self.gru = nn.GRU(len(self.offsets) + 2, n_hidden, layers, batch_first=True)
        self.out = nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.GELU(), nn.Linear(n_hidden, n_out))
        line = torch.linspace(-1, 1, SIDE)
        positions = torch.stack([line.repeat_interleave(SIDE), line.repeat(SIDE)], 1)  # row and column of each pixel
        self.register_buffer("positions", positions, persistent=False)

    def inputs(self, x, start, stop):
        """Inputs for pixels start..stop - 1: [B, stop - start, offsets + 2]."""
        padded = F.pad(x[:, :stop], (SIDE + 1, 0))
        earlier = [padded[:, SIDE + 1 - offset + start : SIDE + 1 - offset + stop] for offset in self.offsets]
        return torch.cat([torch.stack(earlier, 2), self.positions[start:stop].expand(len(x), -1, -1)], 2)

    def forward(self, x):
        h, _ = self.gru(self.inputs(x, 0, PIXELS))  # [B, 784, n_hidden]
        return self.out(h)

    def at(self, x, d, cache):
        h, cache["state"] = self.gru(self.inputs(x, d, d + 1), cache.get("state"))
        return self.out(h[:, 0])


class Conv1d(nn.Module):
    """Causal convolutions over the pixel sequence with two taps each; the dilation doubles from layer to layer.

    Dilations 1, 2, ... 16 cover a row; dilations 28, 56, ... 448 cover all rows. Together they reach every earlier
    pixel."""

    def __init__(self, n_out, n_hidden=48, layers=10):
        super().__init__()
        self.dilations = [2 ** (i % 5) * (SIDE if i % 10 >= 5 else 1) for i in range(layers)]
        self.first = nn.Linear(1, n_hidden)
        self.taps = nn.ModuleList(nn.Linear(2 * n_hidden, 2 * n_hidden) for _ in self.dilations)
        self.mix = nn.ModuleList(nn.Linear(n_hidden, n_hidden) for _ in self.dilations)
        self.out = nn.Sequential(
            nn.LayerNorm(n_hidden), nn.Linear(n_hidden, n_hidden), nn.GELU(), nn.Linear(n_hidden, n_out)
        )

    def forward(self, x):
        h = self.first(F.pad(x, (1, 0))[:, :PIXELS, None])  # [B, 784, C]; position d holds pixel d - 1
        for dilation, taps, mix in zip(self.dilations, self.taps, self.mix):
            earlier = F.pad(h, (0, 0, dilation, 0))[:, :PIXELS]
            h = h + mix(gate(taps(torch.cat([earlier, h], 2)), 2))
        return self.out(h)

    def at(self, x, d, cache):
        h = self.first(x[:, d - 1 : d] if d else torch.zeros_like(x[:, :1]))  # [B, C]
        past = cache.setdefault("past", [[] for _ in self.dilations])
        for dilation, taps, mix, before in zip(self.dilations, self.taps, self.mix, past):
            before.append(h)
            earlier = take(before, d - dilation, h)
            h = h + mix(gate(taps(torch.cat([earlier, h], 1)), 1))
        return self.out(h)


def take(before, position, like):
    """Remove and return a cached activation, at its last use; zeros outside the image."""
    if position < 0:
        return torch.zeros_like(like)
    found, before[position] = before[position], None
    return found


def dense(conv, x):
    """A convolution as a linear layer: x [..., taps * channels] holds the inputs of one output each."""
    return F.linear(x, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias)


def taps(rows, shifts):
    """For each pixel of a row its neighbours, `shifts` to the right, in all rows [B, 28, C] -> [B, 28, taps * C]."""
    width = max(shifts)
    padded = [F.pad(row, (0, 0, width, width)) for row in rows]
    return torch.cat([row[:, width + shift : width + shift + SIDE] for row in padded for shift in shifts], 2)


def gate(a, dim):
    """Gated linear unit: one half times the sigmoid of the other, here piecewise linear (min(max(a / 6 + 1/2, 0), 1)).

    It is cheaper than the tanh times sigmoid of the paper."""
    value, opening = a.chunk(2, dim)
    return value * F.hardsigmoid(opening)


class PixelCNN(nn.Module):
    """Two stacks of convolutions without a blind spot: v reads the rows above, h reads v and the pixels to the left.

    A vertical kernel is 2 x 3, a horizontal one 1 x 2, both with the layer's `dilation`. The first layers also read
    sine and cosine of 8-bit pixels in several octaves: they tell neighbouring values apart, such as 253 and 254. All
    the brightest pixels of an MNIST image often have the same value, which differs between images."""

    ABOVE, AROUND, LEFT = 3, 3, 4  # first layers: rows above, columns on either side, pixels to the left

    def __init__(self, n_out, n_hidden=32, layers=7):
        super().__init__()
        c = n_hidden
        self.dilations = [(1, 2, 4)[i % 3] for i in range(layers)]
        octaves = math.pi * 2.0 ** torch.arange(OCTAVES if n_out > 1 else 0)
        self.register_buffer("octaves", octaves, persistent=False)
        n = 1 + 2 * len(octaves)
        self.first_v = nn.Conv2d(n, c, (self.ABOVE, 2 * self.AROUND + 1))
        self.first_h = nn.Conv2d(n, c, (1, self.LEFT))
        self.first_link = nn.Conv2d(c, c, 1)
        self.v = nn.ModuleList(nn.Conv2d(c, 2 * c, (2, 3), dilation=dilation) for dilation in self.dilations)
        self.h = nn.ModuleList(nn.Conv2d(c, 2 * c, (1, 2), dilation=dilation) for dilation in self.dilations)
        self.link = nn.ModuleList(nn.Conv2d(c, 2 * c, 1) for _ in self.dilations)
        self.mix = nn.ModuleList(nn.Conv2d(c, c, 1) for _ in self.dilations)
        self.out = nn.Sequential(nn.ReLU(), nn.Conv2d(c, 2 * c, 1), nn.ReLU(), nn.Conv2d(2 * c, n_out, 1))
        self.dropout = nn.Dropout2d(0)  # of whole channels; the rate is a setting of the training
        self.to(memory_format=torch.channels_last)

    def hidden(self):
        """The weights between hidden layers."""
        return [layer.weight for layers in (self.v, self.h, self.link, self.mix) for layer in layers]

    def planes(self, x):
        """Pixels in -1..1 -> [..., 1 + 2 * octaves]."""
        angles = x.unsqueeze(-1) * self.octaves
        return torch.cat([x.unsqueeze(-1), angles.sin(), angles.cos()], -1)

    def start(self, x):
        """[B, 784] -> v and h [B, C, 28, 28]; at each position they depend on earlier pixels only."""
        image = self.planes(x.view(-1, SIDE, SIDE)).permute(0, 3, 1, 2)
        v = self.first_v(F.pad(image, (self.AROUND, self.AROUND, self.ABOVE, 0))[:, :, :-1])
        return v, self.first_h(F.pad(image, (self.LEFT, 0))[:, :, :, :-1]) + self.first_link(v)

    def forward(self, x):
        v, h = self.start(x)
        for dilation, conv_v, conv_h, link, mix in zip(self.dilations, self.v, self.h, self.link, self.mix):
            above = gate(conv_v(F.pad(v, (dilation, dilation, dilation, 0))), 1)  # [B, C, 28, 28]
            v = v + above
            h = h + mix(self.dropout(gate(conv_h(F.pad(h, (dilation, 0))) + link(above), 1)))
        return self.out(h).flatten(2).transpose(1, 2)

    def at(self, x, d, cache):
        """v is computed once per row; each pixel then costs two taps per layer."""
        row, column = divmod(d, SIDE)
        if column == 0:
            self.next_row(x, row, cache)
        left = F.pad(self.planes(x[:, row * SIDE : d]), (0, 0, self.LEFT, 0))[:, -self.LEFT :]
        h = dense(self.first_h, left.flatten(1)) + cache["first"][:, column]  # [B, C]
        for dilation, conv_h, mix, link, before in zip(self.dilations, self.h, self.mix, cache["link"], cache["h"]):
            before.append(h)
            earlier = take(before, column - dilation, h)
            h = h + dense(mix, gate(dense(conv_h, torch.cat([earlier, h], 1)) + link[:, column], 1))
        return dense(self.out[3], F.relu(dense(self.out[1], F.relu(h))))

    def next_row(self, x, row, cache):
        """Cache what h needs of v in this row. v is [B, 28, C]."""
        rows = self.planes(x.view(-1, SIDE, SIDE)[:, max(0, row - self.ABOVE) : row])
        above = F.pad(rows, (0, 0, 0, 0, self.ABOVE - rows.shape[1], 0)).unbind(1)
        v = dense(self.first_v, taps(above, range(-self.AROUND, self.AROUND + 1)))
        cache["first"], cache["link"], cache["h"] = dense(self.first_link, v), [], [[] for _ in self.dilations]
        past = cache.setdefault("v", [[] for _ in self.dilations])
        for dilation, conv_v, link, before in zip(self.dilations, self.v, self.link, past):
            before.append(v)
            earlier = take(before, row - dilation, v)
            above = gate(dense(conv_v, taps([earlier, v], (-dilation, 0, dilation))), 2)
            cache["link"].append(dense(link, above))
            v = v + above


class Bernoulli:
    """Pixels 0 and 1. One output per pixel: the logit of 1."""

    outputs, levels = 1, 1

    @staticmethod
    def log_prob(a, x):
        return -F.binary_cross_entropy_with_logits(a[..., 0], x, reduction="none")

    @staticmethod
    def cumulative(a):
        """P(pixel <= v) for v = 0 .. levels - 1: [..., levels]."""
        return torch.sigmoid(-a)


class Softmax256:
    """Pixels 0..255, one logit per value."""

    outputs, levels = 256, 255

    @staticmethod
    def log_prob(a, x):
        return torch.log_softmax(a, -1).gather(-1, x.long().unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def cumulative(a):
        return torch.softmax(a, -1).cumsum(-1)[..., :-1]


LIKELIHOODS = {"bernoulli": Bernoulli, "softmax256": Softmax256}
NETS = {
    "pixelcnn": PixelCNN, "markov": Markov, "rnn": RNN, "rnn-plain": functools.partial(RNN, above=False),
    "conv1d": Conv1d,
}  # fmt: skip


class Model(nn.Module):
    """A network and a pixel likelihood: computes log p(x), draws samples pixel by pixel."""

    def __init__(self, model="pixelcnn", likelihood="bernoulli", n_hidden=32, layers=7):
        super().__init__()
        self.likelihood = LIKELIHOODS[likelihood]
        self.net = NETS[model](self.likelihood.outputs, n_hidden, layers)

    def scaled(self, x):
        return 2 * x / self.likelihood.levels - 1

    def forward(self, x):
        """Images [B, 784] with integer pixels -> log p(x) [B] in nats."""
        return self.likelihood.log_prob(at_least_float32(self.net(self.scaled(x))), x).sum(1)

    @torch.no_grad()
    def sample(self, uniforms, known=None, n_known=0, cached=True):
        """Images from uniform numbers u [B, 784], one per pixel. The first `n_known` pixels are copied from `known`.

        A pixel is the number of values v with P(pixel <= v) <= u: the inverse of its distribution function."""
        x, scaled, cache = torch.zeros_like(uniforms), torch.zeros_like(uniforms), {}
        for d in range(PIXELS):
            if cached or d >= n_known:  # known pixels fill the cache, too
                a = self.net.at(scaled, d, cache) if cached else self.net(scaled)[:, d]
            if d < n_known:
                x[:, d] = known[:, d]
            else:
                x[:, d] = (self.likelihood.cumulative(a) <= uniforms[:, d : d + 1]).sum(1)
            scaled[:, d] = self.scaled(x[:, d])
        return x


def epoch_iter(model, data, optimizer, schedule=None):
    """One pass over `data`; updates the model in training mode. Returns the average log p(x) in nats."""
    device = next(model.parameters()).device
    total, images, losses = 0, 0, []
    for batch in distributed.local_batches(data):
        x = (batch[0] if isinstance(batch, (list, tuple)) else batch).flatten(1).to(device)
        with torch.set_grad_enabled(model.training), autocast(device, model.training):
            log_px = model(x)
        if model.training:
            loss = bits_per_dim(distributed.mean(log_px))
            optimizer.zero_grad()
            loss.backward()
            distributed.sum_gradients(model)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if schedule:
                schedule.step()
            losses.append(loss.detach())
        total = total + in_double(log_px.detach()).sum()
        images += len(x)
    require_finite(losses, 1000)  # bits per dimension
    total, images = distributed.sum_over_processes(total, images)
    return total / images


def run_epoch(model, data, optimizer, schedule=None):
    """One epoch of training and one of validation. Returns the two averages of log p(x)."""
    traindata, valdata = data
    train_log_px = epoch_iter(model.train(), traindata, optimizer, schedule)
    return train_log_px, epoch_iter(model.eval(), valdata, optimizer)


def receptive_field(model, x, d):
    """[784]: |gradient| of pixel d's expected value with respect to each pixel, averaged over images."""
    total = torch.zeros_like(x[0])
    for part in x.split(10):  # backward() stores every layer's activations: small batches
        scaled = model.scaled(part).requires_grad_()
        with torch.backends.cudnn.flags(enabled=False):  # cuDNN's GRU has no gradient in eval mode
            a = at_least_float32(model.net(scaled))[:, d]
            model.likelihood.cumulative(a).sum().backward()  # expected value = `levels` - sum of these probabilities
        total += scaled.grad.abs().sum(0)
    return total / len(x)


def context(model):
    """The number of earlier pixels on which the last pixel depends, of 783. In float64: a GRU's gradients get small."""
    model = copy.deepcopy(model).cpu().double()
    x = torch.randint(0, model.likelihood.levels + 1, (2, PIXELS)).double()
    return int((receptive_field(model, x, PIXELS - 1) > 0).sum())


def samples_per_second(model, uniforms):
    """On one thread, with the cache and without it. Without it, the first two passes are timed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model.sample(uniforms[:10])  # warm-up
    start = time.perf_counter()
    model.sample(uniforms).cpu()  # waits for the GPU
    cached = time.perf_counter() - start
    start = time.perf_counter()
    with torch.no_grad():
        [model.net(part).cpu() for part in torch.zeros_like(uniforms).repeat(2, 1).split(100)]
    naive = (time.perf_counter() - start) / 2 * PIXELS
    torch.set_num_threads(threads)
    return len(uniforms) / cached, len(uniforms) / naive


def save_figures(run, title, model, val, snapshots):
    """Learning curves, samples from fixed random numbers, completed digits, the middle pixel's receptive field."""
    levels = model.likelihood.levels
    name, unit = ("log_px", "log p(x), nats per image") if levels == 1 else ("bpd", "bits per dimension")
    lines = {"training": run.column(f"train_{name}"), "validation": run.column(f"val_{name}")}
    path = run.figure("likelihood.pdf")
    figures.curves(path, range(len(run.history)), lines, ylabel=unit, title=title, zoom_from=1)
    grids = {stage_name(epoch, run.epochs): images.float() / levels for epoch, images in snapshots.items()}
    figures.image_grids(run.figure("samples.png"), grids, 5, f"{title}: samples from the same random numbers")

    rows, half = 5, PIXELS // 2
    x = val.subset(rows).images.float()
    known = x.repeat_interleave(7, 0)
    filled = model.sample(torch.rand(7 * rows, PIXELS).to(x), known, half).view(rows, 7, PIXELS)
    hidden = torch.where(torch.arange(PIXELS).to(x.device) < half, x, torch.full_like(x, 0.4 * levels))
    table = torch.cat([x[:, None], hidden[:, None], filled], 1).flatten(0, 1)
    caption = "an image, its upper half, seven completions"
    figures.image_grids(run.figure("completions.png"), {caption: table / levels}, 9, title)

    field = receptive_field(model, val.subset(100).images.float(), half + SIDE // 2)
    shown = (field / field.max()).clamp_min(1e-4).log10() / 4 + 1  # black to white: four powers of ten
    figures.image_grids(run.figure("receptive-field.png"), {TITLES[run.args.model]: shown[None]}, 1)


def load(path):
    return models.load_model(path, f"beyond/{Path(__file__).name}", Model)


def default_name(args):
    return args.model + ("" if args.likelihood == "bernoulli" else "-grey")


def title(args):
    return TITLES[args.model] if args.likelihood == "bernoulli" else f"8-bit {TITLES[args.model]}"


def draw(model, n):
    return model.sample(torch.rand(n, PIXELS)) / model.likelihood.levels


def main(args):
    if args.sample:
        return models.draw_samples(args, default_name(args), BINARY + GREY, load, draw)
    binary = args.likelihood == "bernoulli"
    train, val, test = (bmnist if binary else mnist)(args.data_root, args.batch_size, data=args.data)
    run = Run(args, __file__, default_name(args), train.name, args.epochs)
    print(f"Data:   {train.title}, {train.source}")
    if run.finished:
        return
    if args.quick:
        train, val, test = train.subset(400), val.subset(100), test.subset(100)
    train, val, test = train.to(run.device), val.to(run.device), test.to(run.device)

    torch.manual_seed(args.seed)
    sizes = {"model": args.model, "likelihood": args.likelihood, "n_hidden": args.hidden, "layers": args.layers}
    model = Model(**sizes).to(run.device)
    if args.dropout:
        model.net.dropout.p = args.dropout
    hidden = model.net.hidden() if args.muon else []
    # without weight decay, Muon's weights grow until the gated layers overflow
    optimizer = Muon(model.parameters(), args.lr, hidden, args.muon, 0.1, weight_decay=1e-4, fused=True)
    schedule = one_cycle(optimizer, [args.lr, args.muon], args.epochs * len(train))
    uniforms = torch.rand(25, PIXELS).to(run.device)  # fixed, so that samples of different epochs are comparable
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    state = run.load(parts)
    snapshots, best = state.get("snapshots", {}), state.get("best")
    metric, convert = ("log_px", float) if binary else ("bpd", bits_per_dim)
    score = lambda row: row["val_log_px"] if binary else -row["val_bpd"]  # higher is better

    for epoch in range(len(run.history), args.epochs + 1):
        run.seed(epoch)
        if epoch == 0:
            model.eval()
            values = epoch_iter(model, train.subset(5000), None), epoch_iter(model, val, None)
        else:
            values = run_epoch(model, (run.train_progress(train), val), optimizer, schedule)
        run.record(epoch, **{f"train_{metric}": convert(values[0]), f"val_{metric}": convert(values[1])})
        if score(run.history[-1]) >= max(map(score, run.history)):
            best = copy.deepcopy(model.state_dict())
        if epoch in (0, args.epochs // 2, args.epochs):
            snapshots[epoch] = model.sample(uniforms).to(torch.uint8).cpu()
        run.save(parts, best=best, snapshots=snapshots)

    if distributed.end():
        return
    model.load_state_dict(best)
    model.eval()
    run.save_model(sizes, model)
    run.seed(args.epochs + 1)
    save_figures(run, f"{title(args)}, {train.title}", model, val, snapshots)
    log_px = epoch_iter(model, run.progress(test, "test"), None)
    cached, naive = samples_per_second(model, torch.rand(100 if args.quick else 1000, PIXELS).to(run.device))
    chosen = max(run.history, key=score)
    name = "log_likelihood" if binary else "bpd"
    final = {f"val_{name}": chosen[f"val_{metric}"], "best_epoch": chosen["epoch"], f"test_{name}": convert(log_px)}
    final |= {"context": context(model), "samples_per_second": cached, "samples_per_second_without_cache": naive}
    run.finish([model], **final)


def parse_args(words=None):
    number = cli.number
    parser = cli.Parser(__doc__, __file__)
    group = parser.add_argument_group("model and training")
    group.add_argument("--model", choices=list(DEFAULTS), default="pixelcnn", help="what predicts the next pixel")
    group.add_argument(
        "--likelihood", choices=list(LIKELIHOODS), default="bernoulli",
        help="pixel distribution: bernoulli for binary data, softmax256 for 8-bit data",
    )  # fmt: skip

    by_model = functools.partial(cli.add_with_defaults, group.add_argument, DEFAULTS)
    by_model("epochs", "passes over the training images", type=number(int, 1))
    by_model("hidden", "width of the layers", type=number(int, 1, 4096))
    by_model("layers", "number of layers", type=number(int, 1, 100))
    by_model("batch_size", "images per step", type=number(int, 1))
    by_model("lr", "peak learning rate of AdamW", type=number(float, above=0))
    text = "pixelcnn only: peak learning rate of Muon for the weights between hidden layers; 0: AdamW for all"
    by_model("muon", text, type=number(float, 0))
    by_model("dropout", "pixelcnn only: share of channels set to 0 in training", type=number(float, 0, 0.9))
    cli.sample_options(parser)
    cli.run_options(parser, BINARY + GREY)
    args = parser.parse_args(words)
    cli.fill_in(args, DEFAULTS[args.model])
    if args.model != "pixelcnn" and (args.muon or args.dropout):
        parser.error(f"--model {args.model} has neither --muon nor --dropout")
    if args.data != "auto" and (args.data in BINARY) != (args.likelihood == "bernoulli"):
        kind = "binary" if args.likelihood == "bernoulli" else "8-bit"
        parser.error(f"--likelihood {args.likelihood} needs {kind} data, not {args.data}")
    if args.quick:
        args.epochs = min(args.epochs, 2)
    return args


if __name__ == "__main__":
    cli.start(main, parse_args, torchrun=True)
