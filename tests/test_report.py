"""README, report and the ZIP: generated numbers are up to date, nothing unfinished or foreign is published."""

import json
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "report"))
import macros
import publish

import tables


def test_the_readmes_table_is_that_of_the_published_results():
    readme = (ROOT / "README.md").read_text()
    assert publish.with_table(readme) == readme, "run `make publish`, or python report/publish.py --table"


def test_published_results_are_full_runs_on_real_data():
    for result in publish.results().values():
        if "final" in result:
            assert result["data"] in ("mnist", "bmnist")
            assert result["quick"] is False
            assert "dirty" not in result["commit"]


@pytest.mark.parametrize("script", sorted(ROOT.glob("code/a3_*_template.py")), ids=lambda p: p.stem)
def test_measured_figures_in_docstrings_are_those_of_the_results(script):
    """Every number with a decimal point in a script's docstring stands in a results file."""
    doc = script.read_text().split('"""')[1].split("Measured", 1)[1]
    known = {"1.85"}  # the bar of Question 3.8
    for result in publish.results().values():
        known.add(result["torch"][:4])
        for value in [result["seconds"], result["parameters"], *result["final"].values()]:
            if isinstance(value, (int, float)):
                known |= {f"{value:.2f}", f"{value:.1f}", f"{value:.0f}", f"{value:,}"}
    numbers = re.findall(r"-?\d[\d,]*\.\d+|\d+ s\b", doc)
    assert numbers
    for number in numbers:
        assert number.removesuffix(" s") in known, number


def copy_what_publishing_needs(folder):
    (folder / "code").mkdir()
    for part in ("report", "README.md", "code/tables.py"):
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / part)


def publish_in(folder):
    return subprocess.run([sys.executable, "report/publish.py"], cwd=folder, capture_output=True, text=True)


def made_up_comparison(data="mnist", **more):
    measures = ["frechet", "precision", "recall", "density", "coverage", "class_kl", "confident_share"]
    figures = {name + end: 0.25 for name in measures for end in ("", "_real")} | {"frechet_floor": 0.5}
    common = {
        "quick": False, "parameters": 1234, "training_seconds": 9.0, "training_device": "cpu", "latent_dimensions": 7,
        "samples_per_second": 4000.0, "seconds_per_1000_samples": 0.25,
        "sampling_device": "cpu", "processor": "a processor", "threads": 2,
    }  # fmt: skip
    binary = "bmnist" if data == "mnist" else f"{data}-binary"
    nats = {"test_elbo": -100.0, "test_log_likelihood": -90.0}
    bits = {f"{name}_bits_per_pixel": -value / 543.427 for name, value in nats.items()}
    judged = lambda name: {"reference": name, "images": 1000, **figures}
    return {
        "vae-z20": common
        | {"data": binary, "likelihood": {"kind": "bound and importance estimate", **nats, **bits}}
        | {"quality": {"means": judged(data), "draws": judged(binary)}},
        "nf": common
        | {"data": data, "likelihood": {"kind": "exact", "test_bpd": 1.5, "test_bpd_8": 1.4}}
        | {"quality": {"samples": judged(data)}}
        | more,
    }


@pytest.mark.parametrize("wrong", [made_up_comparison("glyphs"), made_up_comparison(quick=True)])
def test_publishing_refuses_a_comparison_of_other_data_or_quick_runs(wrong, tmp_path):
    copy_what_publishing_needs(tmp_path)
    (tmp_path / "report" / "results" / "vae-z20.json").unlink()  # it would not belong to this one
    folder = tmp_path / "runs" / "comparison"
    (folder / "figures").mkdir(parents=True)
    (folder / "comparison.json").write_text(json.dumps(wrong))
    before = (tmp_path / "README.md").read_text()
    refused = publish_in(tmp_path)
    assert refused.returncode == 1
    assert "only full runs on real data" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert (tmp_path / "README.md").read_text() == before


def test_publishing_takes_what_belongs_to_the_published_runs_and_nothing_else(tmp_path):
    copy_what_publishing_needs(tmp_path)
    runs, results = tmp_path / "runs", tmp_path / "report" / "results"
    (runs / "comparison" / "figures").mkdir(parents=True)
    (runs / "comparison" / "figures" / "samples.png").write_bytes(b"png")
    comparison = made_up_comparison()
    (runs / "comparison" / "comparison.json").write_text(json.dumps(comparison))
    refused = publish_in(tmp_path)
    assert refused.returncode == 1
    assert "judges another run" in refused.stderr  # its training took another time than the published run's
    for run, entry in comparison.items():
        entry["training_seconds"] = json.loads((results / f"{run}.json").read_text())["seconds"]
    (runs / "comparison" / "comparison.json").write_text(json.dumps(comparison))
    seeds = {"nf": {"seeds": [1, 2], "data": "mnist", "val_bpd": {"values": [1, 2], "mean": 1.5, "spread": 1}}}
    (runs / "seeds.json").write_text(json.dumps(seeds))
    ratio = {"ratio": 7.25, "ratio_spread": 0.5}
    bench = {"processor": "a processor", "threads": 2, "models": {"nf": ratio, "nf-multiscale": {}}}
    (runs / "bench.json").write_text(json.dumps(bench))
    (runs / "growth.json").write_text("{}")
    (runs / "growth.pdf").write_bytes(b"%PDF")
    done = publish_in(tmp_path)
    assert done.returncode == 0, done.stderr
    readme = (tmp_path / "README.md").read_text()
    assert "RealNVP, checkerboard 7.2 (± 0.2)" in readme
    assert "RealNVP, checkerboard 1.50 ± 0.50 bits per dimension" in readme
    assert "| VAE, z = 20, draws |" in readme
    assert (tmp_path / "report" / "figures" / "comparison" / "samples.png").exists()
    assert (tmp_path / "report" / "figures" / "bench" / "growth.pdf").exists()
    families = json.loads((results / "families.json").read_text())
    assert families["flow"]["measured"]["nf"]["training"]["spread"] == 1
    assert families["autoregressive"]["measured"] is None
    again = subprocess.run([sys.executable, "report/publish.py", "--table"], cwd=tmp_path)
    assert again.returncode == 0
    assert (tmp_path / "README.md").read_text() == readme


def test_published_figures_beside_the_runs_belong_to_them():
    comparison, runs = publish.read("comparison"), publish.results()
    for run, entry in comparison.items():
        assert entry["data"] in publish.RUNS
        assert entry["quick"] is False
        assert (entry["parameters"], entry["training_seconds"]) == (runs[run]["parameters"], runs[run]["seconds"])
    for run, line in publish.read("seeds").items():
        assert line["data"] in publish.RUNS
        assert len(line[tables.KEYS[run]]["values"]) == 3
    if comparison:
        assert publish.read("families") == tables.families(comparison, publish.read("seeds")), (
            "python report/publish.py"
        )


def test_likelihoods_of_binary_and_of_grey_images_share_no_column():
    header, (vae, flow) = tables.likelihood(made_up_comparison())
    for name in ("bound / log p(x), nats", "bits per binary pixel"):
        assert vae[header.index(name)]
        assert flow[header.index(name)] == ""
    assert vae[header.index("bits per dimension")] == ""
    assert flow[header.index("bits per dimension")] == "1.50 / 1.40"
    assert vae[header.index("bits per binary pixel")] == "0.184 / 0.166"


def test_tables_name_other_data_and_have_three_layouts():
    comparison = made_up_comparison("glyphs")
    assert "Glyph digits are not MNIST" in tables.note(comparison)
    assert "MNIST" not in str([tables.quality(comparison), tables.likelihood(comparison)])
    assert "MNIST" not in tables.note(made_up_comparison())
    for table in (tables.quality(comparison), tables.likelihood(comparison), tables.cost(comparison),
                  tables.family_rows(tables.families(comparison, {}))):  # fmt: skip
        header, rows = table
        assert all(len(row) == len(header) for row in rows)
        assert len(tables.markdown(*table).splitlines()) == len(rows) + 2
        assert len(tables.plain(*table).splitlines()) == len(rows) + 1
        assert tables.latex(*table).count(r"\\") == len(rows) + 1
    # images judged against the same data stand together, training images first
    _, rows = tables.quality(comparison)
    assert [row[0] for row in rows] == ["training images", "VAE, z = 20, means", "RealNVP, checkerboard",
                                        "training images", "VAE, z = 20, draws"]  # fmt: skip


def test_publishing_refuses_quick_runs_and_other_data(tmp_path):
    copy_what_publishing_needs(tmp_path)
    folder = tmp_path / "runs" / "bmnist" / "vae-z20"
    (folder / "figures").mkdir(parents=True)
    for wrong in ({"quick": True, "data": "bmnist"}, {"quick": False, "data": "glyphs-binary"}):
        (folder / "results.json").write_text(json.dumps({"run": "vae-z20", "final": {}, **wrong}))
        done = subprocess.run([sys.executable, "report/publish.py"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1
        assert "only full runs on real data" in done.stderr


def test_numbers_become_macros(tmp_path):
    result = {"run": "r", "seconds": 12.345, "final": {"a": -97.123, "b": None, "c": 1234567, "d": [1, 2]}}
    (tmp_path / "r.json").write_text(json.dumps(result))
    lines = "\n".join(macros.macros([tmp_path / "r.json"]))
    assert r"val/r/seconds\endcsname{12.35}" in lines or r"val/r/seconds\endcsname{12.34}" in lines
    assert r"val/r/a\endcsname{-97.12}" in lines
    assert r"val/r/b\endcsname{not reached}" in lines
    assert r"val/r/c\endcsname{1{,}234{,}567}" in lines
    assert "val/r/d" not in lines
    (tmp_path / "comparison.json").write_text(json.dumps({"gan": {"quality": {"frechet": 2.5}, "list": [1]}}))
    lines = macros.macros([tmp_path / "comparison.json"])
    assert len(lines) == 1
    assert r"val/comparison/gan/quality/frechet\endcsname{2.50}" in lines[0]


def submission(folder, *words):
    call = [sys.executable, str(folder / "report" / "submission.py"), *words]
    return subprocess.run(call, capture_output=True, text=True)


def test_the_zip_holds_code_and_report_and_nothing_else(tmp_path):
    root = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".git", ".venv", "data", "runs", "__pycache__", ".*_cache", ".hypothesis", "build")
    shutil.copytree(ROOT, root, ignore=ignored)
    (root / "data").mkdir()
    (root / "data" / "big.cache").write_text("x")
    (root / "runs").mkdir()
    (root / "report" / "report.pdf").write_bytes(b"%PDF-1.5")
    for words, message in (((), "NAME=lastname"), (("../x",), "NAME=lastname"), (("bloggs",), "still the example")):
        refused = submission(root, *words)
        assert refused.returncode == 1
        assert message in refused.stderr
    assert submission(root, "Bloggs", "--force").returncode == 0
    with zipfile.ZipFile(root / "bloggs_assignment3.zip") as archive:
        names = {name.split("/", 1)[1] for name in archive.namelist()}
    for needed in (
        "code/a3_vae_template.py",
        "datasets/bmnist.py",
        "report/report.pdf",
        "Makefile",
        "tests/test_vae.py",
    ):
        assert needed in names
    assert not any(name.startswith(("data/", "runs/", ".git/")) for name in names)


@pytest.mark.skipif(not shutil.which("latexmk"), reason="LaTeX is not installed")
def test_the_report_stops_at_a_missing_number(tmp_path):
    (tmp_path / "t.tex").write_text(
        r"\documentclass{article}\def\missing{}"
        + re.search(r"\\newcommand{\\val}.*?\n.*?\n", (ROOT / "report" / "report.tex").read_text()).group()
        + r"\begin{document}\val{vae-z20}{nothing}\end{document}"
    )
    done = subprocess.run(
        ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "No nothing of the run vae-z20" in done.stdout
