"""Copy finished full runs on real data from runs/ to report/, and bring README's table up to date.

python report/publish.py            what `make publish` calls
python report/publish.py --table    only rewrite README's table from report/results
"""

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = {"bmnist": ["vae-z20", "vae-z2"], "mnist": ["gan", "nf"]}
BEGIN, END = "<!-- results: written by make publish -->", "<!-- end of results -->"
# run, what it is, (key of `final`, unit, digits), what others reach (source), the same key's bar of the course
ROWS = [
    ("vae-z20", "VAE, z = 20", "val_elbo", "validation bound, nats", "-100.7 to -101.9 (public solutions)"),
    ("vae-z20", "", "test_elbo", "test bound, nats", "about -99.5 at the end (AEVB, read off Figure 2)"),
    ("vae-z20", "", "test_log_likelihood", "test log p(x), nats", "-88.71 (VAE of the IWAE paper, Table 3)"),
    ("vae-z2", "VAE, z = 2", "val_elbo", "validation bound, nats", "-151 to -154 (public solutions)"),
    ("gan", "GAN", "frechet", "Frechet distance to test images", "floor {frechet_floor:.2f} (real images)"),
    ("gan", "", "confident_share", "share of confident samples", "{confident_share_real:.2f} (real images)"),
    ("gan", "", "coverage", "coverage", "{coverage_real:.2f} (real images)"),
    (
        "nf",
        "RealNVP, checkerboard",
        "val_bpd",
        "validation, bits per dimension",
        "1.813 to 1.831 (public solutions); bar 1.85",
    ),
    ("nf", "", "test_bpd_8", "test, 8 dequantisations", "1.89 (MAF, FFJORD Table 2), 1.06 (Real NVP, convolutional)"),
]


def results():
    found = {}
    for path in sorted((ROOT / "report" / "results").glob("*.json")):
        content = json.loads(path.read_text())
        found[content.get("run", path.stem)] = content
    return found


def table(found):
    """README's results table: every figure from a file in report/results."""
    lines = ["| model | measure | ours | others | training | parameters |", "|---|---|---|---|---|---|"]
    for run, name, key, measure, others in ROWS:
        if run not in found:
            continue
        result = found[run]
        seconds = f"{result['seconds']:.0f} s, {result['device']}, {result['threads']} threads" if name else ""
        parameters = f"{result['parameters']:,}" if name else ""
        value = f"{result['final'][key]:.2f}"
        lines.append(
            f"| {name} | {measure} | **{value}** | {others.format(**result['final'])} | {seconds} | {parameters} |"
        )
    return "\n".join(lines)


def with_table(readme):
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table(results())}\n{END}{rest.split(END)[1]}"


def main():
    if "--table" not in sys.argv:
        copied = 0
        for data, names in RUNS.items():
            for name in names:
                folder = ROOT / "runs" / data / name
                if not (folder / "results.json").exists():
                    print(f"{name}: no finished run on {data}, left as published before")
                    continue
                result = json.loads((folder / "results.json").read_text())
                if result["quick"] or result["data"] != data:
                    sys.exit(
                        f"runs/{data}/{name} is a quick run or of other data: only full runs on real data are published"
                    )
                (ROOT / "report" / "results").mkdir(exist_ok=True)
                shutil.copyfile(folder / "results.json", ROOT / "report" / "results" / f"{name}.json")
                if (folder / "extra.json").exists():  # numbers of the experiments that go with the figures
                    shutil.copyfile(folder / "extra.json", ROOT / "report" / "results" / f"{name}-extra.json")
                target = ROOT / "report" / "figures" / name
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(folder / "figures", target, ignore=shutil.ignore_patterns("step-*", "*.gif"))
                copied += 1
        print(f"{copied} runs published in report/results and report/figures")
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text()))


if __name__ == "__main__":
    main()
