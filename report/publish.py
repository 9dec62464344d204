"""Copy finished full runs on real data from runs/ to report/, and what was measured on them; bring README up to date.

python report/publish.py            what `make publish` calls
python report/publish.py --table    only rewrite README's tables and families.json from report/results
"""

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))
import tables

ROOT = Path(__file__).resolve().parents[1]
GREY_MEMBERS = [run for run in tables.MEMBERS if "gaussian" in run]
BINARY_MEMBERS = [run for run in tables.MEMBERS if "gaussian" not in run]
RUNS = {
    "bmnist": ["vae-z20", "vae-z2", "pixelcnn", "pixelcnn-long", "markov", "rnn", "conv1d", *BINARY_MEMBERS],
    "mnist": ["gan", "nf", "nf-multiscale", "nf-short", "nf-multiscale-long", "pixelcnn-grey", *GREY_MEMBERS],
    **{target: [f"flow-{target}"] for target in tables.PLANE},
}
BEGIN, END = "<!-- results: written by make publish -->", "<!-- end of results -->"
FULLY_CONNECTED = "1.89 (MAF), 1.06 (Real NVP, convolutional); FFJORD Table 2"
CONVOLUTIONAL = "1.06 (Real NVP), 1.05 (Glow); FFJORD Table 2; 1.020 (UvA tutorial 11)"
FAMILY = (
    "-88.71 (VAE), -87.10 (IWAE, 50 draws), its paper, Table 3; -85.1 (planar, 80 steps; a bound); -85.57 (VampPrior)"
)
PIXELCNN = "-81.30 (PixelCNN), -79.20 (Diagonal BiLSTM); PixelRNN Table 4"
# run, key of `final`, what it measures, the course's bar, public solutions, the literature (with its source)
ROWS = [
    ("vae-z20", "val_elbo", "validation bound, nats", "", "-100.7 to -101.9", ""),
    ("vae-z20", "test_elbo", "test bound, nats", "", "", "about -99.5 at the end (AEVB, read off Figure 2)"),
    ("vae-z20", "test_log_likelihood", "test log p(x), nats", "", "", "-88.71 (VAE of the IWAE paper, Table 3)"),
    ("vae-z2", "val_elbo", "validation bound, nats", "", "-151 to -154", ""),
    ("family-best", "val_elbo", "validation bound, nats", "", "", ""),
    ("family-best", "test_elbo", "test bound, nats", "", "", ""),
    ("family-best", "test_log_likelihood", "test log p(x), nats", "", "", FAMILY),
    ("gan", "frechet", "Frechet distance to test images (real images: {frechet_floor:.2f})", "", "", ""),
    ("gan", "confident_share", "share of confident samples (real images: {confident_share_real:.2f})", "", "", ""),
    ("gan", "coverage", "coverage (real images: {coverage_real:.2f})", "", "", ""),
    ("nf", "val_bpd", "validation, bits per dimension", "below 1.85", "1.813 to 1.831", ""),
    ("nf", "test_bpd", "test, one dequantisation", "", "", ""),
    ("nf", "test_bpd_8", "test, 8 dequantisations", "", "", FULLY_CONNECTED),
    ("nf-short", "seconds_to_1_85", "seconds of training to 1.85 bits per dimension", "", "about 2300", ""),
    ("nf-short", "val_bpd", "validation, bits per dimension", "", "", ""),
    ("nf-multiscale", "val_bpd", "validation, bits per dimension", "below 1.85", "", ""),
    ("nf-multiscale", "test_bpd", "test, one dequantisation", "", "", ""),
    ("nf-multiscale", "test_bpd_8", "test, 8 dequantisations", "", "", CONVOLUTIONAL),
    ("nf-multiscale-long", "val_bpd", "validation, bits per dimension", "", "", ""),
    ("nf-multiscale-long", "test_bpd", "test, one dequantisation", "", "", ""),
    ("nf-multiscale-long", "test_bpd_8", "test, 8 dequantisations", "", "", CONVOLUTIONAL),
    ("pixelcnn", "test_log_likelihood", "test log p(x), nats, exact", "", "", PIXELCNN),
    ("pixelcnn-long", "test_log_likelihood", "test log p(x), nats, exact", "", "", PIXELCNN),
    ("markov", "test_log_likelihood", "test log p(x), nats, exact", "", "", ""),
    ("rnn", "test_log_likelihood", "test log p(x), nats, exact", "", "", ""),
    ("conv1d", "test_log_likelihood", "test log p(x), nats, exact", "", "", ""),
    ("pixelcnn-grey", "test_bpd", "test, bits per dimension, exact", "", "", "0.808 (gated PixelCNN, UvA tutorial 12)"),
]
# what is published beside the runs: file in runs/, where its figures are and go
MEASURED = {
    "comparison": ("comparison/comparison.json", "comparison/figures", "comparison"),
    "seeds": ("seeds.json", None, None),
    "bench": ("bench.json", None, None),
    "growth": ("growth.json", "growth.pdf", "bench/growth.pdf"),
}


def read(name):
    """A file of report/results, {} where there is none."""
    path = ROOT / "report" / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def results():
    """The published runs."""
    found = {}
    for path in sorted((ROOT / "report" / "results").glob("*.json")):
        content = json.loads(path.read_text())
        if "final" in content:
            found[content["run"]] = content
    return found


def machines(found):
    """Where the runs were trained, named once if it is one place."""
    places, groups = {}, {"family": "relatives of the VAE", "flow": "flows in the plane"}
    for run, result in found.items():
        place = f"{result['processor']}, torch {result['torch'].split('+')[0]}"
        name = groups.get(run.split("-")[0], tables.title(run))
        if name not in places.setdefault(place, []):
            places[place].append(name)
    if len(places) == 1:
        return f"Trained on: {next(iter(places))}."
    return " ".join(f"Trained on {place}: {'; '.join(names)}." for place, names in places.items())


def digits(key):
    """Behind the point: bits per dimension differ in the third one."""
    return 3 if "bpd" in key else 2


def table(found):
    """README's results table: every figure of ours from a file in report/results."""
    header = ["model", "measure", "ours", "the course's bar", "public solutions", "the literature", "training",
              "parameters"]  # fmt: skip
    lines, last = [], None
    for run, key, measure, *others in ROWS:
        if run not in found:
            continue
        result = found[run]
        threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
        place = f"{result['seconds']:.0f} s, {result['device']}, {threads}"
        first = [tables.title(run), place, f"{result['parameters']:,}"] if run != last else ["", "", ""]
        value = f"**{result['final'][key]:.{digits(key)}f}**"
        lines.append([first[0], measure.format(**result["final"]), value, *others, *first[1:]])
        last = run
    return tables.markdown(header, lines)


def speed(bench):
    """What README says of bench.json: ratios above all, since seconds differ from machine to machine."""
    if not bench:
        return ""
    rows = []
    for name, result in bench["models"].items():
        if "ratio" in result:
            run, _, nets = name.partition(", ")
            title = tables.TITLES[run] + (f", {nets}" if nets else "")
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
        key = tables.KEYS[run]
        values = line[key]
        mean, half = (f"{value:.{digits(key)}f}" for value in (values["mean"], values["spread"] / 2))
        parts.append(f"{tables.title(run)}: {mean} ± {half} {tables.MEASURES[key]}")
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
    sys.exit(f"{path.relative_to(ROOT)} {why}: only full runs on real data are published")


def check(name, content, path):
    """Stop unless what was measured belongs to the published runs."""
    if name == "comparison":
        found = results()  # as they will be, once the finished runs are published
        for data, names in RUNS.items():
            for place in (ROOT / "runs" / data / run / "results.json" for run in names):
                if place.exists():
                    found[place.parent.name] = json.loads(place.read_text())
        for run, entry in content.items():
            if entry["quick"] or entry["data"] not in RUNS:
                refuse(path, "judges a quick run or other data")
            if run in found and found[run]["seconds"] != entry["training_seconds"]:
                sys.exit(f"{path.relative_to(ROOT)} judges another run {run}: python code/evaluate.py, then again")
    if name == "seeds" and any(line["data"] not in RUNS for line in content.values()):
        refuse(path, "is of other data")


def publish_runs():
    copied = 0
    for data, names in RUNS.items():
        for name in names:
            folder = ROOT / "runs" / data / name
            if not (folder / "results.json").exists():
                print(f"{name}: no finished run on {data}, left as published before")
                continue
            result = json.loads((folder / "results.json").read_text())
            if result["quick"] or result["data"] != data:
                refuse(folder, "is a quick run or of other data")
            (ROOT / "report" / "results").mkdir(exist_ok=True)
            shutil.copyfile(folder / "results.json", ROOT / "report" / "results" / f"{name}.json")
            if (folder / "extra.json").exists():  # numbers of the experiments that go with the figures
                shutil.copyfile(folder / "extra.json", ROOT / "report" / "results" / f"{name}-extra.json")
            target = ROOT / "report" / "figures" / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder / "figures", target, ignore=shutil.ignore_patterns("step-*", "*.gif"))
            copied += 1
    print(f"{copied} runs published in report/results and report/figures")


def publish_measured():
    for name, (file, figures, target) in MEASURED.items():
        path = ROOT / "runs" / file
        if not path.exists():
            print(f"{name}: not in runs/, left as published before")
            continue
        shutil.copyfile(path, ROOT / "report" / "results" / f"{name}.json")
        if figures:
            source, place = ROOT / "runs" / figures, ROOT / "report" / "figures" / target
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, place)
        print(f"{name} published")


def write_generated():
    """families.json and README's part, both from report/results."""
    comparison = read("comparison")
    if comparison:
        content = json.dumps(tables.families(comparison, read("seeds")), indent=1)
        (ROOT / "report" / "results" / "families.json").write_text(content)
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text()))


def main():
    if "--table" not in sys.argv:
        for name, (file, *_) in MEASURED.items():  # before anything is copied
            path = ROOT / "runs" / file
            if path.exists():
                check(name, json.loads(path.read_text()), path)
        publish_runs()
        publish_measured()
    write_generated()


if __name__ == "__main__":
    main()
