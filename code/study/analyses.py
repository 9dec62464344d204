"""Analyses of a finished run: figures and numbers that are made from its model file.

    python code/study/analyses.py vae-z2            a run by its name, on the best data that it was made with
    python code/study/analyses.py vae-z2 --quick    a quick run

VAE: reconstructions, codes, estimates of log p(x) (Question 1.4), the latent space. GAN: classes, nearest training
images, gradients of both losses (Question 2.4). Flow: temperatures, masks, levels. Figures go to the run's folder,
numbers to its analyses.json; the report quotes them.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
import a3_gan_template as gan_script
import a3_nf_template as flow_script
import a3_vae_template as vae_script
from beyond import vae_family
from common import cli, figures, quality
from common.devices import choose_device
from common.run import git_commit, read_results
from datasets.bmnist import BINARY, bmnist
from datasets.files import ROOT, UserError, show, write_atomically
from datasets.loading import TITLES
from datasets.mnist import GREY, mnist
from nets import multiscale
from study import latent, registry


class Finished:
    """A finished run: its folder, its results, and where figures go."""

    def __init__(self, folder):
        self.folder, self.results = folder, read_results(folder)
        if self.results is None:
            raise UserError(f"{show(folder)} is not a finished run")
        self.quick, self.data = self.results["quick"], self.results["data"]
        self.device, _ = choose_device("auto")

    def figure(self, name):
        (self.folder / "figures").mkdir(exist_ok=True)
        return self.folder / "figures" / name


def gan_gradients(run, title, train, ahead=50, steps=100):
    """Question 2.4: both losses of the template's G against a D that is ahead of it.

    D learns alone for `ahead` steps; then both learn, once with each loss of G."""
    if run.quick:
        ahead, steps = ahead // 5, steps // 5
    losses = {"log(1 - D(G(z)))": lambda logits: -F.softplus(logits).mean(), "-log D(G(z))": gan_script.generator_loss}
    norms, scores = {name: [] for name in losses}, {name: [] for name in losses}
    for name, loss_of_G in losses.items():
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(0)
            generator, discriminator = gan_script.Generator().to(run.device), gan_script.Discriminator().to(run.device)
            optimizer_G, optimizer_D = (
                torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in (generator, discriminator)
            )
            for step in range(ahead + steps):
                chosen = torch.randint(len(train.images), (128,)).to(train.images.device)
                real = train.images[chosen].float().to(run.device) / 127.5 - 1
                fake = generator(torch.randn(128, generator.latent_dim, device=run.device))
                logits = discriminator.logits(torch.cat([real, fake.detach()]))
                loss_D = gan_script.discriminator_loss(logits[:128], logits[128:])
                optimizer_D.zero_grad()
                loss_D.backward()
                optimizer_D.step()
                logits = discriminator.logits(fake)
                optimizer_G.zero_grad()
                loss_of_G(logits).backward()
                gradients = [parameter.grad.detach() for parameter in generator.parameters()]
                norms[name].append(float(torch.stack([part.pow(2).sum() for part in gradients]).sum().sqrt()))
                scores[name].append(float(torch.sigmoid(logits.detach()).mean()))
                if step >= ahead:
                    optimizer_G.step()
    figures.generator_losses(run.figure("gradients.pdf"), norms, scores, ahead, title)
    saturating, other = norms.values()
    return {
        "ahead": ahead,
        "steps": steps,
        "score_ahead": scores["-log D(G(z))"][ahead],
        "norm_saturating": saturating[ahead],
        "norm_other": other[ahead],
        "norm_ratio": other[ahead] / saturating[ahead],
        "last_score_saturating": scores["log(1 - D(G(z)))"][-1],
        "last_score_other": scores["-log D(G(z))"][-1],
    }


@torch.no_grad()
def gan(run, title, generator, train, val, test):
    """The classes of 10,000 samples, and the training images nearest to ten of them."""
    classifier = quality.load_classifier(run.data, run.device, lambda: (train, val, test))
    generator_of_numbers = torch.Generator().manual_seed(0)
    samples = gan_script.images_of(generator, torch.randn(10000, generator.latent_dim, generator=generator_of_numbers))
    classes = quality.classify(classifier, samples)[1].argmax(1)
    real = torch.bincount(train.labels.cpu(), minlength=10) / len(train.labels)
    figures.bars(
        run.figure("classes.pdf"),
        {"samples": (torch.bincount(classes, minlength=10) / 10000).tolist(), "training images": real.tolist()},
        f"{title}: classes of 10,000 samples",
        "digit",
        "share",
    )
    nearest = []
    for sample in samples[:10]:
        distances = [(part.float().cpu() / 255 - sample).pow(2).sum(1) for part in train.images.split(10000)]
        nearest.append(train.images[torch.cat(distances).argmin()].float().cpu() / 255)
    rows = torch.cat([samples[:10], torch.stack(nearest)])
    figures.image_grids(
        run.figure("neighbours.png"), {f"{title}: samples above, nearest training images below": rows}, 10
    )
    return gan_gradients(run, title, train)


@torch.no_grad()
def flow(run, title, model, train, val, test):
    """Samples at four temperatures, what couplings keep, and each level's share of the code redrawn."""
    numbers = torch.Generator().manual_seed(0)
    z = torch.randn(25, *model.flow.z_shape, generator=numbers).to(run.device)
    grids = {f"temperature {t}": model.decode(t * z) / 255 for t in (0.7, 0.8, 0.9, 1.0)}
    figures.image_grids(run.figure("temperatures.png"), grids, 5, f"{title}: the same z, scaled")
    if hasattr(model.flow, "parts"):
        resample_levels(run, title, model, z[:5], numbers)
        masks = squeezed_channels()
        title_of_masks = "the squeeze: which pixels go to each of the first level's four channels"
        if not any(isinstance(step, multiscale.Conv1x1) for step in model.flow.modules()):  # it mixes all channels
            masks = multiscale_masks(model.flow)
            title_of_masks = "what each coupling keeps (white) and changes (black); grey: has left"
    else:
        masks = [torch.zeros(784).index_fill(0, layer.kept.cpu(), 1.0) for layer in list(model.flow.layers)[:2]]
        title_of_masks = "what a coupling keeps (white), and the next"
    figures.image_grids(run.figure("masks.png"), {title_of_masks: torch.stack(masks)}, min(len(masks), 7))
    return {}


def multiscale_masks(flow):
    """One picture [784] for every coupling, found by sending the pixels' numbers through squeeze and permutations."""
    masks, numbers = [], torch.arange(784.0).view(1, 1, 28, 28)
    for steps in flow.levels:
        numbers = multiscale.squeeze(numbers)
        for step in steps:
            if isinstance(step, multiscale.Permute):
                numbers, _ = step(numbers, 0)
            if isinstance(step, multiscale.Coupling):
                kept, changed = numbers.chunk(2, dim=1)
                mask = torch.full((784,), 0.5)
                mask[kept.flatten().long()], mask[changed.flatten().long()] = 1.0, 0.0
                masks.append(mask)
        numbers, _ = numbers.chunk(2, dim=1)
    return masks


def squeezed_channels():
    """One picture [784] for each channel that an image becomes in the first squeeze."""
    numbers = multiscale.squeeze(torch.arange(784.0).view(1, 1, 28, 28))[0]  # [4, 14, 14]
    return [torch.zeros(784).index_fill(0, channel.flatten().long(), 1.0) for channel in numbers]


def resample_levels(run, title, model, z, numbers):
    """Five images a block; in its columns one level's share of the code is drawn anew, the other stays."""
    grids, begin = {}, 0
    for level, size in enumerate(model.flow.parts(), start=1):
        columns = [z]
        for _ in range(5):
            changed = z.clone()
            changed[:, begin : begin + size] = torch.randn(len(z), size, generator=numbers).to(z.device)
            columns.append(changed)
        grids[f"level {level} redrawn"] = model.decode(torch.stack(columns, 1).flatten(0, 1)) / 255
        begin += size
    figures.image_grids(run.figure("levels.png"), grids, 6, f"{title}: first column as it was")


# script: (the loader of its model file, the analyses)
ANALYSES = {
    registry.VAE: (vae_script.load, latent.vae),
    registry.GAN: (gan_script.load, gan),
    registry.FLOW: (flow_script.load, flow),
    registry.FAMILY: (vae_family.load, latent.family),
}


def analyse(folder):
    """Make the figures and analyses.json of a finished run; its script may have none."""
    run = Finished(folder)
    if run.results["script"] not in ANALYSES:
        return print(f"{folder.name}: its script makes all its figures, there is nothing to add")
    load, make = ANALYSES[run.results["script"]]
    model = load(folder / "model.pt").to(run.device)
    splits = (bmnist if run.data in BINARY else mnist)(data=run.data, download=False)
    if run.data in GREY and run.results["script"] == registry.FAMILY:
        splits = [split.as_means() for split in splits]
    train, val, test = splits
    if run.quick:
        val, test = val.subset(2000), test.subset(2000)
    numbers = make(run, f"{registry.title(folder.name)}, {TITLES[run.data]}", model,
                   *(split.to(run.device) for split in (train, val, test)))  # fmt: skip
    about = {"of": folder.name, "data": run.data, "quick": run.quick, "commit": git_commit()}
    write_atomically(folder / "analyses.json", json.dumps({**about, **numbers}, indent=1).encode())
    print(f"{folder.name}: analysed, see {show(folder)}/")


def analyse_once(folder):
    """The same, unless it was done since the run ended."""
    made, results = folder / "analyses.json", folder / "results.json"
    script = read_results(folder)["script"]
    if script in ANALYSES and not (made.exists() and made.stat().st_mtime >= results.stat().st_mtime):
        analyse(folder)


def main(args):
    runs = ROOT / "runs" / "quick" if args.quick else ROOT / "runs"
    folders = [runs / data / args.run for data in (*BINARY, *GREY)]
    folder = next((folder for folder in folders if (folder / "results.json").exists()), None)
    if folder is None:
        raise UserError(f"there is no finished run {args.run}: python code/study/train.py {args.run}")
    analyse(folder)


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("run", metavar="RUN", help="name of a finished run")
    parser.add_argument("--quick", action="store_true", help="the quick run of this name")
    return parser.parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
