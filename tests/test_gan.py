"""The GAN: losses, whose step touches whose gradients, averaging, interpolation; and the measures of quality."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import a3_gan_template as gan
from a3_gan_template import Discriminator, Generator
from common import quality
from datasets.mnist import mnist


def few_batches(n=3, size=16):
    torch.manual_seed(0)
    return [(torch.rand(size, 784) * 255, torch.zeros(size)) for _ in range(n)]


def adam(module, lr=1e-3):
    return torch.optim.Adam(module.parameters(), lr)


@pytest.mark.parametrize("arch", list(gan.DEFAULTS))
def test_interface(arch):
    images = Generator(arch=arch, waves=20 if arch == "template" else 0)(torch.randn(4, 100))
    assert images.shape == (4, 784)
    assert -1 <= images.min() < images.max() <= 1
    assert images.mean() < -0.5  # nearly black
    scores = Discriminator(arch)(images)
    assert scores.shape == (4, 1)
    assert (scores > 0).all()
    assert (scores < 1).all()


def test_the_layers_are_those_of_the_template():
    widths = [layer.out_features for layer in Generator().layers if isinstance(layer, torch.nn.Linear)]
    assert widths == [128, 256, 512, 1024, 784]
    widths = [layer.out_features for layer in Discriminator().layers if isinstance(layer, torch.nn.Linear)]
    assert widths == [512, 256, 1]


def test_the_four_pixels_of_a_position_lie_side_by_side():
    """A pixel depends on the 3 x 3 positions of the 14 x 14 feature maps around its own."""
    generator = Generator(3, arch="conv").eval()
    features = generator.layers.norm14
    found = []
    hook = features.register_forward_hook(lambda module, inputs, output: found.append(output) or output)
    images = generator(torch.zeros(1, 3))
    hook.remove()
    (slope,) = torch.autograd.grad(images.view(28, 28)[10, 20], found[0])
    touched = slope.abs().sum((0, 1)).nonzero()
    assert touched.amin(0).tolist() == [4, 9]  # the 3 x 3 positions around (5, 10)
    assert touched.amax(0).tolist() == [6, 11]


def test_losses_at_equilibrium_and_against_binary_cross_entropy():
    half = torch.zeros(7, 1)  # the logit of D = 1/2
    assert gan.discriminator_loss(half, half).item() == pytest.approx(2 * math.log(2))
    assert gan.generator_loss(half).item() == pytest.approx(math.log(2))
    real, fake = torch.randn(50, 1), torch.randn(50, 1)
    bce = torch.nn.functional.binary_cross_entropy
    expected = bce(real.sigmoid(), torch.ones(50, 1)) + bce(fake.sigmoid(), torch.zeros(50, 1))
    assert gan.discriminator_loss(real, fake).item() == pytest.approx(expected.item(), rel=1e-5)
    assert gan.generator_loss(fake).item() == pytest.approx(bce(fake.sigmoid(), torch.ones(50, 1)).item(), rel=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_steps_of_both_nets_by_hand(penalty, monkeypatch):
    """D's step on its own loss, then G's against the D of after that step; the same noise is drawn.

    The penalty is part of D's first and third loss, twice as large because it is part of every second one."""
    monkeypatch.setattr(gan, "PENALTY_EVERY", 2)
    monkeypatch.setenv("A3_FLOAT32", "1")
    torch.manual_seed(0)
    nets = Discriminator(), Generator(latent_dim=5, codes=3)
    discriminator, generator = copy.deepcopy(nets)
    optimizers = [torch.optim.SGD(net.parameters(), lr) for net, lr in zip(nets, (0.1, 0.3))]
    batches, step = few_batches(3), lambda net, loss, lr: descend(net, torch.autograd.grad(loss, net.parameters()), lr)
    torch.manual_seed(1)
    reported = gan.train(batches, *nets, *reversed(optimizers), penalty=penalty)
    torch.manual_seed(1)
    losses = []
    for number, (images, _) in enumerate(batches):
        images = (images / 127.5 - 1).requires_grad_(True)
        with gan.autocast(images.device):
            fake = generator(generator.noise(16))
            made = fake.detach().requires_grad_(True)
            real, found = discriminator.logits(images), discriminator.logits(made)
        loss_D = objective = -torch.sigmoid(real).log().mean() - torch.sigmoid(-found).log().mean()
        if number != 1:
            slopes = torch.autograd.grad(real.sum() + found.sum(), (images, made), create_graph=True)
            objective = loss_D + penalty * sum(slope.pow(2).sum() / 16 for slope in slopes)
        of_D = step(discriminator, objective, 0.1)
        with gan.autocast(images.device):
            loss_G = -torch.sigmoid(discriminator.logits(fake)).log().mean()
        step(generator, loss_G, 0.3)
        losses.append(
            [loss_D.item(), loss_G.item(), torch.sigmoid(real).mean().item(), torch.sigmoid(found).mean().item()]
        )
    for net, mine in zip(nets, (discriminator, generator)):
        for parameter, expected in zip(net.parameters(), mine.parameters(), strict=True):
            torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6)
    assert list(reported.values()) == pytest.approx(np.mean(losses, 0).tolist(), rel=1e-4)
    assert list(reported) == ["loss_D", "loss_G", "D_x", "D_G_z"]
    for parameter, gradient in zip(nets[0].parameters(), of_D):  # G's step has left none in D
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
        assert parameter.requires_grad


@torch.no_grad()
def descend(net, gradients, lr):
    for parameter, gradient in zip(net.parameters(), gradients):
        parameter -= lr * gradient
    return gradients


def test_the_penalty_is_the_squared_slope_of_d():
    """Against central differences of all logits' sum."""
    torch.manual_seed(0)
    discriminator, images = Discriminator().double(), torch.rand(3, 784, dtype=torch.double)
    kink = torch.nn.Tanh()  # differences need a smooth D
    for i in 1, 3:
        discriminator.layers[i] = kink
    with torch.no_grad():
        slopes = torch.empty(3, 784, dtype=torch.double)
        for row, image in enumerate(images):
            up, down = (discriminator.logits(image + sign * 1e-5 * torch.eye(784)) for sign in (1, -1))
            slopes[row] = (up - down).flatten() / 2e-5
    expected = slopes.pow(2).sum(1).mean()
    assert expected > 0
    torch.testing.assert_close(gan.gradient_penalty(discriminator, images), expected, rtol=1e-4, atol=0)


def test_the_penalty_trains_d():
    """Its gradient with respect to one weight against a difference quotient."""
    torch.manual_seed(0)
    discriminator, images = Discriminator().double(), torch.rand(4, 784, dtype=torch.double)
    discriminator.layers[1] = discriminator.layers[3] = torch.nn.Tanh()
    weights = discriminator.layers[0].weight
    (gradient,) = torch.autograd.grad(gan.gradient_penalty(discriminator, images), weights)
    direction = torch.randn_like(weights)
    values = []
    for sign in 1, -1:
        changed = copy.deepcopy(discriminator)
        changed.layers[0].weight.data += sign * 1e-5 * direction
        values.append(gan.gradient_penalty(changed, images).item())
    assert (gradient * direction).sum().item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def test_noise_is_normal_beside_one_code():
    generator = Generator(latent_dim=3, codes=4)
    z = generator.noise(4000, torch.Generator().manual_seed(0))
    assert z.shape == (4000, 7)
    assert torch.equal(z, generator.noise(4000, torch.Generator().manual_seed(0)))
    assert z[:, :3].mean().item() == pytest.approx(0, abs=0.05)
    assert z[:, :3].var().item() == pytest.approx(1, abs=0.05)
    assert sorted(z[:, 3:].unique().tolist()) == [0, 2.5]
    assert z[:, 3:].sum(1).eq(2.5).all()
    assert z[:, 3:].eq(2.5).float().mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.03)
    assert Generator(latent_dim=3).noise(5).shape == (5, 3)
    assert generator(z[:8]).shape == (8, 784)


def test_waves_are_orthogonal_and_smooth():
    waves = gan.cosines(20).double()
    products = waves @ waves.T
    lengths = products.diagonal()
    torch.testing.assert_close(products, torch.diag(lengths), atol=1e-5, rtol=0)
    frequencies = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0)).double().norm(dim=1)
    torch.testing.assert_close(lengths * (1 + frequencies), lengths[0].expand(400), rtol=1e-5, atol=0)
    assert lengths.sum().item() == pytest.approx(784, rel=1e-5)  # so amplitudes of variance 1 give pixels of variance 1
    assert waves[0].std() < 1e-6  # the first is constant
    checkerboard = ((torch.arange(28)[:, None] + torch.arange(28)) % 2 * 2.0 - 1).flatten().double()
    assert (waves @ checkerboard).abs().max() < 0.02 * 28 * lengths[0].sqrt()
    generator = Generator(8, waves=20)
    assert generator(torch.randn(64, 8)).mean() < -0.5  # images start nearly black


def test_a_last_batch_of_one_image_is_left_out():
    discriminator, generator = Discriminator(), Generator()
    batches = [*few_batches(1), (torch.zeros(1, 784), torch.zeros(1))]
    gan.train(batches, discriminator, generator, adam(generator), adam(discriminator))


def test_a_nan_stops_with_its_step():
    discriminator, generator = Discriminator(), Generator()
    batches = [*few_batches(1), (torch.full((16, 784), math.nan), torch.zeros(16))]
    with pytest.raises(FloatingPointError, match="step 2"):
        gan.train(batches, discriminator, generator, adam(generator), adam(discriminator))


def test_a_dead_side_is_reported():
    lines = []
    gan.warn_if_dead(3, {"loss_D": 1e-5, "loss_G": 11.0}, lines.append)
    assert "epoch 3: the loss of D is stuck" in lines[0]
    assert "--lr" in lines[1]
    gan.warn_if_dead(4, {"loss_D": 1.38, "loss_G": 0.7}, lines.append)
    assert len(lines) == 2


@pytest.mark.parametrize("arch", list(gan.DEFAULTS))
def test_sampling_does_not_depend_on_the_batch(arch):
    torch.manual_seed(0)
    generator = gan.update_batchnorm(Generator(codes=4, arch=arch), 20)
    z = generator.noise(9)
    together = gan.images_of(generator, z)
    alone = torch.cat([gan.images_of(generator, one) for one in z.split(1)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert 0 <= together.min() < together.max() <= 1
    with pytest.raises(AssertionError):
        gan.images_of(generator.train(), z)


def test_averaged_weights_have_statistics_of_their_own():
    torch.manual_seed(0)
    generator = Generator()
    average = copy.deepcopy(generator)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    before = [p.clone() for p in average.parameters()]
    gan.update_average(average, generator, 0.9)
    for mean, old, new in zip(average.parameters(), before, generator.parameters()):
        assert torch.allclose(mean, 0.9 * old + 0.1 * new, atol=1e-6)
    gan.update_batchnorm(average, 20)
    assert not average.training
    norm = average.layers[3]
    z = torch.randn(4000, 100)
    inputs = average.layers[:3](z)
    assert torch.allclose(norm.running_mean, inputs.mean(0), atol=0.05)
    assert torch.allclose(norm.running_var, inputs.var(0), rtol=0.2)


def test_a_straight_path_reaches_both_ends_and_cuts_through_the_middle():
    torch.manual_seed(0)
    a, b = torch.randn(100), torch.randn(100)
    path = gan.straight(a, b)
    assert path.shape == (9, 100)
    torch.testing.assert_close(path[[0, 4, 8]], torch.stack([a, (a + b) / 2, b]))
    assert path[4].norm() < 0.85 * min(a.norm(), b.norm())


@pytest.mark.parametrize("angle", [0.0, 1e-5, 30.0, 90.0, 110.0, 179.0])
@pytest.mark.parametrize("lengths", [(1.0, 1.0), (9.0, 11.0), (2.0, 0.5)])
def test_on_a_spherical_path_direction_and_length_change_at_constant_rates(angle, lengths):
    angle = math.radians(angle)
    a, b = torch.zeros(5), torch.zeros(5)
    a[0], b[0], b[3] = lengths[0], lengths[1] * math.cos(angle), lengths[1] * math.sin(angle)
    path = gan.spherical(a, b, 11)
    expected = torch.linspace(lengths[0], lengths[1], 11)
    torch.testing.assert_close(path.norm(dim=1), expected)
    torch.testing.assert_close(torch.stack([path[0], path[-1]]), torch.stack([a, b]), atol=1e-4, rtol=0)
    cosines = torch.nn.functional.cosine_similarity(path[1:], path[:-1], dim=1).double().clamp(-1, 1)
    assert torch.arccos(cosines).tolist() == pytest.approx([angle / 10] * 10, abs=1e-3)


class ByBrightness(torch.nn.Module):
    """A judge whose class is the sign of the first pixel, always sure."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        bright = (images.reshape(len(images), -1)[:, 0] > 0.5).long()
        return 50 * torch.nn.functional.one_hot(bright, 10).float(), images.reshape(len(images), -1)[:, :128]


def test_the_ends_of_interpolations_are_of_different_classes():
    torch.manual_seed(0)
    generator = gan.update_batchnorm(Generator(), 20)
    torch.nn.init.normal_(generator.layers[-1].weight, std=1.0)
    ends, classes = gan.choose_ends(generator, ByBrightness(), 6, seed=1)
    assert ends.shape == (6, 100)
    assert all(a != b for a, b in pairwise(classes))
    judged = quality.classify(ByBrightness(), gan.images_of(generator, ends))[1].argmax(1)
    assert judged.tolist() == classes


# ---- quality


def test_frechet_distance_of_two_gaussians_against_the_closed_form():
    rng = np.random.default_rng(0)
    n = 400_000
    a, b = rng.normal(0, 1, (n, 2)), rng.normal((1, 2), (2, 0.5), (n, 2))
    assert quality.frechet(a, b) == pytest.approx(1 + 4 + (1 - 2) ** 2 + (1 - 0.5) ** 2, rel=0.01)
    # covariances that do not commute: (S_a S_b)^(1/2) from its definition
    s_a, s_b = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    a, b = rng.multivariate_normal([0, 0], s_a, n), rng.multivariate_normal([0, 0], s_b, n)
    expected = np.trace(s_a + s_b) - 2 * np.sqrt(np.linalg.eigvals(s_a @ s_b)).sum()
    assert quality.frechet(a, b) == pytest.approx(expected, rel=0.03)


def test_frechet_distance_of_a_set_to_itself_is_zero_and_survives_dead_features():
    features = np.random.default_rng(0).normal(size=(500, 20))
    features[:, 5] = 0
    assert quality.frechet(features, features) == pytest.approx(0, abs=1e-8)
    # means 0 and 1, variances 2 and 8 (divided by n - 1): 1 + 2 + 8 - 2 * 4
    assert quality.frechet([[-1.0], [1.0]], [[-1.0], [3.0]]) == pytest.approx(1 + 2 + 8 - 2 * 4)


def test_overlap_on_an_example_worked_by_hand():
    # k = 1: balls of radius 1 around 0 and 1, of radius 9 around 10 (all on a line)
    real = torch.tensor([[0.0], [1.0], [10.0]])
    fake = torch.tensor([[0.5], [0.6], [30.0], [30.2]])
    assert quality.radii(real, 1).tolist() == [1, 1, 9]
    result = quality.manifold_overlap(real, fake, k=1)
    assert quality.manifold_overlap(real, fake, k=1, real_radius=quality.radii(real, 1)) == result
    assert result["precision"] == pytest.approx(2 / 4)  # 0.5 and 0.6 lie in balls of real points
    assert result["density"] == pytest.approx(4 / 4)  # each of them in the balls of 0 and 1: 4 hits
    assert result["coverage"] == pytest.approx(2 / 3)  # 10 has no sample nearer than its neighbour at distance 9
    # balls of radius 0.1 around 0.5 and 0.6, of 0.2 around 30 and 30.2: no real point in them
    assert result["recall"] == 0
    # k = 2: balls of radius 0.5, 0.3, 0.5; 0.45 lies in all of them, 1.1 is 0.6 away; recall's reach up to 1.55
    result = quality.manifold_overlap(
        torch.tensor([[0.0], [0.2], [0.5]]), torch.tensor([[0.45], [1.1], [2.0], [2.1]]), k=2
    )
    assert result == {"precision": 1 / 4, "recall": 1, "density": 3 / (2 * 4), "coverage": 1}
    same = quality.manifold_overlap(real, real, k=1)
    assert same["coverage"] == 1
    assert same["precision"] == 1
    assert same["recall"] == 1


def test_judging_compares_samples_with_real_images_beside_real_with_real():
    torch.manual_seed(0)
    model = quality.Classifier().eval()
    real, other = torch.rand(300, 784), torch.rand(300, 784)
    verdict = quality.evaluate_samples(model, other * 0.2, real, other)
    floor = quality.frechet(*(quality.classify(model, images)[0] for images in (other, real)))
    assert verdict["frechet"] > 3 * verdict["frechet_floor"]
    assert verdict["frechet_floor"] == pytest.approx(floor)
    assert sum(verdict["class_counts"]) == sum(verdict["class_counts_real"]) == 300
    for key in ("precision", "recall", "density", "coverage", "confident_share", "class_kl"):
        assert key in verdict
        assert key + "_real" in verdict


def test_confident_samples_and_class_frequencies_are_counted(monkeypatch):
    """Of four samples, three are of class 7; one of these is not confident."""
    probabilities = torch.full((4, 10), 0.001)
    for row, (digit, share) in zip(probabilities, ((7, 0.99), (7, 0.95), (7, 0.6), (2, 0.99))):
        row[digit] = share
    monkeypatch.setattr(quality, "classify", lambda model, images: (torch.arange(8.0).view(4, 2), probabilities))
    monkeypatch.setattr(quality, "manifold_overlap", lambda *_, **__: {})
    metrics = quality.sample_metrics(None, None, torch.randn(20, 2), None)
    assert metrics["confident_share"] == 0.75
    assert metrics["class_counts"] == [0, 0, 1, 0, 0, 0, 0, 3, 0, 0]
    assert metrics["class_kl"] == pytest.approx(0.25 * math.log(2.5) + 0.75 * math.log(7.5))


@pytest.mark.slow
def test_a_short_run_on_glyphs_finds_the_classes_and_halves_the_distance(glyph_cache):
    train, val, _ = mnist(data="glyphs", batch_size=64, download=False)
    judge = quality.load_classifier("glyphs", torch.device("cpu"), None)
    features, _ = quality.classify(judge, val.images / 255)
    torch.manual_seed(0)
    generator, discriminator = Generator(), Discriminator()
    average = copy.deepcopy(generator)
    optimizers = [torch.optim.Adam(m.parameters(), 4e-4, betas=(0.5, 0.999)) for m in (generator, discriminator)]

    def look():
        return quality.classify(judge, gan.images_of(gan.update_batchnorm(average, 20), torch.randn(5000, 100)))

    before = quality.frechet(look()[0], features)
    for _ in range(5):
        gan.train(
            train,
            discriminator,
            generator,
            *optimizers,
            after_step=lambda: gan.update_average(average, generator, 0.995),
        )
    after, probabilities = look()
    assert quality.frechet(after, features) < before / 2
    assert (torch.bincount(probabilities.argmax(1), minlength=10) > 25).sum() >= 9
