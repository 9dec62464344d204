"""The picture for README: rows of real digits and of samples, each of the kind that the model was trained on."""

import json

import pytest
import torch
from PIL import Image

import a3_gan_template as gan
import a3_nf_template as flow
import tiny
from beyond import autoregressive, vae_family
from common import models
from datasets import loading
from datasets.bmnist import bmnist
from datasets.files import UserError
from datasets.mnist import mnist
from study import gallery, publish, registry

# {run: (module, sizes)}, as small as possible
TINY = {
    "gan-conv": (gan.Generator, {"latent_dim": 2}),
    "nf-multiscale-long": (lambda **sizes: flow.Model([784], **sizes), {"n_flows": 1, "n_hidden": 4}),
    "family-conv": (vae_family.Family, {"hidden_dim": 4, "z_dim": 2}),
    "pixelcnn-long": (autoregressive.Model, {"model": "markov", "n_hidden": 4}),
}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Tiny untrained models in place of the published ones, made-up images in place of MNIST."""
    for name in ("figures", "models", "results"):
        (tmp_path / name).mkdir()
    torch.manual_seed(1)
    for run, (make, sizes) in TINY.items():
        models.save_model(
            tmp_path / "models" / f"{run}.pt", registry.get(run).script, sizes, make(**sizes).state_dict()
        )
        (tmp_path / "results" / f"{run}.json").write_text(json.dumps({"seconds": 570.0}))
    monkeypatch.setattr(models, "PUBLISHED", tmp_path / "models")
    monkeypatch.setattr(publish, "REPORT", tmp_path)
    monkeypatch.setattr(loading, "find", lambda name, names, *more: tiny.find([10, 10, 100], name, names))
    return tmp_path


def test_each_model_stands_below_digits_of_its_kind(published, monkeypatch):
    pictures = {}
    monkeypatch.setattr(gallery.figures, "image_rows", lambda path, rows, title: pictures.update({path: rows}))
    gallery.main(gallery.parse_args([]))
    ((path, rows),) = pictures.items()
    assert path == published / "figures" / "gallery.png"
    grey, binary = mnist(data="mnist")[2], bmnist(data="bmnist")[2]
    assert list(rows) == [f"real: {grey.title}", "GAN, 10 min", "flow, 10 min",
                          f"real: {binary.title}", "VAE, 10 min", "PixelCNN, 10 min"]  # fmt: skip
    rows = [images.reshape(gallery.SHOWN, 784) for images in rows.values()]
    assert torch.equal(rows[0] * 255, grey.subset(gallery.SHOWN).images.float())
    assert torch.equal(rows[3], binary.subset(gallery.SHOWN).images.float())
    for i, images in enumerate(rows):
        assert (images >= 0).all()
        assert (images <= 1).all()
        assert (len(images.unique()) == 2) == (i >= 3)  # binary samples, not means


def test_the_picture_is_the_same_each_time(published):
    path = published / "figures" / "gallery.png"
    gallery.main(gallery.parse_args([]))
    first = path.read_bytes()
    with Image.open(path) as picture:
        assert picture.width > 1000
    gallery.main(gallery.parse_args([]))
    assert path.read_bytes() == first


def test_missing_weights_are_one_line(published):
    (published / "models" / "family-conv.pt").unlink()
    with pytest.raises(UserError, match=r"family-conv\.pt is missing: train family-conv, then make publish"):
        gallery.main(gallery.parse_args([]))
