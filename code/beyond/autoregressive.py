"""Autoregressive models of digits: p(x) = prod_d p(x_d | x_<d), pixels in reading order, the likelihood exact.

    python code/beyond/autoregressive.py                                  gated PixelCNN on static binary MNIST
    python code/beyond/autoregressive.py --model rnn                      the same with a GRU; also conv1d, markov
    python code/beyond/autoregressive.py --likelihood logistic-mixture    8-bit MNIST; also softmax256
    python code/beyond/autoregressive.py --sample 64                      a grid of samples from the trained model
    python code/beyond/autoregressive.py --quick                          a small run

PixelCNN: van den Oord et al. 2016 (arXiv:1606.05328); mixture of logistics: Salimans et al. 2017 (arXiv:1701.05517).

Measured on one core of an AMD EPYC with bfloat16 instructions, torch 2.14, static binary MNIST, test split judged once,
exact log p(x) in nats: PixelCNN -81.87 (1335 s of training), conv1d -84.11 (855 s), rnn -90.03 (875 s), markov -177.66
(128 s). A hundred samples of the PixelCNN take 2.3 s.

Every model is written twice, as one pass over all pixels (`forward`, for training) and as the step to one pixel that
keeps what it has computed for earlier ones (`at`, for sampling); a test holds the two together.
"""

import sys
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from a3_nf_template import bits_per_dim, stage_name
from common import cli, figures, models
from common.devices import at_least_float32, autocast, in_double
from common.run import Run, require_finite
from datasets.bmnist import BINARY, bmnist
from datasets.mnist import GREY, mnist

SIDE, PIXELS = 28, 784
MIXTURE = 10  # logistics a pixel
TITLES = {"pixelcnn": "PixelCNN", "markov": "Two-pixel Markov model", "rnn": "GRU", "conv1d": "1-D convolutions"}
# what each model trains with where the command line says nothing else
DEFAULTS = {
    "pixelcnn": {"epochs": 4, "hidden": 32, "layers": 7, "batch_size": 16, "lr": 4e-3},
    "markov": {"epochs": 4, "hidden": 64, "layers": 2, "batch_size": 64, "lr": 4e-3},
    "rnn": {"epochs": 2, "hidden": 96, "layers": 1, "batch_size": 64, "lr": 5e-3},
    "conv1d": {"epochs": 2, "hidden": 48, "layers": 10, "batch_size": 16, "lr": 4e-3},
}


class Markov(nn.Module):
    """Finite memory: one small net, the same for every pixel, sees the two pixels before it."""

    def __init__(self, n_out, n_hidden=64, layers=2):
        super().__init__()
        self.nn = nn.Sequential(nn.Linear(2, n_hidden), nn.GELU())
        for _ in range(layers - 1):
            self.nn += nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.GELU())
        self.nn.append(nn.Linear(n_hidden, n_out))

    def forward(self, x):
        """x [B, 784], values -1..1 -> [B, 784, n_out]: what each pixel's distribution is, given those before it."""
        padded = F.pad(x, (2, 0))  # 0, which no binary pixel is: nothing there
        return self.nn(torch.stack([padded[:, :-2], padded[:, 1:-1]], 2))

    def at(self, x, d, cache):
        """The same of pixel d alone, [B, n_out]; only pixels before d are looked at."""
        return self.nn(F.pad(x[:, :d], (2, 0))[:, -2:])


class RNN(nn.Module):
    """A GRU over the pixels. Its input: the pixel before, the three above, and where it is.

    The row above is 28 steps back: showing it saves the memory from having to carry every pixel that far."""

    def __init__(self, n_out, n_hidden=128, layers=1):
        super().__init__()
        self.offsets = (1, SIDE - 1, SIDE, SIDE + 1)
        self.gru = nn.GRU(len(self.offsets) + 2, n_hidden, layers, batch_first=True)
        self.out = nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.GELU(), nn.Linear(n_hidden, n_out))
        place = torch.linspace(-1, 1, SIDE)
        places = torch.stack([place.repeat_interleave(SIDE), place.repeat(SIDE)], 1)  # row and column of each pixel
        self.register_buffer("places", places, persistent=False)

    def inputs(self, x, start, stop):
        """Of the pixels start..stop - 1: [B, stop - start, 6]."""
        padded = F.pad(x[:, :stop], (SIDE + 1, 0))
        seen = [padded[:, SIDE + 1 - offset + start : SIDE + 1 - offset + stop] for offset in self.offsets]
        return torch.cat([torch.stack(seen, 2), self.places[start:stop].expand(len(x), -1, -1)], 2)

    def forward(self, x):
        h, _ = self.gru(self.inputs(x, 0, PIXELS))  # [B, 784, n_hidden]
        return self.out(h)

    def at(self, x, d, cache):
        h, cache["state"] = self.gru(self.inputs(x, d, d + 1), cache.get("state"))
        return self.out(h[:, 0])


class Conv1d(nn.Module):
    """Causal convolutions over the pixel sequence, two taps each; the distance of the taps doubles from layer to layer.

    1 + 2 + ... + 16 reaches over a row, 28 (1 + 2 + ... + 16) over all rows: every earlier pixel is a sum of those."""

    def __init__(self, n_out, n_hidden=48, layers=10):
        super().__init__()
        self.dilations = [2 ** (i % 5) * (SIDE if i % 10 >= 5 else 1) for i in range(layers)]
        self.first = nn.Linear(1, n_hidden)
        self.taps = nn.ModuleList(nn.Linear(2 * n_hidden, 2 * n_hidden) for _ in self.dilations)
        self.mix = nn.ModuleList(nn.Linear(n_hidden, n_hidden) for _ in self.dilations)
        self.out = nn.Sequential(
            nn.LayerNorm(n_hidden), nn.Linear(n_hidden, n_hidden), nn.GELU(), nn.Linear(n_hidden, n_out)
        )  # fmt: skip

    def forward(self, x):
        h = self.first(F.pad(x, (1, 0))[:, :PIXELS, None])  # [B, 784, C]; place d holds pixel d - 1
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


def take(before, place, like):
    """What was kept for a place, for the last time that it is needed; zeros where there is none."""
    if place < 0:
        return torch.zeros_like(like)
    found, before[place] = before[place], None
    return found


def gate(a, dim):
    """tanh of one half times sigmoid of the other, the first as 2 sigmoid - 1: one call, far cheaper than two."""
    value, opening = torch.sigmoid(a).chunk(2, dim)
    return (2 * value - 1) * opening


class PixelCNN(nn.Module):
    """Two stacks of convolutions: v sees the rows above, h the pixels to the left and what v says: no blind spot.

    A vertical layer has taps in two rows, three columns; a horizontal one two taps; both `dilation` apart."""

    ABOVE, AROUND, LEFT = 3, 3, 4  # the first layers see: rows above, columns either way, pixels to the left

    def __init__(self, n_out, n_hidden=32, layers=7):
        super().__init__()
        c = n_hidden
        self.dilations = [(1, 2, 4)[i % 3] for i in range(layers)]
        self.first_v = nn.Conv2d(1, c, (self.ABOVE, 2 * self.AROUND + 1))
        self.first_h = nn.Conv2d(1, c, (1, self.LEFT))
        self.first_link = nn.Conv2d(c, c, 1)
        self.v = nn.ModuleList(nn.Conv2d(c, 2 * c, (2, 3), dilation=dilation) for dilation in self.dilations)
        self.h = nn.ModuleList(nn.Conv2d(c, 2 * c, (1, 2), dilation=dilation) for dilation in self.dilations)
        self.link = nn.ModuleList(nn.Conv2d(c, 2 * c, 1) for _ in self.dilations)
        self.mix = nn.ModuleList(nn.Conv2d(c, c, 1) for _ in self.dilations)
        self.out = nn.Sequential(nn.ReLU(), nn.Conv2d(c, 2 * c, 1), nn.ReLU(), nn.Conv2d(2 * c, n_out, 1))
        self.to(memory_format=torch.channels_last)

    def start(self, image):
        """[B, 1, 28, 28] -> v and h [B, C, 28, 28], nothing at a place seeing the place itself or a later one."""
        rows = F.pad(image, (self.AROUND, self.AROUND, self.ABOVE, 0))[:, :, :-1]
        v = self.first_v(rows)
        h = self.first_h(F.pad(image, (self.LEFT, 0))[:, :, :, :-1]) + self.first_link(v)
        return v, h

    def forward(self, x):
        v, h = self.start(x.view(-1, 1, SIDE, SIDE))
        for dilation, conv_v, conv_h, link, mix in zip(self.dilations, self.v, self.h, self.link, self.mix):
            above = gate(conv_v(F.pad(v, (dilation, dilation, dilation, 0))), 1)  # [B, C, 28, 28]
            v = v + above
            h = h + mix(gate(conv_h(F.pad(h, (dilation, 0))) + link(above), 1))
        return self.out(h).flatten(2).transpose(1, 2)

    def at(self, x, d, cache):
        """At the start of a row its part of v is computed once; then a pixel costs two taps a layer."""
        row, column = divmod(d, SIDE)
        image = x.view(-1, 1, SIDE, SIDE)
        if column == 0:
            self.next_row(image, row, cache)
        left = F.pad(image[:, :, row : row + 1, :column], (self.LEFT, 0))[:, :, :, -self.LEFT :]
        h = self.first_h(left) + cache["first"][:, :, :, column : column + 1]  # [B, C, 1, 1]
        layers = zip(self.dilations, self.h, self.mix, cache["link"], cache["h"])
        for dilation, conv_h, mix, link, before in layers:
            before.append(h)
            earlier = take(before, column - dilation, h)
            a = F.conv2d(torch.cat([earlier, h], 3), conv_h.weight, conv_h.bias) + link[:, :, :, column : column + 1]
            h = h + mix(gate(a, 1))
        return self.out(h)[:, :, 0, 0]

    def next_row(self, image, row, cache):
        above = F.pad(image[:, :, :row], (self.AROUND, self.AROUND, self.ABOVE, 0))[:, :, -self.ABOVE :]
        v = self.first_v(above)  # [B, C, 1, 28]
        cache["first"], cache["link"], cache["h"] = self.first_link(v), [], [[] for _ in self.dilations]
        past = cache.setdefault("v", [[] for _ in self.dilations])
        for dilation, conv_v, link, before in zip(self.dilations, self.v, self.link, past):
            before.append(v)
            earlier = take(before, row - dilation, v)
            rows = F.pad(torch.cat([earlier, v], 2), (dilation, dilation))
            above = gate(F.conv2d(rows, conv_v.weight, conv_v.bias, dilation=(1, dilation)), 1)
            cache["link"].append(link(above))
            v = v + above


class Bernoulli:
    """Pixels 0 and 1. One number a pixel: the logit of 1."""

    outputs, levels = 1, 1

    @staticmethod
    def log_prob(a, x):
        return -F.binary_cross_entropy_with_logits(a[..., 0], x, reduction="none")

    @staticmethod
    def cumulative(a):
        """P(pixel <= v) for v = 0 .. levels - 1: [..., levels]."""
        return torch.sigmoid(-a)


class Softmax256:
    """Pixels 0..255, each value with a logit of its own."""

    outputs, levels = 256, 255

    @staticmethod
    def log_prob(a, x):
        return torch.log_softmax(a, -1).gather(-1, x.long().unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def cumulative(a):
        return torch.softmax(a, -1).cumsum(-1)[..., :-1]


class LogisticMixture:
    """Pixels 0..255: a mixture of logistics cut into 256 bins, the first and the last open to infinity."""

    outputs, levels = 3 * MIXTURE, 255

    @staticmethod
    def parts(a):
        """Log-weights, means and scales, each [..., MIXTURE], on the scale -1..1; at first the means are spread."""
        weights, means, log_scales = a.chunk(3, -1)
        means = means + torch.linspace(-1, 1, MIXTURE, device=a.device, dtype=a.dtype)
        return torch.log_softmax(weights, -1), means, torch.exp((log_scales - 2).clamp_min(-7))

    @classmethod
    def log_prob(cls, a, x):
        log_weights, means, scales = cls.parts(a)
        x = x.unsqueeze(-1)
        centre = 2 * x / 255 - 1
        upper, lower = (centre + 1 / 255 - means) / scales, (centre - 1 / 255 - means) / scales
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)): no difference of two nearly equal numbers
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-2 / (255 * scales)))
        log_p = torch.where(x == 0, F.logsigmoid(upper), torch.where(x == 255, F.logsigmoid(-lower), inside))
        return torch.logsumexp(log_weights + log_p, -1)

    @classmethod
    def cumulative(cls, a):
        log_weights, means, scales = (part.unsqueeze(-1) for part in cls.parts(a))
        edges = 2 * (torch.arange(255, device=a.device, dtype=a.dtype) + 0.5) / 255 - 1
        return (log_weights.exp() * torch.sigmoid((edges - means) / scales)).sum(-2)


LIKELIHOODS = {"bernoulli": Bernoulli, "softmax256": Softmax256, "logistic-mixture": LogisticMixture}


NETS = {"pixelcnn": PixelCNN, "markov": Markov, "rnn": RNN, "conv1d": Conv1d}


class Model(nn.Module):
    """A net and a likelihood: log p(x), and samples pixel by pixel."""

    def __init__(self, model="pixelcnn", likelihood="bernoulli", n_hidden=32, layers=7):
        super().__init__()
        self.likelihood = LIKELIHOODS[likelihood]
        self.net = NETS[model](self.likelihood.outputs, n_hidden, layers)

    def scaled(self, x):
        return 2 * x / self.likelihood.levels - 1

    def forward(self, x):
        """Images [B, 784], whole numbers from 0 on -> log p(x) [B] in nats."""
        return self.likelihood.log_prob(at_least_float32(self.net(self.scaled(x))), x).sum(1)

    @torch.no_grad()
    def sample(self, uniforms, known=None, n_known=0, cached=True):
        """Images from uniform numbers [B, 784], one a pixel; the first `n_known` pixels are those of `known`.

        A pixel is the number of values v with P(pixel <= v) <= u: the inverse of its distribution function."""
        x, cache = torch.zeros_like(uniforms), {}
        scaled = torch.zeros_like(uniforms)
        for d in range(PIXELS):
            if d < n_known:
                if cached:
                    self.net.at(scaled, d, cache)
                x[:, d] = known[:, d]
            else:
                a = self.net.at(scaled, d, cache) if cached else self.net(scaled)[:, d]
                x[:, d] = (self.likelihood.cumulative(a) <= uniforms[:, d : d + 1]).sum(1)
            scaled[:, d] = self.scaled(x[:, d])
        return x


def epoch_iter(model, data, optimizer, schedule=None):
    """One pass over `data`, learning if the model is in training mode. Returns the average log p(x) in nats."""
    device = next(model.parameters()).device
    total, images, losses = 0, 0, []
    for batch in data:
        x = (batch[0] if isinstance(batch, (list, tuple)) else batch).flatten(1).to(device)
        with torch.set_grad_enabled(model.training), autocast(device, model.training):
            log_px = model(x)
        if model.training:
            loss = bits_per_dim(log_px.mean())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if schedule:
                schedule.step()
            losses.append(loss.detach())
        total = total + in_double(log_px.detach()).sum()
        images += len(x)
    require_finite(losses, 1000)  # bits per dimension
    return float(total) / images


def run_epoch(model, data, optimizer, schedule=None):
    """One epoch of training and one of validation. Returns the two averages, nats per image."""
    traindata, valdata = data
    model.train()
    train = epoch_iter(model, traindata, optimizer, schedule)
    model.eval()
    return train, epoch_iter(model, valdata, optimizer)


def receptive_field(model, x, d):
    """[784]: how strongly what pixel d is expected to be depends on each pixel, the average |gradient| over images."""
    total = torch.zeros_like(x[0])
    for part in x.split(10):  # a gradient keeps what every layer has computed
        scaled = model.scaled(part).requires_grad_()
        with torch.backends.cudnn.flags(enabled=False):  # whose GRU has no gradient in eval mode
            a = at_least_float32(model.net(scaled))[:, d]
            model.likelihood.cumulative(a).sum().backward()  # the expected value is `levels` less the sum of these
        total += scaled.grad.abs().sum(0)
    return total / len(x)


def seconds_per_sample_pixel(model, uniforms, pixels=24):
    """(with what is kept, without) seconds a pixel: the first over whole images, the second over a few pixels."""

    def seconds(work):
        work()  # to warm up
        start = time.perf_counter()
        work().cpu()  # the end of a GPU's work
        return time.perf_counter() - start

    with torch.no_grad():
        scaled = torch.zeros_like(uniforms)
        kept = seconds(lambda: model.sample(uniforms)) / PIXELS
        return kept, seconds(lambda: [model.net(scaled) for _ in range(pixels)][-1]) / pixels


def save_figures(run, title, model, val, snapshots):
    """Curves, samples from the same random numbers, completed digits, what the middle pixel depends on."""
    levels = model.likelihood.levels
    name, unit = ("log_px", "log p(x), nats per image") if levels == 1 else ("bpd", "bits per dimension")
    figures.curves(
        run.figure("likelihood.pdf"), range(len(run.history)),
        {"training": run.column(f"train_{name}"), "validation": run.column(f"val_{name}")},
        ylabel=unit, title=title, zoom_from=1,
    )  # fmt: skip
    grids = {stage_name(epoch, run.epochs): images.float() / levels for epoch, images in snapshots.items()}
    figures.image_grids(run.figure("samples.png"), grids, 5, f"{title}: the same random numbers in all")

    rows, half = 5, PIXELS // 2
    x = val.subset(rows).images.float()
    known = x.repeat_interleave(7, 0)
    filled = model.sample(torch.rand(7 * rows, PIXELS).to(x), known, half).view(rows, 7, PIXELS)
    hidden = torch.where(torch.arange(PIXELS).to(x.device) < half, x, torch.full_like(x, 0.4 * levels))
    table = torch.cat([x[:, None], hidden[:, None], filled], 1).flatten(0, 1)
    caption = "an image, its upper half, seven ways to go on"
    figures.image_grids(run.figure("completions.png"), {caption: table / levels}, 9, title)

    field = receptive_field(model, val.subset(100).images.float(), half + SIDE // 2)
    shown = (field / field.max()).clamp_min(1e-4).log10() / 4 + 1  # four powers of ten, from black to white
    figures.image_grids(run.figure("receptive-field.png"), {TITLES[run.args.model]: shown[None]}, 1)


def goodness(row):
    """What validation chooses by: the higher, the better."""
    return row["val_log_px"] if "val_log_px" in row else -row["val_bpd"]


def load(path):
    return models.load_model(path, f"beyond/{Path(__file__).name}", Model)


def default_name(args):
    return args.model + {"bernoulli": "", "logistic-mixture": "-grey", "softmax256": "-softmax256"}[args.likelihood]


def title(args):
    return TITLES[args.model] if args.likelihood == "bernoulli" else f"8-bit {TITLES[args.model]}"


def draw(model, n):
    return model.sample(torch.rand(n, PIXELS)) / model.likelihood.levels


def main(args):
    if args.sample:
        return models.draw_samples(args, default_name(args), BINARY + GREY, load, draw)
    binary = args.likelihood == "bernoulli"
    load_data = bmnist if binary else mnist
    train, val, test = load_data(args.data_root, args.batch_size, data=args.data)
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
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.epochs * len(train) + 1, pct_start=0.1, cycle_momentum=False
    )
    uniforms = torch.rand(25, PIXELS).to(run.device)  # the same in every picture of every epoch
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    state = run.load(parts)
    snapshots, best = state.get("snapshots", {}), state.get("best")

    for epoch in range(len(run.history), args.epochs + 1):
        run.seed(epoch)
        if epoch == 0:
            model.eval()
            values = epoch_iter(model, train.subset(5000), None), epoch_iter(model, val, None)
        else:
            values = run_epoch(model, (run.train_progress(train), val), optimizer, schedule)
        names = ("train_log_px", "val_log_px") if binary else ("train_bpd", "val_bpd")
        run.record(epoch, **dict(zip(names, values if binary else map(bits_per_dim, values))))
        if goodness(run.history[-1]) >= max(map(goodness, run.history)):
            best = {name: value.clone() for name, value in model.state_dict().items()}
        if epoch in (0, args.epochs // 2, args.epochs):
            snapshots[epoch] = model.sample(uniforms).to(torch.uint8).cpu()
        run.save(parts, best=best, snapshots=snapshots)

    model.load_state_dict(best)
    model.eval()
    run.save_model(sizes, model)
    run.seed(args.epochs + 1)
    save_figures(run, f"{title(args)}, {train.title}", model, val, snapshots)
    log_px = epoch_iter(model, run.progress(test, "test"), None)
    kept, naive = seconds_per_sample_pixel(model, torch.rand(100, PIXELS).to(run.device))
    found = {"test_log_likelihood": log_px} if binary else {"test_bpd": bits_per_dim(log_px)}
    chosen = max(run.history, key=goodness)
    name = "val_log_px" if binary else "val_bpd"
    run.finish(
        [model], **{"val_log_likelihood" if binary else "val_bpd": chosen[name]}, best_epoch=chosen["epoch"], **found,
        seconds_per_100_samples=PIXELS * kept, naive_over_cached=naive / kept,
    )  # fmt: skip


def parse_args(words=None):
    number = cli.number
    parser = cli.Parser(__doc__, __file__)
    group = parser.add_argument_group("model and training")
    group.add_argument("--model", choices=list(DEFAULTS), default="pixelcnn", help="what predicts the next pixel")
    group.add_argument(
        "--likelihood", choices=list(LIKELIHOODS), default="bernoulli", help="of a pixel; all but the first: 8-bit data"
    )

    def by_model(name, text, **kind):
        values = ", ".join(f"{model} {defaults[name]:g}" for model, defaults in DEFAULTS.items())
        group.add_argument(f"--{name}", help=f"{text} (default: {values})", **kind)

    by_model("epochs", "passes over the training images", type=number(int, 1))
    by_model("hidden", "width of the layers", type=number(int, 1, 4096))
    by_model("layers", "number of layers", type=number(int, 1, 100))
    by_model("batch_size", "images per step", type=number(int, 1))
    by_model("lr", "highest learning rate", type=number(float, above=0))
    models.sample_options(parser, number)
    cli.run_options(parser, BINARY + GREY)
    args = parser.parse_args(words)
    for name, value in DEFAULTS[args.model].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.data != "auto" and (args.data in BINARY) != (args.likelihood == "bernoulli"):
        kind = "binary data" if args.likelihood == "bernoulli" else "8-bit data"
        parser.error(f"--likelihood {args.likelihood} is for {kind}, not {args.data}")
    if args.quick:
        args.epochs = min(args.epochs, 2)
    return args


if __name__ == "__main__":
    cli.start(main, parse_args)
