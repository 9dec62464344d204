"""The main functions of the scripts on tiny data, one after the other, in one process or under torchrun.

python ranks.py FOLDER CASE...    the runs are written to FOLDER
"""

# ruff: noqa: E402
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "code"), str(ROOT), str(ROOT / "tests")]
import a3_gan_template as gan
import a3_nf_template as nf
import a3_vae_template as vae
import tiny
from beyond import autoregressive as ar
from common import cli, distributed, figures, files, quality, run
from datasets import loading

torch.set_default_dtype(torch.float64)  # Adam turns the smallest differences of a gradient near 0 into large steps
torch.Tensor.float = torch.Tensor.double
# The last batch has one image, so one of two processes has none of it. Chunks of the GAN lie in both shares.
SIZES, BATCH = (41, 25, 20), 10
CASES = {
    "vae": (vae, "--epochs 3 --hidden 8 --zdim 3 --eval_samples 7"),
    "gan": (gan, "--n_epochs 3 --latent_dim 5 --save_interval 10"),
    "nf": (nf, "--epochs 3 --hidden 8 --flows 1"),
    "multiscale": (nf, "--epochs 2 --hidden 4 --flows 1 --arch multiscale --shift 1"),
    "pixelcnn": (ar, "--epochs 2 --hidden 4 --layers 1"),
}


def prepare(folder):
    torch.set_num_threads(1)
    files.ROOT, run.git_commit = folder, lambda: None
    loading.find = lambda name, names, *_: tiny.find(SIZES, name, names)
    run.code_digest = lambda script: None
    gan.EVALUATE_EVERY, gan.update_batchnorm = 1, lambda average, batches: average.eval()
    ar.samples_per_second = lambda *_: (1.0, 1.0)
    ar.Model.sample = lambda self, uniforms: uniforms
    torch.manual_seed(5)
    classifier = tiny.Judge()
    quality.load_classifier = lambda *_: classifier
    gan.save_interpolations, quality.evaluate_samples = lambda *_: None, lambda *_: {}
    for module in (vae, gan, nf, ar):
        module.save_figures = lambda *_: None
    if distributed.rank > 0:  # only the first process may write files
        tempfile.mkstemp = figures.picture = None


def main(args):
    folder, *names = sys.argv[1:]
    prepare(Path(folder))
    processes, end = distributed.processes, distributed.end
    for name in names:
        distributed.processes = processes
        if distributed.rank > 0 and name != names[0]:
            distributed.add(torch.zeros(1))  # as in distributed.start: wait until the first process has its folder
        distributed.end = end if name == names[-1] else pause
        module, words = CASES[name]
        module.main(module.parse_args(f"--quick --name {name} --batch_size {BATCH} {words}".split()))


def pause():
    """In place of distributed.end, because the next case needs the other processes again."""
    distributed.processes = 1
    return distributed.rank > 0


if __name__ == "__main__":
    cli.start(main, lambda: None, torchrun=True)
