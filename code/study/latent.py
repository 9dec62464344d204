"""Analyses of VAEs: the latent space, estimates of log p(x), the gaps of the bound. Validation images unless noted."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage, stats

from a3_gan_template import spherical, straight
from a3_nf_template import log_prior
from a3_vae_template import kl_per_dimension
from beyond.vae_family import log_likelihood
from common import figures
from study import charts

plt = figures.plt


@torch.no_grad()
def vae(run, title, model, train, val, test):
    """Reconstructions and estimates of log p(x); for D = 2 also the codes of test images, coloured by digit."""
    x = val.subset(36).images.float()
    shown = {"validation images": x, "reconstructions (means)": model.decoder(model.encoder(x)[0])}
    figures.image_grids(run.figure("reconstructions.png"), shown, 6, title)
    numbers = estimates_of_log_px(run, title, model, val)
    return numbers | two_dimensions(run, title, model, val, test) if model.z_dim == 2 else numbers


def two_dimensions(run, title, model, val, test):
    """D = 2: the codes of test images, coloured by digit, and what `posteriors` measures on validation images."""
    places = 100 * torch.special.ndtr(model.encoder(test.images.float())[0])  # percentiles, as in the manifold's grid
    names = "percentile of $z_1$", "percentile of $z_2$"
    charts.scatter(run.figure("codes.pdf"), places.cpu(), test.labels.cpu(), "means of q(z|x)", *names, (-3, 103))
    return posteriors(run, title, model, val)


def log_px_given_z(model, x, z):
    """log p(x|z) in nats for each image x [N, 784] and each code z [L, D]: [N, L]."""
    parts = (model.decoder.logits(part) for part in z.split(1000))  # larger parts do not fit into caches
    return torch.cat([x @ logits.T - F.softplus(logits).sum(1) for logits in parts], 1)  # log Bern = x l - softplus(l)


def log_weights_of_q(model, x, n):
    """log p(x|z) p(z) / q(z|x) for n samples of q(z|x) per image: [N, n]. One image at a time fits into caches."""
    return torch.cat([model.log_weights(image[None], n).T for image in x])


def estimates_of_log_px(run, title, model, val, n_images=50):
    """Question 1.4: the estimate of log p(x) against the number of samples L, with z from the prior and from q.

    Each value is an average over images and over all disjoint groups of L samples."""
    n_prior, n_q = 10_000 if run.quick else 100_000, 1000
    x = val.subset(n_images).images.float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codes = (torch.randn(5000, model.z_dim, device=x.device) for _ in range(n_prior // 5000))
        log_w = {"prior": torch.cat([log_px_given_z(model, x, z) for z in codes], 1)}
        log_w["q"] = log_weights_of_q(model, x, n_q)
    labels, numbers, lines = {"prior": "z from p(z)", "q": "z from q(z|x), weighted"}, {"estimate_images": n_images}, {}
    sizes = [10**k for k in range(round(math.log10(n_prior)) + 1)]
    for source, values in log_w.items():
        values, line = values.cpu().double(), [math.nan] * len(sizes)
        for i, size in enumerate(sizes):
            if size <= values.shape[1]:
                groups = values.view(n_images, -1, size).logsumexp(2) - math.log(size)
                line[i] = numbers[f"{source}_{size}"] = float(groups.mean())
        lines[labels[source]] = line
    path, labels = run.figure("estimates.pdf"), ("samples L per image", "log p(x), nats")
    figures.curves(path, sizes, lines, *labels, title, log_x=True, marker="o")
    return numbers


def plane(side, reach=6.0, device=None):
    """A grid of side x side latent vectors: its line [side], its points [side^2, 2] and the log area of a cell.

    z_1 changes fastest: a view [side, side] of values at the points has z_2 in its rows."""
    line = torch.linspace(-reach, reach, side, device=device)
    points = torch.stack([line.repeat(side), line.repeat_interleave(side)], 1)
    return line, points, 2 * math.log(2 * reach / (side - 1))


def log_masses(model, x, points, log_cell):
    """log p(x, z) plus the log area of a cell, for each image x [N, 784] at each point [G, 2]: [N, G].

    The sum of their exponentials over the grid is p(x) by quadrature."""
    log_pz = log_prior(points).sum(1)
    result = torch.empty(len(x), len(points), device=x.device)
    for part in torch.arange(len(points), device=x.device).split(1000):  # larger parts do not fit into caches
        result[:, part] = log_px_given_z(model, x, points[part]) + log_pz[part] + log_cell
    return result


def bound_on_grid(log_mass, line, mean, std):
    """The ELBO in nats for q = N(mean, std^2) with mean and std [N, 2], which is restricted to the grid: [N].

    `log_mass` [N, side, side] as in log_masses. q is normalised on the grid, so Jensen's inequality holds exactly: the
    result is at most the quadrature's log p(x), also for a q that is narrower than a cell."""
    log_q = (-0.5 * ((line - mean[..., None]) / std[..., None]) ** 2).log_softmax(-1)  # [N, 2, side]
    q1, q2 = log_q.exp().unbind(1)
    expected = q2[:, None] @ log_mass @ q1[..., None]  # [N, 1, 1]
    return expected[:, 0, 0] - (log_q.exp() * log_q).sum((1, 2))


def optimised_bound(log_mass, line, mean, std, steps):
    """The highest ELBO of a diagonal Gaussian for each image, found by gradient ascent: [N].

    The ascent starts at the encoder's q, or with its std at the mode of the posterior, whichever has the higher ELBO.
    It can end in a local maximum."""
    with torch.no_grad():
        highest = log_mass.flatten(1).argmax(1)
        mode = torch.stack([line[highest % len(line)], line[highest // len(line)]], 1)
        starts = torch.stack([bound_on_grid(log_mass, line, start, std) for start in (mean, mode)])
        best, mean = starts.max(0)[0], torch.where((starts[1] > starts[0])[:, None], mode, mean)
    offset, log_scale = (torch.zeros_like(mean, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.Adam([offset, log_scale], 0.1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        bound = bound_on_grid(log_mass, line, mean + std * offset, std * log_scale.exp())
        best = torch.maximum(best, bound.detach())
        optimizer.zero_grad()
        (-bound.sum()).backward()
        optimizer.step()
    return best


def posteriors(run, title, model, val, n_images=1000):
    """D = 2: log p(x) by quadrature, the gaps of the bound (Question 1.8), and p(z|x) beside q(z|x) (Question 1.4).

    log p(x) - ELBO is the sum of two gaps (Cremer et al. 2018). The approximation gap is what the best diagonal
    Gaussian for each image misses. The amortisation gap is what the encoder's q misses in addition."""
    side, steps, n_q = (121, 10, 100) if run.quick else (289, 40, 500)
    x = val.subset(n_images).images.float()
    n_images = len(x)
    line, points, log_cell = plane(side, device=x.device)
    log_mass = log_masses(model, x, points, log_cell)  # [N, side^2]
    log_px, on_plane = log_mass.logsumexp(1), log_mass.view(-1, side, side)
    coarse = on_plane[:, ::2, ::2].flatten(1).logsumexp(1) + math.log(4)
    mean, std = model.encoder(x)
    bound = bound_on_grid(on_plane, line, mean, std)
    with torch.enable_grad():
        best = optimised_bound(on_plane, line, mean, std, steps)
    gaps = {"approximation": log_px - best, "amortisation": best - bound}
    charts.gaps(run.figure("gaps.pdf"), {f"{name} gap": gap.cpu() for name, gap in gaps.items()}, title)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        importance = log_weights_of_q(model, x, n_q).logsumexp(1) - math.log(n_q)
    log_pz = log_prior(points).sum(1)
    shares, inside = [], []
    for i in range(n_images):
        mass = (log_mass[i] - log_px[i]).exp()
        order = mass.argsort(descending=True)
        region = order[: int((mass[order].cumsum(0) < 0.95).sum()) + 1]  # smallest region with 95 % of the posterior
        shares.append((log_pz[region] + log_cell).exp().sum())
        inside.append(mass[((points - mean[i]) / std[i]).pow(2).sum(1) < 9.21].sum())  # ellipse with 99 % of q
    order = (log_px - bound).argsort()
    chosen = order[[n_images // 2, n_images * 9 // 10]]
    line, points, log_cell = plane(4 * side - 3, device=x.device)  # finer, for smooth contours
    fine = log_masses(model, x[chosen], points, log_cell).view(2, len(line), -1)
    shapes = [
        {"density": (fine[j] - fine[j].max()).exp().cpu(), "mean": mean[i].cpu(), "std": std[i].cpu(),
         "image": x[i].view(28, 28).cpu()} for j, i in enumerate(chosen)
    ]  # fmt: skip
    charts.densities(run.figure("posteriors.pdf"), line.cpu(), shapes, title)
    worst = gaps["amortisation"].sort(descending=True)[0]
    return {
        "quadrature_images": n_images, "quadrature_log_px": float(log_px.mean()),
        "quadrature_error": float((log_px - coarse).abs().mean()),  # compared with a grid of twice the spacing
        "quadrature_best_bound": float(best.mean()), "quadrature_bound": float(bound.mean()),
        "quadrature_importance": float(importance.mean()),
        **{f"{name}_gap": float(gap.mean()) for name, gap in gaps.items()},
        **{f"{name}_gap_median": float(gap.median()) for name, gap in gaps.items()},
        "worst_tenth_share": float(worst[: n_images // 10].sum() / worst.sum()),  # of the amortisation gap
        "prior_share": float(torch.stack(shares).median()), "posterior_in_q": float(torch.stack(inside).mean()),
    }  # fmt: skip


def family(run, title, model, train, val, test):
    """Figures and numbers about the latent space, for any variant of the VAE."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        x = val.subset(2000).images.float()
        if model.autoencoder:
            return autoencoder(run, title, model, train, x)
        z, log_q, mean, std = model.encode(x, 1)
        z, log_q = z[0], log_q[0]
        numbers = information(model, z, log_q, mean, std)
        if model.flow is None and model.prior is None:
            kl = kl_per_dimension(mean, std).mean(0).sort(descending=True)[0].cpu().numpy()
            path, xlabel = run.figure("kl-per-dimension.pdf"), "latent dimension, sorted by KL"
            figures.curves(path, range(1, len(kl) + 1), {"": kl}, xlabel, "KL, nats", title, marker="o")
        save_aggregate(run.figure("aggregate.pdf"), model, z.cpu(), title)
        numbers |= drawn_and_real(model, x)
        save_decoded(run.figure("decoded.png"), title, model, x[:24], z[:24])
        save_interpolation(run, title, model, z[:10])
        if model.pixels is None:
            numbers |= attributes(run, title, model, train.images[:10_000].float(), x[:500])
        else:
            numbers |= fed_back(model, x[:100], z[:100])
        if model.standard and model.z_dim == 2:
            numbers |= two_dimensions(run, title, model, val, test)
    return numbers


def precise_log_px(model, test, n_images=1000, n_draws=5000):
    """The average bound and log p(x) of evenly spread test images, with many samples of q(z|x) per image."""
    torch.manual_seed(0)
    images = test.subset(n_images)
    bound, estimate = log_likelihood(model, images, n_draws)
    n_images = len(images.images)
    return {"test_images": n_images, "test_draws": n_draws, "test_elbo": bound, "test_log_likelihood": estimate}


def autoencoder(run, title, model, train, x):
    """Reconstructions, and images decoded from two distributions of codes: N(0, I), and a Gaussian fitted to codes."""
    z, noise = model.code(x), torch.randn(24, model.z_dim, device=x.device)
    fitted = fitted_gaussian(model.code(train.images.float()), noise)
    shown = {"images": x[:24], "reconstructions": model.decoder(z[:24])}
    shown |= {"N(0, I)": model.decoder(noise), "fitted Gaussian": model.decoder(fitted)}
    figures.image_grids(run.figure("decoded.png"), shown, 6, title)
    return {"code_norm": float(z.norm(dim=1).mean()), "code_norm_std": float(z.norm(dim=1).std())}


def fitted_gaussian(codes, noise):
    """Samples [n, D] of the Gaussian with the mean and covariance of the codes [N, D], from normal noise [n, D]."""
    return codes.mean(0) + noise @ torch.linalg.cholesky(torch.cov(codes.T)).T


def information(model, z, log_q, mean, std):
    """Bounds, in nats, on the mutual information I(x; z) and on KL(q(z) || p(z)).

    q(z), the aggregate posterior, is the average of q(z|x) over all images. I(x; z) + KL(q(z) || p(z)) is the average
    KL term of the bound, so a lower bound on one number gives an upper bound on the other.
    `mutual_information_at_least`: E log q(z|x) - E log q(z), with q(z) averaged over N images; at most log N.
    `aggregate_kl_at_least`: KL(Gaussian || p(z)) with the mean and covariance of q(z). Of all distributions with these
    moments, the Gaussian is the closest to a normal prior."""
    numbers = {"code_norm": float(z.norm(dim=1).mean()), "code_norm_std": float(z.norm(dim=1).std())}
    kl = float((log_q - model.log_p_z(z)).mean())
    if model.prior is None:
        mean_z, covariance = z.mean(0).cpu().double(), torch.cov(z.T.cpu().double(), correction=0)
        distance = float(0.5 * (covariance.trace() + mean_z.pow(2).sum() - z.shape[1] - torch.logdet(covariance)))
        numbers |= {"aggregate_kl_at_least": distance, "mutual_information_at_most": kl - distance}
    if model.flow is not None:  # q(z) would need the inverse of the flow
        return numbers
    parts = []
    for part in z.split(200):  # log q(z|x) for all pairs of codes and images, [200, N]
        square = ((part[:, None] - mean) / std).pow(2).sum(2)
        parts.append((-0.5 * square - std.log().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)).logsumexp(1))
    mutual, log_n = float((log_q - (torch.cat(parts) - math.log(len(z)))).mean()), math.log(len(z))
    return numbers | {"mutual_information_at_least": mutual, "aggregate_kl_at_most": kl - mutual, "log_images": log_n}


def save_aggregate(path, model, z, title):
    """Aggregate posterior and prior: samples in the two dimensions with the largest variance, and norms of z."""
    prior = torch.randn_like(z)
    if model.prior is not None:
        prior = model.prior.from_noise(prior.to(next(model.parameters()).device)).cpu()
    figure, axes = plt.subplots(1, 2, figsize=(5.4, 2.0), layout="constrained")
    widest = z.std(0).argsort(descending=True)[:2]
    for points, colour, label in ((prior, "0.6", "prior"), (z, figures.COLOURS[0], "codes of images")):
        axes[0].scatter(*points[:, widest].T, s=1, linewidths=0, color=colour, rasterized=True)
        axes[1].hist(points.norm(dim=1), 40, density=True, histtype="step", color=colour, label=label)
    if model.prior is None:
        r = np.linspace(*axes[1].get_xlim(), 200)
        axes[1].plot(r, stats.chi.pdf(r, z.shape[1]), "--", linewidth=0.9, color="0.35", label="chi distribution")
    axes[0].set(xlabel="largest-variance dimension", ylabel="second largest", aspect="equal")
    axes[1].set(xlabel="|z|", ylabel="density")
    axes[1].margins(y=0.4)  # room for the legend
    axes[1].legend()
    figure.suptitle(title, fontsize=8)
    figures.finish(figure, path)


def drawn_and_real(model, x):
    """Average log p(x|z) and KL term of images sampled from the model, and of real images, with z from q(z|x)."""
    noise, uniforms = torch.randn(len(x), model.z_dim, device=x.device), None
    if model.pixels is not None:  # slow: fewer samples
        noise = noise[:500]
        uniforms = torch.rand(len(noise), 784, device=x.device)
    drawn = model.draw(noise, uniforms)  # means, or samples if the decoder is a PixelCNN
    if model.gaussian:
        drawn = drawn + torch.randn_like(drawn) * torch.exp(0.5 * model.log_variance)
    else:
        drawn = torch.bernoulli(drawn)  # of binary samples: the same
    numbers = {}
    for name, images in (("drawn", drawn), ("real", x[: len(drawn)])):
        z, log_q, _, _ = model.encode(images, 1)
        numbers[f"reconstruction_{name}"] = float(model.log_px_z(images, z).mean())
        numbers[f"kl_{name}"] = float((log_q - model.log_p_z(z)).mean())
    return numbers


def decoded(model, z, uniforms):
    """Decoder means, or samples if the decoder is a PixelCNN."""
    return model.decoder(z) if model.pixels is None else model.sample_pixels(z, uniforms)[0]


def save_decoded(path, title, model, x, z):
    """Validation images, images decoded from their codes, and images decoded from the prior."""
    noise, uniforms = torch.randn_like(z), torch.rand_like(x)
    shown = {"validation images": x, "decoded from their codes": decoded(model, z, uniforms)}
    shown["decoded from the prior"] = model.draw(noise, uniforms)
    figures.image_grids(path, shown, 8, title)


def save_interpolation(run, title, model, ends, steps=9):
    """Straight and spherical paths between codes of validation images, and the average |z| along the paths."""
    images, norms, uniforms = {}, {}, torch.rand(1, 784, device=ends.device)
    pairs = list(zip(ends[0::2], ends[1::2]))
    for name, path in (("straight", straight), ("spherical", spherical)):
        codes = torch.cat([path(a, b, steps) for a, b in pairs])
        images[f"{name} path"] = decoded(model, codes, uniforms.expand(len(codes), -1))
        norms[name] = torch.stack([path(a, b, 101).norm(dim=1) for a, b in pairs]).mean(0).cpu()
    figures.image_grids(run.figure("interpolation.png"), images, steps, title)
    if model.prior is None:  # a normal prior has nearly all its mass near this norm
        norms["square root of D"] = torch.full((101,), math.sqrt(ends.shape[1]))
    figures.curves(run.figure("norms.pdf"), range(101), norms, "position on the path, %", "average |z|", title)


def slant(images):
    """Slant of digits in columns to the right per row upwards, from second moments: [N, 784] -> [N]."""
    weight = images.view(-1, 28, 28).cpu().double()
    weight = weight / weight.sum((1, 2), keepdim=True).clamp_min(1e-9)
    row, column = torch.meshgrid(*[torch.arange(28, dtype=torch.float64)] * 2, indexing="ij")
    y = row - (weight * row).sum((1, 2))[:, None, None]
    x = column - (weight * column).sum((1, 2))[:, None, None]
    return -(weight * x * y).sum((1, 2)) / (weight * y * y).sum((1, 2)).clamp_min(1e-9)


def stroke_width(images):
    """Average stroke width in pixels, from the distance of ink to the background on a grid of half the spacing.

    Across a stroke of w pixels, the 2 w distances are 1, 2, ... w, w, ... 1; their average is (w + 1) / 2."""
    widths = []
    for image in images.view(-1, 28, 28).cpu().numpy():
        ink = np.kron(image > 0.5, np.ones((2, 2), bool))
        widths.append(2 * ndimage.distance_transform_edt(ink)[ink].mean() - 1 if ink.any() else 0.0)
    return torch.tensor(widths, dtype=torch.float64)


def direction(codes, values):
    """The mean code [D] of the images in the top quarter of a property, minus the mean code of the bottom quarter."""
    order = values.argsort().to(codes.device)
    return codes[order[-len(order) // 4 :]].mean(0) - codes[order[: len(order) // 4]].mean(0)


def attributes(run, title, model, x, shown):
    """Directions in latent space that change slant and stroke width, from the codes of training images.

    A direction is added to and subtracted from codes of validation images. The numbers are the share of images whose
    property changes in the expected direction, and the average change."""
    codes, base = model.code(x), model.code(shown)
    numbers, rows = {}, {}
    for name, measure in (("slant", slant), ("stroke width", stroke_width)):
        change = direction(codes, measure(x))
        before = measure(model.decoder(base))
        for sign, word in ((1, "more"), (-1, "less")):
            moved = sign * (measure(model.decoder(base + sign * change)) - before)
            key = f"{name.replace(' ', '_')}_{word}"
            numbers |= {key: float((moved > 0).double().mean()), f"{key}_change": float(moved.mean())}
        steps = torch.linspace(-2, 2, 9, device=codes.device)[:, None]
        rows[f"{name}: less to more"] = torch.cat([model.decoder(code + steps * change) for code in base[:4]])
    figures.image_grids(run.figure("attributes.png"), rows, 9, title)
    return numbers


def fed_back(model, x, z):
    """log p(x|z) in nats under a PixelCNN decoder, given the true earlier pixels, and given pixels that it sampled."""
    _, logits = model.sample_pixels(z, torch.rand(len(x), 784, device=x.device))
    own = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    given_true = float(model.log_px_z(x, z[None]).mean())
    return {"log_px_with_true_pixels": given_true, "log_px_with_its_own": float(own.mean())}
