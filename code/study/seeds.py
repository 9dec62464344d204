"""How much do final metrics depend on the seed? Mean and spread over three seeds.

    python code/study/train.py --seeds    train them: hours on 2 cores, resumable
    python code/study/seeds.py            summarise what is finished; `make seeds` does both

The run itself is the first seed; the others are runs/<data>/<run>-seed43/ and so on. Writes runs/seeds.json: for each
run and each final metric the values, their mean and their spread, the largest less the smallest. A run whose seeds are
not all finished keeps its entry in the file (copy report/results/seeds.json there to add to what is published).
"""

import json
import sys
from pathlib import Path

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from common import cli
from common.run import read_results
from datasets.files import ROOT, UserError, show, write_atomically
from study import registry
from study.train import SEEDS, name_of


def read(folder, seed):
    """The results of a finished run, None of an unfinished one; another seed or a quick run is refused."""
    results = read_results(folder)
    if results and (results["seed"] != seed or results["quick"]):
        raise UserError(f"{show(folder)} is not a full run with seed {seed}: rename or delete it")
    return results


def summary(results):
    """{metric: {values, mean, spread}} of one run's results with different seeds; only metrics that all have."""
    different = {key for key in results[0]["settings"] if len({str(r["settings"].get(key)) for r in results}) > 1}
    if different - {"seed", "eval_samples"}:
        names = ", ".join(sorted(different - {"seed"}))
        raise UserError(f"{results[0]['run']}: its seeds were trained with different settings ({names})")
    alike = len({(r["threads"], r["device"]) for r in results}) == 1  # otherwise their seconds do not compare
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


def earlier(path):
    """What seeds.json says so far."""
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        raise UserError(f"{show(path)} is damaged: delete it") from None


def main(args):
    path = ROOT / "runs" / "seeds.json"
    before, table = earlier(path), {}
    for entry in registry.RUNS:
        if not entry.seeds:
            continue
        folders = {seed: ROOT / "runs" / entry.data[0] / name_of(entry, seed) for seed in SEEDS}
        found = [results for seed, folder in folders.items() if (results := read(folder, seed))]
        if len(found) < len(SEEDS):
            kept = "its earlier entry stays" if entry.name in before else "left out"
            print(f"{entry.name}: {len(found)} of {len(SEEDS)} seeds finished, {kept}")
            table |= {entry.name: before[entry.name]} if entry.name in before else {}
            continue
        table[entry.name] = summary(found)
        for key, line in table[entry.name].items():
            if isinstance(line, dict):
                print(f"{entry.name:14} {key:24} {line['mean']:12.4f}  spread {line['spread']:.4f}")
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(table, indent=1).encode())
    print(f"Files:  {show(path)}")


def parse_args(words=None):
    return cli.Parser(__doc__, __file__).parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
