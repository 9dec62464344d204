"""The tables that evaluate.py prints and that README, docs and report take from report/results: rows of text, three
layouts. Nothing is measured here.
"""

import re

from datasets.loading import TITLES as DATA
from study import registry

# The lecture's table: what it says of each family, and the script whose runs belong to it.
FAMILIES = {
    "autoregressive": (registry.AUTOREGRESSIVE, "stable", "exact", "slow", "no"),
    "flow": (registry.FLOW, "stable", "exact", "fast or slow", "no"),
    "GAN": (registry.GAN, "unstable", "none", "fast", "no"),
    "VAE": (registry.VAE, "stable", "approximate", "fast", "yes"),
}
UNITS = {
    "val_bpd": "bits per dimension",
    "val_elbo": "nats",
    "val_log_likelihood": "nats",
    "frechet_val": "Fréchet distance",
}


def number(value, digits=2):
    return "" if value is None else f"{value:,.{digits}f}"


def quality(comparison):
    """How good the images are. A block of rows shares images and classifier; training images come first in it."""
    header = ["images", "data", "Fréchet", "precision", "recall", "density", "coverage", "class KL", "confident"]
    keys = ["frechet", "precision", "recall", "density", "coverage", "class_kl", "confident_share"]
    digits = [2, 2, 2, 2, 2, 3, 2]
    blocks = {}
    for run, entry in comparison.items():
        for what, metrics in entry["quality"].items():
            rows = blocks.setdefault((metrics["reference"], metrics["frechet_floor"]), [])
            if not rows:
                real = [metrics["frechet_floor"], *(metrics[f"{key}_real"] for key in keys[1:])]
                rows.append(["training images", DATA[metrics["reference"]], *map(number, real, digits)])
            name = registry.title(run) + ("" if what == "samples" else f", {what}")
            rows.append([name, "", *map(number, [metrics[key] for key in keys], digits)])
    return header, [row for rows in blocks.values() for row in rows]


def joined(known, keys, digits):
    """Those of the metrics that are known: -95.78 / -91.23."""
    return " / ".join(number(known[key], digits) for key in keys if key in known)


def likelihood(comparison):
    """What each model knows of the likelihood; a column a unit, since they do not compare."""
    header = ["model", "data", "likelihood", "bound / log p(x), nats", "bits per binary pixel", "bits per dimension"]
    rows = []
    for run, entry in comparison.items():
        known = entry["likelihood"]
        nats = bits = bpd = ""
        if "test_log_likelihood" in known:
            nats = joined(known, ("test_elbo", "test_log_likelihood"), 2)
            bits = joined(known, ("test_elbo_bits_per_pixel", "test_log_likelihood_bits_per_pixel"), 3)
        if "test_bpd" in known:
            bpd = joined(known, ("test_bpd", "test_bpd_8"), 2)
        kind = known["kind"].removesuffix(" and importance estimate")
        rows.append([registry.title(run), DATA[entry["data"]], kind, nats, bits, bpd])
    return header, rows


def cost(comparison):
    """What a model costs to train and to draw from."""
    header = ["model", "parameters", "training, s", "s for 1000 samples", "samples a second"]
    rows = [
        [registry.title(run), f"{entry['parameters']:,}", number(entry["training_seconds"], 0),
         number(entry["seconds_per_1000_samples"], 3), number(entry["samples_per_second"], 0)]
        for run, entry in comparison.items()
    ]  # fmt: skip
    return header, rows


def note(comparison):
    """What a caption has to say: what is compared with what, on which machine."""
    places = (
        f"{entry['sampling_device']} ({entry['processor']}, {entry['threads']} threads)"
        for entry in comparison.values()
    )
    sampled = ", ".join(dict.fromkeys(places))
    judged = [metrics for entry in comparison.values() for metrics in entry["quality"].values()]
    lines = [
        f"Samples drawn on {sampled}, a thousand at a time, the median. Training on "
        + ", ".join(sorted({entry["training_device"] for entry in comparison.values()}))
        + "."
    ]
    if judged:
        counts = sorted({metrics["images"] for metrics in judged})
        lines.append(
            f"{' or '.join(f'{count:,}' for count in counts)} images each, beside as many test images, in the features "
            "of a classifier of our own for each kind of data: distances compare within one kind only."
        )
    if any("draws" in entry["quality"] for entry in comparison.values()):
        lines.append(
            "Binary draws are judged by a classifier of binarised digits, beside binary test and training images; a "
            "VAE's means estimate grey values and are judged as the grey models are."
        )
    lines.append(
        "Test images: bits per dimension with one and with eight dequantisations an image; a VAE's bound and its "
        "estimate of log p(x) by importance sampling, in nats an image and in bits for each binary pixel: another "
        "scale. A flow's likelihood is exact for dequantised images, and so bounds that of the integers; an "
        "autoregressive model's is exact for the images themselves."
    )
    if any(entry["data"].startswith("glyphs") for entry in comparison.values()):
        lines.append("Glyph digits are not MNIST: no figure of theirs says anything about it.")
    if any(entry["quick"] for entry in comparison.values()):
        lines.append("Quick runs on small settings.")
    return " ".join(lines)


def families(comparison, seeds):
    """The lecture's four families, each verdict beside what was measured here; None where nothing was."""
    table = {}
    for family, (script, *verdicts) in FAMILIES.items():
        measured = {}
        for run in registry.select(script=script, compared=True):
            if run.name not in comparison:
                continue
            entry, spread = comparison[run.name], seeds.get(run.name, {}).get(run.seeds)
            measured[run.name] = {
                "training": spread and {"measure": run.seeds, "unit": UNITS[run.seeds], **spread},
                "likelihood": entry["likelihood"]["kind"],
                "samples_per_second": entry["samples_per_second"],
                "latent_dimensions": entry["latent_dimensions"],
            }
        lecture = dict(zip(("training", "likelihood", "sampling", "compression"), verdicts))
        table[family] = {"lecture": lecture, "measured": measured or None}
    return table


def family_rows(table):
    """The same as rows of text: the lecture's verdict, then what was measured."""
    header = ["family", "training", "likelihood", "sampling", "compression"]
    rows = []
    for family, content in table.items():
        rows.append([family, *content["lecture"].values()])
        for run, measured in (content["measured"] or {}).items():
            seeds = measured["training"]
            stability = "one seed"
            if seeds:
                unit, count = seeds["unit"], len(seeds["values"])
                digits = 3 if "bits" in unit else 2
                stability = f"{seeds['mean']:.{digits}f}, spread {seeds['spread']:.{digits}f} {unit} ({count} seeds)"
            size = measured["latent_dimensions"]
            rows.append([f"- {registry.title(run)}", stability, measured["likelihood"],
                         f"{measured['samples_per_second']:,.0f} images/s",
                         f"{size} numbers for 784" if size else "none"])  # fmt: skip
    return header, rows


def variants(results):
    """Variants of the VAE, one row each: the bound and its terms on validation images, log p(x) on test images."""
    header = ["variant", "epochs", "bound", "reconstruction", "KL", "active", "test log p(x)", "training, s"]
    rows = []
    for run, result in results.items():
        final = result["final"]
        terms = (number(final[key]) for key in ("val_elbo", "val_reconstruction", "val_kl"))
        rows.append([registry.title(run), str(result["epochs"]), *terms, str(final["active_units"]),
                     number(final["test_log_likelihood"]), number(result["seconds"], 0)])  # fmt: skip
    return header, rows


def markdown(header, rows):
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def plain(header, rows):
    """For a screen: columns as wide as their widest cell, figures to the right."""
    lines = [header, *rows]
    widths = [max(len(row[i]) for row in lines) for i in range(len(header))]
    words = [any(row[i][:1].isalpha() for row in rows) for i in range(len(header))]
    shown = lambda row: "  ".join(f"{cell:{'<' if w else '>'}{width}}" for cell, width, w in zip(row, widths, words))
    return "\n".join(shown(row).rstrip() for row in lines)


def latex(header, rows):
    """For the report: booktabs, no vertical rules."""

    def cells(row):
        escaped = (cell.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&") for cell in row)
        return " & ".join(re.sub(r"^-(?=\d)", "$-$", cell) for cell in escaped) + r" \\"

    columns = "".join("l" if any(row[i][:1].isalpha() for row in rows) else "r" for i in range(len(header)))
    body = [cells(header), r"\midrule", *map(cells, rows)]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"])
