"""Several processes under torchrun train as one does, end together, and are resumed in any number."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from common import cli, distributed
from conftest import ROOT, Child
from datasets.files import UserError

TORCHRUN = "from torch.distributed.run import main\n\nmain()\n"  # the whole of torchrun


def start_torchrun(folder, processes, words, environment, *options):
    """A running torchrun that has started `words`, a script and its options."""
    path = folder / "torchrun"
    path.write_text(TORCHRUN)
    command = [str(path), "--standalone", f"--nproc_per_node={processes}", *options, *map(str, words)]
    return Child(folder, command, "/", {**environment, "OMP_NUM_THREADS": "1", "A3_FLOAT32": "1"})


def by_torchrun(folder, names, processes):
    """The tiny runs of ranks.py. With fork, the processes need not import torch again."""
    words = [ROOT / "tests" / "ranks.py", folder, *names]
    options = ["--start-method=fork", "--run-path"]
    child = start_torchrun(folder, processes, words, dict(os.environ), *options)
    out, err = child.communicate()
    assert child.returncode == 0, err
    return out


def by_one_process(folder, names):
    words = [str(ROOT / "tests" / "ranks.py"), str(folder), *names]
    child = Child(folder, words, "/", {**os.environ, "A3_FLOAT32": "1"})
    _, err = child.communicate()
    assert child.returncode == 0, err


def tensors(state, name=""):
    """{name: tensor} of nested states."""
    if torch.is_tensor(state):
        return {name: state.double()}
    parts = state.items() if isinstance(state, dict) else ()
    return {key: value for part, inner in parts for key, value in tensors(inner, f"{name}.{part}").items()}


def assert_same_run(one, other):
    """Two folders of runs: the same weights, states of optimisers and metrics, apart from rounding."""
    first, second = (tensors(torch.load(folder / "checkpoint.pt", weights_only=True)) for folder in (one, other))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=0, atol=1e-6), name
    tables = table(one), table(other)
    assert [row["epoch"] for row in tables[1]] == [str(epoch) for epoch in range(len(tables[0]))]
    for row, again in zip(*tables, strict=True):
        for key, value in row.items():
            assert value == again[key] or float(again[key]) == pytest.approx(float(value), rel=1e-6), key


def table(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def compare(names, processes, tmp_path):
    one, several = tmp_path / "one", tmp_path / "several"
    for folder in (one, several):
        folder.mkdir()
    by_one_process(one, names)
    out = by_torchrun(several, names, processes)
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    epochs = sum(len((path.read_text()).splitlines()) - 1 for path in several.rglob("metrics.csv"))
    assert len(lines) == epochs  # printed by one process
    for path in one.rglob("checkpoint.pt"):
        other = several / path.parent.relative_to(one)
        assert_same_run(path.parent, other)
        results = json.loads((other / "results.json").read_text())
        assert (results["processes"], results["bfloat16"]) == (processes, False)
        assert f"torchrun --standalone --nproc_per_node={processes} code/" in results["command"]
        assert not list(other.rglob("*.part"))


def test_two_processes_train_like_one(tmp_path):
    compare(["vae", "gan", "nf", "multiscale"], 2, tmp_path)


@pytest.mark.slow
def test_three_processes_train_like_one(tmp_path):
    """Shares of three or four images; two of the three have no image of the last batch."""
    compare(["vae", "gan", "nf", "multiscale", "pixelcnn"], 3, tmp_path)


# ---- the parts, for one process after the other


@pytest.fixture(params=[(12, 3), (10, 4), (3, 5), (1, 2)], ids=str)
def shares(request, monkeypatch):
    """(size of the batch, a function that calls another one in each process and returns the results)."""
    size, processes = request.param

    def in_each(function):
        results = []
        for rank in range(processes):
            monkeypatch.setattr(distributed, "rank", rank)
            monkeypatch.setattr(distributed, "processes", processes)
            torch.manual_seed(3)
            (batch,) = [
                function(part) for part in distributed.local_batches([torch.arange(size * 6.0).view(size, 3, 2)])
            ]
            results.append(batch)
        return results

    return size, in_each


def test_shares_of_a_batch_are_its_rows_in_order(shares):
    size, in_each = shares
    assert torch.equal(torch.cat(in_each(lambda x: x)), torch.arange(size * 6.0).view(size, 3, 2))
    assert in_each(distributed.global_batch_size) == [size] * len(in_each(len))
    assert max(in_each(len)) - min(in_each(len)) <= 1
    assert distributed.rows is None  # outside the loop everything is as in one process


def test_images_and_labels_are_shared_alike(monkeypatch):
    monkeypatch.setattr(distributed, "processes", 2)
    ((images, labels),) = distributed.local_batches([(torch.zeros(5, 4), torch.arange(5))])
    assert len(images) == 2
    assert labels.tolist() == [0, 1]


def test_noise_is_that_of_the_whole_batch_in_any_layout(shares):
    size, in_each = shares
    layouts = (lambda n: torch.zeros(n, 6).chunk(2, 1)[0], lambda n: torch.zeros(n, 6, 4, 2).permute(0, 3, 1, 2)[:, :1],
               lambda n: torch.zeros(n, 6, 4, 2).to(memory_format=torch.channels_last).chunk(2, 1)[1])  # fmt: skip
    for make in layouts:
        for draw in (torch.randn_like, torch.rand_like):
            torch.manual_seed(3)
            whole = draw(make(size))
            parts = in_each(lambda x, draw=draw, make=make: distributed.noise(draw, make(len(x))))
            assert torch.equal(torch.cat(parts), whole)


def test_means_of_the_shares_add_up(shares):
    size, in_each = shares
    assert sum(in_each(distributed.mean)).item() == pytest.approx(torch.arange(size * 6.0).mean().item())


def test_one_process_gets_what_it_gave():
    x = torch.randn(4, 3)
    for function in (distributed.local_rows, distributed.global_batch, distributed.add):
        assert function(x) is x
    assert list(distributed.local_batches([x])) == [x]
    assert distributed.sum_over_processes(torch.tensor(0.1), 3) == [float(torch.tensor(0.1)), 3.0]
    assert distributed.local_device(torch.device("cuda")).index is None
    assert distributed.launcher() == ["python"]
    assert not distributed.end()


def test_each_process_has_its_gpu_and_too_few_gpus_are_refused(monkeypatch):
    chosen = []
    monkeypatch.setattr(distributed, "processes", 8)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert distributed.local_device(torch.device("cuda")) == torch.device("cuda", 3)
    assert chosen == [torch.device("cuda", 3)]
    assert distributed.local_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for device in ("cuda", "mps"):
        with pytest.raises(UserError, match="more processes than CUDA GPUs"):
            distributed.local_device(torch.device(device))


def test_processes_that_see_other_folders_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "processes", 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: x.add_(3))  # the other one is at epoch 3
    monkeypatch.setattr(torch.distributed, "broadcast", lambda x, source: x.fill_(source + 7))
    linear, schedule = torch.nn.Linear(2, 2), object()
    with pytest.raises(UserError, match="same file system"):
        distributed.synchronise(0, [linear])
    distributed.synchronise(3, [linear, schedule])
    assert torch.equal(linear.bias, torch.full((2,), 7.0))  # what the first process has sent


def test_the_command_to_resume_starts_as_many_processes(monkeypatch):
    monkeypatch.setattr(distributed, "launched", True)
    for nodes, words in ("1", "--standalone --nproc_per_node=2"), ("3", "--nnodes=3 ... --nproc_per_node=2"):
        monkeypatch.setenv("GROUP_WORLD_SIZE", nodes)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        assert distributed.launcher() == ["torchrun", *words.split()]


@pytest.mark.parametrize(("rank", "sample"), [(0, None), (1, None), (0, 4), (1, 4)])
def test_scripts_for_one_process_refuse_torchrun_and_samples_are_drawn_once(rank, sample, monkeypatch):
    monkeypatch.setattr(distributed, "rank", rank)
    args = type("Args", (), {"sample": sample})
    if (rank, sample) == (0, None):
        with pytest.raises(UserError, match="not with torchrun"):
            cli.start_processes(args, torchrun=False)
    else:
        assert cli.start_processes(args, torchrun=False) == (rank == 0)


def test_of_several_processes_that_fail_the_first_one_speaks(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "processes", 3)

    def speaks(rank):
        monkeypatch.setattr(distributed, "rank", rank)
        cli.silence_all_but_first()
        if sys.stderr is sys.__stderr__:
            return True
        sys.stderr.close()
        return False

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        patch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "0" / "error.json"))
        assert [speaks(rank) for rank in (2, 0, 1)] == [True, False, False]
        patch.setenv("TORCHELASTIC_ERROR_FILE", "")  # without a folder, only the first process
        assert [speaks(rank) for rank in (1, 0)] == [False, True]


# ---- the command line


QUICK = {
    "a3_vae_template.py": ("glyphs-binary", "--epochs 3 --hidden 100 --eval_samples 10"),
    "a3_gan_template.py": ("glyphs", "--n_epochs 3"),
    "a3_nf_template.py": ("glyphs", "--epochs 3 --hidden 64"),
    "beyond/autoregressive.py": ("glyphs-binary", "--epochs 2 --model markov"),
}
# lines of torchrun's own report, and of the process in which the tests start it
REPORT = r"[WE]\d{4} |Traceback|  |torch\.|=|-|.* FAILED$|Failures:|Root Cause|\[\d\]:|$|Process ForkServer"


class Command:
    """A script in a checkout, under torchrun."""

    def __init__(self, checkout, script, name):
        self.checkout, self.script = checkout, script
        data, options = QUICK[script]
        self.words = ["--quick", "--data", data, "--name", name, *options.split()]
        self.folder = checkout.folder / "runs" / "quick" / data / name

    def start(self, processes, *more):
        words = [self.checkout.folder / "code" / self.script, *self.words, *more]
        return start_torchrun(self.checkout.outputs, processes, words, self.checkout.environment)

    def run(self, processes, *more, status=0):
        """What the script printed: lines of stdout, and the lines of stderr that are not torchrun's."""
        child = self.start(processes, *more)
        out, err = child.communicate()
        assert child.returncode == status, err
        return out.splitlines(), self.own(err)

    def own(self, err):
        return [line for line in err.splitlines() if not re.match(REPORT, line)]

    def start_until(self, rows, processes):
        """(torchrun, the processes that it has started), after some rows of metrics."""
        child, table = self.start(processes), self.folder / "metrics.csv"
        while not table.exists() or len(table.read_text().splitlines()) <= rows:
            assert child.poll() is None
            time.sleep(0.01)
        found = subprocess.run(["pgrep", "-P", str(child.process.pid)], capture_output=True, text=True).stdout.split()
        assert len(found) == processes
        return child, list(map(int, found))

    def rows(self):
        return (self.folder / "metrics.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("script", QUICK)
def test_a_process_is_killed_at_a_random_moment_and_the_run_resumed(script, checkout):
    model = script.split("_")[-2 if "template" in script else 0].replace("/", "-")
    whole, killed = Command(checkout, script, f"whole-{model}"), Command(checkout, script, f"killed-{model}")
    lines, said = whole.run(2)
    assert not said
    assert sum(line.startswith("epoch ") for line in lines) == len(whole.rows().splitlines()) - 1
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    child, processes = killed.start_until(1, 2)
    time.sleep(dice.uniform(0, 0.5))
    os.kill(dice.choice(processes), signal.SIGKILL)
    _, err = child.communicate(timeout=60)
    if not (killed.folder / "results.json").exists():
        assert child.returncode == 1
        (line,) = killed.own(err)
        assert "Continue with: torchrun --standalone --nproc_per_node=2 " in line
    killed.run(2, "--resume")
    assert killed.rows() == whole.rows()  # the same number of processes: the same numbers, no row twice


@pytest.mark.slow
def test_a_run_is_resumed_with_another_number_of_processes(checkout):
    script = "a3_vae_template.py"
    one, mixed = Command(checkout, script, "one"), Command(checkout, script, "mixed")
    checkout.environment["A3_FLOAT32"] = "1"
    checkout.run(script, *one.words)
    child, processes = mixed.start_until(1, 2)
    os.kill(processes[0], signal.SIGKILL)
    child.communicate()
    checkout.kill_after(
        script, *mixed.words, "--resume", rows=2, folder=mixed.folder.relative_to(checkout.folder / "runs")
    )
    mixed.run(3, "--resume")
    del checkout.environment["A3_FLOAT32"]
    tables = table(one.folder), table(mixed.folder)
    assert [row["epoch"] for row in tables[1]] == ["0", "1", "2", "3"]
    for row, again in zip(*tables, strict=True):
        assert float(again["val_elbo"]) == pytest.approx(float(row["val_elbo"]), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whom", ["torchrun", 0, 1])
def test_a_signal_ends_all_processes_with_one_line(sign, whom, checkout):
    command = Command(checkout, "a3_vae_template.py", f"signal-{sign}-{whom}")
    child, processes = command.start_until(1, 2)
    os.kill(child.process.pid if whom == "torchrun" else processes[whom], sign)
    _, err = child.communicate(timeout=20)
    (line,) = command.own(err)
    assert re.search(r"(Interrupted|Terminated): epoch \d is saved\. Continue with: torchrun ", line)
    assert not subprocess.run(["pgrep", "-f", str(command.folder.name)], capture_output=True).stdout


@pytest.mark.slow
def test_a_process_that_waits_for_a_silent_one_still_obeys(checkout):
    """A signal must not wait until torch returns from a sum over the processes."""
    command = Command(checkout, "a3_vae_template.py", "silent")
    child, processes = command.start_until(1, 2)
    os.kill(processes[1], signal.SIGSTOP)
    time.sleep(1)
    os.kill(processes[0], signal.SIGTERM)
    time.sleep(2)
    os.kill(processes[1], signal.SIGCONT)
    _, err = child.communicate(timeout=20)
    (line,) = command.own(err)
    assert "Terminated: epoch" in line


@pytest.mark.slow
def test_words_under_torchrun(checkout):
    command = Command(checkout, "a3_vae_template.py", "words")
    assert command.run(2)[1] == []
    assert any("This run is finished" in line for line in command.run(2)[0])
    lines, _ = command.run(2, "--sample", "4")
    assert sum(line.startswith("4 samples: ") for line in lines) == 1
    lines, _ = command.run(2, "--help")
    assert sum(line.startswith("usage: ") for line in lines) == 1
    for words, said in (["--zdim", "0"], "at least 1"), (["--fresh", "--lr", "1e9"], "the loss became too large"):
        (line,) = command.run(2, *words, status=1)[1]
        assert said in line
    (line,) = command.run(2, status=1)[1]
    assert "was made with lr = " in line
    command.script = "beyond/flow_2d.py"
    command.words = ["--quick"]
    (line,) = command.run(2, status=1)[1]
    assert line == "flow_2d.py: this script runs in one process: start it with python, not with torchrun"
