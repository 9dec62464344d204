"""Faults as a user's machine has them: killed processes, wrong words, files that are not what they say."""

import contextlib
import gzip
import importlib
import io
import json
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import files
from conftest import ROOT, is_one_line
from datasets import bmnist, mnist
from datasets.files import UserError
from test_run import DATA, FOLDER, SCRIPTS, options, whole_name

KILLS = 10
BEYOND = [f"beyond/{name}.py" for name in ("autoregressive", "flow_2d", "vae_family")]


@pytest.fixture(scope="module", params=SCRIPTS)
def whole(request, checkout):
    script = request.param
    checkout.run(script, *options(script, whole_name(script)))
    return script, checkout.folder / "runs" / FOLDER[script] / whole_name(script)


@pytest.mark.slow
def test_ten_kills_at_any_moment_change_no_digit(whole, checkout):
    """Every second one as soon as a checkpoint is being written, the others whenever the dice say."""
    script, folder = whole
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice, kills, attempt = random.Random(seed), 0, 0
    while kills < KILLS:
        mine = folder.parent / f"killed-often-{attempt}-{script.split('_')[1]}"
        child = checkout.start(script, *options(script, mine.name), "--resume")
        deadline = time.monotonic() + dice.uniform(1, 12)
        while child.poll() is None and time.monotonic() < deadline:
            if kills % 2 and list(mine.glob("checkpoint.pt.*.part")):
                break
        killed = child.poll() is None
        child.kill()
        _, err = child.communicate()
        kills += killed
        assert killed or child.returncode == 0, err
        if (mine / "results.json").exists() or kills == KILLS:
            checkout.run(script, *options(script, mine.name), "--resume")
            assert (mine / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()
            finals = [json.loads((f / "results.json").read_text())["final"] for f in (mine, folder)]
            assert finals[0] == finals[1]
            attempt += 1


@pytest.mark.slow
def test_two_hundred_epochs_hold_no_more_memory_than_twenty(checkout):
    """The resident memory after epoch 20 and after epoch 200 of a small VAE run, in MB."""
    program = (
        "import re, sys; sys.argv = ['x']; sys.path[:0] = ['code', '.']; import torch; torch.set_num_threads(1)\n"
        "import a3_vae_template as m; from common.run import Run\n"
        "args = m.parse_args(['--quick', '--data', 'glyphs-binary', '--name', 'long']); args.epochs = 200\n"
        "record = Run.record\n"
        "def watched(self, epoch, **metrics):\n"
        "    record(self, epoch, **metrics)\n"
        "    if epoch in (20, 200):\n"
        "        resident = re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())\n"
        "        print('resident', int(resident[1]) / 1e3)\n"
        "Run.record = watched\n"
        "m.main(args)\n"
    )
    call = [sys.executable, "-c", program]
    done = subprocess.run(call, cwd=checkout.folder, env=checkout.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    early, late = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("resident")]
    assert late - early < 20


def read_only(folder):
    """Words that start a command which cannot write into `folder`; None where this machine has no way to that."""
    if os.geteuid():
        folder.chmod(0o555)
        return []
    mount = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro none "$0" && exec "$@"', str(folder)]
    with contextlib.suppress(OSError):
        if subprocess.run([*mount, "true"], capture_output=True).returncode == 0:
            return mount
    return None


def test_a_read_only_run_folder_is_refused_in_one_line(checkout):
    folder = checkout.folder / "runs" / "quick" / "glyphs-binary" / "locked"
    folder.mkdir(parents=True)
    before = read_only(folder)
    if before is None:
        pytest.skip("root without the right to mount: nothing is read-only here")
    call = [*before, *checkout.command("a3_vae_template.py", *options("a3_vae_template.py", "locked"))]
    done = subprocess.run(call, cwd=checkout.folder, env=checkout.environment, capture_output=True, text=True)
    folder.chmod(0o755)
    assert done.returncode == 1
    assert is_one_line(done.stderr), done.stderr
    assert "locked" in done.stderr


# ---- what people type


PLAIN = "0|-1|1|2|0.5|1e-3|nan|inf|-inf|1e400|| |x|--|-|../x|é|mnist|bmnist|glyphs|auto|cpu|cuda|multiscale|conv1x1"
WORDS = st.one_of(
    st.sampled_from(PLAIN.split("|")),
    st.text(max_size=8),
    st.integers(-(10**20), 10**20).map(str),
    st.just("9" * 400),
    st.floats().map(str),
)


def option_names(module):
    help_text = io.StringIO()
    with contextlib.redirect_stdout(help_text), pytest.raises(SystemExit):
        module.parse_args(["--help"])
    return sorted({word.strip(",") for word in help_text.getvalue().split() if word.startswith("--")} - {"--help"})


@pytest.mark.parametrize("script", [*SCRIPTS, *BEYOND])
def test_any_words_give_settings_or_one_line_and_status_2(script):
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    names = option_names(module)
    assert "--seed" in names
    arguments = st.lists(st.one_of(st.sampled_from(names), WORDS, st.tuples(st.sampled_from(names), WORDS)), max_size=6)

    @settings(max_examples=150, deadline=None, database=None)
    @given(arguments)
    def check(pieces):
        words = [word for piece in pieces for word in (piece if isinstance(piece, tuple) else (piece,))]
        err, args, status = io.StringIO(), None, None
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            try:
                args = module.parse_args(words)
            except SystemExit as stop:
                status = stop.code
        if args is None:
            asked_for_the_manual = status == 0 and not err.getvalue()
            assert asked_for_the_manual or (status == 2 and len(err.getvalue().splitlines()) == 1)
            return
        assert args.seed >= 0
        assert (getattr(args, "epochs", None) or args.n_epochs) >= 1

    check()


# ---- what files hold


FRAGMENTS = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"0 1 " * 392 + b"\n", b"0 " * 784, b"1" * 784 + b"\n", b"\n", b"2 ", b"1.0 ", b"PK\x03\x04"]),
    st.sampled_from([2051, 2049, 28, 10**9]).map(lambda number: number.to_bytes(4, "big")),
)
CONTENTS = st.lists(FRAGMENTS, max_size=8).map(b"".join)
QUIET = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUIET
@given(content=CONTENTS, packed=st.booleans())
def test_any_text_file_is_read_or_refused_in_words(tmp_path, content, packed):
    path = tmp_path / ("x.amat.gz" if packed else "x.amat")
    path.write_bytes(gzip.compress(content) if packed and len(content) % 2 else content)
    with contextlib.suppress(UserError):
        images = bmnist.read_amat(path)
        assert images.shape[1:] == (784,)
        assert images.size == 0 or images.max() <= 1


@QUIET
@given(content=CONTENTS)
def test_an_archive_of_anything_is_refused_in_words(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(UserError):
        bmnist.read_npz(path)


KEYS = st.sampled_from([f"{split}_data" for split in bmnist.SIZES] + ["train", "labels"])
SHAPES, PIXELS = st.sampled_from([(3, 784), (784,), (2, 28, 28), (5, 7), ()]), st.sampled_from([0, 1, 2, 0.5])
ARRAYS = st.builds(np.full, SHAPES, PIXELS)


@QUIET
@given(arrays=st.dictionaries(KEYS, ARRAYS, max_size=5))
def test_any_arrays_are_read_or_refused_in_words(tmp_path, arrays):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    with contextlib.suppress(UserError):
        for split, name in zip(bmnist.read_npz(path), bmnist.SIZES, strict=True):
            assert (split == arrays[f"{name}_data"].reshape(-1, 784)).all()
            assert split.max() <= 1


@settings(QUIET, max_examples=8)
@given(content=CONTENTS)
def test_any_mnist_files_of_the_right_size_are_refused_in_words(tmp_path, content):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name in mnist.SHA256:
        count, header, item = mnist.layout(name)
        size = header + count * item
        (raw / name).write_bytes(content.ljust(size, b"\0")[:size])
    assert mnist.has_files(tmp_path, "mnist")
    with pytest.raises(UserError):
        mnist.read(tmp_path, "mnist")


# what a model file may hold where a size, a name or a weight is expected
NAMES = st.sampled_from(["template", "multiscale", "pixelcnn", "bernoulli", "uniform", "coupling"])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 40), st.floats(), st.text(max_size=5), NAMES)
    | st.just(torch.zeros(3, 2)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
SIZES = ["hidden_dim", "z_dim", "latent_dim", "n_flows", "n_hidden", "alpha", "arch", "mix", "dequantize",
         "model", "likelihood", "layers", "decoder", "posterior", "prior", "flows", "pixelcnn"]  # fmt: skip


@pytest.mark.parametrize("script", [*SCRIPTS, *BEYOND])
def test_any_made_up_model_file_is_refused_in_words(script, tmp_path):
    module, path = importlib.import_module(script.removesuffix(".py").replace("/", ".")), tmp_path / "model.pt"
    sizes = st.dictionaries(st.sampled_from(SIZES), VALUES, max_size=4)
    contents = st.fixed_dictionaries({"script": st.just(script), "sizes": sizes | VALUES, "state": VALUES})

    @settings(max_examples=30, deadline=None, database=None)
    @given(contents | VALUES)
    def check(content):
        files.save_state(path, content)
        with pytest.raises(UserError) as refused:
            module.load(path)
        assert is_one_line(str(refused.value))

    check()


def test_data_names_are_those_of_the_scripts():
    assert set(DATA) == {path.name for path in ROOT.glob("code/a3_*_template.py")}
