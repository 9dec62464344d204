"""Figures that the assignment does not ask for; the training scripts draw them with --extra."""

import torch

import figures


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
