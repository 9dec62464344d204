"""Choice of the device, number formats, and facts about the machine."""

import contextlib
import functools
import os
import platform
import sys
from pathlib import Path

import torch

from datasets.files import UserError

try:
    import resource
except ImportError:  # Windows
    resource = None

CPU = torch.device("cpu")


def choose_device(name):
    """The torch device for --device, and the reason for this choice."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), torch.cuda.get_device_name()
        if torch.backends.mps.is_available():
            return torch.device("mps"), "Apple GPU"
        return torch.device("cpu"), f"no GPU found; {torch.get_num_threads()} threads"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # its name is reported, and timing waits for it
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name}: no such device on this machine; try --device auto") from None
    return device, "chosen by --device"


def autocast(device, wanted=True):
    """Compute matrix products in bfloat16 if the hardware does this fast. Sums stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and fast_bf16(device.type))


def fast_bf16(device_type):
    """Whether bfloat16 is used: the hardware computes fast with it, and A3_FLOAT32 is not set."""
    return not os.environ.get("A3_FLOAT32") and has_fast_bf16(device_type)


@functools.cache
def has_fast_bf16(device_type):
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text().split() if device_type == "cpu" else []
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def at_least_float32(x):
    """Convert bfloat16 to float32, because losses and log-determinants are sums of many terms."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_double(x):
    """Convert to float64 for long sums. Apple GPUs have no float64, so their tensors move to the CPU."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def processor(device):
    """The model name of the GPU or the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def facts(device=CPU):
    """What a result depends on besides code, data and seed."""
    return {
        "processor": processor(device), "threads": torch.get_num_threads(), "torch": str(torch.__version__),
        "bfloat16": fast_bf16(device.type),
    }  # fmt: skip


def peak_megabytes():
    """The peak memory of this process so far; None if the system does not report it."""
    if resource:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
