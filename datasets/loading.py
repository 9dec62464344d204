"""Batches of images in memory, and the lookup that finds the best data at hand.

`mnist` and `bmnist` name their sources, the best first. With the name "auto" they are tried in that order: in `root`,
in the folder that A3_DATA names, in the cache of this checkout, on the net. The built-in glyph digits come last, with a
warning.
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from datasets.download import Missing
from datasets.files import ROOT, UserError

TITLES = {
    "mnist": "MNIST",
    "bmnist": "static binary MNIST",
    "mnist-binarised": "MNIST binarised by this project",
    "glyphs": "glyph digits (not MNIST)",
    "glyphs-binary": "binary glyph digits (not MNIST)",
    "fashion-mnist": "Fashion-MNIST",
    "fashion-mnist-binarised": "Fashion-MNIST binarised by this project",
    "kmnist": "Kuzushiji-MNIST",
    "kmnist-binarised": "Kuzushiji-MNIST binarised by this project",
}
FILES = {
    "bmnist": "BMNIST/raw/binarized_mnist_{train,valid,test}.amat",
    "mnist": "MNIST/raw/*-ubyte",
    "fashion-mnist": "FashionMNIST/raw/*-ubyte",
    "kmnist": "KMNIST/raw/*-ubyte",
}


@dataclass
class Data:
    """The three splits: uint8 images [N, 784] each, and their labels or None."""

    name: str
    splits: list
    labels: list
    source: str  # where they come from, for the user
    wanted: str  # the name of the best source, which may be another one
    failures: list = field(default_factory=list)  # why better sources were not used


class Batches:
    """One split: uint8 images [N, 784] in memory, given out in float batches.

    A batch is (images [B, 784], labels [B]), or without labels images [B, 1, 28, 28] alone. `shuffle` draws a new order
    each time, `shift` moves a `share` of the images by up to that many pixels; both use torch's global random state.
    The last batch may be smaller.
    """

    def __init__(self, images, labels, name, source, batch_size, *, with_labels, shuffle=False, shift=0):
        self.images, self.labels, self.name, self.source = images, labels, name, source
        self.batch_size, self.with_labels, self.shuffle, self.shift = batch_size, with_labels, shuffle, shift
        self.share = 1.0  # of the images that are shifted; the scripts lower it to 0 during training
        self.title = TITLES[name]

    def __len__(self):
        return -(-len(self.images) // self.batch_size)

    @property
    def dataset(self):
        return self.images

    def to(self, device):
        """The same split with its images on `device`; the order is drawn on the CPU, so it is the same everywhere."""
        return self._copy(self.images.to(device), None if self.labels is None else self.labels.to(device))

    def subset(self, n):
        """`n` images evenly spread over the split (the binary test file is sorted by class: never take a prefix)."""
        picks = torch.linspace(0, len(self.images) - 1, min(n, len(self.images))).long()
        return self._copy(self.images[picks], None if self.labels is None else self.labels[picks])

    def as_means(self):
        """Grey images as float values in 0..1, without labels: what a VAE reads."""
        copy = self._copy(self.images / 255, self.labels)
        copy.with_labels = False
        return copy

    def _copy(self, images, labels):
        return Batches(
            images, labels, self.name, self.source, self.batch_size,
            with_labels=self.with_labels, shuffle=self.shuffle, shift=self.shift,
        )  # fmt: skip

    def __iter__(self):
        images, labels = self.images, self.labels
        if self.shuffle:
            order = torch.randperm(len(images)).to(images.device)
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
    """A share of the images moved by -pixels..pixels rows and columns, filled with black; [N, 784] -> [N, 784]."""
    span = 2 * pixels + 1
    padded = torch.nn.functional.pad(images.view(-1, 28, 28), [pixels] * 4)
    moves = torch.randint(span * span, (len(images),))
    moves[torch.rand(len(images)) >= share] = span * span // 2  # the middle: no move
    moves = moves.to(images.device)
    result = torch.empty_like(images).view(-1, 28, 28)
    for move in range(span * span):  # one slice for all images with the same move
        row, column = divmod(move, span)
        picks = torch.nonzero(moves == move).squeeze(1)
        result[picks] = padded[picks, row : row + 28, column : column + 28]
    return result.view(-1, 784)


def data_folders(*given):
    """The folders that the user names, with --data_root or A3_DATA. Relative ones start at the checkout."""
    folders = []
    for name in (*given, os.environ.get("A3_DATA")):
        if name:
            folder = ROOT / Path(name).expanduser()
            if not folder.is_dir() and name != "./data/":
                raise UserError(f"the data folder {name} does not exist: correct --data_root or A3_DATA")
            folders.append(folder)
    return folders


def find(name, names, sources, root=None, download=True):
    """The data of this name, or with "auto" the first of `names`, down to the glyph digits, that can be had.

    `sources`: {name: function that loads it}."""
    if name not in ("auto", *names):
        raise UserError(f"there are no data {name!r} of this kind: choose auto, {', '.join(names)}")
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
    return f"Put {FILES[name.removesuffix('-binarised')]} into a folder and name it with --data_root or A3_DATA"


def warn(*found):
    """One warning for all kinds of data that are not the wanted ones: what is used instead, and what to do."""
    other = [data for data in found if data.failures]
    if not other:
        return
    lines = [*dict.fromkeys(f"{failure}." for data in other for failure in data.failures)]
    for data in other:
        lines.append(f"Using {TITLES[data.name]} instead of {TITLES[data.wanted]}: no result says anything about it.")
    lines += dict.fromkeys(f"{what_to_do(data.wanted)}." for data in other)
    for line in ["", "!" * 100, *(f"!! {line}" for line in lines), "!" * 100, ""]:
        print(line, file=sys.stderr, flush=True)


def loaders(data, batch_size, shift, with_labels):
    """Three `Batches`; only the training split is shuffled, or shifted if asked."""
    warn(data)
    return tuple(
        Batches(
            images, labels, data.name, data.source, batch_size,
            with_labels=with_labels, shuffle=i == 0, shift=shift if i == 0 else 0,
        )
        for i, (images, labels) in enumerate(zip(data.splits, data.labels, strict=True))
    )  # fmt: skip
