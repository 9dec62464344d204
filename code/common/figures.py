"""All figures in one style: curves as PDF, image grids as PNG. No display is needed."""

import io

import matplotlib

matplotlib.use("Agg")  # draw into files, without a display
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator
from PIL import Image, ImageOps

# the colours of Okabe and Ito, which colour-blind readers can distinguish
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
DASHED, DOTTED = (0, (4, 2)), (0, (1, 1.5))
plt.rcParams.update({
    "figure.dpi": 150, "savefig.bbox": "tight", "savefig.pad_inches": 0.03, "image.cmap": "gray",
    "font.size": 8, "axes.titlesize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.6,
    "lines.linewidth": 1.2, "legend.frameon": False, "axes.prop_cycle": plt.cycler(color=COLOURS),
    "pdf.fonttype": 42,  # embedded TrueType fonts, which the conference style requires
})  # fmt: skip


def stage_name(epoch, epochs):
    """The caption of samples that are drawn after an epoch."""
    names = {epochs // 2: "half-way", 0: "untrained", epochs: "end"}  # of two names for one epoch, the later one
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
    points and the second axis are then drawn there. A panel is 2.7 inches wide, half of the report's text width."""
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


def race(path, panels):
    """One panel for each {title: (lines, target, unit)} with lines {side: curves}, each a list of [seconds, metric].

    A panel leaves out what is worse than the second side after a tenth of the time; distances are on a log scale."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5.5, 2.3), squeeze=False, layout="constrained")
    for axis, (title, (lines, target, unit)) in zip(axes[0], panels.items()):
        for (side, curves), colour, style in zip(lines.items(), COLOURS, ("-", "--")):
            for i, curve in enumerate(curves):
                axis.plot(*zip(*curve), style, color=colour, marker=".", markersize=3, label="" if i else side)
        slow = list(lines.values())[1][0]
        early = next(value for seconds, value in slow if seconds >= slow[-1][0] / 10)
        values = [value for curves in lines.values() for curve in curves for _, value in curve] + [target or early]
        best = np.nanmax(values) if early < slow[-1][1] else np.nanmin(values)
        axis.set(title=title, xlabel="seconds of training", ylabel=unit, xlim=(0, None))
        if "distance" in unit:
            axis.set_yscale("log")
            axis.yaxis.set_minor_locator(LogLocator(subs=(3,)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("{x:g}")
        if np.isfinite(early) and early != best:  # otherwise the second side has diverged
            margin = best / 1.2 if "distance" in unit else best + 0.05 * (best - early)
            axis.set_ylim(*sorted((early, margin)))
        if target is not None:
            axis.axhline(target, color="0.35", linewidth=0.9, linestyle=DOTTED, label="target")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle("measured on validation images", fontsize=9)
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
    """Save an image grid without captions, enlarged twice."""
    grid = Image.fromarray(tile(images, columns))
    grid.resize((2 * grid.width, 2 * grid.height), Image.Resampling.NEAREST).save(path)


def scatter(path, points, labels, title="", xlabel="", ylabel="", limits=None):
    """Points in the plane, coloured by class 0..9. The number of a class stands where it is dense and alone."""
    figure, axes = plt.subplots(figsize=(2.3, 2.45), layout="constrained")
    points, labels = np.asarray(points), np.asarray(labels)
    shown = np.random.default_rng(0).permutation(len(points))  # in random order, so that no class covers another
    axes.scatter(*points[shown].T, s=0.3, c=plt.cm.tab10(labels[shown]), linewidths=0, rasterized=True)
    total, *edges = np.histogram2d(*points.T, bins=12)
    for digit in np.unique(labels):
        outline = [patheffects.withStroke(linewidth=2, foreground="white")]
        style = {"color": plt.cm.tab10(digit), "fontsize": 8, "weight": "bold", "path_effects": outline}
        counts = np.histogram2d(*points[labels == digit].T, bins=edges)[0]
        cell = np.unravel_index((counts**2 / np.maximum(1, total)).argmax(), counts.shape)
        middle = [(edge[i] + edge[i + 1]) / 2 for edge, i in zip(edges, cell)]
        axes.text(*middle, str(digit), ha="center", va="center", **style)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, aspect="equal", xlim=limits, ylim=limits)
    finish(figure, path)


def densities(path, line, shapes, title=""):
    """Prior, posterior and q(z|x) in a two-dimensional latent space: all together, then one enlarged panel per image.

    `shapes`: one dict per image with the posterior `density` [n, n] on the grid line x line (rows: z_2), `mean` and
    `std` of q, and the `image`."""
    figure, axes = plt.subplots(1, 1 + len(shapes), figsize=(5.5, 2.6), layout="constrained")
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    radii = [1.177, 2.448]  # circles that contain 50 % and 95 % of a two-dimensional standard Gaussian
    for radius in radii:
        axes[0].plot(*(radius * circle).T, color="0.4", linewidth=0.8, linestyle=DASHED)
    for i, (axis, shape) in enumerate(zip(axes[1:], shapes)):
        density, colour = np.asarray(shape["density"], np.float64), COLOURS[[0, 2][i % 2]]
        falling = np.sort(density.ravel())[::-1]
        mass = falling.cumsum() / falling.sum()
        levels = [falling[np.searchsorted(mass, share)] for share in (0.95, 0.5)]
        mean, std = shape["mean"].numpy(), shape["std"].numpy()
        for panel in axes[0], axis:
            panel.contourf(line, line, density, [*levels, density.max() * 1.01], colors=[colour], alpha=0.35)
            panel.contour(line, line, density, levels, colors=[colour], linewidths=0.7)
            for radius in radii:
                panel.plot(*(mean + radius * std * circle).T, color=COLOURS[1], linewidth=0.9, linestyle="--")
        axes[0].annotate("AB"[i], mean, xytext=(4, 4), textcoords="offset points", fontsize=8, color=colour)
        inside = np.argwhere(density > levels[0])
        low, high = np.asarray(line)[inside.min(0)[::-1]], np.asarray(line)[inside.max(0)[::-1]]
        low, high = np.minimum(low, mean - 3 * std), np.maximum(high, mean + 3 * std)
        middle, half = (low + high) / 2, 0.6 * (high - low).max()
        axis.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
        axis.set_title(f"{'AB'[i]}, enlarged", color=colour)
        inset = axis.inset_axes([0.76, 0.76, 0.24, 0.24])
        show_picture(inset, tile(shape["image"], 1, gap=0))
    axes[0].set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), title="latent space")
    for axis in axes:
        axis.set(aspect="equal", xlabel="$z_1$", ylabel="$z_2$")
    (prior,) = axes[0].plot([], [], color="0.4", linewidth=0.8, linestyle=DASHED)
    (q,) = axes[0].plot([], [], color=COLOURS[1], linewidth=0.9, linestyle="--")
    colours = tuple(Patch(color=COLOURS[i], alpha=0.35) for i in (0, 2))
    figure.legend(
        [prior, colours, q], ["prior $p(z)$", "posterior $p(z|x)$ of A and of B", "encoder $q(z|x)$"], ncols=3,
        fontsize=8, loc="outside lower center", handler_map={tuple: HandlerTuple(ndivide=None)},
    )  # fmt: skip
    figure.suptitle(title, fontsize=9)
    finish(figure, path)


def gaps(path, values, title=""):
    """Histograms of {label: values in nats} on a log scale. Values outside 0.001 to 1000 are shown at its ends."""
    figure, axes = plt.subplots(figsize=(2.7, 1.8), layout="constrained")
    for i, (label, each) in enumerate(values.items()):
        edges = np.logspace(-3, 3, 49)
        each = np.asarray(each)
        style = {"color": COLOURS[i], "linestyle": ["-", "--"][i % 2], "label": f"{label}, mean {each.mean():.2f}"}
        axes.hist(each.clip(1.01 * edges[0], 0.99 * edges[-1]), edges, histtype="step", **style)
    axes.set(xscale="log", xlabel="nats per image", ylabel="images", title=title)
    axes.margins(y=0.45)  # room for the legend
    axes.legend()
    finish(figure, path)


def generator_losses(path, norms, odds, title=""):
    """Both generator losses against the discriminator's logit; in training, the norms of both gradients at each step,
    and their ratio beside the odds (1 - D) / D of the generated images."""
    figure, axes = plt.subplots(1, 3, figsize=(5.5, 2.1), layout="constrained")
    a, steps = np.linspace(-6, 6, 200), range(1, len(odds) + 1)
    losses = [-np.logaddexp(0, a), np.logaddexp(0, -a)]
    for i, (label, each) in enumerate(norms.items()):
        style = {"color": COLOURS[i], "linestyle": ["-", "--"][i]}
        axes[0].plot(a, losses[i], **style)
        axes[1].plot(steps, each, linewidth=1, label=label, **style)
    saturating, other = map(np.asarray, norms.values())
    axes[2].plot(steps, other / saturating, color=COLOURS[2], linewidth=1, label="ratio of the norms")
    axes[2].plot(steps, odds, "--", color="0.15", linewidth=1, label="(1 - D(G(z))) / D(G(z))")
    axes[0].set(xlabel="logit a of D(G(z))", ylabel="nats", title="loss of G")
    axes[1].set(xlabel="step", ylabel="norm", yscale="log", title="norm of G's gradient")
    axes[1].yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes[1].yaxis.set_major_formatter("{x:g}")
    axes[1].yaxis.set_minor_formatter("{x:g}")
    axes[2].set(xlabel="step", ylim=(0, None), title="ratio of the norms")
    figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    figure.suptitle(title, fontsize=9)
    finish(figure, path)


def bars(path, groups, title, xlabel, ylabel):
    """Groups of bars, one colour for each {label: values}."""
    figure, axes = plt.subplots()
    width = 0.8 / len(groups)
    for i, (label, values) in enumerate(groups.items()):
        axes.bar(np.arange(len(values)) + (i - (len(groups) - 1) / 2) * width, values, width, label=label)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xticks=range(len(values)))
    axes.grid(False, axis="x")
    axes.margins(y=0.25)  # space for the legend
    axes.legend(ncols=2)
    finish(figure, path)
