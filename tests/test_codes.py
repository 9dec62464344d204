"""Codes as features: both classifiers on toy sets with known answers, and the comparison of tiny models."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from a3_vae_template import VAE
from beyond.vae_family import Family
from common import files
from datasets.files import UserError
from study import codes, latent


def clusters(n=1000, classes=10):
    """Points around 10 corners of a polygon, and the number of the corner."""
    torch.manual_seed(0)
    labels = torch.randint(classes, (n,))
    angle = 2 * math.pi * labels / classes
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(n, 2), labels


def test_clusters_are_classified_without_a_mistake_and_random_labels_by_chance():
    assert codes.accuracies(*clusters()) == {"probe": 1.0, "neighbours": 1.0}
    chance = codes.accuracies(torch.randn(4000, 3), torch.randint(10, (4000,)))
    assert chance["probe"] == pytest.approx(0.1, abs=0.03)
    assert chance["neighbours"] == pytest.approx(0.1, abs=0.03)


def test_rings_are_read_by_neighbours_but_not_by_a_linear_probe():
    torch.manual_seed(1)
    n, labels = 2000, torch.randint(2, (2000,))
    radius, angle = 1.0 + labels + 0.1 * torch.randn(n), 2 * math.pi * torch.rand(n)
    found = codes.accuracies(radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1), labels)
    assert found["neighbours"] > 0.99
    assert found["probe"] < 0.6


def test_the_probe_is_the_minimum_of_its_convex_loss():
    """Two normal classes in one dimension, one three times as large: both are as probable where 2 x = log 3."""
    torch.manual_seed(3)
    x = torch.cat([torch.randn(9000) - 1, torch.randn(3000) + 1])[:, None]
    labels = torch.arange(2).repeat_interleave(torch.tensor([9000, 3000]))
    line = torch.linspace(-3, 3, 601)[:, None]
    boundary = line[codes.probe(x, labels, line) == 1].min().item()
    assert boundary == pytest.approx(math.log(3) / 2, abs=0.06)


def test_reconstructions_are_judged_at_the_code_itself():
    """Not at a noisy code: with log p(x|z) as the likelihood of independent pixels, averaged over the images."""
    torch.manual_seed(4)
    model, x = VAE(5, 2), torch.bernoulli(torch.full((3, 784), 0.3))
    p = model.decoder(model.encoder(x)[0]).double()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(1).mean()
    assert codes.reconstruction(model, x) == pytest.approx(expected.item(), rel=1e-5)


def test_principal_components_of_a_line_and_the_gaussian_of_codes():
    torch.manual_seed(2)
    direction = torch.nn.functional.normalize(torch.randn(784), dim=0)
    position = torch.randn(50)
    found = codes.principal_components(3 + position[:, None] * direction, 2)
    torch.testing.assert_close(found[:, 0].abs(), (position - position.mean()).abs(), atol=1e-3, rtol=1e-3)
    assert found[:, 1].abs().max() < 1e-2
    z = torch.randn(5000, 2) @ torch.tensor([[2.0, 0.0], [1.0, 0.5]]) + torch.tensor([3.0, -1.0])
    drawn = latent.fitted_gaussian(z, torch.randn(20_000, 2))
    torch.testing.assert_close(drawn.mean(0), z.mean(0), atol=0.06, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(z.T), atol=0.15, rtol=0)


def test_models_are_compared_and_missing_ones_named(tmp_path, monkeypatch, capsys):
    x, labels = torch.zeros(400, 784, dtype=torch.uint8), torch.randint(10, (400,))
    x[:, :10] = torch.nn.functional.one_hot(labels, 10)  # ten pixels tell the class
    split = SimpleNamespace(
        images=x, labels=labels, name="glyphs-binary", subset=lambda n: SimpleNamespace(images=x[:n])
    )
    made = {"family-autoencoder": Family(8, 3, autoencoder=True), "vae-z2": VAE(8, 2)}
    monkeypatch.setattr(codes, "bmnist", lambda *_, **__: (split, split, split))
    monkeypatch.setattr(files, "ROOT", tmp_path)

    def load(name, data, quick):
        assert (data, quick) == ("glyphs-binary", True)
        if name not in made:
            raise UserError(f"there is no trained model {name}")
        return made[name].eval()

    monkeypatch.setattr(codes, "load", load)
    codes.main(codes.parse_args(["--quick"]))
    said = capsys.readouterr().out
    assert "family-conv: left out, there is no trained model family-conv" in said
    folder = tmp_path / "runs" / "quick" / "codes"
    results = json.loads((folder / "codes.json").read_text())["models"]
    assert list(results) == ["pixels", "20 principal components", "family-autoencoder", "vae-z2"]
    assert results["pixels"]["probe"] > 0.9
    assert results["vae-z2"]["dimensions"] == 2
    assert (folder / "codes.png").stat().st_size > 1000
    made.clear()
    with pytest.raises(UserError, match="there is no trained model"):
        codes.main(codes.parse_args(["--quick"]))
