"""Mean and standard deviation of final metrics over three seeds.

    python code/study/train.py --group core --seed 42 43 44 --published    train them: hours, resumable
    python code/study/seeds.py                                             summarise them; `make seeds` does both

The run itself is the first seed; runs/<data>/<run>-seed43/ and -seed44/ are the others, on the preferred data at hand.
runs/seeds.json has the values, mean and standard deviation of each final metric of each run. A run with unfinished
seeds keeps its earlier entry in the file.
"""

import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from common import cli
from common.files import runs_folder
from common.run import EVALUATION, read_results
from datasets.files import UserError, show
from study import registry
from study.registry import SEEDS


def read(folder, seed):
    """The results of a finished run, or None. Refuses quick runs and runs with another seed."""
    results = read_results(folder)
    if results and (results["seed"] != seed or results["quick"]):
        raise UserError(f"{show(folder)} is not a full run with seed {seed}: rename or delete it")
    return results


def different_settings(results):
    """The names of the settings in which the seeds of one run differ. Raises UserError if their training differs."""
    repeat = "rename or delete the folders of the older ones and train again"
    if len({r["code"] for r in results}) > 1:
        raise UserError(f"{results[0]['run']}: its seeds were trained by different versions of the code; {repeat}")
    keys = {key for r in results for key in r["settings"]}
    different = {key for key in keys if len({str(r["settings"].get(key)) for r in results}) > 1}
    if names := different - {"seed"} - EVALUATION:
        names = ", ".join(sorted(names))
        raise UserError(f"{results[0]['run']}: its seeds were trained with different settings ({names}); {repeat}")
    return different


def summary(results):
    """{metric: {values, mean, deviation}} over the seeds of one run, for the numeric metrics that all seeds have.

    `deviation` is the standard deviation. The seeds may differ in how they were evaluated on the test images."""
    different = different_settings(results)
    machines = {tuple(map(r.get, ("processor", "bfloat16", "threads", "processes", "device"))) for r in results}
    alike = len(machines) == 1  # otherwise seconds are not comparable
    finals = [{**r["final"], "seconds": r["seconds"]} for r in results]
    keys = [key for key in finals[0] if alike or not key.startswith("seconds")]
    if "eval_samples" in different:  # estimates of log p(x) from different numbers of samples are not comparable
        keys = [key for key in keys if key != "test_log_likelihood"]
    if "eval_images" in different:
        keys = [key for key in keys if not key.startswith("test_")]
    keys = [key for key in keys if key not in different]
    table = {"seeds": [r["seed"] for r in results], "data": results[0]["data"],
             "runs": [r["run"] for r in results], "commits": [r["commit"] for r in results]}  # fmt: skip
    for key in keys:
        values = [final.get(key) for final in finals]
        if all(type(value) in (int, float) for value in values):
            table[key] = {"values": values, "mean": statistics.mean(values), "deviation": statistics.stdev(values)}
    return table


def main(args):
    path = runs_folder() / "seeds.json"
    before, table = registry.read_json(path), {}
    for entry in registry.RUNS:
        if not entry.metric:
            continue
        for data in entry.data:
            folders = {seed: runs_folder() / data / entry.name_with(seed) for seed in SEEDS}
            found = [results for seed, folder in folders.items() if (results := read(folder, seed))]
            if found:
                break
        if len(found) < len(SEEDS):
            kept = "its earlier entry stays" if entry.name in before else "left out"
            print(f"{entry.name}: {len(found)} of {len(SEEDS)} seeds finished, {kept}")
            table |= {entry.name: before[entry.name]} if entry.name in before else {}
            continue
        table[entry.name] = summary(found)
        for key, line in table[entry.name].items():
            if isinstance(line, dict):
                print(f"{entry.name:14} {key:24} {line['mean']:12.4f} ± {line['deviation']:.4f}")
    registry.write_json(path, table)
    print(f"Files:  {show(path)}")


def parse_args(words=None):
    return cli.Parser(__doc__, __file__).parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
