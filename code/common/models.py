"""Files of trained models, {script, sizes, state}: saving, finding and loading them, and drawing samples."""

import math
from pathlib import Path

import torch

from common import figures
from common.files import load_state, load_weights, runs_folder, save_state
from datasets.files import ROOT, UserError, show

PUBLISHED = ROOT / "report" / "models"
REAL = ("mnist", "bmnist")  # the data of published models and results


def save_model(path, script, sizes, state):
    """`sizes` are the arguments that construct the module, `state` are its weights."""
    save_state(path, {"script": script, "sizes": sizes, "state": state})


def load_model(path, script, make):
    """The module make(**sizes) with the saved weights as float32, in eval mode (published weights are float16)."""
    saved = load_state(path)
    if not isinstance(saved, dict) or set(saved) != {"script", "sizes", "state"} or saved["script"] != script:
        raise UserError(f"{show(path)} is not a model of {script}")
    try:
        module = make(**saved["sizes"])
        state = {name: x.float() if x.is_floating_point() else x for name, x in saved["state"].items()}
    except Exception:  # the file may contain any sizes
        raise UserError(f"{show(path)} describes a model that cannot be constructed") from None
    load_weights(module, state, path)
    return module.eval()


def model_file(folder):
    """The model file of a finished run."""
    if not (folder / "model.pt").exists():
        problem = f"{show(folder)} has no model.pt"
        raise UserError(f"{problem}: repeat the run with --fresh, or delete this folder")
    return folder / "model.pt"


def find_model(name, data_names, quick=False, published=True):
    """The model file of the run with this name on the first of these datasets; without a run, the published file."""
    runs = runs_folder(quick)
    paths = [runs / data / name / "model.pt" for data in data_names]
    if published:
        paths.append(PUBLISHED / f"{name}.pt")
    for path in paths:
        if path.exists():
            return path
    raise UserError(f"there is no trained model {name}: train it first")


def picture_path(path, n):
    """The file for samples of a model: next to the model file, or in runs/ for published weights."""
    if path.resolve().parent != PUBLISHED.resolve():
        return path.with_name(f"samples-{n}.png")
    runs_folder().mkdir(exist_ok=True)
    return runs_folder() / f"{path.stem}-samples-{n}.png"


def weights_for(args, name, data_names, published=True):
    """The model file for --sample: --weights, or that of a run, or the published one with a notice."""
    if args.weights:
        return Path(args.weights)
    path = find_model(args.name or name, data_names, args.quick, published)
    if path.parent == PUBLISHED:
        print(f"There is no run of this name, so the published weights {show(path)} are used")
    return path


def draw_samples(args, name, data_names, load, draw):
    """--sample N: save a grid of samples from a trained model. `draw(model, n)` returns n images in 0..1."""
    names = data_names if args.data == "auto" else [args.data]
    path = weights_for(args, name, names, published=args.data in ("auto", *REAL))
    model = load(path)
    torch.manual_seed(args.seed)
    target = picture_path(path, args.sample)
    figures.picture(target, draw(model, args.sample), math.ceil(math.sqrt(args.sample)))
    print(f"{args.sample} samples: {show(target)}")
