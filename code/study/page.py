"""The page: one HTML file that runs the trained models in a browser, without a server and without a network.

    python code/study/page.py           docs/index.html from the published weights, same as `make page`
    python code/study/page.py --user    runs/page.html from your own runs, and the published model where you have none;
                                        with --quick, runs/quick/page.html

The sources are in docs/page/: a template, a style sheet, and one script per part. This script fills in the weights
(export.py), 200 test digits, the codes of 1,000 test digits, and the results. Models that are missing are left out, and
their part of the page says how to train them.
"""

import json
import math
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from a3_vae_template import kl_per_dimension
from common import cli, models, quality
from common.files import runs_folder
from datasets.bmnist import bmnist
from datasets.files import ROOT, UserError, show, write_atomically
from datasets.mnist import mnist
from study import export, latent, publish, registry, tables

SOURCES = ROOT / "docs" / "page"
LIBRARY = ["net.js", "models.js"]  # for the page and for its workers
PARTS = ["app.js", "plane.js", "draw.js", "dimensions.js", "gan.js", "flow.js", "pixelcnn.js", "results.js", "start.js"]
# name in the page: (run, kind, precision of the weights). Images must stay within 2 grey levels of torch's.
MODELS = {
    "vae2": ("vae-z2", "vae", 54),
    "vae20": ("vae-z20", "vae", 62),
    "gan": ("gan", "gan", 130),
    "flow": ("nf-multiscale", "flow", 1024),
    "pixelcnn": ("pixelcnn", "pixelcnn", 48),
}
CLASSIFIER_PRECISION = 40
LARGEST = 5e6  # bytes of the published page
CURVES = {
    "elbo": "bound, nats", "bpd": "bits per dimension", "log_px": "log p(x), nats", "frechet_val": "Fréchet distance",
}  # fmt: skip
DOCUMENTS = {registry.VAE: "vae.md", registry.GAN: "gan.md", registry.FLOW: "flow.md"}  # others: beyond.md


def find_models(user, quick):
    """{name in the page: (run, path of its weights)}, for the models that there are."""
    found = {}
    for name, (run, *_) in MODELS.items():
        path = models.PUBLISHED / f"{run}.pt"
        if user:
            try:
                path = models.find_model(run, registry.get(run).data, quick)
            except UserError:
                continue
        if path.exists():
            found[name] = run, path
    return found


def data_of(found, kind, user):
    """The data of this kind: those of the user's own model, else what is at hand; for the published page, real data."""
    for run, path in found.values():
        if registry.get(run).kind == kind and path.parent != models.PUBLISHED:
            return path.parent.parent.name
    return "auto" if user else registry.DATA[kind][0]


def digits(test, per_class=20):
    """Grey test images, evenly spread over each class: compressed as text, with their labels."""
    picks = []
    for label in range(10):
        of_class = torch.nonzero(test.labels == label).squeeze(1)
        picks.append(of_class[torch.linspace(0, len(of_class) - 1, min(per_class, len(of_class))).long()])
    picks = torch.cat(picks)
    return {"images": export.as_text(test.images[picks].numpy().tobytes()), "labels": test.labels[picks].tolist()}


def rounded(tensor, digits=4):
    return [round(value, digits) for value in tensor.flatten().tolist()]


@torch.no_grad()
def codes(model, test, n=1000):
    """The codes of n test images and their digits."""
    test = test.subset(n)
    return {"codes": rounded(model.encoder(test.images.float())[0], 3), "labels": test.labels.tolist()}


@torch.no_grad()
def dimensions(model, train, test, n=5000):
    """The average KL term of each dimension, and the directions of the attributes (see latent.attributes)."""
    mean, std = model.encoder(test.subset(1000).images.float())
    kl = kl_per_dimension(mean, std).mean(0)
    x = train.subset(n).images.float()
    measures = {"slant": latent.slant, "stroke width": latent.stroke_width}
    code = model.encoder(x)[0]
    directions = {name: rounded(latent.direction(code, measure(x))) for name, measure in measures.items()}
    return {"kl": rounded(kl), "directions": directions}


def is_number(value):
    """Whether the value was measured and can be drawn: JSON has no NaN."""
    return value is not None and math.isfinite(value)


def short(value):
    """The number with six significant digits."""
    return float(f"{value:.6g}")


def curves(found):
    """One chart per finished run that has curves: {title, unit, x, lines: {name: [[x, y], ...]}}."""
    charts = []
    for run, result in found.items():
        known = result.get("curves", {})
        for ending, unit in CURVES.items():
            lines = {}
            for key in (key for key in known if key.endswith(ending)):
                name = "training" if key.startswith("train") else "validation"
                points = zip(known["epoch"], known[key])
                lines[name] = [[x, short(y)] for x, y in points if x and is_number(y)]  # epoch 0 is untrained
            if any(len(line) > 1 for line in lines.values()):
                charts.append({"title": registry.title(run), "unit": unit, "x": "epoch", "lines": lines})
    return charts


def race_charts(race):
    """Validation results against seconds of training, ours and the plain loop's; the first seed."""
    charts = []
    for run, pairs in race.get("models", {}).items():
        pair = next(iter(pairs.values()))
        points = lambda curve: [[short(x), short(y)] for x, y in curve if is_number(y)]
        lines = {"ours": points(pair["ours"]["curve"]), "plain loop": points(pair["plain"]["curve"])}
        title, unit = f"Race: {registry.title(run)}", tables.UNITS[race["summary"][run]["metric"]]
        charts.append({"title": title, "unit": unit, "x": "seconds of training", "lines": lines})
    return charts


def results(user, quick):
    """The results table, with a document for each row, and the charts."""
    if user:
        finished = {entry.name: registry.finished(entry, quick) for entry in registry.RUNS}
        found = {run: pair[1] for run, pair in finished.items() if pair}
        race = registry.read_json(runs_folder(quick) / "race.json")
    else:
        found, race = publish.results(), publish.read("race")
    header, rows = publish.rows(found)
    scripts = {entry.title: entry.script for entry in registry.RUNS}
    title, documents = "", []
    for row in rows:
        row[0] = title = row[0] or title  # a model's rows after its first have no title in docs/results.md
        documents.append(DOCUMENTS.get(scripts[title], "beyond.md"))
    columns = [i for i, _ in enumerate(header) if any(row[i] for row in rows)]
    pick = lambda row: [row[i] for i in columns]
    charts = curves(found) + race_charts(race)
    return {"header": pick(header), "rows": list(map(pick, rows)), "documents": documents, "charts": charts}


def describe(loaded, images=None):
    """{name: (description, weights)} of models and of the classifier. `images` [N, 784]: binary images."""
    kinds = {name: (kind, precision) for name, (_, kind, precision) in MODELS.items()}
    kinds["classifier"] = "classifier", CLASSIFIER_PRECISION
    inputs, described = {"vae": [images]}, {}
    for name, (kind, precision) in kinds.items():
        if name in loaded:
            try:
                described[name] = export.describe(kind, loaded[name], precision, *inputs.get(kind, []))
            except UserError as error:
                raise UserError(f"run {MODELS[name][0]}: {error}; rename its folder") from None
    return described


def in_script(content, **attributes):
    """JSON or text as a script element that is not run."""
    text = (
        content
        if isinstance(content, str)
        else json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    )
    words = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    return f'<script type="text/plain" {words}>{text.replace("</", "<" + chr(92) + "/")}</script>'


def assemble(described, content):
    """The HTML text. `described`: {name: (description, weights)}, `content`: everything else, for JSON."""
    read = lambda name: (SOURCES / name).read_text("utf-8")
    scripts = [f"<script>{read(name)}</script>" for name in LIBRARY + PARTS]
    worker = in_script("".join(read(name) for name in [*LIBRARY, "worker.js"]), id="worker")
    weights = [in_script(text, id=f"weights-{name}") for name, (_, text) in described.items()]
    content = content | {"models": {name: about for name, (about, _) in described.items()}}
    page = read("template.html").replace("/* style */", read("style.css"))
    return page.replace("<!-- scripts -->", "\n".join([in_script(content, id="content"), worker, *weights, *scripts]))


def main(args):
    found = find_models(args.user, args.quick)
    if not found:
        raise UserError("there are no trained models: make, or for the published page: make publish")
    loaded = {name: registry.module(registry.get(run).script).load(path) for name, (run, path) in found.items()}
    names = {kind: data_of(found, kind, args.user) for kind in ("binary", "grey")}
    binary, grey = bmnist(data=names["binary"]), mnist(data=names["grey"])
    loaded["classifier"] = quality.load_classifier(grey[0].name, torch.device("cpu"), lambda: grey)
    described = describe(loaded, binary[2].subset(2000).images.float())
    content = {"data": [binary[0].title, grey[0].title], "user": args.user, "quick": args.quick}
    content["missing"] = {
        name: f"There is no trained model for this part. To train it: python {' '.join(registry.get(run).command())}"
        for name, (run, *_) in MODELS.items() if name not in found
    }  # fmt: skip
    content |= {"digits": digits(grey[2]), "results": results(args.user, args.quick)}
    content["docs"] = ("../../docs/" if args.quick else "../docs/") if args.user else ""
    if "vae2" in loaded:
        content["plane"] = codes(loaded["vae2"], binary[2])
    if "vae20" in loaded:
        content["dimensions"] = dimensions(loaded["vae20"], binary[0], binary[2])
    page = assemble(described, content).encode()
    path = runs_folder(args.quick) / "page.html" if args.user else ROOT / "docs" / "index.html"
    sizes = ", ".join(f"{name} {len(text) / 1e6:.2f}" for name, (_, text) in described.items())
    if len(page) > LARGEST and not args.user:
        raise UserError(f"the page would have {len(page) / 1e6:.1f} MB, more than 5 (weights in MB: {sizes})")
    write_atomically(path, page)
    print(f"{show(path)}: {len(page) / 1e6:.1f} MB (weights: {sizes})")


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("--user", action="store_true", help="write runs/page.html with your own models")
    parser.add_argument("--quick", action="store_true", help="with --user: use quick runs")
    args = parser.parse_args(words)
    if args.quick and not args.user:
        parser.error("--quick needs --user")
    return args


if __name__ == "__main__":
    cli.start(main, parse_args)
