"""The tables in README, docs/, the report and the output of evaluate.py: rows of text, and three layouts."""

import re
import statistics

from datasets.loading import TITLES
from study import registry

UNITS = {"val_bpd": "bits per dimension", "val_elbo": "nats", "frechet_val": "Fréchet distance"}


def number(value, digits=2):
    return "" if value is None else f"{value:,.{digits}f}"


def digits_of(metric):
    """The decimal places of a metric in tables."""
    return 0 if "epoch" in metric else 3 if "bpd" in metric else 2


def with_deviation(mean, deviation, digits):
    """Both as text with `digits` decimal places, or with more if the deviation would be shown as 0."""
    while 0 < deviation < 0.5 * 10**-digits:
        digits += 1
    return number(mean, digits), number(deviation, digits)


def plural(count, noun):
    return f"{count} {noun}" + ("" if count == 1 else "s")


def duration(seconds):
    """Seconds up to 100 s, minutes up to 100 minutes, hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def trained_with(result):
    """The device, threads and processes of a run."""
    text = f"{result['device'].replace('cpu', 'CPU')}, {plural(result['threads'], 'thread')}"
    return text + (f", {result['processes']} processes" if result.get("processes", 1) > 1 else "")


def training(found, duration=lambda seconds: f"{seconds:,.0f} s"):
    """The header of a column of training times, and {run: time}. What all runs have in common is in the header."""
    common = set(map(trained_with, found.values()))
    times = {run: duration(result["seconds"]) for run, result in found.items()}
    if len(common) == 1:
        return f"training ({common.pop()})", times
    return "training", {run: f"{time}, {trained_with(found[run])}" for run, time in times.items()}


def quality(comparison):
    """Sample quality, in blocks that share reference images and classifier. A block begins with the baseline."""
    header = ["images", "data", "Fréchet", "precision", "recall", "density", "coverage", "class KL", "confident"]
    keys = ["frechet", "precision", "recall", "density", "coverage", "class_kl", "confident_share"]
    digits = [2, 2, 2, 2, 2, 3, 2]
    blocks = {}
    for run, entry in comparison.items():
        for what, metrics in entry["quality"].items():
            # machines may differ in the last digits of the baseline
            rows = blocks.setdefault((metrics["reference"], round(metrics["frechet_floor"], 3)), [])
            if not rows:
                real = [metrics["frechet_floor"], *(metrics[f"{key}_real"] for key in keys[1:])]
                rows.append(["training images", TITLES[metrics["reference"]], *map(number, real, digits)])
            name = registry.title(run) + ("" if what == "samples" else f", {what}")
            rows.append([name, "", *map(number, [metrics[key] for key in keys], digits)])
    return header, [row for rows in blocks.values() for row in rows]


def likelihood(comparison):
    """The likelihood of each model, one column per unit: values in different units are not comparable."""
    header = ["model", "data", "likelihood", "bound / log p(x), nats", "bits per binary pixel", "bits per dimension"]
    columns = {("test_elbo", "test_log_likelihood"): 2, ("test_bpd", "test_bpd_8"): 3,
               ("test_elbo_bits_per_pixel", "test_log_likelihood_bits_per_pixel"): 3}  # fmt: skip
    rows = []
    for run, entry in comparison.items():
        known = entry["likelihood"]
        nats, bpd, bits = (
            " / ".join(number(known[key], digits) for key in keys if key in known) for keys, digits in columns.items()
        )
        kind = known["kind"].removesuffix(" and importance estimate")
        rows.append([registry.title(run), TITLES[entry["data"]], kind, nats, bits, bpd])
    return header, rows


def cost(comparison):
    """Size, training time and sampling speed."""
    header = ["model", "parameters", "training, s", "samples per second"]
    rows = [
        [registry.title(run), f"{entry['parameters']:,}", number(entry["training_seconds"], 0),
         number(entry["samples_per_second"], 0)]
        for run, entry in comparison.items()
    ]  # fmt: skip
    return header, rows


def machines(comparison):
    """What the seconds were measured on."""
    entries = comparison.values()
    sampling = (f"{e['sampling_device']} ({e['processor']}, {plural(e['threads'], 'thread')})" for e in entries)
    training = sorted({entry["training_device"] for entry in entries})
    return (
        f"Sampling: on {', '.join(dict.fromkeys(sampling))}, median over batches of 1000. "
        f"Training: on {', '.join(training)}."
    )


def note(comparison):
    """The caption: machines, numbers of images, and what is comparable."""
    entries, lines = comparison.values(), [machines(comparison)]
    if counts := sorted({metrics["images"] for entry in entries for metrics in entry["quality"].values()}):
        lines.append(
            f"Sample quality: {' or '.join(f'{count:,}' for count in counts)} samples per model and as many test "
            "images, in the features of our own classifiers, one per kind of data. Distances are comparable only "
            "within one kind of data, with each other and with the baseline (training images)."
        )
    if any("draws" in entry["quality"] for entry in entries):
        lines.append(
            "Draws are binary samples: they are compared with binary images, in the features of a classifier of "
            "binarised digits; for models of grey images, a pixel's grey value is its probability. Means of a VAE "
            "estimate grey values: they are compared with grey images."
        )
    lines.append(
        "Likelihoods are those of test images. Bits per dimension: with one and with eight dequantisation samples. "
        "VAE: the bound and the importance-sampling estimate of log p(x), in nats per image and in bits per binary "
        "pixel; bits of binary pixels and of 8-bit pixels are not comparable. A flow's likelihood is exact for "
        "dequantised images and a lower bound for 8-bit images. An autoregressive model's likelihood is exact for the "
        "images themselves."
    )
    if any(entry["data"].startswith("glyphs") for entry in entries):
        lines.append("Glyph digits are not MNIST: these numbers are not comparable with published ones.")
    if any(entry["quick"] for entry in entries):
        lines.append("These are quick runs with small settings.")
    return " ".join(lines)


def variants(results):
    """One row per variant of the VAE: the bound and its terms on validation images, log p(x) on test images."""
    header = ["variant", "epochs", "bound", "reconstruction", "KL", "active units", "test log p(x)", "training, s"]
    rows = []
    for run, result in results.items():
        final = result["final"]
        terms = (number(final[key]) for key in ("val_elbo", "val_reconstruction", "val_kl"))
        rows.append([registry.title(run), str(result["epochs"]), *terms, str(final["active_units"]),
                     number(final["test_log_likelihood"]), number(result["seconds"], 0)])  # fmt: skip
    return header, rows


def autoregressive(results):
    """One row per autoregressive model. Log p(x) of binary images and bits of 8-bit images share a column."""
    cost, times = training(results)
    header = ["model", "parameters", "context", "test", cost, "samples a second", "without cache"]
    rows = []
    for run, result in results.items():
        final = result["final"]
        bits = "test_bpd" in final
        test = number(final["test_bpd" if bits else "test_log_likelihood"], 3 if bits else 2)
        rows.append([registry.title(run), f"{result['parameters']:,}", number(final.get("context"), 0),
                     f"{test} {'bits' if bits else 'nats'}", times[run],
                     number(final.get("samples_per_second"), 0),
                     number(final.get("samples_per_second_without_cache"), 1)])  # fmt: skip
    return header, rows


def codes(models):
    """One row per kind of code: how often the digit of a test image is read from it, from study/codes.py."""
    header = ["code", "dimensions", "linear probe, %", "nearest neighbours, %"]
    percent = lambda share: number(100 * share, 1)
    return header, [[entry["title"], str(entry["dimensions"]), percent(entry["probe"]), percent(entry["neighbours"])]
                    for entry in models.values()]  # fmt: skip


def bench(models):
    """Two tables with one row per loop that bench.py timed: the speed, and the milliseconds of each part of a step."""
    parts = ["forward", "backward", "optimiser", "data"]
    speed, steps, names = [], [], {"ours": "ours", "float32": "ours in float32", "plain": "plain loop"}
    for model, result in models.items():
        for side in (side for side in names if side in result):
            name, loop = f"{model}, {names[side]}", result[side]
            ratio = ["", ""]
            if side == "ours" and "ratio" in result:
                ratio = [f"{result['ratio']:.1f}", f"{result['ratio_spread']:.1f}"]
            speed.append([name, f"{loop['images_per_second']:,.0f}", f"{loop['images_per_second_spread']:,.0f}", *ratio,
                          f"{loop['gflops']:.0f}", f"{loop['share_of_matrix_rate']:.0%}"])  # fmt: skip
            times = (f"{loop[f'{part}_milliseconds']:.2f}" for part in parts)
            steps.append([name, str(loop["batch_size"]), f"{loop['milliseconds_per_step']:.2f}", *times])
    header = ["loop", "images/s", "spread", "ratio", "its spread", "GFLOP/s", "% of matrix product"]
    return (header, speed), (["loop", "images per step", "ms per step", *parts], steps)


def race(summary):
    """Validation results of our training and of the plain loop after the same time, and the seconds to a target."""
    header = ["model", "data", "validation metric", "seeds", "after", "ours", "plain loop", "target", "ours reaches it",
              "plain loop reaches it"]  # fmt: skip
    rows = []
    for run, entry in summary.items():
        digits, seconds = digits_of(entry["metric"]), f"{entry['seconds']:.0f} s"
        after, reached = [number(entry[side]["after"], digits) for side in ("ours", "plain")], ["", ""]
        if entry["target"] is not None:
            reached = [time_to(entry[side]["reached"], seconds) for side in ("ours", "plain")]
        rows.append([registry.title(run), TITLES[entry["data"]], UNITS[entry["metric"]], str(len(entry["seeds"])),
                     seconds, *after, number(entry["target"], digits), *reached])  # fmt: skip
    return (header, rows) if any(entry["target"] for entry in summary.values()) else (header[:7], [r[:7] for r in rows])


def time_to(times, limit):
    """The mean of the seconds to a target, over the seeds that reach it."""
    known = [time for time in times if time is not None]
    if not known:
        return f"not reached in {limit}"
    some = "" if len(known) == len(times) else f" ({len(known)} of {plural(len(times), 'seed')})"
    return f"{sum(known) / len(known):.0f} s{some}"


def ablation(table):
    """One row per variant: mean and standard deviation of its value over the seeds."""
    header = ["variant", "change", "seeds", "epochs", "seconds", UNITS[table["metric"]]]
    digits, rows = digits_of(table["metric"]), []
    for row in table["rows"]:
        values, seconds = row["value"], statistics.mean(row["seconds"])
        epochs = "" if None in row["epochs"] else number(statistics.mean(row["epochs"]), 0)
        shown = number(statistics.mean(values), digits)
        if len(values) > 1:
            shown = " ± ".join(with_deviation(statistics.mean(values), statistics.stdev(values), digits))
        rows.append([row["name"], row["change"], str(len(values)), epochs, number(seconds, 0), shown])
    return header, rows


def markdown(header, rows):
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def has_words(cells):
    """Whether a cell below the header begins with a letter: such columns are aligned to the left."""
    return any(cell[:1].isalpha() for cell in cells[1:])


def plain(header, rows):
    """For a terminal: aligned columns, numbers to the right."""
    columns = list(zip(header, *rows))
    layout = [f"{'<' if has_words(cells) else '>'}{max(map(len, cells))}" for cells in columns]
    shown = lambda row: "  ".join(f"{cell:{how}}" for cell, how in zip(row, layout))
    return "\n".join(shown(row).rstrip() for row in [header, *rows])


def latex(header, rows):
    """For the report, with booktabs."""

    def cells(row):
        escaped = (cell.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&") for cell in row)
        return " & ".join(re.sub(r"^-(?=\d)", "$-$", cell) for cell in escaped) + r" \\"

    columns = "".join("l" if has_words(cells) else "r" for cells in zip(header, *rows))
    header = [name if name.startswith("log") else name[:1].upper() + name[1:] for name in header]
    body = [cells(header), r"\midrule", *map(cells, rows)]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"])
