"""Files on disk and files from the net: one kind of error, one atomic writer, one cache format, one downloader."""

import hashlib
import io
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

CHECKOUT = Path(__file__).resolve().parents[1]
TIMEOUT = 3.5  # seconds that a server may stay silent
SLOWEST = 20e3  # bytes per second; a download that stays below it for 15 s is given up
LARGEST = 400e6  # bytes; no file that we ask for is larger


class DataError(Exception):
    """Data that cannot be used, told in one sentence: which file, what is wrong, what to do."""

    exit_status = 2


class Missing(DataError):
    """Data that are not on this machine and could not be downloaded: with `auto`, the next kind is tried."""


def cache_folder():
    """Where downloaded and prepared data live: `data/` in the checkout, unless A3_CACHE names another folder."""
    return Path(os.environ.get("A3_CACHE") or CHECKOUT / "data")


def short(path):
    """A path as a user of this checkout would type it."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def read_bytes(path):
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{short(path)} cannot be read ({error.strerror}): mend or delete it") from None


def write_cache(path, **arrays):
    """Store arrays behind the SHA-256 of their bytes. Returns None, or why that failed: a cache is a luxury."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    payload = buffer.getbuffer()
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of our own, then one rename: readers see the old file or the whole new one, and two writers do no harm.
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(payload).digest())
            file.write(payload)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except OSError as error:
        if partial:
            Path(partial).unlink(missing_ok=True)
        return f"{short(path)} cannot be written ({error.strerror}), so this work is done again next time"


def read_cache(path, names):
    """The named arrays of a cache file; DataError if a single bit of it is not what was written."""
    data = memoryview(read_bytes(path))
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise DataError(f"{short(path)} is damaged (its checksum differs)")
    with np.load(io.BytesIO(data[32:]), allow_pickle=False) as arrays:
        if set(arrays) != set(names):
            raise DataError(f"{short(path)} holds {sorted(arrays)} where {sorted(names)} belong")
        return [arrays[name] for name in names]


def fetch(url, path):
    """Download `url` to `path`. Every failure is a DataError that says which server did what."""
    host = url.split("/")[2]
    start, size = time.monotonic(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, open(path, "wb") as file:
            announced = answer.headers.get("Content-Length")
            while block := answer.read(1 << 16):
                size += len(block)
                seconds = time.monotonic() - start
                if size > LARGEST or (seconds > 15 and size < SLOWEST * seconds):
                    raise DataError(f"{host} sends {'too much' if size > LARGEST else 'too slowly'}: given up")
                file.write(block)
        if announced is not None and size != int(announced):
            raise DataError(f"{host} broke off after {size:,} of {int(announced):,} bytes")
    except urllib.error.HTTPError as error:
        raise DataError(f"{host} answers {error.code} ({error.reason})") from None
    except TimeoutError:
        raise DataError(f"{host} does not answer within {TIMEOUT:g} s") from None
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, TimeoutError):
            raise DataError(f"{host} does not answer within {TIMEOUT:g} s") from None
        raise DataError(f"{host} cannot be reached ({getattr(reason, 'strerror', None) or reason})") from None
    except OSError as error:
        if error.filename or error.errno in (28, 122):  # ours: no permission, disk full, quota
            raise DataError(
                f"{short(path)} cannot be written ({error.strerror}): make room or choose another"
            ) from None
        raise DataError(f"{host} broke the connection ({error.strerror or error})") from None


class scratch_folder:
    """A folder inside the cache that is gone afterwards, whatever happens; what is worth keeping is moved out of it."""

    def __enter__(self):
        try:
            cache_folder().mkdir(parents=True, exist_ok=True)
            self.path = Path(tempfile.mkdtemp(dir=cache_folder(), prefix=".download-"))
        except OSError as error:
            place = short(cache_folder())
            raise Missing(f"{place} cannot be written ({error.strerror}), so nothing is downloaded") from None
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)
