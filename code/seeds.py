"""How much do the final figures depend on the seed? Every standard run with three seeds, on real data, and two beyond.

    python code/seeds.py               what `make bench-seeds` calls: hours on 2 cores, resumable
    python code/seeds.py --only gan    one of them; more than one name may follow
    python code/seeds.py --collect     no training: what is finished so far

The standard run itself is the first seed; the others are runs/<data>/<run>-seed43/ and so on. Finished ones are left as
they are, unfinished ones go on. Writes runs/seeds.json: for each run and each final figure the values, their mean and
their spread, the largest less the smallest. A run whose seeds are not all here keeps the line that the file has already
(copy report/results/seeds.json there to add to what is published).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` lies beside this folder

import experiment
import standard_runs
from datasets import load
from experiment import ROOT

SEEDS = (42, 43, 44)
# of the models beyond the assignment, the VAE and the best of its relatives
RUNS = standard_runs.RUNS + [run for run in standard_runs.BEYOND if run[0] in ("family-plain", "family-best")]


def name_of(run, seed):
    return run if seed == SEEDS[0] else f"{run}-seed{seed}"


def data_of(binary):
    return "bmnist" if binary else "mnist"


def read(folder, seed):
    """The results of a finished run, None of an unfinished one; another seed or a quick run is refused."""
    path = folder / "results.json"
    if not path.exists():
        return None
    try:
        results = json.loads(path.read_text())
        alike = results["seed"] == seed and not results["quick"]
    except (OSError, ValueError, KeyError, TypeError):
        raise experiment.UserError(f"{experiment.show(path)} is damaged: delete it") from None
    if not alike:
        raise experiment.UserError(f"{experiment.show(folder)} is no full run with seed {seed}: rename or delete it")
    return results


def summary(results):
    """{figure: {values, mean, spread}} of one run's results with different seeds; what only some have is left out."""
    different = [key for key in results[0]["settings"] if len({str(r["settings"].get(key)) for r in results}) > 1]
    if set(different) - {"seed", "eval_samples"}:
        names = ", ".join(sorted(set(different) - {"seed"}))
        raise experiment.UserError(f"{results[0]['run']}: its seeds were trained with different settings ({names})")
    alike = len({(r["threads"], r["device"]) for r in results}) == 1  # else their seconds do not compare
    finals = [{**r["final"], "seconds": r["seconds"]} for r in results]
    is_number = lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
    keys = [key for key in finals[0] if all(is_number(final.get(key)) for final in finals)]
    keys = [key for key in keys if alike or not key.startswith("seconds")]
    if "eval_samples" in different:  # estimates of log p(x) from different numbers of samples do not compare
        keys = [key for key in keys if key not in ("eval_samples", "test_log_likelihood")]
    lines = {key: [final[key] for final in finals] for key in keys}
    return {
        "seeds": [r["seed"] for r in results], "data": results[0]["data"],
        "runs": [r["run"] for r in results], "commits": [r["commit"] for r in results],
        **{key: {"values": values, "mean": sum(values) / len(values), "spread": max(values) - min(values)}
           for key, values in lines.items()},
    }  # fmt: skip


def train(script, options, seed, folder):
    command = [sys.executable, str(ROOT / "code" / script), "--data", folder.parent.name, "--name", folder.name,
               "--seed", str(seed), "--resume", *options]  # fmt: skip
    if subprocess.run(command).returncode:
        raise experiment.Trouble(f"{folder.name} stopped: see the lines above; run this again to go on")


def earlier(path):
    """What seeds.json says so far."""
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        raise experiment.UserError(f"{experiment.show(path)} is damaged: delete it") from None


def main():
    unknown = set(ARGS.only or ()) - {run for run, *_ in RUNS}
    if unknown:
        raise experiment.UserError(f"no standard run is called {', '.join(sorted(unknown))}: see {Path(__file__).name}")
    if not ARGS.collect:
        for data in ("mnist", "bmnist"):
            load(data)  # stops here, not after hours, where the real data are missing
    path = ROOT / "runs" / "seeds.json"
    before, table = earlier(path), {}
    for run, script, binary, options, *_ in RUNS:
        found = []
        for seed in SEEDS:
            folder = ROOT / "runs" / data_of(binary) / name_of(run, seed)
            results = read(folder, seed)
            if results is None and not ARGS.collect and (not ARGS.only or run in ARGS.only):
                train(script, options, seed, folder)
                results = read(folder, seed)
            found += [results] if results else []
        if len(found) < len(SEEDS):
            kept = "its earlier line stays" if run in before else "left out"
            print(f"{run}: {len(found)} of {len(SEEDS)} seeds finished, {kept}")
            table |= {run: before[run]} if run in before else {}
            continue
        table[run] = summary(found)
        for key, line in table[run].items():
            if isinstance(line, dict):
                print(f"{run:14} {key:24} {line['mean']:12.4f}  spread {line['spread']:.4f}")
    path.parent.mkdir(exist_ok=True)
    experiment.write_atomically(path, json.dumps(table, indent=1).encode())
    print(f"Files:  {experiment.show(path)}")


def parse_args(arguments=None):
    parser = experiment.Parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="RUN", help="train the seeds of these runs alone")
    parser.add_argument("--collect", action="store_true", help="train nothing: write what is finished")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    ARGS = parse_args()
    os.chdir(ROOT)
    experiment.start(main)
