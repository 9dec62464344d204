"""The files for Slurm, with a stub of it: sbatch and srun run what they are given, Python notes its arguments."""

import importlib
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from study import train

FILES = sorted((ROOT / "docs" / "cluster").glob("*.sbatch"))
# as sbatch: options, a script and its words; one job, or one for each number of the array
SBATCH = """
range=none
while [ "${1#--}" != "$1" ]; do
  [ "${1#--array=}" != "$1" ] && range=${1#--array=}
  shift
done
export SLURM_JOB_ID=77 SLURM_JOB_NODELIST='node[3-4]' SLURM_JOB_NUM_NODES=1 SLURM_GPUS_ON_NODE=2 SLURM_CPUS_PER_TASK=2
if [ $range = none ]; then exec bash "$@"; fi
for SLURM_ARRAY_TASK_ID in $(seq ${range%-*} ${range#*-}); do
  export SLURM_ARRAY_TASK_ID
  bash "$@" || exit
done
"""
SCONTROL = """
if [ "$1 $2" = "show hostnames" ]; then printf 'localhost\\nnode4\\n'; else echo "$@" >>"$NOTES"; fi
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A function that runs bash commands; returns what the stub of Python was called with."""
    stubs = {"sbatch": SBATCH, "srun": 'exec "$@"', "scontrol": SCONTROL, "note": 'echo "$@" >>"$NOTES"'}
    stubs["note"] += "\nsleep ${SECONDS_PER_RUN:-0}; exit ${STATUS:-0}"
    for name, text in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("PYTHON", "note")

    def run(command, status=0):
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return (tmp_path / "notes").read_text().splitlines()

    return run


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_files_are_correct_bash_and_slurm_reads_their_options(path):
    assert subprocess.run(["bash", "-n", path], capture_output=True).returncode == 0
    lines = path.read_text().splitlines()
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH --")]
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    assert lines[0] == "#!/bin/bash"
    assert max(options) < min(commands)  # Slurm ignores options behind the first command
    assert "#SBATCH --requeue" in lines
    assert "#SBATCH --signal=B:USR1@120" in lines


def printed(pattern):
    """Commands in docs/cluster.md and the files."""
    found = {
        match for path in (ROOT / "docs" / "cluster.md", *FILES) for match in re.findall(pattern, path.read_text())
    }
    assert found
    return sorted(found)


def parse(script, words):
    return importlib.import_module(script.replace("/", ".")).parse_args(words.split())


def test_the_printed_commands_of_torchrun_parse():
    for options, script, words in printed(r"torchrun (--n\S+ .*|--standalone \S+ )code/(\w+)\.py(.*)\n"):
        parse(script, words)
        torchrun = importlib.import_module("torch.distributed.run")
        assert torchrun.get_args_parser().parse_args([*options.split(), "x.py"]).nproc_per_node == "4"


def test_one_long_run_is_started_by_torchrun_and_resumed(slurm):
    for command, script, words in printed(r"(?m)^[# ]*(sbatch docs/cluster/long\.sbatch code/(\w+)\.py(.*))$"):
        (noted,) = slurm(command)
        before, _, after = noted.partition(f"code/{script}.py ")
        assert parse(script, after).resume
        assert after == f"{words.strip()} --resume"
        module, *options = before.split()[1:]
        assert module == "torch.distributed.run"
        args = importlib.import_module(module).get_args_parser().parse_args([*options, "x.py"])
        assert (args.nnodes, args.nproc_per_node, args.rdzv_id) == ("1", "2", "77")
        assert (args.rdzv_backend, args.rdzv_endpoint) == ("c10d", "localhost:29500")  # the first of the machines


def test_an_array_trains_every_run_and_seed_once(slurm, monkeypatch, capsys):
    block = "\n".join(
        re.findall(r"(?m)^    (.*)$", (ROOT / "docs/cluster.md").read_text().split("All runs and seeds")[1])
    )
    block = block[: block.index("sbatch --array")] + re.search(r"sbatch --array.*", block)[0]
    assert all(f"#     {line}" in (ROOT / "docs/cluster/array.sbatch").read_text() for line in block.splitlines())
    selection = re.search('runs="(.*)"', block)[1]
    train.main(train.parse_args([*selection.split(), "--list"]))
    call = "python code/study/train.py $runs --list"
    noted = slurm(block.replace(call, f"echo '{capsys.readouterr().out.strip()}'"))
    assert call in block
    assert len(noted) == 15
    calls = [train.parse_args(line.removeprefix("code/study/train.py ").split()) for line in noted]
    jobs = []
    monkeypatch.setattr(train, "data_at_hand", lambda entries: {})
    monkeypatch.setattr(train, "train", jobs.extend)
    for args in calls:
        train.main(args)
    assert sorted((entry.name, seed) for entry, seed, *_ in jobs) == sorted(
        (name, seed) for name in ("vae-z20", "vae-z2", "gan", "nf", "nf-multiscale") for seed in (42, 43, 44)
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_job_ends_with_the_status_of_its_run_and_requeues_itself_before_the_time_limit(path, slurm, monkeypatch):
    monkeypatch.setenv("STATUS", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert len(slurm(f"sbatch {path.relative_to(ROOT)} code/x.py", status=3)) == 1
    monkeypatch.setenv("SECONDS_PER_RUN", "1")
    notes = Path(os.environ["NOTES"])
    notes.unlink()
    child = subprocess.Popen(["sbatch", str(path), "code/x.py"], cwd=ROOT)
    while not notes.exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGUSR1)
    while notes.read_text().splitlines()[1:] != ["requeue 77"]:
        assert child.poll() is None
        time.sleep(0.01)
    assert child.wait(10) == 3  # the run goes on until Slurm ends it


@pytest.mark.slow
def test_a_preempted_job_of_two_processes_is_requeued_and_finishes(slurm, checkout, monkeypatch):
    monkeypatch.setenv("A3_CACHE", checkout.environment["A3_CACHE"])
    monkeypatch.setenv("PYTHON", sys.executable)
    words = "--quick --data glyphs-binary --name preempted --epochs 4 --hidden 100 --eval_samples 10"
    call = ["sbatch", str(ROOT / "docs/cluster/long.sbatch"), "code/a3_vae_template.py", *words.split()]
    folder = checkout.folder / "runs" / "quick" / "glyphs-binary" / "preempted"
    child = subprocess.Popen(call, cwd=checkout.folder, start_new_session=True)
    while not (folder / "metrics.csv").exists():
        assert child.poll() is None
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGTERM)  # all processes of the job
    child.wait(60)
    assert not (folder / "results.json").exists()
    assert subprocess.run(call, cwd=checkout.folder, timeout=300).returncode == 0
    epochs = [line.split(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()]
    assert epochs == ["epoch", "0", "1", "2", "3", "4"]
