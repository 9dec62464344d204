"""Files from the net, and the cache in which downloaded and prepared data are kept."""

import contextlib
import io
import os
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from datasets.files import ROOT, UserError, read_checked, show, write_checked

TIMEOUT = 3.5  # seconds that a server may stay silent
SLOWEST = 20e3  # bytes per second; a download that stays below it for 15 s is abandoned
LARGEST = 400e6  # bytes; no file that we ask for is larger


class Missing(UserError):
    """Data that are not on this machine and could not be downloaded: with `auto`, the next kind is tried."""


def cache_folder():
    """`data/` in the checkout, unless A3_CACHE names another folder."""
    return Path(os.environ.get("A3_CACHE") or ROOT / "data")


def write_cache(path, **arrays):
    """Store arrays. Returns None, or why that failed: work goes on without a cache."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checked(path, buffer.getvalue())
    except OSError as error:
        return f"{show(path)} cannot be written ({error.strerror}), so this work is done again next time"


def read_cache(path, names):
    """The named arrays of a cache file; UserError if a single bit of it has changed."""
    with np.load(io.BytesIO(read_checked(path)), allow_pickle=False) as arrays:
        if set(arrays) != set(names):
            raise UserError(f"{show(path)} holds {sorted(arrays)} where {sorted(names)} belong")
        return [arrays[name] for name in names]


def fetch(url, path):
    """Download `url` to `path`. Every failure is a UserError that says which server did what."""
    host = url.split("/")[2]
    start, size = time.monotonic(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, open(path, "wb") as file:
            announced = answer.headers.get("Content-Length")
            while block := answer.read(1 << 16):
                size += len(block)
                seconds = time.monotonic() - start
                if size > LARGEST or (seconds > 15 and size < SLOWEST * seconds):
                    raise UserError(f"{host} sends {'too much' if size > LARGEST else 'too slowly'}")
                file.write(block)
        if announced is not None and size != int(announced):
            raise UserError(f"{host} broke off after {size:,} of {int(announced):,} bytes")
    except urllib.error.HTTPError as error:
        raise UserError(f"{host} answers {error.code} ({error.reason})") from None
    except TimeoutError:
        raise UserError(f"{host} does not answer within {TIMEOUT:g} s") from None
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, TimeoutError):
            raise UserError(f"{host} does not answer within {TIMEOUT:g} s") from None
        raise UserError(f"{host} cannot be reached ({getattr(reason, 'strerror', None) or reason})") from None
    except OSError as error:
        if error.filename or error.errno in (28, 122):  # on this side: no permission, disk full, quota
            raise UserError(f"{show(path)} cannot be written ({error.strerror}): make room") from None
        raise UserError(f"{host} broke the connection ({error.strerror or error})") from None


@contextlib.contextmanager
def scratch_folder():
    """A folder inside the cache that is deleted afterwards; what is worth keeping is moved out of it."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".download-", ignore_cleanup_errors=True)
    except OSError as error:
        raise Missing(
            f"{show(cache_folder())} cannot be written ({error.strerror}), so nothing is downloaded"
        ) from None
    with folder as path:
        yield Path(path)
