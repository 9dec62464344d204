"""The autoregressive family: who sees whom, probabilities that sum to 1, sampling with and without what was kept."""

import itertools
import json

import pytest
import torch

from beyond import autoregressive as ar
from conftest import is_one_line

SCRIPT = "beyond/autoregressive.py"
# deep enough for every earlier pixel of a 28 x 28 image
DEEP = {"pixelcnn": 12, "rnn": 1, "rnn-plain": 1, "conv1d": 10}


def redrawn(model, likelihood="bernoulli", n_hidden=6, layers=3):
    torch.manual_seed(1)
    return ar.Model(model, likelihood, n_hidden, layers).double().eval()


@pytest.fixture
def small(monkeypatch):
    """Images of 3 x 3 pixels."""
    monkeypatch.setattr(ar, "SIDE", 3)
    monkeypatch.setattr(ar, "PIXELS", 9)


@pytest.mark.parametrize("model", DEEP)
@pytest.mark.parametrize("d", [0, 5, 28, 300, 419])
def test_a_pixel_depends_on_all_earlier_ones_and_on_no_other(model, d):
    net = redrawn(model, layers=DEEP[model])
    x = torch.randint(0, 2, (3, 784)).double()
    seen = ar.receptive_field(net, x, d) > 0
    assert not seen[d:].any()
    assert seen[:d].all(), (~seen[:d]).nonzero().flatten()


def test_the_last_pixel_sees_the_first_and_markov_sees_two():
    x = torch.randint(0, 2, (3, 784)).double()
    for model in ("pixelcnn", "conv1d"):
        assert (ar.receptive_field(redrawn(model, layers=DEEP[model]), x, 783) > 0).sum() == 783
    assert (ar.receptive_field(redrawn("markov"), x, 300) > 0).nonzero().flatten().tolist() == [298, 299]


@pytest.mark.parametrize("model", ar.NETS)
def test_no_output_of_an_8_bit_model_sees_its_own_pixel(model):
    seen = ar.receptive_field(redrawn(model, "softmax256"), torch.randint(0, 256, (2, 784)).double(), 400) > 0
    assert not seen[400:].any()
    assert seen[399]


@pytest.mark.parametrize("model", ar.NETS)
def test_the_probabilities_of_all_binary_images_sum_to_1(model, small):
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=9)), dtype=torch.float64)
    with torch.no_grad():
        log_px = redrawn(model)(images)
    assert log_px.std() > 0.01  # not all alike
    assert float(log_px.exp().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("scale", [0.1, 3, 30])
def test_the_256_values_of_a_pixel_have_probabilities_that_sum_to_1(scale):
    torch.manual_seed(0)
    one = ar.Softmax256
    a = scale * torch.randn(50, one.outputs, dtype=torch.float64)
    values = torch.arange(256, dtype=torch.float64)
    p = one.log_prob(a[:, None].expand(-1, 256, -1), values.expand(50, -1)).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(p.cumsum(1)[:, :255], one.cumulative(a), rtol=0, atol=1e-9)


def test_the_inputs_tell_neighbouring_grey_values_apart():
    """In the pixels alone, two neighbours differ by 0.008."""
    net = redrawn("pixelcnn", "softmax256")
    planes = net.net.planes(net.scaled(torch.arange(256.0)))
    assert planes.shape == (256, 17)
    assert torch.cdist(planes, planes).fill_diagonal_(9).min() > 1
    assert redrawn("pixelcnn").net.planes(torch.ones(2, 5)).shape == (2, 5, 1)  # binary pixels need no more


def test_the_inputs_of_the_gru_are_the_preceding_pixel_the_row_above_and_the_position():
    x, place = torch.arange(784.0).double()[None], [2 * 10 / 27 - 1, 2 * 20 / 27 - 1]  # row 10, column 20: pixel 300
    for model, pixels in (("rnn", [299, 273, 272, 271]), ("rnn-plain", [299])):
        found = redrawn(model).net.inputs(x, 300, 301)[0, 0]
        assert found.tolist() == pytest.approx([*pixels, *place], abs=1e-6)


def test_the_context_is_the_number_of_pixels_that_the_last_pixel_depends_on():
    assert {model: ar.context(redrawn(model, layers=4)) for model in ("rnn", "rnn-plain", "markov")} == {
        "rnn": 783, "rnn-plain": 783, "markov": 2,
    }  # fmt: skip
    # dilations 1, 2, 4: v reaches 3 + 7 rows up and 3 + 7 columns to each side, h 4 + 7 pixels to the left
    assert 10 * 11 < ar.context(redrawn("pixelcnn", layers=3)) < 11 * 28


@pytest.mark.parametrize("likelihood", ar.LIKELIHOODS)
@pytest.mark.parametrize("model", ar.NETS)
def test_the_step_to_one_pixel_says_what_the_whole_pass_says(model, likelihood):
    net = redrawn(model, likelihood, layers=10 if model == "conv1d" else 4)
    x = net.scaled(torch.randint(0, net.likelihood.levels + 1, (2, 784)).double())
    cache = {}
    with torch.no_grad():
        steps = torch.stack([net.net.at(x, d, cache) for d in range(784)], 1)
        torch.testing.assert_close(steps, net.net(x), rtol=0, atol=1e-12)


def test_a_gate_is_closed_half_open_or_open():
    a = torch.tensor([[2.0, -4.0], [2.0, 0.0], [2.0, 1.5], [2.0, 4.0]])
    torch.testing.assert_close(ar.gate(a, 1), torch.tensor([[0.0], [1.0], [1.5], [2.0]]))


def test_dropout_acts_in_training_alone():
    """Samples, which are computed without it, agree with the likelihood in eval mode."""
    net, x = redrawn("pixelcnn"), torch.randint(0, 2, (3, 784)).double()
    without = net(x)
    net.net.dropout.p = 0.5
    assert torch.equal(net(x), without)
    assert not torch.allclose(net.train()(x), without)
    uniforms, kept = torch.rand(3, 784, dtype=torch.float64), net.eval().sample
    assert torch.equal(kept(uniforms), redrawn("pixelcnn").sample(uniforms))


@pytest.mark.parametrize("likelihood", ar.LIKELIHOODS)
@pytest.mark.parametrize("model", ar.NETS)
def test_samples_are_the_same_with_and_without_what_was_kept(model, likelihood, small):
    net, uniforms = redrawn(model, likelihood), torch.rand(40, 9, dtype=torch.float64)
    kept, naive = net.sample(uniforms), net.sample(uniforms, cached=False)
    assert torch.equal(kept, naive)
    assert len(kept.unique()) > 1
    assert kept.min() >= 0
    assert kept.max() <= net.likelihood.levels
    known = torch.full_like(uniforms, float(net.likelihood.levels))
    completed = [net.sample(uniforms, known, 4, cached=cached) for cached in (True, False)]
    assert torch.equal(*completed)
    assert torch.equal(completed[0][:, :4], known[:, :4])


def test_samples_occur_as_often_as_their_probability_says(small):
    net = redrawn("pixelcnn")
    net.net.out[-1].weight.data *= 5
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=9)), dtype=torch.float64)
    drawn = net.sample(torch.rand(8000, 9, dtype=torch.float64))
    places = (drawn * 2.0 ** torch.arange(8, -1, -1)).sum(1).long()
    shares = torch.bincount(places, minlength=512) / 8000
    p = net(images).exp().detach()
    assert (shares - p).abs().max() < 5 * (p.max() / 8000) ** 0.5


def test_every_image_of_an_epoch_counts_the_same():
    net = redrawn("markov").float()
    x = torch.randint(0, 2, (5, 1, 28, 28)).float()
    whole = float(net(x.flatten(1)).mean().detach())
    assert ar.epoch_iter(net, [x[:4], x[4:]], None) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("model", ar.NETS)
def test_a_gradient_reaches_every_parameter(model):
    net = redrawn(model)
    net(torch.randint(0, 2, (2, 784)).double()).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_a_run_makes_its_figures_and_draws(checkout):
    words = ["--quick", "--data", "glyphs-binary", "--name", "whole", "--hidden", "4", "--layers", "1", "--epochs", "1"]
    checkout.run(SCRIPT, *words)
    folder = checkout.folder / "runs" / "quick" / "glyphs-binary" / "whole"
    results = json.loads((folder / "results.json").read_text())
    assert results["script"] == SCRIPT
    assert -784 < results["final"]["test_log_likelihood"] < 0
    final = results["final"]
    assert final["samples_per_second"] > 3 * final["samples_per_second_without_cache"] > 0
    curve = results["curves"]["val_log_px"]
    assert curve[-1] > curve[0]
    for figure in ("likelihood.pdf", "samples.png", "completions.png", "receptive-field.png"):
        assert (folder / "figures" / figure).stat().st_size > 500
    checkout.run(SCRIPT, "--sample", "4", "--weights", folder / "model.pt")
    assert (folder / "samples-4.png").stat().st_size > 200


@pytest.mark.parametrize(
    "wrong",
    ["--likelihood softmax256 --data bmnist", "--data mnist", "--model lstm", "--layers 0", "--model rnn --muon 0.1"],
)
def test_wrong_words_are_refused_in_one_line(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        ar.parse_args(wrong.split())
    assert stop.value.code == 2
    assert is_one_line(capsys.readouterr().err)
