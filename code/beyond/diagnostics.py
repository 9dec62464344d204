"""What a VAE makes of its latent space: figures and numbers for vae_family.py --extra, on validation images.

Numbers go to `extra.json` in the run's folder."""

import math

import numpy as np
import torch
from scipy import ndimage, stats

import extras
import figures

plt = figures.plt


def save_course(run, title, grids, stages, what):
    """The figures that every run has: the bound, its two terms, and what the same codes become while it learns."""
    figures.curves(
        run.figure("elbo.pdf"), run.column("epoch"),
        {"training": run.column("train_elbo"), "validation": run.column("val_elbo")},
        ylabel="bound, nats per image", title=title, zoom_from=2,
    )  # fmt: skip
    terms = {"-log p(x|z)": [-value for value in run.column("val_reconstruction")], "KL(q || p)": run.column("val_kl")}
    figures.curves(
        run.figure("terms.pdf"), run.column("epoch")[1:], {name: values[1:] for name, values in terms.items()},
        ylabel="nats per image", title=f"{title}, validation images",
    )  # fmt: skip
    shown = {f"epoch {epoch}": grids[epoch].cpu() / 255 for epoch in stages}
    figures.image_grids(run.figure("samples.png"), shown, 6, f"{title}: {what} of p(x|z), the same z in all")


def save(run, title, model, train, val):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        x = val.subset(2000).images.float()
        z, log_q, mean, std = model.encode(x, 1)
        z, log_q = z[0], log_q[0]
        numbers = information(model, z, log_q, mean, std)
        if model.flow is None and model.prior is None:
            each = 0.5 * (std**2 + mean**2 - 1 - 2 * std.log()).mean(0)
            bars(run.figure("kl-per-dimension.pdf"), each.sort(descending=True)[0].cpu().numpy(), title)
        save_aggregate(run.figure("aggregate.pdf"), model, z.cpu(), title)
        numbers |= drawn_and_real(model, x)
        save_decoded(run.figure("decoded.png"), title, model, x[:24], z[:24])
        save_interpolation(run, title, model, z[:10])
        if model.pixels is None:
            numbers |= attributes(run, title, model, train.images[:10_000].float(), x[:500])
        else:
            numbers |= fed_back(model, x[:100], z[:100])
    extras.save_numbers(run, numbers)


def information(model, z, log_q, mean, std):
    """How much z tells of x, in nats. I(x; z) = E log q(z|x) - E log q(z), and what is left of the KL term is the
    distance of the aggregate posterior q(z), the average over all images, from the prior. With the average over N
    images in its place the first is at least what is found here, which cannot pass log N, the second at most.
    From the other side: no q(z) with these means and covariances is nearer to a normal prior than a Gaussian is."""
    numbers = {"code_norm": float(z.norm(dim=1).mean()), "code_norm_std": float(z.norm(dim=1).std())}
    kl = float((log_q - model.log_p_z(z)).mean())
    if model.prior is None:
        mean_z, covariance = z.mean(0).cpu().double(), torch.cov(z.T.cpu().double(), correction=0)
        distance = 0.5 * (covariance.trace() + mean_z.pow(2).sum() - z.shape[1] - torch.logdet(covariance))
        numbers |= {"aggregate_kl_at_least": float(distance), "mutual_information_at_most": kl - float(distance)}
    if model.flow is not None:  # q(z|x) of another image's z would need the flow's inverse
        return numbers
    parts = []
    for part in z.split(200):  # log q(z | each of the images), [200, N]
        square = ((part[:, None] - mean) / std).pow(2).sum(2)
        parts.append((-0.5 * square - std.log().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)).logsumexp(1))
    log_aggregate = torch.cat(parts) - math.log(len(z))
    mutual = float((log_q - log_aggregate).mean())
    log_images = math.log(len(z))
    return numbers | {
        "mutual_information_at_least": mutual, "aggregate_kl_at_most": kl - mutual, "log_images": log_images
    }  # fmt: skip


def bars(path, values, title):
    figure, axes = plt.subplots(figsize=(2.7, 1.6), layout="constrained")
    axes.bar(range(1, len(values) + 1), values)
    axes.set(xlabel="dimension, in order", ylabel="KL, nats", title=title)
    axes.grid(False, axis="x")
    figures.finish(figure, path)


def save_aggregate(path, model, z, title):
    """The aggregate posterior beside the prior: two dimensions of codes, and the norms, where the prior has a shell."""
    noise = torch.randn_like(z)
    device = next(model.parameters()).device
    prior = noise if model.prior is None else model.prior.from_noise(noise.to(device)).cpu()
    figure, axes = plt.subplots(1, 2, figsize=(5.4, 2.0), layout="constrained")
    first, second = z.std(0).argsort(descending=True)[:2]
    for points, colour, label in ((prior, "0.6", "prior"), (z, figures.COLOURS[0], "codes of images")):
        axes[0].scatter(points[:, first], points[:, second], s=1, linewidths=0, color=colour, rasterized=True)
        axes[1].hist(points.norm(dim=1), 40, density=True, histtype="step", color=colour, label=label)
    if model.prior is None:
        r = np.linspace(*axes[1].get_xlim(), 200)
        axes[1].plot(r, stats.chi.pdf(r, z.shape[1]), "--", linewidth=0.9, color="0.35", label="chi distribution")
    axes[0].set(xlabel="widest dimension", ylabel="second widest", aspect="equal")
    axes[1].set(xlabel="|z|", ylabel="density")
    axes[1].margins(y=0.4)  # room for the legend
    axes[1].legend()
    figure.suptitle(title, fontsize=8)
    figures.finish(figure, path)


def drawn_and_real(model, x):
    """log p(x|z), z from q(z|x), of images that the model has drawn itself from the prior, beside that of real ones."""
    noise = torch.randn(len(x), model.z_dim, device=x.device)
    means = (
        model.draw(noise[:500], torch.rand(500, 784, device=x.device))
        if model.pixels is not None
        else model.draw(noise, None)
    )
    drawn = means if model.gaussian else torch.bernoulli(means)
    if model.gaussian:
        drawn = drawn + torch.randn_like(drawn) * torch.exp(0.5 * model.log_variance)
    found = {}
    for name, images in (("drawn", drawn), ("real", x[: len(drawn)])):
        z, log_q, _, _ = model.encode(images, 1)
        found[f"reconstruction_{name}"] = float(model.log_px_z(images, z).mean())
        found[f"kl_{name}"] = float((log_q - model.log_p_z(z)).mean())
    return found


def save_decoded(path, title, model, x, z):
    """Validation images, what becomes of their codes, and what the same decoder makes of the prior."""
    noise, uniforms = torch.randn_like(z), torch.rand_like(x)
    back = model.decoder(z) if model.pixels is None else model.feed_back(z, uniforms)[0]
    shown = {"validation images": x, "decoded from their codes": back, "from the prior": model.draw(noise, uniforms)}
    figures.image_grids(path, shown, 8, title)


def straight(a, b, t):
    return (1 - t) * a + t * b


def spherical(a, b, t):
    """On the great circle, the length changing evenly: [D], [D] and t [S, 1] -> [S, D]."""
    length = straight(a.norm(), b.norm(), t)
    a, b = a / a.norm(), b / b.norm()
    angle = torch.acos((a @ b).clamp(-1, 1))
    if angle < 1e-4:
        return length * straight(a, b, t)
    return length * (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def save_interpolation(run, title, model, ends, steps=9):
    """Between codes of validation images, both ways; and how far from the origin the ways lead."""
    t = torch.linspace(0, 1, steps, device=ends.device)[:, None]
    fine = torch.linspace(0, 1, 101, device=ends.device)[:, None]
    ways, norms, uniforms = {}, {}, torch.rand(1, 784, device=ends.device)
    for name, way in (("straight", straight), ("spherical", spherical)):
        pairs = list(zip(ends[0::2], ends[1::2]))
        rows = torch.cat([way(a, b, t) for a, b in pairs])
        images = (
            model.decoder(rows) if model.pixels is None else model.feed_back(rows, uniforms.expand(len(rows), -1))[0]
        )
        ways[f"{name} path"] = images
        norms[name] = torch.stack([way(a, b, fine).norm(dim=1) for a, b in pairs]).mean(0).cpu()
    figures.image_grids(run.figure("interpolation.png"), ways, steps, title)
    shell = math.sqrt(ends.shape[1])
    figure, axes = plt.subplots(figsize=(2.7, 1.6), layout="constrained")
    for (name, values), style in zip(norms.items(), ("-", "--")):
        axes.plot(fine[:, 0].cpu(), values, style, label=name)
    if model.prior is None:  # where the normal prior has nearly all its mass
        axes.axhline(shell, color="0.35", linewidth=0.9, linestyle=(0, (1, 1.5)), label="square root of D")
    axes.set(xlabel="share of the way", ylabel="|z|, average", title=title)
    axes.legend()
    figures.finish(figure, run.figure("norms.pdf"))


def slant(images):
    """By how many columns a digit leans to the right for each row upwards: [N, 784] -> [N], from its second moments."""
    weight = images.view(-1, 28, 28).cpu().double()
    weight = weight / weight.sum((1, 2), keepdim=True).clamp_min(1e-9)
    row, column = torch.meshgrid(torch.arange(28.0).double(), torch.arange(28.0).double(), indexing="ij")
    y = row - (weight * row).sum((1, 2))[:, None, None]
    x = column - (weight * column).sum((1, 2))[:, None, None]
    return -(weight * x * y).sum((1, 2)) / (weight * y * y).sum((1, 2)).clamp_min(1e-9)


def stroke_width(images):
    """Pixels, from the average distance of ink from paper on twice as fine a grid: across a bar of 2 w fine pixels the
    distances are 1, 2, .. w, w, .. 1, their average (w + 1) / 2, and the width is w."""
    widths = []
    for image in images.view(-1, 28, 28).cpu().numpy():
        ink = np.kron(image > 0.5, np.ones((2, 2), bool))
        widths.append(2 * ndimage.distance_transform_edt(ink)[ink].mean() - 1 if ink.any() else 0.0)
    return torch.tensor(widths, dtype=torch.float64)


PROPERTIES = {"slant": slant, "stroke width": stroke_width}


def attributes(run, title, model, x, shown):
    """A direction for each property: mean code of the quarter of training images that have most of it less that of the
    quarter with least. Added to and taken from codes of validation images; on how many did the property follow?"""
    codes, base = model.code(x), model.code(shown)
    numbers, rows = {}, {}
    for name, measure in PROPERTIES.items():
        order = measure(x).argsort().to(codes.device)
        direction = codes[order[-len(order) // 4 :]].mean(0) - codes[order[: len(order) // 4]].mean(0)
        before = measure(model.decoder(base))
        for sign, word in ((1, "more"), (-1, "less")):
            moved = sign * (measure(model.decoder(base + sign * direction)) - before)
            numbers[f"{name.replace(' ', '_')}_{word}"] = float((moved > 0).double().mean())
            numbers[f"{name.replace(' ', '_')}_{word}_change"] = float(moved.mean())
        steps = torch.linspace(-2, 2, 9, device=codes.device)[:, None]
        rows[f"{name}: less to more"] = torch.cat([model.decoder(code + steps * direction) for code in base[:4]])
    figures.image_grids(run.figure("attributes.png"), rows, 9, title)
    return numbers


def fed_back(model, x, z):
    """What a PixelCNN decoder says of images whose codes it is given, in nats: log p(x|z) with their true pixels before
    each, and by the probabilities that it had while it drew pixels of its own."""
    uniforms = torch.rand(len(x), 784, device=x.device)
    _, logits = model.feed_back(z, uniforms)
    alone = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    return {
        "log_px_with_true_pixels": float(model.log_px_z(x, z[None]).mean()),
        "log_px_with_its_own": float(alone.mean()),
    }
