"""Files on disk: errors with one-line messages, atomic writing, and files with a checksum."""

import hashlib
import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class UserError(Exception):
    """Wrong input by the user. The message is one line that says what is wrong and what to do."""

    exit_status = 2


class Trouble(UserError):
    """A failure that is not caused by wrong input."""

    exit_status = 1


def show(path):
    """A path as shown to the user: relative to the checkout, else relative to the current folder, else absolute."""
    path = Path(path).absolute()
    for base in (ROOT, Path.cwd()):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)


def read_bytes(path):
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{show(path)} cannot be read ({error.strerror}): fix or delete it") from None


def write_atomically(path, data):
    """Write a file so that readers see either the old or the complete new content, even if the process is killed."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def write_checked(path, payload):
    """Write the payload followed by its SHA-256."""
    write_atomically(path, payload + hashlib.sha256(payload).digest())


def read_checked(path):
    """Read the payload that `write_checked` has written; UserError if the file has changed since."""
    data = read_bytes(path)
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise UserError(f"{show(path)} is damaged or was not written by these scripts (checksum): delete it")
    return data[:-32]
