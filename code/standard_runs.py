"""Make the standard runs one after the other, each resumable, then judge them and compile the report.

    python code/standard_runs.py            what `make` calls
    python code/standard_runs.py --quick    what `make quick` calls
    python code/standard_runs.py --beyond   what `make beyond` calls: the models that the assignment does not ask for

What data there are is found out once, here. A finished run is left alone, an unfinished one goes on where it stopped.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` lies beside this folder
import experiment
from datasets import load
from experiment import ROOT

# run, script, are its data binary (or what it is fitted to, if not to images), options, options of the shorter schedule
# on glyphs, expected seconds (only their ratios matter)
RUNS = [
    ("vae-z20", "a3_vae_template.py", True, [], ["--epochs", "20"], 100),
    ("vae-z2", "a3_vae_template.py", True, ["--zdim", "2"], ["--epochs", "20"], 100),
    ("gan", "a3_gan_template.py", False, [], ["--n_epochs", "12"], 560),
    ("nf", "a3_nf_template.py", False, [], ["--epochs", "8"], 400),
    ("nf-multiscale", "a3_nf_template.py", False, ["--arch", "multiscale"], ["--epochs", "1"], 500),
]
ARM, FAMILY = "beyond/autoregressive.py", "beyond/vae_family.py"
BEYOND = [
    ("pixelcnn", ARM, True, [], ["--epochs", "1"], 1400),
    ("markov", ARM, True, ["--model", "markov"], ["--epochs", "1"], 120),
    ("rnn", ARM, True, ["--model", "rnn"], ["--epochs", "1"], 800),
    ("conv1d", ARM, True, ["--model", "conv1d"], ["--epochs", "1"], 800),
    ("pixelcnn-grey", ARM, False, ["--likelihood", "logistic-mixture"], ["--epochs", "1"], 1400),
]
for name, words, epochs, weight in (
    ("plain", "", 4, 100),
    ("beta4", "--beta 4", 4, 100),
    ("beta0", "--beta 0", 4, 100),
    ("warmup20", "--warmup 20", 4, 100),
    ("free0.2", "--free_bits 0.2", 4, 100),
    ("iwae5", "--samples 5", 4, 300),
    ("planar", "--posterior planar", 4, 200),
    ("householder", "--posterior householder", 4, 200),
    ("sylvester", "--posterior sylvester", 4, 450),
    ("iaf", "--posterior iaf", 4, 300),
    ("coupling", "--posterior coupling", 4, 700),
    ("prior", "--prior coupling", 4, 150),
    ("best", "--prior coupling --zdim 40 --epochs 100 --eval-samples 5000 --eval-images 10000", 4, 2000),
    ("pixelcnn", "--decoder pixelcnn --epochs 4", 1, 700),
    ("pixelcnn-warmup2", "--decoder pixelcnn --epochs 4 --warmup 2", 1, 700),
    ("pixelcnn-free0.2", "--decoder pixelcnn --epochs 4 --free_bits 0.2", 1, 700),
    ("gaussian", "--decoder gaussian", 4, 100),
    ("learned-gaussian", "--decoder learned-gaussian", 4, 100),
):
    shorter = ["--epochs", str(epochs), *(["--warmup", str(epochs // 2)] if "warmup" in name else [])]
    BEYOND.append((f"family-{name}", FAMILY, "gaussian" not in name, words.split(), shorter, weight))
for target in ("moons", "rings", "checkerboard", "letters"):
    BEYOND.append((f"flow-{target}", "beyond/flow_2d.py", target, ["--target", target], [], 60))


def epochs_done(folder, total):
    """The share of a run that its metrics.csv shows."""
    try:
        return min(1.0, (len((folder / "metrics.csv").read_text().splitlines()) - 2) / total)
    except (OSError, ZeroDivisionError):
        return 0.0


def planned_epochs(folder):
    try:
        settings = experiment.json.loads((folder / "settings.json").read_text())["settings"]
        return settings.get("epochs") or settings.get("n_epochs") or 1
    except (OSError, ValueError, KeyError):
        return 10**9


def train(command, folder, log, advance):
    """Run one script, its output into a log; `advance` is told its share of done epochs."""
    with open(log, "a") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            while child.poll() is None:
                time.sleep(0.5)
                advance(epochs_done(folder, planned_epochs(folder)))
        except BaseException:  # Ctrl-C or SIGTERM: the script saves and goes first
            child.send_signal(signal.SIGINT)
            child.wait()
            raise
    return child.returncode


def main():
    names, runs = {}, BEYOND if ARGS.beyond else RUNS
    for kind in sorted({binary for _, _, binary, *_ in runs if isinstance(binary, bool)}):
        names[kind], _, _, source = load("auto", binary=kind)
        print(f"Data:   {names[kind]}, {source}")
    total = sum(seconds for *_, seconds in runs)
    started, skipped, done = time.monotonic(), 0.0, 0.0
    bar = tqdm(
        total=1.0, disable=not sys.stderr.isatty(), leave=False, dynamic_ncols=True,
        bar_format="{desc}{percentage:3.0f} % |{bar}|{postfix}",
    )  # fmt: skip

    def show(run, share):
        bar.set_description(run, refresh=False)
        bar.n = share / total
        gone, worked = time.monotonic() - started, share - skipped
        left = (
            f"{gone * (total - share) / worked / 60:.0f} min to go"
            if worked > 0.02 * total
            else "time left: soon known"
        )
        bar.set_postfix_str(left)

    for run, script, binary, options, shorter, weight in runs:
        data = names.get(binary, binary)
        folder = ROOT / "runs" / ("quick" if ARGS.quick else ".") / data / run
        if (folder / "results.json").exists():
            tqdm.write(f"{run}: finished earlier, left as it is")
            skipped += weight
            done += weight
            continue
        command = [
            sys.executable,
            str(ROOT / "code" / script),
            *(["--data", data] if binary in names else []),
            "--name",
            run,
            "--resume",
            "--extra",
            *options,
        ]
        if ARGS.quick:
            command.append("--quick")
        elif data.startswith("glyphs"):
            command += shorter
        folder.mkdir(parents=True, exist_ok=True)
        log, begun, before = folder / "log.txt", time.monotonic(), done
        show(run, done)
        status = train(command, folder, log, lambda share: show(run, before + weight * share))  # noqa: B023
        if status:
            bar.close()
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise experiment.Trouble(f"{run} stopped: {' '.join(last)} (all of it: {experiment.show(log)})")
        done += weight
        tqdm.write(f"{run}: done in {time.monotonic() - begun:.0f} s, see {experiment.show(folder)}/")
    bar.close()
    flags = ["--quick"] if ARGS.quick else []
    for command in (["code/evaluate.py", *flags], ["report/macros.py", "--user", *flags]):
        if Path(command[0]).exists() and subprocess.run([sys.executable, *command]).returncode:
            raise experiment.Trouble(f"{command[0]} failed: see the lines above")


if __name__ == "__main__":
    parser = experiment.Parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="small settings; the standard runs take under 4 minutes")
    parser.add_argument("--beyond", action="store_true", help="the models that the assignment does not ask for")
    ARGS = parser.parse_args()
    os.chdir(ROOT)
    experiment.start(main)
