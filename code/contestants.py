"""What bench.py times: our training loops, and the plain ones that the course's templates suggest.

The plain loops read single images through a DataLoader with transforms, use Adam as it comes, float32, and, for the
flow, couplings of full width whose masked half is thrown away; nets are the templates'.

Arithmetic: 2 operations (a multiplication, an addition) for each weight, each place where a convolution uses it, each
pass; a backward pass counts as two, one for the inputs and one for the weights.
"""

import sys
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` lies beside this folder
import a3_gan_template as gan
import a3_nf_template as nf
import a3_vae_template as vae

from datasets.bmnist import bmnist
from datasets.mnist import mnist

LR = 1e-4  # of our loops, no time depends on it: near what the schedules start with, so that no loss explodes
VAE_BATCH, GAN_BATCH = vae.parse_args([]).batch_size, gan.parse_args([]).batch_size


class SingleImages(torch.utils.data.Dataset):
    """As torchvision's MNIST: one PIL image at a time, through a list of transforms."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[i].view(28, 28).numpy())), 0


class Watched:
    """A loader that adds up the seconds until each batch is there, and counts the steps."""

    def __init__(self, loader):
        self.loader, self.seconds, self.steps = loader, 0.0, 0

    def __iter__(self):
        batches = iter(self.loader)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - start
            if batch is None:
                return
            self.steps += 1
            yield batch


def plain_loader(images, batch_size, scale):
    from torchvision import transforms

    steps = [transforms.ToTensor(), transforms.Lambda(lambda x: x.flatten() * 255 * scale)]
    loader = SingleImages(images, transforms.Compose(steps))
    return torch.utils.data.DataLoader(loader, batch_size, shuffle=True)


class Contestant:
    """One training loop: `epoch` goes once over `loader`, `sample(n)` draws images, `passes` says how often a training
    step sends each image through each net (a backward pass counts as two)."""

    def __init__(self, loader, optimizers, epoch, sample, passes, fast):
        self.loader, self.optimizers, self.epoch, self.sample = loader, optimizers, epoch, sample
        self.passes = passes  # [(multiply-adds an image, passes)]
        self.fast = fast  # whether its matrix products may be in bfloat16

    @property
    def operations(self):
        """Multiplications and additions for one image of a training step."""
        return sum(2 * count * passes for count, passes in self.passes)


@torch.no_grad()
def multiply_adds(net, *inputs):
    """Of one image's way through a net: its weights, each counted once for every place where it is used."""
    counts = []

    def count(layer, _, output):
        places = output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
        counts.append(layer.weight.numel() * places)

    layers = [layer for layer in net.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was_training = net.training
    net.eval()(*inputs)
    net.train(was_training)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def plain_vae(images):
    model = vae.VAE()
    optimizer = torch.optim.Adam(model.parameters())
    loader = Watched(plain_loader(images, 128, 1.0))

    def epoch():
        model.eval()  # the plain bound
        for x, _ in loader:
            loss = model(x.round())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    passes = [(multiply_adds(model, torch.zeros(2, 784)), 3)]
    return Contestant(loader, [optimizer], epoch, model.sample, passes, fast=False)


def plain_gan(images):
    generator, discriminator = gan.Generator(), gan.Discriminator()
    optimizers = [torch.optim.Adam(m.parameters(), 2e-4) for m in (generator, discriminator)]
    loader = Watched(plain_loader(images, 64, 1 / 255))

    def epoch():
        generator.train()
        for x, _ in loader:
            fake = generator(torch.randn(len(x), 100))
            loss_G = F.binary_cross_entropy(discriminator(fake), torch.ones(len(x), 1))
            optimizers[0].zero_grad()
            loss_G.backward()
            optimizers[0].step()
            real = F.binary_cross_entropy(discriminator(x * 2 - 1), torch.ones(len(x), 1))
            loss_D = real + F.binary_cross_entropy(discriminator(fake.detach()), torch.zeros(len(x), 1))
            optimizers[1].zero_grad()
            loss_D.backward()
            optimizers[1].step()
            loss_D.item()

    # D: real and generated images, and generated ones again for G's loss, with a backward pass each
    counts = multiply_adds(generator, torch.zeros(2, 100)), multiply_adds(discriminator, torch.zeros(2, 784))
    sample = lambda n: generator.eval()(torch.randn(n, 100))
    return Contestant(loader, optimizers, epoch, sample, [(counts[0], 3), (counts[1], 9)], fast=False)


class MaskedCoupling(nn.Module):
    """The template's: all 784 pixels in, twice 784 numbers out, half of both masked away."""

    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)
        self.nn = nn.Sequential(
            nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1568)
        )

    def forward(self, z, ldj, reverse=False):
        log_scale, shift = self.nn(z * self.mask).chunk(2, dim=1)
        log_scale = torch.tanh(log_scale) * (1 - self.mask)
        changed = (z - shift) * torch.exp(-log_scale) if reverse else z * torch.exp(log_scale) + shift
        return self.mask * z + (1 - self.mask) * changed, ldj + (-log_scale if reverse else log_scale).sum(1)


def plain_nf(images):
    model = nf.Model([784], 1, 8)
    masks = [nf.get_mask(), 1 - nf.get_mask()] * 4
    model.flow.layers = nn.ModuleList([MaskedCoupling(mask) for mask in masks])
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loader = Watched(plain_loader(images, 128, 1.0))

    def epoch():
        for x, _ in loader:
            loss = -model(x).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            loss.item()

    passes = [(multiply_adds(model, torch.zeros(2, 784)), 3)]
    return Contestant(loader, [optimizer], epoch, model.sample, passes, fast=False)


def our_vae(images):
    model, data = vae.VAE().train(), Watched(images)
    optimizer = torch.optim.AdamW(model.parameters(), LR, fused=True)
    passes = [(multiply_adds(model, torch.zeros(2, 784)), 3)]
    epoch = lambda: vae.epoch_iter(model.train(), data, optimizer)
    return Contestant(data, [optimizer], epoch, model.sample, passes, fast=True)


def our_gan(images, options=()):
    args, data = gan.parse_args(list(options)), Watched(images)
    generator, discriminator = gan.Generator(width=args.width), gan.Discriminator(args.d_width, groups=args.groups)
    adam = lambda net: torch.optim.Adam(net.parameters(), LR, betas=(0.0, 0.999), fused=True)
    optimizers = [adam(generator), adam(discriminator)]
    # D: real and generated images with a backward pass each; for G's loss forward, and back to the images alone
    counts = multiply_adds(generator, torch.zeros(2, 100)), multiply_adds(discriminator, torch.zeros(2, 784))
    epoch = lambda: gan.train(data, discriminator, generator, *optimizers)
    sample = lambda n: gan.images_of(generator.eval(), torch.randn(n, generator.latent_dim))
    return Contestant(data, optimizers, epoch, sample, [(counts[0], 3), (counts[1], 8)], fast=True)


def our_narrow_gan(images):
    return our_gan(images, ["--width", "1", "--d_width", "1", "--groups", "0"])


def our_nf(images, options=()):
    args, data = nf.parse_args(list(options)), Watched(images)
    model = nf.Model([784], args.flows, args.hidden, arch=args.arch, mix=args.mix, dequantize=args.dequantize)
    optimizer = torch.optim.AdamW(model.parameters(), LR, fused=True)
    passes = [(multiply_adds(model, torch.zeros(2, 784)), 3)]
    epoch = lambda: nf.epoch_iter(model.train(), data, optimizer)
    return Contestant(data, [optimizer], epoch, model.sample, passes, fast=True)


def our_multiscale(images):
    return our_nf(images, ["--arch", "multiscale"])


def grey_images(options):
    args = nf.parse_args(options)
    return mnist(data="glyphs", batch_size=args.batch_size, shift=args.shift)[0]


# our loop, the plain one (none for the architecture that the template does not have), our data, images a repeat: whole
# batches of both loops, a second or two on 2 cores
MODELS = {
    "vae-z20": (our_vae, plain_vae, lambda: bmnist(data="glyphs-binary", batch_size=VAE_BATCH)[0], 3840),
    "gan": (our_gan, plain_gan, lambda: mnist(data="glyphs", batch_size=GAN_BATCH)[0], 1920),
    "gan, template's nets": (our_narrow_gan, plain_gan, lambda: mnist(data="glyphs", batch_size=64)[0], 1920),
    "nf": (our_nf, plain_nf, lambda: grey_images([]), 768),
    "nf-multiscale": (our_multiscale, None, lambda: grey_images(["--arch", "multiscale"]), 512),
}
