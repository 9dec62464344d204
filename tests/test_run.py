"""The run folder: kill and resume, refusals in one line, files that can be trusted, signals, devices."""

import argparse
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from common import cli, digest, files, models, run
from common.devices import choose_device
from common.digest import code_digest, compared, files_of, plain
from conftest import ROOT, SMALL, is_one_line, refusal, run_program
from datasets import glyphs
from datasets.files import UserError, show

DATA = {"a3_vae_template.py": "glyphs-binary", "a3_gan_template.py": "glyphs", "a3_nf_template.py": "glyphs"}
SCRIPTS = list(DATA)
FOLDER = {script: f"quick/{data}" for script, data in DATA.items()}
# small nets: a third of the time, and all the same code
SMALLER = {
    "a3_vae_template.py": ["--hidden", "100", "--epochs", "3", "--eval_samples", "10"],
    "a3_gan_template.py": ["--n_epochs", "3"],
    "a3_nf_template.py": ["--hidden", "64", "--epochs", "3"],
}


def options(script, name):
    return ["--quick", "--data", DATA[script], "--name", name, *SMALLER[script]]


def whole_name(script):
    return f"whole-{script.split('_')[1]}"


@pytest.fixture(scope="module", params=SCRIPTS)
def whole(request, checkout):
    """A run that nothing disturbed, started in another folder: (script, its folder)."""
    script = request.param
    done = checkout.run(script, *options(script, whole_name(script)), cwd="/")
    return script, checkout.folder / "runs" / FOLDER[script] / whole_name(script), done


@pytest.fixture(scope="module")
def vae(checkout):
    """The same of one script, for what is the same in all."""
    script = "a3_vae_template.py"
    folder = checkout.folder / "runs" / FOLDER[script] / whole_name(script)
    if not (folder / "results.json").exists():
        checkout.run(script, *options(script, whole_name(script)))
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
    assert not list(folder.glob("*.part"))
    assert "Device: " in done.stdout
    assert f"Files:  runs/{FOLDER[script]}/{folder.name}/" in done.stdout  # relative to the checkout
    assert "\r" not in done.stdout + done.stderr  # no control characters where no terminal is
    assert "\x1b" not in done.stdout + done.stderr


def test_a_run_records_the_digest_of_its_code(whole, checkout, monkeypatch):
    script, folder, _ = whole
    monkeypatch.setattr(digest, "ROOT", checkout.folder)
    monkeypatch.setattr(digest, "CODE", checkout.folder / "code")
    assert json.loads((folder / "results.json").read_text())["code"] == code_digest(script)


def test_samples_are_drawn_from_the_model_file_without_training(whole, checkout, monkeypatch, capsys):
    script, folder, _ = whole
    done = checkout.run(script, "--quick", "--name", folder.name, "--sample", "9")
    assert f"runs/{FOLDER[script]}/{folder.name}/samples-9.png" in done.stdout
    assert (folder / "samples-9.png").stat().st_size > 500
    monkeypatch.setattr(files, "ROOT", checkout.folder)
    module, drawn = importlib.import_module(script.removesuffix(".py")), (folder / "samples-9.png").read_bytes()
    module.main(module.parse_args(["--quick", "--name", folder.name, "--sample", "9"]))
    assert (folder / "samples-9.png").read_bytes() == drawn  # the same seed, the same samples
    assert "not a model of" in refusal(module, ["--sample", "9", "--weights", folder / "checkpoint.pt"], capsys)
    other = DATA[script].replace("glyphs", "kmnist").replace("-binary", "-binarised")
    words = ["--quick", "--name", folder.name, "--sample", "9", "--data", other]
    assert "no trained model" in refusal(module, words, capsys)


def test_published_weights_are_used_where_there_is_no_run(vae, checkout):
    _, folder = vae
    published = checkout.folder / "report" / "models"
    published.mkdir(parents=True, exist_ok=True)
    (published / "vae-z20.pt").write_bytes((folder / "model.pt").read_bytes())
    done = checkout.run("a3_vae_template.py", "--sample", "4")
    other = checkout.run("a3_vae_template.py", "--sample", "4", "--data", "glyphs-binary", status=2)
    named = checkout.run("a3_vae_template.py", "--sample", "4", "--weights", "report/models/vae-z20.pt")
    (published / "vae-z20.pt").unlink()
    assert "the published weights report/models/vae-z20.pt are used" in done.stdout
    assert (checkout.folder / "runs" / "vae-z20-samples-4.png").exists()
    assert "no trained model vae-z20" in other.stderr  # published weights are those of MNIST
    assert "published weights" not in named.stdout


def test_weights_without_sample_are_refused(capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("a3_vae_template").parse_args(["--weights", "model.pt"])
    assert "--weights needs --sample N" in capsys.readouterr().err


def test_a_finished_run_is_left_alone_and_fresh_makes_it_again(vae, checkout):
    script, folder = vae
    (folder / "settings.json").write_text((folder / "settings.json").read_text() + "\n")  # not written again, either
    files = [folder / "results.json", folder / "metrics.csv", folder / "settings.json"]
    before = [path.read_bytes() for path in files]
    checkpoint = (folder / "checkpoint.pt").read_bytes()
    (folder / "checkpoint.pt").unlink()  # a finished run does not need it: it is not trained again
    done = checkout.run(script, *options(script, whole_name(script)), "--resume")
    assert "finished" in done.stdout
    assert [path.read_bytes() for path in files] == before
    (folder / "checkpoint.pt").write_bytes(checkpoint)
    left = [folder / "analyses.json", folder / "figures" / "old.png", folder / "samples-4.png"]
    for path in left:
        path.write_text("of the old run")
    done = checkout.run(script, *options(script, whole_name(script)), "--fresh")
    assert (folder / "metrics.csv").read_bytes() == before[1]  # same seed, same machine: same numbers
    assert not any(path.exists() for path in left)


def test_killed_anywhere_and_resumed_it_ends_with_the_same_numbers(whole, checkout):
    script, folder, _ = whole
    name = f"killed-{script.split('_')[1]}"
    checkout.kill_after(script, *options(script, name), rows=2, folder=f"{FOLDER[script]}/{name}")
    mine = folder.parent / name
    refused = checkout.run(script, *options(script, name), status=2)
    assert "--resume" in refused.stderr
    checkout.run(script, *options(script, name), "--resume")
    assert (mine / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()
    finals = [json.loads((f / "results.json").read_text())["final"] for f in (mine, folder)]
    assert finals[0] == finals[1]


@pytest.mark.parametrize(("sign", "status", "more"), [(signal.SIGINT, 130, []), (signal.SIGTERM, 143, ["--fresh"])])
def test_signals_end_quickly_and_say_how_to_resume(sign, status, more, vae, checkout):
    script, _ = vae
    name = f"signal-{status}"
    child = checkout.start_until(script, *options(script, name), *more, rows=2, folder=f"{FOLDER[script]}/{name}")
    start = time.monotonic()
    child.send_signal(sign)
    _, err = child.communicate(timeout=20)
    assert time.monotonic() - start < 3
    assert child.returncode == status
    assert is_one_line(err)
    assert "--resume" in err
    assert "is saved" in err
    assert "--fresh" not in err  # it would delete what is saved


def test_later_signals_do_not_interrupt_the_message(tmp_path):
    """train.py sends SIGTERM after Ctrl-C, which its script has received, too."""
    program = """
import os, signal
from common import cli

def interrupted(error, message_for=cli.message_for):
    os.kill(os.getpid(), signal.SIGTERM)
    return message_for(error)

def main(args):
    both = signal.SIGINT, signal.SIGTERM
    signal.pthread_sigmask(signal.SIG_BLOCK, both)
    for number in both:
        os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, both)  # both arrive at once

cli.message_for = interrupted
cli.start(main, lambda: None)
"""
    done = run_program(tmp_path, f"import sys\nsys.path[:0] = {[str(ROOT / 'code'), str(ROOT)]}\n{program}")
    assert done.returncode == 130, done.stderr
    assert is_one_line(done.stderr)


def test_a_signal_still_ends_the_process_if_the_first_one_was_lost(tmp_path):
    program = """
import functools, os, signal, time
from common import cli

class Careless:
    def __del__(self):  # Python drops exceptions that are raised here
        os.kill(os.getpid(), signal.SIGINT)

def main(args):
    Careless()
    time.sleep(0.3)
    print("still running", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)

cli.raise_at_signals = functools.partial(cli.raise_at_signals, pause=0.2)
cli.start(main, lambda: None)
"""
    done = run_program(tmp_path, f"import sys\nsys.path[:0] = {[str(ROOT / 'code'), str(ROOT)]}\n{program}")
    assert done.stdout == "still running\n"
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1].endswith("run the same command again.")


def test_a_finished_run_is_evaluated_again_with_other_importance_samples(vae, checkout):
    """Only with --resume. It is not trained again, and everything but the estimate of log p(x) stays the same."""
    script, folder = vae
    before = json.loads((folder / "results.json").read_text())
    copy = folder.with_name("evaluated-again")
    shutil.copytree(folder, copy)
    options_of = ["--quick", "--data", DATA[script], "--name", copy.name, *SMALLER[script][:-1]]
    with pytest.raises(
        AssertionError, match="was made with eval_samples = 10, not 30: add --resume to evaluate it again"
    ):
        checkout.run(script, *options_of, "30")
    assert json.loads((copy / "results.json").read_text()) == before
    checkpoint = files.load_state(copy / "checkpoint.pt")
    (machine,) = checkpoint["machines"]
    made_by = {"machines": [machine | {"threads": 99}], "commit": "that of the training"}
    files.save_state(copy / "checkpoint.pt", checkpoint | made_by)
    checkout.run(script, *options_of, "30", "--resume")
    after = json.loads((copy / "results.json").read_text())
    assert after["settings"] == json.loads((copy / "settings.json").read_text())["settings"]
    assert after["settings"] == before["settings"] | {"eval_samples": 30}
    assert (after["seconds"], after["curves"]) == (before["seconds"], before["curves"])
    assert (copy / "model.pt").read_bytes() == (folder / "model.pt").read_bytes()
    assert after["final"]["val_elbo"] == before["final"]["val_elbo"]
    assert after["final"]["test_log_likelihood"] > before["final"]["test_log_likelihood"]
    assert (after["threads"], after["commit"]) == (99, "that of the training")
    assert "machines" not in after
    checkout.run(script, *options_of, "30")  # finished again
    (copy / "results.json").unlink()  # as if the evaluation had been interrupted
    checkout.run(script, *options_of, "10", "--resume")
    assert json.loads((copy / "results.json").read_text())["final"] == before["final"]
    checkout.run(script, *options_of, "30", "--resume")
    with pytest.raises(AssertionError, match="was made with epochs = 3, not 2"):
        checkout.run(script, *options_of, "30", "--resume", "--epochs", "2")


def test_two_runs_of_one_name_do_not_mix(vae, checkout):
    script, _ = vae
    child = checkout.start_until(script, *options(script, "twice"), rows=1, folder=f"{FOLDER[script]}/twice")
    second = checkout.run(script, *options(script, "twice"), status=2)
    assert child.poll() is None
    child.kill()
    child.communicate()
    assert "in use" in second.stderr


def test_a_traceback_is_shown_on_request(checkout):
    checkout.environment["A3_DEBUG"] = "1"
    done = checkout.run("a3_vae_template.py", "--device", "abacus", "--data", "glyphs-binary", status=1)
    del checkout.environment["A3_DEBUG"]
    assert "Traceback" in done.stderr
    assert "no such device" in done.stderr


WRONG = {
    "vae": [
        "--epochs -1", "--epochs x", "--zdim 0", "--lr 0", "--lr nan", "--lr inf", "--data cifar",
        "--device abacus", "--name ../up", "--seed -5", "--no-such-option", "--batch_size 0",
        "--data-root /no/such/folder", "--data-root ~nobody-of-this-name", "--sample 4", "--resume --fresh",
    ],
    "gan": ["--latent_dim 0", "--batch_size 1", "--save_interval 0", "--sample 401", "--sample 4 --weights /none"],
    "nf": ["--alpha 0.5", "--alpha 0", "--flows 0", "--sample 4", "--arch glow", "--sample 4 --weights /none"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("script", "wrong"),
    [(f"a3_{model}_template.py", wrong) for model, wrongs in WRONG.items() for wrong in wrongs],
    ids=str,
)
def test_wrong_input_gives_one_line_and_status_2(script, wrong, tmp_path, only_glyphs, monkeypatch, capsys):
    monkeypatch.setenv("A3_CACHE", str(only_glyphs))
    monkeypatch.delenv("A3_DATA", raising=False)
    monkeypatch.setattr(glyphs, "SIZES", SMALL)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(models, "PUBLISHED", tmp_path)
    module = importlib.import_module(script.removesuffix(".py"))
    refusal(module, [*options(script, "wrong"), *wrong.split()], capsys)
    assert not list(tmp_path.rglob("checkpoint.pt"))


@pytest.mark.parametrize(
    ("script", "wrong"), list(zip(SCRIPTS, ["--device abacus", "--sample 0", "--sample 4"], strict=True))
)
def test_the_process_says_it_in_one_line_and_ends_with_status_2(script, wrong, checkout):
    done = checkout.run(script, *options(script, "wrong"), *wrong.split(), status=2)
    assert done.stderr.startswith(f"{script}: ")


STUDY = [f"study.{path.stem}" for path in sorted(ROOT.glob("code/study/*.py")) if "def parse" in path.read_text()]
BEYOND = [f"beyond.{name}" for name in ("autoregressive", "vae_family", "flow_2d")]


@pytest.mark.parametrize("name", [*(script.removesuffix(".py") for script in SCRIPTS), *BEYOND, *STUDY])
def test_help_is_a_manual(name, capsys):
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(name).parse_args(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python code/{name.replace('.', '/')}.py")
    assert "\noptions:" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_help_shows_defaults_of_0_and_no_empty_ones(capsys):
    parser = cli.Parser("", ROOT / "code" / "x.py")
    for option, default in (("--zero", 0), ("--none", None), ("--off", False), ("--empty", [])):
        parser.add_argument(option, default=default, help=f"about{option}")
    parser.print_help()
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if "about" in line}
    assert lines["--zero"].endswith("about--zero (default: 0)")
    assert all(lines[name].endswith(f"about{name}") for name in ("--none", "--off", "--empty"))


@pytest.mark.parametrize("name", [*(script.removesuffix(".py") for script in SCRIPTS), *BEYOND])
def test_options_are_accepted_with_either_spelling(name):
    module = importlib.import_module(name)
    assert module.parse_args(["--batch-size", "7"]) == module.parse_args(["--batch_size=7"])
    assert module.parse_args(["--batch-size=7"]).batch_size == 7


def test_a_full_disk_stops_in_one_line_and_keeps_the_last_checkpoint(vae, checkout, tmp_path):
    script, folder = vae
    program = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.argv.pop(0)
sys.path.insert(0, sys.argv[0].rsplit("/", 1)[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    command = checkout.command(script, *options(script, "full"))[1:]
    done = run_program(tmp_path, program, *command, cwd=checkout.folder, environment=checkout.environment)
    assert done.returncode == 1
    assert is_one_line(done.stderr), done.stderr
    assert "free some disk space" in done.stderr
    assert not (folder.parent / "full" / "checkpoint.pt").exists()  # the first was too large: no half of it either
    assert not list((folder.parent / "full").glob("*.part"))


# ---- the parts


def state():
    return {"model": {"weight": torch.arange(1000.0)}, "history": [{"epoch": 3}], "epoch_seconds": [1.0]}


def test_a_checkpoint_with_any_byte_flipped_or_cut_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    files.save_state(path, state())
    good = path.read_bytes()
    assert torch.equal(files.load_state(path)["model"]["weight"], torch.arange(1000.0))
    rng = np.random.default_rng(2)
    damaged = [good[:offset] for offset in rng.integers(0, len(good), 100)]
    for place in rng.integers(0, len(good), 100):
        flipped = bytearray(good)
        flipped[place] ^= 1 << rng.integers(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"checkpoint\.pt is damaged"):
            files.load_state(path)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    content = (tmp_path / "evil.pt").read_bytes()
    (tmp_path / "evil.pt").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(UserError, match="not a file of these scripts"):
        files.load_state(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_of_something_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(run, "current", None)
    args = argparse.Namespace(name="r", quick=True, device="cpu", fresh=True, resume=False, seed=1)
    one = run.Run(args, ROOT / "code" / "a3_vae_template.py", "r", "glyphs", 1)
    for content in ([1], {"history": []}, {"history": [], "epoch_seconds": []}, state()):
        files.save_state(one.checkpoint, content)
        with pytest.raises(UserError, match="not a checkpoint of this script"):
            one.load({"other": torch.nn.Linear(1, 1)})


def test_weights_of_another_size_are_refused_in_words(tmp_path):
    with pytest.raises(UserError, match="belongs to another model"):
        files.load_weights(torch.nn.Linear(3, 3), {"weight": torch.zeros(2, 2)}, tmp_path / "x.pt")


def test_a_model_file_gives_the_same_model_back_and_half_precision_becomes_float32(tmp_path):
    linear, path = torch.nn.Linear(3, 2), tmp_path / "model.pt"
    make = lambda size: torch.nn.Linear(size, 2)
    models.save_model(path, "s.py", {"size": 3}, linear.state_dict())
    loaded = models.load_model(path, "s.py", make)
    assert not loaded.training
    assert torch.equal(loaded.weight, linear.weight)
    models.save_model(path, "s.py", {"size": 3}, {name: x.half() for name, x in linear.state_dict().items()})
    assert models.load_model(path, "s.py", make).weight.dtype == torch.float32
    with pytest.raises(UserError, match=r"is not a model of t\.py"):
        models.load_model(path, "t.py", make)


def test_ones_own_model_on_the_best_data_comes_before_the_published_one(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(models, "PUBLISHED", tmp_path / "published")
    runs = tmp_path / "runs"
    for path in (
        tmp_path / "published" / "nf.pt",
        runs / "glyphs" / "nf" / "model.pt",
        runs / "mnist" / "nf" / "model.pt",
    ):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        assert models.find_model("nf", ["mnist", "glyphs"]) == path
    assert models.find_model("nf", ["mnist", "glyphs"], quick=True) == tmp_path / "published" / "nf.pt"
    with pytest.raises(UserError, match="no trained model nf"):
        models.find_model("nf", ["mnist", "glyphs"], quick=True, published=False)
    monkeypatch.chdir(tmp_path)  # samples of published weights go to runs/, however their file is named
    assert models.picture_path(Path("published/nf.pt"), 4) == runs / "nf-samples-4.png"
    with pytest.raises(UserError, match="no trained model gan"):
        models.find_model("gan", ["mnist", "glyphs"])


@pytest.mark.parametrize("steps", [1, 8, 9, 10, 30])
def test_the_learning_rate_rises_to_its_peak_and_falls_for_any_number_of_steps(steps):
    """For 9 steps torch's own schedule divides by zero."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    schedule, rates = run.one_cycle(optimizer, 0.5, steps), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert all(0 < rate <= 0.5 for rate in rates)
    assert optimizer.param_groups[0]["lr"] < rates[-1] or steps == 1
    if steps == 30:  # the peak comes after a tenth of the steps
        assert rates.index(max(rates)) == 3
        assert max(rates) > 0.45


def test_the_learning_rates_schedule_leaves_adams_betas_alone():
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], 1.0, betas=(0.7, 0.9))
    run.one_cycle(optimizer, 0.5, 30)
    assert optimizer.param_groups[0]["betas"] == (0.7, 0.9)


def test_the_commit_of_a_changed_work_tree_is_marked(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    monkeypatch.setattr(run, "ROOT", tmp_path)
    assert run.git_commit() is None
    (tmp_path / "file").write_text("as committed")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = run.git_commit()
    assert len(commit) == 12
    (tmp_path / "file").write_text("changed")
    assert run.git_commit() == f"{commit}-dirty"


def test_device_is_chosen_with_a_reason():
    device, why = choose_device("cpu")
    assert device.type == "cpu"
    assert why == "chosen by --device"
    with pytest.raises(UserError, match="--device meta: no such device"):  # torch has it, but it computes nothing
        choose_device("meta")


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_a_gpu_is_preferred_and_the_reason_is_given(cuda, mps, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    device, why = choose_device("auto")
    assert device.type == chosen
    assert why


def test_number_limits():
    convert = cli.number(float, low=0, below=0.5)
    assert convert("0.25") == 0.25
    messages = {"-1": "at least 0", "0.5": "below 0.5", "nan": "finite", "inf": "finite", "text": "not a number"}
    for wrong, said in messages.items():
        with pytest.raises(argparse.ArgumentTypeError, match=said):
            convert(wrong)


def test_paths_are_shown_as_a_user_would_type_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert show(tmp_path / "a" / "b") == "a/b"
    assert show(ROOT / "runs" / "x") == "runs/x"  # from any folder, relative to the checkout
    assert show("/somewhere/else") == "/somewhere/else"


def test_the_code_digest_changes_with_code_and_not_with_layout_or_comments():
    import ast

    parsed = lambda text: plain(compared(ast.parse(text)))
    first = parsed('"""Doc."""\ndef f(a, b=1):\n    """What."""\n    return a + b  # sum\n')
    assert first == parsed("def f(\n    a,\n    b=1,\n):\n    return (a + b)\n")
    assert first == parsed("DEFAULTS = {'lr': 0.1}\ndef f(a, b=1):\n    return a + b\n")
    for other in (
        "X = 1\ndef f(a, b=1):\n    return a + b\n",
        "def f(a, b=2):\n    return a + b\n",
        "def f(a, b=1):\n    return a - b\n",
    ):
        assert parsed(other) != first
    names = {path.relative_to(ROOT).as_posix() for path in files_of("beyond/vae_family.py")}
    for needed in ("code/beyond/vae_family.py", "code/beyond/autoregressive.py", "code/a3_vae_template.py",
                   "code/a3_nf_template.py", "code/nets/multiscale.py", "datasets/loading.py"):  # fmt: skip
        assert needed in names
    assert not any(name.startswith(("code/study", "code/common/run")) for name in names)
    assert "code/common/quality.py" in {path.relative_to(ROOT).as_posix() for path in files_of("a3_gan_template.py")}


def test_published_and_tracked_files_are_small():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout
    if not listed:
        pytest.skip("not a checkout of git")
    limits = {"report/report.pdf": 4e6, "docs/index.html": 5e6}
    for name in filter(None, listed.split("\0")):
        limit = 4.1e6 if name.startswith("report/models/") else limits.get(name, 2e6)
        assert not (ROOT / name).exists() or (ROOT / name).stat().st_size < limit, name
