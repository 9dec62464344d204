"""The file of a trained model: {script, sizes, state}. Saving, finding, loading, and drawing samples from it."""

import math
from pathlib import Path

import torch

from common import figures
from common.files import load_state, load_weights, save_state
from datasets.files import ROOT, UserError, show

LARGEST_GRID = 400
PUBLISHED = ROOT / "report" / "models"


def save_model(path, script, sizes, state):
    """`sizes` are the arguments that make the module again, `state` its weights."""
    save_state(path, {"script": script, "sizes": sizes, "state": state})


def load_model(path, script, make):
    """The module make(**sizes) with its weights, in eval mode. Published weights are float16; all become float32."""
    saved = load_state(path)
    if not isinstance(saved, dict) or set(saved) != {"script", "sizes", "state"} or saved["script"] != script:
        raise UserError(f"{show(path)} is not a model of {script}")
    try:
        module = make(**saved["sizes"])
        state = {name: x.float() if x.is_floating_point() else x for name, x in saved["state"].items()}
    except Exception:  # sizes of any type and value
        raise UserError(f"{show(path)} describes a model that cannot be made") from None
    load_weights(module, state, path)
    return module.eval()


def find_model(name, data_names, quick=False):
    """The model file of the run of this name, on the best data; the published one where there is no run."""
    runs = ROOT / "runs" / "quick" if quick else ROOT / "runs"
    paths = [runs / data / name / "model.pt" for data in data_names]
    for path in [*paths, PUBLISHED / f"{name}.pt"]:
        if path.exists():
            return path
    raise UserError(f"there is no trained model {name}: train it first, or name its file with --weights")


def sample_options(parser, number, what="images", most=LARGEST_GRID):
    group = parser.add_argument_group("sampling without training")
    group.add_argument("--sample", type=number(int, 1, most), metavar="N", help=f"draw N {what} and stop")
    group.add_argument("--weights", metavar="FILE", help="the model.pt to draw from (default: that of the run)")


def picture_path(path, n):
    """Where the samples of a model file are saved: beside it, those of published weights in runs/."""
    if path.parent != PUBLISHED:
        return path.with_name(f"samples-{n}.png")
    print(f"No run of your own: the published weights {show(path)} are used")
    (ROOT / "runs").mkdir(exist_ok=True)
    return ROOT / "runs" / f"{path.stem}-samples-{n}.png"


def draw_samples(args, name, data_names, load, draw):
    """--sample N: a grid of images from a trained model, without data and without training.

    `draw(model, n)` gives n images in 0..1."""
    path = Path(args.weights) if args.weights else find_model(args.name or name, data_names, args.quick)
    model = load(path)
    torch.manual_seed(args.seed)
    target = picture_path(path, args.sample)
    figures.picture(target, draw(model, args.sample), math.ceil(math.sqrt(args.sample)))
    print(f"{args.sample} samples: {show(target)}")
