"""Codes as features (Question 1.1): can the digit be read from the code of an autoencoder or a VAE?

    python code/study/codes.py            of finished runs; of published weights, if there is no run
    python code/study/codes.py --quick    of finished quick runs

The labelled images are the test images. Half of them, every second one, are the examples; the other half is classified,
by a linear probe (multinomial logistic regression) and by the five nearest neighbours. Then the halves change places.
Pixels and principal components are the baselines. The figure shows reconstructions and samples of the autoencoder and
of the VAE with the same networks; log p(x|z) at the code of each validation image compares their reconstructions.
Numbers and figure: runs/codes/.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from common import cli, figures, models
from common.files import runs_folder
from common.run import git_commit
from datasets.bmnist import bmnist
from datasets.files import UserError, show
from datasets.loading import TITLES
from study import registry, tables
from study.latent import fitted_gaussian

NAMES = ["family-autoencoder", "family-plain", "vae-z2", "vae-z20", "family-beta4", "family-free0.2", "family-conv"]
SHOWN = ["family-autoencoder", "family-plain"]  # in the figure
COMPONENTS = 20


def codes_of(model, x):
    """One code per image [N, D]: the mean of q(z|x), after the flow if there is one."""
    return model.code(x) if hasattr(model, "code") else model.encoder(x)[0]


def principal_components(x, n):
    """The projections [N, n] of images [N, 784] on the n directions of largest variance."""
    centred = x - x.mean(0)
    _, _, directions = torch.linalg.svd(centred.T @ centred)
    return centred @ directions[:n].T


@torch.enable_grad()
def probe(codes, labels, others, penalty=1e-3):
    """Classes [M] of the codes `others` [M, D], by logistic regression on codes [N, D] with these labels.

    Features are standardised; `penalty` times the squared weights is added to the average cross-entropy."""
    mean, std = codes.mean(0), codes.std(0).clamp_min(1e-6)
    codes, others = (codes - mean) / std, (others - mean) / std
    weights = torch.zeros(10, codes.shape[1] + 1, device=codes.device, requires_grad=True)  # the last column: biases
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(codes, weights[:, :-1], weights[:, -1]), labels)
        loss = loss + penalty * weights[:, :-1].pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return F.linear(others, weights[:, :-1], weights[:, -1]).argmax(1)


def neighbours(codes, labels, others, k=5):
    """Classes [M] of the codes `others`: the most frequent class of the k nearest codes, by Euclidean distance."""
    nearest = torch.cat([torch.cdist(part, codes).topk(k, largest=False)[1] for part in others.split(1000)])
    return F.one_hot(labels[nearest], 10).sum(1).argmax(1)


@torch.no_grad()
def accuracies(codes, labels):
    """The share of correct classes of both methods, with each half of the images as examples for the other half."""
    halves, result = [slice(0, None, 2), slice(1, None, 2)], {}
    for name, classify in (("probe", probe), ("neighbours", neighbours)):
        right = [
            (classify(codes[a], labels[a], codes[b]) == labels[b]).double().mean() for a, b in (halves, halves[::-1])
        ]
        result[name] = float(sum(right) / 2)
    return result


@torch.no_grad()
def save_figure(path, named, train, test, title):
    """Per model: reconstructions, and images decoded from N(0, I) and from a Gaussian fitted to training codes."""
    torch.manual_seed(0)
    x = test.subset(18).images.float()
    rows, noise = {"test images": x}, {}
    for label, model in named.items():
        z = noise.setdefault(model.z_dim, torch.randn(len(x), model.z_dim, device=x.device))
        fitted = fitted_gaussian(codes_of(model, train.images.float()), z)
        for what, codes in (("reconstructions", codes_of(model, x)), ("N(0, I)", z), ("fitted Gaussian", fitted)):
            rows[f"{label}: {what}"] = model.decoder(codes)
    figures.image_rows(path, rows, title)


@torch.no_grad()
def reconstruction(model, x):
    """log p(x|z) in nats at the code z of each image x [N, 784], averaged over the images."""
    return -float(
        F.binary_cross_entropy_with_logits(model.decoder.logits(codes_of(model, x)), x, reduction="sum")
    ) / len(x)


def load(name, data, quick):
    """A model that was trained on this data set: of a run, or the published one."""
    entry = registry.get(name)
    published = data == entry.data[0] and not quick
    return registry.module(entry.script).load(models.find_model(name, [data], quick, published))


def main(args):
    train, val, test = bmnist()
    found = {}
    for name in NAMES:
        try:
            found[name] = load(name, test.name, args.quick)
        except UserError as error:
            print(f"{name}: left out, {error}")
    if not found:
        command = "python code/a3_vae_template.py" + " --quick" * args.quick
        raise UserError(f"there is no trained model: first train one, for example with {command}")
    x, labels = test.images.float(), test.labels
    features = {"pixels": x, f"{COMPONENTS} principal components": principal_components(x, COMPONENTS)}
    features |= {name: codes_of(found[name], x).detach() for name in NAMES if name in found}
    folder = runs_folder(args.quick) / "codes"
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        name: {"title": registry.title(name), "dimensions": codes.shape[1], **accuracies(codes, labels)}
        for name, codes in features.items()
    }
    for name in found.keys() & set(SHOWN):
        results[name]["reconstruction"] = reconstruction(found[name], val.images.float())
    if shown := {registry.title(name): found[name] for name in SHOWN if name in found}:
        save_figure(folder / "codes.png", shown, train, test, TITLES[test.name])
    about = {"data": test.name, "quick": args.quick, "images": len(x), "commit": git_commit()}
    registry.write_json(folder / "codes.json", {**about, "models": results})
    print(tables.plain(*tables.codes(results)))
    print(f"Files:  {show(folder)}/")


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("--quick", action="store_true", help="codes of quick runs")
    return parser.parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
