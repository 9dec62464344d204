"""README, report and the ZIP: generated numbers are up to date, nothing unfinished or foreign is published, the PDF
answers every question within its limits, and its formulas are those that the code computes."""

import ast
import json
import math
import os
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
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
            assert result["data"] in publish.RUNS
            assert result["quick"] is False
            assert "dirty" not in result["commit"]


BEYOND = [ROOT / "code" / "beyond" / f"{name}.py" for name in ("autoregressive", "vae_family")]
MEASURED = [*sorted(ROOT.glob("code/a3_*_template.py")), *BEYOND]


@pytest.mark.parametrize("script", MEASURED, ids=lambda p: p.stem)
def test_measured_figures_in_docstrings_are_those_of_the_results(script):
    """Every number with a decimal point in a script's docstring stands in a results file."""
    doc = script.read_text().split('"""')[1].split("Measured", 1)[1]
    known = {"1.85"}  # the bar of Question 3.8
    for result in publish.results().values():
        known.add(result["torch"][:4])
        known |= {str(value) for value in result["settings"].values()}
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
    sides = {"ours": {"images_per_second": 7250.0}, "plain": {"images_per_second": 1000.0}}
    models = {"nf": {"ratio": 7.25, "ratio_spread": 0.5, **sides}, "nf-multiscale": {}}
    bench = {"processor": "a processor", "threads": 2, "torch": "2.99.0+x", "models": models}
    (runs / "bench.json").write_text(json.dumps(bench))
    (runs / "growth.json").write_text("{}")
    (runs / "growth.pdf").write_bytes(b"%PDF")
    done = publish_in(tmp_path)
    assert done.returncode == 0, done.stderr
    readme = (tmp_path / "README.md").read_text()
    assert "| RealNVP, checkerboard | **7.2** ± 0.2 | 7,250 | 1,000 |" in readme
    assert "a processor, 2 threads, torch 2.99.0)" in readme
    assert "RealNVP, checkerboard: 1.500 ± 0.500 bits per dimension" in readme
    assert "| VAE, z = 20, draws |" in readme
    assert (tmp_path / "report" / "figures" / "comparison" / "samples.png").exists()
    assert (tmp_path / "report" / "figures" / "bench" / "growth.pdf").exists()
    families = json.loads((results / "families.json").read_text())
    assert families["flow"]["measured"]["nf"]["training"]["spread"] == 1
    assert families["autoregressive"]["measured"] is None
    again = subprocess.run([sys.executable, "report/publish.py", "--table"], cwd=tmp_path)
    assert again.returncode == 0
    assert (tmp_path / "README.md").read_text() == readme


def test_publishing_takes_the_experiments_numbers_along(tmp_path):
    copy_what_publishing_needs(tmp_path)
    folder = tmp_path / "runs" / "mnist" / "gan"
    (folder / "figures").mkdir(parents=True)
    shutil.copyfile(ROOT / "report" / "results" / "gan.json", folder / "results.json")
    (folder / "extra.json").write_text(json.dumps({"norm_ratio": 134.6}))
    assert publish_in(tmp_path).returncode == 0
    published = tmp_path / "report" / "results" / "gan-extra.json"
    assert macros.macros([published, folder / "extra.json"]) == 2 * [
        r"\expandafter\def\csname val/gan-extra/norm_ratio\endcsname{135}"
    ]


def test_published_figures_beside_the_runs_belong_to_them():
    comparison, runs = publish.read("comparison"), publish.results()
    for run, entry in comparison.items():
        assert entry["data"] in publish.RUNS
        assert entry["quick"] is False
        assert (entry["parameters"], entry["training_seconds"]) == (runs[run]["parameters"], runs[run]["seconds"])
        assert (entry.get("peak_megabytes") or 0) < 3000
    for result in runs.values():
        # at this commit a figure took the gradients of 100 images at once, since then of ten at a time
        limit = 4000 if result["commit"].startswith("6014af2") else 2000
        assert (result.get("peak_megabytes") or 0) < limit
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
    assert "$-$1.50, spread 2 & - & 3" in tables.latex(["a", "b", "c"], [["-1.50, spread 2", "-", "3"]])
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
    result = {
        "run": "r",
        "data": "glyphs",
        "seconds": 12.345,
        "settings": {"lr": 0.0015, "alpha": 1e-5, "name": "a_b", "weight_decay": 0.02},
        "curves": {"loss": [None, 1.5, 0.25]},
        "final": {"a": -97.123, "b": None, "c": 1234567, "d": [1, 2]},
    }
    (tmp_path / "r.json").write_text(json.dumps(result))
    (tmp_path / "comparison.json").write_text(json.dumps({"r": {"frechet": 2.5, "likelihood": "-95 nats & more"}}))
    lines = "\n".join(macros.macros([tmp_path / "r.json", tmp_path / "comparison.json"]))
    for name, value in {
        "r/seconds": "12",
        "r/a": r"\ensuremath{-}97.12",
        "r/b": "not reached",
        "r/c": "1{,}234{,}567",
        "r/settings/lr": "0.0015",
        "r/settings/alpha": r"\ensuremath{10^{-5}}",
        "r/settings/name": r"a\_b",
        "r/settings/weight_decay": "0.02",
        "r/first/loss": "1.50",
        "r/last/loss": "0.250",
        "r/data_title": "glyph digits drawn from fonts",
        "comparison/r/frechet": "2.50",
        "comparison/r/likelihood": r"-95 nats \& more",
    }.items():
        assert rf"val/{name}\endcsname{{{value}}}" in lines
    assert r"val/r/d\endcsname" not in lines
    import beyond.autoregressive

    assert macros.FORMULAS["mixture"] == beyond.autoregressive.MIXTURE
    constant = f"weight_decay={macros.FORMULAS['vae_weight_decay']}, "
    assert constant in (ROOT / "code" / "a3_vae_template.py").read_text()  # no results file holds it


def submission(folder, *words):
    call = [sys.executable, str(folder / "report" / "submission.py"), *words]
    return subprocess.run(call, capture_output=True, text=True)


def test_the_zip_holds_code_and_report_and_nothing_else(tmp_path):
    root = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".git", ".[hv]*", "data", "runs", "__pycache__", ".*_cache", "build")
    shutil.copytree(ROOT, root, ignore=ignored)
    (root / "data").mkdir()
    (root / "data" / "big.cache").write_text("x")
    (root / "runs").mkdir()
    for environment in (".venv", ".venv-oldest"):
        (root / environment).mkdir()
        (root / environment / "pyvenv.cfg").write_text("home = /usr/bin")
        (root / environment / "library.py").write_text("")
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
    assert not any(name.startswith(("data/", "runs/", ".git/", ".venv")) for name in names)

    # and what it holds works where there is nothing else
    with zipfile.ZipFile(root / "bloggs_assignment3.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    call = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow",
        "-k",
        "interface or mask or layout",
    ]
    tests = ["tests/test_layout.py", "tests/test_vae.py", "tests/test_gan.py", "tests/test_nf.py"]
    environment = {**os.environ, "A3_CACHE": str(tmp_path / "cache")}
    environment.pop("A3_DATA", None)
    done = subprocess.run(
        [*call, *tests],
        cwd=tmp_path / "unpacked" / "bloggs_assignment3",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


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


# Points of the assignment's questions
POINTS = {
    **{"1.1": 10, "1.2": 5, "1.3": 10, "1.4": 15, "1.5": 10, "1.6": 10, "1.7": 10, "1.8": 10, "1.9": 10, "1.10": 15},
    **{"1.11": 10, "1.12": 40, "1.13": 0, "1.14": 5, "1.15": 5},
    **{"2.1": 10, "2.2": 10, "2.3": 10, "2.4": 15, "2.5": 25, "2.6": 0, "2.7": 5},
    **{"3.1": 5, "3.2": 5, "3.3": 5, "3.4": 10, "3.5": 5, "3.6": 20, "3.7": 40, "3.8": 10, "4.1": 20},
}
LINES = {"1.12": 10, "2.5": 10, "3.7": 10, "4.1": 15}  # at most
with_latex = pytest.mark.skipif(
    not (shutil.which("latexmk") and shutil.which("pdftotext")), reason="LaTeX or poppler is not installed"
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The build folder of the published report, compiled as `make report` does, and the PDF's words with their places:
    (page, top, right, word)."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(ROOT / "report", folder / "report", ignore=shutil.ignore_patterns("build"))
    (folder / "code").mkdir()
    shutil.copyfile(ROOT / "code" / "tables.py", folder / "code" / "tables.py")
    done = subprocess.run([sys.executable, "report/macros.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    command = re.search(r"TEXINPUTS=build: (latexmk .*?report\.tex)", (ROOT / "Makefile").read_text()).group(1)
    environment = {**os.environ, "TEXINPUTS": "build:"}
    done = subprocess.run(command.split(), cwd=folder / "report", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    build = folder / "report" / "build"
    boxes = subprocess.run(["pdftotext", "-bbox", build / "report.pdf", "-"], capture_output=True, text=True).stdout
    words, page = [], 0
    for line in boxes.splitlines():
        page += "<page " in line
        if match := re.search(r'<word xMin="[\d.]+" yMin="([\d.]+)" xMax="([\d.]+)" yMax="[\d.]+">(.*)</word>', line):
            words.append((page, float(match[1]), float(match[2]), match[3]))
    return build, words


def answers():
    return "\n".join(path.read_text() for path in sorted((ROOT / "report" / "answers").glob("*.tex")))


def test_every_question_is_answered_under_its_points():
    found = re.findall(r"\\question\{([\d.]+)\}\{(\d+)\}", answers())
    assert {question: int(points) for question, points in found} == POINTS
    assert len(found) == len(POINTS)
    rows = re.findall(r"\\where\{([\d.]+)\}\{(\d+)\}", (ROOT / "report" / "answers" / "grader.tex").read_text())
    assert {question: int(points) for question, points in rows} == POINTS


def defined_in(path):
    """Names of functions, classes and methods (Class.method)."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            names |= {f"{node.name}.{part.name}" for part in inner if isinstance(part, ast.FunctionDef)}
    return names


def test_functions_that_the_report_names_exist():
    named = re.findall(r"\\fn\{([\w/]+)\.py\}\{([\w.]+)\}|\\at\{(\w+)\}\{([\w.]+)\}", answers())
    assert len(named) > 40
    for module, name, module_, name_ in named:
        assert (name or name_) in defined_in(ROOT / "code" / f"{module or module_}.py")


def test_figures_and_citations_exist():
    for run, figure in re.findall(r"\\run(?:\[[^]]*\])?\{([\w-]+)\}\{([\w.-]+)\}", answers()):
        if (ROOT / "report" / "figures" / run).exists() and (run, figure) not in UNPUBLISHED:
            assert (ROOT / "report" / "figures" / run / figure).exists(), (run, figure)
    entries = re.findall(r"^@\w+\{(\w+),", (ROOT / "report" / "references.bib").read_text(), re.M)
    cited = {key for keys in re.findall(r"\\citep(?:\[[^]]*\])?\{([\w,]+)\}", answers()) for key in keys.split(",")}
    assert cited == set(entries)
    assert len(entries) == len(cited)


# figures of experiments whose numbers are not in report/results yet; \\when leaves them out
UNPUBLISHED = {
    (name, figure)
    for name, figures_ in {
        "vae-z20": ["estimates.pdf"],
        "vae-z2": ["estimates.pdf", "posteriors.pdf"],
        "gan": ["gradients.pdf"],
    }.items()
    for figure in figures_
    if not (ROOT / "report" / "results" / f"{name}-extra.json").exists()
}


def test_no_number_with_a_decimal_point_is_typed_into_an_answer():
    """Numbers of ours are macros; those that stay belong to others, to the assignment, or to the method."""
    allowed = {"0.1", "0.2", "0.5", "0.75", "0.99", "0.95", "1.85", "0.002"}
    text = answers().split(r"\label{tab:literature}")
    text = text[0] + text[1].split(r"\end{table}", 1)[1]  # that table quotes others
    text = re.sub(r"(?<!\\)%.*|\[[^]]*(?:pt|in|mm|linewidth)[^]]*\]|\{[\d.]+\\linewidth\}|\{[\d.]+in\}", "", text)
    text = re.sub(r"\\(?:question|where|ref|label|hyperref|hspace|setlength)\b(?:\{[^}]*\}|\[[^]]*\])*", "", text)
    text = re.sub(r"Questions? [\d.]+|=[\d.]+(?:pt|cm)|[\d.]+cm", "", text)
    for number in re.findall(r"\d+\.\d+", text):
        assert number in allowed, number


@with_latex
def test_headings_stand_in_the_pdf(compiled):
    text = " ".join(word for *_, word in compiled[1])
    for question, points in POINTS.items():
        assert f"Question {question} ({points} points)" in text


@with_latex
def test_descriptions_keep_their_limits_in_the_pdf(compiled):
    """Lines of a limited text are numbered in the left margin, from 1; nothing else stands there."""
    seen, words = [], compiled[1]
    for i, (page, top, right, word) in enumerate(words):
        if word == "Question" and words[i + 2][3].startswith("("):
            seen.append((page, top, words[i + 1][3], None))
        if right < 107:  # points; the text begins at 108
            seen.append((page, top, None, int(word)))
    counts, question = {}, None
    for _, _, heading, number in sorted(seen, key=lambda place: place[:2]):  # from top to bottom, page by page
        question = heading or question
        if number:
            counts.setdefault(question, []).append(number)
    assert counts.keys() == LINES.keys()
    for question, numbers in counts.items():
        assert numbers == list(range(1, len(numbers) + 1))
        assert 5 <= len(numbers) <= LINES[question], question


@with_latex
def test_the_log_is_clean(compiled):
    log = (compiled[0] / "report.log").read_text(errors="replace").replace("\n", " ")
    assert "undefined" not in log
    assert "multiply defined" not in log
    assert "Missing character" not in log
    assert "Float too large" not in log
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide", log)]
    assert max(wide, default=0) <= 2
    assert "Warning--" not in (compiled[0] / "report.blg").read_text()


@with_latex
def test_fonts_are_embedded_and_the_pdf_says_what_it_is(compiled):
    pdf = compiled[0] / "report.pdf"
    fonts = subprocess.run(["pdffonts", pdf], capture_output=True, text=True).stdout.splitlines()[2:]
    assert fonts
    for font in fonts:
        assert re.search(r" yes +(yes|no) +(yes|no) +\d+ +\d+$", font), font
        assert "Type 3" not in font
    about = subprocess.run(["pdfinfo", pdf], capture_output=True, text=True).stdout
    assert re.search(r"Title: +Deep Generative Models", about)
    assert re.search(r"Author: +\S", about)
    assert re.search(r"Page size: +612 x 792", about)


def test_the_formula_of_question_1_5():
    """Against the integral of Equation A6, and against the bound's KL term in the code."""
    import a3_vae_template
    from scipy import integrate, stats

    for mu, variance in ((0, 1), (0.1, 1), (10, 1), (0.5, 0.2)):
        q, std = stats.norm(mu, variance**0.5), variance**0.5
        integral, _ = integrate.quad(
            lambda x, q=q: q.pdf(x) * (q.logpdf(x) - stats.norm.logpdf(x)), mu - 12 * std, mu + 12 * std
        )
        assert macros.kl(mu, variance) == pytest.approx(integral, abs=1e-7)
        model = a3_vae_template.VAE(4, 1).eval()
        model.encoder.forward = lambda x, m=mu, s=std: (torch.full((len(x), 1), float(m)), torch.full((len(x), 1), s))
        assert model.terms(torch.zeros(1, 784))[1].item() == pytest.approx(macros.kl(mu, variance), rel=1e-5, abs=1e-6)
    assert macros.FORMULAS["kl_same"] == macros.kl(0, 1)


def test_the_formulas_of_question_1_10():
    """The reconstruction and the regularisation term, pixel by pixel, with the noise that the code drew."""
    import a3_vae_template

    torch.manual_seed(0)
    model = a3_vae_template.VAE(30, 5).eval()
    x = (torch.rand(3, 784) < 0.3).float()
    torch.manual_seed(1)
    reconstruction, kl = model.terms(x)
    torch.manual_seed(1)
    noise = torch.randn(3, 5).double().numpy()
    with torch.no_grad():
        mu, sigma = (part.double().numpy() for part in model.encoder(x))
        z = mu + sigma * noise
        f = model.double().decoder(torch.tensor(z)).numpy()
    for n, image in enumerate(x.numpy()):
        recon = -sum(math.log(p) if pixel else math.log(1 - p) for pixel, p in zip(image, f[n]))
        reg = 0.5 * sum(s**2 + m**2 - 1 - math.log(s**2) for m, s in zip(mu[n], sigma[n]))
        assert -reconstruction[n].item() == pytest.approx(recon, rel=1e-5)
        assert kl[n].item() == pytest.approx(reg, rel=1e-4)


def test_the_formula_of_question_3_1():
    """log p(x) = log p(z) + sum of log |det|, the Jacobians by finite differences, for couplings with drawn weights."""
    import a3_nf_template

    torch.manual_seed(0)
    mask = torch.tensor([1.0, 0, 1, 0, 1])
    layers = [a3_nf_template.Coupling(5, m, 8).double() for m in (mask, 1 - mask, mask)]
    for layer in layers:
        torch.nn.init.normal_(layer.nn[-1].weight, std=0.5)
    x = h = np.array([0.3, -1.2, 0.7, 2.0, -0.1])
    total, step = 0.0, 1e-6
    with torch.no_grad():

        def through(layer, h):
            return layer(torch.tensor(h)[None], torch.zeros(1, dtype=torch.float64))

        for layer in layers:
            columns = [
                (through(layer, h + step * e)[0] - through(layer, h - step * e)[0])[0].numpy() / (2 * step)
                for e in np.eye(5)
            ]
            total += math.log(abs(np.linalg.det(np.stack(columns, 1))))
            h = through(layer, h)[0][0].numpy()
        log_px = float(np.sum(-0.5 * h**2 - 0.5 * math.log(2 * math.pi))) + total
        z, ldj = torch.tensor(x)[None], torch.zeros(1, dtype=torch.float64)
        for layer in layers:
            z, ldj = layer(z, ldj)
        assert (a3_nf_template.log_prior(z).sum(1) + ldj).item() == pytest.approx(log_px, abs=1e-6)
