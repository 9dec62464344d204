"""Publish finished full runs on real data: copy results, figures and weights from runs/ to report/, update the pages.

    python code/study/publish.py            same as `make publish`
    python code/study/publish.py --table    only update the pages, from report/results
    python code/study/publish.py --stale    list published results of older code, with other settings or of other runs

All checks come before the first change of a published file.
"""

import functools
import io
import shlex
import shutil
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from common import cli
from common.digest import code_digest
from common.files import load_state, save_state
from common.models import REAL, model_file
from common.run import EVALUATION, difference, read_results
from datasets.files import ROOT, Trouble, UserError, show, write_atomically
from study import ablation, registry, tables, train
from study.evaluate import likelihood

RUNS, REPORT = ROOT / "runs", ROOT / "report"
LARGEST_WEIGHTS = 4e6  # bytes
BEGIN, END = "<!-- {}: written by make publish -->", "<!-- end of {} -->"
CONVOLUTIONAL = "1.06 (Real NVP), 1.05 (Glow), 0.99 (FFJORD)"
TUTORIAL = "1.020 (UvA tutorial 11)"
PIXELCNN = "-81.30 (PixelCNN), -79.20 (Diagonal BiLSTM)"
# results of others, by run and metric; sources: docs/results.md
REFERENCES = {
    ("vae-z20", "val_elbo"): "-100.6 (public solution)",
    ("vae-z20", "test_elbo"): "about -99.5 (AEVB)",
    ("vae-z20", "test_log_likelihood"): "-88.71 (VAE of the IWAE paper)",
    ("vae-z2", "val_elbo"): "-152.4 (public solution)",
    ("family-conv", "test_log_likelihood"): "-79.84 (ResNet VAE, RealNVP prior), -78.30 (ladder VAE)",
    ("nf", "val_bpd"): "1.813 (public solution, 40 epochs), 1.804 (public solution, 100 epochs)",
    ("nf", "test_bpd"): "1.89 (MAF)",
    ("nf-short", "first_epoch_below_1_85"): "19 (public solution)",
    ("nf-multiscale", "test_bpd"): CONVOLUTIONAL,
    ("nf-multiscale", "test_bpd_8"): TUTORIAL,
    ("nf-multiscale-long", "test_bpd"): CONVOLUTIONAL,
    ("nf-multiscale-long", "test_bpd_8"): TUTORIAL,
    ("pixelcnn", "test_log_likelihood"): PIXELCNN,
    ("pixelcnn-long", "test_log_likelihood"): PIXELCNN,
    ("pixelcnn-grey", "test_bpd"): "0.808 (gated PixelCNN)",
}
# the rows of README's table, at most eight: (run, metric, result of others)
HEADLINES = [
    ("vae-z20", "val_elbo", "-100.6, public solution (40 epochs)"),
    ("vae-z2", "val_elbo", "-152.4, public solution (100 epochs)"),
    ("gan", "frechet", "none is comparable"),
    ("gan-conv", "frechet", "none is comparable"),
    ("nf", "val_bpd", "1.804, public solution (100 epochs)"),
    ("nf-multiscale-long", "test_bpd_8", "1.020, UvA tutorial 11"),
    ("family-conv", "test_log_likelihood", "-79.84, ResNet VAE with RealNVP prior; -78.30, ladder VAE"),
    ("pixelcnn-long", "test_log_likelihood", "-81.30, PixelCNN; -79.20, Diagonal BiLSTM"),
]
MEASURES = {
    "val_elbo": "validation bound, nats",
    "test_elbo": "test bound, nats",
    "test_log_likelihood": "test log p(x), nats",
    "frechet_val": "Fréchet distance to validation images (training images: {frechet_floor_val:.2f})",
    "frechet": "Fréchet distance to test images (training images: {frechet_floor:.2f})",
    "confident_share": "share of confident samples (training images: {confident_share_real:.2f})",
    "coverage": "coverage (training images: {coverage_real:.2f})",
    "val_bpd": "validation, bits per dimension",
    "test_bpd": "test, bits per dimension, 1 dequantisation sample",
    "test_bpd_8": "test, bits per dimension, 8 dequantisation samples",
    "first_epoch_below_1_85": "first epoch below 1.85 bits per dimension on validation images",
}
# published besides the runs, name: (file in runs/, its figures in runs/, their path in report/figures)
MEASURED = {
    "comparison": ("comparison/comparison.json", "comparison/figures", "comparison"),
    "seeds": ("seeds.json", None, None),
    "bench": ("bench.json", None, None),
    "scaling": ("scaling.json", None, None),
    "race": ("race.json", "race.pdf", "race.pdf"),
    **{f"{model}-ablation": (f"{model}-ablation.json", None, None) for model in ablation.ROWS},
    "gan-ablation": ("gan-ablation.json", "gan-ablation.png", "gan-ablation.png"),
    "codes": ("codes/codes.json", "codes/codes.png", "codes.png"),
}


def read(name):
    """The content of a file in report/results, {} if there is none."""
    return registry.read_json(REPORT / "results" / f"{name}.json")


def results():
    """Results of the published runs, in the order of the registry."""
    return {entry.name: found for entry in registry.RUNS if (found := read(entry.name))}


def merged(name):
    """comparison.json or seeds.json as it will be published: runs/ replaces the entries of the runs that it has.

    Each entry names its own commit, so entries of different versions can stand side by side."""
    entries = read(name) | registry.read_json(RUNS / MEASURED[name][0])
    return {entry.name: entries[entry.name] for entry in registry.RUNS if entry.name in entries}


def machines(found):
    """A list of the machines that the runs were trained on."""
    trained, groups = {}, {"family": "variants of the VAE", "flow": "flows in the plane"}
    for run, result in found.items():
        names = trained.setdefault(f"{result['processor']}{software(result)}", {})
        names[groups.get(run.split("-")[0], registry.title(run))] = None  # an ordered set
    if len(trained) == 1:
        return f"Trained on {next(iter(trained))}."
    return "Trained on\n\n" + "\n".join(f"- {machine}: {'; '.join(names)}" for machine, names in trained.items())


def rounded(value, metric):
    return tables.number(value, tables.digits_of(metric))


def measure(run, key, final):
    """A metric in words; `final` has the values of training images that some descriptions name."""
    if key == "test_bpd" and registry.get(run).script == registry.AUTOREGRESSIVE:
        return "test, bits per dimension"  # exact: these models need no dequantisation
    return MEASURES[key].format(**final)


def mean_and_deviation(line, key):
    mean, deviation = tables.with_deviation(line[key]["mean"], line[key]["deviation"], tables.digits_of(key))
    return f"{mean} ± {deviation}"


def headlines(found, seeds):
    """README's table: means over seeds of metrics that are known for several seeds; and the commands."""
    shown, lines = {run: found[run] for run, *_ in HEADLINES if run in found}, []
    cost, times = tables.training(shown, tables.duration)
    for run, key, others in HEADLINES:
        if run in shown:
            final = found[run]["final"]
            ours = rounded(final[key], key)
            if key in seeds.get(run, {}):
                ours = mean_and_deviation(seeds[run], key)
            row = [registry.title(run), measure(run, key, final), ours, others, str(found[run]["epochs"]), times[run]]
            lines.append(row)
    core = [entry.name for entry in registry.select(group="core") if entry.name in found]
    others = [run for run in shown if run not in core]
    seconds = lambda runs: tables.duration(sum(found[run]["seconds"] for run in runs))
    fast = [registry.title(run) for run in shown if found[run].get("bfloat16", True)]
    formats = f"Rows that were trained with bfloat16, which is faster: {'; '.join(fast)}.\nThe others: float32."
    header = ["model", "metric", "ours", "best public solution or literature", "epochs", cost]
    return f"""{tables.markdown(header, lines)}

The {len(core)} runs that `make` trains took {seconds(core)} in all: {"; ".join(map(registry.title, core))}.
{formats if fast else ""}
This command trains the other models of the table as published ({seconds(others)}):

    python code/study/train.py --published {" ".join(others)}"""


def rows(found):
    """Header and rows of the results table; `found` holds the results of runs."""
    entries = [entry for entry in registry.RUNS if entry.group not in ("family", "plane") or entry.publishing]
    entries = [entry for entry in entries if entry.name in found]
    cost, times = tables.training({entry.name: found[entry.name] for entry in entries})
    lines = []
    for entry in entries:
        result = found[entry.name]
        for i, key in enumerate(entry.results):
            title, *about = [""] * 4
            if i == 0:
                title, *about = entry.title, str(result["epochs"]), times[entry.name], f"{result['parameters']:,}"
            value = rounded(result["final"][key], key)
            comparable = result["data"] in REAL and not result["quick"]
            others = REFERENCES.get((entry.name, key), "") if comparable else ""
            lines.append([title, measure(entry.name, key, result["final"]), value, others, *about])
    return ["model", "metric", "ours", "best public solution or literature", "epochs", cost, "parameters"], lines


def table(found):
    """All results of the published runs with the names of the runs, and the machines."""
    (header, lines), names = rows(found), {entry.title: entry.name for entry in registry.RUNS}
    named = [[f"{row[0]} (`{names[row[0]]}`)" if row[0] else "", *row[1:]] for row in lines]
    groups = {"make": ["core"], "make beyond": ["autoregressive", "family", "plane"], "make long": ["long"]}
    time = lambda runs: tables.duration(sum(found[run]["seconds"] for run in runs))
    trained = {make: [run for run in found if registry.get(run).group in names] for make, names in groups.items()}
    times = [f"`{make}` {time(runs)} ({tables.plural(len(runs), 'run')})" for make, runs in trained.items() if runs]
    return f"""{tables.markdown(header, named)}

{machines(found)}

Time of training alone: {", ".join(times)}; in all {time(found)}."""


def software(found):
    """The number format of matrix products and the version of torch. Older results do not name the format."""
    bfloat16 = found.get("bfloat16", found.get("script") != registry.PLANE)
    return f"{', bfloat16' if bfloat16 else ', float32'}, torch {found['torch'].split('+')[0]}"


def machine(found):
    """What something was measured on, from its results."""
    return f"{found['processor']}, {tables.plural(found['threads'], 'thread')}{software(found)}"


def speed(bench, steps=True):
    """The tables of bench.json, with titles of models, and the machine. `steps`: also times of the parts of a step."""
    models = {}
    for name, result in bench["models"].items():
        run, comma, networks = name.partition(", ")
        models[registry.title(run) + comma + networks] = result
    rates = f"{bench['gflops_float32']:.0f} GFLOP/s in float32"
    if any("float32" in result for result in models.values()):  # otherwise the processor has no bfloat16 instructions
        rates += f" and {bench['gflops_bfloat16']:.0f} in bfloat16"
    shown = "\n\n".join(tables.markdown(*table) for table in tables.bench(models)[: 2 if steps else 1])
    return f"{shown}\n\nMeasured on {machine(bench)}; a large matrix product has {rates}."


def gpu(found):
    """The results of runs that were trained on a GPU, beside those of the same code and settings on the CPU."""
    rows, pairs = [], {run: (result, read(run)) for run, result in found.items()}
    for run, pair in pairs.items():
        key = registry.get(run).metric
        values = [f"{rounded(each['final'][key], key)}, {tables.duration(each['seconds'])}" for each in pair]
        rows.append([registry.title(run), measure(run, key, pair[0]["final"]), *values])
    gpus, cpus = (" and ".join(dict.fromkeys(map(machine, side))) for side in zip(*pairs.values()))
    return f"{tables.markdown(['model', 'metric', 'GPU', 'CPU'], rows)}\n\nGPU: {gpus}. CPU: {cpus}."


def scaling(found):
    """The speed of two processes relative to two threads."""
    rows = [[registry.title(run), *(f"{result[side]['images_per_second']:,.0f}" for side in ("one", "two")),
             f"{result['ratio']:.2f}", f"{result['ratio_spread']:.2f}"]
            for run, result in found["models"].items()]  # fmt: skip
    header = ["model", "images per second, one process", "two processes", "ratio", "its spread"]
    return f"{tables.markdown(header, rows)}\n\nMeasured on {found['processor']}{software(found)}."


def over_seeds(seeds):
    """Mean and standard deviation over seeds, of the metrics of the results table."""
    rows = []
    for run, line in seeds.items():
        final = read(run).get("final", {})  # also has the values of real images
        about = [registry.title(run), ", ".join(map(str, line["seeds"]))]
        for key in dict.fromkeys([registry.get(run).metric, *registry.get(run).results]):
            if key in line:
                rows.append([about[0], measure(run, key, final), mean_and_deviation(line, key), about[1]])
                about = ["", ""]
    return tables.markdown(["model", "metric", "mean ± standard deviation", "seeds"], rows)


def raced_on(race):
    """The machine of the race, or the machines."""
    pairs = (pair for of_seeds in race["models"].values() for pair in of_seeds.values())
    return " and ".join(dict.fromkeys(map(machine, pairs)))


def race_table(race):
    header, rows = tables.race(race["summary"])
    drop_data = lambda row: [row[0], *row[2:]]  # published results are those of MNIST
    return f"{tables.markdown(drop_data(header), map(drop_data, rows))}\n\nMeasured on {raced_on(race)}."


def race_text(race):
    """The race as a list, one line per model."""
    seeds = max(len(entry["seeds"]) for entry in race["summary"].values())
    means = f", means over {seeds} seeds (`make race` trains one)" if seeds > 1 else ""
    text = f"""`make race` trains our model as the script does without options. The plain loop, the training loop that
the course's templates suggest, then gets the same training time on the same machine
(here {raced_on(race)}).
Results on validation images, with the last weights{means}:
"""
    header, rows = tables.race(race["summary"])
    for values, entry in zip(rows, race["summary"].values()):
        row = dict(zip(header, values))
        text += f"\n- {row['model']}, {row['validation metric']} after {row['after']}: {row['ours']}, "
        text += f"plain loop {row['plain loop']}."
        public = entry["target"] not in (None, entry["plain"]["after"])  # for the GAN, the plain loop's result
        if public and any(time is not None for time in entry["ours"]["reached"]):
            text += f"\n  Ours reaches {row['target']}, the best public result after 40 epochs, "
            text += f"in {row['ours reaches it']}."
    if any(stale_pairs(race)):
        text += "\n\nThis race was run with an earlier version of the code."
    return text


def published(name, layout):
    """A table of the content of report/results/NAME.json."""
    found = read(name)
    return layout(found) if found else "Not measured yet."


def cost(comparison):
    return f"{tables.markdown(*tables.cost(comparison))}\n\n{tables.machines(comparison)}"


def variants():
    """The table of the variants of the VAE, and estimates with more importance samples."""
    entries = registry.select(group="family")
    found = {entry.name: result for entry in entries if (result := read(entry.name))}
    header, rows = tables.variants(found)
    text = tables.markdown(header, [[f"{row[0]} (`{run}`)", *row[1:]] for run, row in zip(found, rows)])
    for run in found:
        more = read(f"{run}-analyses")  # of analyses.py --precise
        if "test_draws" in more:
            text += f"\n\n`{run}`, {more['test_images']:,} test images, {more['test_draws']:,} importance samples: "
            text += f"log p(x) = {more['test_log_likelihood']:.2f}."
    return text


def ablation_table(model):
    """The table of an ablation, and how it was made."""
    if not (found := read(f"{model}-ablation")):
        return "Not measured yet."
    measured_on = dict.fromkeys(machine(row) for row in found["rows"])
    plain = " (plain loop: of its best measurement)" if any(None in row["epochs"] for row in found["rows"]) else ""
    values = f"Validation results of the best epoch{plain}, after about {found['seconds']:.0f} s of training on"
    return f"{tables.markdown(*tables.ablation(found))}\n\n{values} {' and '.join(measured_on)}."


def dequantisation():
    """The table of test results with more dequantisation samples, from analyses.py --precise."""
    header, rows = ["model", "1 sample", "8 samples", "64 samples"], []
    for entry in registry.RUNS:
        bits = read(f"{entry.name}-analyses").get("test_bits", {}) if entry.script == registry.FLOW else {}
        values = [" ± ".join(tables.with_deviation(each["bpd"], each["stderr"], 4)) for each in bits.values()]
        rows += [[entry.title, *values]] if bits else []
    return tables.markdown(header, rows) if rows else "Not measured yet."


def round_trips():
    """The table of the errors of images that were mapped to z and back."""
    header = ["model", "layers in float64", "all in float32", "all in float64, z rounded to float32"]
    rows = []
    for run, result in results().items():
        if registry.get(run).script == registry.FLOW:
            errors = result["final"]["round_trip"], result["final"]["round_trip_float32"]
            errors += (read(f"{run}-analyses").get("rounded_z"),)
            rows.append([registry.title(run), *("" if error is None else f"{error:.1e}" for error in errors)])
    return tables.markdown(header, rows) if rows else "Not measured yet."


def autoregressive():
    """The table of the autoregressive models."""
    found = {run: result for run, result in results().items() if registry.get(run).script == registry.AUTOREGRESSIVE}
    return tables.markdown(*tables.autoregressive(found)) if found else "Not measured yet."


# the pages with generated text: {page: {name in the marker lines: text}}
PAGES = {
    "README.md": {
        "results": lambda: headlines(results(), read("seeds")),
        "race": lambda: race_text(read("race")) if read("race") else "",
    },
    "docs/results.md": {
        "stale": lambda: f"At present: {'; '.join(stale()) or 'none'}.",
        "runs": lambda: table(results()),
        "seeds": lambda: published("seeds", over_seeds),
        "quality": lambda: published("comparison", lambda found: tables.markdown(*tables.quality(found))),
        "likelihood": lambda: published("comparison", lambda found: tables.markdown(*tables.likelihood(found))),
        "cost": lambda: published("comparison", cost),
        "variants": variants,
        "codes": lambda: published("codes", lambda found: tables.markdown(*tables.codes(found["models"]))),
        "race": lambda: published("race", race_table),
        "speed": lambda: published("bench", speed),
        "speed-bfloat16": lambda: published("bench-bfloat16", functools.partial(speed, steps=False)),
        "gpu": lambda: published("gpu", gpu),
    },
    "docs/beyond.md": {"autoregressive": autoregressive},
    "docs/cluster.md": {"scaling": lambda: published("scaling", scaling)},
    "docs/vae.md": {
        "results": functools.partial(ablation_table, "vae"),
        "two-dimensions": functools.partial(ablation_table, "vae-z2"),
    },
    "docs/gan.md": {"results": functools.partial(ablation_table, "gan")},
    "docs/flow.md": {
        "results": functools.partial(ablation_table, "nf"),
        "dequantisation": dequantisation,
        "precision": round_trips,
    },
}


def check_markers():
    """Raise UserError if a page lacks a marker line of its generated text."""
    for page, names in PAGES.items():
        text = (ROOT / page).read_text("utf-8")
        for name in names:
            if text.count(BEGIN.format(name)) != 1 or text.count(END.format(name)) != 1:
                lines = f"{BEGIN.format(name)} or {END.format(name)}"
                raise UserError(f"{page} lacks the line {lines}: restore it from git")


def with_generated(page, text):
    for name, make in PAGES[page].items():
        before, rest = text.split(BEGIN.format(name))
        text = f"{before}{BEGIN.format(name)}\n{make()}\n{END.format(name)}{rest.split(END.format(name), 1)[1]}"
    return text


def refuse(path, why):
    raise UserError(f"{show(path)} {why}: only full runs on real data are published")


def runs_to_publish():
    """[(entry, folder)] of the finished runs on real data. Raises UserError if one of them cannot be published."""
    found = []
    for entry in registry.RUNS:
        folder = RUNS / entry.data[0] / entry.name
        result = read_results(folder) if entry.published else None
        if result is None:
            continue
        if result["quick"] or result["data"] != entry.data[0]:
            refuse(folder, "is a quick run or used other data")
        if difference(result["settings"], registry.settings(entry, *shlex.split(entry.publishing)), EVALUATION):
            again = f"delete it, then python code/study/train.py --published {entry.name}"
            raise UserError(f"{show(folder)} has other settings than published runs: {again}")
        if "dirty" in (result["commit"] or "dirty"):
            raise UserError(
                f"{show(folder)} was trained with uncommitted changes or without git: commit, train it again"
            )
        if "machines" in result:
            raise UserError(f"{show(folder)} was resumed on another machine or with other threads: train it on one")
        if (folder / "analyses.json").exists() and not registry.is_analysed(folder):
            again = f"python code/study/analyses.py {entry.name}"
            raise UserError(f"{show(folder)}/analyses.json belongs to an earlier run: {again}")
        load_state(model_file(folder))
        found.append((entry, folder))
    return found


def of_other_runs(found, comparison, seeds):
    """What the comparison and the seeds say about other runs than those found; one line each."""
    for run, entry in comparison.items():
        if run in found and found[run]["seconds"] != entry["training_seconds"]:
            again = f"first repeat python code/study/evaluate.py --only {run}"
            yield f"comparison.json was made from another run of {run}: {again}"
    for run, over_seeds in seeds.items():
        final = found[run]["final"] if run in found else {}
        if any(over_seeds[key]["values"][0] != final[key] for key in over_seeds.keys() & final.keys()):
            yield f"seeds.json was made from another run of {run}: first train its seeds (make seeds)"


def evaluate_again(runs):
    """Evaluate those runs again that were evaluated with fewer samples or images than published ones."""
    jobs = []
    for entry, folder in runs:
        settings = registry.settings(entry, *shlex.split(entry.publishing))
        if difference(read_results(folder)["settings"], settings):
            jobs.append((entry, registry.SEEDS[0]))
    preferred = {kind: names[0] for kind, names in registry.DATA.items()}
    train.train(train.plan(jobs, preferred, quick=False, published=True))


def check_measured(runs):
    """Raise UserError if what was measured used other data, does not belong to the runs, or lacks its figures."""
    for name in MEASURED.keys() - {"bench", "scaling"}:  # these measure speed, on glyph digits
        path = RUNS / MEASURED[name][0]
        content = registry.read_json(path)
        for part in (content, *content.values(), *content.get("summary", {}).values()):
            if isinstance(part, dict) and (part.get("quick") or part.get("data", REAL[0]) not in REAL):
                refuse(path, "contains a quick run or other data")
    found = results() | {entry.name: read_results(folder) for entry, folder in runs}
    for problem in of_other_runs(found, merged("comparison"), merged("seeds")):
        raise UserError(problem)
    for file, figures, _ in MEASURED.values():
        if figures and (RUNS / file).exists() and not (RUNS / figures).exists():
            raise UserError(f"{show(RUNS / figures)} is missing: repeat the command that wrote {show(RUNS / file)}")


def publish_run(entry, folder):
    for name in ("results", "models"):
        (REPORT / name).mkdir(exist_ok=True)
    numbers = REPORT / "results" / f"{entry.name}.json"
    shutil.copyfile(folder / "results.json", numbers)
    analyses = numbers.with_name(f"{entry.name}-analyses.json")
    analyses.unlink(missing_ok=True)  # of the previously published run
    if (folder / "analyses.json").exists():
        shutil.copyfile(folder / "analyses.json", analyses)
    figures, weights = REPORT / "figures" / entry.name, REPORT / "models" / f"{entry.name}.pt"
    shutil.rmtree(figures, ignore_errors=True)
    shutil.copytree(folder / "figures", figures, ignore=shutil.ignore_patterns("step-*"))
    weights.unlink(missing_ok=True)
    if not entry.weights:
        return
    model, size = load_state(folder / "model.pt"), io.BytesIO()
    half = lambda x: x.half() if x.is_floating_point() else x  # half the size; samples look the same
    model["state"] = {name: half(weights) for name, weights in model["state"].items()}
    torch.save(model, size)
    if size.tell() <= LARGEST_WEIGHTS:
        save_state(weights, model)
    else:
        print(f"{entry.name}: weights of {size.tell() / 1e6:.1f} MB are not published, the limit is 4 MB")


def copy_figures(source, target):
    """Copy a folder of figures, or a single figure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def copy_comparison_figures(source, target):
    """Copy the figures that show all published runs of their kind, after comparison.json was published."""
    shown = registry.read_json(RUNS / MEASURED["comparison"][0])
    for path in sorted({*source.iterdir(), *(source / old.name for old in target.glob("*.png"))}):
        if not path.exists():  # evaluate.py --only draws no figure of some of its runs
            print(f"{path.name}: published version kept; python code/study/evaluate.py draws a new one")
            continue
        beyond = path.name == "beyond.png"  # the other figures show the core runs
        missing = [
            run for run in read("comparison") if (registry.get(run).group != "core") == beyond and run not in shown
        ]
        if missing:
            print(f"{path.name}: published version kept, because runs/comparison/ lacks {', '.join(missing)}")
        else:
            copy_figures(path, target / path.name)


def publish_measured():
    for name, (file, figures, target) in MEASURED.items():
        path = RUNS / file
        if not path.exists():
            print(f"{name}: not in runs/, published version kept")
            continue
        results_file = REPORT / "results" / f"{name}.json"
        if name in ("comparison", "seeds"):
            entries = merged(name)
            if name == "comparison":  # a run may have been evaluated again since
                for run, result in results().items():
                    if run in entries:
                        entries[run]["likelihood"] = likelihood(result["final"])
            registry.write_json(results_file, entries)
        else:
            shutil.copyfile(path, results_file)
        if name == "comparison":
            copy_comparison_figures(RUNS / figures, REPORT / "figures" / target)
        elif figures:
            copy_figures(RUNS / figures, REPORT / "figures" / target)
        print(f"{name} published")


def write_generated():
    """Write the generated parts of README.md and docs/*.md from report/results."""
    texts = {page: with_generated(page, (ROOT / page).read_text("utf-8")) for page in PAGES}
    for page, text in texts.items():
        write_atomically(ROOT / page, text.encode())


digest = functools.cache(code_digest)


def stale():
    """What was published from older code or, of the runs and the race, with other settings; one name each."""
    for run, result in results().items():
        entry = registry.get(run)
        settings = registry.settings(entry, *shlex.split(entry.publishing))
        if (result["code"], result["settings"]) != (digest(entry.script), settings):
            yield run
    yield from stale_pairs(read("race"))
    for model in ablation.ROWS:
        rows = read(f"{model}-ablation").get("rows", ())
        if any(row.get("code") != digest(ablation.script_of(model, row["options"])) for row in rows):
            yield f"ablation of {model}"
    for name in ("bench", "bench-bfloat16", "scaling"):
        if (found := read(name)) and found.get("code") != digest("study/loops.py"):
            yield name


def stale_pairs(race):
    """The pairs of the race whose code or settings have changed since."""
    for run, pairs in race.get("models", {}).items():
        entry = registry.get(run)
        code = {"ours": digest(entry.script), "plain": digest("study/loops.py")}
        for seed, pair in pairs.items():
            if (pair["code"], pair.get("settings")) != (code, registry.settings(entry, "--seed", seed)):
                yield f"race, {run}, seed {seed}"


def main(args):
    if args.stale:
        found = [f"{run}: stale, made by older code or with other settings" for run in stale()]
        found += of_other_runs(results(), read("comparison"), read("seeds"))
        for line in found:
            print(line)
        if found:
            raise Trouble("results are stale: CONTRIBUTING.md (Publish results) says how to repeat them")
        return
    check_markers()
    if not args.table:
        runs = runs_to_publish()
        evaluate_again(runs)
        check_measured(runs)
        for entry, folder in runs:
            publish_run(entry, folder)
        print(f"{len(runs)} runs published; other published runs are unchanged")
        publish_measured()
    write_generated()


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("--table", action="store_true", help="copy nothing, only update the tables")
    parser.add_argument("--stale", action="store_true", help="copy nothing, only list stale results")
    return parser.parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
