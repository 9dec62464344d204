"""What every script needs and no model: command line, run folder, device, seeds, progress, checkpoints, results.

One folder a run, `runs/<data>/<name>/` (quick runs: `runs/quick/<data>/<name>/`):

    settings.json    what was asked for
    metrics.csv      one row an epoch
    checkpoint.pt    the last finished epoch, the best weights and all rows so far, behind a checksum
    results.json     written at the very end: settings, machine, seconds, curves, final figures
    figures/

Every epoch starts from a seed of its own, so a run that was stopped and resumed ends with the same numbers (on one CPU
with one number of threads) as one that never was, and no random state has to be saved.
"""

import argparse
import contextlib
import csv
import errno
import functools
import hashlib
import io
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import torch
from tqdm import tqdm

try:  # not on Windows, where two runs of one name are not noticed and memory is not told
    import fcntl
    import resource
except ImportError:
    fcntl = resource = None

ROOT = Path(__file__).resolve().parents[1]
LARGEST_CHECKPOINT = 2 << 30  # bytes; ours are far smaller
current = None  # the Run in progress, for the sentence that says how to go on


class UserError(Exception):
    """Wrong input, told in one line."""

    exit_status = 2


class Trouble(Exception):
    """Something went wrong on the way, told in one line."""

    exit_status = 1


class Terminated(BaseException):
    """SIGTERM."""


class Parser(argparse.ArgumentParser):
    """Errors in one line; the script's docstring above the options."""

    class Formatter(argparse.RawDescriptionHelpFormatter):
        def __init__(self, prog):
            super().__init__(prog, max_help_position=26, width=100)

        def _get_help_string(self, action):
            plain = action.default in (None, False, argparse.SUPPRESS)
            return action.help if plain else f"{action.help} (default: %(default)s)"

    def __init__(self, doc, folder="code"):
        usage = f"python {folder}/%(prog)s [options]"
        super().__init__(description=doc, usage=usage, formatter_class=self.Formatter, allow_abbrev=False)

    def error(self, message):
        message = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def number(kind, low=None, high=None, above=None, below=None):
    """An argparse type: an int or a float within limits."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if kind is int else ''}number") from None
        if not (low is None or value >= low) or value != value:
            raise argparse.ArgumentTypeError(f"must be at least {low}, not {text}")
        if not (high is None or value <= high):
            raise argparse.ArgumentTypeError(f"must be at most {high}, not {text}")
        if not (above is None or value > above):
            raise argparse.ArgumentTypeError(f"must be above {above}, not {text}")
        if not (below is None or value < below):
            raise argparse.ArgumentTypeError(f"must be below {below}, not {text}")
        return value

    return convert


def run_options(parser, data_names=()):
    """The options that all scripts share; those about data only where there are some."""
    parser.set_defaults(data_root=None)
    if data_names:
        group = parser.add_argument_group("data")
        group.add_argument(
            "--data", default="auto", choices=["auto", *data_names], help="which data; auto: the best at hand"
        )
        group.add_argument("--data-root", metavar="FOLDER", help="where the data files are (or set A3_DATA)")
    group = parser.add_argument_group("run")
    group.add_argument("--name", help="name of the run's folder (default: by model)")
    group.add_argument("--seed", type=number(int, 0, 2**31), default=42, help="start of all random numbers")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    group.add_argument("--resume", action="store_true", help="go on with an unfinished run")
    group.add_argument("--fresh", action="store_true", help="delete the run of this name and start again")
    group.add_argument("--quick", action="store_true", help="a small run that shows that everything works")
    group.add_argument(
        "--extra", action="store_true", help="also draw the figures that the assignment does not ask for"
    )


NOT_SETTINGS = {"data", "data_root", "name", "device", "resume", "fresh", "extra"}


def choose_device(name):
    """(device, why)."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), torch.cuda.get_device_name()
        if torch.backends.mps.is_available():
            return torch.device("mps"), "Apple GPU"
        return torch.device("cpu"), f"no GPU found; {torch.get_num_threads()} threads"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name}: this machine or this torch has no such device; try --device auto") from None
    return device, "as asked"


def write_atomically(path, data):
    """The old file or the whole new one, whenever the machine dies."""
    partial = path.with_name(path.name + ".part")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def save_checked(path, state):
    """torch.save, with the SHA-256 of the bytes behind them (torch.load reads such a file as well)."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    write_atomically(path, data + hashlib.sha256(data).digest())


def load_checked(path, device="cpu"):
    """The state that `save_checked` stored, or a UserError; no file, whoever made it, can run code."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_CHECKPOINT:
            raise UserError(f"{show(path)} is too large to be one of our checkpoints")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{show(path)} cannot be read: {error.strerror}") from None
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise UserError(f"{show(path)} is damaged or not ours (checksum): delete it, or start again with --fresh")
    try:
        return torch.load(io.BytesIO(data[:-32]), map_location=device, weights_only=True)
    except Exception:  # the unpickler's refusals are of many kinds
        raise UserError(f"{show(path)} is not a checkpoint of these scripts") from None


def fill(module, state, path):
    """module.load_state_dict with a sentence for weights of another shape."""
    try:
        module.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError):
        raise UserError(f"{show(path)} belongs to another model or other settings") from None


def show(path):
    """A path as a user would type it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def require_finite(losses, limit=float("inf")):
    """The losses of an epoch's steps, looked at once so that a GPU is not made to wait at every step."""
    losses = torch.stack(losses) if losses else torch.zeros(0)
    bad = torch.nonzero(~torch.isfinite(losses) | (losses.abs() > limit))
    if len(bad):
        raise FloatingPointError(f"step {int(bad[0, 0]) + 1}")


def autocast(device, wanted=True):
    """Matrix products in bfloat16 where the machine has fast instructions for them; sums stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and fast_bf16(device.type))


def at_least_float32(x):
    """Undo the bfloat16 that autocast makes of a matrix product; log-determinants and losses are sums of many terms."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_double(x):
    """For sums of many terms; on the CPU where the device knows no float64, as Apple's."""
    return (x.cpu() if x.device.type == "mps" else x).double()


@functools.cache
def fast_bf16(device_type):
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    with contextlib.suppress(OSError):
        return device_type == "cpu" and bool(
            {"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split())
        )
    return False


def git_commit():
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        call = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
        return subprocess.run(call, capture_output=True, text=True, timeout=5, check=True).stdout.strip()


def processor():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peak_megabytes():
    """The most memory that this process has held so far."""
    if resource:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def seed_epoch(seed, epoch):
    """Every epoch of every run starts its random numbers anew; the test images come after the last one."""
    torch.manual_seed(1_000_003 * seed + epoch)


class Run:
    """A run's folder, and what is written into it."""

    def __init__(self, args, script, name, data, epochs):
        global current
        self.args, self.data, self.epochs = args, data, epochs
        self.script = Path(script).resolve().relative_to(Path(__file__).resolve().parent).as_posix()
        self.name = args.name or name
        if Path(self.name).name != self.name or self.name in (".", ".."):
            raise UserError(f"--name {self.name}: a plain name, please, not a path")
        self.settings = {key: value for key, value in vars(args).items() if key not in NOT_SETTINGS}
        self.device, why = choose_device(args.device)
        self.folder = ROOT / "runs" / ("quick" if args.quick else ".") / data / self.name
        self.history, self.seconds, self.epoch_seconds = [], 0.0, []
        self.bar = None
        self.commit = git_commit()
        (self.folder / "figures").mkdir(parents=True, exist_ok=True)
        self._lock()
        if args.fresh:
            for file in ("results.json", "checkpoint.pt", "metrics.csv", "settings.json"):
                (self.folder / file).unlink(missing_ok=True)
        self.finished = (self.folder / "results.json").exists()
        self._check_settings()
        current = self
        print(f"Device: {self.device} ({why})")
        print(f"Files:  {show(self.folder)}/")
        if self.finished:
            print("This run is finished: --fresh makes it again, --extra draws its figures again.")

    def _lock(self):
        if not fcntl:
            return
        lock = os.open(self.folder / ".lock", os.O_CREAT | os.O_WRONLY, 0o666)  # held until the process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{show(self.folder)} is in use by another process: wait, or choose another --name"
            ) from None

    def _check_settings(self):
        """A run is gone on with under the settings that it was begun with, or not at all."""
        path = self.folder / "settings.json"
        mine = {"script": self.script, "data": self.data, "settings": self.settings}
        if self.finished or self.checkpoint.exists():
            try:
                theirs = json.loads(path.read_text())
                # the script is compared first
                before = {" script": theirs["script"], **theirs["settings"]}
                now = {" script": self.script, **self.settings}
            except (OSError, ValueError, KeyError, TypeError):
                raise UserError(f"{show(path)} is missing or damaged: start again with --fresh") from None
            for key in sorted(before.keys() | now.keys()):
                if before.get(key) != now.get(key):
                    raise UserError(
                        f"{show(self.folder)} was made with {key.strip()} = {before.get(key)}, not {now.get(key)}: "
                        "choose another --name, or --fresh to start again"
                    )
            if not self.finished and not self.args.resume:
                raise UserError(f"{show(self.folder)} is unfinished: add --resume to go on, or --fresh to start again")
        write_atomically(path, json.dumps(mine, indent=1).encode())

    @property
    def checkpoint(self):
        return self.folder / "checkpoint.pt"

    def figure(self, name):
        return self.folder / "figures" / name

    def seed(self, epoch):
        seed_epoch(self.args.seed, epoch)

    def load(self):
        """The state of the last finished epoch, or None for a new run."""
        if not self.checkpoint.exists():
            return None
        state = load_checked(self.checkpoint, self.device)
        try:
            self.history, self.epoch_seconds = state["history"], state["epoch_seconds"]
            self.seconds = sum(self.epoch_seconds)
            state["epoch"] = self.history[-1]["epoch"]
        except (KeyError, TypeError, IndexError):
            raise UserError(f"{show(self.checkpoint)} is not a checkpoint of these scripts") from None
        return state

    def save(self, **state):
        """Called at the end of an epoch, after `record`."""
        save_checked(self.checkpoint, {**state, "history": self.history, "epoch_seconds": self.epoch_seconds})
        table = io.StringIO()
        writer = csv.DictWriter(table, self.history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_atomically(self.folder / "metrics.csv", table.getvalue().encode())

    def record(self, epoch, **metrics):
        """One row of metrics.csv and one line on the screen."""
        self.epoch_seconds.append(self.seconds - sum(self.epoch_seconds))
        self.history.append({"epoch": epoch, **metrics})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items() if value is not None)
        self.say(f"epoch {epoch:3d}/{self.epochs}  {shown}  {self.epoch_seconds[-1]:.1f} s")

    def say(self, line):
        tqdm.write(line)
        sys.stdout.flush()

    def watch(self, loader):
        """The loader's batches; the bar moves, and the time until the last step is done counts as training."""
        if self.bar is None:
            done = len([row for row in self.history if row["epoch"] > 0])
            self.bar = tqdm(
                total=self.epochs * len(loader), initial=done * len(loader), unit="step", leave=False,
                disable=not sys.stderr.isatty(), dynamic_ncols=True, mininterval=0.2,
                bar_format="{l_bar}{bar}| {elapsed} gone, {remaining} to go, {rate_fmt}",
            )  # fmt: skip
        start = time.perf_counter()
        for batch in loader:
            yield batch
            self.bar.update()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - start

    def follow(self, loader, what):
        """The loader's batches with a bar of their own, outside the training time."""
        return tqdm(loader, desc=what, leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def column(self, name):
        return [row[name] for row in self.history]

    def finish(self, model, **final):
        """results.json: what the report, the README and whoever compares runs read."""
        if self.bar is not None:
            self.bar.close()
        modules = model if isinstance(model, (list, tuple)) else [model]
        results = {
            "run": self.name,
            "script": self.script,
            "command": shlex.join(["python", f"code/{self.script}", *sys.argv[1:]])
            if not self.args.data_root
            else None,
            "commit": self.commit,
            "data": self.data,
            "seed": self.args.seed,
            "quick": self.args.quick,
            "settings": self.settings,
            "device": str(self.device),
            "processor": torch.cuda.get_device_name() if self.device.type == "cuda" else processor(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for module in modules for p in module.parameters()),
            "epochs": self.epochs,
            "seconds": round(self.seconds, 2),
            "peak_megabytes": peak_megabytes(),
            "curves": {name: self.column(name) for name in self.history[0]},
            "final": final,
        }
        write_atomically(self.folder / "results.json", json.dumps(results, indent=1).encode())
        shown = "  ".join(f"{key} {value:.5g}" for key, value in final.items() if isinstance(value, (int, float)))
        print(f"Done:   {self.seconds:.0f} s of training.  {shown}")
        print(f"Files:  {show(self.folder)}/")


def go_on():
    """How to go on, for whoever has just stopped a run."""
    if not current or current.finished or not current.history:
        return "nothing is lost but this start."
    words = [word for word in sys.argv[1:] if word not in ("--resume", "--fresh")]
    command = shlex.join(["python", sys.argv[0], *words, "--resume"])
    return f"epoch {current.history[-1]['epoch']} is saved. Go on with: {command}"


def start(main):
    """Run a script's main; whatever a user can cause ends in one line and an exit status."""

    def terminate(*_):
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        main()
        return
    except KeyboardInterrupt:
        line, status = f"Interrupted: {go_on()}", 130
    except Terminated:
        line, status = f"Terminated: {go_on()}", 143
    except FloatingPointError as error:
        if not current:
            raise
        where = f"the loss exploded (huge, infinite or NaN) in epoch {current.history[-1]['epoch'] + 1}, {error}"
        line, status = f"{where}; the last good epoch is in {show(current.checkpoint)}: try a lower learning rate", 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: no second complaint
        line, status = "", 1
    except (OSError, zipfile.BadZipFile) as error:
        cure = (
            "make room" if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "mend that"
        )
        file = f"{show(error.filename)}: " if getattr(error, "filename", None) else ""
        line, status = f"{file}{getattr(error, 'strerror', None) or error}; {cure}, then: {go_on()}", 1
    except Exception as error:
        out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
        if not out_of_memory and not hasattr(error, "exit_status"):
            raise
        line, status = str(error), getattr(error, "exit_status", 1)
        if out_of_memory:
            line = f"out of memory: try a smaller model or batch; {go_on()}"
    if current and current.bar is not None:
        current.bar.close()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    if line:
        print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr, flush=True)
    os._exit(status)  # at once, even from the middle of a long matrix product's threads
