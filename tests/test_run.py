"""The run folder: kill and resume, refusals in one line, files that do not lie, signals, devices."""

import hashlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, is_one_line

import experiment
from datasets.download import DataError

DATA = {"a3_vae_template.py": "glyphs-binary", "a3_gan_template.py": "glyphs", "a3_nf_template.py": "glyphs"}
SCRIPTS = list(DATA)
FOLDER = {script: f"quick/{data}" for script, data in DATA.items()}


# the template's own widths: a third of the time, and all the same code
SMALLER = {"a3_gan_template.py": ["--width", "1", "--d_width", "1"], "a3_nf_template.py": ["--hidden", "128"]}


def options(script, name):
    return ["--quick", "--data", DATA[script], "--name", name, *SMALLER.get(script, [])]


def whole_name(script):
    return f"whole-{script.split('_')[1]}"


@pytest.fixture(scope="module", params=SCRIPTS)
def whole(request, checkout):
    """A run that nothing disturbed: (script, its folder)."""
    script = request.param
    done = checkout.run(script, *options(script, whole_name(script)), "--extra", cwd="/")
    assert done.returncode == 0, done.stderr
    return script, checkout.folder / "runs" / FOLDER[script] / whole_name(script), done


@pytest.fixture(scope="module")
def vae(checkout):
    """The same of one script, for what is the same in all."""
    script = "a3_vae_template.py"
    folder = checkout.folder / "runs" / FOLDER[script] / whole_name(script)
    if not (folder / "results.json").exists():
        assert checkout.run(script, *options(script, whole_name(script))).returncode == 0
    return script, folder


def test_a_quick_run_writes_what_it_promises(whole):
    script, folder, done = whole
    results = json.loads((folder / "results.json").read_text())
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert len(rows) == results["epochs"] + 2  # the heading, and epoch 0 besides the others
    assert results["data"] == DATA[script]
    assert results["quick"] is True
    assert results["seconds"] > 0
    assert results["parameters"] > 1000
    assert all(len(curve) == results["epochs"] + 1 for curve in results["curves"].values())
    assert results["final"]
    figures = sorted(path.name for path in (folder / "figures").iterdir())
    assert any(name.endswith(".pdf") for name in figures)
    assert any(name.endswith(".png") for name in figures)
    assert any(name.endswith(".gif") for name in figures)
    assert not list(folder.glob("*.part"))
    assert "Device: " in done.stdout
    assert str(folder.name) in done.stdout
    assert "\r" not in done.stdout + done.stderr  # no control characters where no terminal is
    assert "\x1b" not in done.stdout + done.stderr


def test_samples_are_drawn_from_a_saved_generator_without_training(whole, checkout):
    script, folder, _ = whole
    if script != "a3_gan_template.py":
        pytest.skip("the GAN's file")
    done = checkout.run(script, "--sample", "9", "--generator", folder / "generator.pt")
    assert done.returncode == 0, done.stderr
    assert (folder / "samples-9.png").stat().st_size > 500
    wrong = checkout.run(script, "--sample", "9", "--generator", folder / "checkpoint.pt")
    assert wrong.returncode == 2
    assert is_one_line(wrong.stderr)


def test_the_multiscale_flow_killed_resumed_and_sampled(checkout):
    script, name = "a3_nf_template.py", "multiscale"
    words = [*options(script, name), "--epochs", "2", "--hidden", "16", "--extra"]
    folder = checkout.folder / "runs" / FOLDER[script] / name
    child = checkout.start_until(script, *words, "--arch", "multiscale", rows=1, folder=f"{FOLDER[script]}/{name}")
    child.kill()
    child.communicate()
    refused = checkout.run(script, *words, "--resume")
    assert refused.returncode == 2
    assert is_one_line(refused.stderr)
    assert "was made with arch = multiscale, not template" in refused.stderr
    done = checkout.run(script, *words, "--arch", "multiscale", "--resume")
    assert done.returncode == 0, done.stderr
    curves = json.loads((folder / "results.json").read_text())["curves"]
    assert curves["epoch"] == [0, 1, 2]
    assert curves["val_bpd"][2] < curves["val_bpd"][1] < curves["val_bpd"][0]
    for figure in ("bpd.pdf", "samples.png", "interpolation.png", "masks.png", "levels.png", "temperatures.png"):
        assert (folder / "figures" / figure).stat().st_size > 1000
    assert checkout.run(script, "--sample", "9", "--flow", folder / "flow.pt").returncode == 0
    assert (folder / "samples-9.png").stat().st_size > 500


def test_a_finished_run_is_left_alone_and_fresh_makes_it_again(vae, checkout):
    script, folder = vae
    before = (folder / "results.json").read_bytes(), (folder / "metrics.csv").read_bytes()
    done = checkout.run(script, *options(script, whole_name(script)))
    assert done.returncode == 0
    assert "finished" in done.stdout
    assert ((folder / "results.json").read_bytes(), (folder / "metrics.csv").read_bytes()) == before
    done = checkout.run(script, *options(script, whole_name(script)), "--fresh")
    assert done.returncode == 0, done.stderr
    assert (folder / "metrics.csv").read_bytes() == before[1]  # same seed, same machine: same numbers


def test_killed_anywhere_and_resumed_it_ends_with_the_same_numbers(whole, checkout):
    script, folder, _ = whole
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for trial, row in enumerate((1, 3)):
        name = f"killed-{trial}-{script.split('_')[1]}"
        child = checkout.start_until(script, *options(script, name), rows=row, folder=f"{FOLDER[script]}/{name}")
        time.sleep(dice.random() * 0.4)
        child.kill()
        child.communicate()
        mine = folder.parent / name
        if trial == 0:
            refused = checkout.run(script, *options(script, name))
            assert refused.returncode == 2
            assert is_one_line(refused.stderr)
            assert "--resume" in refused.stderr
        done = checkout.run(script, *options(script, name), "--resume")
        assert done.returncode == 0, done.stderr
        assert (mine / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()
        finals = [json.loads((f / "results.json").read_text())["final"] for f in (mine, folder)]
        assert finals[0] == finals[1]


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_quickly_and_say_how_to_go_on(sign, status, vae, checkout):
    script, _ = vae
    name = f"signal-{status}"
    child = checkout.start_until(script, *options(script, name), rows=2, folder=f"{FOLDER[script]}/{name}")
    start = time.monotonic()
    child.send_signal(sign)
    _, err = child.communicate(timeout=20)
    assert time.monotonic() - start < 3
    assert child.returncode == status
    assert is_one_line(err)
    assert "--resume" in err
    assert "is saved" in err


def test_other_settings_than_the_checkpoints_are_refused(vae, checkout):
    script, folder = vae
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    done = checkout.run(script, *options(script, whole_name(script)), "--resume", "--lr", "0.002")
    assert done.returncode == 2
    assert is_one_line(done.stderr)
    assert "lr = " in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_damaged_checkpoint_is_refused_and_kept(vae, checkout):
    script, folder = vae
    name = "damaged"
    child = checkout.start_until(script, *options(script, name), rows=2, folder=f"{FOLDER[script]}/{name}")
    child.kill()
    child.communicate()
    path = folder.parent / name / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    done = checkout.run(script, *options(script, name), "--resume")
    assert done.returncode == 2
    assert is_one_line(done.stderr)
    assert "checkpoint.pt is damaged" in done.stderr
    assert path.read_bytes() == content


def test_two_runs_of_one_name_do_not_mix(vae, checkout):
    script, _ = vae
    child = checkout.start_until(script, *options(script, "twice"), rows=1, folder=f"{FOLDER[script]}/twice")
    second = checkout.run(script, *options(script, "twice"))
    child.kill()
    child.communicate()
    assert second.returncode == 2
    assert is_one_line(second.stderr)
    assert "in use" in second.stderr


WRONG = {
    "vae": [
        "--epochs -1", "--epochs x", "--zdim 0", "--beta -1", "--lr 0", "--lr nan", "--data cifar", "--device abacus",
        "--name ../up", "--seed -5", "--no-such-option", "--batch_size 0", "--data-root /no/such/folder",
    ],
    "gan": ["--latent_dim 0", "--batch_size 1", "--save_interval 0", "--sample 401", "--sample 4 --generator /none"],
    "nf": ["--alpha 0.5", "--alpha 0", "--flows 0", "--sample 4", "--arch glow", "--sample 4 --flow /none"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("script", "wrong"),
    [(f"a3_{model}_template.py", wrong) for model, wrongs in WRONG.items() for wrong in wrongs],
    ids=str,
)
def test_wrong_input_gives_one_line_and_status_2(script, wrong, tmp_path, only_glyphs, monkeypatch, capsys):
    """The parser exits; what main finds it raises, and `start` makes a line and a status of that (next test)."""
    monkeypatch.setenv("A3_CACHE", str(only_glyphs))
    monkeypatch.delenv("A3_DATA", raising=False)
    monkeypatch.setattr(experiment, "ROOT", tmp_path)
    module = importlib.import_module(script.removesuffix(".py"))

    def start():
        monkeypatch.setattr(module, "ARGS", module.parse_args([*options(script, "wrong"), *wrong.split()]), False)
        module.main()

    with pytest.raises((SystemExit, experiment.UserError, DataError)) as stop:
        start()
    exited = stop.type is SystemExit
    assert (stop.value.code if exited else stop.value.exit_status) == 2
    said = capsys.readouterr().err if exited else str(stop.value)
    assert is_one_line(said), said
    assert not list(tmp_path.rglob("checkpoint.pt"))


@pytest.mark.parametrize(
    ("script", "wrong"),
    list(zip(SCRIPTS, ["--device abacus", "--sample 0", "--sample 4"], strict=True)),
)
def test_the_process_says_it_in_one_line_and_ends_with_status_2(script, wrong, checkout):
    done = checkout.run(script, *options(script, "wrong"), *wrong.split())
    assert done.returncode == 2
    assert is_one_line(done.stderr), done.stderr
    assert done.stderr.startswith(f"{script}: ")


@pytest.mark.parametrize("script", ["a3_vae_template.py", "standard_runs.py"])
def test_help_is_a_manual(script, checkout):
    done = checkout.run(script, "--help")
    assert done.returncode == 0
    look_at_manual(done.stdout)


@pytest.mark.parametrize("name", ["a3_gan_template", "a3_nf_template", "evaluate", "bench", "seeds"])
def test_help_of_the_others(name, capsys):
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(name).parse_args(["--help"])
    assert stop.value.code == 0
    look_at_manual(capsys.readouterr().out)


def look_at_manual(text):
    assert "python code/" in text
    assert "\noptions:" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_full_disk_stops_in_one_line_and_keeps_the_last_checkpoint(vae, checkout):
    script, folder = vae
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
        "script = sys.argv[1]; sys.argv = sys.argv[1:]; sys.path.insert(0, script.rsplit('/', 1)[0]); "
        "runpy.run_path(script, run_name='__main__')"
    )
    command = [sys.executable, "-c", limited, *checkout.command(script, *options(script, "full"))[1:]]
    done = subprocess.run(command, env=checkout.environment, cwd=checkout.folder, capture_output=True, text=True)
    assert done.returncode == 1
    assert is_one_line(done.stderr), done.stderr
    assert "make room" in done.stderr
    assert not (folder.parent / "full" / "checkpoint.pt").exists()  # the first was too large: no half of it either


# ---- the parts


def state():
    return {"model": {"weight": torch.arange(1000.0)}, "history": [{"epoch": 3}], "epoch_seconds": [1.0]}


def test_a_checkpoint_with_any_byte_flipped_or_cut_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    experiment.save_checked(path, state())
    good = path.read_bytes()
    assert torch.equal(experiment.load_checked(path)["model"]["weight"], torch.arange(1000.0))
    rng = np.random.default_rng(2)
    damaged = [good[:offset] for offset in rng.integers(0, len(good), 100)]
    for place in rng.integers(0, len(good), 100):
        flipped = bytearray(good)
        flipped[place] ^= 1 << rng.integers(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(experiment.UserError, match=r"checkpoint\.pt is (damaged|not a checkpoint)"):
            experiment.load_checked(path)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    content = (tmp_path / "evil.pt").read_bytes()
    (tmp_path / "evil.pt").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(experiment.UserError, match="not a checkpoint"):
        experiment.load_checked(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_is_also_readable_by_torch_alone(tmp_path):
    experiment.save_checked(tmp_path / "checkpoint.pt", state())
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["history"] == [{"epoch": 3}]


def test_weights_of_another_size_are_refused_in_words(tmp_path):
    with pytest.raises(experiment.UserError, match="belongs to another model"):
        experiment.fill(torch.nn.Linear(3, 3), {"weight": torch.zeros(2, 2)}, tmp_path / "x.pt")


def test_device_is_chosen_with_a_reason():
    device, why = experiment.choose_device("cpu")
    assert device.type == "cpu"
    assert why == "as asked"
    assert experiment.choose_device("auto")[1]


def test_number_limits():
    convert = experiment.number(float, low=0, below=0.5)
    assert convert("0.25") == 0.25
    for wrong in ("-1", "0.5", "nan", "text"):
        with pytest.raises(experiment.argparse.ArgumentTypeError):
            convert(wrong)


def test_published_and_tracked_files_are_small():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        assert not (ROOT / name).exists() or (ROOT / name).stat().st_size < 2_000_000, name
