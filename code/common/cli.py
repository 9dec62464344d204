"""Command line: options, number types, and one-line error messages."""

import argparse
import contextlib
import errno
import functools
import http.client
import math
import operator
import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist

from common import distributed, run
from datasets.files import ROOT, UserError, show


class Terminated(BaseException):
    """Raised when the process receives SIGTERM."""


class Parser(argparse.ArgumentParser):
    """A parser with one-line errors. --help prints the script's docstring; --batch-size means --batch_size."""

    class Formatter(argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action):
            no_default = action.default is False or action.default in (None, [], argparse.SUPPRESS)
            return action.help if no_default else f"{action.help} (default: %(default)s)"

    def __init__(self, doc, file):
        usage = f"python {Path(file).resolve().relative_to(ROOT).as_posix()} [options]"
        layout = functools.partial(self.Formatter, max_help_position=26, width=100)
        super().__init__(Path(file).name, usage, doc, formatter_class=layout, allow_abbrev=False)

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else args
        args, rest = super().parse_known_args([self.spelling(word) for word in words], namespace)
        if getattr(args, "weights", None) and not args.sample:
            self.error("--weights needs --sample N: it names the model to sample from")
        return args, rest

    def spelling(self, word):
        name, equals, value = word.partition("=")
        for option in self._option_string_actions if name.startswith("--") else ():
            if option.replace("-", "_") == name.replace("-", "_"):
                return option + equals + value
        return word

    def error(self, message):
        silence_all_but_first()
        message = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def number(kind, low=None, high=None, above=None, below=None):
    """An argparse type: an int or a finite float, at least `low`, at most `high`, above `above`, below `below`."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number") from None
        if kind is float and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"must be a finite number, not {text}")
        limits = [(low, operator.ge, "at least"), (high, operator.le, "at most")]
        for limit, holds, words in [*limits, (above, operator.gt, "above"), (below, operator.lt, "below")]:
            if limit is not None and not holds(value, limit):
                raise argparse.ArgumentTypeError(f"must be {words} {limit}, not {text}")
        return value

    return convert


def folder(text):
    """An argparse type: the path of a folder, which may begin with ~."""
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text}: there is no such user") from None


def add_with_defaults(add, defaults, name, text, **kind):
    """Add an option whose default depends on another one. `defaults`: {value of the other one: {option: default}}."""
    values = ", ".join(f"{choice} {options[name]}" for choice, options in defaults.items())
    add(f"--{name}", help=f"{text} (default: {values})", **kind)


def fill_in(args, defaults):
    """Set the options that the command line left out."""
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def sample_options(parser, what="images", most=400):
    """The options that draw samples from a trained model."""
    group = parser.add_argument_group("sampling without training")
    text = f"draw N {what} from a trained model into one picture and exit"
    group.add_argument("--sample", type=number(int, 1, most), metavar="N", help=text)
    text = "model file to sample from (default: the run's model.pt, otherwise the published weights)"
    group.add_argument("--weights", metavar="FILE", help=text)


def run_options(parser, data_names=()):
    """The options that all training scripts share. `data_names`: the datasets to choose from, if any."""
    parser.set_defaults(data_root=None)
    if data_names:
        group, choices = parser.add_argument_group("data"), ["auto", *data_names]
        text = f"dataset: {', '.join(choices)}; auto: the first one available"
        group.add_argument("--data", default="auto", choices=choices, metavar="NAME", help=text)
        text = "folder with the data files (or set A3_DATA)"
        group.add_argument("--data_root", type=folder, metavar="FOLDER", help=text)
    group = parser.add_argument_group("run")
    group.add_argument("--name", help="name of the run's folder (default: depends on the model)")
    group.add_argument("--seed", type=number(int, 0, 2**31), default=42, help="random seed")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="continue an unfinished run")
    either.add_argument("--fresh", action="store_true", help="delete the run of this name and start again")
    group.add_argument("--quick", action="store_true", help="a small run in runs/quick/ to check that everything works")


def how_to_resume():
    """The end of the message after an interruption."""
    if not run.current:  # a script that starts others, for example
        return "to continue, run the same command again."
    epoch = run.current.saved_epoch()
    if run.current.finished or epoch is None:
        return "nothing was saved yet."
    words = [word for word in sys.argv if word not in ("--resume", "--fresh")]
    command = shlex.join([*distributed.launcher(), *words, "--resume"])
    return f"epoch {epoch} is saved. Continue with: {command}"


def message_for(error):
    """(one-line message, exit status) of an exception that a user can cause; None for any other, which is a bug."""
    if isinstance(error, KeyboardInterrupt):
        return f"Interrupted: {how_to_resume()}", 130
    if isinstance(error, Terminated):
        return f"Terminated: {how_to_resume()}", 143
    if isinstance(error, FloatingPointError) and run.current:
        where, saved = f"epoch {run.current.history[-1]['epoch'] + 1}, {error}", show(run.current.checkpoint)
        problem = f"the loss became too large, infinite or NaN in {where}"
        advice = "start again with --fresh and a lower learning rate"
        return f"{problem}; the state before this epoch is in {saved}; {advice}", 1
    if distributed.processes > 1 and (isinstance(error, dist.DistError) or "gloo/" in str(error)):
        return f"another process of this run has ended: {how_to_resume()}", 1
    if isinstance(error, BrokenPipeError):  # for example after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "", 1
    if isinstance(error, http.client.HTTPException):
        return f"a download failed, the server's answer is malformed ({type(error).__name__}): try again later", 1
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return "the folder in A3_DATA or A3_CACHE begins with ~ and the name of an unknown user", 2
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        file = f"{show(error.filename)}: " if error.filename else ""
        advice = "free some disk space" if full else "fix this"
        return f"{file}{error.strerror or error}; {advice}; {how_to_resume()}", 1
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
        advice = "try a smaller model or batch size; " if run.current else ""
        return f"out of memory: {advice}{how_to_resume()}", 1
    if isinstance(error, UserError):
        return str(error), error.exit_status


def silence_all_but_first():
    """When the processes of one machine end with an error, the first one says why, and the others are silent."""
    if distributed.processes == 1:
        return
    sys.stderr = sys.__stderr__
    try:
        folder = Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parents[1]  # torchrun makes a new one in each start
        os.close(os.open(folder / "ended", os.O_CREAT | os.O_EXCL))
    except (OSError, LookupError) as error:  # not the first, or torchrun was told to keep no files
        if distributed.rank > 0 or isinstance(error, FileExistsError):
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115


ending = threading.Lock()  # taken by the first thread that ends this process


def exit_now(line, status):
    """Print one line and exit at once, without waiting for other threads."""
    ending.acquire()
    silence_all_but_first()
    if run.current:
        run.current.close_bar()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    if line:
        print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr, flush=True)
    os._exit(status)


def end_on_signals():
    """Handle signals in a thread: the main thread may be waiting inside torch for a process that has ended."""

    def wait():
        number = os.read(reader, 1)[0]
        exit_now(*message_for(KeyboardInterrupt() if number == signal.SIGINT else Terminated()))

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=wait, daemon=True).start()


def raise_at_signals(pause=5):
    """KeyboardInterrupt or Terminated at a signal. Others in the next `pause` seconds must not interrupt the message.

    Later signals raise again, because Python drops an exception that is raised inside `__del__`, for example."""
    last = -math.inf

    def end(number, _):
        nonlocal last
        if time.monotonic() - last > pause:
            last = time.monotonic()
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as after nohup in the background
        signal.signal(signal.SIGINT, end)


def start_processes(args, torchrun):
    """Under torchrun: connect this process to the others. False if it has nothing to do."""
    sample = getattr(args, "sample", None)  # something for the first process alone
    if torchrun and not sample:
        end_on_signals()
        distributed.start()
        return True
    if distributed.rank == 0 and not sample:
        raise UserError("this script runs in one process: start it with python, not with torchrun")
    return distributed.rank == 0


def start(main, parse_args, torchrun=False):
    """Run a script. Errors that a user can cause print one line and set the exit status.

    `torchrun`: whether several processes can share the training. The first one prints, the others are silent."""
    raise_at_signals()
    if distributed.rank > 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    args = parse_args()
    try:
        if distributed.processes == 1 or start_processes(args, torchrun):
            main(args)
        return distributed.end()
    except BaseException as error:
        explanation = message_for(error)
        if explanation is None or os.environ.get("A3_DEBUG"):
            silence_all_but_first()
            raise
    exit_now(*explanation)
