"""A picture for README: random samples of the best published model of each family, beside real digits.

    python code/study/gallery.py    report/figures/gallery.png from the published weights, part of `make publish`

One row per model, below a row of test digits of the kind that it was trained on. Nothing is selected. Models of binary
images show binary samples, not pixel probabilities. The labels give the training time.
"""

import sys
from pathlib import Path

import torch

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
import a3_gan_template as gan
import a3_nf_template as flow
import a3_vae_template as vae
from beyond import autoregressive, vae_family
from common import cli, figures, models
from datasets.bmnist import bmnist
from datasets.files import UserError, show
from datasets.mnist import mnist
from study import publish, registry, tables

SHOWN, SEED = 14, 0
# kind of images: {model: run}
BEST = {
    "grey": {"GAN": "gan", "flow": "nf-multiscale-long"},
    "binary": {"VAE": "family-best", "PixelCNN": "pixelcnn-long"},
}
# script: (loader of its model file, n samples in 0..1)
SAMPLERS = {
    registry.VAE: (vae.load, lambda model, n: model.sample(n)[0]),
    registry.FAMILY: (vae_family.load, lambda model, n: torch.bernoulli(vae_family.draw(model, n))),
    registry.GAN: (gan.load, lambda model, n: gan.images_of(model, model.noise(n))),
    registry.FLOW: (flow.load, lambda model, n: model.sample(n) / 255),
    registry.AUTOREGRESSIVE: (autoregressive.load, autoregressive.draw),
}


def rows(best, test, white):
    """{label: images in 0..1}: test digits, whose largest value is `white`, then samples of each model."""
    shown = {f"real: {test.title}": test.subset(SHOWN).images / white}
    for name, run in best.items():
        path = models.PUBLISHED / f"{run}.pt"
        if not path.exists():
            raise UserError(f"{show(path)} is missing: train {run}, then make publish")
        load, sample = SAMPLERS[registry.get(run).script]
        model = load(path)
        torch.manual_seed(SEED)
        shown[f"{name}, {tables.duration(publish.read(run)['seconds'])}"] = sample(model, SHOWN)
    return shown


def main(args):
    shown = rows(BEST["grey"], mnist(data="mnist")[2], 255) | rows(BEST["binary"], bmnist(data="bmnist")[2], 1)
    path = publish.REPORT / "figures" / "gallery.png"
    figures.image_rows(path, shown, "real test digits; random samples, not selected")
    print(f"Files:  {show(path)}")


def parse_args(words=None):
    return cli.Parser(__doc__, __file__).parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
