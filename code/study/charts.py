"""The figures of the studies: races, latent spaces, gaps of the bound, losses of the generator, shares of digits."""

import numpy as np
from matplotlib import patheffects
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from common.figures import COLOURS, DOTTED, finish, plt, show_picture, tile

DASHED = (0, (4, 2))


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
        best = np.nanmax(values) if unit == "nats" else np.nanmin(values)  # only bounds rise
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


def scatter(path, points, labels, title="", xlabel="", ylabel="", limits=None):
    """Points in the plane, coloured by class. Each number is placed where its class is dense and others are rare."""
    figure, axes = plt.subplots(figsize=(1.5, 1.65), layout="constrained")
    points, labels = np.asarray(points), np.asarray(labels)
    shown = np.random.default_rng(0).permutation(len(points))  # in random order, so that no class covers another
    axes.scatter(*points[shown].T, s=0.3, c=plt.cm.tab10(labels[shown]), linewidths=0, rasterized=True)
    total, *edges = np.histogram2d(*points.T, bins=12)
    for digit in np.unique(labels):
        outline = [patheffects.withStroke(linewidth=2, foreground="white")]
        style = {"color": plt.cm.tab10(digit), "fontsize": 7, "weight": "bold", "path_effects": outline}
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
        z_2, z_1 = np.unravel_index(density.argmax(), density.shape)
        at, how = (line[z_1], line[z_2]), {"ha": "center", "textcoords": "offset points", "fontsize": 8}
        axes[0].annotate("AB"[i], at, xytext=(0, 4), color=colour, **how)
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
    axes.set(xscale="log", xlabel="nats per image", ylabel="images")
    figure.suptitle(title, fontsize=7)  # a long title over the axes would make the figure wider
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
    axes[2].set(xlabel="step", yscale="log", title="ratio of the norms")
    axes[2].axhline(1, color="0.35", linewidth=0.9, linestyle=DOTTED)
    axes[2].yaxis.set_major_formatter("{x:g}")
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
