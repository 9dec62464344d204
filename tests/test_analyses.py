"""The experiments behind answers of the report: their mathematics, and that they make every number it quotes."""

import json
import math
import re
import statistics
from types import SimpleNamespace

import pytest
import torch

from a3_nf_template import Model
from a3_vae_template import VAE
from beyond.vae_family import Family
from common import files
from conftest import ROOT, refusal
from datasets.loading import Batches
from study import analyses, evaluate, latent, registry


@pytest.fixture
def run(tmp_path):
    """What the analyses need of a run: where figures go, and small settings."""
    return SimpleNamespace(quick=True, device=torch.device("cpu"), folder=tmp_path, figure=lambda name: tmp_path / name)


@pytest.fixture
def split():
    torch.manual_seed(0)
    images = (torch.rand(50, 784) < 0.3).to(torch.uint8)
    return SimpleNamespace(images=images, subset=lambda n: SimpleNamespace(images=images[:n]))


@torch.no_grad()
def test_log_px_given_z_is_the_sum_over_pixels(split):
    model, x, z = VAE(20, 2).eval(), split.images[:3].float(), torch.randn(4, 2)
    found = latent.log_px_given_z(model, x, z)
    for n in range(3):
        for l in range(4):
            p = model.decoder(z[l])
            assert found[n, l].item() == pytest.approx(
                float((x[n] * p.log() + (1 - x[n]) * (1 - p).log()).sum()), rel=1e-4
            )


@torch.no_grad()
def test_quadrature_agrees_with_importance_sampling_and_bounds_are_in_order(split):
    """For an untrained encoder, q and the posterior are both near the prior: a few thousand weights are enough."""
    torch.manual_seed(1)
    model, x = VAE(20, 2).eval(), split.images[:4].float()
    torch.nn.init.normal_(model.decoder.out.weight, std=0.05)  # so that the posterior is not Gaussian
    line, points, log_cell = latent.plane(161)
    log_mass = latent.log_masses(model, x, points, log_cell)
    log_px = log_mass.logsumexp(1)
    log_w = latent.log_weights_of_q(model, x, 20_000)
    assert (log_w.logsumexp(1) - math.log(20_000)).tolist() == pytest.approx(log_px.tolist(), abs=0.05)
    mean, std = model.encoder(x)
    bound = latent.bound_on_grid(log_mass.view(-1, 161, 161), line, mean, std)
    sampled, error = log_w.mean(1), log_w.std(1) / 20_000**0.5
    assert ((bound - sampled).abs() < 5 * error + 1e-3).all()
    with torch.enable_grad():
        best = latent.optimised_bound(log_mass.view(-1, 161, 161), line, mean, std, 40)
    assert (best > sampled - 5 * error).all()
    assert (best < log_px).all()
    assert (best - bound).max() > 0.05  # there was something to gain


def gaussian_on_plane(line, log_cell, centre, precision):
    """The log masses [1, side, side] of a Gaussian in the plane."""
    z2, z1 = torch.meshgrid(line, line, indexing="ij")
    offset = torch.stack([z1, z2], -1) - centre
    log_density = -0.5 * (offset @ precision * offset).sum(-1) + 0.5 * torch.logdet(precision) - math.log(2 * math.pi)
    return (log_density + log_cell)[None]


def test_the_bound_on_the_grid_is_minus_the_divergence_of_two_gaussians():
    line, _, log_cell = latent.plane(241)
    centre, std_p = torch.tensor([0.4, -1.0]), torch.tensor([0.3, 0.8])
    log_mass = gaussian_on_plane(line, log_cell, centre, torch.diag(std_p**-2))
    mean, std = torch.tensor([[0.5, -0.2]]), torch.tensor([[0.2, 1.0]])
    divergence = (std_p / std).log() + (std**2 + (mean - centre) ** 2) / (2 * std_p**2) - 0.5
    assert latent.bound_on_grid(log_mass, line, mean, std).item() == pytest.approx(-divergence.sum().item(), abs=1e-3)
    narrow = latent.bound_on_grid(log_mass, line, mean, torch.full_like(std, 1e-3))  # narrower than a cell
    assert -20 < narrow.item() < 0


def test_the_best_diagonal_gaussian_for_a_correlated_one_is_the_known_one():
    """Its variances are the inverse of the precision's diagonal, and the gap follows from both determinants."""
    line, _, log_cell = latent.plane(241)
    centre, precision = torch.tensor([1.0, -0.7]), torch.tensor([[30.0, 18.0], [18.0, 20.0]])
    log_mass = gaussian_on_plane(line, log_cell, centre, precision)
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    for start in ([[-2.0, 2.0]], [[0.9, -0.6]]):  # far: the ascent starts at the mode
        best = latent.optimised_bound(log_mass, line, torch.tensor(start), torch.tensor([[0.3, 0.1]]), 60)
        assert best.item() == pytest.approx(-gap, abs=2e-3)
    assert gap > 0.3


def test_known_shares_of_a_decoder_that_ignores_z(run, split):
    """Prior, posterior and q are the same: 95 % of the posterior is 95 % of the prior, and q's ellipse holds 99 %."""
    model = VAE(20, 2).eval()
    torch.nn.init.zeros_(model.decoder.out.weight)
    model.encoder.forward = lambda x: (torch.zeros(len(x), 2), torch.ones(len(x), 2))
    with torch.no_grad():
        found = latent.posteriors(run, "t", model, split, n_images=2)
    assert found["prior_share"] == pytest.approx(0.95, abs=0.005)
    assert found["posterior_in_q"] == pytest.approx(0.99, abs=0.005)
    assert found["approximation_gap"] == pytest.approx(0, abs=1e-3)
    assert found["amortisation_gap"] == pytest.approx(0, abs=1e-3)


def test_estimates_grow_with_the_samples_towards_log_px(run, split):
    torch.manual_seed(3)
    model = VAE(20, 2).eval()
    torch.nn.init.normal_(model.decoder.out.weight, std=0.3)
    with torch.no_grad():
        estimates = latent.estimates_of_log_px(run, "t", model, split, n_images=10)
        exact = latent.posteriors(run, "t", model, split, n_images=10)["quadrature_log_px"]
    values = [estimates[f"prior_{n}"] for n in (1, 10, 100, 10000)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(exact, abs=0.5)
    assert estimates["q_1000"] == pytest.approx(exact, abs=0.5)
    assert estimates["q_1"] < estimates["q_1000"]


def test_the_nearest_training_images_are_the_nearest(run, monkeypatch):
    images = torch.randint(256, (300, 784), dtype=torch.uint8)
    train = Batches(images, torch.zeros(300), "glyphs", "", 2, with_labels=True)
    shown = {}
    monkeypatch.setattr(analyses.figures, "image_grids", lambda path, grids, columns: shown.update(grids))
    samples = train.images[50:60].float() / 255
    analyses.save_neighbours(run, "t", samples, train)
    ((_, pictures),) = shown.items()
    assert torch.equal(pictures, torch.cat([samples, samples]))


def test_every_number_that_the_report_quotes_is_made(run, split):
    text = "\n".join(path.read_text() for path in (ROOT / "report" / "answers").glob("*.tex"))
    with torch.no_grad():
        made = {
            "vae-z20": latent.estimates_of_log_px(run, "t", VAE(20, 3).eval(), split),
            "vae-z2": latent.estimates_of_log_px(run, "t", VAE(20, 2).eval(), split)
            | latent.posteriors(run, "t", VAE(20, 2).eval(), split, n_images=10),
        }
        grid = Family(20, 2, encoder="grid").eval()
        labelled = Batches(split.images, torch.zeros(len(split.images)), "glyphs-binary", "", 2, with_labels=False)
        made["family-grid"] = latent.family(run, "t", grid, labelled, labelled, labelled)
        pixels = Family(20, 3, decoder="pixelcnn").eval()
        made["family-pixelcnn"] = latent.fed_back(pixels, split.images[:2].float(), torch.randn(2, 3))
        plain = Family(20, 3).eval()
    grey = Batches(split.images[:4], torch.zeros(4), "glyphs", "", 2, with_labels=True)
    made["nf-multiscale-long"] = analyses.flow_bits(Model([784], 1, 8, arch="multiscale").eval(), grey)
    before = torch.random.get_rng_state()  # nothing that comes after an analysis depends on it
    made["gan"] = analyses.gan_gradients(run, "t", split, steps=30, rejected=1)
    made["family-plain"] = latent.family(run, "t", plain, split, split, split)
    made["family-beta0"] = made["family-autoencoder"] = made["family-plain"]
    assert torch.equal(before, torch.random.get_rng_state())
    assert analyses.gan_gradients(run, "t", split, steps=30, rejected=1) == made["gan"]
    assert analyses.gan_gradients(run, "t", split, steps=30, rejected=0)["odds"] is None
    quoted = re.findall(r"\\(?:val|when)\{([\w-]+)-analyses\}\{(\w+)\}", text)
    assert len(quoted) > 10
    for name, key in quoted:
        # quick runs draw fewer than 100,000; macros.py computes the two shares
        assert key in made[name] or key in ("prior_100000", "share_per_dimension", "share_in_20"), (name, key)
    gan = made["gan"]
    assert gan["rejecting_steps"] == gan["steps"]
    assert gan["norm_ratio"] == pytest.approx(gan["odds"], rel=0.5)  # equal if D is the same for all samples
    assert made["vae-z2"]["quadrature_bound"] <= made["vae-z2"]["quadrature_log_px"]


def test_the_gradients_of_both_losses_are_those_that_the_report_derives():
    a = torch.tensor([-8.0, -1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    saturating, other = torch.log(1 - torch.sigmoid(a)).sum(), 4 * analyses.gan_script.generator_loss(a)
    assert torch.allclose(torch.autograd.grad(saturating, a)[0], -torch.sigmoid(a))
    assert torch.allclose(torch.autograd.grad(other, a)[0], -(1 - torch.sigmoid(a)))


def test_precise_results_stay_until_the_run_is_repeated(tmp_path, monkeypatch):
    (tmp_path / "nf").mkdir()
    results = tmp_path / "nf" / "results.json"
    made = {"code": "c", "data": "glyphs", "quick": True, "final": {}, "settings": {}, "seconds": 1, "seed": 42}
    results.write_text(json.dumps(made | {"script": registry.FLOW}))
    split = Batches(torch.zeros(3, 784), None, "glyphs", "", 2, with_labels=False)
    monkeypatch.setattr(analyses.models, "model_file", lambda folder: None)
    monkeypatch.setattr(
        analyses.registry, "module", lambda script: SimpleNamespace(load=lambda path: torch.nn.Flatten())
    )
    monkeypatch.setattr(analyses, "mnist", lambda **options: [split] * 3)
    monkeypatch.setattr(analyses, "flow_bits", lambda model, test: {"test_bits": 1.5})
    monkeypatch.setitem(analyses.ANALYSES, registry.FLOW, lambda *things: {"levels": 2})

    def found(**options):
        analyses.analyse(tmp_path / "nf", **options)
        numbers = json.loads((tmp_path / "nf" / "analyses.json").read_text())
        return {key: numbers[key] for key in ("levels", "test_bits") if key in numbers}

    assert found() == {"levels": 2}
    assert found(precise=True) == found() == {"levels": 2, "test_bits": 1.5}
    made_by = json.loads((tmp_path / "nf" / "analyses.json").read_text())
    assert made_by["test_commit"] == made_by["commit"]
    results.write_text(results.read_text() + "\n")  # the run was trained again
    assert found() == {"levels": 2}


def test_a_rounded_z_changes_a_pixel_by_the_slope_of_the_inverse():
    """A flow that adds a constant to all elements: the larger z is, the fewer digits are left for the image."""

    class Shift(torch.nn.Module):
        z_shape, by = (784,), 0.0

        def forward(self, z, ldj, reverse=False):
            return z - self.by if reverse else z + self.by, ldj

    model = Model([784], 1, 8)
    model.flow = Shift()
    images = torch.arange(784, dtype=torch.uint8).view(1, 784)
    assert 0 < analyses.rounded_z_error(model, images) < 1e-4
    model.flow.by = 2.0**14  # numbers of float32 have a distance of 2^-9 there; 64 grey levels per unit of the logit
    assert 0.01 < analyses.rounded_z_error(model, images) < 2**-10 * 65


def test_bits_of_a_flow_get_better_with_samples_and_their_error_is_over_images():
    """log p(x) of 64 samples per image: half of them 0, half of them -a, in turn."""
    bits = 784 * math.log(2)

    class Known(torch.nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return -x[:, 0] * (self.calls % 2)

    known = Known()
    known.nothing = torch.nn.Parameter(torch.zeros(1))
    found = analyses.flow_bits(known, [(torch.tensor([[2.0], [6.0], [10.0]]), None)])
    assert found["test_images"] == 3
    assert found["test_bits"]["1"]["bpd"] == pytest.approx(3 / bits)
    assert found["test_bits"]["1"]["stderr"] == pytest.approx(2 / 3**0.5 / bits)
    averages = [-math.log((1 + math.exp(-a)) / 2) / bits for a in (2, 6, 10)]
    for n in ("8", "64"):
        assert found["test_bits"][n]["bpd"] == pytest.approx(sum(averages) / 3)
        assert found["test_bits"][n]["stderr"] == pytest.approx(statistics.stdev(averages) / 3**0.5)


def test_more_samples_of_a_variant_come_to_its_log_px():
    """A decoder that ignores z, so that log p(x) is known; images spread over a sorted split."""
    model = Family(10, 3).eval()
    torch.nn.init.zeros_(model.decoder.out.weight)
    torch.nn.init.constant_(model.decoder.out.bias, -2.0)
    x = (torch.arange(784) < torch.arange(0, 400, 10)[:, None]).to(torch.uint8)
    split = Batches(x, None, "glyphs-binary", "", 16, with_labels=False)
    found = latent.precise_log_px(model, split, 3, 3000)
    log_1, log_0 = -math.log1p(math.exp(2.0)), -math.log1p(math.exp(-2.0))
    exact = sum(n * log_1 + (784 - n) * log_0 for n in (0, 190, 390)) / 3
    assert found["test_log_likelihood"] == pytest.approx(exact, abs=0.03)
    assert found["test_elbo"] < found["test_log_likelihood"]
    assert (found["test_images"], found["test_draws"]) == (3, 3000)


@pytest.fixture(scope="module")
def trained(checkout):
    """A GAN and both flows, tiny."""
    words = ["--quick", "--data", "glyphs", "--batch_size", "250"]
    for script, *more in (
        ["a3_gan_template.py", "--n_epochs", "1", "--name", "gan"],
        ["a3_nf_template.py", "--epochs", "1", "--hidden", "16", "--name", "nf"],
        ["a3_nf_template.py", "--epochs", "1", "--hidden", "8", "--flows", "1", "--arch", "multiscale", "--name", "ms"],
    ):
        checkout.run(script, *words, *more)
    return checkout.folder / "runs" / "quick" / "glyphs"


FIGURES = {
    "gan": {"classes.pdf", "neighbours.png", "gradients.pdf"},
    "nf": {"temperatures.png", "neighbours.png", "masks.png"},
    "ms": {"temperatures.png", "neighbours.png", "masks.png", "levels.png"},
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_finished_run_is_analysed_from_its_model_file(name, trained, checkout):
    (trained / name / "checkpoint.pt").unlink()
    before = {path.name for path in (trained / name / "figures").iterdir()}
    checkout.run("study/analyses.py", name, "--quick")
    assert {path.name for path in (trained / name / "figures").iterdir()} - before == FIGURES[name]
    numbers = json.loads((trained / name / "analyses.json").read_text())
    assert numbers["of"] == name
    assert ("norm_ratio" in numbers) == (name == "gan")


def test_a_run_of_an_older_version_without_a_model_file_is_refused_in_one_line(trained, checkout, monkeypatch, capsys):
    monkeypatch.setattr(files, "ROOT", checkout.folder)
    (trained / "nf" / "model.pt").rename(trained / "nf" / "kept.pt")
    for module, words in ((analyses, ["nf", "--quick"]), (evaluate, ["--quick", "--only", "nf"])):
        said = refusal(module, words, capsys)
        assert "has no model.pt: repeat the run with --fresh" in said
    (trained / "nf" / "kept.pt").rename(trained / "nf" / "model.pt")
