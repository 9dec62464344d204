"""Numbers of the report as LaTeX macros, from the results files: \\val{vae-z20}{test_elbo}.

python report/macros.py           from report/results, for `make report`
python report/macros.py --user    from your own runs, compiled to runs/report.pdf (`make` calls it; --quick: quick runs)

A results file gives \\val{run}{key} for its own keys and those of `final`, \\val{run}{settings/key}, the ends of its
curves as \\val{run}{first/key} and \\val{run}{last/key}, and \\val{run}{data_title}. Other files give what they hold
under their own name: \\val{comparison}{gan/parameters}, \\val{vae-z20-extra}{prior_10}.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))
import tables

ROOT = Path(__file__).resolve().parents[1]
REAL = ("mnist", "bmnist")
# `make` does not make these
ONLY_PUBLISHED = ("seeds", "bench", "growth", "nf-short", "nf-multiscale-long", "pixelcnn-long")
SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": "/"}


def kl(mu, variance):
    """KL(N(mu, variance) || N(0, 1)) in nats: the formula of Question 1.5."""
    return 0.5 * (variance + mu**2 - 1 - math.log(variance))


# small computations that answers quote
FORMULAS = {
    "kl_same": 0,  # kl(0, 1)
    "kl_near": kl(0.1, 1),
    "kl_far": kl(10, 1),
    "kl_narrow": kl(0, 1e-6),
    "coin_flips": -784 * math.log(2),
    "log_2": math.log(2),
    "two_log_2": 2 * math.log(2),
    "minus_log_4": -math.log(4),
    "dense_determinant": f"{784**3 / 1e8:.1f}",  # times 10^8 multiplications
    "region_2": 0.1**2,
    "bits_of_levels": 8,
    "mixture": 10,  # logistics a pixel, beyond/autoregressive.py
    "vae_weight_decay": "0.02",  # a3_vae_template.py has no option for it
}


def text(value, key=""):
    if isinstance(value, bool) or value is None:
        return "not reached"
    if isinstance(value, (int, float)) and value < 0:
        return r"\ensuremath{-}" + text(-value, key)
    if isinstance(value, float) and value and value < 0.01:
        digits, power = f"{value:.1e}".split("e")
        plain = f"{value:.4f}".rstrip("0")
        if abs(float(plain) - value) < 0.02 * value:
            return plain
        factor = "" if digits == "1.0" else rf"{digits}\cdot "
        return rf"\ensuremath{{{factor}10^{{{int(power)}}}}}"
    if key == "integral":  # of a density: how near to 1?
        return f"{value:.5f}"
    if isinstance(value, float):
        whole = value >= 1000 or key in ("seconds", "seconds_to_1_85", "training_seconds", "norm_ratio")
        value = round(value) if whole else f"{value:.3f}" if value < 1 else f"{value:.2f}"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "{,}")
    return "".join(SPECIAL.get(c, c) for c in value)


def define(name, key, value):
    """The lines that define one number, or those of a dict of them."""
    if isinstance(value, dict):
        return [line for inner, v in value.items() for line in define(name, f"{key}/{inner}" if key else inner, v)]
    if isinstance(value, list):
        return []
    if key.startswith("settings/") and isinstance(value, float) and not 0 < value < 0.01:
        value = f"{value:g}"  # chosen, not measured: 0.02, not 0.020
    return [rf"\expandafter\def\csname val/{name}/{key}\endcsname{{{text(value, key.split('/')[-1])}}}"]


def macros(files):
    """One definition for each figure of each run, and for whatever other results files hold."""
    lines = []
    for path in files:
        result = json.loads(path.read_text())
        if "final" not in result:  # extra.json lies in its run's folder
            lines += define(f"{path.parent.name}-extra" if path.name == "extra.json" else path.stem, "", result)
            continue
        name = result["run"]
        numbers = {key: value for key, value in result.items() if key not in ("curves", "final")}
        for key, curve in result.get("curves", {}).items():
            known = [value for value in curve if value is not None]
            if known:
                numbers |= {f"first/{key}": known[0], f"last/{key}": known[-1]}
        if "data" in result:
            numbers["data_title"] = (tables.DATA | tables.PLANE)[result["data"]]
        if "epochs" in result:
            numbers["half"] = result["epochs"] // 2
        final = dict(result["final"])
        if "test_elbo" in final:
            final["gap"] = final["test_log_likelihood"] - final["test_elbo"]
        lines += define(name, "", {**numbers, **final})
    return lines


def write_tables(folder, comparison, seeds, members):
    """\\input{table-quality} and the like in the report; empty while nothing has been compared."""
    contents = {"quality": "", "likelihood": "", "families": "", "note": "", "members": ""}
    if members:
        contents["members"] = tables.latex(*tables.members(members))
    if comparison:
        contents |= {
            "quality": tables.latex(*tables.quality(comparison)),
            "likelihood": tables.latex(*tables.likelihood(comparison)),
            "families": tables.latex(*tables.family_rows(tables.families(comparison, seeds))),
            "note": tables.note(comparison).replace("%", r"\%"),
        }
    for name, content in contents.items():
        (folder / f"table-{name}.tex").write_text(content + "\n")


def top(quick):
    return ROOT / "runs" / ("quick" if quick else "")


def published():
    return macros(sorted((ROOT / "report" / "results").glob("*.json"))), "figures/", None


def of_the_user(quick):
    """(macros, where the figures are, banner) of the runs in runs/, on real data where there are such."""
    lines, links, banner = [], ROOT / "runs" / "report-figures", None
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir(parents=True)
    names = [*tables.TITLES, *tables.MEMBERS, *(f"flow-{target}" for target in tables.PLANE)]
    for name in (name for name in names if name not in ONLY_PUBLISHED):
        for data in (*tables.DATA, *tables.PLANE):  # the real ones first
            folder = top(quick) / data / name
            if (folder / "results.json").exists():
                lines += macros([p for p in (folder / "results.json", folder / "extra.json") if p.exists()])
                shutil.copytree(folder / "figures", links / name)
                if data not in (*REAL, *tables.PLANE):
                    banner = f"These runs used {tables.DATA[data]}: no figure here says anything about MNIST."
                break
    if (top(quick) / "comparison" / "comparison.json").exists():
        lines += macros([top(quick) / "comparison" / "comparison.json"])
        shutil.copytree(top(quick) / "comparison" / "figures", links / "comparison")
    published = [ROOT / "report" / "results" / f"{name}.json" for name in ONLY_PUBLISHED]
    lines += macros([path for path in published if path.exists()])
    for name in ONLY_PUBLISHED:
        if (ROOT / "report" / "figures" / name).exists():
            shutil.copytree(ROOT / "report" / "figures" / name, links / name)
    return lines, "../runs/report-figures/", banner


def member_files(user, quick):
    """(run, its results file) of each of the VAE's relatives."""
    for run in tables.MEMBERS:
        if user:
            # the real ones last: of two files the later one is taken
            yield from ((run, top(quick) / data / run / "results.json") for data in reversed(tables.DATA))
        else:
            yield run, ROOT / "report" / "results" / f"{run}.json"


def load(path):
    return json.loads(path.read_text()) if path.exists() else {}


def main():
    user, quick = "--user" in sys.argv, "--quick" in sys.argv
    build = ROOT / ("runs/report-build" if user else "report/build")
    build.mkdir(parents=True, exist_ok=True)
    lines, figures, banner = of_the_user(quick) if user else published()
    if banner is None and quick:
        banner = "These are quick runs on small settings."
    lines += define("formula", "", FORMULAS)
    lines.append(rf"\def\figures{{{figures}}}")
    lines.append(rf"\def\banner{{{banner or ''}}}")
    lines.append(rf"\def\missing{{{'not reached' if user else ''}}}")
    published_results = ROOT / "report" / "results"
    mine = top(quick) / "comparison" if user else published_results
    members = {run: load(path) for run, path in member_files(user, quick) if path.exists()}
    plain = members.get("family-plain")
    for run, result in members.items() if plain else ():
        on = lambda result: (result["data"], result["final"]["eval_images"], result["final"]["eval_samples"])
        if on(result) == on(plain):  # else the two do not compare
            gain = result["final"]["test_log_likelihood"] - plain["final"]["test_log_likelihood"]
            lines += define(run, "gain", gain)
    # latexmk compiles again when this file changes, so a layout that has come or gone is told here
    lines.append(f"% nips_2018.sty: {(ROOT / 'report' / 'nips_2018.sty').exists()}")
    (build / "macros.tex").write_text("\n".join(lines) + "\n")
    write_tables(build, load(mine / "comparison.json"), load(published_results / "seeds.json"), members)
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
