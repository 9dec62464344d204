"""Numbers of the report as LaTeX macros, from the results files: \\val{vae-z20}{test_elbo}.

python report/macros.py           from report/results, for `make report`
python report/macros.py --user    from your own runs, compiled to runs/report.pdf (`make` calls it; --quick: quick runs)
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))
import tables

ROOT = Path(__file__).resolve().parents[1]
REAL = {"mnist": "MNIST", "bmnist": "static binary MNIST"}
OTHERS = {
    "mnist-binarised": "MNIST binarised by us",
    "glyphs": "glyph digits drawn from fonts",
    "glyphs-binary": "binary glyph digits drawn from fonts",
}


def text(value):
    if isinstance(value, bool) or value is None:
        return "not reached"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "{,}")
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value).replace("_", r"\_")


def macros(files):
    """One definition for each figure of each run."""
    lines = []
    for path in files:
        result = json.loads(path.read_text())
        if "run" not in result:  # comparison, seeds, bench: \\val{comparison}{gan/quality/samples/frechet}
            lines += [definition(path.stem, key, value) for key, value in leaves(result)]
            continue
        name = result["run"]
        simple = {key: value for key, value in result.items() if isinstance(value, (int, float, str))}
        for key, value in {**simple, **result["final"]}.items():
            if not isinstance(value, list):
                lines.append(definition(name, key, value))
    return lines


def definition(name, key, value):
    return rf"\expandafter\def\csname val/{name}/{key}\endcsname{{{text(value)}}}"


def leaves(content, prefix=""):
    """(path, value) of every figure of a nested file; lists are left out."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}/")
        elif not isinstance(value, list):
            yield f"{prefix}{key}", value


def write_tables(folder, comparison, seeds):
    """\\input{table-quality} and the like in the report; empty while nothing has been compared."""
    contents = {"quality": "", "likelihood": "", "cost": "", "families": "", "note": ""}
    if comparison:
        contents = {
            "quality": tables.latex(*tables.quality(comparison)),
            "likelihood": tables.latex(*tables.likelihood(comparison)),
            "cost": tables.latex(*tables.cost(comparison)),
            "families": tables.latex(*tables.family_rows(tables.families(comparison, seeds))),
            "note": tables.note(comparison).replace("%", r"\%"),
        }
    for name, content in contents.items():
        (folder / f"table-{name}.tex").write_text(content + "\n")


def published():
    return macros(sorted((ROOT / "report" / "results").glob("*.json"))), "figures/", None


def of_the_user(quick):
    """(macros, where the figures are, banner) of the runs in runs/, on real data where there are such."""
    top = ROOT / "runs" / ("quick" if quick else "")
    lines, links, banner = [], ROOT / "runs" / "report-figures", None
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir(parents=True)
    for name in tables.TITLES:
        for data in (*REAL, *OTHERS):
            folder = top / data / name
            if (folder / "results.json").exists():
                lines += macros([folder / "results.json"])
                shutil.copytree(folder / "figures", links / name)
                if data in OTHERS:
                    banner = f"These runs used {OTHERS[data]}: no figure here says anything about MNIST."
                break
    if (top / "comparison" / "comparison.json").exists():
        lines += macros([top / "comparison" / "comparison.json"])
        shutil.copytree(top / "comparison" / "figures", links / "comparison")
    return lines, "../runs/report-figures/", banner


def load(path):
    return json.loads(path.read_text()) if path.exists() else {}


def main():
    user, quick = "--user" in sys.argv, "--quick" in sys.argv
    build = ROOT / ("runs/report-build" if user else "report/build")
    build.mkdir(parents=True, exist_ok=True)
    lines, figures, banner = of_the_user(quick) if user else published()
    if banner is None and quick:
        banner = "These are quick runs on small settings."
    lines.append(rf"\def\figures{{{figures}}}")
    lines.append(rf"\def\banner{{{banner or ''}}}")
    lines.append(rf"\def\missing{{{'not reached' if user else ''}}}")
    (build / "macros.tex").write_text("\n".join(lines) + "\n")
    published_results = ROOT / "report" / "results"
    mine = ROOT / "runs" / ("quick" if quick else "") / "comparison" if user else published_results
    write_tables(build, load(mine / "comparison.json"), load(published_results / "seeds.json"))
    if user:
        if not shutil.which("latexmk"):
            print("runs/report.pdf: not compiled, LaTeX is missing")
            return
        call = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", f"-outdir={build}", "report.tex"]
        environment = {**os.environ, "TEXINPUTS": f"{build}:"}
        done = subprocess.run(call, cwd=ROOT / "report", capture_output=True, text=True, env=environment)
        if done.returncode:
            print(done.stdout[-1500:])
            sys.exit("runs/report.pdf could not be compiled: see above")
        shutil.copyfile(build / "report.pdf", ROOT / "runs" / "report.pdf")
        print("Your report: runs/report.pdf")


if __name__ == "__main__":
    main()
