"""The training loops of bench.py, race.py, scaling.py and ablation.py: ours, and those that the templates suggest.

The plain loops use the networks of the templates, a DataLoader with transforms of single
images, Adam with default settings, and float32. Their couplings compute all 784 dimensions and discard the masked half.
The template leaves the activations and the initial weights of the VAE open: the plain loop takes those of our VAE.
"""

import copy
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

import a3_gan_template as gan
import a3_nf_template as nf
import a3_vae_template as vae
from common.devices import at_least_float32, autocast
from common.run import one_cycle
from datasets.bmnist import bmnist
from datasets.mnist import mnist
from nets import multiscale
from nets.muon import Muon

LR = 1e-4  # of our loops: a low one, so that no loss explodes; speed does not depend on it
MULTISCALE = ["--arch", "multiscale"]
VAE_BATCH, GAN_BATCH = vae.parse_args([]).batch_size, gan.parse_args([]).batch_size


class SingleImages(torch.utils.data.Dataset):
    """Like torchvision's MNIST: loads one PIL image at a time and applies transforms."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[i].view(28, 28).numpy())), 0


class TimedLoader:
    """A loader that counts steps and the seconds spent waiting for batches."""

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
    data = SingleImages(images, transforms.Compose(steps))
    return TimedLoader(torch.utils.data.DataLoader(data, batch_size, shuffle=True))


class Loop:
    """A training loop: `epoch()` trains `nets` on all batches of `loader`.

    `fast`: with bfloat16 matrix products where the processor has them."""

    def __init__(self, nets, loader, optimizers, epoch, fast):
        self.nets, self.loader, self.optimizers, self.epoch, self.fast = nets, loader, optimizers, epoch, fast


def plain_vae(images):
    model = vae.VAE()
    optimizer = torch.optim.Adam(model.parameters())
    loader = plain_loader(images, 128, 1.0)

    def epoch():
        model.eval()  # the plain bound
        for x, _ in loader:
            loss = model(x.round())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return Loop([model], loader, [optimizer], epoch, fast=False)


class TanhEncoder(vae.Encoder):
    def forward(self, input):
        mean, pre_std = at_least_float32(self.out(torch.tanh(self.hidden(input)))).chunk(2, dim=-1)
        return mean, F.softplus(pre_std + vae.SOFTPLUS_INVERSE_OF_1) + 1e-6


class TanhDecoder(vae.Decoder):
    def logits(self, input):
        return at_least_float32(self.out(torch.tanh(self.hidden(input))))


# what our VAE changes in a typical solution, in the ablation's order; batch size and largest shift are the caller's
VAE_CHANGES = {
    "gelu": "GELU instead of tanh",
    "init": "wider initial weights of the decoder",
    "path": "path gradient of the KL term",
    "cycle": "one-cycle schedule up to a learning rate of 0.008 instead of 0.001, batches of 256 instead of 128",
    "decay": "weight decay of 0.3 for the encoder, and beta_2 = 0.99 in AdamW",
    "shift": "training images shifted by up to one pixel: all of them at first, three in ten at the end",
}


def changed_vae(images, epochs, changes=(), z_dim=20):
    """A typical solution (tanh, Adam at 0.001, the loss as it stands), with these changes of VAE_CHANGES.

    `images` are training images that can be shifted. With all changes, this is the training of a3_vae_template.py."""
    model = vae.VAE(z_dim=z_dim)
    if "gelu" not in changes:
        model.encoder, model.decoder = TanhEncoder(z_dim=z_dim), TanhDecoder(z_dim=z_dim)
    if "init" not in changes:
        for layer in (model.decoder.hidden, model.decoder.out):
            layer.reset_parameters()
    lr = 8e-3 if "cycle" in changes else 1e-3
    if "decay" in changes:
        optimizer = vae.make_optimizer(model, lr)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0, fused=True)
    schedule = one_cycle(optimizer, lr, epochs * len(images)) if "cycle" in changes else None
    finished = 0

    def epoch():
        nonlocal finished
        images.share = max(0.3, 1 - finished / (0.9 * epochs)) if "shift" in changes else 0.0
        model.train("path" in changes)  # in evaluation mode, the gradient of the KL term is the ordinary one
        for x in images:
            with autocast(x.device):
                loss = model(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule:
                schedule.step()
        finished += 1

    return Loop([model], images, [optimizer], epoch, fast=True)


def plain_gan(images):
    generator, discriminator = gan.Generator(), gan.Discriminator()
    optimizer_G, optimizer_D = (torch.optim.Adam(net.parameters(), 2e-4) for net in (generator, discriminator))
    loader = plain_loader(images, 64, 1 / 255)

    def epoch():
        generator.train()
        for x, _ in loader:
            fake = generator(torch.randn(len(x), 100))
            loss_G = F.binary_cross_entropy(discriminator(fake), torch.ones(len(x), 1))
            optimizer_G.zero_grad()
            loss_G.backward()
            optimizer_G.step()
            real = F.binary_cross_entropy(discriminator(x * 2 - 1), torch.ones(len(x), 1))
            loss_D = real + F.binary_cross_entropy(discriminator(fake.detach()), torch.zeros(len(x), 1))
            optimizer_D.zero_grad()
            loss_D.backward()
            optimizer_D.step()
            loss_D.item()

    return Loop([generator, discriminator], loader, [optimizer_G, optimizer_D], epoch, fast=False)


class MaskedCoupling(nn.Module):
    """The template's coupling: 784 inputs, 2 x 784 outputs, half of both masked."""

    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)
        layers = nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1568)
        self.nn = nn.Sequential(*layers)
        nn.init.zeros_(self.nn[-1].weight)  # as in the template, the whole flow starts as the identity
        nn.init.zeros_(self.nn[-1].bias)

    def forward(self, z, ldj, reverse=False):
        log_scale, shift = self.nn(z * self.mask).chunk(2, dim=1)
        log_scale = torch.tanh(log_scale) * (1 - self.mask)
        changed = (z - shift) * torch.exp(-log_scale) if reverse else z * torch.exp(log_scale) + shift
        return self.mask * z + (1 - self.mask) * changed, ldj + (-log_scale if reverse else log_scale).sum(1)


class MaskedFlow(nn.Module):
    """The template's flow: eight couplings whose masks alternate."""

    def __init__(self):
        super().__init__()
        mask = nf.get_mask()
        self.layers = nn.ModuleList(MaskedCoupling(m) for _ in range(4) for m in (mask, 1 - mask))
        self.z_shape = (784,)

    def forward(self, z, logdet, reverse=False):
        for layer in reversed(self.layers) if reverse else self.layers:
            z, logdet = layer(z, logdet, reverse)
        return z, logdet


def plain_nf(images):
    model = nf.Model([784], 1, 8)
    model.flow = MaskedFlow()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loader = plain_loader(images, 128, 1.0)

    def epoch():
        for x, _ in loader:
            loss = -model(x).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            loss.item()

    return Loop([model], loader, [optimizer], epoch, fast=False)


def our_vae(images):
    model, data = vae.VAE().train(), TimedLoader(images)
    optimizer = torch.optim.AdamW(model.parameters(), LR, fused=True)
    epoch = lambda: vae.epoch_iter(model.train(), data, optimizer)
    return Loop([model], data, [optimizer], epoch, fast=True)


def our_gan(images, options=()):
    args, data = gan.parse_args(list(options)), TimedLoader(images)
    generator = gan.Generator(args.latent_dim, args.codes, args.waves)
    discriminator = gan.Discriminator()
    adam = lambda net: torch.optim.Adam(net.parameters(), LR, betas=(0.0, 0.999), fused=True)
    optimizers = [adam(generator), adam(discriminator)]
    average = copy.deepcopy(generator)
    after_step = lambda: gan.update_average(average, generator, args.averaging)
    epoch = lambda: gan.train(data, discriminator, generator, *optimizers, args.penalty, after_step)
    return Loop([generator, discriminator, average], data, optimizers, epoch, fast=True)


def our_narrow_gan(images):
    return our_gan(images, ["--latent_dim=100", "--codes=0", "--waves=0", "--penalty=0"])


def our_nf(images, options=()):
    args, data = nf.parse_args(list(options)), TimedLoader(images)
    sizes = args.flows, args.hidden, args.alpha, args.arch, args.mix, args.dequantize, args.components
    model = nf.Model([784], *sizes)
    hidden = multiscale.hidden_weights(model) if args.muon else []
    optimizer = Muon(model.parameters(), LR, hidden, LR, weight_decay=args.weight_decay, fused=True)
    epoch = lambda: nf.epoch_iter(model.train(), data, optimizer)
    return Loop([model], data, [optimizer], epoch, fast=True)


def grey_images(options):
    args = nf.parse_args(options)
    return mnist(data="glyphs", batch_size=args.batch_size, shift=args.shift)[0]


# name: (our loop, plain loop or None, our data, images per repeat: whole batches for both, 1 to 2 s on 2 cores)
MODELS = {
    "vae-z20": (our_vae, plain_vae, lambda: bmnist(data="glyphs-binary", batch_size=VAE_BATCH, shift=1)[0], 3840),
    "gan": (our_gan, plain_gan, lambda: mnist(data="glyphs", batch_size=GAN_BATCH)[0], 1920),
    "gan, template's nets": (our_narrow_gan, plain_gan, lambda: mnist(data="glyphs", batch_size=GAN_BATCH)[0], 1920),
    "nf": (our_nf, plain_nf, lambda: grey_images([]), 768),
    "nf-multiscale": (lambda images: our_nf(images, MULTISCALE), None, lambda: grey_images(MULTISCALE), 512),
}
