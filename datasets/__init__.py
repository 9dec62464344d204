"""The course's two data loaders, on tensors in memory, and the built-in digits that stand in for them offline.

    from datasets.mnist import mnist
    from datasets.bmnist import bmnist

    train, val, test = mnist()     # batches of (images [B, 784] in 0..255, labels [B])
    train, val, test = bmnist()    # batches of images [B, 1, 28, 28], 0 or 1

Names of the data: mnist, bmnist, mnist-binarised, glyphs, glyphs-binary. With `data="auto"` the real data are looked
for in `root`, in the folder that A3_DATA names, in the cache of this checkout and on the net; where they cannot be had,
binarised MNIST and at last the glyphs take their place, with a notice that nobody can miss.
"""

import os
import sys
from pathlib import Path

import torch

from datasets import bmnist, glyphs, mnist
from datasets.download import CHECKOUT, DataError, Missing

GREY, BINARY = ["mnist", "glyphs"], ["bmnist", "mnist-binarised", "glyphs-binary"]
TITLES = {
    "mnist": "MNIST",
    "bmnist": "static binary MNIST",
    "mnist-binarised": "MNIST, binarised by us",
    "glyphs": "glyph digits (not MNIST)",
    "glyphs-binary": "binary glyph digits (not MNIST)",
}


class Batches:
    """One split: uint8 images [N, 784] in memory, given out in float batches.

    `shuffle` draws a new order each time, `shift` moves a `share` of the images by up to that many pixels; both use
    torch's global random state. The last batch may be smaller. `labels` is None for binary MNIST (test split apart).
    """

    def __init__(self, images, labels, name, source, batch_size, *, binary, shuffle=False, shift=0):
        self.images, self.labels, self.name, self.source = images, labels, name, source
        self.batch_size, self.binary, self.shuffle, self.shift = batch_size, binary, shuffle, shift
        self.share = 1.0  # of the images that are shifted; the scripts let it fall to 0 while they train
        self.title = TITLES[name]

    def __len__(self):
        return -(-len(self.images) // self.batch_size)

    @property
    def dataset(self):
        return self.images

    def to(self, device):
        """The same split with its images on `device`; the order is drawn on the CPU and so is the same everywhere."""
        moved = self._copy(self.images.to(device), self.labels)
        moved.labels = None if self.labels is None else self.labels.to(device)
        return moved

    def subset(self, n):
        """`n` images evenly spread over the split (the binary test file is sorted by class: never take a prefix)."""
        picks = torch.linspace(0, len(self.images) - 1, min(n, len(self.images))).long()
        return self._copy(self.images[picks], None if self.labels is None else self.labels[picks])

    def _copy(self, images, labels):
        return Batches(
            images, labels, self.name, self.source, self.batch_size,
            binary=self.binary, shuffle=self.shuffle, shift=self.shift,
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
            if self.binary:
                yield batch.view(-1, 1, 28, 28)
            else:
                yield batch, labels[start : start + self.batch_size]


def shifted(images, pixels, share=1.0):
    """A share of the images moved by -pixels..pixels rows and columns, black moving in; [N, 784] -> [N, 784]."""
    span = 2 * pixels + 1
    padded = torch.nn.functional.pad(images.view(-1, 28, 28), [pixels] * 4)
    moves = torch.randint(span * span, (len(images),))
    moves[torch.rand(len(images)) >= share] = span * span // 2  # the middle: no move
    moves = moves.to(images.device)
    result = torch.empty_like(images).view(-1, 28, 28)
    for move in range(span * span):  # one slice for all images that move alike
        row, column = divmod(move, span)
        picks = torch.nonzero(moves == move).squeeze(1)
        result[picks] = padded[picks, row : row + 28, column : column + 28]
    return result.view(-1, 784)


def load(name="auto", root=None, download=True, binary=None):
    """(name, images of the three splits, their labels, source). `binary` says which kind of data is wanted."""
    if binary is None:
        binary = name in BINARY
    names = BINARY if binary else GREY
    if name not in ("auto", *names):
        raise DataError(
            f"no {'binary' if binary else 'grey'} data of the name {name!r}: choose auto, {', '.join(names)}"
        )
    roots = []
    for given in (root, os.environ.get("A3_DATA")):
        if given:
            # a relative folder is taken from the checkout, so that the scripts work from any folder
            path = CHECKOUT / Path(given).expanduser()
            if not path.is_dir() and given != "./data/":
                raise DataError(f"the data folder {given} does not exist: mend --data-root or A3_DATA")
            roots.append(path)
    failures = []
    for candidate in names if name == "auto" else [name]:
        try:
            labels = [None, None, None]
            if candidate == "bmnist":
                splits, source = bmnist.load(roots, download)
                labels[2] = bmnist.test_labels()
            elif candidate in ("mnist", "mnist-binarised"):
                splits, labels, source = mnist.load(roots, download)
            else:
                splits, labels, source = glyphs.load()
        except Missing as error:
            if name != "auto":
                raise DataError(f"{error}. {where_to_put(candidate)}, or use --data {names[-1]}") from None
            failures.append(str(error))
            continue
        if candidate in ("mnist-binarised", "glyphs-binary"):
            splits = mnist.binarise(splits)
        if failures:
            announce(candidate, failures)
        return candidate, splits, labels, source


def where_to_put(name):
    files = "BMNIST/raw/binarized_mnist_{train,valid,test}.amat" if name == "bmnist" else "MNIST/raw/*-ubyte"
    return f"Put {files} into a folder and name it with --data-root or A3_DATA"


def announce(name, failures):
    """The notice that other data are used than the ones that were meant."""
    wanted = "bmnist" if name in BINARY else "mnist"
    lines = [
        *(f"{failure}." for failure in failures),
        f"Going on with {TITLES[name]}: no figure of this run says anything about {TITLES[wanted]}.",
        f"{where_to_put(wanted)}.",
    ]
    for line in ["", "!" * 100, *(f"!! {line}" for line in lines), "!" * 100, ""]:
        print(line, file=sys.stderr, flush=True)


def loaders(loaded, batch_size, shift, binary):
    """Three `Batches` of what `load` returned; only the training split is shuffled, or shifted if asked."""
    name, splits, labels, source = loaded
    return tuple(
        Batches(
            split, its_labels, name, source, batch_size, binary=binary, shuffle=i == 0, shift=shift if i == 0 else 0
        )
        for i, (split, its_labels) in enumerate(zip(splits, labels, strict=True))
    )
