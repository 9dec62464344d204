"""A copy of the checkout to run scripts in, with the glyph digits at hand and no way to the net or the real data."""

import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
# Most tests compare exact numbers, which a GPU does not repeat: only test_cuda.py lets its scripts see one.
VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
SMALL = [5000, 2000, 2000]  # glyph digits in a checkout: reading all of them takes longer than training on a few
SLOWEST = [f"test_{name}" for name in ("run", "evaluate", "analyses", "page", "training", "faults", "vae_family")]
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

# Starting Python and importing torch takes seconds. The standard library's fork server does it once for each test
# process; every script that a test starts is a process of its own all the same, with real signals and exit codes.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([
    "torch", "torch.utils.flop_counter", "torchvision", "numpy", "scipy.linalg", "scipy.stats", "scipy.ndimage", "tqdm",
    "matplotlib.pyplot", "matplotlib.backends.backend_agg", "PIL.Image", "filelock",
    "torch._dynamo", "torch.distributed.run",  # imported by the first optimiser, and torchrun
])  # fmt: skip


def run_script(command, cwd, environment, out, err):
    """In a new process: what `python SCRIPT WORDS` does."""
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.fsync = lambda descriptor: None
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by tests that were started with nohup
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    warnings.resetwarnings()
    warnings.filterwarnings("error", module=r"__main__|a3_|common|datasets|nets|study|beyond")
    sys.argv, script = command, command[0]
    sys.path[:] = [str(Path(script).parent), *(path for path in sys.path if not path.startswith(str(ROOT / "tests")))]
    sys.path[:] = [path for path in sys.path if path not in (str(ROOT), str(ROOT / "code"))]
    runpy.run_path(script, run_name="__main__")


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that no process is idle at the end."""
    items.sort(key=lambda item: [*SLOWEST, item.path.stem].index(item.path.stem))


@pytest.fixture(scope="session", autouse=True)
def no_fsync():
    """It takes milliseconds for each file and only matters when the power fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


class Child:
    """A running script, with the methods of subprocess.Popen that the tests use."""

    def __init__(self, folder, command, cwd, environment):
        self.files = [folder / f"{stream}-{time.monotonic_ns()}.txt" for stream in ("out", "err")]
        self.process = SERVER.Process(target=run_script, args=(command, str(cwd), environment, *map(str, self.files)))
        self.process.start()

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def kill(self):
        self.process.kill()

    def send_signal(self, sign):
        os.kill(self.process.pid, sign)

    def communicate(self, timeout=300):
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"the script took longer than {timeout} s")
        return [path.read_text() if path.exists() else "" for path in self.files]


class Checkout:
    """Runs scripts as a user would, in a folder whose name has a space and letters beyond ASCII."""

    def __init__(self, folder, cache):
        self.folder = folder
        self.outputs = folder / "outputs of tests"
        self.outputs.mkdir()
        for part in ("code", "datasets"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        glyphs = folder / "datasets" / "glyphs.py"
        before, after = glyphs.read_text().split("SIZES = [50000, 10000, 10000]")
        glyphs.write_text(f"{before}SIZES = {SMALL}{after}")
        self.environment = {
            **os.environ, "A3_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": "1", "https_proxy": "http://127.0.0.1:1",
        }  # fmt: skip
        self.environment.pop("A3_DATA", None)

    def command(self, script, *options):
        """For a test that needs `python` itself."""
        return [sys.executable, str(self.folder / "code" / script), *map(str, options)]

    def start(self, script, *options, cwd=None):
        return Child(self.outputs, self.command(script, *options)[1:], cwd or self.folder, self.environment)

    def run(self, script, *options, cwd=None, status=0):
        """The finished process. It must end with that status; wrong words and files (2) give one line."""
        child = self.start(script, *options, cwd=cwd)
        out, err = child.communicate()
        assert child.returncode == status, err
        assert status != 2 or is_one_line(err), err
        return subprocess.CompletedProcess(options, child.returncode, out, err)

    def start_until(self, script, *options, rows, folder):
        """A running script that has written at least `rows` rows of metrics."""
        child = self.start(script, *options)
        table = self.folder / "runs" / folder / "metrics.csv"
        deadline = time.monotonic() + 120
        while child.poll() is None and time.monotonic() < deadline:
            if table.exists() and len(table.read_text().splitlines()) > rows:
                return child
            time.sleep(0.01)
        out, err = child.communicate()
        raise AssertionError(f"the script ended before epoch {rows}: {out}{err}")

    def kill_after(self, script, *options, rows, folder):
        """Kill a script that has written `rows` rows of metrics, and make sure that it was alive until then."""
        child = self.start_until(script, *options, rows=rows, folder=folder)
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        assert not (self.folder / "runs" / folder / "results.json").exists()


def run_program(folder, program, *words, cwd=ROOT, environment=os.environ):
    """The finished process of a program that is given as text; its file and its output are written to `folder`."""
    (folder / "program.py").write_text(program)
    child = Child(folder, [str(folder / "program.py"), *map(str, words)], cwd, dict(environment))
    out, err = child.communicate()
    return subprocess.CompletedProcess(words, child.returncode, out, err)


@pytest.fixture(scope="session")
def glyph_cache():
    """The folder with the drawn digits: the checkout's own, filled once."""
    from datasets import glyphs
    from datasets.download import cache_folder

    glyphs.load()
    return cache_folder()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("A3_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("A3_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def only_glyphs(tmp_path_factory, glyph_cache):
    """A data cache with nothing but the first glyphs of each split, whatever this machine has."""
    from datasets import download, glyphs

    splits, labels, _ = glyphs.load()
    folder = tmp_path_factory.mktemp("cache")
    few = lambda parts: torch.cat([part[:n] for part, n in zip(parts, SMALL)]).to(torch.uint8).numpy()
    assert download.write_cache(folder / "glyphs.cache", images=few(splits), labels=few(labels)) is None
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, only_glyphs):
    return Checkout(tmp_path_factory.mktemp("a checkoüt"), only_glyphs)


def refusal(module, words, capsys):
    """What a script's main says about wrong words or files: one line, with status 2. The parser exits; what main finds
    it raises, and cli.start makes a line and a status of that."""
    from datasets.files import UserError

    with pytest.raises((SystemExit, UserError)) as stop:
        module.main(module.parse_args([*map(str, words)]))
    exited = stop.type is SystemExit
    assert (stop.value.code if exited else stop.value.exit_status) == 2
    said = capsys.readouterr().err if exited else str(stop.value)
    assert is_one_line(said), said
    assert "None" not in said
    return said


def is_one_line(text):
    return len(text.strip().splitlines()) == 1 and "Traceback" not in text
