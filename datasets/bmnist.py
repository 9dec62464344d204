"""Static binary MNIST (Larochelle and Murray 2011): 50,000 / 10,000 / 10,000 images with pixels 0 or 1.

They are read from the published text files (plain or .gz), from the archive of the MADE release, or from this project's
cache of packed bits. In all cases the bits are verified by SHA-256. The files contain no labels. The test images are
MNIST's, sorted by class, so their labels follow from the number of images in each class.
"""

import gzip
import hashlib
import io
import zipfile
import zlib

import numpy as np
import torch

from datasets import glyphs, loading, mnist
from datasets.download import Missing, cache_folder, fetch, read_cache, scratch_folder, write_cache
from datasets.files import UserError, read_bytes, show

SIZES = {"train": 50000, "valid": 10000, "test": 10000}
# SHA-256 of the packed bits, 98 bytes per image, in the published order
SHA256 = {
    "train": "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
    "valid": "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
    "test": "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
}
# the number of 0s, 1s, ... in MNIST's test set (LeCun et al. 1998)
TEST_CLASSES = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
LAROCHELLE = "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/binarized_mnist_{}.amat"
MADE = "https://github.com/mgermain/MADE/releases/download/ICML2015/binarized_mnist.npz"


def read_amat(path):
    """Read the text format, one image per line: 784 digits 0 or 1, separated by spaces. Returns [N, 784] uint8."""
    data = read_bytes(path)
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            raise UserError(f"{show(path)} is not a complete gzip file: delete it and download it again") from None
    if data and not data.endswith(b"\n"):
        data += b"\n"
    text = np.frombuffer(data, np.uint8)
    # The fast way if every line is "d d ... d\n" with 1568 bytes, as in the published files.
    if len(text) and len(text) % 1568 == 0:
        lines = text.reshape(-1, 1568)
        images, separators = lines[:, ::2] - ord("0"), lines[:, 1::2]
        if images.max() <= 1 and (separators[:, :-1] == ord(" ")).all() and (separators[:, -1] == ord("\n")).all():
            return images
    return read_amat_slowly(path, data)


def read_amat_slowly(path, data):
    """Read lines with any spacing. The error names the first line that is not an image."""
    lines = data.splitlines()
    images = np.empty((len(lines), 784), np.uint8)
    for number, line in enumerate(lines, 1):
        digits, where = line.split(), f"{show(path)}, line {number}"
        if len(digits) != 784:
            raise UserError(f"{where}: {len(digits)} numbers instead of 784; download the file again")
        for digit in digits:
            if digit not in (b"0", b"1"):
                wrong = digit.decode("ascii", "replace")[:20]
                raise UserError(f"{where}: a pixel is {wrong!r}, not 0 or 1; download the file again")
        images[number - 1] = np.array(digits, np.uint8)
    return images


def read_npz(path):
    """Read the archive of the MADE release. Returns the three splits [N, 784] uint8."""
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as archive:
            splits = [archive[f"{split}_data"].reshape(-1, 784) for split in SIZES]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"{show(path)} is not the MADE archive: delete it and download it again") from None
    if not all(((split == 0) | (split == 1)).all() for split in splits):
        raise UserError(f"{show(path)} contains pixels other than 0 and 1; download the file again")
    return [split.astype(np.uint8) for split in splits]


def check(split, packed, path):
    """Returns the packed bits if they are the published ones; UserError otherwise."""
    if len(packed) != SIZES[split]:
        raise UserError(f"{show(path)} has {len(packed):,} images instead of {SIZES[split]:,}; download the file again")
    if hashlib.sha256(packed).hexdigest() != SHA256[split]:
        raise UserError(f"{show(path)} is not the published {split} split (checksum); delete it and download it again")
    return packed


def find(root):
    """The files in a folder, as {split: path} or {"all": path}; None if they are incomplete or missing."""
    for folder in (root / "BMNIST" / "raw", root / "BMNIST", root):
        for ending in ("amat", "amat.gz"):
            paths = {split: folder / f"binarized_mnist_{split}.{ending}" for split in SIZES}
            if all(path.is_file() for path in paths.values()):
                return paths
        if (folder / "binarized_mnist.npz").is_file():
            return {"all": folder / "binarized_mnist.npz"}
    return None


def read(paths):
    """The three splits as packed bits, from the files that `find` returned."""
    splits = read_npz(paths["all"]) if "all" in paths else (read_amat(paths[split]) for split in SIZES)
    return [check(split, np.packbits(x, axis=1), paths.get("all") or paths[split]) for split, x in zip(SIZES, splits)]


def download_files():
    """The three splits from the first source that works. If none does, Missing gives the reason of each failure."""
    reasons = []
    with scratch_folder() as folder:
        for urls in ({split: LAROCHELLE.format(split) for split in SIZES}, {"all": MADE}):
            try:
                paths = {}
                for split, url in urls.items():
                    paths[split] = folder / url.split("/")[-1]
                    fetch(url, paths[split])
                return read(paths)
            except UserError as error:
                reasons.append(str(error))
    raise Missing("binary MNIST cannot be downloaded: " + "; ".join(reasons))


def load(roots, may_download=True):
    """(images [N, 784] uint8 of train, valid and test; their labels, only for test; a text that names the source).

    Sources, in this order: the cache, the folders in `roots`, a download."""
    cached, notes, packed = cache_folder() / "bmnist.cache", [], None
    if cached.is_file():
        try:
            packed = [check(split, bits, cached) for split, bits in zip(SIZES, read_cache(cached, SIZES), strict=True)]
            source = f"from {show(cached)}"
        except UserError as error:
            notes.append(f"{error}; written again")
    if packed is None:
        if paths := next(filter(None, map(find, roots)), None):
            packed, source = read(paths), f"from {show(next(iter(paths.values())).parent)}"
        elif may_download:
            packed, source = download_files(), "downloaded"
        else:
            raise Missing("binary MNIST is not on this machine")
        problem = write_cache(cached, **dict(zip(SIZES, packed, strict=True)))
        notes += [problem] if problem else []
    splits = [torch.from_numpy(np.unpackbits(bits, axis=1)) for bits in packed]
    test_labels = torch.repeat_interleave(torch.arange(10), torch.tensor(TEST_CLASSES))
    return splits, [None, None, test_labels], "; ".join([source, *notes])


def binarised(load):
    """A function that loads the same images with binary pixels, each drawn once (see `mnist.binarise`)."""

    def load_binarised(roots, may_download=True):
        splits, labels, source = load(roots, may_download)
        return mnist.binarise(splits), labels, source

    return load_binarised


SOURCES = {"bmnist": load, "glyphs-binary": binarised(glyphs.load)}
SOURCES |= {f"{name}-binarised": binarised(mnist.SOURCES[name]) for name in mnist.CLASSES}
# the choices of --data; "auto" tries the first three
BINARY = ["bmnist", "mnist-binarised", "glyphs-binary", "fashion-mnist-binarised", "kmnist-binarised"]


def bmnist(root="./data/", batch_size=128, download=True, data="auto", shift=0):
    """Three loaders of images [B, 1, 28, 28] with pixels 0 or 1. Only training images are shuffled and shifted."""
    found = loading.find(data, BINARY, SOURCES, root, download)
    return loading.loaders(found, batch_size, shift, with_labels=False)
