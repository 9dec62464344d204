"""The loaders: shapes, ranges, splits; damaged files, failing servers, full disks; no half-written or other data."""

import gzip
import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT
from datasets import bmnist as bmnist_module
from datasets import download, glyphs, loading
from datasets import mnist as mnist_module
from datasets.download import Missing
from datasets.files import UserError


def load(name, root=None, download=True):
    """(name, splits, labels, source) of the data of any name; "auto": binary data."""
    grey = name in mnist_module.GREY
    names = mnist_module.GREY if grey else bmnist_module.BINARY
    data = loading.find(name, names, (mnist_module if grey else bmnist_module).SOURCES, root, download)
    loading.warn(data)
    return data.name, data.splits, data.labels, data.source


REAL = os.environ.get("A3_DATA")
needs_real = pytest.mark.skipif(not REAL, reason="A3_DATA does not name the real data")


def amat(images):
    return "".join(" ".join(map(str, row)) + "\n" for row in images).encode()


def few_images(n=12):
    return np.random.default_rng(0).integers(0, 2, (n, 784)).astype(np.uint8)


# ---- what the loaders return


def test_bmnist_gives_binary_images(glyph_cache):
    train, val, test = bmnist_module.bmnist(data="glyphs-binary", download=False)
    assert [len(split.images) for split in (train, val, test)] == [50000, 10000, 10000]
    batch = next(iter(train))
    assert batch.shape == (128, 1, 28, 28)
    assert batch.dtype == torch.float32
    assert set(batch.unique().tolist()) == {0.0, 1.0}
    assert sum(len(x) for x in val) == 10000


def test_mnist_gives_grey_images_and_labels(glyph_cache):
    train, val, test = mnist_module.mnist(data="glyphs", batch_size=64, download=False)
    for split in (train, val, test):
        images, labels = next(iter(split))
        assert images.shape == (64, 784)
        assert labels.shape == (64,)
        assert images.dtype == torch.float32
        assert images.max() > 200
        assert images.min() == 0
    assert train.name == "glyphs"
    assert "not MNIST" in train.title


def test_only_training_images_are_shuffled_and_shifted(glyph_cache):
    train, val, test = mnist_module.mnist(data="glyphs", shift=1, download=False)
    torch.manual_seed(0)
    first, again = next(iter(train))[0], next(iter(train))[0]
    assert not torch.equal(first, again)
    torch.manual_seed(0)
    assert torch.equal(first, next(iter(train))[0])
    for split in (val, test):
        assert torch.equal(next(iter(split))[0], split.images[:128].float())


def test_a_share_of_the_images_is_shifted_by_at_most_one_pixel():
    torch.manual_seed(0)
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, 10, 15] = 200
    for share in (0.0, 0.3, 1.0):
        moved = loading.shifted(image.view(1, 784).repeat(4000, 1), 1, share).view(-1, 28, 28)
        places = {tuple(map(int, torch.nonzero(m)[0])) for m in moved}
        assert places == {(10 + r, 15 + c) for r in (-1, 0, 1) for c in (-1, 0, 1) if share or (r, c) == (0, 0)}
        assert (moved.flatten(1).long().sum(1) == 200).all()
        left = (moved[:, 10, 15] == 0).float().mean().item()
        assert left == pytest.approx(share * 8 / 9, abs=0.03)  # one of the nine moves is none


def test_mnist_is_split_in_order_and_binarised_with_its_labels(monkeypatch):
    """Every image's first pixels and its label tell its number."""
    number = torch.arange(60000)
    images = torch.zeros(60000, 28, 28, dtype=torch.uint8)
    images[:, 0, :16] = 255 * (number[:, None] // 2 ** torch.arange(16) % 2).to(torch.uint8)
    whole = [images.flatten(1), number % 251, images[:10000].flatten(1), number[:10000] % 241]
    monkeypatch.setattr(mnist_module, "has_files", lambda root, name: True)
    monkeypatch.setattr(mnist_module, "read", lambda root, name: whole)
    for name, white in (("mnist", 255), ("mnist-binarised", 1)):
        _, splits, labels, _ = load(name)
        for split, label, (start, stop, base) in zip(
            splits, labels, ((0, 50000, 251), (50000, 60000, 251), (0, 10000, 241)), strict=True
        ):
            found = (split[:, :16].long() // white * 2 ** torch.arange(16)).sum(1)
            assert torch.equal(found, number[start:stop])
            assert torch.equal(label, found % base)


def test_a_subset_is_spread_over_the_split(glyph_cache):
    _, _, test = bmnist_module.bmnist(data="glyphs-binary", download=False)
    assert torch.equal(test.subset(10).images[-1], test.images[-1])
    assert len(test.subset(10).images) == 10
    means = test.as_means()  # for white = 255
    assert torch.equal(means.images, test.images / 255)
    assert torch.equal(next(iter(means)).flatten(1), test.images[:128] / 255)


def test_splits_share_no_image(glyph_cache):
    _, splits, _, _ = load("glyphs")
    seen = [{image.tobytes() for image in split.numpy()} for split in splits]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="there is no dataset 'cifar'"):
        load("cifar")
    with pytest.raises(UserError, match="does not exist"):
        load("auto", root="/no/such/folder")


def test_loading_and_iterating_is_fast(glyph_cache):
    train, _, _ = mnist_module.mnist(data="glyphs", shift=1, download=False)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert sum(len(images) for images, _ in train) == 50000
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 5  # 0.25 s on two quiet cores


# ---- glyph digits


def test_glyphs_are_balanced_grey_and_varied(glyph_cache):
    _, (train, *_), labels, _ = load("glyphs")
    assert torch.bincount(torch.cat([*labels])).tolist() == [7000] * 10
    assert 0.10 < train.float().mean() / 255 < 0.18
    assert ((train > 20) & (train < 200)).float().mean() > 0.03  # grey edges
    assert len({font.split("-")[0].removesuffix("Italic") for font in glyphs.FONTS}) >= 5
    assert train[:, ::28].float().mean() < 5  # margins are dark
    assert train[:, :28].float().mean() < 5


def test_same_seed_same_bytes(monkeypatch):
    monkeypatch.setattr(glyphs, "SIZES", [100, 50, 50])
    monkeypatch.setattr(glyphs, "CHUNK", 100)
    (images, labels), (images_again, labels_again) = glyphs.make(), glyphs.make()
    assert torch.equal(images, images_again)
    assert torch.equal(labels, labels_again)


def small_cnn():
    nn = torch.nn
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(800, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


@pytest.mark.slow
def test_glyphs_are_readable_but_not_trivial(glyph_cache):
    train, _, test = mnist_module.mnist(data="glyphs", download=False)
    torch.manual_seed(0)
    model = small_cnn()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(3):
        for images, labels in train:
            loss = torch.nn.functional.cross_entropy(model(images / 255), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        right = sum((model(images / 255).argmax(1) == labels).sum() for images, labels in test) / 10000
    assert 0.97 <= right <= 0.999


def test_binarisation_draws_each_pixel_with_its_grey_value():
    grey = torch.full((2000, 784), 51, dtype=torch.uint8)
    (binary,), (again,) = mnist_module.binarise([grey]), mnist_module.binarise([grey])
    assert set(binary.unique().tolist()) == {0, 1}
    assert abs(binary.float().mean() - 0.2) < 0.002
    assert torch.equal(binary, again)


# ---- the real files


@needs_real
def test_real_mnist_is_split_as_said_and_upright():
    train, val, test = mnist_module.mnist(REAL, data="mnist", download=False)
    raw = np.fromfile(f"{REAL}/MNIST/raw/train-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 784)
    assert (val.images.numpy() == raw[50000:]).all()
    assert (train.images.numpy() == raw[:50000]).all()
    assert [len(split.images) for split in (train, val, test)] == [50000, 10000, 10000]
    for split in (train, val, test):  # a 1 is higher than wide, in every split, and in 0..255
        ones = split.images[split.labels == 1].view(-1, 28, 28).float()
        assert ones.max() == 255
        assert (ones.amax(2) > 100).sum() > 2 * (ones.amax(1) > 100).sum()


@needs_real
def test_real_binary_mnist_from_text_and_from_the_cache(empty_cache):
    start = time.perf_counter()
    name, splits, labels, source = load("bmnist", REAL, download=False)
    from_text = time.perf_counter() - start
    start = time.perf_counter()
    _, cached, _, source_again = load("bmnist", None, download=False)
    from_cache = time.perf_counter() - start
    assert name == "bmnist"
    assert "bmnist.cache" in source_again
    assert "BMNIST" in source
    assert all(torch.equal(a, b) for a, b in zip(splits, cached))
    assert from_text < 6  # 1.3 s and 0.1 s on two quiet cores
    assert from_cache < 1
    # the test split is MNIST's, sorted by class: labels and pictures must fit
    means = torch.stack([splits[2][labels[2] == digit].float().mean(0) for digit in range(10)])
    mnist_test = mnist_module.mnist(REAL, data="mnist", download=False)[2]
    grey = torch.stack([mnist_test.images[mnist_test.labels == digit].float().mean(0) / 255 for digit in range(10)])
    assert (means - grey).abs().max() < 0.07


@needs_real
def test_binarised_mnist_stands_in_where_only_mnist_is_there(empty_cache, tmp_path, capsys, monkeypatch):
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "MNIST").symlink_to(f"{REAL}/MNIST")
    name, splits, _, _ = load("auto", tmp_path / "only", download=False)
    assert name == "mnist-binarised"
    assert set(splits[0].unique().tolist()) == {0, 1}
    assert "!!" in capsys.readouterr().err


# ---- damaged files


def test_text_files_of_every_spelling_are_read(tmp_path):
    images = few_images()
    plain = tmp_path / "plain.amat"
    plain.write_bytes(amat(images))
    packed = tmp_path / "packed.amat.gz"
    packed.write_bytes(gzip.compress(amat(images)))
    spaced = tmp_path / "spaced.amat"
    spaced.write_bytes(amat(images).replace(b"\n", b" \r\n"))
    cut = tmp_path / "no-newline.amat"
    cut.write_bytes(amat(images)[:-1])
    for path in (plain, packed, spaced, cut):
        assert (bmnist_module.read_amat(path) == images).all(), path.name


def test_a_damaged_text_file_is_named_with_its_line(tmp_path):
    lines = amat(few_images()).splitlines(keepends=True)
    cases = {
        "783 numbers": [*lines[:3], lines[3][2:], *lines[4:]],
        "a pixel is '2'": [*lines[:3], b"2" + lines[3][1:], *lines[4:]],
        "a pixel is 'x'": [*lines[:3], b"x" + lines[3][1:], *lines[4:]],
        "1 numbers": [*lines[:3], b"<html>\n"],
    }
    for message, content in cases.items():
        path = tmp_path / "binarized_mnist_train.amat"
        path.write_bytes(b"".join(content))
        with pytest.raises(UserError, match=message) as caught:
            bmnist_module.read_amat(path)
        assert "line 4" in str(caught.value)
        assert path.name in str(caught.value)


@pytest.mark.parametrize("content", [b"<html>404</html>", gzip.compress(amat(few_images()))[:-40]], ids=["html", "cut"])
def test_what_is_no_gzip_file_is_refused(tmp_path, content):
    path = tmp_path / "binarized_mnist_train.amat.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a complete gzip file"):
        bmnist_module.read_amat(path)


def test_right_format_but_other_content_is_refused(tmp_path, empty_cache):
    folder = tmp_path / "BMNIST" / "raw"
    folder.mkdir(parents=True)
    for split in bmnist_module.SIZES:
        (folder / f"binarized_mnist_{split}.amat").write_bytes(amat(few_images()))
    with pytest.raises(UserError, match="12 images instead of 50,000"):
        load("auto", tmp_path)
    with pytest.raises(UserError, match="checksum"):
        bmnist_module.check("valid", np.zeros((10000, 98), np.uint8), folder)
    assert not list(empty_cache.glob("*"))


def test_an_archive_that_is_none_is_refused(tmp_path, empty_cache):
    (tmp_path / "binarized_mnist.npz").write_bytes(b"PK\3\4 no archive")
    with pytest.raises(UserError, match=r"binarized_mnist\.npz"):
        load("bmnist", tmp_path)


def fake_mnist(folder, sizes=None):
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in mnist_module.SHA256:
        count, header, item = mnist_module.layout(name)
        with open(raw / name, "wb") as file:
            file.truncate((sizes or {}).get(name, header + count * item))
    return raw


def test_mnist_files_of_wrong_length_or_content_are_refused(tmp_path, empty_cache):
    short = fake_mnist(tmp_path / "short", {"train-images-idx3-ubyte": 5000})
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte has 5,000 bytes instead of 47,040,016"):
        loading.find("auto", mnist_module.GREY, mnist_module.SOURCES, short.parents[1])
    zeros = fake_mnist(tmp_path / "zeros")
    with pytest.raises(UserError, match="not the published file"):
        load("mnist", zeros.parents[1])


@needs_real
def test_one_flipped_pixel_of_mnist_is_noticed(tmp_path, empty_cache):
    raw = fake_mnist(tmp_path)
    for name in mnist_module.SHA256:
        content = bytearray(Path(f"{REAL}/MNIST/raw/{name}").read_bytes())
        if name == "t10k-images-idx3-ubyte":
            content[12345] ^= 1
        (raw / name).write_bytes(content)
    with pytest.raises(UserError, match="t10k-images"):
        loading.find("auto", mnist_module.GREY, mnist_module.SOURCES, tmp_path)


def small_glyphs(monkeypatch):
    monkeypatch.setattr(glyphs, "SIZES", [60, 20, 20])
    monkeypatch.setattr(glyphs, "CHUNK", 100)


def test_a_cache_file_with_any_byte_flipped_or_cut_is_made_again(empty_cache, monkeypatch):
    small_glyphs(monkeypatch)
    drawn = glyphs.distance_fields()
    monkeypatch.setattr(glyphs, "distance_fields", lambda: drawn)
    splits, _, _ = glyphs.load()
    path = empty_cache / "glyphs.cache"
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    for trial in range(100):
        bad = bytearray(good)
        if trial % 2:
            bad[rng.integers(len(good))] ^= 1 << rng.integers(8)
        else:
            bad = bad[: rng.integers(len(good))]
        path.write_bytes(bad)
        again, _, source = glyphs.load()
        assert "damaged" in source
        assert all(torch.equal(a, b) for a, b in zip(splits, again))
        assert path.read_bytes() == good


def test_a_cache_that_cannot_be_written_costs_a_sentence_only(tmp_path, monkeypatch):
    small_glyphs(monkeypatch)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("A3_CACHE", str(tmp_path / "file" / "cache"))
    splits, _, source = glyphs.load()
    assert len(splits[0]) == 60
    assert "cannot be written" in source


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    call = (
        "import resource, numpy as np, pathlib; from datasets.download import write_cache\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        f"print(write_cache(pathlib.Path({str(tmp_path)!r}) / 'x.cache', a=np.zeros(100000)))"
    )
    done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True)
    assert "cannot be written" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def test_two_processes_write_one_cache_file_without_harm(tmp_path):
    call = (
        "import sys, numpy as np, pathlib; from datasets.download import read_cache, write_cache\n"
        f"path = pathlib.Path({str(tmp_path)!r}) / 'x.cache'\n"
        "for i in range(60):\n"
        "    assert write_cache(path, a=np.full(50000, int(sys.argv[1]))) is None\n"
        "    assert len(set(read_cache(path, ['a'])[0].tolist())) == 1\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", call, str(i)], cwd=ROOT) for i in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["x.cache"]


# ---- servers


class Server:
    """A server on this machine that answers every request in the same way."""

    def __init__(self, status=200, body=b"", announce=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if announce is None else announce))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


def point_to(monkeypatch, url):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(bmnist_module, "LAROCHELLE", url + "binarized_mnist_{}.amat")
    monkeypatch.setattr(bmnist_module, "MADE", url + "binarized_mnist.npz")
    monkeypatch.setattr(MNIST, "mirrors", [url])
    monkeypatch.setattr(mnist_module, "SAFE", "http")


FAULTS = {
    "forbidden": (dict(status=403), "answers 403"),
    "missing": (dict(status=404), "answers 404"),
    "down": (dict(status=503), "answers 503"),
    "cut": (dict(body=b"0 1 " * 100, announce=9000), "broke off|IncompleteRead"),
    "html": (dict(body=b"<html>sign in, please</html>"), "numbers instead of 784"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_server_ends_in_a_sentence_and_an_empty_cache(fault, empty_cache, monkeypatch):
    how, message = FAULTS[fault]
    point_to(monkeypatch, Server(**how).url)
    with pytest.raises(UserError, match=message) as caught:
        load("bmnist")
    assert "--data_root" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="MNIST cannot be downloaded") as caught:
        load("mnist")
    assert "\n" not in str(caught.value)
    assert not list(empty_cache.iterdir())


def test_no_network_and_a_silent_server_give_glyphs_with_a_notice(empty_cache, monkeypatch, capsys):
    small_glyphs(monkeypatch)
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    silent = socket.create_server(("127.0.0.1", 0))  # accepts and never answers
    closed = socket.create_server(("127.0.0.1", 0))
    ports = silent.getsockname()[1], closed.getsockname()[1]
    closed.close()
    for port, reason in zip(ports, ("does not answer", "refused")):
        point_to(monkeypatch, f"http://127.0.0.1:{port}/")
        start = time.monotonic()
        name, splits, _, _ = load("auto")
        assert time.monotonic() - start < 5
        assert name == "glyphs-binary"
        assert set(splits[0].unique().tolist()) == {0, 1}
        notice = capsys.readouterr().err
        assert "!!!!" in notice
        assert reason in notice
        assert "Using binary glyph digits (not MNIST) instead: these are not results on static binary MNIST." in notice
    silent.close()
    assert [path.name for path in empty_cache.iterdir()] == ["glyphs.cache"]


def test_a_good_download_is_checked_and_cached(empty_cache, monkeypatch):
    images = few_images()
    monkeypatch.setattr(bmnist_module, "SIZES", dict.fromkeys(bmnist_module.SIZES, len(images)))
    digest = hashlib.sha256(np.packbits(images, axis=1)).hexdigest()
    monkeypatch.setattr(bmnist_module, "SHA256", dict.fromkeys(bmnist_module.SIZES, digest))
    point_to(monkeypatch, Server(body=amat(images)).url)
    splits, _, source = bmnist_module.load([])
    assert source == "downloaded"
    assert all((split.numpy() == images).all() for split in splits)
    point_to(monkeypatch, "http://127.0.0.1:1/")
    assert "bmnist.cache" in bmnist_module.load([])[2]
    assert [path.name for path in empty_cache.iterdir()] == ["bmnist.cache"]


def test_the_archive_of_the_made_release_is_read_and_checked(tmp_path):
    images, path = few_images(), tmp_path / "binarized_mnist.npz"
    write = lambda: np.savez(path, **{f"{split}_data": images.astype(np.float32) for split in bmnist_module.SIZES})
    write()
    splits = bmnist_module.read_npz(path)
    assert len(splits) == 3
    assert all((split == images).all() and split.dtype == np.uint8 for split in splits)
    images[5, 700] = 2
    write()
    with pytest.raises(UserError, match="pixels other than 0 and 1"):
        bmnist_module.read_npz(path)


def test_without_leave_to_download_nothing_is_asked_of_the_net(empty_cache, monkeypatch):
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("asked"))
    with pytest.raises(Missing):
        bmnist_module.load([], may_download=False)
    with pytest.raises(Missing):
        mnist_module.load("mnist", [], may_download=False)
