"""Batches of images in memory, and the search for a dataset.

The modules `mnist` and `bmnist` list their datasets in order of preference. A dataset is searched for in `root`, in the
folder A3_DATA, in the cache and on its servers (static binary MNIST: in the cache first). With the name "auto" the
first available dataset is used. If this is the built-in glyph digits, a warning is printed.
"""

import copy
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from datasets.download import Missing
from datasets.files import ROOT, UserError

TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "kmnist": "Kuzushiji-MNIST"}
TITLES |= {f"{name}-binarised": f"{title} binarised by this project" for name, title in TITLES.items()}
TITLES |= {"glyphs": "glyph digits (not MNIST)", "glyphs-binary": "binary glyph digits (not MNIST)"}
TITLES |= {"bmnist": "static binary MNIST"}
FILES = {
    "bmnist": "BMNIST/raw/binarized_mnist_{train,valid,test}.amat",
    "mnist": "MNIST/raw/*-ubyte",
    "fashion-mnist": "FashionMNIST/raw/*-ubyte",
    "kmnist": "KMNIST/raw/*-ubyte",
}


@dataclass
class Data:
    """A dataset: for each of the three splits uint8 images [N, 784], and labels or None."""

    name: str
    splits: list
    labels: list
    source: str  # for the user: the file or server from which it was loaded
    wanted: str  # the name of the preferred dataset
    failures: list = field(default_factory=list)  # the reasons why preferred datasets were not used


class Batches:
    """A loader for one split, with its uint8 images [N, 784] in memory.

    It yields float images [B, 784] with labels [B], or float images [B, 1, 28, 28] if `with_labels` is false. The last
    batch may be smaller. `shuffle` draws a new order for each pass. `shift` moves a `share` of the images by up to that
    many pixels in each direction. Both use torch's global random state."""

    def __init__(self, images, labels, name, source, batch_size, *, with_labels, shuffle=False, shift=0):
        self.images, self.labels, self.name, self.source = images, labels, name, source
        self.batch_size, self.with_labels, self.shuffle, self.shift = batch_size, with_labels, shuffle, shift
        self.share = 1.0  # the share of shifted images; the scripts decrease it during training
        self.title = TITLES[name]

    def __len__(self):
        return -(-len(self.images) // self.batch_size)

    def to(self, device):
        """The same split with its tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    def subset(self, n):
        """`n` images evenly spread over the split; the first `n` would not do, as binary test images are sorted."""
        picks = torch.linspace(0, len(self.images) - 1, min(n, len(self.images))).long()
        return self._map(lambda tensor: tensor[picks])

    def as_means(self):
        """Grey images as floats in 0..1, without labels, as input of a VAE."""
        means = copy.copy(self)
        means.images, means.with_labels = self.images / 255, False
        return means

    def _map(self, change):
        """A copy with changed images and labels."""
        changed = copy.copy(self)
        changed.images, changed.labels = change(self.images), None if self.labels is None else change(self.labels)
        return changed

    def __iter__(self):
        images, labels = self.images, self.labels
        if self.shuffle:
            order = torch.randperm(len(images)).to(images.device)  # on the CPU: the same order for all devices
            images, labels = images[order], None if labels is None else labels[order]
        if self.shift:
            images = shifted(images, self.shift, self.share)
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size].float()
            if self.with_labels:
                yield batch, labels[start : start + self.batch_size]
            else:
                yield batch.view(-1, 1, 28, 28)


def shifted(images, pixels, share=1.0):
    """Shift a share of the images by up to `pixels` rows and columns, filled with black: [N, 784] -> [N, 784]."""
    span = 2 * pixels + 1
    padded = torch.nn.functional.pad(images.view(-1, 28, 28), [pixels] * 4)
    moves = torch.randint(span * span, (len(images),))
    moves[torch.rand(len(images)) >= share] = span * span // 2  # this number means no shift
    moves = moves.to(images.device)
    result = torch.empty_like(images).view(-1, 28, 28)
    for move in range(span * span):  # shift all images with the same number at once
        row, column = divmod(move, span)
        picks = torch.nonzero(moves == move).squeeze(1)
        result[picks] = padded[picks, row : row + 28, column : column + 28]
    return result.view(-1, 784)


def data_folders(*given):
    """The folders given by --data_root and A3_DATA. Relative paths start at the checkout."""
    folders = []
    for name in (*given, os.environ.get("A3_DATA")):
        if name:
            folder = ROOT / Path(name).expanduser()
            if not folder.is_dir() and name != "./data/":
                raise UserError(f"the data folder {name} does not exist: correct --data_root or A3_DATA")
            folders.append(folder)
    return folders


def find(name, names, sources, root=None, download=True):
    """The dataset `name`, or with "auto" the first available one of `names`. `sources`: {name: function to load it}."""
    if name not in ("auto", *names):
        raise UserError(f"there is no dataset {name!r} of this kind: choose auto, {', '.join(names)}")
    roots, failures = data_folders(root), []
    built_in = next(candidate for candidate in names if candidate.startswith("glyphs"))
    for candidate in names if name == "auto" else [name]:
        try:
            splits, labels, source = sources[candidate](roots, download)
        except Missing as error:
            if name != "auto":
                raise UserError(f"{error}. {what_to_do(candidate)}, or use --data {built_in}") from None
            failures.append(str(error))
            continue
        return Data(candidate, splits, labels, source, names[0], failures)


def what_to_do(name):
    return f"Put {FILES[name.removesuffix('-binarised')]} into a folder and give it with --data_root or A3_DATA"


def warn(*found):
    """One warning for all datasets that replace the preferred ones: what is used instead, and what to do."""
    other = [data for data in found if data.failures]
    if not other:
        return
    lines = [f"{failure}." for data in other for failure in data.failures]
    for data in other:
        lines.append(f"Using {TITLES[data.name]} instead: these are not results on {TITLES[data.wanted]}.")
    lines += [f"{what_to_do(data.wanted)}." for data in other]
    for line in ["", "!" * 100, *(f"!! {line}" for line in dict.fromkeys(lines)), "!" * 100, ""]:
        print(line, file=sys.stderr, flush=True)


def loaders(data, batch_size, shift, with_labels):
    """The three loaders; only the training images are shuffled and shifted."""
    warn(data)
    options = [{"shuffle": True, "shift": shift}, {}, {}]
    return tuple(
        Batches(images, labels, data.name, data.source, batch_size, with_labels=with_labels, **more)
        for images, labels, more in zip(data.splits, data.labels, options, strict=True)
    )
