"""The flow in the plane: log-determinants, masses that are 1, targets whose points follow their density."""

import itertools
import json

import numpy as np
import pytest
import torch

from beyond import flow_2d

SCRIPT = "beyond/flow_2d.py"


def redrawn(layers=4, scale=0.5):
    torch.manual_seed(3)
    model = flow_2d.Flow(layers, 8).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    return model


@pytest.fixture(params=flow_2d.TARGETS)
def target(request):
    return flow_2d.TARGETS[request.param]()


@pytest.mark.parametrize("layers", [1, 4, 5])
def test_the_log_determinant_is_that_of_the_jacobian_and_the_way_back_undoes_it(layers):
    model, x = redrawn(layers), torch.randn(6, 2, dtype=torch.float64)
    z, ldj = model(x, torch.zeros(6, dtype=torch.float64))
    for i in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda row: model(row[None], torch.zeros(1))[0][0], x[i])
        torch.testing.assert_close(ldj[i], torch.linalg.slogdet(jacobian).logabsdet)
    back, nothing = model(z, ldj, reverse=True)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(nothing, torch.zeros_like(nothing), atol=1e-12, rtol=0)


def test_the_density_of_a_flow_with_any_weights_has_mass_1():
    assert flow_2d.integral(redrawn(4, 0.3).float(), n=600, reach=15) == pytest.approx(1, abs=1e-3)


def test_a_target_has_mass_1_and_its_points_follow_its_density(target):
    points, area = flow_2d.grid(400)
    mass = target.log_prob(points).exp() * area
    assert float(mass.sum()) == pytest.approx(1, abs=0.01)
    torch.manual_seed(0)
    drawn = target.sample(40_000)
    for direction in torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-0.8, 0.6]]):
        for threshold in (-1.1, 0.2, 1.3):
            expected = float(mass[points @ direction > threshold].sum())
            assert float((drawn @ direction > threshold).float().mean()) == pytest.approx(expected, abs=0.012)


def test_the_divergence_is_the_known_one_between_normals():
    class Normal:
        def log_prob(self, x):
            return flow_2d.log_prior((x - torch.tensor([0.5, -0.2])) / 0.7).sum(1) - 2 * np.log(0.7)

    model = flow_2d.Flow(2, 4)  # not trained: the identity
    for layer in model.layers:
        torch.nn.init.zeros_(layer.nn[-1].weight)
    known = sum(0.5 * (0.49 + mean**2 - 1 - np.log(0.49)) for mean in (0.5, -0.2))  # Question 1.5
    assert flow_2d.divergence(model, Normal()) == pytest.approx(known, abs=1e-4)


def test_letters_are_upright():
    """An A is wider below than above."""
    drawn = flow_2d.letters("A").sample(4000)
    low = drawn[:, 1] < drawn[:, 1].mean()
    assert drawn[low, 0].std() > 1.5 * drawn[~low, 0].std()


def test_the_journey_ends_where_the_samples_are():
    model, z = redrawn(5), torch.randn(10, 2, dtype=torch.float64)
    places = model.journey(z)
    assert len(places) == 6
    torch.testing.assert_close(places[-1], model(z, torch.zeros(10, dtype=torch.float64), reverse=True)[0].detach())
    for before, after in itertools.pairwise(places):  # a coupling moves points along one axis alone
        assert ((before - after).abs().amax(0) > 0).sum() == 1


def test_a_run_learns_and_draws(checkout):
    checkout.run(SCRIPT, "--quick", "--layers", "4", "--hidden", "16", "--target", "rings")
    folder = checkout.folder / "runs" / "quick" / "rings" / "flow-rings"
    results = json.loads((folder / "results.json").read_text())
    assert results["curves"]["kl"][-1] < 0.75 * results["curves"]["kl"][0]
    assert results["final"]["integral"] == pytest.approx(1, abs=0.01)
    checkout.run(SCRIPT, "--quick", "--target", "rings", "--sample", "500")
    assert (folder / "samples-500.png").stat().st_size > 500
    names = {path.name for path in (folder / "figures").iterdir()}
    assert names == {"divergence.pdf", "densities.pdf", "journey.pdf"}
