"""Judge the finished runs side by side: images, likelihood, size, time.

    python code/evaluate.py                 every finished standard run, real data first; `make` calls it at its end
    python code/evaluate.py --quick         the same for quick runs
    python code/evaluate.py --only nf gan   these runs; what comparison.json says of others stays

Reads runs/<data>/<run>/ and writes runs/comparison/: comparison.json (one entry a run), tables as Markdown and LaTeX,
and figures/ with samples and interpolations, one row a model; models that the assignment does not ask for have a
figure of their own. Test images are the reference here: the models were
chosen before, by validation images, and nothing is chosen by what stands here.

Samples are compared with real images of their own kind, in the features of a classifier of that kind, beside the same
figures for training images (the floor). A VAE of binary images has two kinds: its draws are binary, so they meet binary
test images and a classifier of binarised digits with known labels (the published binarisation carries none); its
means estimate the grey values that the binary images were drawn from, so they meet the grey test images.

At full size the classifiers are trained once and kept.
"""

import copy
import functools
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `datasets` lies beside this folder
import a3_gan_template as gan
import a3_nf_template as nf
import a3_vae_template as vae
from beyond import autoregressive

import experiment
import figures
import quality
import tables
from datasets import BINARY, GREY
from datasets.bmnist import bmnist
from datasets.download import DataError
from datasets.mnist import mnist

GREY_OF = {"bmnist": "mnist", "mnist-binarised": "mnist", "glyphs-binary": "glyphs"}
LABELLED = {"bmnist": "mnist-binarised"}  # where data have no labels: a binarisation of the same digits that has
ENDS, STEPS = (3, 8), 11  # the digits at the ends of an interpolation, and its images
SHOWN = 14  # samples a row
BITS_A_NAT = 1 / (784 * math.log(2))  # of nats an image, per pixel


def load_vae(folder, results):
    """The best weights, behind one checkpoint with everything else. Returns (decode, latent dimensions, module)."""
    path = folder / "checkpoint.pt"
    state, settings = experiment.load_checked(path), results["settings"]
    model = vae.VAE(settings["hidden"], settings["zdim"])
    experiment.fill(model, part(state, "best", path), path)
    return model.decoder, model.z_dim, model


def load_gan(folder, _):
    path = folder / "generator.pt"
    state = experiment.load_checked(path)
    generator = gan.Generator(part(state, "latent_dim", path), part(state, "width", path))
    experiment.fill(generator, part(state, "state", path), path)
    return lambda z: (generator(z) + 1) / 2, generator.latent_dim, generator


def load_nf(folder, _):
    path = folder / "flow.pt"
    state = experiment.load_checked(path)
    model = nf.Model([784], **part(state, "sizes", path))
    experiment.fill(model, part(state, "state", path), path)

    def decode(z):
        with experiment.autocast(z.device):  # as Model.sample does
            return model.decode(z) / 255

    return decode, 784, model


def load_autoregressive(folder, _):
    path = folder / "autoregressive.pt"
    model = autoregressive.load_model(path)

    def decode(z):
        """One normal number a pixel; its distribution function makes the uniform number that a pixel is drawn by."""
        return model.sample(torch.special.ndtr(z)) / model.likelihood.levels

    return decode, 784, model


# the standard runs, in the order of the rows: how their weights are read, which data they may have, the best first
RUNS = {
    "vae-z20": (load_vae, BINARY),
    "vae-z2": (load_vae, BINARY),
    "gan": (load_gan, GREY),
    "nf": (load_nf, GREY),
    "nf-multiscale": (load_nf, GREY),
}
BEYOND = {
    "pixelcnn": (load_autoregressive, BINARY),
    "markov": (load_autoregressive, BINARY),
    "rnn": (load_autoregressive, BINARY),
    "conv1d": (load_autoregressive, BINARY),
    "pixelcnn-grey": (load_autoregressive, GREY),
}


def part(state, name, path):
    if not isinstance(state, dict) or name not in state:
        raise experiment.UserError(f"{experiment.show(path)} is not a file of a finished run: --fresh makes it again")
    return state[name]


def find(run, names, quick):
    """(folder, results) of the finished run of this name, on the best data that it was made with; or None."""
    for data in names:
        folder = experiment.ROOT / "runs" / ("quick" if quick else ".") / data / run
        path = folder / "results.json"
        if path.exists():
            try:
                results = json.loads(path.read_text())
                results["final"], results["settings"], results["seconds"]
            except (OSError, ValueError, KeyError, TypeError):
                raise experiment.UserError(f"{experiment.show(path)} is damaged: --fresh makes it again") from None
            return folder, results
    return None


@functools.cache
def reference(data, quick, device):
    """What samples of this kind are held against: (judge, features of test images, figures of training images)."""
    binary = data in BINARY
    load = functools.partial(bmnist if binary else mnist, ARGS.data_root, download=False)
    train, _, test = load(data=data)
    labelled = copy.copy(load(data=LABELLED[data])[0] if data in LABELLED else train)
    if binary:
        labelled.images = 255 * labelled.images  # the judge reads grey values 0..255
    judge = quality.classifier(labelled, device, quick=quick)
    n, white = 1000 if quick else 10000, 1 if binary else 255
    features, _ = quality.look(judge, test.subset(n).images / white)
    return judge, features, quality.measures(judge, train.subset(n).images / white, features)


def judged(images, data, device):
    """All figures of quality.py for images in 0..1 held against those of `data`."""
    judge, features, of_training_images = reference(data, ARGS.quick, device)
    figures_ = quality.beside_real(quality.measures(judge, images, features), of_training_images)
    return {"reference": data, "images": len(images), **figures_}


def likelihood(final):
    """What kind of likelihood the model has, with the run's own figures: measured once, when it ended."""
    if "test_bpd_8" in final:
        known = {name: final[name] for name in ("val_bpd", "test_bpd", "test_bpd_8")}
        return {"kind": "exact", "unit": "bits per dimension of 8-bit images, dequantised", **known}
    if "test_bpd" in final:
        known = {name: final[name] for name in ("val_bpd", "test_bpd")}
        return {"kind": "exact", "unit": "bits per dimension of 8-bit images", **known}
    if "test_elbo" in final:
        known = {name: final[name] for name in ("val_elbo", "test_elbo", "test_log_likelihood", "eval_samples")}
        bits = {f"{name}_bits_per_pixel": -known[name] * BITS_A_NAT for name in ("test_elbo", "test_log_likelihood")}
        return {"kind": "bound and importance estimate", "unit": "nats per binary image", **known, **bits}
    if "test_log_likelihood" in final:
        known = {name: final[name] for name in ("val_log_likelihood", "test_log_likelihood")}
        bits = {"test_log_likelihood_bits_per_pixel": -known["test_log_likelihood"] * BITS_A_NAT}
        return {"kind": "exact", "unit": "nats per binary image", **known, **bits}
    return {"kind": "none"}


@torch.no_grad()
def images_from(decode, z, device, times=None):
    """Images [n, 784] in 0..1 on the CPU, a thousand at a time; `times` takes the seconds of each thousand."""
    parts = []
    for codes in z.split(1000):
        start = time.perf_counter()
        parts.append(decode(codes.to(device)).flatten(1).cpu())  # the copy to the CPU is the end of a GPU's work
        if times is not None:
            times.append(time.perf_counter() - start)
    return torch.cat(parts)


def interpolation(decode, dimensions, judge, device):
    """From a model's surest 3 to its surest 8, of 500 samples, on a great circle: noise keeps its length on it."""
    z = torch.randn(500, dimensions)
    _, probabilities = quality.look(judge, images_from(decode, z, device))
    first, last = (int(probabilities[:, digit].argmax()) for digit in ENDS)
    if first == last:
        return None  # a model that cannot tell the two apart
    return images_from(decode, gan.spherical(z[first], z[last], STEPS), device)


def evaluate(run, folder, results, device):
    """(the run's entry in comparison.json, rows of samples, a row of interpolation or None)."""
    decode, dimensions, model = {**RUNS, **BEYOND}[run][0](folder, results)
    model.to(device).eval()
    data, has_codes, times = results["data"], run in RUNS, []
    images_from(decode, torch.randn(100, dimensions), device)  # to warm up
    # the seed of the run's own last look: a GAN is judged by the very samples that it was judged by then
    experiment.seed_epoch(results["seed"], results["epochs"] + 1)
    images = images_from(decode, torch.randn(1000 if ARGS.quick else 10000, dimensions), device, times)
    if data in BINARY and not has_codes:
        samples = {"draws": (images, data)}
    elif data in BINARY:
        samples = {"means": (images, GREY_OF[data]), "draws": (torch.bernoulli(images), data)}
    else:
        samples = {"samples": (images, data)}
    figures_, path = {}, None
    try:
        figures_ = {what: judged(images, against, device) for what, (images, against) in samples.items()}
        if has_codes:
            path = interpolation(decode, dimensions, reference(GREY_OF.get(data, data), ARGS.quick, device)[0], device)
    except DataError as error:  # the data of an older run may be gone
        print(f"{run}: its images are not judged, {error}")
    seconds = statistics.median(times)
    entry = {
        "data": data, "quick": results["quick"], "seed": results["seed"], "run_commit": results["commit"],
        "parameters": results["parameters"], "latent_dimensions": dimensions if has_codes else None,
        "training_seconds": results["seconds"],
        "training_device": f"{results['device']} ({results['processor']}, {results['threads']} threads)",
        "seconds_per_1000_samples": seconds, "samples_per_second": 1000 / seconds, "sampling_device": str(device),
        "processor": torch.cuda.get_device_name() if device.type == "cuda" else experiment.processor(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "commit": experiment.git_commit(),
        "peak_megabytes": experiment.peak_megabytes(),  # of this process so far
        "likelihood": likelihood(results["final"]), "quality": figures_,
    }  # fmt: skip
    return entry, {what: images[:SHOWN] for what, (images, _) in samples.items()}, path


def save_figures(folder, comparison, rows, paths):
    """One row a model: samples (the same seed, not chosen), and the way from one digit to another."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, runs, shown, what in (
        ("samples.png", RUNS, rows, "samples, not selected"),
        ("beyond.png", BEYOND, rows, "samples, not selected"),
        ("interpolations.png", RUNS, paths, f"from {ENDS[0]} to {ENDS[1]} in latent space"),
    ):
        shown = {label: images for run in runs for label, images in shown.get(run, {}).items()}
        if shown and all(run in rows for run in runs if run in comparison):  # with --only, whole figures or none
            title = " and ".join(dict.fromkeys(tables.DATA[comparison[run]["data"]] for run in runs if run in rows))
            figures.image_rows(folder / "figures" / name, shown, f"{title}: {what}")


def judged_before(path):
    """What comparison.json says so far."""
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except (OSError, ValueError, TypeError):
        raise experiment.UserError(f"{experiment.show(path)} is damaged: delete it") from None


def main():
    device, why = experiment.choose_device(ARGS.device)
    print(f"Device: {device} ({why})")
    everything = {**RUNS, **BEYOND}
    wanted = ARGS.only or list(everything)
    if unknown := set(wanted) - set(everything):
        raise experiment.UserError(f"no standard run is called {', '.join(sorted(unknown))}")
    found = {run: find(run, everything[run][1], ARGS.quick) for run in everything if run in wanted}
    missing = [run for run, place in found.items() if place is None and (ARGS.only or run in RUNS)]
    if not any(found.values()):
        raise experiment.UserError("no finished run in runs/: train one first, python code/a3_vae_template.py for one")
    if missing:
        print(f"Not finished, so not judged: {', '.join(missing)}")
    folder = experiment.ROOT / "runs" / ("quick" if ARGS.quick else ".") / "comparison"
    comparison, rows, paths = judged_before(folder / "comparison.json") if ARGS.only else {}, {}, {}
    for run, place in found.items():
        if place is None:
            continue
        comparison[run], samples, path = evaluate(run, *place, device)
        rows[run] = {
            tables.TITLES[run] + ("" if what == "samples" else f", {what}"): images for what, images in samples.items()
        }
        if path is not None:
            paths[run] = {tables.TITLES[run]: path}
    comparison = {run: comparison[run] for run in everything if run in comparison}  # in the order of the rows
    save_figures(folder, comparison, rows, paths)
    experiment.write_atomically(folder / "comparison.json", json.dumps(comparison, indent=1).encode())
    shown = [layout(comparison) for layout in (tables.quality, tables.likelihood, tables.cost)]
    note = tables.note(comparison)
    for name, layout in (("table.md", tables.markdown), ("table.tex", tables.latex)):
        (folder / name).write_text("\n\n".join([*(layout(*table) for table in shown), note]) + "\n")
    print("\n" + "\n\n".join(tables.plain(*table) for table in shown) + f"\n\n{note}")
    print(f"Files:  {experiment.show(folder)}/")


def parse_args(arguments=None):
    parser = experiment.Parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="judge the quick runs, with fewer images")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="judge these runs alone, keep the lines of others")
    parser.add_argument("--data-root", metavar="FOLDER", help="where the data files are (or set A3_DATA)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    ARGS = parse_args()
    experiment.start(main)
