"""The experiments behind answers of the report: their mathematics, and that they make every number it quotes."""

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from a3_gan_template import Discriminator, Generator
from a3_vae_template import VAE
from beyond import diagnostics
from beyond.vae_family import Family
from conftest import ROOT

import extras


@pytest.fixture
def run(tmp_path):
    """What the experiments need of a run: its folder, and small settings."""
    return SimpleNamespace(
        args=SimpleNamespace(quick=True), device=torch.device("cpu"), name="r", data="glyphs", commit="c", epochs=1,
        folder=tmp_path, figure=lambda name: tmp_path / name,
    )  # fmt: skip


@pytest.fixture
def split():
    torch.manual_seed(0)
    images = (torch.rand(50, 784) < 0.3).to(torch.uint8)
    return SimpleNamespace(images=images, subset=lambda n: SimpleNamespace(images=images[:n]))


@torch.no_grad()
def test_log_px_given_z_is_the_sum_over_pixels(split):
    model, x, z = VAE(20, 2).eval(), split.images[:3].float(), torch.randn(4, 2)
    found = extras.log_px_given_z(model, x, z)
    for n in range(3):
        for l in range(4):
            p = model.decoder(z[l])
            assert found[n, l].item() == pytest.approx(
                float((x[n] * p.log() + (1 - x[n]) * (1 - p).log()).sum()), rel=1e-4
            )


@torch.no_grad()
def test_weights_of_q_average_to_the_quadrature(split):
    """For an untrained model q and the posterior are both near the prior, so a few thousand weights are enough."""
    torch.manual_seed(1)
    model, x = VAE(20, 2).eval(), split.images[:4].float()
    line = torch.linspace(-5, 5, 101)
    z = torch.stack([line.repeat(101), line.repeat_interleave(101)], 1)
    log_joint = extras.log_px_given_z(model, x, z) - 0.5 * z.pow(2).sum(1) - math.log(2 * math.pi)
    exact = log_joint.logsumexp(1) + 2 * math.log(0.1)
    estimate = extras.log_weights_of_q(model, x, 5000).logsumexp(1) - math.log(5000)
    assert estimate.tolist() == pytest.approx(exact.tolist(), abs=0.1)


def test_every_number_that_the_report_quotes_is_made(run, split):
    text = "\n".join(path.read_text() for path in (ROOT / "report" / "answers").glob("*.tex"))
    with torch.no_grad():
        made = {
            "vae-z20": extras.estimates_of_log_px(run, "t", VAE(20, 3).eval(), split),
            "vae-z2": extras.estimates_of_log_px(run, "t", VAE(20, 2).eval(), split)
            | extras.posteriors(run, "t", VAE(20, 2).eval(), split, n_images=10),
        }
    extras.gan_gradients(run, "t", split, Generator, Discriminator, ahead=10, steps=10)
    made["gan"] = json.loads((run.folder / "extra.json").read_text())
    quoted = re.findall(r"\\(?:val|when)\{([\w-]+)-extra\}\{(\w+)\}", text)
    assert len(quoted) > 10
    diagnostics.save(run, "t", Family(20, 3).eval(), split, split)
    made["family-plain"] = json.loads((run.folder / "extra.json").read_text())
    with torch.no_grad():
        pixels = Family(20, 3, decoder="pixelcnn").eval()
        made["family-pixelcnn"] = diagnostics.fed_back(pixels, split.images[:2].float(), torch.randn(2, 3))
    for name, key in quoted:
        assert key in made[name] or key == "prior_100000", (name, key)  # quick runs draw fewer
    assert made["vae-z2"]["quadrature_bound"] <= made["vae-z2"]["quadrature_log_px"] + 0.05
    before = torch.random.get_rng_state()  # nothing that comes after an experiment depends on it
    extras.gan_gradients(run, "t", split, Generator, Discriminator, ahead=10, steps=10)
    assert torch.equal(before, torch.random.get_rng_state())
    assert json.loads((run.folder / "extra.json").read_text()) == made["gan"]


def test_the_two_losses_of_the_generator_send_the_gradients_that_the_report_derives():
    a = torch.tensor([-8.0, -1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    saturating, other = -torch.nn.functional.softplus(a), torch.nn.functional.softplus(-a)
    assert torch.allclose(saturating, torch.log(1 - torch.sigmoid(a)))
    assert torch.allclose(other, -torch.log(torch.sigmoid(a)))
    assert torch.allclose(torch.autograd.grad(saturating.sum(), a)[0], -torch.sigmoid(a))
    assert torch.allclose(torch.autograd.grad(other.sum(), a)[0], -(1 - torch.sigmoid(a)))
