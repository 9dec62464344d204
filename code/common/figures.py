"""One plotting style for all figures: curves as vector PDF, image grids as PNG. Needs no screen."""

import io

import matplotlib

matplotlib.use("Agg")  # no window, on no machine
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator
from PIL import Image

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
plt.rcParams.update(
    {
        "figure.dpi": 150,
        "savefig.bbox": "tight",
        "savefig.pad_inches": 0.03,
        "font.size": 8,
        "axes.titlesize": 8,
        "legend.fontsize": 7,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.2,
        "legend.frameon": False,
        "axes.prop_cycle": plt.cycler(color=COLOURS),
        "pdf.fonttype": 42,  # embedded TrueType, which the conference's rules ask for
        "image.cmap": "gray",
    }
)


def finish(figure, path):
    figure.savefig(path, metadata={"CreationDate": None} if str(path).endswith(".pdf") else None)
    plt.close(figure)


def finish_grey(figure, path, dpi):
    """A PNG of 16 grey values, four bits a pixel: looks the same as matplotlib's of four channels, a fifth as large."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi)
    plt.close(figure)
    levels = Image.open(drawn).convert("L").point(lambda grey: (grey + 8) // 17)  # 0..15
    small = Image.frombytes("P", levels.size, levels.tobytes())
    small.putpalette([17 * level for level in range(16) for _ in "rgb"])
    small.save(path, optimize=True, bits=4)


def curves(
    path,
    x,
    lines,
    xlabel="epoch",
    ylabel="",
    title="",
    marks=(),
    second_axis=None,
    ylim=None,
    log=False,
    log_x=False,
    zoom_from=None,
    zoom_ylim=None,
    zoom_title="",
    points=(),
    marker=None,
):
    """`lines`: {label: values}. `marks`: (y, text) for horizontal reference lines. `points`: (x, y) for dots.
    `second_axis`: (label, forward, inverse), the same quantity in another unit on the right.
    `zoom_from`: a second panel, with `zoom_title`, shows the lines from this place on, between `zoom_ylim`; marks,
    points and second axis move there. A panel is 2.7 inches wide, half of the report's text."""
    panels = 2 if zoom_from is not None and len(x) > zoom_from + 1 else 1
    figure, places = plt.subplots(1, panels, figsize=(2.7 * panels, 1.6), squeeze=False, layout="constrained")
    styles = ["-", "--", "-.", ":"]
    for axes, start in zip(places[0], (0, zoom_from)):
        for i, (label, values) in enumerate(lines.items()):
            how = {"color": COLOURS[i % len(COLOURS)], "marker": marker, "markersize": 3}
            axes.plot(x[start:], values[start:], styles[i % 4], label=label, **how)
        axes.set(xlabel=xlabel, ylabel="" if start else ylabel)
        if log_x:
            axes.set_xscale("log")
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
        if log:
            axes.set_yscale("log")
    if len(lines) > 1:
        places[0, 0].legend()
    if panels == 2:
        figure.suptitle(title, fontsize=8)
        axes.set_title(f"from {xlabel} {x[zoom_from]} on{zoom_title}", fontsize=7)
        axes.set_ylim(zoom_ylim)
    else:
        axes.set_title(title)
    if ylim:
        places[0, 0].set_ylim(*ylim)
    if second_axis:
        label, forward, inverse = second_axis
        axes.secondary_yaxis("right", functions=(forward, inverse)).set_ylabel(label)
    if marks and not ylim:
        axes.margins(y=0.2)  # room for their texts
    for height, text in marks:
        axes.axhline(height, color="0.35", linewidth=0.9, linestyle=(0, (1, 1.5)))
        below = height < min(map(min, lines.values()))  # the text's side is the one without the lines
        axes.annotate(
            text, (1, height), xytext=(0, -1 if below else 1), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="top" if below else "bottom", fontsize=7,
            annotation_clip=True,  # a mark outside the axes is left out
        )  # fmt: skip
    for place, height in points:
        axes.plot([place], [height], "o", color="0.15", markersize=3)
    finish(figure, path)


def growth(path, lines, title, ylabel):
    """A panel for each of {what grows: {x, seconds}}, both axes logarithmic; dotted: in proportion to x."""
    figure, axes = plt.subplots(1, len(lines), figsize=(5.5, 2.1), sharey=True, layout="constrained")
    for axis, (what, line) in zip(axes, lines.items()):
        x, y = line["x"], line["seconds"]
        axis.plot(x, y, "o-", color=COLOURS[0], markersize=4)
        axis.plot(x, [y[-1] * place / x[-1] for place in x], linestyle=(0, (1, 1.5)), color="0.35", linewidth=0.9)
        fixed = what != "images" and f" ({line['images'][0]:,} images)"
        axis.set(xscale="log", yscale="log", xlabel=f"{what}{fixed or ''}")
        axis.xaxis.label.set_size(8)
        axis.set_xticks(x, [f"{place:,}" for place in x], fontsize=8)
        axis.tick_params(which="minor", bottom=False, labelbottom=False)
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
    axes[0].set_ylabel(ylabel)
    figure.suptitle(f"{title}; dotted: in proportion", fontsize=9)
    finish(figure, path)


def tile(images, columns, gap=1):
    """[N, 784] or [N, 1, 28, 28] in 0..1 -> one uint8 picture, row by row, thin grey lines between."""
    images = np.asarray(images.detach().cpu().float()).reshape(-1, 28, 28)
    rows = -(-len(images) // columns)
    picture = np.full((rows * (28 + gap) + gap, columns * (28 + gap) + gap), 90, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + (i // columns) * (28 + gap), gap + (i % columns) * (28 + gap)
        picture[top : top + 28, left : left + 28] = np.round(255 * np.clip(image, 0, 1))
    return picture


def image_grids(path, grids, columns, title="", row_labels=None):
    """Grids side by side, each with its caption: {caption: images}."""
    pictures = {caption: tile(images, columns) for caption, images in grids.items()}
    widths = [picture.shape[1] for picture in pictures.values()]
    height = max(picture.shape[0] for picture in pictures.values())
    # at most the report's text width; one grid alone: half of it
    inches = min(2.9 if len(pictures) == 1 else 5.5, 2.4 * len(pictures) * max(1, columns / 9))
    size = (inches, inches * height / sum(widths) + 0.25 + 0.2 * bool(title))
    figure, axes = plt.subplots(
        1, len(pictures), figsize=size, gridspec_kw={"width_ratios": widths}, squeeze=False, layout="constrained"
    )
    for axis, (caption, picture) in zip(axes[0], pictures.items()):
        axis.imshow(picture, vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(caption, fontsize=9 if len(pictures) < 5 else 6.5)
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
        if row_labels:
            axis.set_yticks([14.5 + 29 * i for i in range(len(row_labels))], row_labels)
            axis.tick_params(length=0)
            row_labels = None
    if title:
        figure.suptitle(title, fontsize=9)
    finish_grey(figure, path, max(200, int(2.5 * sum(widths) / inches)))


def image_rows(path, rows, title=""):
    """One row of images for each of {label: images}, all rows of one length."""
    columns = len(next(iter(rows.values())))
    grid = np.concatenate([tile(images, columns)[: 28 + 1] for images in rows.values()])
    width = 4.2  # inches: with the labels the report's text width
    figure, axis = plt.subplots(figsize=(width, width * grid.shape[0] / grid.shape[1]))
    axis.imshow(grid, vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axis.set_xticks([])
    axis.set_yticks([14.5 + 29 * i for i in range(len(rows))], rows, fontsize=8)
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.set_title(title, fontsize=8)
    finish_grey(figure, path, max(200, int(2.5 * grid.shape[1] / width)))


def picture(path, images, columns):
    """A bare grid, without any caption."""
    grid = Image.fromarray(tile(images, columns))
    grid.resize((2 * grid.width, 2 * grid.height), Image.Resampling.NEAREST).save(path)


def scatter(path, points, labels, title="", xlabel="", ylabel="", limit=None):
    """Points in the plane, coloured by class 0..9."""
    figure, axes = plt.subplots(figsize=(2.6, 2.3), layout="constrained")
    shown = np.random.default_rng(0).permutation(len(points))  # no class on top of another
    colours = plt.cm.tab10(np.asarray(labels)[shown])
    axes.scatter(points[shown, 0], points[shown, 1], s=1, c=colours, linewidths=0, rasterized=True)
    for digit in range(10):
        axes.scatter([], [], s=1, color=plt.cm.tab10(digit), label=str(digit))
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, aspect="equal")
    if limit:
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
    axes.legend(
        title="digit", title_fontsize=7, markerscale=4, bbox_to_anchor=(1.0, 1.0), loc="upper left", handletextpad=0.1,
        borderaxespad=0,
    )  # fmt: skip
    finish(figure, path)


def densities(path, line, shapes, title=""):
    """Prior, posterior and q in the plane: all in one picture, then each of `shapes` near its code.

    `shapes`: dicts with `density` [n, n] on the grid line x line (rows: z_2), `mean` and `std` of q, the `image`."""
    figure, axes = plt.subplots(1, 1 + len(shapes), figsize=(5.5, 2.6), layout="constrained")
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    radii = [1.177, 2.448]  # hold 50 % and 95 % of a Gaussian in the plane
    for radius in radii:
        axes[0].plot(*(radius * circle).T, color="0.4", linewidth=0.8, linestyle=(0, (4, 2)))
    for i, (axis, shape) in enumerate(zip(axes[1:], shapes)):
        density, colour = np.asarray(shape["density"], np.float64), COLOURS[[0, 2][i % 2]]
        falling = np.sort(density.ravel())[::-1]
        mass = falling.cumsum() / falling.sum()
        levels = [falling[np.searchsorted(mass, share)] for share in (0.95, 0.5)]
        mean, std = shape["mean"].numpy(), shape["std"].numpy()
        for where in axes[0], axis:
            where.contourf(
                line, line, density, [levels[0], levels[1], density.max() * 1.01], colors=[colour], alpha=0.35
            )
            where.contour(line, line, density, levels, colors=[colour], linewidths=0.7)
            for radius in radii:
                where.plot(*(mean + radius * std * circle).T, color=COLOURS[1], linewidth=0.9, linestyle="--")
        axes[0].annotate("AB"[i], mean, xytext=(4, 4), textcoords="offset points", fontsize=8, color=colour)
        inside = np.argwhere(density > levels[0])
        low, high = np.asarray(line)[inside.min(0)[::-1]], np.asarray(line)[inside.max(0)[::-1]]
        low, high = np.minimum(low, mean - 3 * std), np.maximum(high, mean + 3 * std)
        middle, half = (low + high) / 2, 0.6 * (high - low).max()
        axis.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
        axis.set_title(f"{'AB'[i]}: near its code", color=colour)
        inset = axis.inset_axes([0.76, 0.76, 0.24, 0.24])
        inset.imshow(np.asarray(shape["image"]), vmin=0, vmax=1)
        inset.set(xticks=[], yticks=[])
        inset.grid(False)
    axes[0].set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), ylabel="$z_2$")
    axes[0].set_title("the prior's plane")
    for axis in axes:
        axis.set(aspect="equal", xlabel="$z_1$")
        axis.tick_params(labelsize=7)
    axes[0].plot([], [], color="0.4", linewidth=0.8, linestyle=(0, (4, 2)), label="prior $p(z)$")
    axes[0].fill_between([], [], color="0.6", label="posterior $p(z|x)$, of A and B")
    axes[0].plot([], [], color=COLOURS[1], linewidth=0.9, linestyle="--", label="$q(z|x)$")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(title, fontsize=9)
    finish(figure, path)


def generator_losses(path, norms, scores, ahead, title=""):
    """Both losses of a generator against the discriminator's logit; gradient norms and D's mean output by step.

    In the first `ahead` steps, shaded, D learns alone."""
    figure, axes = plt.subplots(1, 3, figsize=(5.5, 2.1), layout="constrained")
    a = np.linspace(-6, 6, 200)
    losses = [-np.logaddexp(0, a), np.logaddexp(0, -a)]
    for i, label in enumerate(norms):
        how = {"color": COLOURS[i], "linestyle": ["-", "--"][i]}
        steps = range(1, len(norms[label]) + 1)
        axes[0].plot(a, losses[i], **how)
        axes[1].plot(steps, norms[label], label=label, linewidth=1, **how)
        axes[2].plot(steps, scores[label], linewidth=1, **how)
    for axis in axes[1:]:
        axis.axvspan(1, ahead, color="0.9", zorder=0)
        axis.set(xlabel="step", yscale="log")
    axes[0].set(xlabel="logit a of D(G(z))", ylabel="nats", title="loss of G")
    axes[1].set_title("norm of G's gradient")
    axes[2].set_title("mean of D(G(z))")
    for axis in axes:
        axis.tick_params(labelsize=7)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle(title, fontsize=9)
    finish(figure, path)


def bars(path, groups, title, xlabel, ylabel):
    """Bars side by side for each of {label: values}."""
    figure, axes = plt.subplots()
    width = 0.8 / len(groups)
    for i, (label, values) in enumerate(groups.items()):
        axes.bar(np.arange(len(values)) + (i - (len(groups) - 1) / 2) * width, values, width, label=label)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xticks=range(len(values)))
    axes.grid(False, axis="x")
    axes.margins(y=0.25)  # room for the legend
    axes.legend(ncols=2)
    finish(figure, path)
