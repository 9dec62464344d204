"""Saving and loading torch states. Malformed files give a one-line error and cannot run code."""

import io
from pathlib import Path

import torch

from datasets.files import ROOT, UserError, read_checked, show, write_checked


def runs_folder(quick=False):
    """The folder of all runs, or of those with --quick."""
    return ROOT / "runs" / ("quick" if quick else ".")


def save_state(path, state):
    """torch.save with a SHA-256 checksum appended; torch.load can still read the file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_checked(path, buffer.getvalue())


def load_state(path, device="cpu"):
    """Load what `save_state` stored; UserError if the file is not valid."""
    path = Path(path)
    try:
        return torch.load(io.BytesIO(read_checked(path)), map_location=device, weights_only=True)
    except UserError:
        raise
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise UserError(f"{show(path)} does not fit into memory") from None
    except Exception:  # torch.load raises many kinds of exceptions
        raise UserError(f"{show(path)} is not a file of these scripts") from None


def load_weights(module, state, path):
    """module.load_state_dict; UserError if the weights do not fit."""
    try:
        module.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError):
        raise UserError(f"{show(path)} belongs to another model or other settings") from None
