"""The list of all runs, used by training, analyses, evaluation, seeds, tables, publishing, the report and the tests.

To add a run, add one line to RUNS.
"""

import hashlib
import importlib
import json
import shlex
from dataclasses import dataclass

from common.files import runs_folder
from common.run import read_results, settings_of
from datasets.bmnist import BINARY
from datasets.files import UserError, show, write_atomically
from datasets.mnist import GREY

VAE, GAN, FLOW = "a3_vae_template.py", "a3_gan_template.py", "a3_nf_template.py"
AUTOREGRESSIVE, FAMILY, PLANE = "beyond/autoregressive.py", "beyond/vae_family.py", "beyond/flow_2d.py"
GROUPS = {
    "core": "models of the assignment, and the multi-scale flow",
    "long": "longer, shorter and changed runs of these models",
    "autoregressive": "autoregressive models",
    "family": "variants of the VAE",
    "plane": "flows in two dimensions",
}
SEEDS = (42, 43, 44)  # the first one is that of the run itself
DATA = {"binary": BINARY, "grey": GREY}  # kind of data: preferred data first
BOUND, BPD = ("val_elbo", "test_elbo", "test_log_likelihood"), ("val_bpd", "test_bpd", "test_bpd_8")


@dataclass(frozen=True)
class Entry:
    name: str  # of the folder in runs/ and of the files in report/
    title: str  # in figures, tables and text
    script: str  # in code/
    kind: str  # of data: binary or grey; for a flow in the plane, the target
    group: str
    seconds: int  # expected on two cores; only ratios matter
    options: str = ""
    short: str = "--epochs 4"  # options for a shorter run on glyph digits
    publishing: str = ""  # extra options of the published run
    results: tuple = ("test_log_likelihood",)  # metrics in the results table
    compared: bool = False  # included in evaluate.py
    metric: str = ""  # compares seeds, races and ablations; only runs that are trained with three seeds have one
    published: bool = True
    weights: bool = True  # published too, if they are small enough

    @property
    def data(self):
        """Data sets that it can be trained on, preferred data first."""
        return DATA.get(self.kind, [self.kind])

    def name_with(self, seed):
        """The name of the run with this seed."""
        return self.name if seed == SEEDS[0] else f"{self.name}-seed{seed}"

    def command(self, *more, data=None):
        """The arguments of `python`."""
        chosen = ["--data", data] if data and self.kind in DATA else []
        return [f"code/{self.script}", *shlex.split(self.options), *chosen, "--name", self.name, *more]


def variant(name, title, options="", seconds=100, kind="binary", weights=False, **more):
    return Entry(f"family-{name}", f"VAE, {title}", FAMILY, kind, "family", seconds, options, weights=weights, **more)


RUNS = [
    Entry("vae-z20", "VAE, D = 20", VAE, "binary", "core", 100, short="--epochs 20 --eval_samples 20",
          publishing="--eval_samples 5000", results=BOUND, compared=True, metric="val_elbo"),
    Entry("vae-z2", "VAE, D = 2", VAE, "binary", "core", 100, "--zdim 2",
          short="--epochs 20 --eval_samples 20", publishing="--eval_samples 500", results=BOUND[:1], compared=True,
          metric="val_elbo"),
    Entry("gan", "GAN", GAN, "grey", "core", 560, short="--n_epochs 12",
          results=("frechet", "confident_share", "coverage"), compared=True, metric="frechet_val"),
    Entry("nf", "RealNVP", FLOW, "grey", "core", 520, short="--epochs 8",
          results=BPD, compared=True, metric="val_bpd"),
    Entry("nf-multiscale", "Multi-scale flow", FLOW, "grey", "core", 690, "--arch multiscale",
          short="--epochs 1 --eval_images 500", results=BPD, compared=True, metric="val_bpd"),
    Entry("nf-short", "RealNVP, 10 epochs", FLOW, "grey", "long", 160, "--epochs 10",
          results=("first_epoch_below_1_85", "val_bpd")),
    Entry("nf-multiscale-long", "Multi-scale flow, long", FLOW, "grey", "long", 8000,
          "--arch multiscale --mix conv1x1 --hidden 64 --flows 8 --epochs 36",
          results=BPD),
    Entry("gan-conv", "Convolutional GAN", GAN, "grey", "long", 5000, "--arch conv", short="--n_epochs 1",
          results=("frechet", "confident_share", "coverage"), compared=True),
    Entry("gan-no-penalty", "GAN without gradient penalty", GAN, "grey", "long", 560, "--penalty 0",
          short="--n_epochs 1", results=("frechet_val", "frechet", "coverage"), weights=False),
    Entry("pixelcnn-long", "PixelCNN, long", AUTOREGRESSIVE, "binary", "long", 4000,
          "--hidden 48 --epochs 6 --lr 0.003 --dropout 0.05", short="--hidden 32 --epochs 1"),
    Entry("pixelcnn", "PixelCNN", AUTOREGRESSIVE, "binary", "autoregressive", 1300, short="--epochs 1", compared=True),
    Entry("markov", "Two-pixel Markov model", AUTOREGRESSIVE, "binary", "autoregressive", 120, "--model markov",
          short="--epochs 1", compared=True),
    Entry("rnn", "GRU", AUTOREGRESSIVE, "binary", "autoregressive", 800, "--model rnn", short="--epochs 1",
          compared=True),
    Entry("rnn-plain", "GRU without the row above", AUTOREGRESSIVE, "binary", "autoregressive", 800,
          "--model rnn-plain", short="--epochs 1"),
    Entry("conv1d", "1-D convolutions", AUTOREGRESSIVE, "binary", "autoregressive", 800, "--model conv1d",
          short="--epochs 1", compared=True),
    Entry("pixelcnn-grey", "8-bit PixelCNN", AUTOREGRESSIVE, "grey", "autoregressive", 1300,
          "--likelihood softmax256 --epochs 3", short="--epochs 1", results=("test_bpd",), compared=True),
    variant("plain", "plain", weights=True),
    Entry("family-autoencoder", "Autoencoder", FAMILY, "binary", "family", 100, "--autoencoder"),
    variant("grid", "grid encoder, D = 2", "--encoder grid --zdim 2 --batch_size 256 --lr 0.003 --epochs 20", 75),
    variant("beta4", "KL weight 4", "--beta 4", weights=True),
    variant("beta0", "KL weight 0", "--beta 0"),
    variant("free0.2", "free bits, 0.2 nats", "--free_bits 0.2", weights=True),
    variant("iwae5", "importance-weighted, 5 samples", "--samples 5", 300),
    variant("planar", "planar posterior", "--posterior planar", 200),
    variant("householder", "Householder posterior", "--posterior householder", 200),
    variant("sylvester", "Sylvester posterior", "--posterior sylvester", 450),
    variant("iaf", "autoregressive posterior", "--posterior iaf", 300),
    variant("prior", "coupling prior", "--prior coupling", 150),
    variant("conv", "residual networks, 16 channels, coupling prior",
           "--net conv --prior coupling --zdim 40 --lr 0.003 --epochs 80", 3000, short="--epochs 1",
           publishing="--eval_images 10000", results=BOUND, weights=True),
    variant("pixelcnn", "PixelCNN decoder", "--decoder pixelcnn --epochs 4", 700, short="--epochs 1"),
    variant("pixelcnn-warmup2", "PixelCNN decoder, KL warm-up, 2 epochs",
           "--decoder pixelcnn --epochs 4 --warmup 2", 700, short="--epochs 1 --warmup 0"),
    variant("gaussian", "Gaussian decoder, variance 1/2", "--decoder gaussian", kind="grey"),
    variant("learned-gaussian", "Gaussian decoder, learned variance", "--decoder learned-gaussian", kind="grey"),
    *(Entry(f"flow-{target}", f"Flow in the plane, {target}", PLANE, target, "plane", 60, f"--target {target}",
            short="", results=()) for target in ("moons", "rings", "checkerboard", "letters")),
]  # fmt: skip


def select(**wanted):
    """Entries with these values, in the order of the list: select(group="core"), select(compared=True)."""
    return [entry for entry in RUNS if all(getattr(entry, key) == value for key, value in wanted.items())]


def get(name):
    for entry in RUNS:
        if entry.name == name:
            return entry
    raise UserError(f"there is no run {name!r} in code/study/registry.py: python code/study/train.py --list")


def module(script):
    """The module of a script. Every script has load(path); those that draw images also have draw(model, n)."""
    return importlib.import_module(script.removesuffix(".py").replace("/", "."))


def settings(entry, *more):
    """The settings that a run of this entry would have now, with the scripts' current default values."""
    return settings_of(module(entry.script).parse_args(entry.command(*more)[1:]))


def title(name):
    """The title of a run, or its name if it is not in the list."""
    return next((entry.title for entry in RUNS if entry.name == name), name)


def finished(entry, quick=False):
    """(folder, results) of the finished run of this entry, on the preferred data available; None if there is none."""
    runs = runs_folder(quick)
    for data in entry.data:
        if results := read_results(runs / data / entry.name):
            return runs / data / entry.name, results


def results_digest(folder):
    """A digest of results.json: the name of this training in the analyses of the run."""
    return hashlib.sha256((folder / "results.json").read_bytes()).hexdigest()[:16]


def is_analysed(folder):
    """Whether analyses.json belongs to the run in this folder, not to an earlier run of the same name."""
    return read_json(folder / "analyses.json").get("results") == results_digest(folder)


def read_json(path):
    """The dict in a JSON file; {} if there is no file."""
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except (OSError, ValueError, TypeError):
        raise UserError(f"{show(path)} is damaged: delete it") from None


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=1).encode())
