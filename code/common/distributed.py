"""Training in several processes with torch.distributed, started by torchrun (docs/cluster.md).

Each process has a device and a copy of the model. All draw the random numbers for the whole batch, but each computes
only its rows of the batch. Sums over the batch are added over the processes, so together they train as one process
would. With one process, and outside a loop over `local_batches`, these functions do no more than one process needs.
"""

import os

import torch
import torch.distributed as dist
import torch.nn as nn

from common.devices import at_least_float32
from datasets.files import UserError

launched = "TORCHELASTIC_RUN_ID" in os.environ  # by torchrun
rank, processes = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE")) if launched else (0, 1)
rows = None  # in a loop over `local_batches`: (start, stop, size) of the rows of this process in the whole batch


def start():
    """Connect the processes. All but the first wait until it has found the data and opened the run's folder."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    if rank > 0:
        add(torch.zeros(1))


def let_others_start():
    if rank == 0:
        add(torch.zeros(1))


def synchronise(epoch, parts):
    """Start from the same epoch and from the weights of the first process, however the processors round."""
    if processes > 1:
        if sum_over_processes(epoch) != [processes * epoch]:
            raise UserError("the processes see different run folders: all machines need the same file system")
        for part in parts:
            for value in part.state_dict().values() if isinstance(part, nn.Module) else ():
                dist.broadcast(value, 0)


def end():
    """Disconnect the processes after training. True in all but the first, which does the rest alone."""
    global processes
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    processes = 1
    return rank > 0


def local_device(device):
    """The GPU of this process; CPUs are shared."""
    if processes == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or int(os.environ["LOCAL_WORLD_SIZE"]) > torch.cuda.device_count():
        raise UserError("there are more processes than CUDA GPUs: start fewer, or add --device cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def launcher():
    """The words before the script in the command of this run."""
    if not launched:
        return ["python"]
    nodes, local = os.environ["GROUP_WORLD_SIZE"], os.environ["LOCAL_WORLD_SIZE"]
    rendezvous = ["--standalone"] if nodes == "1" else [f"--nnodes={nodes}", "..."]
    return ["torchrun", *rendezvous, f"--nproc_per_node={local}"]


def local_batches(batches):
    """The batches; with several processes, their rows of this process."""
    global rows
    for batch in batches:
        if processes > 1:
            pair = isinstance(batch, (tuple, list))  # images and labels
            n = len(batch[0] if pair else batch)
            rows = n * rank // processes, n * (rank + 1) // processes, n
            batch = [local_rows(part) for part in batch] if pair else local_rows(batch)
        yield batch
    rows = None


def global_batch_size(x):
    """The number of rows of the whole batch, given those of this process."""
    return len(x) if rows is None else rows[2]


def local_rows(x):
    """The rows of this process, given the whole batch."""
    return x if rows is None else x[rows[0] : rows[1]]


def global_batch(x):
    """The whole batch, given the rows of this process. Each process gets the gradient of its rows."""
    if rows is None:
        return x
    padding = [0, 0] * (x.dim() - 1) + [rows[0], rows[2] - rows[1]]
    return Sum.apply(nn.functional.pad(at_least_float32(x), padding)).to(x.dtype)


class Sum(torch.autograd.Function):
    """The sum over the processes. It enters the loss of every process, so the gradient is a sum, too."""

    @staticmethod
    def forward(ctx, x):
        return add(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx, gradient):
        return Sum.forward(ctx, gradient)


def noise(draw, like):
    """draw(like), where draw is torch.randn_like or torch.rand_like: the same numbers as for the whole batch."""
    if rows is None:
        return draw(like)
    # numbers are drawn in the order of the memory, so the whole batch must be laid out like its rows
    row = 1 + sum((n - 1) * stride for n, stride in zip(like.shape[1:], like.stride()[1:]))
    shape, strides = (rows[2], *like.shape[1:]), (row, *like.stride()[1:])
    return local_rows(draw(torch.empty_strided(shape, strides, dtype=like.dtype, device=like.device)))


def mean(x):
    """The mean over the whole batch; with several processes, the part of this process in it."""
    return x.mean() if rows is None else x.sum() / (rows[2] * x.shape[1:].numel())


class WholeBatch:
    """BatchNorm with the statistics of the whole batch, on any device (torch's SyncBatchNorm needs CUDA)."""

    def forward(self, x):
        return local_rows(super().forward(global_batch(x))) if self.training else super().forward(x)


class BatchNorm1d(WholeBatch, nn.BatchNorm1d):
    pass


class BatchNorm2d(WholeBatch, nn.BatchNorm2d):
    pass


def add(x):
    """Add a tensor over the processes, in place."""
    if processes > 1:
        dist.all_reduce(x)
    return x


def sum_over_processes(*values):
    """Numbers or scalars as floats, each added over the processes."""
    return add(torch.tensor([float(value) for value in values], dtype=torch.float64)).tolist()


def sum_gradients(module):
    """After loss.backward(), add the gradients over the processes.

    DistributedDataParallel would average them, but shares of a batch may differ in size. It also works only with
    `forward`: the VAE trains with `terms`, and the discriminator is called three times in a step."""
    if processes > 1:
        gradients = [weights.grad for weights in module.parameters() if weights.grad is not None]
        sums = add(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, sums.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(part.view_as(gradient))
