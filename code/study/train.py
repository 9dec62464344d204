"""Train runs of the registry, one after the other, and analyse those of seed 42.

    python code/study/train.py vae-z20 gan      these runs
    python code/study/train.py --group core     those that `make` trains; others: long, autoregressive, family, plane
    python code/study/train.py --list           print all runs and their commands

With `--list`, a selection of runs and seeds is printed as a numbered list of jobs. `--index` trains one of them, in a
job array of a cluster for example (docs/cluster.md):

    python code/study/train.py --group core --seed 42 43 44 --list
    python code/study/train.py --group core --seed 42 43 44 --index 3

Finished runs are skipped, unfinished runs are resumed. If MNIST is not available, runs use glyph digits and fewer
epochs.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from common import cli
from common.digest import code_digest
from common.files import runs_folder
from common.run import EVALUATION, difference, read_results
from datasets import bmnist, loading, mnist
from datasets.files import ROOT, Trouble, UserError, show
from study import analyses, registry
from study.registry import SEEDS

SOURCES = {"binary": bmnist.SOURCES, "grey": mnist.SOURCES}  # the kinds of data: where files come from


def data_at_hand(entries):
    """{kind: name of the data set to use}; prints one warning if MNIST is missing."""
    kinds = [kind for kind in SOURCES if any(entry.kind == kind for entry in entries)]
    found = {kind: loading.find("auto", registry.DATA[kind], SOURCES[kind]) for kind in kinds}
    loading.warn(*found.values())
    for data in found.values():
        print(f"Data:   {loading.TITLES[data.name]}, {data.source}")
    return {kind: data.name for kind, data in found.items()}


def share_done(folder):
    """The share of a run's epochs that are finished; 0 if its files do not exist yet."""
    try:
        settings = json.loads((folder / "settings.json").read_text())["settings"]
        planned = settings.get("epochs") or settings["n_epochs"]
        return min(1.0, (len((folder / "metrics.csv").read_text().splitlines()) - 2) / planned)
    except (OSError, ValueError, KeyError):
        return 0.0


def is_complete(folder, entry, more, published):
    """Whether a run is finished; if `published`, whether it was also evaluated like published runs.

    Refuses a finished run with other settings of its training and, if `published`, of older code."""
    if not (results := read_results(folder)):
        return False
    before, now = results["settings"], registry.settings(entry, *more)
    if words := difference(before, now, EVALUATION):
        raise UserError(f"{show(folder)} was made with {words}: rename or delete this folder")
    if published and results["code"] != code_digest(entry.script):
        raise UserError(f"{show(folder)} was made by older code: rename or delete this folder")
    return not published or not difference(before, now)


def call(command, log, advance=lambda: None):
    """Run a command with its output in a log file; call `advance` twice per second."""
    with open(log, "a") as output:
        child = subprocess.Popen([sys.executable, *command], stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            while child.poll() is None:
                time.sleep(0.5)
                advance()
        except BaseException:  # Ctrl-C or SIGTERM: end the script, too
            child.terminate()  # not SIGINT, which children of nohup ignore
            child.wait()
            raise
    if child.returncode < 0:
        raise Trouble(f"{log.parent.name} was killed by signal {-child.returncode} (output: {show(log)})")
    if child.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise Trouble(f"{log.parent.name} stopped: {' '.join(last)} (full output: {show(log)})")


class Progress:
    """Progress over all runs with the time left: a bar in a terminal, otherwise one line per run."""

    def __init__(self, total):
        self.total, self.done, self.skipped, self.started = total, 0.0, 0.0, time.monotonic()
        layout = {"leave": False, "dynamic_ncols": True, "bar_format": "{desc}{percentage:3.0f} % |{bar}|{postfix}"}
        self.bar = tqdm(total=1.0, disable=not sys.stderr.isatty(), **layout)

    def left(self, done):
        worked = done - self.skipped
        if worked < 0.02 * self.total:
            return "time left not known yet"
        minutes = (time.monotonic() - self.started) * (self.total - done) / worked / 60
        return f"about {minutes:.0f} min left"

    def show(self, name, done):
        self.bar.set_description(name, refresh=False)
        self.bar.n = done / self.total
        self.bar.set_postfix_str(self.left(done))


def plan(jobs, data, quick, published):
    """[(entry, seed, folder, more options, complete)]. Refuses runs of other settings before the first training."""
    planned = []
    for entry, seed in jobs:
        name = entry.name_with(seed)
        folder = runs_folder(quick) / data.get(entry.kind, entry.kind) / name
        more = entry.publishing if published else entry.short if folder.parent.name.startswith("glyphs") else ""
        more = [*more.split(), "--name", name, "--seed", str(seed), "--resume", *["--quick"] * quick]
        planned.append((entry, seed, folder, more, is_complete(folder, entry, more, published)))
    return planned


def train(planned):
    progress, failed = Progress(sum(entry.seconds for entry, *_ in planned)), []
    for entry, seed, folder, more, complete in planned:
        name, before = folder.name, progress.done
        progress.done += entry.seconds
        if complete:
            progress.skipped += entry.seconds
            tqdm.write(f"{name}: already finished")
        else:
            command = entry.command(*more, data=folder.parent.name)
            progress.skipped += entry.seconds * share_done(folder)
            folder.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            show_progress = lambda: progress.show(name, before + entry.seconds * share_done(folder))  # noqa: B023
            show_progress()
            try:
                call(command, folder / "log.txt", show_progress)
            except Trouble as trouble:  # the other runs do not need this one
                failed.append(str(trouble))
                tqdm.write(f"{name}: stopped")
                continue
            finally:
                progress.bar.clear()
            seconds = time.monotonic() - started
            tqdm.write(f"{name}: done in {seconds:.0f} s, {progress.left(progress.done)}; {show(folder)}/")
        if seed == SEEDS[0]:
            try:
                analyses.analyse_once(folder)
            except UserError as error:  # a damaged model file, for example
                failed.append(str(error))
    progress.bar.close()
    if failed:
        raise Trouble("; ".join(failed))


def show_list():
    for group, text in registry.GROUPS.items():
        print(f"\n{group}: {text}")
        for entry in registry.select(group=group):
            print(f"  {entry.name:24}{entry.title:52}python {' '.join(entry.command())}")


def main(args):
    if args.list and not (args.runs or args.group):
        return show_list()
    entries = [registry.get(name) for name in args.runs]
    for group in args.group:
        entries += registry.select(group=group)
    entries = list(dict.fromkeys(entries))
    if not entries:
        raise UserError("no run or group given; list them with python code/study/train.py --list")
    jobs = [(entry, seed) for entry in entries for seed in args.seed or SEEDS[:1]]
    if args.list:
        for index, (entry, seed) in enumerate(jobs):
            print(f"{index:4}  {entry.name_with(seed):32}{entry.title}")
        return
    if args.index is not None:
        if args.index >= len(jobs):
            raise UserError(f"--index {args.index}: the {len(jobs)} jobs are numbered from 0 (see --list)")
        jobs = [jobs[args.index]]
    data = data_at_hand([entry for entry, _ in jobs])
    preferred = {kind: registry.DATA[kind][0] for kind in data}
    if args.published and data != preferred:
        raise UserError(f"published runs need {' and '.join(preferred.values())}: leave out --published")
    train(plan(jobs, data, args.quick, args.published))


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="names of runs")
    parser.add_argument("--group", nargs="+", choices=list(registry.GROUPS), default=[], help="all runs of a group")
    seed = cli.number(int, 0, 2**31)
    parser.add_argument("--seed", nargs="+", type=seed, help=f"train each run with each seed (default: {SEEDS[0]})")
    parser.add_argument("--published", action="store_true", help="add the extra options of published runs")
    parser.add_argument("--quick", action="store_true", help="small runs, to check that everything works")
    text = "print all runs and stop; with a selection: a numbered list of runs and seeds"
    parser.add_argument("--list", action="store_true", help=text)
    parser.add_argument("--index", type=cli.number(int, 0), metavar="I", help="train only job I of that list")
    return parser.parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
