"""The report and the ZIP: the PDF answers every question within its limits, its formulas are those that the code
computes, its numbers are macros."""

import ast
import json
import os
import re
import shutil
import subprocess
import zipfile

import pytest
import torch

import a3_gan_template as gan
import a3_vae_template as vae
import macros
from common import files
from conftest import ROOT, Child, run_program
from datasets.files import UserError
from study import registry, submission


@pytest.mark.parametrize("quick", [False, True])
def test_a_users_report_has_the_users_numbers_alone_and_tells_not_run_from_not_reached(quick, tmp_path, monkeypatch):
    for module in (macros, files):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    runs = tmp_path / "runs" / "quick" if quick else tmp_path / "runs"
    folder = runs / "glyphs" / "nf"
    (folder / "figures").mkdir(parents=True)
    final = {"val_bpd": 2.5, "first_epoch_below_1_85": None}
    result = {"run": "nf", "data": "glyphs", "final": final, "settings": {}, "seconds": 1, "seed": 42, "quick": quick}
    (folder / "results.json").write_text(json.dumps(result))
    (tmp_path / "report").mkdir()
    monkeypatch.setattr(macros, "compile_own", lambda build: None)
    macros.main(macros.parse_args(["--user", *["--quick"] * quick]))
    lines = (runs / "report-build" / "macros.tex").read_text()
    assert r"val/nf/val_bpd\endcsname{2.50}" in lines
    assert r"val/nf/first_epoch_below_1_85\endcsname{not reached}" in lines  # the run missed the bar
    assert r"\def\missing{not run}" in lines  # what the report writes for every other number
    assert {name for name in re.findall(r"val/([\w-]+)/", lines)} == {"nf", "formula"}
    assert "glyph digits" in re.search(r"\\def\\banner\{(.*)\}", lines)[1]
    figures = re.search(r"\\def\\figures\{(.*)\}", lines)[1]  # relative to report/, where LaTeX runs
    assert (tmp_path / "report" / figures / "nf").resolve() == runs / "report-figures" / "nf"


def test_numbers_become_macros(tmp_path):
    final = {"a": -97.123, "b": None, "c": 1234567, "d": [1, 2], "e": True}
    result = {
        "run": "r", "data": "glyphs", "seconds": 12.345, "final": final,
        "curves": {"loss": [None, 1.5, 0.25], "val_bpd": [9.0, 1.8, 1.9, None, 1.8, 1.7]},
        "settings": {"lr": 0.0015, "alpha": 1e-5, "name": "a_b", "weight_decay": 0.02},
    }  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps(result))
    (tmp_path / "comparison.json").write_text(json.dumps({"r": {"frechet": 2.5, "likelihood": "-95 nats & more"}}))
    (tmp_path / "seeds.json").write_text(json.dumps({"r": {"val_bpd": {"values": [1.0, 1.5, 1.4], "mean": 1.3}}}))
    (tmp_path / "r-analyses.json").write_text(json.dumps({"prior_share": 0.25, "probe": 0.9154}))
    names = ("r.json", "comparison.json", "seeds.json", "r-analyses.json")
    lines = "\n".join(macros.macros({tmp_path / name: registry.read_json(tmp_path / name) for name in names}))
    expected = {
        "r/seconds": "12", "r/a": r"\ensuremath{-}97.12", "r/b": "not reached", "r/c": "1{,}234{,}567",
        "r/settings/lr": "0.0015", "r/settings/alpha": r"\ensuremath{10^{-5}}", "r/settings/name": r"a\_b",
        "r/settings/weight_decay": "0.02", "r/first/loss": "1.50", "r/last/loss": "0.250",
        "r/second/val_bpd": "1.80", "r/always_below_1_85": "4", "r-analyses/probe": r"91.5\,\%",
        "r/data_title": "glyph digits (not MNIST)", "comparison/r/frechet": "2.50",
        "comparison/r/likelihood": r"-95 nats \& more", "seeds/r/val_bpd/pm": r"\ensuremath{1.300\pm0.265}",
        "r-analyses/share_per_dimension": "0.500", "r-analyses/share_in_20": r"\ensuremath{9.5\cdot 10^{-7}}",
    }  # fmt: skip
    for name, value in expected.items():
        assert rf"val/{name}\endcsname{{{value}}}" in lines
    for name in ("d", "e"):  # lists and truth values are not shown
        assert rf"val/r/{name}\endcsname" not in lines
    q = torch.distributions.Normal(torch.tensor(10.0), 2**0.5)
    assert macros.kl(10, 2) == pytest.approx(
        torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1)).item()
    )
    assert macros.FORMULAS["kl_same"] == macros.kl(0, 1)
    encoder, decoder = vae.make_optimizer(vae.VAE(), 0.008).param_groups  # no results file holds these numbers
    assert macros.FORMULAS["vae_encoder_decay"] == str(encoder["weight_decay"])
    assert decoder["weight_decay"] == 0
    assert macros.FORMULAS["vae_beta2"] == str(encoder["betas"][1]) == str(decoder["betas"][1])
    generator = gan.Generator(2, codes=3)
    assert float(macros.FORMULAS["code_length"]) == generator.noise(1)[0, 2:].norm()


def test_the_zip_holds_code_and_report_and_nothing_else(tmp_path, monkeypatch):
    """From a copy of the checkout with large folders and environments in it."""
    root = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".git", ".[hv]*", "data", "runs", "__pycache__", ".*_cache", "build")
    shutil.copytree(ROOT, root, ignore=ignored)
    for environment in (".venv", ".venv-oldest"):
        (root / environment).mkdir()
        (root / environment / "pyvenv.cfg").write_text("home = /usr/bin")
        (root / environment / "library.py").write_text("")
    for folder in ("data", "runs", ".git"):
        (root / folder).mkdir()
        (root / folder / "large.json").write_text("{}")
    (root / "report" / "report.pdf").write_bytes(b"%PDF-1.5")
    (root / "code" / "models").mkdir()
    (root / "code" / "models" / "note.md").write_text("a folder of the student's own")
    private = ".env", "id_rsa", "code/notes"
    for name in private:
        (root / name).write_text("secret")
    monkeypatch.setattr(submission, "ROOT", root)
    for words, message in (([], "NAME=lastname"), (["../x"], "../x cannot be part"), (["bloggs"], "still the example")):
        with pytest.raises(UserError, match=message):
            submission.main(submission.parse_args(words))
    author, pdf = root / "report" / "author.tex", root / "report" / "report.pdf"
    example = author.read_text()
    author.write_text(example.replace("Example", "Joe"))
    os.utime(pdf, (0, 0))
    with pytest.raises(UserError, match=r"report\.pdf is older than report/author\.tex: make report"):
        submission.main(submission.parse_args(["bloggs"]))
    os.utime(pdf)
    submission.main(submission.parse_args(["bloggs"]))
    (root / "bloggs_assignment3.zip").unlink()
    author.write_text(example)
    submission.main(submission.parse_args(["O'Brien van Bloggs", "--force"]))
    assert (root / "o-brien-van-bloggs_assignment3.zip").exists()
    (root / "o-brien-van-bloggs_assignment3.zip").unlink()
    submission.main(submission.parse_args(["Bloggs", "--force"]))
    with zipfile.ZipFile(root / "bloggs_assignment3.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    unpacked = tmp_path / "unpacked" / "bloggs_assignment3"
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*")}
    needed = "code/a3_vae_template.py code/common/run.py datasets/bmnist.py report/report.pdf Makefile"
    assert set(needed.split()) <= names
    assert not names & set(private)
    assert "code/models/note.md" in names  # only report/models is left out
    assert not any(name.startswith(("data/", "runs/", ".git/", ".venv", "report/models")) for name in names)
    # and each script that it holds starts where there is nothing else
    program = "import sys\nsys.path.insert(0, 'code')\n"
    program += "import a3_vae_template as v, a3_gan_template as g, a3_nf_template as f\n"
    program += "print(v.__file__, *(m.parse_args(['--quick']).seed for m in (v, g, f)))"
    done = run_program(tmp_path, program, cwd=unpacked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-3:] == ["42"] * 3
    assert "unpacked" in done.stdout


@pytest.mark.skipif(not shutil.which("latexmk"), reason="LaTeX is not installed")
def test_the_report_lists_what_is_missing_and_stops(tmp_path):
    source = (ROOT / "report" / "report.tex").read_text()
    macros_of_results = source[source.index(r"\newcommand{\val}") : source.index(r"\makeatletter")]
    (tmp_path / "t.tex").write_text(
        r"\documentclass{article}\usepackage{graphicx}\def\missing{}\def\figures{figures/}"
        + macros_of_results
        + r"\begin{document}\section{\val{vae-z20}{nothing}}\run{gan}{no.png}\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    for line in ("Missing, vae-z20: the value nothing", "Missing, gan: the figure no.png", "not published"):
        assert line in done.stdout


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
    for part in ("report", "code", "datasets"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("build", "__pycache__"))
    child = Child(folder, [str(folder / "report" / "macros.py")], folder, dict(os.environ))
    _, err = child.communicate()
    assert child.returncode == 0, err
    command = re.search(r"TEXINPUTS=build: (latexmk .*?report\.tex)", (ROOT / "Makefile").read_text()).group(1)
    environment = {**os.environ, "TEXINPUTS": "build:", "max_print_line": "1000"}  # as in Makefile
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


def test_gains_are_those_over_the_plain_variant_on_the_same_images():
    result = lambda value, images=1000: {
        "data": "bmnist", "final": {"eval_images": images, "eval_samples": 500, "test_log_likelihood": value}
    }  # fmt: skip
    plain, better, other = result(-91.5), result(-86.25), result(-80.0, images=10000)
    variants = {"family-plain": plain, "family-prior": better, "family-best": other, "autoencoder": result(None)}
    found = dict(re.findall(r"val/([\w-]+)/gain\\endcsname\{(.*)\}", "\n".join(macros.gains(variants))))
    assert found == {"family-plain": "0.000", "family-prior": "5.25"}
    assert macros.gains({"family-prior": better}) == []


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
    named = re.findall(r"\\fn\{([\w/]+)\.py\}\{([\w.]+)\}|\\at\{([\w/]+)\}\{([\w.]+)\}", answers())
    assert len(named) > 40
    for module, name, module_, name_ in named:
        assert (name or name_) in defined_in(ROOT / "code" / f"{module or module_}.py")


def shown(text):
    """The text without the arguments of \\when whose number is not published yet."""
    lines = "\n".join(macros.macros({path: registry.read_json(path) for path in macros.RESULTS.glob("*.json")}))
    defined = set(re.findall(r"val/([^\\]+)\\endcsname", lines))
    for found in reversed([*re.finditer(r"\\when\{([^}#]+)\}\{([^}#]+)\}\{", text)]):  # inner ones first
        if "/".join(found.groups()) not in defined:
            depth, end = 1, found.end()
            for brace in re.finditer(r"(?<!\\)[{}]", text[found.end() :]):
                depth += 1 if brace.group() == "{" else -1
                if depth == 0:
                    end += brace.end()
                    break
            text = text[: found.start()] + text[end:]
    return text


def test_figures_and_citations_exist():
    for run, figure in re.findall(r"\\run(?:\[[^]]*\])?\{([\w-]+)\}\{([\w.-]+)\}", shown(answers())):
        if (ROOT / "report" / "figures" / run).exists():
            assert (ROOT / "report" / "figures" / run / figure).exists(), (run, figure)
    entries = re.findall(r"^@\w+\{(\w+),", (ROOT / "report" / "references.bib").read_text(), re.M)
    cited = {key for keys in re.findall(r"\\citep(?:\[[^]]*\])?\{([\w,]+)\}", answers()) for key in keys.split(",")}
    assert cited == set(entries)
    assert len(entries) == len(cited)


def test_no_number_with_a_decimal_point_is_typed_into_an_answer():
    """Numbers of ours are macros; those that stay belong to others, to the assignment, or to the method."""
    allowed = {"0.1", "0.2", "0.99", "1.85", "1.96", "4.5"}
    text = answers().split(r"\label{tab:literature}")
    text = text[0] + text[1].split(r"\end{table}", 1)[1]  # that table quotes others
    text = re.sub(r"(?<!\\)%.*|\[[^]]*(?:pt|in|mm|linewidth)[^]]*\]|\{[\d.]+\\linewidth\}|\{[\d.]+in\}", "", text)
    text = re.sub(r"\\(?:question|where|ref|label|hyperref|hspace|setlength)\b(?:\{[^}]*\}|\[[^]]*\])*", "", text)
    text = re.sub(r"Questions? [\d.]+(?: to [\d.]+)?|=[\d.]+(?:pt|cm)|[\d.]+cm", "", text)
    text = re.sub(r"\\fontsize\{[^}]*\}\{[^}]*\}|arraystretch\}\{[^}]*\}", "", text)
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


def test_every_figure_and_table_is_referred_to():
    text = answers()
    labels = set(re.findall(r"\\label\{((?:fig|tab):[\w-]+)\}", text))
    assert len(labels) > 20
    assert labels == set(re.findall(r"\\ref\{((?:fig|tab):[\w-]+)\}", re.sub(r"\\(?:where|behind)\b.*", "", text)))


@with_latex
def test_the_report_is_short(compiled):
    """At most 24 pages, the answers on 14, the appendix on 5, 4 MB."""
    pdf = compiled[0] / "report.pdf"
    pages = {match[1]: int(match[2]) for match in re.finditer(
        r"\\newlabel\{([\w:.-]+)\}\{\{[^}]*\}\{(\d+)\}", (compiled[0] / "report.aux").read_text())}  # fmt: skip
    total = int(re.search(r"Pages: +(\d+)", subprocess.run(["pdfinfo", pdf], capture_output=True, text=True).stdout)[1])
    assert total <= 24
    assert max(pages["q:4.1"], pages["tab:conclusion"]) - pages["q:1.1"] < 14
    assert total - pages["tab:networks"] < 5  # in the first section of the appendix
    assert pdf.stat().st_size < 4e6


@with_latex
def test_the_same_sources_give_the_same_bytes(compiled):
    pdf = compiled[0] / "report.pdf"
    before = pdf.read_bytes()
    command = ["pdflatex", "-interaction=batchmode", "-output-directory=build", "report.tex"]
    environment = {**os.environ, "TEXINPUTS": "build:"}
    subprocess.run(command, cwd=compiled[0].parent, env=environment, capture_output=True, check=True)
    assert pdf.read_bytes() == before
    assert b"CreationDate" not in before


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
