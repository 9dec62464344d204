"""Write the numbers of the results files as LaTeX macros for the report: \\val{vae-z20}{test_elbo}.

    python report/macros.py           from report/results, for `make report`
    python report/macros.py --user    from your own runs; also compiles runs/report.pdf
    python report/macros.py --user --quick    from quick runs; compiles runs/quick/report.pdf

The results file of a run defines \\val{run}{key} for its keys and for those in `final`, \\val{run}{settings/key}, the
first, second and last value of its curves as \\val{run}{first/key}, {second/key} and {last/key}, and
\\val{run}{data_title}. `macros` and `gains` compute further ones, for example \\val{nf}{couplings}. Other files define
macros under their own name: \\val{comparison}{gan/parameters}, \\val{vae-z20-analyses}{prior_10}. Values of several
seeds also define \\val{seeds}{nf/val_bpd/pm}, their mean and standard deviation.
"""

import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("code", ".")]
from common import cli, quality
from common.files import runs_folder
from datasets.files import ROOT, Trouble, show
from study import publish, registry, tables

RESULTS = ROOT / "report" / "results"
WHOLE = {
    "seconds",
    "seconds_to_1_85",
    "seconds_to_target",
    "training_seconds",
    "samples_per_second",
}  # shown without decimals
SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": "/"}


def kl(mu, variance):
    """KL(N(mu, variance) || N(0, 1)) in nats: the formula of Question 1.5."""
    return 0.5 * (variance + mu**2 - 1 - math.log(variance))


# small calculations that the answers quote
FORMULAS = {
    "kl_same": 0, "kl_near": kl(0.1, 1), "kl_far": kl(10, 1), "kl_narrow": kl(0, 1e-6),
    "coin_flips": -784 * math.log(2), "log_2": math.log(2), "two_log_2": 2 * math.log(2), "minus_log_4": -math.log(4),
    "root_of_20": 20**0.5,
    "dense_determinant": f"{784**3 / 1e8:.1f}",  # in 10^8 multiplications
    "bits_of_levels": 8,
    "vae_encoder_decay": "0.3", "vae_beta2": "0.99",  # constants in a3_vae_template.py
    "code_length": "2.5", "gan_beta2": "0.999",  # constants in a3_gan_template.py
    "classifier_epochs": quality.EPOCHS,
    "grid_points": 20**2, "family_decay": "0.02",  # of GridEncoder, of the optimiser in beyond/vae_family.py
}  # fmt: skip


def text(value, key=""):
    """A number or text as LaTeX."""
    if value is None:
        return "not reached"
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    if isinstance(value, (int, float)) and value < 0:
        return r"\ensuremath{-}" + text(-value, key)
    if isinstance(value, float) and value and value < 0.01:
        digits, power = f"{value:.1e}".split("e")
        plain = f"{value:.4f}".rstrip("0")
        if abs(float(plain) - value) < 0.02 * value:
            return plain
        factor = "" if digits == "1.0" else rf"{digits}\cdot "
        return rf"\ensuremath{{{factor}10^{{{int(power)}}}}}"
    if key in ("probe", "neighbours"):  # shares
        return rf"{100 * value:.1f}\,\%"
    if key == "integral":  # of a density: close to 1
        return f"{value:.5f}"
    if isinstance(value, float):
        whole = value >= 1000 or key in WHOLE
        value = round(value) if whole else f"{value:.3f}" if value < 1 else f"{value:.2f}"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "{,}")
    return "".join(SPECIAL.get(c, c) for c in value)


def define(name, key, value):
    """The definitions of one number, or of all numbers in a dict."""
    if isinstance(value, dict):
        lines = [line for inner, v in value.items() for line in define(name, f"{key}/{inner}" if key else inner, v)]
        if len(value.get("values", ())) > 1:
            lines.append(definition(name, f"{key}/pm", plus_minus(value["values"], key)))
        return lines
    if isinstance(value, (list, bool)):
        return []
    if key.startswith("settings/") and isinstance(value, float) and not 0 < value < 0.01:
        value = f"{value:g}"  # a setting: 0.02, not 0.020
    return [definition(name, key, text(value, key.split("/")[-1]))]


def definition(name, key, latex):
    return rf"\expandafter\def\csname val/{name}/{key}\endcsname{{{latex}}}"


def plus_minus(values, key):
    """The mean and the standard deviation of several seeds."""
    digits = 0 if "seconds" in key else tables.digits_of(key)
    both = tables.with_deviation(statistics.mean(values), statistics.stdev(values), digits)
    mean, deviation = (x.replace(",", "{,}") for x in both)
    return rf"\ensuremath{{{mean}\pm{deviation}}}"


def name_of(path):
    """The macro name of a file that is not a run's results."""
    return f"{path.parent.name}-analyses" if path.stem == "analyses" else path.stem


def macros(contents):
    """One definition per number in {results file: its content}."""
    lines = []
    for path, result in contents.items():
        if "final" not in result:
            if "prior_share" in result:  # Question 1.4: the share in each of two dimensions, and in 20 such dimensions
                per_dimension = result["prior_share"] ** 0.5
                result = result | {"share_per_dimension": per_dimension, "share_in_20": per_dimension**20}
            lines += define(name_of(path), "", result)
            continue
        numbers = {key: value for key, value in result.items() if key not in ("curves", "final")}
        for key, curve in result.get("curves", {}).items():
            if known := [value for value in curve if value is not None]:
                numbers |= {
                    f"first/{key}": known[0],
                    f"second/{key}": known[min(1, len(known) - 1)],
                    f"last/{key}": known[-1],
                }
        if "data" in result:
            numbers["data_title"] = tables.TITLES.get(result["data"], result["data"])
        bpd = [1e9 if value is None else value for value in result.get("curves", {}).get("val_bpd", ())]
        if bpd and bpd[-1] < 1.85:  # Question 3.8: from this epoch on, all values are below 1.85
            numbers["always_below_1_85"] = 1 + max((i for i, value in enumerate(bpd) if value >= 1.85), default=-1)
        if "epochs" in result:
            numbers["half"] = result["epochs"] // 2
        if "last/val_kl" in numbers:  # Question 1.4: q(z|x) covers about exp(-KL) of the prior
            power = round(numbers["last/val_kl"] / math.log(10))
            lines.append(definition(result["run"], "draws_for_a_hit", rf"\ensuremath{{10^{{{power}}}}}"))
        if "flows" in result.get("settings", {}):
            numbers["couplings"] = 2 * result["settings"]["flows"]
        lines += define(result["run"], "", {**numbers, **result["final"]})
    return lines


def quality_table(comparison):
    """Sample quality without the density, in blocks; the data stand beside the name of a block's first row."""
    header, rows = tables.quality(comparison)
    keep = [i for i, column in enumerate(header) if column not in ("data", "density")]
    shown = [[f"{row[0]}, {row[1]}" if row[1] else row[0], *(row[i] for i in keep[1:])] for row in rows]
    lines = tables.latex([header[i] for i in keep], shown).split("\n")
    for i, row in enumerate(rows, start=4):  # after \\begin, \\toprule, header and \\midrule
        if i > 4 and row[1]:
            lines[i] = "\\midrule\n" + lines[i]
    return "\n".join(lines)


def variants_table(variants):
    _, rows = tables.variants(variants)
    header = ["", "epochs", "bound", "rec.", "KL", "active", "log p(x)", "seconds"]
    shown = [[row[0].removeprefix("VAE, "), *row[1:7], row[-1]] for row in rows]
    return wrapped(tables.latex(header, shown), 2.1)


def autoregressive_table(results):
    header, rows = tables.autoregressive(results)
    return tables.latex(["", *header[1:5], "samples/s", header[6]], rows)


def codes_table(models):
    return wrapped(tables.latex(["code", "D", "linear", "5-NN"], tables.codes(models)[1]), 1.3)


def wrapped(table, inches):
    """The LaTeX table with a first column of this width, in which long entries take several lines."""
    column = rf">{{\\raggedright\\arraybackslash\\hangindent=1em}}p{{{inches}in}}"
    return re.sub(r"(\\begin{tabular}{(?:@{})?)l", rf"\1{column}", table)


def ablation_table(others, models, inches):
    """One table with a block for each model: change, mean and standard deviation."""
    blocks = []
    for model in models:
        if not (found := others.get(f"{model}-ablation")):
            blocks.append(rf"\lacks{{{model}-ablation: the table}} & & \\")
            continue
        name = {"vae": "VAE, $D=20$", "vae-z2": "VAE, $D=2$", "gan": "GAN", "nf": "Flows"}[model]
        key = found["metric"]
        lines = [rf"\emph{{{name}}}, {found['seconds']:.0f} s & Ep. & {tables.UNITS[key].capitalize()} \\ \midrule"]
        for row in found["rows"]:
            values = row["value"]
            one = publish.rounded(values[0], key)
            shown = plus_minus(values, key) if len(values) > 1 else rf"\ensuremath{{{one}}}"
            change = text(row["change"]).replace(r"beta\_2", r"$\beta_2$")
            epochs = "--" if None in row["epochs"] else f"{statistics.mean(row['epochs']):.0f}"
            lines.append(rf"{change} & {epochs} & {shown} \\")
        blocks.append("\n".join(lines))
    body = "\n\\midrule\n".join(blocks)
    return wrapped("\\begin{tabular}{@{}lrr@{}}\n\\toprule\n" + body + "\n\\bottomrule\n\\end{tabular}", inches)


def write_tables(folder, others, variants, autoregressive):
    """Write the tables that the report includes. A missing one is listed like a missing number."""
    comparison, codes = others.get("comparison"), others.get("codes")
    contents = {
        "quality": quality_table(comparison) if comparison else r"\lacks{comparison: the table}",
        "variants": variants_table(variants) if variants else r"\lacks{family: the table}",
        "autoregressive": autoregressive_table(autoregressive),
        "codes": codes_table(codes["models"]) if codes else r"\lacks{codes: the table}",
        "ablation": ablation_table(others, ("vae", "vae-z2"), 1.8),
        "ablation-right": ablation_table(others, ("gan", "nf"), 1.25),
    }
    for name, content in contents.items():
        (folder / f"table-{name}.tex").write_text(content + "\n", "utf-8")


def own_runs(quick):
    """(results files, figures folder, banner) of the user's runs, on the preferred data available."""
    files, other_data = [], []
    runs, copies = runs_folder(quick), runs_folder(quick) / "report-figures"
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir(parents=True)
    for entry in registry.RUNS:
        if run := registry.finished(entry, quick):
            folder, results = run
            files += [path for path in (folder / "results.json", folder / "analyses.json") if path.exists()]
            shutil.copytree(folder / "figures", copies / entry.name)
            if results["data"] != entry.data[0]:
                other_data.append(tables.TITLES[results["data"]])
    for file, figures, target in publish.MEASURED.values():
        if (runs / file).exists():
            files.append(runs / file)
            if figures and (runs / figures).exists():
                publish.copy_figures(runs / figures, copies / target)
    banner = "Quick runs with small settings. " if quick else ""
    if other_data:
        banner += f"Data: {' and '.join(dict.fromkeys(other_data))}. The numbers are not comparable with MNIST."
    return files, f"{os.path.relpath(copies, ROOT / 'report')}/", banner


def gains(variants):
    """The difference in test log p(x) to the plain VAE, for variants evaluated on the same images."""
    lines, plain = [], variants.get("family-plain")
    conditions = lambda result: (result["data"], result["final"]["eval_images"], result["final"]["eval_samples"])
    for run, result in variants.items() if plain else ():
        known = result["final"]["test_log_likelihood"] is not None  # an autoencoder has no likelihood
        if known and conditions(result) == conditions(plain):
            gain = result["final"]["test_log_likelihood"] - plain["final"]["test_log_likelihood"]
            lines += define(run, "gain", gain)
    return lines


def compile_own(build):
    """Compile the report with the user's numbers to report.pdf in the folder of the runs."""
    pdf = build.parent / "report.pdf"
    if not shutil.which("latexmk"):
        return print(f"{show(pdf)}: not compiled, LaTeX is missing")
    call = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", f"-outdir={build}", "report.tex"]
    environment = {**os.environ, "TEXINPUTS": f"{build}:"}
    done = subprocess.run(call, cwd=ROOT / "report", capture_output=True, text=True, env=environment, errors="replace")
    if done.returncode:
        print(done.stdout[-1500:])
        raise Trouble(f"{show(pdf)} could not be compiled, see above")
    shutil.copyfile(build / "report.pdf", pdf)
    print(f"Your report: {show(pdf)}")


def main(args):
    build = runs_folder(args.quick) / "report-build" if args.user else ROOT / "report" / "build"
    build.mkdir(parents=True, exist_ok=True)
    files, figures, banner = own_runs(args.quick) if args.user else (sorted(RESULTS.glob("*.json")), "figures/", "")
    contents = {path: registry.read_json(path) for path in files}
    named = {content["run"]: content for content in contents.values() if "final" in content}
    others = {name_of(path): content for path, content in contents.items() if "final" not in content}
    variants = {entry.name: named[entry.name] for entry in registry.select(group="family") if entry.name in named}
    selected = registry.select(script=registry.AUTOREGRESSIVE)
    autoregressive = {entry.name: named[entry.name] for entry in selected if entry.name in named}
    lines = [*macros(contents), *define("formula", "", FORMULAS), *gains(variants)]
    lines.append(rf"\def\figures{{{figures}}}")
    lines.append(rf"\def\banner{{{banner}}}")
    lines.append(rf"\def\missing{{{'not run' if args.user else ''}}}")
    # latexmk recompiles when this file changes: this line makes it recompile when the layout file appears
    lines.append(f"% nips_2018.sty: {(ROOT / 'report' / 'nips_2018.sty').exists()}")
    (build / "macros.tex").write_text("\n".join(lines) + "\n", "utf-8")
    write_tables(build, others, variants, autoregressive)
    if args.user:
        compile_own(build)


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("--user", action="store_true", help="use your own runs and compile the report")
    parser.add_argument("--quick", action="store_true", help="with --user: use quick runs")
    args = parser.parse_args(words)
    if args.quick and not args.user:
        parser.error("--quick needs --user")
    return args


if __name__ == "__main__":
    cli.start(main, parse_args)
