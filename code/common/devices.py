"""The device, number formats, and what machine this is."""

import contextlib
import functools
import platform
import sys
from pathlib import Path

import torch

from datasets.files import UserError

try:
    import resource
except ImportError:  # Windows
    resource = None


def choose_device(name):
    """(device, why)."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), torch.cuda.get_device_name()
        if torch.backends.mps.is_available():
            return torch.device("mps"), "Apple GPU"
        return torch.device("cpu"), f"no GPU found; {torch.get_num_threads()} threads"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name}: this machine or this torch has no such device; try --device auto") from None
    return device, "as asked"


def autocast(device, wanted=True):
    """Matrix products in bfloat16 where the machine has fast instructions for them; sums stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and fast_bf16(device.type))


@functools.cache
def fast_bf16(device_type):
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    with contextlib.suppress(OSError):
        return device_type == "cpu" and bool(
            {"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split())
        )
    return False


def at_least_float32(x):
    """The bfloat16 result of a matrix product as float32: log-determinants and losses are sums of many terms."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_double(x):
    """For sums of many terms; on the CPU where the device has no float64, as Apple's."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def processor(device=None):
    """The name of the GPU, or of the processor."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peak_megabytes():
    """The most memory that this process has held so far; None where the system does not say."""
    if resource:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
