"""Downloads, and the cache for downloaded and prepared data."""

import contextlib
import errno
import io
import os
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from datasets.files import ROOT, UserError, read_checked, show, write_checked

TIMEOUT = 3.5  # seconds to wait for an answer of the server
SLOWEST = 20e3  # bytes per second; after 15 s a download that is slower on average is stopped
LARGEST = 400e6  # bytes; all the files are smaller


class Missing(UserError):
    """The data are not on this machine and could not be downloaded. With `auto`, the next dataset is tried."""


def cache_folder():
    """The folder A3_CACHE, or `data/` in the checkout."""
    return Path(os.environ.get("A3_CACHE") or ROOT / "data")


def write_cache(path, **arrays):
    """Write arrays to a cache file. Returns None, or the reason of a failure: everything also works without a cache."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checked(path, buffer.getvalue())
    except OSError as error:
        return f"{show(path)} cannot be written ({error.strerror}), so this is repeated next time"


def read_cache(path, names):
    """The named arrays of a cache file; UserError if the file is damaged."""
    with np.load(io.BytesIO(read_checked(path)), allow_pickle=False) as arrays:
        if set(arrays) != set(names):
            raise UserError(f"{show(path)} contains {sorted(arrays)} instead of {sorted(names)}")
        return [arrays[name] for name in names]


def fetch(url, path):
    """Download `url` to `path`. Each failure is a UserError that names the server and the reason."""
    host, start, size = url.split("/")[2], time.monotonic(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, open(path, "wb") as file:
            expected = answer.headers.get("Content-Length")
            while block := answer.read(1 << 16):
                size += len(block)
                seconds = time.monotonic() - start
                if size > LARGEST or (seconds > 15 and size < SLOWEST * seconds):
                    raise UserError(f"{host} sends {'too much' if size > LARGEST else 'too slowly'}")
                file.write(block)
        if expected is not None and size != int(expected):
            raise UserError(f"{host} broke off after {size:,} of {int(expected):,} bytes")
    except urllib.error.HTTPError as error:
        raise UserError(f"{host} answers {error.code} ({error.reason})") from None
    except OSError as error:  # URLError is one too and wraps the reason
        reason = getattr(error, "reason", None) or error
        text = getattr(reason, "strerror", None) or reason
        if isinstance(reason, TimeoutError):
            raise UserError(f"{host} does not answer within {TIMEOUT:g} s") from None
        if isinstance(error, urllib.error.URLError):
            raise UserError(f"{host} cannot be reached ({text})") from None
        if error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT):  # an error of the local disk
            raise UserError(f"{show(path)} cannot be written ({text}): free some disk space") from None
        raise UserError(f"{host} closed the connection ({text})") from None


@contextlib.contextmanager
def scratch_folder():
    """A temporary folder inside the cache, deleted at the end. Complete files are moved out of it before."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".download-", ignore_cleanup_errors=True)
    except OSError as error:
        raise Missing(f"no download, as {show(cache_folder())} cannot be written ({error.strerror})") from None
    with folder as path:
        yield Path(path)
