"""Our training against the plain loops of the course's templates, for the same seconds on the same machine.

    python code/study/race.py                        same as `make race`: VAE, GAN and RealNVP, one seed; resumable
    python code/study/race.py --only vae-z20 nf      some of them
    python code/study/race.py --seed 42 43 44        several seeds; the table shows means
    python code/study/race.py --quick                small runs, to check that everything works

Ours is the run that the script makes without options, in runs/<data>/race-<run>-seed<seed>/. The plain loop (loops.py)
then trains on the same images for the same seconds. It has the template's networks and learning rate (the VAE: our
activations and initial weights), and neither schedule nor augmentation nor averaged weights. Both are judged on the
validation images: VAE by the bound, flow by bits per dimension with one dequantisation sample, GAN by the Frechet
distance of as many samples, in the features of the published classifier. Only training counts: the clock stands still
while a loop is judged or saved.

Results after the same time are those of the last weights, not of the best epoch. Seconds to a target are those of the
first measurement that reaches it. The targets are the best public solutions' results after 40 epochs; for the GAN, what
the plain loop reaches in the same time. They apply to full runs on MNIST only.

The clock shows real time, so nothing else should run on the machine. runs/race.json has the curves, runs/race.pdf shows
them. After an interruption, repeat the command: the loop goes on from its last measurement.
"""

import functools
import itertools
import math
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
import a3_gan_template as gan
import a3_nf_template as nf
import a3_vae_template as vae
from common import cli, quality
from common.devices import facts
from common.digest import code_digest
from common.files import load_state, runs_folder, save_state
from common.models import REAL
from common.run import git_commit, read_results, seed_epoch
from datasets.bmnist import bmnist
from datasets.files import UserError, show
from datasets.loading import TITLES
from datasets.mnist import mnist
from study import charts, loops, registry, tables
from study.registry import SEEDS
from study.train import call, data_at_hand

RUNS = ["vae-z20", "gan", "nf"]
TARGETS = {"vae-z20": -100.6, "nf": 1.813}  # of the best public solution after 40 epochs; None for the GAN
QUICK = {"vae-z20": (5000, 1000), "gan": (5000, 1000), "nf": (3000, 500)}  # images of the scripts' quick runs
SHARES = [(i / 12) ** 2 for i in range(13)]  # of the time after which the plain loop is judged; more at the beginning


class Clock:
    """Counts seconds between `start` and `stop`."""

    def __init__(self, seconds=0.0):
        self.counted, self.started = seconds, None

    def start(self):
        self.started = time.perf_counter()

    def stop(self):
        self.counted, self.started = self.seconds, None

    @property
    def seconds(self):
        return self.counted + (0.0 if self.started is None else time.perf_counter() - self.started)


def plain_side(entry, data, quick):
    """The plain loop of a model, and a function that judges it on the validation images."""
    splits = (bmnist if entry.kind == "binary" else mnist)(data=data)
    train, val, _ = splits
    if quick:
        train, val = (split.subset(n) for split, n in zip((train, val), QUICK[entry.name]))
    loop = loops.MODELS[entry.name][1](train.images)
    net = loop.nets[0]  # of the GAN: the generator
    if entry.script == registry.GAN:
        classifier = quality.load_classifier(data, torch.device("cpu"), lambda: splits)
        features = lambda images: quality.classify(classifier, images)[0]
        real, noise = features(val.images / 255), functools.partial(net.noise, len(val.images))

        def measure():
            drawn = features(gan.images_of(net, noise()))
            return quality.frechet(drawn, real) if drawn.isfinite().all() else math.nan

    else:
        measure = lambda: (vae if entry.script == registry.VAE else nf).epoch_iter(net, val, None)

    def judge():
        training = net.training
        net.eval()
        value = measure()
        net.train(training)
        return value

    return loop, judge


def train_plain(loop, budget, curve, judge, save):
    """Train for `budget` seconds in total, at most one step more. Adds [seconds, metric] to `curve` at each of SHARES.

    A curve that is not empty belongs to a loop that was interrupted after its last point."""
    clock, loader = Clock(curve[-1][0] if curve else 0.0), loop.loader.loader
    passed = lambda seconds: sum(share * budget <= seconds for share in SHARES)

    def record():
        clock.stop()
        curve.append([clock.seconds, judge()])
        save()

    def batches():
        for batch in loader:
            yield batch  # the loop makes its step before it asks for the next batch
            if passed(clock.seconds) > passed(curve[-1][0]):
                record()
                if curve[-1][0] >= budget:
                    return
                clock.start()

    if not curve:
        record()
    clock.start()
    while curve[-1][0] < budget:
        loop.loader.loader = batches()
        loop.epoch()


def options(entry, seed, data, quick):
    return [*(entry.short.split() if data.startswith("glyphs") else ()), *["--quick"] * quick, "--seed", str(seed)]


def ours(entry, seed, data, quick, folder):
    """{seconds, curve} of the script's run. It is trained, or resumed, if it is not finished."""
    if not read_results(folder):
        more = [*options(entry, seed, data, quick), "--name", folder.name, "--device", "cpu", "--resume"]
        call(entry.command(*more, data=data), folder / "log.txt")
    results = read_results(folder)
    seconds = itertools.accumulate(results["epoch_seconds"])
    curve = [[x, y] for x, y in zip(seconds, results["curves"][entry.metric]) if y is not None]
    return {"seconds": results["seconds"], "curve": curve}


def plain(entry, seed, data, quick, folder, budget):
    """{seconds, curve, commit} of the plain loop. It is resumed if it has a checkpoint."""
    torch.manual_seed(seed)
    loop, judge = plain_side(entry, data, quick)
    path, parts, curve, commit = folder / "plain.pt", [*loop.nets, *loop.optimizers], [], git_commit()
    made = {"code": code_digest("study/loops.py"), **facts()}
    if path.exists():
        state = load_state(path)
        if state.get("made") != made:
            raise UserError(f"{show(path)} was made by other code or on another machine: delete it to train again")
        curve, commit = state["curve"], state["commit"]
        for part, saved in zip(parts, state["parts"]):
            part.load_state_dict(saved)
        seed_epoch(seed, len(curve))

    def save():
        states = [part.state_dict() for part in parts]
        save_state(path, {"made": made, "commit": commit, "parts": states, "curve": curve})
        print(f"{curve[-1][0]:9.1f} s  {curve[-1][1]:.4g} {tables.UNITS[entry.metric]}", flush=True)

    train_plain(loop, budget, curve, judge, save)
    return {"seconds": curve[-1][0], "curve": curve, "commit": commit}


def race(entry, seed, data, quick):
    """Both sides of one model and seed, with the conditions under which they were trained."""
    folder = runs_folder(quick) / data / f"race-{entry.name}-seed{seed}"
    conditions = {
        "data": data, **facts(),  # bfloat16: in our loops; the plain ones use float32
        "code": {"ours": code_digest(entry.script), "plain": code_digest("study/loops.py")},
        "settings": registry.settings(entry, *options(entry, seed, data, quick)),
    }  # fmt: skip
    pair = registry.read_json(folder / "race.json") or {**conditions, "commit": git_commit()}
    if different := [key for key, value in conditions.items() if pair.get(key) != value]:
        problem = f"{show(folder)} was made with other {' and '.join(different)}"
        raise UserError(f"{problem}: both loops need the same, so delete this folder to start again")
    registry.write_json(folder / "race.json", pair)
    print(f"{entry.title}, seed {seed}: {show(folder)}/, see log.txt there", flush=True)
    pair["ours"] = ours(entry, seed, data, quick, folder)
    print(f"ours: {pair['ours']['seconds']:.1f} s of training; now the plain loop", flush=True)
    if "plain" not in pair:
        pair["plain"] = plain(entry, seed, data, quick, folder, pair["ours"]["seconds"])
        registry.write_json(folder / "race.json", pair)
    (folder / "plain.pt").unlink(missing_ok=True)
    return pair


def mean(values):
    """None if a value is None."""
    return None if None in values else statistics.mean(values)


def seconds_to(curve, target, higher):
    """Seconds of the first point [seconds, metric] that is at least as good as the target; None if there is none."""
    good = lambda value: target is not None and (value >= target if higher else value <= target)
    return next((seconds for seconds, value in curve if good(value)), None)


def summary(name, pairs, quick):
    """Means over seeds. Seconds to the target are None if a seed does not reach it."""
    metric, data = registry.get(name).metric, next(iter(pairs.values()))["data"]
    curves = {side: [pair[side]["curve"] for pair in pairs.values()] for side in ("ours", "plain")}
    last = {side: [curve[-1][1] for curve in lines] for side, lines in curves.items()}
    targets = [TARGETS[name]] * len(pairs) if name in TARGETS else last["plain"]
    if quick or data not in REAL:
        targets = [None] * len(pairs)
    seconds = mean([pair["ours"]["seconds"] for pair in pairs.values()])
    sides = {}
    for side, lines in curves.items():
        reached = [seconds_to(*both, metric == "val_elbo") for both in zip(lines, targets)]
        sides[side] = {"after": mean(last[side]), "reached": reached, "seconds_to_target": mean(reached)}
    return {"data": data, "metric": metric, "seeds": [int(seed) for seed in pairs], "seconds": seconds,
            "target": mean(targets), **sides}  # fmt: skip


def main(args):
    entries = [registry.get(name) for name in args.only]
    data, models = data_at_hand(entries), {entry.name: {} for entry in entries}
    for seed, entry in itertools.product(args.seed, entries):
        models[entry.name][str(seed)] = race(entry, seed, data[entry.kind], args.quick)
    means, panels = {name: summary(name, pairs, args.quick) for name, pairs in models.items()}, {}
    for name, about in means.items():
        sides = ("ours", "ours"), ("plain", "plain loop")
        lines = {label: [pair[side]["curve"] for pair in models[name].values()] for side, label in sides}
        title = f"{registry.title(name)}\n{TITLES[about['data']]}"
        panels[title] = (lines, about["target"], tables.UNITS[about["metric"]])
    path = runs_folder(args.quick) / "race.json"
    registry.write_json(path, {"quick": args.quick, "summary": means, "models": models})
    charts.race(path.with_suffix(".pdf"), panels)
    print("\n" + tables.plain(*tables.race(means)) + "\n")
    print(f"Files:  {show(path)}, {show(path.with_suffix('.pdf'))}")


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=RUNS, help="race these models only")
    seed = cli.number(int, 0, 2**31)
    parser.add_argument("--seed", nargs="+", type=seed, default=[SEEDS[0]], help="race with each of these seeds")
    parser.add_argument("--quick", action="store_true", help="small runs, to check that everything works")
    return parser.parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
