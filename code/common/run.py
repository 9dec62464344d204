"""A run: its folder, settings, metrics, checkpoint, progress and results.

Each run has a folder, `runs/<data>/<name>/` (quick runs: `runs/quick/<data>/<name>/`):

    settings.json    the options of the run
    metrics.csv      one row per epoch
    checkpoint.pt    state after the last finished epoch, best weights and all rows of metrics.csv, with a checksum
    model.pt         sizes and weights of the trained model
    results.json     written at the end: settings, machine, seconds, curves, final metrics
    figures/

Each epoch sets the random seed again, so no random state has to be saved. An interrupted and resumed run ends with the
same numbers as an uninterrupted one (on the same CPU with the same number of threads).
"""

import contextlib
import csv
import io
import json
import platform
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import filelock
import torch
from tqdm import tqdm

from common import distributed
from common.devices import choose_device, facts, peak_megabytes
from common.digest import CODE, code_digest
from common.files import load_state, load_weights, runs_folder, save_state
from common.models import save_model
from datasets.files import ROOT, UserError, show, write_atomically

NOT_SETTINGS = {"data", "data_root", "name", "device", "resume", "fresh", "sample", "weights"}
EVALUATION = {"eval_samples", "eval_images"}  # settings that do not change the trained model
current = None  # the run in progress, for the message that says how to resume it


def git_commit():
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        call = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
        return subprocess.run(call, capture_output=True, text=True, timeout=5, check=True).stdout.strip()


def settings_of(args):
    """The options that must be the same when a run is resumed."""
    return {key: value for key, value in vars(args).items() if key not in NOT_SETTINGS}


def seed_epoch(seed, epoch):
    """Set the random seed for an epoch; the evaluation on the test split counts as one more epoch."""
    torch.manual_seed(1_000_003 * seed + epoch)


def one_cycle(optimizer, lr, steps):
    """The learning rate rises to `lr` in the first tenth of the steps, then falls to nearly 0 (Smith and Topin 2017).

    `lr`: one number, or one for each parameter group. Call `step` after each training step."""
    # One more, so that the last training step still has a rate above the final one. Not 10 in total: the first phase
    # would then have length 0, and torch would divide by it.
    steps += 1 + (steps == 9)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )  # fmt: skip


def require_finite(losses, limit=float("inf")):
    """Raise FloatingPointError with the step if a loss of this epoch is above `limit`, infinite or NaN.

    It is called once per epoch: a check in each step would slow down a GPU."""
    losses = distributed.add(torch.stack(losses)) if losses else torch.zeros(0)
    bad = torch.nonzero(~torch.isfinite(losses) | (losses.abs() > limit))
    if len(bad):
        raise FloatingPointError(f"step {int(bad[0, 0]) + 1}")


def read_results(folder):
    """The results.json of a finished run; None if the run is not finished."""
    path = folder / "results.json"
    if not path.exists():
        return None
    try:
        results = json.loads(path.read_text())
        results["final"], results["settings"], results["seconds"], results["seed"], results["quick"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{show(path)} is damaged: delete this folder, or repeat the run with --fresh") from None
    return results


def difference(before, now, ignored=()):
    """A text that names the first setting in which two dicts differ; None if they are the same."""
    for key in sorted((before.keys() | now.keys()).difference(ignored)):
        if before.get(key) != now.get(key):
            return f"{key.strip()} = {before.get(key)}, not {now.get(key)}"


class Run:
    """The folder and the state of one run. It opens the folder, or stops with a UserError (see `_check_settings`).

    `args`: the options. `script`: the path of the script. `name`: the folder's name unless --name is given. `data`: the
    name of the dataset. `history`: one dict per epoch. `seconds`: training time. `finished`: nothing is left to do."""

    def __init__(self, args, script, name, data, epochs):
        global current
        self.args, self.data, self.epochs = args, data, epochs
        self.script = Path(script).resolve().relative_to(CODE).as_posix()
        self.name = args.name or name
        if Path(self.name).name != self.name or self.name in (".", ".."):
            raise UserError(f"--name {self.name}: must be a name, not a path")
        self.settings = settings_of(args)
        self.device, why = choose_device(args.device)
        self.device, self.processes = distributed.local_device(self.device), distributed.processes
        self.folder = runs_folder(args.quick) / data / self.name
        self.checkpoint = self.folder / "checkpoint.pt"
        self.history, self.seconds, self.epoch_seconds, self.bar = [], 0.0, [], None
        self.machines = [{"device": str(self.device), **facts(self.device), "processes": self.processes}]
        self.commit, self.code = git_commit(), code_digest(self.script)
        if distributed.rank == 0:
            self._open()
        distributed.let_others_start()
        self.finished = (self.folder / "results.json").exists()
        current = self
        print(f"Device: {self.device} ({why})" + (f", {self.processes} processes" if self.processes > 1 else ""))
        print(f"Files:  {show(self.folder)}/")
        if self.finished:
            print("This run is finished. Use --fresh to repeat it.")

    def _open(self):
        (self.folder / "figures").mkdir(parents=True, exist_ok=True)
        self._lock()
        if self.args.fresh:
            self._clear()
        for partial in self.folder.glob("*.part"):  # left by a process that was killed while writing
            partial.unlink()
        self._check_settings()

    def _lock(self):
        self.lock = filelock.FileLock(self.folder / ".lock")  # held until the process ends
        try:
            self.lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(f"{show(self.folder)} is in use: wait, or choose another --name") from None

    def _clear(self):
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()
        (self.folder / "figures").mkdir()

    def _check_settings(self):
        """A run can be resumed only with its original code and settings. The settings of the evaluation may differ: a
        finished run is then evaluated again."""
        path, folder = self.folder / "settings.json", show(self.folder)
        finished = (self.folder / "results.json").exists()
        if finished or self.checkpoint.exists():
            again = "delete this folder, choose another --name, or start again with --fresh"
            now = {" script": self.script, **self.settings}  # the space sorts the script before the options
            try:
                saved = json.loads(path.read_text())
                before = {" script": saved["script"], **saved["settings"]}
            except (OSError, ValueError, KeyError, TypeError):
                raise UserError(
                    f"{show(path)} is missing or damaged: delete this folder, or start again with --fresh"
                ) from None
            can_resume = self.checkpoint.exists()
            if can_resume and not self.args.resume and not difference(before, now, EVALUATION):
                again = f"add --resume to evaluate it again, or {again}"
            if words := difference(before, now, EVALUATION if can_resume and self.args.resume else ()):
                raise UserError(f"{folder} was made with {words}: {again}")
            finished = finished and not difference(before, now)
            if not finished and saved.get("code", self.code) != self.code:
                raise UserError(f"{folder} was started with different code: {again}")
            if not finished and not self.args.resume:
                raise UserError(f"{folder} is unfinished: add --resume to continue, or --fresh to start again")
        if finished:
            return
        (self.folder / "results.json").unlink(missing_ok=True)  # of an evaluation with other settings
        settings = {"script": self.script, "data": self.data, "code": self.code, "settings": self.settings}
        write_atomically(path, json.dumps(settings, indent=1).encode())

    def figure(self, name):
        """The path of a figure."""
        return self.folder / "figures" / name

    def seed(self, epoch):
        seed_epoch(self.args.seed, epoch)

    def load(self, parts):
        """Load the state of the parts {name: module, optimizer or schedule} from the checkpoint, if there is one.

        Returns the other entries of the checkpoint. If no epoch is left to train, results.json will name the commit and
        the machines of the training, not of the evaluation."""
        others = self._load(parts) if self.checkpoint.exists() else {}
        distributed.synchronise(len(self.history), parts.values())
        return others

    def _load(self, parts):
        state = load_state(self.checkpoint, self.device)
        try:
            self.history, self.epoch_seconds = state.pop("history"), state.pop("epoch_seconds")
            self.seconds = sum(self.epoch_seconds)
            self.history[-1]["epoch"]
            states = {name: state.pop(name) for name in parts}
            machines, commit = state.pop("machines", []), state.pop("commit", self.commit)
            if machines and self.history[-1]["epoch"] == self.epochs:
                self.machines, self.commit = machines, commit
            self.machines = [*(each for each in machines if each not in self.machines), *self.machines]
        except (KeyError, TypeError, IndexError, AttributeError):
            raise UserError(f"{show(self.checkpoint)} is not a checkpoint of this script") from None
        for name, part in parts.items():
            load_weights(part, states[name], self.checkpoint)
        return state

    def save(self, parts, **state):
        """Write the checkpoint and metrics.csv at the end of an epoch, after `record`."""
        if distributed.rank > 0:
            return
        states = {name: part.state_dict() for name, part in parts.items()}
        progress = {"history": self.history, "epoch_seconds": self.epoch_seconds}
        made_by = {"machines": self.machines, "commit": self.commit}
        save_state(self.checkpoint, {**states, **state, **progress, **made_by})
        table = io.StringIO()
        writer = csv.DictWriter(table, self.history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_atomically(self.folder / "metrics.csv", table.getvalue().encode())

    def saved_epoch(self):
        """The last epoch in metrics.csv; None if there is none."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((self.folder / "metrics.csv").read_text().splitlines()[-1].split(",")[0])

    def record(self, epoch, **metrics):
        """Add one row to the history and print it."""
        self.epoch_seconds.append(self.seconds - sum(self.epoch_seconds))
        self.history.append({"epoch": epoch, **metrics})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items() if value is not None)
        self.say(f"epoch {epoch:3d}/{self.epochs}  {shown}  {self.epoch_seconds[-1]:.1f} s")

    def say(self, line):
        tqdm.write(line)
        sys.stdout.flush()

    def train_progress(self, loader):
        """Iterate over the loader with a progress bar and count the time as training time."""
        if self.bar is None:
            done = sum(row["epoch"] > 0 for row in self.history)
            self.bar = tqdm(
                total=self.epochs * len(loader), initial=done * len(loader), unit="step", leave=False,
                disable=not sys.stderr.isatty(), dynamic_ncols=True, mininterval=0.2,
                bar_format="{l_bar}{bar}| {elapsed} elapsed, {remaining} left, {rate_fmt}",
            )  # fmt: skip
        start = time.perf_counter()
        for batch in loader:
            yield batch
            self.bar.update()
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()
        self.seconds += time.perf_counter() - start

    def progress(self, loader, what):
        """Iterate over the loader with a separate progress bar, outside the training time."""
        return tqdm(loader, desc=what, leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def close_bar(self):
        if self.bar is not None:
            self.bar.close()

    def column(self, name):
        return [row[name] for row in self.history]

    def save_model(self, sizes, module):
        save_model(self.folder / "model.pt", self.script, sizes, module.state_dict())

    def finish(self, modules, **final):
        """Write results.json, from which the README, the report and the comparisons of runs are made."""
        self.close_bar()
        command = shlex.join([*distributed.launcher(), f"code/{self.script}", *sys.argv[1:]])
        results = {
            "run": self.name, "script": self.script, "command": command if not self.args.data_root else None,
            "commit": self.commit, "code": self.code, "data": self.data, "seed": self.args.seed,
            "quick": self.args.quick, "settings": self.settings,
            **self.machines[-1], **({"machines": self.machines} if len(self.machines) > 1 else {}),
            "python": platform.python_version(),
            "parameters": sum(p.numel() for module in modules for p in module.parameters()),
            "epochs": self.epochs, "seconds": round(self.seconds, 2), "peak_megabytes": peak_megabytes(),
            "curves": {name: self.column(name) for name in self.history[0]},
            "epoch_seconds": [round(seconds, 3) for seconds in self.epoch_seconds], "final": final,
        }  # fmt: skip
        write_atomically(self.folder / "results.json", json.dumps(results, indent=1).encode())
        shown = "  ".join(f"{key} {value:.5g}" for key, value in final.items() if isinstance(value, (int, float)))
        print(f"Done:   {self.seconds:.0f} s of training.  {shown}")
        print(f"Files:  {show(self.folder)}/")
