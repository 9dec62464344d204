"""Speed beside the plain loop that the course's templates suggest: the same data, the same run, interleaved.

    python code/bench.py    what `make bench` calls: under 4 minutes on 2 cores, no network

The plain loops read single images through a DataLoader with transforms, use Adam as it comes, float32, and, for the
flow, couplings of full width whose masked half is thrown away; nets are the templates'. Seconds differ from machine to
machine; the ratio is what to quote. Medians of interleaved repeats on the built-in glyph digits.
"""

import json
import statistics
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

import experiment
from datasets.bmnist import bmnist
from datasets.mnist import mnist

REPEATS = 3
IMAGES = 3000  # a repeat


class SingleImages(torch.utils.data.Dataset):
    """As torchvision's MNIST: one PIL image at a time, through a list of transforms."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[i].view(28, 28).numpy())), 0


def plain_loader(images, batch_size, scale):
    from torchvision import transforms

    steps = [transforms.ToTensor(), transforms.Lambda(lambda x: x.flatten() * 255 * scale)]
    loader = SingleImages(images, transforms.Compose(steps))
    return torch.utils.data.DataLoader(loader, batch_size, shuffle=True)


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

    return epoch


def plain_gan(images):
    generator, discriminator = gan.Generator(), gan.Discriminator()
    optimizers = [torch.optim.Adam(m.parameters(), 2e-4) for m in (generator, discriminator)]
    loader = plain_loader(images, 64, 1 / 255)

    def epoch():
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

    return epoch


class MaskedCoupling(nn.Module):
    """The template's: all 784 pixels in, twice 784 numbers out, half of both masked away."""

    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)
        self.nn = nn.Sequential(
            nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1568)
        )

    def forward(self, z, ldj):
        log_scale, shift = self.nn(z * self.mask).chunk(2, dim=1)
        log_scale = torch.tanh(log_scale) * (1 - self.mask)
        return self.mask * z + (1 - self.mask) * (z * log_scale.exp() + shift), ldj + log_scale.sum(1)


def plain_nf(images):
    model = nf.Model([784], 1, 8)
    masks = [nf.get_mask(), 1 - nf.get_mask()] * 4
    couplings = nn.ModuleList([MaskedCoupling(mask) for mask in masks])
    optimizer = torch.optim.Adam(couplings.parameters(), 1e-3)
    loader = plain_loader(images, 128, 1.0)

    def epoch():
        for x, _ in loader:
            z, ldj = model.logit_normalize(model.dequantize(x), torch.zeros(len(x)))
            for coupling in couplings:
                z, ldj = coupling(z, ldj)
            loss = -(nf.log_prior(z).sum(1) + ldj).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(couplings.parameters(), 1.0)
            optimizer.step()
            loss.item()

    return epoch


def our_vae(data):
    model = vae.VAE().train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    return lambda: vae.epoch_iter(model, data, optimizer)


def our_gan(data):
    args = gan.parse_args([])
    generator, discriminator = gan.Generator(width=args.width), gan.Discriminator(args.d_width, groups=args.groups)
    adam = lambda net: torch.optim.Adam(net.parameters(), 2e-4, betas=(0.0, 0.999), fused=True)
    optimizers = adam(generator), adam(discriminator)
    return lambda: gan.train(data, discriminator, generator, *optimizers)


def our_nf(data):
    model = nf.Model([784]).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    return lambda: nf.epoch_iter(model, data, optimizer)


def seconds(work, repeats=REPEATS):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def matrix_rate(dtype, n=1024):
    """10^9 multiplications and additions a second of a large matrix product."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    seconds(lambda: a @ b)
    return 2 * n**3 / statistics.median(seconds(lambda: a @ b, 9)) / 1e9


def bandwidth(n=50_000_000):
    """10^9 bytes a second, read and written by a copy."""
    a, b = torch.zeros(n), torch.zeros(n)
    seconds(lambda: b.copy_(a))
    return 8 * n / statistics.median(seconds(lambda: b.copy_(a), 5)) / 1e9


def main():
    results = {
        "processor": experiment.processor(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "gflops_float32": matrix_rate(torch.float32), "gflops_bfloat16": matrix_rate(torch.bfloat16),
        "gigabytes_per_second": bandwidth(),
    }  # fmt: skip
    print(f"{results['processor']}, {results['threads']} threads, torch {results['torch']}")
    print(
        f"matrix products: {results['gflops_float32']:.0f} GFLOP/s in float32, "
        f"{results['gflops_bfloat16']:.0f} in bfloat16; memory: {results['gigabytes_per_second']:.0f} GB/s\n"
    )
    print(f"{'':8}{'ours, images/s':>18}{'plain loop, images/s':>24}{'ratio':>8}")
    for name, ours, plain, loader in (
        ("VAE", our_vae, plain_vae, lambda: bmnist(data="glyphs-binary", batch_size=128)[0]),
        ("GAN", our_gan, plain_gan, lambda: mnist(data="glyphs", batch_size=128)[0]),
        ("RealNVP", our_nf, plain_nf, lambda: mnist(data="glyphs", batch_size=256, shift=1)[0]),
    ):
        data = loader().subset(IMAGES)
        pair = ours(data), plain(data.images)
        times = ([], [])
        for repeat in range(REPEATS + 1):
            for work, record in zip(pair, times):
                record.extend(seconds(work, 1) if repeat else seconds(work, 1)[:0])  # the first one warms up
        rates = [[IMAGES / t for t in record] for record in times]
        medians = [statistics.median(rate) for rate in rates]
        spreads = [(max(rate) - min(rate)) / 2 for rate in rates]
        results[name] = {"images_per_second": medians[0], "plain": medians[1], "ratio": medians[0] / medians[1]}
        shown = [f"{median:,.0f} ± {spread:,.0f}" for median, spread in zip(medians, spreads)]
        print(f"{name:8}{shown[0]:>18}{shown[1]:>24}{medians[0] / medians[1]:>8.1f}")
    path = experiment.ROOT / "runs" / "bench.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1))
    print(f"\n{experiment.show(path)}")


if __name__ == "__main__":
    experiment.Parser(__doc__).parse_args()
    experiment.start(main)
