"""A picture for README: random samples of the best published model of each family, beside real digits.

    python code/study/gallery.py    report/figures/gallery.png from the published weights, once all four are there

One row per model, below a row of test digits of the kind that it was trained on. Nothing is selected. Models of binary
images show binary samples, not pixel probabilities. The labels give the training time.
"""

import sys
from pathlib import Path

import torch

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from common import cli, figures, models
from datasets.bmnist import bmnist
from datasets.files import UserError, show
from datasets.mnist import mnist
from study import publish, registry, tables

SHOWN, SEED = 14, 0
# kind of images: {model: run}
BEST = {
    "grey": {"GAN": "gan-conv", "flow": "nf-multiscale-long"},
    "binary": {"VAE": "family-conv", "PixelCNN": "pixelcnn-long"},
}


@torch.no_grad()
def rows(best, test, white):
    """{label: images in 0..1}: test digits, whose largest value is `white`, then samples of each model."""
    shown = {f"real: {test.title}": test.subset(SHOWN).images / white}
    for name, run in best.items():
        path = models.PUBLISHED / f"{run}.pt"
        if not path.exists():
            raise UserError(f"{show(path)} is missing: train {run}, then make publish")
        script = registry.module(registry.get(run).script)
        model = script.load(path)
        torch.manual_seed(SEED)
        images = script.draw(model, SHOWN)
        drawn = torch.bernoulli(images) if registry.get(run).kind == "binary" else images
        shown[f"{name}, {tables.duration(publish.read(run)['seconds'])}"] = drawn
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
