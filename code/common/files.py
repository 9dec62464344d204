"""Saving and loading torch states. No file, whoever made it, can run code."""

import io
from pathlib import Path

import torch

from datasets.files import UserError, read_checked, show, write_checked

LARGEST = 2 << 30  # bytes; the files of these scripts are far smaller


def save_state(path, state):
    """torch.save, with the SHA-256 of the bytes behind them (torch.load reads such a file as well)."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_checked(path, buffer.getvalue())


def load_state(path, device="cpu"):
    """The state that `save_state` stored, or a UserError."""
    path = Path(path)
    if path.exists() and path.stat().st_size > LARGEST:
        raise UserError(f"{show(path)} is too large to be a file of these scripts")
    data = read_checked(path)
    try:
        return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception:  # the unpickler refuses with many kinds of exceptions
        raise UserError(f"{show(path)} is not a file of these scripts") from None


def load_weights(module, state, path):
    """module.load_state_dict; weights that do not fit are a UserError."""
    try:
        module.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError):
        raise UserError(f"{show(path)} belongs to another model or other settings") from None
