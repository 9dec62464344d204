"""Training speed with several processes: one process with two threads beside two processes with one thread each.

    python code/study/scaling.py                  four models, about 5 minutes on 2 cores, no network
    python code/study/scaling.py --only nf gan    some of them
    python code/study/scaling.py --quick          few images, to check that everything works

Both train in turn on glyph digits, several times; the numbers are medians. Nothing else should run on the
machine. Milliseconds of a step that are spent in sums over the processes include the time to wait for the other one.

The numbers for GPUs are estimates, not measurements: with N GPUs, the sums of a step take at least the time in which a
ring of links transports its bytes. With a CUDA GPU, the time of a step with 1/N of the batch is measured on it.
runs/scaling.json has all numbers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import torch

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from common import cli, distributed
from common.devices import CPU, fast_bf16, processor
from common.digest import code_digest
from common.files import runs_folder
from common.run import git_commit
from datasets.files import Trouble, UserError, show
from study import loops, registry, tables

NAMES = [name for name in loops.MODELS if name != "gan, template's nets"]
SETTINGS = {"one": (1, 2), "two": (2, 1)}  # processes, threads of each
REPEATS, EPOCHS = 3, 3  # starts of each setting, and epochs timed in each
GPUS = (2, 4, 8)
BANDWIDTH, LATENCY = 100e9, 20e-6  # assumed: bytes per second between two GPUs with NVLink, seconds per sum


def seconds_per_step(loop, device):
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start, loop.loader.steps = time.perf_counter(), 0
    loop.epoch()
    wait()
    return (time.perf_counter() - start) / loop.loader.steps


def time_loop(name, images, epochs, device="cpu", share=1):
    """Measurements of one of our loops, in this process or in all that torchrun has started. `share`: of a batch."""
    make, _, data, images_per_epoch = loops.MODELS[name]
    torch.manual_seed(0)
    batches = data().subset(images or images_per_epoch).to(device)
    batches.batch_size = max(2, int(batches.batch_size * share))
    loop = make(batches)
    for net in loop.nets:
        net.to(device)
    seconds_per_step(loop, device)  # warm-up
    sums, add = [], distributed.add

    def watched(x):
        start = time.perf_counter()
        add(x)
        sums.append((time.perf_counter() - start, x.numel() * x.element_size()))
        return x

    with mock.patch.object(distributed, "add", watched):
        steps = [seconds_per_step(loop, device) for _ in range(epochs)]
    count = epochs * loop.loader.steps
    return {
        "step": statistics.median(steps), "batch_size": batches.batch_size,
        "sum": sum(seconds for seconds, _ in sums) / count, "bytes": sum(size for _, size in sums) / count,
        "sums": len(sums) / count,
    }  # fmt: skip


def start(processes, threads, args):
    """{name: measurements} of this script in several processes."""
    words = ["--worker", "--only", *args.only, *["--quick"] * args.quick]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*torchrun, __file__, *words], env=environment, **pipes) as child:
        try:
            out, errors = child.communicate()
        except BaseException:
            child.terminate()  # torchrun then ends its workers; if it were killed, they would go on
            raise
    if child.returncode:
        mine = [line for line in errors.splitlines() if line.startswith(Path(__file__).name)]
        raise Trouble(f"{processes} processes stopped: {' '.join(mine) or errors.strip()[-300:]}")
    return json.loads(out.splitlines()[-1])


def compare(name, starts):
    """The metrics of one loop from {setting: [measurements of each start]}. Ratios are those of successive starts."""
    each = {setting: [one[name] for one in starts[setting]] for setting in SETTINGS}
    median = lambda setting, key: statistics.median(one[key] for one in each[setting])
    batch_size, result = each["one"][0]["batch_size"], {}
    for setting in SETTINGS:
        rates = [batch_size / one["step"] for one in each[setting]]
        result[setting] = {
            "milliseconds_per_step": 1000 * median(setting, "step"),
            "images_per_second": statistics.median(rates), "images_per_second_spread": max(rates) - min(rates),
        }  # fmt: skip
    result["two"] |= {
        "sum_milliseconds": 1000 * median("two", "sum"), "sums_per_step": median("two", "sums"),
        "megabytes_per_step": median("two", "bytes") / 1e6,
    }  # fmt: skip
    ratios = [one["step"] / two["step"] for one, two in zip(each["one"], each["two"], strict=True)]
    return {"batch_size": batch_size, **result, "ratio": statistics.median(ratios),
            "ratio_spread": max(ratios) - min(ratios)}  # fmt: skip


def estimate(two, steps=None):
    """For N GPUs: estimated milliseconds of the sums of a step. `steps`: measured milliseconds of a step with 1/N of
    the batch."""
    result = {}
    for n in GPUS:
        transported = 2 * (n - 1) / n * 1e6 * two["megabytes_per_step"]  # by each GPU of a ring
        sums = 1000 * (transported / BANDWIDTH + LATENCY * two["sums_per_step"])
        result[str(n)] = {"sum_milliseconds": sums}
        if steps:
            result[str(n)] |= {"share_milliseconds": steps[n], "speed_up": steps[1] / (steps[n] + sums)}
    return result


def measure(args):
    starts = {setting: [] for setting in SETTINGS}
    for repeat in range(1 if args.quick else REPEATS):
        for setting, (processes, threads) in SETTINGS.items():
            print(f"start {repeat + 1}: {processes} x {tables.plural(threads, 'thread')} ...", flush=True)
            starts[setting].append(start(processes, threads, args))
    models = {name: compare(name, starts) for name in args.only}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    on_gpu = lambda name, n: 1000 * time_loop(name, None, EPOCHS, "cuda", 1 / n)["step"]
    for name, result in models.items():
        result["gpus"] = estimate(result["two"], {n: on_gpu(name, n) for n in (1, *GPUS)} if gpu else None)
    return {
        "processor": processor(CPU), "cores": os.cpu_count(), "torch": torch.__version__, "commit": git_commit(),
        "code": code_digest("study/loops.py"), "data": "glyphs", "bfloat16": fast_bf16("cpu"),
        "starts": len(starts["one"]),
        "gpus": {
            "note": "estimates, not measurements", "gpu_of_the_steps": gpu,
            "assumed_gigabytes_per_second": BANDWIDTH / 1e9, "assumed_microseconds_per_sum": 1e6 * LATENCY,
        },
        "models": models,
    }  # fmt: skip


HEADER = ["", "1 x 2 threads", "2 x 1 thread", "ratio", "its spread", "in sums", "MB/step"]
HEADER += [f"{n} GPUs" for n in GPUS]


def rows(models):
    for name, result in models.items():
        one, two = result["one"], result["two"]
        share = two["sum_milliseconds"] / two["milliseconds_per_step"]
        yield (name, f"{one['images_per_second']:,.0f}", f"{two['images_per_second']:,.0f}",
               f"{result['ratio']:.2f}", f"{result['ratio_spread']:.2f}", f"{share:.0%}",
               f"{two['megabytes_per_step']:.1f}",
               *(f"{result['gpus'][str(n)]['sum_milliseconds']:.2f} ms" for n in GPUS))  # fmt: skip


def work(args):
    """What each process does: time the loops. The first one prints the result."""
    distributed.let_others_start()
    images, epochs = (1024, 1) if args.quick else (None, EPOCHS)
    print(json.dumps({name: time_loop(name, images, epochs) for name in args.only}), flush=True)


def main(args):
    if args.worker:
        return work(args)
    if distributed.launched:
        raise UserError("this script starts torchrun itself: start it with python")
    results, path = measure(args), runs_folder(args.quick) / "scaling.json"
    print(f"{results['processor']}, torch {results['torch']}; images per second, share of the time in sums")
    print(tables.plain(HEADER, list(rows(results["models"]))))
    print("For GPUs: the estimated time of the sums of a step, not a measurement")
    registry.write_json(path, results)
    print(f"Files:  {show(path)}")


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="RUN", help=f"any of {', '.join(NAMES)}"
    )
    parser.add_argument("--quick", action="store_true", help="few images, to check that everything works")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args, torchrun=True)
