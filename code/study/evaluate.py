"""Compare finished runs: sample quality, likelihood, size, time.

    python code/study/evaluate.py                 all finished runs that the registry marks as compared
    python code/study/evaluate.py --quick         the same for quick runs
    python code/study/evaluate.py --only nf gan   these runs; comparison.json keeps its entries of other runs

Reads runs/<data>/<run>/ and writes runs/comparison/: comparison.json (one entry per run) and figures/ with samples and
interpolations, one row per model. Models beyond the assignment have a figure of their own. All metrics use test images.
They are never used to choose a model: that is done on validation images.

Samples are compared with real images of the same kind, in the features of a classifier trained on that kind. The
baseline (training images) is evaluated in the same way. A VAE of binary images gives two kinds of images: binary
draws, which are compared with binary test images, and decoder means, which estimate grey values and are compared with
grey test images. A model of grey images also gives both: its samples, and binary draws, with the grey value of a pixel
as its probability. The draws of all models are thus judged on equal terms, over all three seeds of a run if they are
finished, otherwise over the first one. Static binary MNIST has no labels, so its classifier is trained on another
binarisation of MNIST.
"""

import functools
import math
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
import a3_gan_template as gan
from common import cli, figures, models, quality
from common.devices import autocast, choose_device, facts
from common.files import load_state, runs_folder
from common.run import git_commit, read_results, seed_epoch
from datasets.bmnist import BINARY, bmnist
from datasets.files import UserError, show
from datasets.loading import TITLES
from datasets.mnist import mnist
from study import registry, seeds, tables
from study.registry import SEEDS

LABELLED = {"bmnist": "mnist-binarised"}  # data without labels: another binarisation of the same digits, with labels
ENDS, STEPS = (3, 8), 11  # interpolation: first and last digit, number of images
SHOWN = 16  # samples per row
BITS_PER_NAT = 1 / (784 * math.log(2))  # nats per image -> bits per pixel


def flow_images(model, z):
    with autocast(z.device):  # like Model.sample
        return model.decode(z) / 255


def pixel_by_pixel(model, z):
    """Images from one normal number per pixel, converted to the uniform number that `sample` needs."""
    return model.sample(torch.special.ndtr(z)) / model.likelihood.levels


# script: (images in 0..1 from noise, n noise vectors of a model)
MODELS = {
    registry.VAE: (lambda model, z: model.decoder(z), lambda model, n: torch.randn(n, model.z_dim)),
    registry.GAN: (lambda model, z: (model(z) + 1) / 2, gan.Generator.noise),
    registry.FLOW: (flow_images, lambda model, n: torch.randn(n, 784)),
    registry.AUTOREGRESSIVE: (pixel_by_pixel, lambda model, n: torch.randn(n, 784)),
}


@functools.cache
def reference(data, quick, device):
    """What samples are compared with: (classifier, (features, radii) of test images, metrics of training images)."""
    binary = data in BINARY
    load = functools.partial(bmnist if binary else mnist, download=False)
    train, _, test = load(data=data)
    name = LABELLED.get(data, data)
    classifier = quality.load_classifier(name, device, lambda: load(data=name))
    n, white = 1000 if quick else 10000, 1 if binary else 255
    features, _ = quality.classify(classifier, test.subset(n).images / white)
    against = features, quality.radii(features)
    return classifier, against, quality.sample_metrics(classifier, train.subset(n).images / white, *against)


def grey_of(data):
    """The grey data set that a binary one was made from."""
    return "mnist" if data == "bmnist" else data.removesuffix("-binarised").removesuffix("-binary")


def binary_of(data):
    """The binary data set that was made from a grey one."""
    return {"mnist": "bmnist", "glyphs": "glyphs-binary"}.get(data, f"{data}-binarised")


def judged(images, data, args, device):
    """All sample-quality metrics for images in 0..1, with `data` as reference."""
    classifier, against, of_training_images = reference(data, args.quick, device)
    metrics = quality.beside_real(quality.sample_metrics(classifier, images, *against), of_training_images)
    name = LABELLED.get(data, data)
    about = {"classifier": quality.origin(name), "classifier_accuracy": accuracy_of(name)}
    return {"reference": data, "images": len(images), **about, **metrics}


def accuracy_of(data):
    """The accuracy of a published classifier on its test images; None for a classifier trained on this machine."""
    path = quality.PUBLISHED / f"classifier-{data}.pt"
    return load_state(path)["accuracy"] if path.exists() else None


# (metric that runs of this kind have, kind of likelihood, unit, metrics to copy), the first that applies
LIKELIHOODS = (
    ("test_bpd_8", "bound", "bits per dimension of 8-bit images, dequantised", ("val_bpd", "test_bpd", "test_bpd_8")),
    ("test_bpd", "exact", "bits per dimension of 8-bit images", ("val_bpd", "test_bpd")),
    ("test_elbo", "bound and importance estimate", "nats per binary image",
     ("val_elbo", "test_elbo", "test_log_likelihood", "eval_samples")),
    ("test_log_likelihood", "exact", "nats per binary image", ("val_log_likelihood", "test_log_likelihood")),
)  # fmt: skip


def likelihood(final):
    """The kind of likelihood that the model has, with the values that the run measured at its end."""
    for metric, kind, unit, names in LIKELIHOODS:
        if metric in final:
            nats = [name for name in ("test_elbo", "test_log_likelihood") if name in names]
            bits = {f"{name}_bits_per_pixel": -final[name] * BITS_PER_NAT for name in nats}
            return {"kind": kind, "unit": unit, **{name: final[name] for name in names}, **bits}
    return {"kind": "none"}


@torch.no_grad()
def images_from(decode, z, device, times=None):
    """Images [n, 784] in 0..1 on the CPU, in batches of 1000; `times` receives the seconds of each batch.

    The inverse of a flow that was hardly trained can overflow. Such images count as black."""
    parts = []
    for codes in z.split(1000):
        start = time.perf_counter()
        parts.append(decode(codes.to(device)).flatten(1).cpu())  # the copy waits for the GPU
        if times is not None:
            times.append(time.perf_counter() - start)
    images = torch.cat(parts)
    overflown = ~images.isfinite().all(1)
    if overflown.any():
        print(f"!! {int(overflown.sum())} of {len(images)} samples overflow: they count as black images")
    images[overflown] = 0
    return images


def other_seeds(entry, folder, quick):
    """{seed: (folder, results)} of a run's other seeds; as in seeds.py, they count only if all are finished.

    Raises UserError if the seeds belong to different trainings."""
    if quick or not entry.metric:
        return {}
    folders = {seed: folder.with_name(entry.name_with(seed)) for seed in SEEDS[1:]}
    found = {seed: (other, results) for seed, other in folders.items() if (results := seeds.read(other, seed))}
    if len(found) < len(folders):
        return {}
    seeds.different_settings([read_results(folder), *(results for _, results in found.values())])
    return found


def draws_of_seeds(others, first, args, device):
    """The Frechet distances of the binary draws of all seeds, from the metrics of the first and the other seeds."""
    values = [first["frechet"]]
    for seed, (folder, results) in others.items():
        images_of, noise_of = MODELS[results["script"]]
        model = registry.module(results["script"]).load(models.model_file(folder)).to(device)
        seed_epoch(seed, results["epochs"] + 1)
        images = images_from(lambda z: images_of(model, z), noise_of(model, first["images"]), device)  # noqa: B023
        classifier, (features, _), _ = reference(first["reference"], args.quick, device)
        values.append(quality.frechet(quality.classify(classifier, torch.bernoulli(images))[0], features))
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"frechet": {"values": values, "mean": statistics.mean(values), "deviation": deviation}}


def interpolation(decode, noise, classifier, device):
    """Spherical interpolation between the most confident 3 and the most confident 8 of 500 samples."""
    z = noise(500)
    _, probabilities = quality.classify(classifier, images_from(decode, z, device))
    first, last = (int(probabilities[:, digit].argmax()) for digit in ENDS)
    if first == last:
        return None  # one sample has the highest probability of both classes
    return images_from(decode, gan.spherical(z[first], z[last], STEPS), device)


def evaluate(entry, folder, results, args, device):
    """(the run's entry in comparison.json, rows of samples, a row of interpolation or None)."""
    images_of, noise_of = MODELS[results["script"]]
    model = registry.module(results["script"]).load(models.model_file(folder)).to(device)
    noise, decode = functools.partial(noise_of, model), lambda z: images_of(model, z)
    data, has_codes, times = results["data"], results["script"] != registry.AUTOREGRESSIVE, []
    images_from(decode, noise(100), device)  # warm-up
    # the seed of the run's own final evaluation: a GAN is evaluated on the same samples again
    seed_epoch(results["seed"], results["epochs"] + 1)
    images = images_from(decode, noise(1000 if args.quick else 10000), device, times)
    # {what: (images, reference data)}
    samples = {"draws": (torch.bernoulli(images), data if data in BINARY else binary_of(data))}
    if data not in BINARY:
        samples = {"samples": (images, data), **samples}
    elif has_codes:
        samples = {"means": (images, grey_of(data)), **samples}
    metrics, of_seeds, steps = {}, {}, None
    for what, (compared, kind) in samples.items():
        try:
            metrics[what] = judged(compared, kind, args, device)
        except UserError as error:  # these data may not be on this machine
            print(f"{entry.name}: no quality of its {what}, {error}")
    if "draws" in metrics and entry.metric:
        of_seeds = draws_of_seeds(other_seeds(entry, folder, args.quick), metrics["draws"], args, device)
    if has_codes and metrics.keys() & {"samples", "means"}:  # with the classifier of grey images
        classifier, *_ = reference(grey_of(data), args.quick, device)
        steps = interpolation(decode, noise, classifier, device)
    seconds = statistics.median(times)
    threads = tables.plural(results["threads"], "thread")
    return {
        "data": data, "quick": results["quick"], "seed": results["seed"], "run_commit": results["commit"],
        "parameters": results["parameters"],
        "training_seconds": results["seconds"],
        "training_device": f"{results['device']} ({results['processor']}, {threads})",
        "seconds_per_1000_samples": seconds, "samples_per_second": 1000 / seconds, "sampling_device": str(device),
        **facts(device), "commit": git_commit(),
        "likelihood": likelihood(results["final"]), "quality": metrics, "draws_of_seeds": of_seeds,
    }, {what: images[:SHOWN] for what, (images, _) in samples.items()}, steps  # fmt: skip


def save_figures(folder, comparison, rows, paths):
    """One row per model: samples (same seed, not selected), and interpolations between two digits."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    samples, interpolations = "samples, not selected", f"from {ENDS[0]} to {ENDS[1]} in latent space"
    core = [entry.name for entry in registry.select(compared=True, group="core")]
    others = [entry.name for entry in registry.select(compared=True) if entry.group != "core"]
    for name, runs, shown, what in (
        ("samples.png", core, rows, samples), ("beyond.png", others, rows, samples),
        ("interpolations.png", core, paths, interpolations),
    ):  # fmt: skip
        evaluated = [run for run in runs if run in rows]
        if not evaluated:
            continue
        # with --only, a figure would show some runs as they are now and others not at all: then there is none
        (folder / "figures" / name).unlink(missing_ok=True)
        shown = {label: images for run in runs for label, images in shown.get(run, {}).items()}
        if shown and all(run in rows for run in runs if run in comparison):
            title = " and ".join(dict.fromkeys(TITLES[comparison[run]["data"]] for run in evaluated))
            figures.image_rows(folder / "figures" / name, shown, f"{title}: {what}")


def main(args):
    device, why = choose_device(args.device)
    print(f"Device: {device} ({why})")
    entries = registry.select(compared=True)
    if unknown := set(args.only or ()) - {entry.name for entry in entries}:
        raise UserError(f"the registry does not mark these runs as compared: {', '.join(sorted(unknown))}")
    wanted = [entry for entry in entries if not args.only or entry.name in args.only]
    found = {entry: run for entry in wanted if (run := registry.finished(entry, args.quick))}
    missing = [entry.name for entry in wanted if entry not in found and (args.only or entry.group == "core")]
    if not found:
        command = f"python code/study/train.py {missing[0]}" + " --quick" * args.quick
        raise UserError(f"no finished run of {', '.join(missing)}: first train one, for example with {command}")
    if missing:
        print(f"Skipped, not finished: {', '.join(missing)}")
    for entry, (run, _) in found.items():
        other_seeds(entry, run, args.quick)  # refuses seeds of different trainings before the first evaluation
    folder = runs_folder(args.quick) / "comparison"
    comparison, rows, paths = registry.read_json(folder / "comparison.json") if args.only else {}, {}, {}
    for entry, run in found.items():
        comparison[entry.name], samples, path = evaluate(entry, *run, args, device)
        label = lambda what: entry.title + ("" if what == "samples" else f", {what}")  # noqa: B023
        shown = [what for what in samples if entry.kind == "binary" or what == "samples"]
        rows[entry.name] = {label(what): samples[what] for what in shown}
        paths |= {entry.name: {entry.title: path}} if path is not None else {}
    comparison = {entry.name: comparison[entry.name] for entry in entries if entry.name in comparison}
    save_figures(folder, comparison, rows, paths)
    registry.write_json(folder / "comparison.json", comparison)
    shown = [layout(comparison) for layout in (tables.quality, tables.likelihood, tables.cost)]
    print("\n" + "\n\n".join(tables.plain(*table) for table in shown) + f"\n\n{tables.note(comparison)}")
    print(f"Files:  {show(folder)}/")


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("--quick", action="store_true", help="compare quick runs, on fewer images")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="evaluate these runs only, keep other entries")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    return parser.parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
