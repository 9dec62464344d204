"""Data of the same format that are chosen by name, and the classifiers that judge samples of each kind of data."""

import numpy as np
import pytest
import torch

from common import quality
from common.files import load_state, save_state
from conftest import ROOT
from datasets import loading
from datasets import mnist as mnist_module
from datasets.bmnist import BINARY, bmnist
from datasets.files import UserError
from datasets.mnist import GREY, mnist

SIZES = {"train": 60, "t10k": 20}


@pytest.fixture
def fashion(tmp_path, empty_cache, monkeypatch):
    """A folder with small files in Fashion-MNIST's format."""
    for name, size in (("TRAINING", 60), ("TEST", 20), ("VALIDATION", 10)):
        monkeypatch.setattr(mnist_module, name, size)
    raw, rng = tmp_path / "FashionMNIST" / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    for part, size in SIZES.items():
        images = rng.integers(0, 256, (size, 784), np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(bytes(16) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(bytes(8) + (np.arange(size) % 10).astype(np.uint8).tobytes())
    return tmp_path


def test_other_data_are_split_like_mnist(fashion):
    splits = mnist(fashion, 16, data="fashion-mnist")
    raw = np.fromfile(fashion / "FashionMNIST/raw/train-images-idx3-ubyte", np.uint8)[16:].reshape(60, 784)
    assert [len(split.images) for split in splits] == [50, 10, 20]
    assert (torch.cat([splits[0].images, splits[1].images]).numpy() == raw).all()
    assert splits[1].labels.tolist() == list(range(10))
    assert splits[0].title == "Fashion-MNIST"
    binary = bmnist(fashion, 16, data="fashion-mnist-binarised")
    assert next(iter(binary[0])).shape == (16, 1, 28, 28)
    assert set(binary[2].images.unique().tolist()) == {0, 1}
    assert binary[2].labels.tolist() == splits[2].labels.tolist()


def test_the_folder_in_a3_data_is_searched(fashion, monkeypatch):
    monkeypatch.setenv("A3_DATA", str(fashion))
    assert len(mnist(data="fashion-mnist", download=False)[0].images) == 50


def test_other_data_are_used_only_when_they_are_named(fashion, monkeypatch, capsys):
    monkeypatch.setattr(mnist_module.glyphs, "SIZES", [60, 20, 20])
    monkeypatch.setattr(mnist_module.glyphs, "CHUNK", 100)
    assert mnist(fashion, download=False)[0].name == "glyphs"
    with pytest.raises(UserError, match=r"Kuzushiji-MNIST is not on this machine.*KMNIST/raw"):
        mnist(fashion, data="kmnist", download=False)
    assert all(name in loading.TITLES for name in (*GREY, *BINARY))
    assert all(loading.TITLES[name] != "MNIST" for name in (*GREY, *BINARY) if name != "mnist")


def test_files_of_another_size_or_with_other_labels_are_refused(fashion):
    path = fashion / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte"
    good = path.read_bytes()
    for content in (good[:-1], good[:-1] + b"\x0a"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="t10k-labels"):
            mnist(fashion, data="fashion-mnist")


# ---- classifiers


@pytest.mark.parametrize(
    ("data", "least"), [("mnist", 0.992), ("mnist-binarised", 0.985), ("glyphs", 0.99), ("glyphs-binary", 0.99)]
)
def test_published_classifiers_are_small_and_say_how_good_they_are(data, least):
    path = ROOT / "code" / "common" / f"classifier-{data}.pt"
    assert path.stat().st_size < 1_000_000
    assert least <= load_state(path)["accuracy"] <= 1
    assert quality.origin(data) == path.name


def test_the_published_classifier_is_as_good_as_it_says(glyph_cache):
    model = quality.load_classifier("glyphs", torch.device("cpu"), lambda: pytest.fail("trained"))
    test = mnist(data="glyphs", download=False)[2].subset(1000)
    right = quality.classify(model, test.images / 255)[1].argmax(1) == test.labels
    assert float(right.float().mean()) > 0.99


@pytest.mark.parametrize("content", [{"other": 1}, [1, 2], {"state": {"weight": torch.zeros(3)}}])
def test_another_file_in_place_of_a_classifier_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "PUBLISHED", tmp_path)
    save_state(tmp_path / "classifier-glyphs.pt", content)
    with pytest.raises(UserError, match="belongs to another model"):
        quality.load_classifier("glyphs", torch.device("cpu"), None)


def test_for_other_data_a_classifier_is_trained_once_and_named(fashion, monkeypatch):
    """On images that are dark or bright by class."""
    train, val, test = mnist(fashion, data="fashion-mnist")
    for split in (train, test):
        split.images = (split.labels * 28).to(torch.uint8)[:, None].expand(-1, 784).clone()
    monkeypatch.setattr(quality, "EPOCHS", 100)
    lines, device, splits = [], torch.device("cpu"), lambda: (train, val, test)
    torch.manual_seed(3)
    first = quality.load_classifier("fashion-mnist", device, splits, lines.append)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))  # the caller's random state is left alone
    again = quality.load_classifier("fashion-mnist", device, lambda: pytest.fail("trained again"), lines.append)
    assert lines == ["Training a classifier for Fashion-MNIST (only once)"]
    assert torch.equal(quality.classify(first, test.images / 255)[0], quality.classify(again, test.images / 255)[0])
    assert "trained on this machine" in quality.origin("fashion-mnist")
    path = mnist_module.cache_folder() / "classifier-fashion-mnist.pt"
    assert load_state(path)["accuracy"] > 0.5
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        quality.load_classifier("fashion-mnist", device, splits)
