"""MNIST with grey values 0..255, Fashion-MNIST and Kuzushiji-MNIST.

Of the 60,000 training images, the first 50,000 are used for training and the last 10,000 for validation. The other
10,000 images are the test split. The files (`MNIST/raw/*-ubyte`) are downloaded by torchvision, which checks the
archives. The content of MNIST is also verified by SHA-256. The course's loader differs: it trains on 40,000 images and
shifts validation images at random.
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

CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}  # names in torchvision, and folders
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
    """The number of items in a file, the bytes of its header, and the bytes per item."""
    count = TRAINING if name.startswith("train") else TEST
    return (count, 16, 784) if "images" in name else (count, 8, 1)


def read_file(path, check):
    """The images [N, 784] or labels [N] of an idx file. `check`: verify the SHA-256."""
    data, (count, header, item) = read_bytes(path), layout(path.name)
    size, images = header + count * item, item > 1
    if len(data) != size:
        raise UserError(f"{show(path)} has {len(data):,} bytes instead of {size:,}: delete it and download it again")
    values = np.frombuffer(data, np.uint8)[header:]
    if (check and hashlib.sha256(values).hexdigest() != SHA256[path.name]) or (not images and values.max() > 9):
        raise UserError(f"{show(path)} is not the published file (checksum): delete it and download it again")
    return torch.from_numpy(values.reshape(count, -1).copy() if images else values.astype(np.int64))


def read(root, name):
    """Training images, training labels, test images, test labels; UserError if they are not the published ones."""
    return [read_file(root / CLASSES[name] / "raw" / file, name == "mnist") for file in SHA256]


def reasons(error):
    """The reasons of a failed download by torchvision, one per server."""
    text = " ".join(str(error).split()) or type(error).__name__
    found = re.findall(r"Tried https?://([^/]+)\S*, got: <?(?:urlopen error )?(.*?)>?(?= Tried|$)", text)
    return "; ".join(f"{host}: {why}" for host, why in found) or text


def download_files(name):
    """Download with torchvision, first into a temporary folder, so that the cache never contains incomplete files."""
    import torchvision

    folder_name = CLASSES[name]
    original = getattr(torchvision.datasets, folder_name)
    mirrors = [url for url in original.mirrors if url.startswith(SAFE)] or original.mirrors
    # a subclass with only the https mirrors; it has the same name because torchvision names the folder after the class
    chosen = type(folder_name, (original,), {"mirrors": mirrors})
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(download.TIMEOUT)
    try:
        with scratch_folder() as folder:
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # hides four progress bars
                    chosen(str(folder), download=True)
                parts = read(folder, name)
            except Exception as error:  # torchvision, urllib and damaged archives raise many kinds
                raise Missing(f"{loading.TITLES[name]} cannot be downloaded: {reasons(error)}") from None
            for archive in (folder / folder_name / "raw").glob("*.gz"):
                archive.unlink()
            if not has_files(cache_folder(), name):
                shutil.rmtree(cache_folder() / folder_name, ignore_errors=True)  # it is incomplete
                with contextlib.suppress(OSError):  # another process was faster
                    os.replace(folder / folder_name, cache_folder() / folder_name)
            return parts
    finally:
        socket.setdefaulttimeout(before)


def load(name, roots, may_download=True):
    """(images [N, 784] of train, valid and test; their labels; a text that names the source).

    Sources, in this order: the folders in `roots`, the cache, a download."""
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
    """Static binarisation: each pixel is drawn once from Bernoulli(grey value / 255), with a fixed seed."""
    generator = torch.Generator().manual_seed(BINARISATION_SEED)

    def draw(images):
        return (255 * torch.rand(images.shape, generator=generator) < images).to(torch.uint8)

    return [torch.cat([draw(images) for images in split.split(5000)]) for split in splits]


SOURCES = {name: functools.partial(load, name) for name in CLASSES} | {"glyphs": glyphs.load}
GREY = ["mnist", "glyphs", "fashion-mnist", "kmnist"]  # the choices of --data; "auto" tries the first two


def mnist(root="./data/", batch_size=128, download=True, data="auto", shift=0):
    """Three loaders of (images [B, 784] in 0..255, labels [B]). Only training images are shuffled and shifted."""
    found = loading.find(data, GREY, SOURCES, root, download)
    return loading.loaders(found, batch_size, shift, with_labels=True)
