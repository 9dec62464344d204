"""The scripts on a CUDA GPU; skipped where there is none. conftest.py hides the GPU from all other tests."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT, VISIBLE_GPUS
from test_run import DATA, FOLDER, SCRIPTS

# The outputs of each network, first for its inputs on the CPU, then on the GPU. The weights of the published flow
# without convolutions are too large for the repository; random ones take their place.
COMPARE = f"""
import sys, torch

sys.path[:0] = [{str(ROOT / "code")!r}, {str(ROOT)!r}]
import a3_nf_template as nf
from common.models import PUBLISHED
from study import registry

torch.backends.cudnn.allow_tf32 = False
torch.manual_seed(0)
z, binary = torch.randn(16, 784), torch.randint(2, (16, 784)).float()
networks = {{
    "vae-z20": lambda model, to: [*model.encoder(to(binary)), model.decoder.logits(to(z[:, :20]))],
    "gan": lambda model, to: [model(to(model.noise(16, torch.Generator().manual_seed(0))))],
    "nf": lambda model, to: model.flow(to(z), to(z[:, 0])),
    "nf-multiscale": lambda model, to: [*model.flow(to(z), to(z[:, 0])), model.noise.nn(to(z.view(16, 4, 14, 14)))],
    "pixelcnn": lambda model, to: [model(to(binary))],
}}
for run, outputs in networks.items():
    if run == "nf":
        model = nf.Model([784])
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.02)
    else:
        model = registry.module(registry.get(run).script).load(PUBLISHED / f"{{run}}.pt")
    with torch.no_grad():
        on_cpu, on_gpu = outputs(model, torch.clone), outputs(model.cuda(), torch.Tensor.cuda)
    print(run, max(float((b.cpu() - a).abs().max() / a.abs().max()) for a, b in zip(on_cpu, on_gpu, strict=True)))
"""
# metric, and whether it must rise
IMPROVES = {
    "a3_vae_template.py": ("val_elbo", True), "a3_gan_template.py": ("frechet_val", False),
    "a3_nf_template.py": ("val_bpd", False),
}  # fmt: skip


def visible(environment):
    """The environment with the GPUs that the tests were started with."""
    others = {key: value for key, value in environment.items() if key != "CUDA_VISIBLE_DEVICES"}
    return others if VISIBLE_GPUS is None else {**others, "CUDA_VISIBLE_DEVICES": VISIBLE_GPUS}


# All tests of this file start a new Python: conftest's fork server has looked for GPUs while they were hidden, and then
# its children never find them.
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def python(program):
    return subprocess.run([sys.executable, "-c", program], env=visible(os.environ), **PIPES)


@pytest.fixture(scope="module", autouse=True)
def gpu():
    if not shutil.which("nvidia-smi") or python("import torch; print(torch.cuda.is_available())").stdout != "True\n":
        pytest.skip("no CUDA GPU")


def test_networks_compute_the_same_on_gpu_and_cpu():
    done = python(COMPARE)
    assert done.returncode == 0, done.stderr
    differences = {run: float(value) for run, value in map(str.split, done.stdout.splitlines())}
    assert len(differences) == 5
    assert max(differences.values()) < 1e-4, differences  # float32


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_killed_run_is_resumed_and_learns(script, checkout, monkeypatch):
    started = {"env": visible(checkout.environment), "cwd": checkout.folder, **PIPES}
    start = lambda script, *words, cwd=None: subprocess.Popen(checkout.command(script, *words), **started)
    monkeypatch.setattr(checkout, "start", start)
    name = f"gpu-{script.split('_')[1]}"
    folder = checkout.folder / "runs" / FOLDER[script] / name
    words = "--quick", "--data", DATA[script], "--name", name
    checkout.kill_after(script, *words, rows=2, folder=f"{FOLDER[script]}/{name}")
    before = (folder / "metrics.csv").read_text()
    done = checkout.run(script, *words, "--resume")
    assert "Device: cuda" in done.stdout
    assert (folder / "metrics.csv").read_text().startswith(before)
    results = json.loads((folder / "results.json").read_text())
    assert results["device"] == "cuda"
    metric, rises = IMPROVES[script]
    values = [value for value in results["curves"][metric] if value is not None]
    assert (values[-1] > values[0]) == rises
