"""Variants of the VAE: the plain one is the VAE, flows know their determinants, bounds are ordered, free bits free."""

import copy
import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch

import a3_vae_template as vae
from beyond import vae_family as family
from conftest import is_one_line
from nets import residual
from study import latent

SCRIPT = "beyond/vae_family.py"
FLOWS = [name for name, flow in family.POSTERIORS.items() if flow]


def member(z_dim=5, hidden=16, pixels=784, **parts):
    """A variant with weights as they are after some training: far from the identity."""
    torch.manual_seed(1)
    model = family.Family(hidden, z_dim, **parts)
    if pixels < 784:
        model.encoder.hidden, model.decoder.out = torch.nn.Linear(pixels, hidden), torch.nn.Linear(hidden, pixels)
    model.double().eval()
    for module in (model.flow, model.prior):
        for name, weights in module.named_parameters() if module else ():
            if name.startswith(("amortised", "outward")) or ".nn.4." in name:  # what starts small, or at 0
                torch.nn.init.normal_(weights, std=0.1)
    return model


def images(n=4, pixels=784):
    torch.manual_seed(2)
    return (torch.rand(n, pixels) < 0.3).double()


def test_the_plain_member_is_the_vae_to_the_last_digit():
    trained = []
    for make in (vae.VAE, family.Family):
        torch.manual_seed(0)
        model = make(30, 4)
        data = [(torch.rand(16, 1, 28, 28) < 0.3).float() for _ in range(5)]
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        values = vae.run_epoch(model, (data, data), optimizer)
        trained.append((values, model.state_dict()))
    (values, weights), (values_, weights_) = trained
    assert values == values_
    assert all(torch.equal(weights[name], weights_[name]) for name in weights)
    found = []
    for script in (vae, family):
        torch.manual_seed(1)
        found.append(script.log_likelihood(model.eval(), data[:2], 300))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("parts", [{}, {"prior": "coupling"}])
def test_beta_weighs_the_gradient_of_the_kl_term_alone(parts):
    model, x, found = member(**parts).train(), images(), {}
    for beta in (1.0, 5.0):
        model.beta = beta
        torch.manual_seed(3)
        reconstruction, kl = model.terms(x)
        gradients = [
            torch.autograd.grad(term.sum(), model.encoder.out.weight, retain_graph=True)[0]
            for term in (reconstruction, kl)
        ]
        found[beta] = reconstruction, kl, *gradients
    for one, five, factor in zip(found[1.0], found[5.0], (1, 1, 1, 5)):
        torch.testing.assert_close(five, factor * one)


@pytest.mark.parametrize(
    "parts", [{}, {"prior": "coupling"}, {"prior": "coupling", "decoder": "pixelcnn", "pixelcnn": (2, 1)}]
)
def test_samples_are_those_of_the_prior_and_the_decoder(parts):
    model = member(z_dim=2, **parts).float()
    torch.manual_seed(4)
    images_, means = model.sample(3000 if "decoder" not in parts else 400)
    assert images_.shape == means.shape == (len(means), 1, 28, 28)
    assert set(images_.unique().tolist()) <= {0.0, 1.0}
    assert images_.mean().item() == pytest.approx(means.mean().item(), abs=0.003)
    if "decoder" not in parts:
        torch.manual_seed(4)
        z = model.from_noise(torch.randn(3000, 2))
        torch.testing.assert_close(means, model.decoder(z).view_as(means))
        if model.prior:  # its density at these z, as a sample average of 1 / p(z) over a box, gives the box's area
            inside = (z.abs() < 1).all(1)
            area = (inside / model.prior.log_prob(z).exp()).mean().item()
            assert area == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flows_log_determinant_is_that_of_its_jacobian(name):
    model, context = member(posterior=name), torch.randn(1, family.CONTEXT).double()
    found = []
    for _ in range(5):
        z = 0.3 * torch.randn(1, 5).double()
        _, ldj = model.flow(z, torch.zeros(1).double(), context)
        through = lambda z: model.flow(z[None], torch.zeros(1).double(), context)[0][0]
        sign, expected = torch.linalg.slogdet(torch.autograd.functional.jacobian(through, z[0]))
        assert ldj.item() == pytest.approx(float(expected), rel=1e-7, abs=1e-9)
        assert sign > 0 or name == "householder"
        found.append(abs(ldj.item()))
    assert max(found) > 0.01 or name == "householder"  # no identity


@pytest.mark.parametrize("name", FLOWS)
def test_each_image_has_a_flow_of_its_own_and_draws_do_not_mix(name):
    model, context = member(posterior=name), torch.randn(3, family.CONTEXT).double()
    z = torch.randn(2, 3, 5).double()
    out, ldj = model.flow(z, torch.zeros(2, 3).double(), context)
    for i, j in itertools.product(range(2), range(3)):
        alone, its_ldj = model.flow(z[i, j][None], torch.zeros(1).double(), context[j][None])
        torch.testing.assert_close(out[i, j], alone[0])
        torch.testing.assert_close(ldj[i, j], its_ldj[0])
    other, _ = model.flow(z[:, :1].expand(2, 3, 5), torch.zeros(2, 3).double(), context)
    assert (other[0, 0] - other[0, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["diagonal", *FLOWS])
def test_the_density_of_q_integrates_to_1_in_the_plane(name):
    """E_q[r / q] = 1 for any density r that lies inside: here a narrow Gaussian round the draws' middle. A q that was
    wrong by a factor would be seen, and so would one with another shape."""
    model, x = member(z_dim=2, posterior=name), images(1)
    torch.manual_seed(3)
    with torch.no_grad():
        z, log_q, *_ = model.encode(x, 30_000)
    z, log_q = z[:, 0], log_q[:, 0]
    centre, spread = z.median(0)[0], 0.3 * z.std(0)
    log_r = (-0.5 * ((z - centre) / spread) ** 2 - spread.log() - 0.5 * math.log(2 * math.pi)).sum(1)
    ratio = (log_r - log_q).exp()
    assert float(ratio.mean()) == pytest.approx(1, abs=5 * float(ratio.std()) / len(z) ** 0.5 + 1e-3)
    assert float(ratio.std()) / len(z) ** 0.5 < 0.03


def test_the_learned_prior_is_a_density_and_its_draws_follow_it():
    model = member(z_dim=2, prior="coupling")
    line = torch.linspace(-12, 12, 201).double()
    points = torch.stack([line.repeat(201), line.repeat_interleave(201)], 1)
    with torch.no_grad():
        density = model.prior.log_prob(points).exp()
        assert float(density.sum()) * float(line[1] - line[0]) ** 2 == pytest.approx(1, abs=2e-3)
        noise = torch.randn(20_000, 2).double()
        z = model.prior.from_noise(noise)
        mean = (points * density[:, None]).sum(0) / density.sum()
        torch.testing.assert_close(z.mean(0), mean, atol=0.05, rtol=0)
        entropy = -(density * density.clamp_min(1e-300).log()).sum() / density.sum()
        assert float(-model.prior.log_prob(z).mean()) == pytest.approx(float(entropy), abs=0.05)


@pytest.mark.parametrize("parts", [{}, {"posterior": "iaf"}, {"prior": "coupling"}])
def test_the_importance_weighted_bound_grows_with_the_number_of_draws(parts):
    model, x = member(**parts), images(20)
    with torch.no_grad():
        log_w = model.log_weights(x, 1024)
        bounds = [float((log_w.view(-1, k, 20).logsumexp(1) - math.log(k)).mean()) for k in (1, 4, 64, 1024)]
        reconstruction, kl = (torch.stack(parts).mean(0) for parts in zip(*(model.terms(x) for _ in range(200))))
    assert all(lower < higher for lower, higher in itertools.pairwise(bounds))
    assert bounds[0] == pytest.approx(float((reconstruction - kl).mean()), abs=0.3)  # the bound itself


def gradients(model, x):
    torch.manual_seed(5)
    reconstruction, kl = model.terms(x)
    model.zero_grad()
    (kl - reconstruction).mean().backward()
    return (reconstruction - kl).detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_the_slope_behind_a_flow_is_that_of_its_inverse():
    """An autoregressive flow is inverted one dimension after another. So log q(z|x) at a given z and its slope, with
    all weights fixed, are known."""
    model, x = member(posterior="iaf").train(), images()
    z, log_q, mean, std = model.encode(x, 3)
    place = z.detach().requires_grad_()
    context = model.context(torch.nn.functional.gelu(model.encoder.hidden(x))).expand(3, 4, -1)
    flow, out, ldj = model.flow, place, torch.zeros(3, 4).double()
    for inward, from_context, outward in reversed([*zip(flow.inward, flow.from_context, flow.outward)]):
        out, start = out.flip(-1), torch.zeros_like(out)
        for _ in range(5):  # each pass makes one more dimension exact
            hidden = torch.nn.functional.linear(start, inward.weight * flow.mask_in, inward.bias)
            hidden = torch.nn.functional.elu(hidden + from_context(context))
            shift, gate = torch.nn.functional.linear(hidden, outward.weight * flow.mask_out, outward.bias).chunk(2, -1)
            scale = torch.sigmoid(gate + 2)
            start = (out - (1 - scale) * shift) / scale
        out, ldj = start, ldj + scale.log().sum(-1)
    expected = (family.log_prior((out - mean) / std) - std.log()).sum(-1) - ldj
    torch.testing.assert_close(log_q, expected)
    (slope,) = torch.autograd.grad(log_q.sum(), z)
    torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), place)[0])


@pytest.mark.parametrize("parts", [{"prior": "coupling"}, {"decoder": "gaussian"}, *({"posterior": f} for f in FLOWS)])
def test_the_path_gradient_is_the_ordinary_one_on_average(parts):
    model, x = member(z_dim=2, hidden=4, pixels=8, **parts), images(1, 8).expand(20_000, 8)
    _, ordinary = gradients(model, x)
    model.train()
    _, path = gradients(model, x)
    for a, b in zip(ordinary, path, strict=True):
        assert float((a - b).norm()) < 0.08 * float(a.norm()) + 0.05


def test_a_direction_of_codes_moves_what_it_was_made_of(monkeypatch):
    """A flow that doubles codes, and a decoder of bars whose slant is the first dimension of what comes out of it."""
    model = member(z_dim=2, posterior="planar")
    row, column = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    bars = lambda lean: ((column - 14 - lean[:, None, None] * (14 - row)).abs() < 2.5).double().flatten(1)
    torch.manual_seed(0)
    leans = torch.rand(400, dtype=torch.float64) - 0.5
    x = bars(leans)
    model.encoder.forward = lambda x: (
        torch.stack([latent.slant(x) / 2, torch.zeros(len(x))], 1),
        torch.ones(len(x), 2),
    )
    model.through_flow = lambda x, z: (2 * z, torch.zeros_like(z[..., 0]))
    model.decoder.forward = lambda z: bars(z[:, 0])
    monkeypatch.setattr(latent.figures, "image_grids", lambda *words: None)
    found = latent.attributes(SimpleNamespace(figure=str), "", model, x, x[:50])
    assert found["slant_more"] == found["slant_less"] == 1
    spread = leans.sort()[0]
    assert found["slant_more_change"] == pytest.approx(float(spread[-100:].mean() - spread[:100].mean()), abs=0.1)


@pytest.mark.parametrize("posterior", ["planar", "diagonal"])
def test_training_with_several_draws_follows_the_importance_weighted_bound(posterior):
    """To the last digit; the posterior's path gradient is the same on average."""
    model, x = member(z_dim=2, hidden=4, pixels=8, posterior=posterior), images(1, 8).expand(20_000, 8)
    torch.manual_seed(5)
    log_w = model.log_weights(x, 5)  # in evaluation: the ordinary gradient
    (-torch.logsumexp(log_w, 0)).mean().backward()
    theirs = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.samples = 5
    model.train()
    value, mine = gradients(model, x)
    torch.testing.assert_close(value, log_w.mean(0).detach())  # what is recorded is the bound all the same
    for (name, a), b in zip(theirs.items(), mine, strict=True):
        if name.startswith(("encoder", "context", "flow")):
            assert not torch.equal(a, b)
            assert float((a - b).norm()) < 0.08 * float(a.norm()) + 0.02
        else:
            torch.testing.assert_close(a, b)


def test_free_bits_charge_nothing_below_lambda_and_everything_above():
    model, x = member(), images(32)
    model.train()
    encoder = [*model.encoder.parameters()]

    def kl_gradient(free_bits):
        model.free_bits = free_bits
        torch.manual_seed(5)
        return torch.autograd.grad(model.terms(x)[1].mean(), encoder)

    model.free_bits = 1e-9
    value = model.terms(x)[1].mean().detach()
    mean, std = model.encoder(x)
    each = 0.5 * (std**2 + mean**2 - 1 - 2 * std.log())
    low, high = each.mean(0).detach().sort()[0][1:3]
    free_bits = float(low + high) / 2  # two dimensions of five cost less than this
    charged = each.mean(0)[each.mean(0) > free_bits].sum()
    for mine, theirs in zip(kl_gradient(free_bits), torch.autograd.grad(charged, encoder)):
        torch.testing.assert_close(mine, theirs)
        assert mine.any()
    assert not any(part.any() for part in kl_gradient(1e6))
    model.free_bits = 1e6
    torch.testing.assert_close(model.terms(x)[1].mean().detach(), value)  # recorded is the KL term itself


@pytest.mark.parametrize("variance", [0.5, 0.02])
def test_the_gaussian_decoders_bound_meets_a_linear_model_in_closed_form(variance):
    """p(x|z) = N(W z + b, variance) with p(z) normal: log p(x) is known."""
    model = member(z_dim=2, decoder="learned-gaussian")
    torch.manual_seed(4)
    w, b = 0.02 * torch.randn(784, 2).double(), 0.4 + 0.1 * torch.rand(784).double()
    model.decoder.logits = lambda z: torch.logit(z @ w.T + b)
    model.log_variance.data.fill_(math.log(variance))
    z_true = torch.randn(3, 2).double()
    x = z_true @ w.T + b + variance**0.5 * torch.randn(3, 784).double()
    covariance = w @ w.T + variance * torch.eye(784).double()
    offset = x - b
    log_px = -0.5 * (
        (offset * torch.linalg.solve(covariance, offset.T).T).sum(1)
        + torch.linalg.slogdet(covariance)[1]
        + 784 * math.log(2 * math.pi)
    )
    precision = torch.eye(2).double() + w.T @ w / variance
    mean = torch.linalg.solve(precision, w.T @ offset.T / variance).T
    # q is wider than the posterior: the bound is loose, and importance sampling comes to the exact value
    std = 1.5 * precision.inverse().diagonal().sqrt().expand(3, 2)
    model.encoder.forward = lambda input: (mean, std)
    with torch.no_grad():
        log_w = model.log_weights(x, 20_000)
    torch.testing.assert_close(log_w.logsumexp(0) - math.log(20_000), log_px, atol=0.02, rtol=0)
    assert (log_w.mean(0) < log_px - 0.1).all()


def test_a_pixelcnn_decoder_sees_z_and_no_pixel_to_come():
    model = member(decoder="pixelcnn")
    x, z = images(2).requires_grad_(), torch.randn(2, 5).double().requires_grad_()
    logits = model.pixels.condition_on(model.decoder.logits(z))(2 * x - 1)[:, 400, 0].sum()
    by_x, by_z = torch.autograd.grad(logits, [x, z])
    assert not by_x[:, 400:].any()
    assert by_x[:, 399].all()
    assert by_z.all()
    uniforms = torch.rand(2, 784).double()
    drawn, logits = model.sample_pixels(z.detach(), uniforms)
    with torch.no_grad():
        at_once = model.pixels.condition_on(model.decoder.logits(z))(2 * drawn - 1)[..., 0]
    torch.testing.assert_close(logits, at_once)
    assert torch.equal(drawn, (uniforms < torch.sigmoid(logits)).double())


def test_slant_and_stroke_width_measure_what_they_say():
    def bar(width, lean):
        image = torch.zeros(28, 28)
        for row in range(4, 24):
            left = round(12 + lean * (14 - row))
            image[row, left : left + width] = 1
        return image.flatten()

    upright, right, left = (bar(4, lean) for lean in (0, 0.4, -0.4))
    slants = latent.slant(torch.stack([upright, right, left]))
    assert slants.tolist() == pytest.approx([0, 0.4, -0.4], abs=0.03)
    long = torch.zeros(6, 28, 28)
    for i in range(6):
        long[i, :, 10 : 11 + i] = 1  # from edge to edge: no ends
    assert latent.stroke_width(long.flatten(1)).tolist() == pytest.approx([1, 2, 3, 4, 5, 6], abs=1e-9)
    assert latent.stroke_width(torch.zeros(1, 784)).item() == 0


def test_mutual_information_of_codes_that_tell_all_and_of_codes_that_tell_nothing():
    model = member(z_dim=3)
    n, noise = 500, torch.randn(500, 3).double()
    far = 100 * torch.randn(n, 3).double()
    for mean, std, expected in ((far, 0.01, math.log(n)), (torch.zeros(n, 3).double(), 1.0, 0.0)):
        std = torch.full((n, 3), std).double()
        log_q = (family.log_prior(noise) - std.log()).sum(1)
        found = latent.information(model, mean + std * noise, log_q, mean, std)
        assert found["mutual_information_at_least"] == pytest.approx(expected, abs=1e-6)
        assert found["mutual_information_at_least"] <= found["mutual_information_at_most"] + 0.05


def test_the_aggregate_posteriors_distance_from_the_prior_is_the_known_one_of_a_gaussian():
    torch.manual_seed(4)
    n, noise = 20_000, torch.randn(20_000, 2).double()
    codes, std = 1.5 * torch.randn(n, 2).double() + torch.tensor([0.7, 0.0]), torch.full((n, 2), 0.8).double()
    z, log_q = codes + std * noise, (family.log_prior(noise) - std.log()).sum(1)
    found = latent.information(member(z_dim=2), z[:300], log_q[:300], codes[:300], std[:300])
    variance = 1.5**2 + 0.8**2
    known = 0.5 * (2 * variance + 0.7**2 - 2 - 2 * math.log(variance))  # Question 1.5
    assert found["aggregate_kl_at_least"] == pytest.approx(known, rel=0.15)
    information = math.log(variance / 0.8**2)  # 0.5 log of it for each of the two dimensions
    assert found["mutual_information_at_least"] == pytest.approx(information, rel=0.15)
    assert found["mutual_information_at_most"] == pytest.approx(information, rel=0.15)


def test_a_variant_trains_and_draws_samples(checkout):
    """test_training.py trains and analyses others, in its own process."""
    words = "--quick --data glyphs-binary --hidden 32 --zdim 4 --epochs 1 --eval-images 20 --name variant"
    checkout.run(SCRIPT, *words.split(), "--posterior", "iaf", "--prior", "coupling")
    folder = checkout.folder / "runs" / "quick" / "glyphs-binary" / "variant"
    results = json.loads((folder / "results.json").read_text())
    assert results["curves"]["val_elbo"][1] > results["curves"]["val_elbo"][0]
    assert results["final"]["eval_images"] == 20
    checkout.run(SCRIPT, "--weights", folder / "model.pt", "--sample", "4")
    assert (folder / "samples-4.png").stat().st_size > 200


def test_the_grid_encoder_reads_the_posterior_on_the_grid():
    torch.manual_seed(0)
    model = family.Family(16, 2, encoder="grid").eval()
    torch.nn.init.normal_(model.decoder.out.weight, std=0.05)
    x = (torch.rand(5, 784) < 0.3).float()
    p = model.decoder(vae.manifold_grid(20))  # [400, 784]
    fourth_root = ((x @ p.log().T + (1 - x) @ (1 - p).log().T) / 4).double().exp()
    expected = fourth_root / fourth_root.sum(1, keepdim=True)
    assert expected.max() > 5 / 400  # not flat
    read = []
    model.encoder.hidden.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    mean, std = model.encoder(x)
    torch.testing.assert_close(read[0], 20 * expected.float(), rtol=1e-2, atol=1e-4)
    torch.nn.init.zeros_(model.encoder.out.weight)
    torch.nn.init.zeros_(model.encoder.out.bias)
    guess, std = model.encoder(x)
    torch.testing.assert_close(guess, expected.float() @ vae.manifold_grid(20), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(std, torch.ones(5, 2), rtol=0, atol=1e-4)
    # the decoder's weights learn through z alone, are saved once, and a copy reads its own decoder
    weights = list(model.decoder.parameters())
    assert torch.autograd.grad((mean + std).sum(), weights, allow_unused=True) == (None,) * 4
    assert sum(name.startswith(("encoder.", "decoder.")) for name in model.state_dict()) == 8
    other = copy.deepcopy(model)
    torch.nn.init.normal_(other.decoder.out.weight, std=0.05)
    assert not torch.equal(other.encoder(x)[0], guess)
    assert torch.equal(model.encoder(x)[0], guess)
    assert model.encoder(torch.zeros(3, 2, 784))[0].shape == (3, 2, 2)


def test_an_autoencoder_has_neither_noise_nor_a_kl_term():
    model, x = member(autoencoder=True), images()
    for training in (False, True):
        model.train(training)
        reconstruction, kl = model.terms(x)
        p = model.decoder(model.encoder(x)[0])
        torch.testing.assert_close(reconstruction, (x * p.log() + (1 - x) * (1 - p).log()).sum(1))
        assert torch.equal(model.terms(x)[0], reconstruction)
        assert not kl.any()
    (-reconstruction).mean().backward()
    of_mean, of_std = model.encoder.out.weight.grad.chunk(2)
    assert of_mean.any(1).all()
    assert not of_std.any()


def test_residual_networks_start_without_blocks_and_all_their_weights_learn():
    torch.manual_seed(0)
    model = family.Family(z_dim=3, net="conv", channels=2).double()
    x, z = images(6), torch.randn(2, 6, 3).double()
    before = model.decoder.logits(z)
    assert before.shape == (2, 6, 784)
    torch.testing.assert_close(before[1, 4], model.decoder.logits(z[1, 4][None])[0])
    blocks = [module for module in model.modules() if isinstance(module, residual.Block)]
    assert len(blocks) == 4
    for block in blocks:
        maps = torch.randn(1, block.first.in_channels, 7, 7).double()
        assert torch.equal(block(maps), maps)
        torch.nn.init.normal_(block.second.weight, std=0.1)
    reconstruction, kl = model.train().terms(x)
    (kl - reconstruction).mean().backward()
    for name, weights in model.named_parameters():
        assert weights.grad.any(), name


def test_feature_maps_keep_their_place_on_the_way_to_pixels():
    """A feature of the upper left of 7 x 7 positions changes pixels in the upper left corner only.

    (Blocks start as the identity.)"""
    torch.manual_seed(0)
    decoder = residual.ConvDecoder(3)
    h = torch.randn(2, 98 * 3)
    h[1] = h[0]
    h[1, :6] += 1.0  # all features of the first position
    changed = ((decoder(h)[0] - decoder(h)[1]).abs() > 1e-6).view(28, 28)  # rounding may differ between rows
    assert changed[:6, :6].any()
    assert not changed[10:].any()
    assert not changed[:, 10:].any()
    encoder = residual.ConvEncoder(3)
    x = torch.zeros(2, 784)
    x[1, 0] = 1.0
    features = (encoder(x)[0] != encoder(x)[1]).view(7, 7, 6)
    assert features[0, 0].any()
    assert not features[2:].any()
    assert not features[:, 2:].any()


@torch.no_grad()
def test_residual_networks_in_bfloat16_change_the_bound_little(monkeypatch):
    torch.manual_seed(0)
    model, x = family.Family(z_dim=4, net="conv", channels=8, prior="coupling").eval(), images(50).float()
    for module in model.modules():
        if isinstance(module, residual.Block):
            torch.nn.init.normal_(module.second.weight, std=0.1)
    bounds = []
    for wanted in (True, False):
        monkeypatch.setattr(residual, "autocast", lambda device: torch.autocast("cpu", torch.bfloat16, enabled=wanted))  # noqa: B023
        torch.manual_seed(1)
        bounds.append(model.log_weights(x, 20).mean())
    assert bounds[0] != bounds[1]
    torch.testing.assert_close(bounds[0], bounds[1], rtol=2e-3, atol=0)


WRONG = (
    "--decoder gaussian --data bmnist|--data mnist|--samples 5 --beta 2|--warmup 40|--posterior sylvester --zdim 200|"
    "--free_bits 1 --prior coupling|--zdim 1|--encoder grid|--encoder grid --zdim 2 --net conv|--autoencoder --beta 4|"
    "--autoencoder --prior coupling"
)


@pytest.mark.parametrize("wrong", WRONG.split("|"))
def test_wrong_words_are_refused_in_one_line(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        family.parse_args(wrong.split())
    assert stop.value.code == 2
    assert is_one_line(capsys.readouterr().err)
