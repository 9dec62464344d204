"""All figures in one style: curves as PDF, image grids as PNG. No display is needed."""

import io

import matplotlib

matplotlib.use("Agg")  # draw into files, without a display
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageOps

# the colours of Okabe and Ito, which colour-blind readers can distinguish
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
DOTTED = (0, (1, 1.5))
plt.rcParams.update({
    "figure.dpi": 150, "savefig.bbox": "tight", "savefig.pad_inches": 0.03, "image.cmap": "gray",
    "font.size": 8, "axes.titlesize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.6,
    "lines.linewidth": 1.2, "legend.frameon": False, "axes.prop_cycle": plt.cycler(color=COLOURS),
    "pdf.fonttype": 42,  # embedded TrueType fonts, which the conference style requires
})  # fmt: skip


def stage_name(epoch, epochs):
    """The caption of samples that are drawn after an epoch."""
    names = {epochs // 2: "half-way", 0: "untrained", epochs: "end"}  # if an epoch has two names, the later one is used
    return f"epoch {epoch}" + (f", {names[epoch]}" if epoch in names else "")


def finish(figure, path):
    figure.savefig(path, metadata={"CreationDate": None} if str(path).endswith(".pdf") else None)
    plt.close(figure)


def finish_grey(figure, path, dpi):
    """Save as a PNG with 16 grey levels. It looks like matplotlib's PNG and has a fifth of its size."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi)
    plt.close(figure)
    grey = Image.open(drawn).convert("L")
    # an even width: pdftex leaves the half byte at the end of an odd row undefined, and the report's bytes would change
    grey = ImageOps.expand(grey, (0, 0, grey.width % 2, 0), 255)
    levels = grey.point(lambda level: (level + 8) // 17)  # 0..15
    small = Image.frombytes("P", levels.size, levels.tobytes())
    small.putpalette([17 * level for level in range(16) for _ in "rgb"])
    small.save(path, optimize=True, bits=4)


def curves(
    path, x, lines, xlabel="epoch", ylabel="", title="", marks=(), second_axis=None, ylim=None, log=False, log_x=False,
    zoom_from=None, zoom_ylim=None, zoom_title="", points=(), marker=None,
):  # fmt: skip
    """Curves {label: values}. `marks`: (y, text) of horizontal dotted lines. `points`: (x, y) of dots.

    `second_axis`: (label, forward, inverse), the same quantity in another unit on the right.
    `zoom_from`: add a second panel with the curves from this index on, `zoom_ylim` and `zoom_title`. The marks, the
    points and the second axis are then drawn there. `ylim`: limits of the first panel. A panel is 2.7 inches wide, half
    of the report's text width."""
    panels = 2 if zoom_from is not None and len(x) > zoom_from + 1 else 1
    figure, (all_axes,) = plt.subplots(1, panels, figsize=(2.7 * panels, 1.9), squeeze=False, layout="constrained")
    for axes, start in zip(all_axes, (0, zoom_from)):
        for i, (label, values) in enumerate(lines.items()):
            style = {"color": COLOURS[i % len(COLOURS)], "marker": marker, "markersize": 3}
            axes.plot(x[start:], values[start:], ["-", "--", "-.", ":"][i % 4], label=label, **style)
        axes.set(xlabel=xlabel, ylabel="" if start else ylabel)
        if log_x:
            axes.set_xscale("log")
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
        if log:
            axes.set_yscale("log")
    # from here on, `axes` is the last panel
    if len(lines) > 1:
        all_axes[0].legend()
    if panels == 2:
        figure.suptitle(title, fontsize=8)
        axes.set_title(f"from {xlabel} {x[zoom_from]}{zoom_title}", fontsize=7)
        axes.set_ylim(zoom_ylim)
    else:
        axes.set_title(title)
    if ylim:
        all_axes[0].set_ylim(*ylim)
    if second_axis:
        axes.secondary_yaxis("right", functions=second_axis[1:]).set_ylabel(second_axis[0])
    if marks and not ylim:
        axes.margins(y=0.3)  # space for the texts of the marks
    for height, text in marks:
        axes.axhline(height, color="0.35", linewidth=0.9, linestyle=DOTTED)
        below = height < min(map(min, lines.values()))  # put the text on the side away from the curves
        axes.annotate(
            text, (1, height), xytext=(0, -1 if below else 1), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="top" if below else "bottom", fontsize=7,
            annotation_clip=True,  # no text for a mark outside the axes
        )  # fmt: skip
    for point in points:
        axes.plot(*point, "o", color="0.15", markersize=3)
    finish(figure, path)


def tile(images, columns, gap=1):
    """Images [N, 784] or [N, 1, 28, 28] in 0..1 to one uint8 picture with grey lines between them.

    Pixels that are not a number are black."""
    images = np.nan_to_num(images.detach().cpu().float().numpy()).reshape(-1, 28, 28)
    rows = -(-len(images) // columns)
    picture = np.full((rows * (28 + gap) + gap, columns * (28 + gap) + gap), 90, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + (i // columns) * (28 + gap), gap + (i % columns) * (28 + gap)
        picture[top : top + 28, left : left + 28] = np.round(255 * np.clip(image, 0, 1))
    return picture


def show_picture(axis, picture, row_labels=(), **options):
    """Draw a picture of `tile` without ticks, with a label for each row of images if there are any."""
    axis.imshow(picture, vmin=0, vmax=255, interpolation="nearest", **options)
    axis.set_xticks([])
    axis.set_yticks([14.5 + 29 * i for i in range(len(row_labels))], row_labels)
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)


def image_grids(path, grids, columns, title="", row_labels=()):
    """Image grids {caption: images} side by side; the row labels belong to the first one."""
    pictures = {caption: tile(images, columns) for caption, images in grids.items()}
    widths = [picture.shape[1] for picture in pictures.values()]
    height = max(picture.shape[0] for picture in pictures.values())
    # at most the report's text width, or half of it for a single grid unless its images would be less than 5 mm wide
    half = max(2.9, 0.21 * columns) if len(pictures) == 1 else 5.5
    inches = min(5.5, half, 2.4 * len(pictures) * max(1, columns / 9))
    size = (inches, inches * height / sum(widths) + 0.25 + 0.2 * bool(title))
    figure, axes = plt.subplots(
        1, len(pictures), figsize=size, gridspec_kw={"width_ratios": widths}, squeeze=False, layout="constrained"
    )
    for i, (axis, (caption, picture)) in enumerate(zip(axes[0], pictures.items())):
        show_picture(axis, picture, () if i else row_labels)
        axis.set_title(caption, fontsize=9 if len(pictures) < 5 else 6.5)
    if title:
        figure.suptitle(title, fontsize=9)
    finish_grey(figure, path, max(200, int(2.5 * sum(widths) / inches)))


def image_rows(path, rows, title=""):
    """One row of images for each {label: images}; all rows have the same length."""
    columns = len(next(iter(rows.values())))
    grid = np.concatenate([tile(images, columns)[:29] for images in rows.values()])
    width = 4.2  # inches; with the labels this is the report's text width
    figure, axis = plt.subplots(figsize=(width, width * grid.shape[0] / grid.shape[1]))
    show_picture(axis, grid, list(rows), aspect="auto")
    axis.tick_params(labelsize=8)
    axis.set_title(title, fontsize=8)
    finish_grey(figure, path, max(200, int(2.5 * grid.shape[1] / width)))


def picture(path, images, columns):
    """Save an image grid without captions, enlarged by a factor of two."""
    grid = Image.fromarray(tile(images, columns))
    grid.resize((2 * grid.width, 2 * grid.height), Image.Resampling.NEAREST).save(path)
