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


def test_publishing_refuses_quick_runs_and_other_data(tmp_path):
    for part in ("report", "README.md"):
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, tmp_path / part)
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
