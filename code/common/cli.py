"""The command line: options, number types, errors in one line."""

import argparse
import contextlib
import errno
import math
import os
import signal
import sys
import zipfile
from pathlib import Path

import torch

from common import run
from datasets.files import ROOT, show


class Terminated(BaseException):
    """SIGTERM."""


class Parser(argparse.ArgumentParser):
    """Errors in one line; the script's docstring above the options; `--batch-size` is the same as `--batch_size`."""

    class Formatter(argparse.RawDescriptionHelpFormatter):
        def __init__(self, prog):
            super().__init__(prog, max_help_position=26, width=100)

        def _get_help_string(self, action):
            plain = action.default in (None, False, argparse.SUPPRESS)
            return action.help if plain else f"{action.help} (default: %(default)s)"

    def __init__(self, doc, file):
        script = Path(file).resolve().relative_to(ROOT).as_posix()
        super().__init__(
            prog=Path(file).name, description=doc, usage=f"python {script} [options]", formatter_class=self.Formatter,
            allow_abbrev=False,
        )  # fmt: skip

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self.spelling(word) for word in words], namespace)

    def spelling(self, word):
        name, equals, value = word.partition("=")
        for option in self._option_string_actions if name.startswith("--") else ():
            if option.replace("-", "_") == name.replace("-", "_"):
                return option + equals + value
        return word

    def error(self, message):
        message = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def number(kind, low=None, high=None, above=None, below=None):
    """An argparse type: an int or a finite float within limits."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number") from None
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"must be a finite number, not {text}")
        for limit, holds, words in (
            (low, lambda: value >= low, "at least"),
            (high, lambda: value <= high, "at most"),
            (above, lambda: value > above, "above"),
            (below, lambda: value < below, "below"),
        ):
            if limit is not None and not holds():
                raise argparse.ArgumentTypeError(f"must be {words} {limit}, not {text}")
        return value

    return convert


def run_options(parser, data_names=()):
    """The options that all training scripts share; those about data only where there are some."""
    parser.set_defaults(data_root=None)
    if data_names:
        group = parser.add_argument_group("data")
        group.add_argument(
            "--data", default="auto", choices=["auto", *data_names], help="which data; auto: the best at hand"
        )
        group.add_argument("--data_root", metavar="FOLDER", help="where the data files are (or set A3_DATA)")
    group = parser.add_argument_group("run")
    group.add_argument("--name", help="name of the run's folder (default: by model)")
    group.add_argument("--seed", type=number(int, 0, 2**31), default=42, help="start of all random numbers")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    group.add_argument("--resume", action="store_true", help="continue an unfinished run")
    group.add_argument("--fresh", action="store_true", help="delete the run of this name and start again")
    group.add_argument("--quick", action="store_true", help="a small run that shows that everything works")


def how_to_resume():
    """For a user who has just stopped a run."""
    if not run.current or run.current.finished or not run.current.history:
        return "nothing was saved yet."
    return f"epoch {run.current.history[-1]['epoch']} is saved. Continue with: {run.command_line('--resume')}"


def explained(error):
    """(one line, exit status) for an exception that a user can cause, None for any other: a bug."""
    if isinstance(error, KeyboardInterrupt):
        return f"Interrupted: {how_to_resume()}", 130
    if isinstance(error, Terminated):
        return f"Terminated: {how_to_resume()}", 143
    if isinstance(error, FloatingPointError) and run.current:
        epoch, saved = run.current.history[-1]["epoch"] + 1, show(run.current.checkpoint)
        return (
            f"the loss exploded (huge, infinite or NaN) in epoch {epoch}, {error}; the last good epoch is in {saved}: "
            "try a lower learning rate"
        ), 1
    if isinstance(error, BrokenPipeError):  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "", 1
    if isinstance(error, (OSError, zipfile.BadZipFile)):
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        file = f"{show(error.filename)}: " if getattr(error, "filename", None) else ""
        reason = getattr(error, "strerror", None) or error
        return f"{file}{reason}; {'make room' if full else 'fix that'}, then try again; {how_to_resume()}", 1
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
        return f"out of memory: try a smaller model or batch; {how_to_resume()}", 1
    if hasattr(error, "exit_status"):
        return str(error), error.exit_status


def start(main, parse_args):
    """Run a script; whatever a user can cause ends in one line and an exit status."""

    def terminate(*_):
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    args = parse_args()
    try:
        main(args)
        return
    except BaseException as error:
        told = explained(error)
        if told is None or os.environ.get("A3_DEBUG"):
            raise
    line, status = told
    if run.current:
        run.current.close_bar()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    if line:
        print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr, flush=True)
    os._exit(status)  # at once, even in the middle of a long matrix product
