"""Figures that the assignment does not ask for; the training scripts draw them with --extra."""

import torch

import figures
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
    """Samples at four temperatures, the masks, the samples growing up."""
    z = torch.randn(25, *model.flow.z_shape, generator=torch.Generator().manual_seed(0)).to(run.device)
    grids = {f"temperature {t}": model.decode(t * z) / 255 for t in (0.7, 0.8, 0.9, 1.0)}
    figures.image_grids(run.figure("temperatures.png"), grids, 5, f"{title}: the same z, scaled")
    masks = [torch.zeros(784).index_fill(0, layer.kept.cpu(), 1.0) for layer in list(model.flow.layers)[:2]]
    figures.image_grids(run.figure("masks.png"), {"what a coupling keeps (white), and the next": torch.stack(masks)}, 2)
    figures.animation(run.figure("samples.gif"), [snapshot.float() / 255 for snapshot in snapshots], 5)
