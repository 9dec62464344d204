"""Speed beside the plain loop that the course's templates suggest: the same data, the same run, interleaved.

    python code/study/bench.py             what `make bench` calls: under 4 minutes on 2 cores, no network
    python code/study/bench.py --growth    how an epoch's cost grows with images, width and couplings: a figure

Seconds differ from machine to machine: quote the ratio. Medians of interleaved repeats on the built-in glyph digits, on
the CPU; loops.py holds the loops. Our GAN's nets are wider than the template's, so it runs twice: as it is trained, and
with the template's nets.

Milliseconds per step: `data` until the batch is there, `backward`, `optimiser` (its step, zeroed gradients, clipping),
and `forward`, which is all the rest. `of rate`: the floating-point operations of training, counted by torch, as a share
of what a large matrix product reaches in the same number format. Spread: the largest less the smallest.
"""

import contextlib
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn as nn
from torch.utils.flop_counter import FlopCounterMode

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from common import cli, figures
from common.devices import fast_bf16, processor
from common.run import git_commit
from datasets.files import ROOT, show, write_atomically
from study import loops, tables

REPEATS = 5


@contextlib.contextmanager
def stopwatch(owner, name, spent, part):
    """While it lasts, the seconds of every call of owner.name are added to spent[part]."""
    original = getattr(owner, name)

    def timed(*args, **kwargs):
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            spent[part] += time.perf_counter() - start

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, original)


def one_epoch(loop):
    """Seconds of an epoch, in all and by part, and its steps."""
    spent = dict.fromkeys(["forward", "backward", "optimiser", "data"], 0.0)
    loader = loop.loader
    loader.seconds, loader.steps = 0.0, 0
    with contextlib.ExitStack() as watches:
        watches.enter_context(stopwatch(torch.Tensor, "backward", spent, "backward"))
        watches.enter_context(stopwatch(nn.utils, "clip_grad_norm_", spent, "optimiser"))
        for optimizer, name in itertools.product(loop.optimizers, ("step", "zero_grad")):
            watches.enter_context(stopwatch(optimizer, name, spent, "optimiser"))
        start = time.perf_counter()
        loop.epoch()
        whole = time.perf_counter() - start
    spent["data"] = loader.seconds
    spent["forward"] = whole - sum(spent.values())
    return whole, spent, loader.steps


def count_operations(loop):
    """Floating-point operations of an epoch: of matrix products and convolutions, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        loop.epoch()
    return counter.get_total_flops()


def seconds(work, repeats=3):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def matrix_rate(dtype, n=1024):
    """10^9 multiplications and additions a second of a large matrix product."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    seconds(lambda: a @ b, 20)
    return 2 * n**3 / statistics.median(seconds(lambda: a @ b, 50)) / 1e9


def machine(n=1024):
    return {
        "processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "commit": git_commit(), "data": "glyphs",
        "gflops_float32": matrix_rate(torch.float32, n), "gflops_bfloat16": matrix_rate(torch.bfloat16, n),
    }  # fmt: skip


def median_and_spread(values):
    return {"median": statistics.median(values), "spread": max(values) - min(values)}


def summary(loop, epochs, operations, images, rates, samples):
    """The metrics of one side from its epochs [(seconds, by part, steps)] and its operations per image."""
    per_second = median_and_spread([images / whole for whole, _, _ in epochs])
    steps = epochs[0][2]
    rate = "bfloat16" if loop.fast and fast_bf16("cpu") else "float32"
    reached = operations * per_second["median"] / 1e9
    drawn = seconds(lambda: loop.sample(samples))[1:]
    return {
        "images_per_second": per_second["median"], "images_per_second_spread": per_second["spread"],
        "batch_size": loop.loader.loader.batch_size, "milliseconds_per_step":
            1000 * statistics.median(whole for whole, _, _ in epochs) / steps,
        **{f"{part}_milliseconds": 1000 * statistics.median(spent[part] for _, spent, _ in epochs) / steps
           for part in epochs[0][1]},
        "operations_per_image": operations, "gflops": reached, "matrix_rate": rate,
        "share_of_matrix_rate": reached / rates[f"gflops_{rate}"],
        "samples_per_second": samples / statistics.median(drawn),
    }  # fmt: skip


def compare(name, rates, images=None, repeats=REPEATS, samples=1000):
    """Ours and the plain loop in turn; the ratio is that of neighbours in time."""
    ours, plain, loader, enough = loops.MODELS[name]
    images = images or enough
    torch.manual_seed(0)
    data = loader().subset(images)
    sides = {"ours": ours(data)} | ({"plain": plain(data.images)} if plain else {})
    operations = {side: count_operations(loop) / images for side, loop in sides.items()}  # warms up as well
    epochs = {side: [] for side in sides}
    for _ in range(repeats):
        for side, loop in sides.items():
            epochs[side].append(one_epoch(loop))
    with torch.no_grad():
        result = {side: summary(loop, epochs[side], operations[side], images, rates, samples)
                  for side, loop in sides.items()}  # fmt: skip
    if plain:
        ratios = [theirs[0] / mine[0] for mine, theirs in zip(epochs["ours"], epochs["plain"])]
        result |= {"ratio": statistics.median(ratios), "ratio_spread": max(ratios) - min(ratios)}
    return result


HEADER = ("", "images/s", "spread", "ms/step", "forward", "backward", "optimiser", "data", "batch", "GFLOP/s",
          "of rate", "samples/s", "ratio")  # fmt: skip


def rows(models):
    for name, result in models.items():
        for side in ("ours", "plain"):
            if side not in result:
                continue
            r = result[side]
            parts = (f"{r[f'{part}_milliseconds']:.2f}" for part in ("forward", "backward", "optimiser", "data"))
            ratio = ""
            if side == "ours" and "plain" in result:
                ratio = f"{result['ratio']:.1f} ± {result['ratio_spread'] / 2:.1f}"
            yield (f"{name}, {side}", f"{r['images_per_second']:,.0f}", f"{r['images_per_second_spread']:,.0f}",
                   f"{r['milliseconds_per_step']:.2f}", *parts, str(r["batch_size"]), f"{r['gflops']:.0f}",
                   f"{r['share_of_matrix_rate']:.0%}", f"{r['samples_per_second']:,.0f}", ratio)  # fmt: skip


def seconds_per_epoch(images, options):
    loop = loops.our_nf(images, options)
    return lambda: one_epoch(loop)[0]


def growth(repeats=3, images=(12500, 25000, 50000), hidden=(256, 512, 1024), couplings=(4, 8, 16), base=10000):
    """Seconds per epoch of the template's flow: of all images, and of `base` images where the net grows."""
    points = {"images": [(n, [], n) for n in images],
              "hidden width": [(width, ["--hidden", str(width)], base) for width in hidden],
              "couplings": [(n, ["--flows", str(n // 2)], base) for n in couplings]}  # fmt: skip
    data = loops.grey_images([])
    works = {
        (axis, x): seconds_per_epoch(data.subset(n), options) for axis, line in points.items() for x, options, n in line
    }
    times = {key: [] for key in works}
    for repeat in range(repeats + 1):
        for key, work in works.items():
            if repeat:
                times[key].append(work())
            elif key[1] == points[key[0]][0][0]:
                work()  # one of each axis warms up
    return {
        axis: {"x": [x for x, *_ in line], "images": [n for *_, n in line],
               "seconds": [statistics.median(times[axis, x]) for x, *_ in line],
               "spread": [max(times[axis, x]) - min(times[axis, x]) for x, *_ in line]}
        for axis, line in points.items()
    }  # fmt: skip


def write(name, results):
    path = ROOT / "runs" / name
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(results, indent=1).encode())
    print(f"Files:  {show(path)}")


def main(args):
    results = machine()
    print(f"{results['processor']}, {results['threads']} threads, torch {results['torch']}")
    if args.growth:
        results["growth"] = growth()
        for axis, line in results["growth"].items():
            shown = ", ".join(f"{second:.2f} s at {x:,}" for x, second in zip(line["x"], line["seconds"]))
            print(f"{axis:14}{shown} ({line['images'][0]:,} images)" if axis != "images" else f"{axis:14}{shown}")
        figure = ROOT / "runs" / "growth.pdf"
        figure.parent.mkdir(exist_ok=True)
        figures.growth(figure, results["growth"], "RealNVP, checkerboard", "seconds per epoch")
        return write("growth.json", results)
    print(
        "matrix products: {gflops_float32:.0f} GFLOP/s in float32, {gflops_bfloat16:.0f} in bfloat16".format(**results)
    )
    results["models"] = {}
    for name in loops.MODELS:
        print(f"{name} ...", flush=True)
        results["models"][name] = compare(name, results)
    print(tables.plain(HEADER, list(rows(results["models"]))) + "\n")
    return write("bench.json", results)


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("--growth", action="store_true", help="measure how an epoch's cost grows, and nothing else")
    return parser.parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
