"""A copy of the checkout to run scripts in, with the glyph digits at hand and no way to the net or the real data."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
torch.set_num_threads(int(os.environ.get("A3_TEST_THREADS", 2)))


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


def heed_interrupts():
    """Tests that were started with nohup ignore Ctrl-C, and so would the scripts that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Checkout:
    """Runs scripts as a user would, in a folder whose name has a space and letters beyond ASCII."""

    def __init__(self, folder, cache):
        self.folder = folder
        for part in ("code", "datasets"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        ours = ["__main__", *(path.stem for path in ROOT.glob("code/*.py"))]
        ours += [f"beyond.{path.stem}" for path in ROOT.glob("code/beyond/*.py")]
        self.environment = {
            **os.environ, "A3_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": ",".join(f"error:::{module}" for module in ours),
        }  # fmt: skip
        self.environment.pop("A3_DATA", None)

    def command(self, script, *options):
        return [sys.executable, str(self.folder / "code" / script), *map(str, options)]

    def start(self, script, *options, **how):
        return subprocess.Popen(
            self.command(script, *options), env=self.environment, cwd=how.pop("cwd", self.folder), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts, **how,
        )  # fmt: skip

    def run(self, script, *options, **how):
        child = self.start(script, *options, **how)
        out, err = child.communicate(timeout=300)
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

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


@pytest.fixture(scope="session")
def only_glyphs(tmp_path_factory, glyph_cache):
    """A data cache in which there is nothing but the glyphs, whatever this machine has."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "glyphs.cache").symlink_to((glyph_cache / "glyphs.cache").resolve())
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, only_glyphs):
    return Checkout(tmp_path_factory.mktemp("a checkoüt"), only_glyphs)


def is_one_line(text):
    return len(text.strip().splitlines()) == 1 and "Traceback" not in text
