"""MNIST in grey values 0..255: 50,000 images for training, the last 10,000 of the 60,000 for validation, 10,000 for
test.

The files are torchvision's (`MNIST/raw/*-ubyte`), read and downloaded by torchvision and checked against the published
images. The course's loader trains on 40,000 and validates on 10,000 others with random shifts; ours never shifts a
validation image.
"""

import contextlib
import hashlib
import io
import os
import shutil
import socket

import torch

from datasets import glyphs, loading
from datasets.download import TIMEOUT, Missing, cache_folder, scratch_folder
from datasets.files import UserError, show

# SHA-256 of the 60,000 and the 10,000 images, and of their labels, one byte each
SHA256 = {
    True: (
        "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    ),
    False: (
        "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
}
FILES = {
    f"{part}-{kind}-ubyte": size
    for part, count in (("train", 60000), ("t10k", 10000))
    for kind, size in (("images-idx3", 16 + 784 * count), ("labels-idx1", 8 + count))
}
SAFE = "https://"
BINARISATION_SEED = 2019


def find(root):
    return all((root / "MNIST" / "raw" / name).is_file() for name in FILES)


def read(root):
    """((images, labels) of the 60,000, the same of the 10,000), uint8; UserError unless they are MNIST to the bit."""
    from torchvision.datasets import MNIST  # takes a second, which cached runs save

    raw = root / "MNIST" / "raw"
    for name, size in FILES.items():
        found = (raw / name).stat().st_size
        if found != size:
            raise UserError(f"{show(raw / name)} has {found:,} bytes where {size:,} belong: delete it, get it again")
    parts = []
    for train, digests in SHA256.items():
        try:
            part = MNIST(str(root), train=train, download=False)
        except (OSError, ValueError, RuntimeError, AssertionError, KeyError, IndexError):
            raise UserError(f"{show(raw)} holds files that are not MNIST's: delete them and get them again") from None
        pair = part.data, part.targets.to(torch.uint8)
        for what, values, digest in zip(("images", "labels"), pair, digests, strict=True):
            if hashlib.sha256(values.numpy()).hexdigest() != digest:
                name = f"{'train' if train else 't10k'}-{what}"
                raise UserError(f"{show(raw / name)}* are not MNIST's (checksum): delete them and get them again")
        parts.append(pair)
    return parts


def download_files():
    """With torchvision, into a scratch folder first, so that the cache never holds half of anything."""
    from torchvision.datasets import MNIST

    # under the same name, since torchvision names its folder after the class; its https mirrors only
    https = type("MNIST", (MNIST,), {"mirrors": [url for url in MNIST.mirrors if url.startswith(SAFE)]})
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with scratch_folder() as folder:
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # four progress bars
                    https(str(folder), download=True)
                parts = read(folder)
            except Exception as error:  # whatever torchvision, urllib or a bad archive raises
                reason = " ".join(str(error).split()) or type(error).__name__
                raise Missing(f"MNIST cannot be downloaded: {reason}") from None
            for archive in (folder / "MNIST" / "raw").glob("*.gz"):
                archive.unlink()
            target = cache_folder() / "MNIST"
            if not find(cache_folder()):
                shutil.rmtree(target, ignore_errors=True)  # an incomplete one
                with contextlib.suppress(OSError):  # another process was first
                    os.replace(folder / "MNIST", target)
            return parts
    finally:
        socket.setdefaulttimeout(before)


def load(roots, may_download=True):
    """((train, valid, test) images [N, 784], their labels, a sentence that says where they come from)."""
    for root in (*roots, cache_folder()):
        if find(root):
            parts, source = read(root), f"from {show(root / 'MNIST' / 'raw')}"
            break
    else:
        if not may_download:
            raise Missing("MNIST is not on this machine")
        parts, source = download_files(), f"downloaded to {show(cache_folder() / 'MNIST')}"
    (images, labels), (test, test_labels) = parts
    images = images.flatten(1)
    splits = [images[:50000], images[50000:], test.flatten(1)]
    return splits, [labels[:50000].long(), labels[50000:].long(), test_labels.long()], source


def binarise(splits):
    """Each pixel drawn once as Bernoulli(grey value / 255), with a fixed seed: a static binarisation."""
    generator = torch.Generator().manual_seed(BINARISATION_SEED)
    return [
        torch.cat(
            [(255 * torch.rand(part.shape, generator=generator) < part).to(torch.uint8) for part in split.split(5000)]
        )
        for split in splits
    ]


SOURCES = {"mnist": load, "glyphs": glyphs.load}
GREY = list(SOURCES)


def mnist(root="./data/", batch_size=128, download=True, data="auto", shift=0):
    """Three loaders of (images [B, 784] in 0..255, labels [B]); the training one shuffles (and shifts, if asked)."""
    return loading.loaders(loading.find(data, SOURCES, root, download), batch_size, shift, with_labels=True)
