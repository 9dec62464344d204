"""Figures and small experiments that the assignment does not ask for; the training scripts make them with --extra.

Numbers of the experiments go to `extra.json` in the run's folder: the report quotes them."""

import json
import math

import torch
import torch.nn.functional as F

import experiment
import figures
import multiscale
import quality


@torch.no_grad()
def vae(run, title, model, val, test, grids):
    """Reconstructions beside their inputs; for z = 2 the test images' codes by digit; the samples growing up."""
    x = val.subset(36).images.float()
    reconstructions = model.decoder(model.encoder(x)[0])
    figures.image_grids(
        run.figure("reconstructions.png"),
        {"validation images": x, "their reconstructions (means)": reconstructions},
        6,
        title,
    )
    if model.z_dim == 2:
        codes = model.encoder(test.images.float())[0].cpu()
        figures.scatter(
            run.figure("codes.pdf"),
            codes,
            test.labels.cpu(),
            f"{title}:\nmeans of q(z|x) of test images",
            "$z_1$",
            "$z_2$",
            4,
        )
    figures.animation(run.figure("samples.gif"), [grid.float() / 255 for grid in grids], 6)
    numbers = estimates_of_log_px(run, title, model, val)
    if model.z_dim == 2:
        numbers |= posteriors(run, title, model, val)
    save_numbers(run, numbers)


def save_numbers(run, numbers):
    about = {"of": run.name, "data": run.data, "quick": run.args.quick, "commit": run.commit}
    experiment.write_atomically(run.folder / "extra.json", json.dumps({**about, **numbers}, indent=1).encode())


def log_px_given_z(model, x, z):
    """log p(x|z) of every image x [N, 784] for every code z [L, D]: [N, L], nats."""
    logits = model.decoder.logits(z)
    return x @ logits.T - F.softplus(logits).sum(1)  # log Bern(x | sigmoid(l)) = x l - softplus(l)


def log_weights_of_q(model, x, n):
    """log p(x|z) p(z) / q(z|x) for n codes from q(z|x) of each image: [N, n]."""
    rows = []
    for image, mean, std in zip(x, *model.encoder(x)):
        eps = torch.randn(n, len(mean), device=x.device)
        z = mean + std * eps
        rows.append(log_px_given_z(model, image[None], z)[0] + (0.5 * (eps**2 - z**2) + std.log()).sum(1))
    return torch.stack(rows)


def estimates_of_log_px(run, title, model, val, n_images=50):
    """Question 1.4: the estimate of log p(x) against the number of samples, for z from the prior and from q.

    Each estimate is an average over the images and over all disjoint groups of L among the codes drawn."""
    n_prior, n_q = (10_000, 1000) if run.args.quick else (100_000, 1000)
    x = val.subset(n_images).images.float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [
            log_px_given_z(model, x, torch.randn(5000, model.z_dim, device=x.device)) for _ in range(n_prior // 5000)
        ]
        log_w = {"prior": torch.cat(parts, 1), "q": log_weights_of_q(model, x, n_q)}
    numbers, lines, sizes = {"estimate_images": n_images}, {}, [10**k for k in range(round(math.log10(n_prior)) + 1)]
    for source, values in log_w.items():
        values, line = values.double().cpu(), []
        for size in sizes:
            if size > values.shape[1]:
                line.append(math.nan)
                continue
            groups = values.view(n_images, -1, size).logsumexp(2) - math.log(size)
            line.append(float(groups.mean()))
            numbers[f"{source}_{size}"] = line[-1]
        lines[{"prior": "z from p(z)", "q": "z from q(z|x), weighted"}[source]] = line
    figures.curves(
        run.figure("estimates.pdf"), sizes, lines, log_x=True, marker="o", title=title,
        xlabel="samples L an image", ylabel="log p(x), nats",
    )  # fmt: skip
    return numbers


def posteriors(run, title, model, val, n_images=200, reach=6.0):
    """Question 1.4, two latent dimensions: p(z|x) on a grid, beside the prior and q(z|x); log p(x) by quadrature."""
    side = 121 if run.args.quick else 481
    x = val.subset(n_images).images.float()
    line = torch.linspace(-reach, reach, side, device=x.device)
    z = torch.stack([line.repeat(side), line.repeat_interleave(side)], 1)  # [side * side, 2]
    log_cell = 2 * math.log(2 * reach / (side - 1))
    log_prior = -0.5 * z.pow(2).sum(1) - math.log(2 * math.pi)
    log_joint = torch.cat([log_px_given_z(model, x, part) for part in z.split(20_000)], 1) + log_prior  # [N, side^2]
    log_px = log_joint.logsumexp(1) + log_cell
    coarse = log_joint.view(-1, side, side)[:, ::2, ::2].flatten(1).logsumexp(1) + log_cell + math.log(4)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        log_w = log_weights_of_q(model, x, 500)
    gaps = log_px - log_w.mean(1)
    mean, std = model.encoder(x)
    shares, inside = [], []
    for i in range(n_images):
        mass = (log_joint[i] + log_cell - log_px[i]).exp()
        order = mass.argsort(descending=True)
        region = order[: int((mass[order].cumsum(0) < 0.95).sum()) + 1]  # the smallest with 95 % of the posterior
        shares.append((log_prior[region] + log_cell).exp().sum())
        # 9.21: the ellipse that holds 99 % of a Gaussian in the plane
        inside.append(mass[((z - mean[i]) / std[i]).pow(2).sum(1) < 9.21].sum())
    order = gaps.argsort()
    chosen = [int(order[n_images // 2]), int(order[n_images * 9 // 10])]
    shapes = [
        {"density": (log_joint[i] - log_joint[i].max()).exp().view(side, side).cpu(), "mean": mean[i].cpu(),
         "std": std[i].cpu(), "image": x[i].view(28, 28).cpu()} for i in chosen
    ]  # fmt: skip
    figures.densities(run.figure("posteriors.pdf"), line.cpu(), shapes, title)
    return {
        "quadrature_images": n_images,
        "quadrature_log_px": float(log_px.mean()),
        "quadrature_error": float((log_px - coarse).abs().mean()),  # against every second point of each side
        "quadrature_bound": float(log_w.mean()),
        "quadrature_importance": float((log_w.logsumexp(1) - math.log(500)).mean()),
        "prior_share": float(torch.stack(shares).median()),
        "posterior_in_q": float(torch.stack(inside).mean()),
    }


def gan_gradients(run, title, train, make_generator, make_discriminator, ahead=50, steps=100):
    """Question 2.4: a D that is ahead of the template's G, and what each of the two losses makes of it.

    D learns alone for `ahead` steps, as if it had the easier task; then both learn, once with each loss of G."""
    if run.args.quick:
        ahead, steps = ahead // 5, steps // 5
    losses = {"log(1 - D(G(z)))": lambda a: -F.softplus(a).mean(), "-log D(G(z))": lambda a: F.softplus(-a).mean()}
    norms, scores = {name: [] for name in losses}, {name: [] for name in losses}
    for name, loss_of_G in losses.items():
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(0)
            generator, discriminator = make_generator().to(run.device), make_discriminator().to(run.device)
            optimizer_G, optimizer_D = (
                torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in (generator, discriminator)
            )
            for step in range(ahead + steps):
                chosen = torch.randint(len(train.images), (128,)).to(train.images.device)
                real = train.images[chosen].float().to(run.device) / 127.5 - 1
                fake = generator(torch.randn(128, generator.latent_dim, device=run.device))
                logits = discriminator.logits(torch.cat([real, fake.detach()]))
                loss_D = F.softplus(-logits[:128]).mean() + F.softplus(logits[128:]).mean()
                optimizer_D.zero_grad()
                loss_D.backward()
                optimizer_D.step()
                logits = discriminator.logits(fake)
                optimizer_G.zero_grad()
                loss_of_G(logits).backward()
                gradients = [parameter.grad.detach() for parameter in generator.parameters()]
                norms[name].append(float(torch.stack([part.pow(2).sum() for part in gradients]).sum().sqrt()))
                scores[name].append(float(torch.sigmoid(logits.detach()).mean()))
                if step >= ahead:
                    optimizer_G.step()
    figures.generator_losses(run.figure("gradients.pdf"), norms, scores, ahead, title)
    saturating, other = norms.values()
    save_numbers(
        run,
        {
            "ahead": ahead,
            "steps": steps,
            "score_ahead": scores["-log D(G(z))"][ahead],
            "norm_saturating": saturating[ahead],
            "norm_other": other[ahead],
            "norm_ratio": other[ahead] / saturating[ahead],
            "last_score_saturating": scores["log(1 - D(G(z)))"][-1],
            "last_score_other": scores["-log D(G(z))"][-1],
        },
    )


@torch.no_grad()
def gan(run, title, generator, judge, train, snapshots, images_of):
    """Which digits come out of 10,000 samples, the training images nearest to ten of them, the samples growing up."""
    generator_of_numbers = torch.Generator().manual_seed(0)
    samples = images_of(generator, torch.randn(10000, generator.latent_dim, generator=generator_of_numbers))
    classes = quality.look(judge, samples)[1].argmax(1)
    real = torch.bincount(train.labels.cpu(), minlength=10) / len(train.labels)
    figures.bars(
        run.figure("classes.pdf"),
        {"samples": (torch.bincount(classes, minlength=10) / 10000).tolist(), "training images": real.tolist()},
        f"{title}: classes of 10,000 samples",
        "digit",
        "share",
    )
    nearest = []
    for sample in samples[:10]:
        distances = [(part.float().cpu() / 255 - sample).pow(2).sum(1) for part in train.images.split(10000)]
        nearest.append(train.images[torch.cat(distances).argmin()].float().cpu() / 255)
    rows = torch.cat([samples[:10], torch.stack(nearest)])
    figures.image_grids(
        run.figure("neighbours.png"), {f"{title}: samples above, nearest training images below": rows}, 10
    )
    figures.animation(run.figure("samples.gif"), [snapshot.float() / 255 for snapshot in snapshots], 5)


@torch.no_grad()
def nf(run, title, model, snapshots):
    """Samples at four temperatures, what couplings keep, each level's share of the code redrawn, samples growing up."""
    numbers = torch.Generator().manual_seed(0)
    z = torch.randn(25, *model.flow.z_shape, generator=numbers).to(run.device)
    grids = {f"temperature {t}": model.decode(t * z) / 255 for t in (0.7, 0.8, 0.9, 1.0)}
    figures.image_grids(run.figure("temperatures.png"), grids, 5, f"{title}: the same z, scaled")
    if hasattr(model.flow, "parts"):
        resample_levels(run, title, model, z[:5], numbers)
        masks = squeezed_channels()
        title_of_masks = "the squeeze: which pixels go to each of the first level's four channels"
        if not any(isinstance(step, multiscale.Conv1x1) for step in model.flow.modules()):  # it mixes all channels
            masks = multiscale_masks(model.flow)
            title_of_masks = "what each coupling keeps (white) and changes (black); grey: has left"
    else:
        masks = [torch.zeros(784).index_fill(0, layer.kept.cpu(), 1.0) for layer in list(model.flow.layers)[:2]]
        title_of_masks = "what a coupling keeps (white), and the next"
    figures.image_grids(run.figure("masks.png"), {title_of_masks: torch.stack(masks)}, min(len(masks), 7))
    figures.animation(run.figure("samples.gif"), [snapshot.float() / 255 for snapshot in snapshots], 5)


def multiscale_masks(flow):
    """One picture [784] for every coupling, found by sending the pixels' numbers through squeeze and permutations."""
    masks, numbers = [], torch.arange(784.0).view(1, 1, 28, 28)
    for steps in flow.levels:
        numbers = multiscale.squeeze(numbers)
        for step in steps:
            if isinstance(step, multiscale.Permute):
                numbers, _ = step(numbers, 0)
            if isinstance(step, multiscale.Coupling):
                kept, changed = numbers.chunk(2, dim=1)
                mask = torch.full((784,), 0.5)
                mask[kept.flatten().long()], mask[changed.flatten().long()] = 1.0, 0.0
                masks.append(mask)
        numbers, _ = numbers.chunk(2, dim=1)
    return masks


def squeezed_channels():
    """One picture [784] for each channel that an image becomes in the first squeeze."""
    numbers = multiscale.squeeze(torch.arange(784.0).view(1, 1, 28, 28))[0]  # [4, 14, 14]
    return [torch.zeros(784).index_fill(0, channel.flatten().long(), 1.0) for channel in numbers]


def resample_levels(run, title, model, z, numbers):
    """Five images a block; in its columns one level's share of the code is drawn anew, the other stays."""
    grids, begin = {}, 0
    for level, size in enumerate(model.flow.parts(), start=1):
        columns = [z]
        for _ in range(5):
            changed = z.clone()
            changed[:, begin : begin + size] = torch.randn(len(z), size, generator=numbers).to(z.device)
            columns.append(changed)
        grids[f"level {level} redrawn"] = model.decode(torch.stack(columns, 1).flatten(0, 1)) / 255
        begin += size
    figures.image_grids(run.figure("levels.png"), grids, 6, f"{title}: first column as it was")
