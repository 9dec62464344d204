"""The flow's mathematics on re-drawn weights: at its start a coupling is the identity and every sign error passes."""

import copy
import math
import types

import numpy as np
import pytest
import torch

import a3_nf_template as nf
from a3_nf_template import Coupling, Flow, Model
from common import devices
from conftest import ROOT
from datasets.files import UserError
from datasets.mnist import mnist
from nets import multiscale


def redraw(module, scale=1.0):
    """Random weights in the last layers too, so that scales and shifts are of order one."""
    torch.manual_seed(1)
    for part in module.modules():
        last = part.nn[-1] if isinstance(part, Coupling) else getattr(part, "last", None)
        if last is not None:
            torch.nn.init.normal_(last.weight, std=scale / last.weight[0].numel() ** 0.5)
            torch.nn.init.normal_(last.bias, std=0.3)
        if isinstance(part, multiscale.ActNorm):
            torch.nn.init.normal_(part.mean, std=0.3)
            torch.nn.init.normal_(part.log_std, std=0.3)
        if isinstance(part, multiscale.Conv1x1):
            part.matrix.data += 0.2 * torch.randn_like(part.matrix)
    return module


MULTISCALE = [
    {"arch": "multiscale", "mix": mix, "dequantize": noise}
    for mix in ("permute", "conv1x1")
    for noise in ("uniform", "variational")
]
MIXTURES = [MULTISCALE[0] | {"components": 3}, MULTISCALE[3] | {"components": 2}]
BOTH = [{"arch": "template"}, {"arch": "template", "dequantize": "variational"}, *MULTISCALE, *MIXTURES]


def options(every):
    return pytest.mark.parametrize("options", every, ids=lambda options: "-".join(map(str, options.values())))


def any_model(options, pixels=784, n_hidden=16, alpha=1e-5, n_flows=2, scale=1.0):
    """Both architectures, each with every option; re-drawn weights, eval mode."""
    if options["arch"] == "template" and pixels != 784:
        model = Model([784], 1, n_hidden, alpha, **options)
        side = math.isqrt(pixels)
        mask = nf.get_mask().reshape(28, 28)[:side, :side].reshape(1, pixels)
        model.flow.layers = torch.nn.ModuleList(
            [Coupling(pixels, m, n_hidden) for _ in range(n_flows) for m in (mask, 1 - mask)]
        )
        if model.noise is not None:
            model.noise = multiscale.Dequantizer([pixels])
    else:
        model = Model([pixels], n_flows, n_hidden, alpha, **options)
    return redraw(model, scale).eval()


def test_interface():
    assert nf.log_prior(torch.zeros(3, 2)).shape == (3, 2)
    assert nf.log_prior(torch.tensor(1.0)).item() == pytest.approx(-0.5 - 0.5 * math.log(2 * math.pi))
    assert nf.sample_prior((4, 784)).shape == (4, 784)
    mask = nf.get_mask()
    assert mask.shape == (1, 784)
    assert torch.equal(mask.view(28, 28)[:2, :4], torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]]))
    assert mask.sum() == 392
    flow = Flow([784], n_flows=4)
    assert (len(flow.layers), flow.z_shape) == (8, (784,))
    model = Model([784])
    assert model(torch.randint(0, 256, (3, 784)).float()).shape == (3,)
    samples = model.sample(2)
    assert samples.shape == (2, 784)
    assert ((samples >= 0) & (samples <= 255) & (samples == samples.floor())).all()


def test_any_mask_is_allowed_and_what_it_keeps_stays():
    mask = torch.zeros(784)
    mask[:100] = 1
    coupling = redraw(Coupling(784, mask, 32))
    z = torch.randn(4, 784)
    out, _ = coupling(z, torch.zeros(4))
    assert torch.equal(out[:, :100], z[:, :100])
    assert (out[:, 100:] != z[:, 100:]).all()


def logit_and_flow_against_autograd(model, x, tolerance):
    """From grey levels to the latent vector and back, x [1, D] in float64. Returns the true log-determinant."""

    def forward(x):
        return model.flow(*model.logit_normalize(x, torch.zeros_like(x[:, 0])))

    jacobian = torch.autograd.functional.jacobian(lambda x: forward(x)[0], x).reshape(x.numel(), x.numel())
    expected = torch.linalg.slogdet(jacobian).logabsdet.item()
    z, ldj = forward(x)
    assert ldj.item() == pytest.approx(expected, abs=tolerance)
    back, total = model.logit_normalize(*model.flow(z, ldj, reverse=True), reverse=True)
    assert torch.allclose(back, x, atol=1e-6)
    assert total.item() == pytest.approx(0, abs=1e-7)
    return expected


def test_bits_per_dimension_of_the_identity_model_on_uniform_noise():
    """8 bits of a uniform density, plus what the logit of a uniform variable costs under a normal prior:
    log p = log N(logit y) - log y(1-y) - log 256, so bpd = 8 + E[z^2 / 2 + log(2 pi) / 2 + log y(1-y)] / log 2."""
    torch.manual_seed(0)
    model = Model([784], alpha=1e-9)
    x = torch.randint(0, 256, (400, 784)).float()
    bpd = nf.bits_per_dim(model(x).mean().item())
    # E[logit(y)^2] = pi^2 / 3 and E[log y(1-y)] = -2 for uniform y
    expected = 8 + (math.pi**2 / 6 + 0.5 * math.log(2 * math.pi) - 2) / math.log(2)
    assert bpd == pytest.approx(expected, abs=0.005)
    assert nf.bits_per_dim(-784 * math.log(256)) == pytest.approx(8)


def test_dequantisation_is_uniform_and_the_argument_stays():
    torch.manual_seed(0)
    x = torch.zeros(200, 784)
    u = Model([784]).dequantize(x)
    assert x.abs().max() == 0
    assert 0 <= u.min() < u.max() < 1
    assert u.mean().item() == pytest.approx(0.5, abs=0.01)
    assert u.var().item() == pytest.approx(1 / 12, abs=0.002)


def test_round_trip_in_float32_is_finer_than_a_grey_level():
    model = redraw(Model([784], 4, 64), 0.5)
    torch.manual_seed(0)
    x = torch.randint(0, 256, (50, 784)).float() + 0.5
    with torch.no_grad():
        z, ldj = model.flow(*model.logit_normalize(x, torch.zeros(50)))
        back, _ = model.logit_normalize(*model.flow(z, ldj, reverse=True), reverse=True)
    assert (back - x).abs().max() < 0.05
    found = nf.worst_round_trip(model, x.floor(), torch.float32)
    assert found == pytest.approx((back - x).abs().max().item(), abs=1e-6)
    assert torch.equal(model.decode(z), x.floor())


@pytest.mark.parametrize("arch", nf.DEFAULTS)
def test_the_logit_with_the_default_alpha_has_its_slope_and_returns_every_grey_level(arch):
    model = Model([784], 1, 8, nf.parse_args(["--arch", arch]).alpha)
    x = torch.arange(256, dtype=torch.float64).repeat(4)[:784].view(1, 784) + 0.5
    x[0, :2] = torch.tensor([0.0, 256])  # the ends of the range
    x.requires_grad_()
    y, logdet = model.logit_normalize(x, torch.zeros(1, dtype=torch.float64))
    (slopes,) = torch.autograd.grad(y.sum(), x)
    assert logdet.item() == pytest.approx(slopes.log().sum().item(), abs=1e-8)
    back, total = model.logit_normalize(y, logdet, reverse=True)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    assert total.item() == pytest.approx(0, abs=1e-8)


@options([{"arch": "template"}, MULTISCALE[0], *MIXTURES])
def test_round_trip_in_float64_is_exact_although_the_networks_have_another_precision(options):
    model = any_model(options, scale=0.5)
    x = torch.randint(0, 256, (10, 784))
    with torch.autocast("cpu", torch.bfloat16):
        assert nf.worst_round_trip(model, x, torch.float64) < 1e-6
    assert nf.worst_round_trip(model, x, torch.float32) > 1e-6


class Known(torch.nn.Module):
    """A model whose log p(x) are given, one row for each call."""

    def __init__(self, *rows):
        super().__init__()
        self.nothing, self.rows = torch.nn.Parameter(torch.zeros(1)), iter(rows)

    def forward(self, x):
        return torch.tensor(next(self.rows))


def test_averages_count_images_alike_and_densities_before_their_logarithm():
    data = [(torch.zeros(2, 784), None), (torch.zeros(1, 784), None)]
    bits = 784 * math.log(2)
    assert nf.epoch_iter(Known([-100.0, -200.0], [-600.0]).eval(), data, None) == pytest.approx(300 / bits)
    known = Known([-100.0, -200.0], [-101.0, -190.0], [-600.0], [-600.0])
    log_px = nf.sampled_log_px(known, data, 2)
    assert log_px.tolist() == [[-100, -200, -600], [-101, -190, -600]]
    assert nf.averaged_bpd(log_px, 1).numpy() == pytest.approx(np.array([100.5, 195, 600]) / bits)
    averages = np.logaddexp([-100, -200, -600], [-101, -190, -600]) - math.log(2)
    assert nf.averaged_bpd(log_px, 2).numpy() == pytest.approx(-averages / bits)
    four = torch.cat([log_px, log_px - 3])  # two groups of two: neighbours are averaged
    assert nf.averaged_bpd(four, 2).numpy() == pytest.approx((1.5 - averages) / bits)


@options([{"arch": "template"}, MIXTURES[1]])
def test_evaluation_in_bfloat16_agrees_with_float32(options, monkeypatch):
    """It evaluates the flow that was trained and is sampled from: couplings are invertible in any precision."""
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device_type: True)
    model, data = any_model(options, scale=0.2), [(torch.randint(0, 256, (100, 784)).float(), None)]
    kinds, found = [], []
    linear = [part for part in model.modules() if isinstance(part, (torch.nn.Linear, torch.nn.Conv2d))][-1]
    linear.register_forward_hook(lambda module, given, output: kinds.append(output.dtype))
    for wanted in ("", "1"):
        monkeypatch.setenv("A3_FLOAT32", wanted)
        torch.manual_seed(0)
        found.append(
            [nf.epoch_iter(model, data, None), float(nf.averaged_bpd(nf.sampled_log_px(model, data, 2), 2).mean())]
        )
    assert kinds == 3 * [torch.bfloat16] + 3 * [torch.float32]  # one sample, then two
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_two_steps_of_training_by_hand():
    """SGD with the norm of each gradient clipped to 1, at the schedule's rates."""
    model = redraw(Model([784], 1, 8), 3.0)
    mine = copy.deepcopy(model)
    data = [(torch.randint(0, 256, (n, 784)).float(), None) for n in (5, 3)]
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    torch.manual_seed(1)
    nf.epoch_iter(model.train(), data, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    torch.manual_seed(1)
    for (x, _), lr in zip(data, (0.01, 0.005)):
        with nf.autocast(x.device):
            log_px = mine(x)
        gradients = torch.autograd.grad(-log_px.mean() / (784 * math.log(2)), mine.parameters())
        norm = torch.cat([part.flatten() for part in gradients]).norm()
        assert norm > 1
        with torch.no_grad():
            for parameter, gradient in zip(mine.parameters(), gradients):
                parameter -= lr * gradient / norm
    for parameter, expected in zip(model.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6)


def test_interpolations_begin_and_end_at_the_validation_images():
    model = redraw(Model([784], 1, 16), 0.3)
    torch.manual_seed(0)
    val = types.SimpleNamespace(images=torch.randint(0, 256, (20, 784)), labels=torch.arange(20) % 10)
    images, rows = nf.interpolations(model, val)
    assert rows == ["0 to 1", "2 to 3", "4 to 5", "6 to 7", "8 to 9"]
    assert torch.equal(images.view(5, 9, 784)[:, [0, -1]].flatten(0, 1), val.images[:10].float())


def test_validation_changes_nothing_and_training_does():
    torch.manual_seed(0)
    model = redraw(Model([784], 1, 16), 0.3)
    data = [(torch.randint(0, 256, (16, 784)).float(), None)] * 2
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    before = [p.clone() for p in model.parameters()]
    nf.epoch_iter(model.eval(), data, optimizer)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
    train_bpd, val_bpd = nf.run_epoch(model, (data, data), optimizer)
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before))
    assert np.isfinite([train_bpd, val_bpd]).all()


@pytest.mark.slow
def test_two_epochs_on_glyphs_give_a_figure_that_a_missing_log_determinant_does_not(glyph_cache):
    train, val, _ = mnist(data="glyphs", batch_size=256, download=False)
    torch.manual_seed(0)
    model = Model([784])
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(2):
        _, val_bpd = nf.run_epoch(model, (train, val), optimizer)
    assert 1.85 < val_bpd < 2.3  # measured: 2.07; without the couplings' log-determinants: 1.00, too good to be true


@options(BOTH)
def test_log_determinant_of_every_whole_model_against_autograd(options):
    """Logit, both scales, every mix; the learned noise has a test of its own."""
    model = any_model(options, pixels=16, alpha=0.05, scale=2.0).double()
    x = 255 * torch.rand(1, 16, dtype=torch.float64)
    expected = logit_and_flow_against_autograd(model, x, 1e-8)
    identity = model.logit_normalize(x, torch.zeros(1, dtype=torch.float64))[1].item()
    assert abs(expected - identity) > 0.1  # the couplings count


@options([BOTH[0], *MULTISCALE[::2], *MIXTURES])
def test_reverse_undoes_forward_at_full_size(options):
    flow = any_model(options, scale=0.5).flow
    z = torch.randn(8, 784)
    out, ldj = flow(z, torch.zeros(8))
    back, total = flow(out, ldj, reverse=True)
    assert (out - z).abs().max() > 0.5
    assert ldj.abs().mean() > 0.5
    assert torch.allclose(back, z, atol=2e-4)
    assert torch.allclose(total, torch.zeros(8), atol=2e-3)


@options([*BOTH[:4], MIXTURES[0]])
def test_probabilities_of_all_images_of_four_pixels_sum_to_one_whatever_the_noise(options):
    """A sum over 256^4 images, estimated from evenly spread ones: the density's is 1, the bound's is below."""
    torch.manual_seed(0)
    if options["arch"] == "template":
        model = any_model(options, pixels=4, scale=0.5)
    else:
        model = Model([16], 2, 8, **options)
        model.flow = multiscale.Flow([4], 2, 8, options["mix"], options.get("components", 0), levels=1)
        if model.noise is not None:
            model.noise = multiscale.Dequantizer([4])
        redraw(model, 0.5).eval()
    model.double()
    images = (256 * torch.quasirandom.SobolEngine(4, scramble=True, seed=1).draw(2**15).double()).floor()
    torch.manual_seed(1)
    with torch.no_grad():
        log_px = torch.stack([model(images) for _ in range(4)]) + 4 * math.log(256)
    assert log_px.exp().mean().item() == pytest.approx(1, abs=0.03)
    assert log_px.mean(0).exp().mean() < 1


def test_learned_noise_has_the_density_that_it_says(monkeypatch):
    noise = redraw(multiscale.Dequantizer([16]), 2.0).double()
    x = torch.randint(0, 256, (1, 16)).double()
    e = torch.randn(1, 4, 2, 2, dtype=torch.float64)

    def draw(e):
        monkeypatch.setattr(torch, "randn_like", lambda _: e)
        return noise(x)

    jacobian = torch.autograd.functional.jacobian(lambda e: draw(e)[0], e).reshape(16, 16)
    expected = nf.log_prior(e).sum() - torch.linalg.slogdet(jacobian).logabsdet
    u, log_q = draw(e)
    assert log_q.item() == pytest.approx(expected.item(), abs=1e-8)
    assert ((u > 0) & (u < 1)).all()


def test_the_mass_of_the_learned_noise_is_one(monkeypatch):
    """The density is a product over four pixels. q_i(0) is that of pixel i at e = 0, and I_i the integral over u_i of
    q_i(u_i) times all other q_j(0). If each q_i integrates to one, the product of all I_i is (q_1(0) ... q_4(0))^3."""
    noise = redraw(multiscale.Dequantizer([4]), 2.0).double()
    axis, log_integrals = torch.linspace(-9, 9, 2001, dtype=torch.float64), 0
    for i in range(4):
        e = torch.zeros(len(axis), 4, 1, 1, dtype=torch.float64)
        e[:, i, 0, 0] = axis
        monkeypatch.setattr(torch, "randn_like", lambda _, e=e: e)
        with torch.no_grad():
            u, log_q = noise(torch.tensor([[0.0, 20, 255, 130]], dtype=torch.float64).expand(len(axis), 4))
        (moved,) = torch.nonzero((u[0] - u[-1]).abs() > 0.5).T
        assert len(moved) == 1
        log_integrals += torch.trapezoid(log_q.exp(), u[:, moved[0]]).log()
    assert log_integrals.item() == pytest.approx(3 * log_q[1000].item(), abs=1e-4)


@options(BOTH)
def test_gradient_reaches_every_parameter_of_every_model(options):
    model = any_model(options).train()
    model(torch.randint(0, 256, (4, 784)).float()).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_squeeze_is_undone_and_puts_the_checkerboard_first():
    image = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8).float()
    assert torch.equal(multiscale.unsqueeze(multiscale.squeeze(image)), image)
    board = nf.get_mask().reshape(1, 1, 28, 28)
    white, black = multiscale.squeeze(board).chunk(2, dim=1)
    assert white.min() == 1
    assert black.max() == 0
    # a square of four pixels goes to one place
    assert torch.equal(multiscale.squeeze(image)[0, ::3, 0, 0].sort()[0], torch.tensor([0.0, 1, 8, 9]))


def test_four_steps_of_permute_change_every_pixel():
    flow = redraw(multiscale.Flow([16], 4, 8, "permute", levels=1))
    z = torch.randn(1, 16)
    out, _ = flow(z, torch.zeros(1))
    moved = multiscale.unsqueeze(out.view(1, 4, 2, 2)).flatten()
    assert ((moved - z[0]).abs() > 1e-6).all()


def test_actnorm_measures_the_first_training_batch_only_and_remembers(tmp_path):
    norm = multiscale.ActNorm(3)
    torch.manual_seed(0)
    batch = 5 * torch.randn(64, 3, 4, 4) + torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1)
    norm.eval()
    assert torch.equal(norm(batch, torch.zeros(64))[0], batch)  # an untrained model does not look at validation images
    norm.train()
    out, ldj = norm(batch, torch.zeros(64))
    assert out.mean((0, 2, 3)).abs().max() < 1e-5
    assert torch.allclose(out.std((0, 2, 3)), torch.ones(3), atol=1e-4)
    assert ldj[0].item() == pytest.approx(-16 * norm.log_std.sum().item())
    again = norm(batch + 100, torch.zeros(64))[0]
    assert again.mean() > 10
    torch.save(norm.state_dict(), tmp_path / "norm.pt")
    other = multiscale.ActNorm(3)
    other.load_state_dict(torch.load(tmp_path / "norm.pt", weights_only=True))
    assert torch.equal(other.train()(batch + 100, torch.zeros(64))[0], again)


def mixture(*shape, components=3, dtype=torch.float64, scale=1.0):
    """Random parameters of `mixture_logit` for x of this shape."""
    logits, mean, log_scale = torch.randn(3, shape[0], components, *shape[1:], dtype=dtype)
    return logits, 3 * mean, (scale * log_scale).clamp(-3, 3)


def test_mixture_logit_is_the_logit_of_the_cdf_and_knows_its_slope():
    torch.manual_seed(0)
    logits, mean, log_scale = mixture(5, 7)
    x = (3 * torch.randn(5, 7, dtype=torch.float64)).requires_grad_()
    y, log_slope = multiscale.mixture_logit(x, logits, mean, log_scale)
    weights = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
    cdf = (weights / (1 + torch.exp((mean - x.unsqueeze(1)) / torch.exp(log_scale)))).sum(1)
    torch.testing.assert_close(torch.sigmoid(y), cdf)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope.exp(), slope)


def test_one_logistic_is_affine_however_far_in_the_tails():
    x = torch.tensor([[-1e9, -1e4, -200.0, 0, 50, 1e4, 1e9]], dtype=torch.float64)
    logits, mean, log_scale = torch.tensor([0, 2, -1], dtype=torch.float64).view(3, 1, 1, 1).expand(3, 1, 1, 7)
    y, log_slope = multiscale.mixture_logit(x, logits, mean, log_scale)
    torch.testing.assert_close(y, (x - 2) * math.e)
    torch.testing.assert_close(log_slope, torch.ones_like(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_inverse_of_a_mixture_is_exact_over_the_whole_line(dtype, scale):
    torch.manual_seed(0)
    y = 3 * torch.randn(20, 100, dtype=dtype)
    y[0] = torch.linspace(-1e6, 1e6, 100)
    y[1] = torch.linspace(-1e-6, 1e-6, 100)
    parameters = mixture(20, 100, dtype=dtype, scale=scale)
    x, claimed = multiscale.invert_mixture_logit(y, *parameters)
    again, log_slope = multiscale.mixture_logit(x, *parameters)
    torch.testing.assert_close(claimed, log_slope, rtol=0, atol=1e-4)
    # x has rounding errors, which the slope enlarges
    allowed = 20 * torch.finfo(dtype).eps * (1 + y.abs() + log_slope.exp() * (1 + x.abs()))
    assert ((again - y).abs() <= allowed).all()


def test_components_of_an_untrained_coupling_differ():
    coupling, z = multiscale.Coupling(8, 4, components=3), torch.randn(2, 8, 4, 4)
    coupling(z, torch.zeros(2))[0].pow(2).sum().backward()
    means = coupling.nn.last.bias.grad.view(11, 4)[5:8]
    assert (means.diff(dim=0).abs() > 1e-3).all()


def test_components_with_gaps_between_them_are_inverted_by_bisection():
    """Flat between two narrow components: there Newton's step leaves the line."""
    y = torch.linspace(-20, 20, 41, dtype=torch.float64).unsqueeze(0)
    mean = torch.tensor([-50.0, 50], dtype=torch.float64).view(1, 2, 1).expand(1, 2, 41)
    parameters = torch.zeros_like(mean), mean, torch.full_like(mean, -2.0)
    x, _ = multiscale.invert_mixture_logit(y, *parameters)
    torch.testing.assert_close(multiscale.mixture_logit(x, *parameters)[0], y, rtol=1e-12, atol=1e-12)
    assert (x.diff() > 0).all()


def test_numbers_that_are_not_finite_end_the_search():
    y = torch.tensor([[math.nan, math.inf, -math.inf, 1.0]])
    x, _ = multiscale.invert_mixture_logit(y, *mixture(1, 4, dtype=torch.float32))
    assert torch.isfinite(x).tolist() == [[False, False, False, True]]


@pytest.mark.parametrize("components", [0, 3])
def test_the_mass_of_a_flow_in_the_plane_is_one(components):
    """A coupling layer with two channels of one pixel, integrated over a grid."""
    torch.manual_seed(3)
    steps = [multiscale.Coupling(2, 4, components).double() for _ in range(2)]
    for step in steps:
        redraw(step)
    axis = torch.linspace(-20, 20, 301, dtype=torch.float64)
    z = points = torch.cartesian_prod(axis, axis).view(-1, 2, 1, 1)
    ldj = torch.zeros(len(points), dtype=torch.float64)
    with torch.no_grad():
        for step in steps:
            z, ldj = step(z, ldj)
            z = z.flip(1)
    density = (nf.log_prior(z).sum((1, 2, 3)) + ldj).exp()
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("pixels", [50, 36, 8])
def test_sizes_that_cannot_be_squeezed_are_refused_in_words(pixels):
    with pytest.raises(UserError, match="halved 2 times"):
        multiscale.Flow([pixels])


def test_the_code_is_split_among_the_levels():
    """What leaves after the first level is the second half of its channels: a change of it there stays in its part."""
    assert multiscale.Flow([784]).sizes() == [392, 392]
    assert multiscale.Flow([256], levels=3).sizes() == [128, 64, 64]
    flow = redraw(multiscale.Flow([64], 2, 8, levels=2)).eval()
    z, ldj = torch.randn(1, 64), torch.zeros(1)
    with torch.no_grad():
        x, _ = flow(z, ldj, reverse=True)
        assert torch.allclose(flow(x, ldj)[0], z, atol=1e-4)
        for part in (slice(0, 32), slice(32, 64)):
            changed = z.clone()
            changed[:, part] += 1.0
            code = flow(flow(changed, ldj, reverse=True)[0], ldj)[0]
            moved = (code - z).abs() > 1e-2
            assert moved[:, part].all()
            assert moved.sum() == 32
        # the coarsest part goes through one more level, and so changes what the first level's images are made of
        assert (flow(changed, ldj, reverse=True)[0] - x).abs().min() > 0


@options([BOTH[0], *MULTISCALE[1::2], MIXTURES[1]])
def test_a_trained_flow_is_the_same_in_bfloat16(options, glyph_cache):
    train, val, _ = mnist(data="glyphs", batch_size=64, download=False)
    torch.manual_seed(0)
    model = Model([784], 2, 16, **options).train()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    trained = nf.epoch_iter(model, train.subset(1000), optimizer)
    x, values = val.subset(250).images.float(), []
    model.eval()
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            log_px = model(x)
        assert log_px.dtype == torch.float32
        values.append(nf.bits_per_dim(log_px.mean().item()))
    assert values[0] == pytest.approx(values[1], abs=0.005)
    assert values[0] < trained


def test_an_exploding_flow_stops_with_the_step():
    model = Model([784], 1, 8).train()
    data = [(torch.randint(0, 256, (8, 784)).float(), None)] * 4
    with pytest.raises(FloatingPointError, match=r"step [234]"):
        nf.epoch_iter(model, data, torch.optim.SGD(model.parameters(), 1e9))


@pytest.mark.parametrize("alpha", [1e-5, 1e-3])
def test_the_docs_say_what_the_logit_of_black_pixels_costs(alpha):
    """Bits per dimension that the best normal density of a black pixel with uniform noise costs."""
    u = (torch.arange(1_000_000, dtype=torch.float64).unsqueeze(1) + 0.5) / 1_000_000
    z, log_slope = Model.logit_normalize(types.SimpleNamespace(alpha=alpha), u, torch.zeros_like(u[:, 0]))
    cost = (0.5 * math.log(2 * math.pi * math.e * z.var().item()) - log_slope.mean().item()) / math.log(2)
    text = (ROOT / "docs" / "flow.md").read_text()
    assert f"{cost:.2f} bits" in text
    assert f"{z.min().item():.1f} and {z.max().item():.1f}" in text
