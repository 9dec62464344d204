"""Trained networks as lists of layers with packed weights, for docs/page/net.js and models.js.

`describe(kind, model, precision)` returns a JSON description of a model and its compressed weights as text. Each
layer is {"op": name, ...}; a tensor in it is {"at": offset, "shape": ..., "step": ...}. Matrices and kernels are stored
as integers of three bytes, which the page multiplies by `step`: first the low bytes of all integers, then the middle
and the high bytes, most of which are equal and compress to nearly nothing. Vectors are stored as float32.
"""

import base64
import zlib

import torch
import torch.nn as nn

from a3_vae_template import SOFTPLUS_INVERSE_OF_1
from datasets.files import UserError
from nets import multiscale

SMALL = 20_000  # numbers in a matrix that takes so little room that it can have a finer step
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
PLAIN = {nn.ReLU: "relu", nn.GELU: "gelu", nn.Tanh: "tanh"}


def rounded(weight, step, inputs):
    """Whole numbers near weight / step [out, in], for which the outputs for typical inputs [N, in] change little.

    The columns are rounded one after the other. What a column changes is compensated by the columns that follow, as
    far as their inputs are correlated with its own (Frantar et al. 2023, arXiv:2210.17323)."""
    weight, inputs = weight.clone() / step, inputs.double()
    correlation = inputs.T @ inputs / len(inputs)
    correlation += 1e-4 * correlation.diagonal().mean() * torch.eye(len(correlation))
    factor = torch.linalg.cholesky(torch.linalg.inv(correlation), upper=True)
    for i in range(len(factor)):
        whole = weight[:, i].round()
        weight[:, i:] -= torch.outer((weight[:, i] - whole) / factor[i, i], factor[i, i:])
        weight[:, i] = whole
    return weight


def as_text(data):
    """Compress bytes (zlib) and write them as text, four bytes in five characters.

    This is Python's base85 with a comma for "<", so the text can stand in a script element of a page."""
    return base64.b85encode(zlib.compress(data, 9)).replace(b"<", b",").decode()


class Packer:
    """Collects tensors. Calling it with a tensor returns what stands for the tensor in the description.

    `precision` is the root mean square of a matrix divided by its step; small matrices have a finer one. A common step
    for all rows keeps the errors of all outputs equal, and large weights need no room of their own once the bytes are
    compressed."""

    def __init__(self, precision):
        self.precision, self.parts, self.size = precision, [], 0

    def __call__(self, tensor, inputs=None):
        """`inputs` [N, in]: typical inputs of this matrix [out, in]."""
        tensor = tensor.detach().double().cpu()
        packed = {"at": self.size, "shape": list(tensor.shape), "step": 0}
        if tensor.dim() < 2:
            parts = [tensor.numpy().astype("<f4")]
        else:
            precision = self.precision * (16 if tensor.numel() < SMALL else 1)
            size, most = float(tensor.square().mean().sqrt()), float(tensor.abs().max())
            step = packed["step"] = max(size / precision, most / 8e6, 1e-30)
            whole = (tensor / step).round() if inputs is None else rounded(tensor, step, inputs)
            whole = whole.int().numpy() + 128 * 257  # most numbers then have the same middle and high bytes
            parts = [(whole & 255).astype("u1"), (whole >> 8 & 255).astype("u1"), (whole >> 16).astype("i1")]
        for part in parts:
            self.parts.append(part.tobytes())
            self.size += len(self.parts[-1])
        return packed

    def text(self):
        return as_text(b"".join(self.parts))


def linear(pack, weight, bias=None, inputs=None):
    return {"op": "linear", "weight": pack(weight, inputs), "bias": None if bias is None else pack(bias)}


def conv(pack, weight, bias, stride=1, padding=0, dilation=1):
    """`weight` [out, in, rows, columns] as in torch. The page wants the channels of a pixel side by side."""
    kernel = pack(weight.permute(0, 2, 3, 1).contiguous())
    bias = None if bias is None else pack(bias)
    return {"op": "conv", "weight": kernel, "bias": bias, "stride": stride, "padding": padding, "dilation": dilation}


def square(value):
    """The one number of a kernel size, stride or padding that is the same in both directions."""
    first, second = value if isinstance(value, tuple) else (value, value)
    assert first == second, value
    return first


def normalisation(norm):
    """Factor and summand per channel of a BatchNorm layer after training."""
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return factor, norm.bias - norm.running_mean * factor


def weights_of(module, norm=None):
    """Weight and bias of a linear or convolutional layer. A BatchNorm layer after it becomes part of both."""
    weight, bias = module.weight, module.bias
    if norm is not None:
        factor, summand = normalisation(norm)
        turned = isinstance(module, nn.ConvTranspose2d)  # its weight is [in, out, rows, columns]
        shape = [1, -1, 1, 1] if turned else [-1] + [1] * (weight.dim() - 1)
        weight, bias = weight * factor.view(shape), summand + (0 if bias is None else bias * factor)
    return weight, bias


def flat_list(modules):
    for module in modules:
        yield from flat_list(module) if isinstance(module, nn.Sequential) else [module]


def layers(pack, *modules, inputs=None):
    """The layers of modules that are applied one after the other; they can be nn.Sequential.

    `inputs`: typical inputs of the first module, for the rounding of linear layers."""
    flat, found = list(flat_list(modules)), []
    for i, module in enumerate(flat):
        after = flat[i + 1] if i + 1 < len(flat) else None
        norm = after if isinstance(after, NORMS) else None
        if isinstance(module, nn.Linear) and hasattr(after, "waves"):
            found += waves(pack, after, *weights_of(module), inputs)
        elif isinstance(module, nn.Linear):
            found.append(linear(pack, *weights_of(module, norm), inputs))
        elif isinstance(module, nn.Conv2d):
            where = [square(value) for value in (module.stride, module.padding, module.dilation)]
            found.append(conv(pack, *weights_of(module, norm), *where))
        elif isinstance(module, nn.ConvTranspose2d):
            found += transposed(pack, module, *weights_of(module, norm))
        elif isinstance(module, NORMS):
            if i == 0 or not isinstance(flat[i - 1], (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                factor, summand = normalisation(module)
                found.append({"op": "scale", "factor": pack(factor), "summand": pack(summand)})
        elif isinstance(module, nn.LeakyReLU):
            found.append({"op": "leaky", "slope": module.negative_slope})
        elif isinstance(module, nn.MaxPool2d):
            size = {"size": module.kernel_size, "stride": module.stride, "padding": module.padding}
            found.append({"op": "maxpool"} | {name: square(value) for name, value in size.items()})
        elif isinstance(module, nn.Unflatten):
            found.append({"op": "unflatten", "shape": list(module.unflattened_size)})
        elif isinstance(module, nn.Flatten):
            found.append({"op": "flatten"})
        elif isinstance(module, nn.PixelShuffle):
            found.append({"op": "shuffle", "by": module.upscale_factor})
        elif type(module) in PLAIN:
            found.append({"op": PLAIN[type(module)]})
        elif not hasattr(module, "waves"):
            raise NotImplementedError(f"code/study/export.py cannot export the layer {type(module).__name__}")
        inputs = None if inputs is None else module(inputs)
    return found


def transposed(pack, module, weight, bias):
    """A transposed convolution: zeros between the pixels, then a convolution with the kernels turned around."""
    size, stride, padding = (square(value) for value in (module.kernel_size, module.stride, module.padding))
    assert square(module.output_padding) == 0
    return [
        {"op": "spread", "stride": stride},
        conv(pack, weight.transpose(0, 1).flip(2, 3), bias, 1, size - 1 - padding),
    ]


def residual(inner):
    return {"op": "residual", "layers": inner}


def waves(pack, module, weight, bias, inputs=None):
    """Layers for a linear layer to amplitudes, and a module that adds up waves with these amplitudes and a bias.

    Row (u, v) of the fixed matrix `module.waves` [n n, m m] is s_uv times the outer product of waves u and v. The
    factors s_uv go into the linear layer, so the page needs only the waves [n, m] instead of the matrix."""
    n, m = (round(size**0.5) for size in module.waves.shape)
    grid = module.waves.double().view(n, n, m, m)
    lines = nn.functional.normalize(grid[:, 0].sum(2), dim=1)  # wave 0 is constant
    scales = torch.einsum("uvij,ui,vj->uv", grid, lines, lines)
    outer = torch.einsum("uv,ui,vj->uvij", scales, lines, lines)
    assert torch.allclose(outer, grid, atol=1e-6 * float(grid.abs().max()))
    scales = scales.flatten()
    amplitudes = linear(pack, weight * scales[:, None], None if bias is None else bias * scales, inputs)
    return [amplitudes, {"op": "outer", "waves": pack(lines)}, {"op": "add", "bias": pack(module.bias)}]


def vae(pack, model, images=None):
    """`images` [N, 784]: typical inputs of the encoder."""
    if model.encoder.hidden.in_features != 784:
        raise UserError("the page has only encoders that read the pixels")
    codes = 1.3 * torch.randn(4000, model.z_dim, generator=torch.Generator().manual_seed(0))  # also far from 0
    encoder, decoder = ([net.hidden, nn.GELU(), net.out] for net in (model.encoder, model.decoder))
    parts = {"decoder": layers(pack, *decoder, inputs=codes)}
    pack.precision /= 3  # codes need less than images
    parts["encoder"] = layers(pack, *encoder, inputs=images)
    return {"z_dim": model.z_dim, "std_shift": SOFTPLUS_INVERSE_OF_1, **parts}


def classifier(pack, model):
    return {"layers": layers(pack, model.convolutions, model.features, model.logits)}


def gan(pack, generator):
    """The noise ends with a one-hot code of a certain length, if the generator has codes."""
    net, noise = generator.layers, generator.noise(4000, torch.Generator().manual_seed(0))
    if not isinstance(net, nn.Sequential):  # convolutional
        act, grid = nn.LeakyReLU(0.2), nn.Unflatten(1, (net.norm7.num_features, 7, 7))
        net = nn.Sequential(
            net.project, grid, net.norm7, act, net.up, net.norm14, act, net.pixels, nn.PixelShuffle(2), nn.Flatten()
        )
    length = float(noise[0, generator.latent_dim :].sum())  # of the code
    sizes = {"latent_dim": generator.latent_dim, "codes": generator.codes, "code_length": length}
    return {**sizes, "layers": layers(pack, net, nn.Tanh(), inputs=noise)}


def coupling_net(pack, net):
    """`multiscale.Net` with its residual block."""
    return [*layers(pack, net.first), residual(layers(pack, net.block)), *layers(pack, nn.ReLU(), net.last)]


def flow_step(pack, step):
    if isinstance(step, multiscale.ActNorm):
        return {"op": "actnorm", "mean": pack(step.mean.flatten()), "log_std": pack(step.log_std.flatten())}
    if isinstance(step, multiscale.Permute):
        return {"op": "roll", "by": step.quarter}
    if isinstance(step, multiscale.Conv1x1):
        return {"op": "matrix", "matrix": pack(step.matrix)}
    assert isinstance(step, multiscale.Coupling), type(step)
    return {"op": "coupling", "layers": coupling_net(pack, step.nn)}


def flow(pack, model):
    """The multi-scale flow."""
    if not hasattr(model.flow, "levels"):
        raise UserError("the page has only flows that were trained with --arch multiscale")
    levels = [[flow_step(pack, step) for step in steps] for steps in model.flow.levels]
    noise = model.noise and {"layers": coupling_net(pack, model.noise.nn), "mean": float(model.noise.mean)}
    return {"alpha": model.alpha, "levels": levels, "noise": noise}


def pixelcnn(pack, model):
    net = model.net
    if not hasattr(net, "first_v"):
        raise UserError("the page has only PixelCNNs, no other autoregressive models")
    two_rows = lambda module: conv(pack, module.weight, module.bias)  # only its weight and bias are used
    one_row = lambda module: linear(pack, module.weight.permute(0, 2, 3, 1).flatten(1), module.bias)
    parts = {"first_v": two_rows(net.first_v), "v": [two_rows(module) for module in net.v]}
    parts |= {"first_h": one_row(net.first_h), "first_link": one_row(net.first_link)}
    parts |= {name: [one_row(module) for module in getattr(net, name)] for name in ("h", "link", "mix")}
    out = [one_row(module) if isinstance(module, nn.Conv2d) else {"op": PLAIN[type(module)]} for module in net.out]
    return {"dilations": net.dilations, **parts, "out": out}


KINDS = {"vae": vae, "classifier": classifier, "gan": gan, "flow": flow, "pixelcnn": pixelcnn}


@torch.no_grad()
def describe(kind, model, precision, *inputs):
    """(description, weights): {"kind": ..., "model": ...} for JSON, and text."""
    pack = Packer(precision)
    return {"kind": kind, "model": KINDS[kind](pack, model, *inputs)}, pack.text()
