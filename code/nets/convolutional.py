"""Convolutional layers for the GAN, small enough for a CPU; a3_gan_template.py uses them with `--arch conv`.

The generator is similar to that of DCGAN (Radford et al. 2016), with two sizes of feature maps, LeakyReLU instead of
ReLU, and a convolution with pixel shuffle as the last layer. The discriminator has strided convolutions and one
residual block, without normalisation. Feature maps are in channels_last order, which makes convolutions on a CPU
several times as fast.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import distributed


class Generator(nn.Module):
    """Noise [B, noise_dim] -> images [B, 784], before tanh."""

    def __init__(self, noise_dim, channels=(128, 64)):
        super().__init__()
        c7, c14 = channels  # of the feature maps of 7 x 7 and 14 x 14 pixels
        self.project = nn.Linear(noise_dim, 49 * c7)
        self.norm7 = distributed.BatchNorm2d(c7)
        self.up = nn.ConvTranspose2d(c7, c14, 4, stride=2, padding=1)
        self.norm14 = distributed.BatchNorm2d(c14)
        self.pixels = nn.Conv2d(c14, 4, 3, padding=1)  # 4 pixels of the image for each position
        nn.init.constant_(self.pixels.bias, -1.0)  # the images start nearly black
        self.to(memory_format=torch.channels_last)

    def forward(self, z):
        h = self.project(z).view(len(z), -1, 7, 7).contiguous(memory_format=torch.channels_last)
        h = F.leaky_relu(self.norm7(h), 0.2)  # [B, c7, 7, 7]
        h = F.leaky_relu(self.norm14(self.up(h)), 0.2)  # [B, c14, 14, 14]
        return F.pixel_shuffle(self.pixels(h), 2).flatten(1)  # [B, 4, 14, 14] -> [B, 784]


class Discriminator(nn.Module):
    """Images [B, 784] -> logits [B, 1]."""

    def __init__(self, channels=(32, 64)):
        super().__init__()
        c14, c7 = channels  # of the feature maps of 14 x 14 and 7 x 7 pixels
        self.down14 = nn.Conv2d(1, c14, 4, stride=2, padding=1)
        self.down7 = nn.Conv2d(c14, c7, 4, stride=2, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(c7, c7, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(c7, c7, 3, padding=1),
        )  # fmt: skip
        self.out = nn.Sequential(nn.Linear(49 * c7, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1))
        self.to(memory_format=torch.channels_last)

    def forward(self, img):
        h = F.leaky_relu(self.down14(img.view(-1, 1, 28, 28)), 0.2)  # [B, c14, 14, 14]
        h = F.leaky_relu(self.down7(h.contiguous(memory_format=torch.channels_last)), 0.2)  # [B, c7, 7, 7]
        h = F.leaky_relu(h + self.block(h), 0.2)
        return self.out(h.flatten(1))
