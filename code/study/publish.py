"""Publish finished full runs on real data: results, figures and weights go from runs/ to report/ and README.

    python code/study/publish.py            what `make publish` calls
    python code/study/publish.py --table    only write README's tables and families.json again, from report/results
    python code/study/publish.py --stale    list published results that the code has outgrown

Everything is checked before anything is changed.
"""

import io
import json
import shutil
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from common import cli
from common.digest import code_digest
from common.files import load_state, save_state
from common.run import read_results
from datasets.files import ROOT, UserError, show
from study import registry, tables

RUNS, REPORT = ROOT / "runs", ROOT / "report"
REAL = ("mnist", "bmnist")
LARGEST_WEIGHTS = 4e6  # bytes
BEGIN, END = "<!-- results: written by make publish -->", "<!-- end of results -->"
FULLY_CONNECTED = "1.89 (MAF), 1.06 (Real NVP, convolutional); FFJORD Table 2"
CONVOLUTIONAL = "1.06 (Real NVP), 1.05 (Glow); FFJORD Table 2; 1.020 (UvA tutorial 11)"
FAMILY = (
    "-88.71 (VAE), -87.10 (IWAE, 50 draws), its paper, Table 3; -85.1 (planar, 80 steps; a bound); -85.57 (VampPrior)"
)
PIXELCNN = "-81.30 (PixelCNN), -79.20 (Diagonal BiLSTM); PixelRNN Table 4"
# what others have reached: run, metric: (the course's bar, public solutions, the literature with its source)
REFERENCES = {
    ("vae-z20", "val_elbo"): ("", "-100.7 to -101.9", ""),
    ("vae-z20", "test_elbo"): ("", "", "about -99.5 at the end (AEVB, read off Figure 2)"),
    ("vae-z20", "test_log_likelihood"): ("", "", "-88.71 (VAE of the IWAE paper, Table 3)"),
    ("vae-z2", "val_elbo"): ("", "-151 to -154", ""),
    ("family-best", "test_log_likelihood"): ("", "", FAMILY),
    ("nf", "val_bpd"): ("below 1.85", "1.813 to 1.831", ""),
    ("nf", "test_bpd_8"): ("", "", FULLY_CONNECTED),
    ("nf-short", "seconds_to_1_85"): ("", "about 2300", ""),
    ("nf-multiscale", "val_bpd"): ("below 1.85", "", ""),
    ("nf-multiscale", "test_bpd_8"): ("", "", CONVOLUTIONAL),
    ("nf-multiscale-long", "test_bpd_8"): ("", "", CONVOLUTIONAL),
    ("pixelcnn", "test_log_likelihood"): ("", "", PIXELCNN),
    ("pixelcnn-long", "test_log_likelihood"): ("", "", PIXELCNN),
    ("pixelcnn-grey", "test_bpd"): ("", "", "0.808 (gated PixelCNN, UvA tutorial 12)"),
}
MEASURES = {
    "val_elbo": "validation bound, nats",
    "test_elbo": "test bound, nats",
    "test_log_likelihood": "test log p(x), nats",
    "frechet": "Fréchet distance to test images (training images: {frechet_floor:.2f})",
    "confident_share": "share of confident samples (real images: {confident_share_real:.2f})",
    "coverage": "coverage (real images: {coverage_real:.2f})",
    "val_bpd": "validation, bits per dimension",
    "test_bpd": "test, bits per dimension",
    "test_bpd_8": "test, 8 dequantisation samples",
    "seconds_to_1_85": "seconds of training to 1.85 bits per dimension",
    "kl": "KL divergence from the target, nats",
}
# what is published beside the runs: file in runs/, where its figures are and go
MEASURED = {
    "comparison": ("comparison/comparison.json", "comparison/figures", "comparison"),
    "seeds": ("seeds.json", None, None),
    "bench": ("bench.json", None, None),
    "growth": ("growth.json", "growth.pdf", "bench/growth.pdf"),
}


def read(name):
    """A file of report/results, {} where there is none."""
    path = REPORT / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def results():
    """The published runs, in the registry's order."""
    return {entry.name: found for entry in registry.RUNS if (found := read(entry.name))}


def machines(found):
    """Where the runs were trained, named once if it is one place."""
    places, groups = {}, {"family": "variants of the VAE", "flow": "flows in the plane"}
    for run, result in found.items():
        place = f"{result['processor']}, torch {result['torch'].split('+')[0]}"
        name = groups.get(run.split("-")[0], registry.title(run))
        if name not in places.setdefault(place, []):
            places[place].append(name)
    if len(places) == 1:
        return f"Trained on: {next(iter(places))}."
    return " ".join(f"Trained on {place}: {'; '.join(names)}." for place, names in places.items())


def digits(key):
    """After the decimal point: differences in bits per dimension are smaller."""
    return 3 if "bpd" in key else 2


def table(found):
    """README's results table: every number of ours from a file in report/results."""
    header = ["model", "metric", "ours", "the course's bar", "public solutions", "the literature", "training",
              "parameters"]  # fmt: skip
    lines = []
    for entry in registry.RUNS:
        if entry.name not in found or (entry.group in ("family", "plane") and not entry.publishing):
            continue
        result = found[entry.name]
        threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
        place = f"{result['seconds']:.0f} s, {result['device']}, {threads}"
        for i, key in enumerate(entry.results):
            title, cost, size = ("", "", "") if i else (entry.title, place, f"{result['parameters']:,}")
            value = f"**{result['final'][key]:.{digits(key)}f}**"
            measure = MEASURES[key].format(**result["final"])
            others = REFERENCES.get((entry.name, key), ("", "", ""))
            lines.append([title, measure, value, *others, cost, size])
    return tables.markdown(header, lines)


def speed(bench):
    """What README says of bench.json: ratios above all, since seconds differ from machine to machine."""
    if not bench:
        return ""
    rows = []
    for name, result in bench["models"].items():
        if "ratio" in result:
            run, _, nets = name.partition(", ")
            title = registry.title(run) + (f", {nets}" if nets else "")
            rates = (f"{result[side]['images_per_second']:,.0f}" for side in ("ours", "plain"))
            rows.append([title, f"**{result['ratio']:.1f}** ± {result['ratio_spread'] / 2:.1f}", *rates])
    header = ["training loop", "times as fast as the plain one", "ours, images a second", "plain"]
    return (
        f"{tables.markdown(header, rows)}\n\n"
        "The plain loop is the one that the course's templates suggest: single images through a DataLoader, Adam, "
        "float32, masked couplings of full width. Both in turn, in one run of `make bench` "
        f"({bench['processor']}, {bench['threads']} threads, torch {bench['torch'].split('+')[0]}); our GAN's nets are "
        "wider than the template's."
    )


def spread(seeds):
    """What README says of seeds.json."""
    parts = []
    for run, line in seeds.items():
        key = registry.get(run).seeds
        mean, half = (f"{value:.{digits(key)}f}" for value in (line[key]["mean"], line[key]["spread"] / 2))
        parts.append(f"{registry.title(run)}: {mean} ± {half} {tables.UNITS[key]}")
    return f"Three seeds each, validation, mean and half the spread: {'; '.join(parts)}." if parts else ""


def generated():
    """Everything between the two marker lines in README."""
    found, comparison = results(), read("comparison")
    parts = [table(found), machines(found) if found else "", speed(read("bench")), spread(read("seeds"))]
    if comparison:
        parts += [tables.markdown(*make(comparison)) for make in (tables.quality, tables.likelihood, tables.cost)]
        parts.append(tables.note(comparison))
    return "\n\n".join(part for part in parts if part)


def with_table(readme):
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{generated()}\n{END}{rest.split(END)[1]}"


def refuse(path, why):
    raise UserError(f"{show(path)} {why}: only full runs on real data are published")


def runs_to_publish():
    """[(entry, folder)] of the finished runs on the real data of their kind; each is checked."""
    found = []
    for entry in registry.RUNS:
        folder = RUNS / entry.data[0] / entry.name
        result = read_results(folder) if entry.published else None
        if result is None:
            continue
        if result["quick"] or result["data"] != entry.data[0]:
            refuse(folder, "is a quick run or of other data")
        if not (folder / "model.pt").exists():
            raise UserError(f"{show(folder)} has no model.pt: make the run again with --fresh")
        load_state(folder / "model.pt")
        found.append((entry, folder))
    return found


def check_measured(runs):
    """Stop unless what was measured belongs to the runs as they will be published."""
    path = RUNS / MEASURED["comparison"][0]
    seconds = {run: result["seconds"] for run, result in results().items()}
    seconds |= {entry.name: read_results(folder)["seconds"] for entry, folder in runs}
    for run, entry in json.loads(path.read_text()).items() if path.exists() else ():
        if entry["quick"] or entry["data"] not in REAL:
            refuse(path, "judges a quick run or other data")
        if seconds.get(run, entry["training_seconds"]) != entry["training_seconds"]:
            raise UserError(f"{show(path)} judges another run {run}: python code/study/evaluate.py, then again")
    path = RUNS / MEASURED["seeds"][0]
    if path.exists() and any(line["data"] not in REAL for line in json.loads(path.read_text()).values()):
        refuse(path, "is of other data")


def half_precision(path):
    """A model file with its weights in float16: half the size, and samples look the same."""
    saved = load_state(path)
    state = {name: x.half() if x.is_floating_point() else x for name, x in saved["state"].items()}
    return {**saved, "state": state}


def publish_run(entry, folder):
    for name in ("results", "figures", "models"):
        (REPORT / name).mkdir(exist_ok=True)
    shutil.copyfile(folder / "results.json", REPORT / "results" / f"{entry.name}.json")
    for old in ("analyses", "extra"):  # of the run published before
        (REPORT / "results" / f"{entry.name}-{old}.json").unlink(missing_ok=True)
    if (folder / "analyses.json").exists():
        shutil.copyfile(folder / "analyses.json", REPORT / "results" / f"{entry.name}-analyses.json")
    figures, weights = REPORT / "figures" / entry.name, REPORT / "models" / f"{entry.name}.pt"
    shutil.rmtree(figures, ignore_errors=True)
    shutil.copytree(folder / "figures", figures, ignore=shutil.ignore_patterns("step-*"))
    weights.unlink(missing_ok=True)
    model, size = half_precision(folder / "model.pt"), io.BytesIO()
    torch.save(model, size)
    if size.tell() <= LARGEST_WEIGHTS:
        save_state(weights, model)
    else:
        print(f"{entry.name}: weights of {size.tell() / 1e6:.1f} MB are not published, 4 MB is the most")


def publish_measured():
    for name, (file, figures, target) in MEASURED.items():
        path = RUNS / file
        if not path.exists():
            print(f"{name}: not in runs/, left as published before")
            continue
        shutil.copyfile(path, REPORT / "results" / f"{name}.json")
        if figures:
            source, place = RUNS / figures, REPORT / "figures" / target
            place.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copyfile if source.is_file() else lambda a, b: shutil.copytree(a, b, dirs_exist_ok=True)
            copy(source, place)
        print(f"{name} published")


def write_generated():
    """families.json and README's part, both from report/results."""
    comparison = read("comparison")
    if comparison:
        content = json.dumps(tables.families(comparison, read("seeds")), indent=1)
        (REPORT / "results" / "families.json").write_text(content)
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text()))


def stale():
    """{run: outgrown or unknown} of published results whose code digest is not that of the tree."""
    found = {}
    for run, result in results().items():
        if "code" not in result:
            found[run] = "unknown, published without a digest"
        elif result["code"] != code_digest(result["script"]):
            found[run] = "outgrown, made by other code"
    return found


def main(args):
    if args.stale:
        for run, why in stale().items():
            print(f"{run}: {why}")
        return
    if not args.table:
        runs = runs_to_publish()
        check_measured(runs)
        for entry, folder in runs:
            publish_run(entry, folder)
        print(f"{len(runs)} runs published; others stay as published before")
        publish_measured()
    write_generated()


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("--table", action="store_true", help="copy nothing, only write the tables again")
    parser.add_argument(
        "--stale", action="store_true", help="copy nothing, only list results that the code has outgrown"
    )
    return parser.parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
