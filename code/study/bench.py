"""Speed of our training loops, compared with the plain loops that the course's templates suggest.

    python code/study/bench.py    same as `make bench`: under 4 minutes on 2 cores, no network

Seconds depend on the machine: quote the ratio. All loops are timed in turn, several times, on the CPU, on the built-in
glyph digits; the numbers are medians. The loops are in loops.py. Our GAN is timed twice: as it is trained, and with the
template's noise, output layer and loss ("template's nets").

Milliseconds per step: `data` is the time to fetch a batch, `backward` the backward pass, `optimiser` the optimiser's
step, zero_grad and clipping, and `forward` the rest. `% of matrix product`: GFLOP/s of training, relative to a large
matrix product in the same number format. Spread: maximum minus minimum. "ours in float32": our loop with A3_FLOAT32=1,
for comparison with processors without bfloat16 instructions; it is measured only where the processor has them.
"""

import contextlib
import itertools
import os
import statistics
import sys
import time
from pathlib import Path
from unittest import mock

import torch
import torch.nn as nn
from torch.utils.flop_counter import FlopCounterMode

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from common import cli
from common.devices import facts, fast_bf16
from common.digest import code_digest
from common.files import runs_folder
from common.run import git_commit
from datasets.files import show
from study import loops, registry, tables

REPEATS = 5


def stopwatch(owner, name, spent, part):
    """A context in which the seconds of each call of owner.name are added to spent[part]."""
    original = getattr(owner, name)

    def timed(*args, **kwargs):
        start = time.perf_counter()
        result = original(*args, **kwargs)
        spent[part] += time.perf_counter() - start
        return result

    return mock.patch.object(owner, name, timed)


def one_epoch(loop):
    """(seconds, seconds by part, steps) of one epoch."""
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
    """Floating-point operations per epoch in matrix products and convolutions, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        loop.epoch()
    return counter.get_total_flops()


def seconds(work, repeats):
    """The seconds of each of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def matrix_rate(dtype, n=1024):
    """GFLOP/s of a large matrix product."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    seconds(lambda: a @ b, 20)
    return 2 * n**3 / statistics.median(seconds(lambda: a @ b, 50)) / 1e9


def machine(n=1024):
    return {
        **facts(), "commit": git_commit(), "code": code_digest("study/loops.py"), "data": "glyphs",
        "gflops_float32": matrix_rate(torch.float32, n), "gflops_bfloat16": matrix_rate(torch.bfloat16, n),
    }  # fmt: skip


def summary(loop, epochs, operations, images, rates):
    """The metrics of one loop from its epochs [(seconds, by part, steps)] and its operations per image."""
    rates_of_epochs, steps = [images / whole for whole, _, _ in epochs], epochs[0][2]
    per_second = statistics.median(rates_of_epochs)
    milliseconds = lambda values: 1000 * statistics.median(values) / steps
    rate = "bfloat16" if loop.fast and fast_bf16("cpu") else "float32"
    reached = operations * per_second / 1e9
    return {
        "images_per_second": per_second, "images_per_second_spread": max(rates_of_epochs) - min(rates_of_epochs),
        "batch_size": loop.loader.loader.batch_size,
        "milliseconds_per_step": milliseconds(whole for whole, _, _ in epochs),
        **{f"{part}_milliseconds": milliseconds(spent[part] for _, spent, _ in epochs) for part in epochs[0][1]},
        "operations_per_image": operations, "gflops": reached, "matrix_rate": rate,
        "share_of_matrix_rate": reached / rates[f"gflops_{rate}"],
    }  # fmt: skip


def compare(name, rates, images=None, repeats=REPEATS):
    """Metrics of our loop and the plain one, timed in turn; their ratio is the median over pairs of epochs."""
    ours, plain, loader, images_per_repeat = loops.MODELS[name]
    images = images or images_per_repeat
    torch.manual_seed(0)
    data = loader().subset(images)
    sides = {"ours": ours(data)} | ({"plain": plain(data.images)} if plain else {})
    if fast_bf16("cpu"):
        sides["float32"] = ours(data)
        sides["float32"].fast = False
    operations = {side: count_operations(loop) / images for side, loop in sides.items()}  # also the warm-up
    epochs = {side: [] for side in sides}
    for _ in range(repeats):
        for side, loop in sides.items():
            with mock.patch.dict(os.environ, {} if loop.fast else {"A3_FLOAT32": "1"}):
                epochs[side].append(one_epoch(loop))
    result = {side: summary(loop, epochs[side], operations[side], images, rates) for side, loop in sides.items()}
    if plain:
        ratios = [theirs[0] / mine[0] for mine, theirs in zip(epochs["ours"], epochs["plain"])]
        result |= {"ratio": statistics.median(ratios), "ratio_spread": max(ratios) - min(ratios)}
    return result


def main(args):
    results, path = machine(), runs_folder() / "bench.json"
    print(f"{results['processor']}, {tables.plural(results['threads'], 'thread')}, torch {results['torch']}")
    rates = (f"{results[f'gflops_{kind}']:.0f} GFLOP/s in {kind}" for kind in ("float32", "bfloat16"))
    print(f"matrix products: {', '.join(rates)}")
    results["models"] = {}
    for model in loops.MODELS:
        print(f"{model} ...", flush=True)
        results["models"][model] = compare(model, results)
    print("\n\n".join(tables.plain(*table) for table in tables.bench(results["models"])) + "\n")
    registry.write_json(path, results)
    print(f"Files:  {show(path)}")


def parse_args(words=None):
    return cli.Parser(__doc__, __file__).parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
