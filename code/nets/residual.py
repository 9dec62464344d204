"""Residual convolutional networks for a VAE, with the identity shortcuts of He et al. 2016 (arXiv:1603.05027).

code/beyond/vae_family.py uses them with `--net conv`: ConvEncoder replaces the layer `hidden` of the encoder in
a3_vae_template.py, ConvDecoder the layer `out` of its decoder. Feature maps are in channels_last order, in which
convolutions on a CPU are several times as fast.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from common.devices import autocast


class Block(nn.Module):
    """x + conv(gelu(conv(gelu(x)))). At first it is the identity, so the network needs no normalisation."""

    def __init__(self, channels):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x):
        return x + self.second(F.gelu(self.first(F.gelu(x))))


class ConvEncoder(nn.Module):
    """Images [..., 784] to features [..., 98 C]: C maps of 14 x 14, then 2 C maps of 7 x 7."""

    def __init__(self, channels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 5, 2, 2), Block(channels),
            nn.Conv2d(channels, 2 * channels, 3, 2, 1), Block(2 * channels),
        ).to(memory_format=torch.channels_last)  # fmt: skip

    def forward(self, x):
        with autocast(x.device):  # in evaluation too: convolutions in float32 take several times as long
            maps = self.layers(x.reshape(-1, 1, 28, 28).contiguous(memory_format=torch.channels_last))
        return maps.to(x.dtype).permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class ConvDecoder(nn.Module):
    """Features [..., 98 C] to logits [..., 784]: maps of 7 x 7, of 14 x 14, then 4 maps: pixels of 2 x 2 squares."""

    def __init__(self, channels):
        super().__init__()
        self.layers = nn.Sequential(
            Block(2 * channels), nn.ConvTranspose2d(2 * channels, channels, 4, 2, 1), Block(channels), nn.GELU(),
        ).to(memory_format=torch.channels_last)  # fmt: skip
        self.last = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, h):
        maps = h.reshape(-1, 7, 7, h.shape[-1] // 49).permute(0, 3, 1, 2)  # channels_last without copying
        with autocast(h.device):
            maps = self.layers(maps)
        with torch.autocast(h.device.type, enabled=False):  # rounded logits would change log p(x)
            logits = F.pixel_shuffle(self.last(maps.to(self.last.weight.dtype)), 2)  # [B, 1, 28, 28]
        return logits.reshape(*h.shape[:-1], 784)
