"""Figures that the assignment does not ask for; the training scripts draw them with --extra."""

import torch

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
        f"{title}, epoch {run.epochs}",
    )
    if model.z_dim == 2:
        codes = model.encoder(test.images.float())[0].cpu()
        figures.scatter(
            run.figure("codes.pdf"),
            codes,
            test.labels.cpu(),
            f"{title}: means of q(z|x) of test images",
            "$z_1$",
            "$z_2$",
            4,
        )
    figures.animation(run.figure("samples.gif"), [grid.float() / 255 for grid in grids], 6)


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
        masks = multiscale_masks(model.flow)
        title_of_masks = "what each coupling keeps (white) and changes (black); grey: has left"
        resample_levels(run, title, model, z[:5], numbers)
    else:
        masks = [torch.zeros(784).index_fill(0, layer.kept.cpu(), 1.0) for layer in list(model.flow.layers)[:2]]
        title_of_masks = "what a coupling keeps (white), and the next"
    if masks:
        figures.image_grids(run.figure("masks.png"), {title_of_masks: torch.stack(masks)}, min(len(masks), 7))
    figures.animation(run.figure("samples.gif"), [snapshot.float() / 255 for snapshot in snapshots], 5)


def multiscale_masks(flow):
    """One picture [784] for every coupling, found by sending the pixels' numbers through squeeze and permutations."""
    if any(isinstance(step, multiscale.Conv1x1) for step in flow.modules()):
        return []  # every channel is a mixture of all
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
