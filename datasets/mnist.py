"""MNIST in grey values 0..255: 50,000 images for training, the last 10,000 of the 60,000 for validation, 10,000 for
test. Fashion-MNIST and Kuzushiji-MNIST have the same format and can be chosen by name.

The files are torchvision's (`MNIST/raw/*-ubyte`) and are downloaded by torchvision, which checks the archives. MNIST is
also checked against the published images. The course's loader trains on 40,000 images and validates on 10,000 others
with random shifts; ours never shifts a validation image.
"""

import contextlib
import functools
import hashlib
import io
import os
import re
import shutil
import socket

import numpy as np
import torch

from datasets import download, glyphs, loading
from datasets.download import Missing, cache_folder, scratch_folder
from datasets.files import UserError, read_bytes, show

CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}  # torchvision's, and their folders
VALIDATION, TRAINING, TEST = 10000, 60000, 10000
# SHA-256 of MNIST's images and labels, one byte each
SHA256 = {
    "train-images-idx3-ubyte": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "train-labels-idx1-ubyte": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "t10k-images-idx3-ubyte": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "t10k-labels-idx1-ubyte": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}
SAFE = "https://"
BINARISATION_SEED = 2019


def has_files(root, name):
    return all((root / CLASSES[name] / "raw" / file).is_file() for file in SHA256)


def layout(name):
    """(items, bytes of the header, bytes of an item) of a file."""
    count = TRAINING if name.startswith("train") else TEST
    return (count, 16, 784) if "images" in name else (count, 8, 1)


def read_file(path, check):
    """The bytes of images [N, 784] or labels [N] behind the header of an idx file."""
    data, (count, header, item) = read_bytes(path), layout(path.name)
    size, images = header + count * item, item > 1
    if len(data) != size:
        raise UserError(f"{show(path)} has {len(data):,} bytes where {size:,} belong: delete it and get it again")
    values = np.frombuffer(data, np.uint8)[header:]
    if (check and hashlib.sha256(values).hexdigest() != SHA256[path.name]) or (not images and values.max() > 9):
        raise UserError(f"{show(path)} is not the published file (checksum): delete it and get it again")
    return torch.from_numpy(values.reshape(count, -1).copy() if images else values.astype(np.int64))


def read(root, name):
    """[images, labels] of the training and of the test file; UserError unless they are the published ones."""
    return [read_file(root / CLASSES[name] / "raw" / file, name == "mnist") for file in SHA256]


def reasons(error):
    """Why a download by torchvision failed, one reason per server."""
    text = " ".join(str(error).split()) or type(error).__name__
    found = re.findall(r"Tried https?://([^/]+)\S*, got: <?(?:urlopen error )?(.*?)>?(?= Tried|$)", text)
    return "; ".join(f"{host}: {why}" for host, why in found) or text


def download_files(name):
    """With torchvision, into a scratch folder first, so that the cache never holds half of anything."""
    import torchvision

    original, folder_name = getattr(torchvision.datasets, CLASSES[name]), CLASSES[name]
    # under the same name, since torchvision names its folder after the class; https mirrors where there are any
    mirrors = [url for url in original.mirrors if url.startswith(SAFE)] or original.mirrors
    chosen = type(folder_name, (original,), {"mirrors": mirrors})
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(download.TIMEOUT)
    try:
        with scratch_folder() as folder:
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # four progress bars
                    chosen(str(folder), download=True)
                parts = read(folder, name)
            except Exception as error:  # whatever torchvision, urllib or a bad archive raises
                raise Missing(f"{loading.TITLES[name]} cannot be downloaded: {reasons(error)}") from None
            for archive in (folder / folder_name / "raw").glob("*.gz"):
                archive.unlink()
            if not has_files(cache_folder(), name):
                shutil.rmtree(cache_folder() / folder_name, ignore_errors=True)  # an incomplete one
                with contextlib.suppress(OSError):  # another process was first
                    os.replace(folder / folder_name, cache_folder() / folder_name)
            return parts
    finally:
        socket.setdefaulttimeout(before)


def load(name, roots, may_download=True):
    """((train, valid, test) images [N, 784], their labels, where they come from): from the folders in `roots`, the
    cache, or the net."""
    for root in (*roots, cache_folder()):
        if has_files(root, name):
            parts, source = read(root, name), f"from {show(root / CLASSES[name] / 'raw')}"
            break
    else:
        if not may_download:
            raise Missing(f"{loading.TITLES[name]} is not on this machine")
        parts, source = download_files(name), f"downloaded to {show(cache_folder() / CLASSES[name])}"
    images, labels, test, test_labels = parts
    sizes = [TRAINING - VALIDATION, VALIDATION]
    return [*images.split(sizes), test], [*labels.split(sizes), test_labels], source


def binarise(splits):
    """Each pixel drawn once as Bernoulli(grey value / 255), with a fixed seed: a static binarisation."""
    generator = torch.Generator().manual_seed(BINARISATION_SEED)
    return [
        torch.cat(
            [(255 * torch.rand(part.shape, generator=generator) < part).to(torch.uint8) for part in split.split(5000)]
        )
        for split in splits
    ]


SOURCES = {name: functools.partial(load, name) for name in CLASSES} | {"glyphs": glyphs.load}
GREY = ["mnist", "glyphs", "fashion-mnist", "kmnist"]  # "auto" tries the first two


def mnist(root="./data/", batch_size=128, download=True, data="auto", shift=0):
    """Three loaders of (images [B, 784] in 0..255, labels [B]); the training one shuffles (and shifts, if asked)."""
    found = loading.find(data, GREY, SOURCES, root, download)
    return loading.loaders(found, batch_size, shift, with_labels=True)
