"""Analyses of a finished run: figures and numbers computed from its model file.

    python code/study/analyses.py vae-z2            the run of this name; on MNIST if there are several
    python code/study/analyses.py vae-z2 --quick    the quick run of this name
    python code/study/analyses.py nf --precise      more precise test results: of a flow with up to 64 dequantisation
                                                    samples, of a variant of the VAE with 5,000 samples of q(z|x)

VAE: reconstructions, codes, estimates of log p(x) (Question 1.4), the latent space. GAN: classes, nearest training
images, gradients of both losses (Question 2.4). Flow: temperatures, masks, levels, the error of a rounded z. Figures
are saved in the run's folder, numbers in its analyses.json.
"""

import copy
import statistics
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
import a3_gan_template as gan_script
import a3_nf_template as flow_script
from common import cli, figures, models, quality
from common.devices import choose_device
from common.files import runs_folder
from common.run import git_commit, read_results
from datasets.bmnist import BINARY, bmnist
from datasets.files import UserError, show
from datasets.loading import TITLES
from datasets.mnist import GREY, mnist
from nets import multiscale
from study import charts, latent, registry


class Finished:
    """A finished run: its folder, results and figures."""

    def __init__(self, folder):
        self.folder, self.results = folder, read_results(folder)
        if self.results is None:
            raise UserError(f"{show(folder)} is not a finished run")
        self.quick, self.data = self.results["quick"], self.results["data"]
        self.device, _ = choose_device("auto")

    def figure(self, name):
        (self.folder / "figures").mkdir(exist_ok=True)
        return self.folder / "figures" / name


def save_neighbours(run, title, samples, train):
    """Ten samples [10, 784] in 0..1, and the training images with the smallest Euclidean distance to them."""
    distances = torch.cat([torch.cdist(samples, part.float().cpu() / 255) for part in train.images.split(10000)], 1)
    nearest = train.images[distances.argmin(1).to(train.images.device)].float().cpu() / 255
    rows = {f"{title}: samples above, nearest training images below": torch.cat([samples, nearest])}
    figures.image_grids(run.figure("neighbours.png"), rows, 10)


def gan_gradients(run, title, train, steps=300, rejected=0.05):
    """Question 2.4: the gradients of both losses of G in the first steps of training with Equation 15.

    The networks, the optimiser and the batch size are the template's. D and G take one step each in turn. In every
    step both gradients are computed at the same weights and noise; G then follows the saturating one. The medians are
    over the steps in which D rejects the generated images: its mean output for them is below `rejected`."""
    norms, scores, odds = {"log(1 - D(G(z)))": [], "-log D(G(z))": []}, [], []
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        generator, discriminator = gan_script.Generator().to(run.device), gan_script.Discriminator().to(run.device)
        adam = lambda net: torch.optim.Adam(net.parameters(), 2e-4, fused=True)
        optimizer_G, optimizer_D, weights = adam(generator), adam(discriminator), list(generator.parameters())
        for _ in range(steps // 10 if run.quick else steps):
            chosen = torch.randint(len(train.images), (64,)).to(train.images.device)
            real = train.images[chosen].float().to(run.device) / 127.5 - 1
            fake = generator(generator.noise(64).to(run.device))
            logits = discriminator.logits(torch.cat([real, fake.detach()]))
            optimizer_D.zero_grad()
            gan_script.discriminator_loss(logits[:64], logits[64:]).backward()
            optimizer_D.step()
            logits = discriminator.logits(fake)
            saturating, other = -F.softplus(logits).mean(), gan_script.generator_loss(logits)
            gradients = [torch.autograd.grad(loss, weights, retain_graph=True) for loss in (saturating, other)]
            for norm, gradient in zip(norms.values(), gradients):
                norm.append(float(torch.stack([part.square().sum() for part in gradient]).sum().sqrt()))
            scores.append(float(torch.sigmoid(logits.detach()).mean()))
            odds.append((1 - scores[-1]) / scores[-1])
            for weight, gradient in zip(weights, gradients[0]):
                weight.grad = gradient
            optimizer_G.step()
    charts.generator_losses(run.figure("gradients.pdf"), norms, odds, title)
    rejecting = [step for step, score in enumerate(scores) if score < rejected]
    median = lambda values: statistics.median(values[step] for step in rejecting) if rejecting else None
    saturating, other = norms.values()
    return {
        "steps": len(scores), "rejecting_steps": len(rejecting),
        "norm_ratio": median([b / a for a, b in zip(saturating, other)]), "odds": median(odds),
    }  # fmt: skip


@torch.no_grad()
def gan(run, title, generator, train, val, test):
    """Classes of 10,000 samples, and training images nearest to ten of them; for the run `gan`, Question 2.4 too."""
    classifier = quality.load_classifier(run.data, run.device, lambda: (train, val, test))
    numbers = torch.Generator().manual_seed(0)
    samples = gan_script.images_of(generator, generator.noise(10000, numbers))
    shares = lambda classes: (torch.bincount(classes.cpu(), minlength=10) / len(classes)).tolist()
    classes = {"samples": shares(quality.classify(classifier, samples)[1].argmax(1))}
    classes["training images"] = shares(train.labels)
    charts.bars(run.figure("classes.pdf"), classes, f"{title}: classes of 10,000 samples", "digit", "share")
    save_neighbours(run, title, samples[:10], train)
    if run.folder.name != "gan":
        return {}
    return gan_gradients(run, f"GAN with the template's networks, {TITLES[run.data]}", train)


@torch.no_grad()
def flow(run, title, model, train, val, test):
    """Samples at three temperatures beside real digits, the training images nearest to ten of them, the masks of the
    couplings, samples with one level's noise redrawn, and the error of images whose z was rounded to float32."""
    numbers = torch.Generator().manual_seed(0)
    z = torch.randn(36, *model.flow.z_shape, generator=numbers).to(run.device)
    grids = {f"temperature {t}": model.decode(t * z).cpu() / 255 for t in (0.7, 0.85, 1.0)}
    save_neighbours(run, title, grids["temperature 1.0"][:10], train)
    grids["validation images"] = val.subset(36).images.cpu() / 255
    figures.image_grids(run.figure("temperatures.png"), grids, 6, f"{title}: the same z, scaled")
    if not hasattr(model.flow, "levels"):
        masks = [torch.zeros(784).index_fill(0, layer.kept.cpu(), 1.0) for layer in list(model.flow.layers)[:2]]
        caption = "pixels that the first two couplings keep (white)"
    else:
        resample_levels(run, title, model, z[:5], numbers)
        if any(isinstance(step, multiscale.Conv1x1) for step in model.flow.modules()):  # mixes all channels: no masks
            numbered = multiscale.squeeze(torch.arange(784).view(1, 1, 28, 28))[0]  # [4, 14, 14]
            masks = [torch.zeros(784).index_fill(0, channel.flatten(), 1.0) for channel in numbered]
            caption = "squeeze: the pixels in each of the four channels of the first level"
        else:
            masks = multiscale_masks(model.flow)
            caption = "pixels that each coupling keeps (white) and changes (black); grey: factored out"
    figures.image_grids(run.figure("masks.png"), {caption: torch.stack(masks)}, min(len(masks), 7))
    return {"rounded_z": rounded_z_error(model, val.subset(1000).images)}


def rounded_z_error(model, images):
    """The largest error of a pixel, in grey levels, if z is rounded to float32 and all else is computed in float64.

    So no other way to compute z and its inverse in float32 can be expected to have a smaller error."""
    model = copy.deepcopy(model).cpu().double()
    x = images.cpu().double() + 0.5
    z, ldj = model.flow(*model.logit_normalize(x, torch.zeros_like(x[:, 0])))
    back, _ = model.logit_normalize(*model.flow(z.float().double(), ldj, reverse=True), reverse=True)
    return float((back - x).abs().max())


@torch.no_grad()
def flow_bits(model, test):
    """Bits per dimension on the test split: the densities of 1, 8 and 64 dequantisation samples are averaged.

    `stderr` is the standard error of the mean over images."""
    torch.manual_seed(0)
    log_px, result = flow_script.sampled_log_px(model, test, 64), {}
    for n in (1, 8, 64):
        bpd = flow_script.averaged_bpd(log_px, n)
        result[str(n)] = {"bpd": float(bpd.mean()), "stderr": float(bpd.std() / len(bpd) ** 0.5)}
    return {"test_images": log_px.shape[1], "test_bits": result}


def multiscale_masks(flow):
    """One mask [784] per coupling, found by sending pixel numbers through squeezes and permutations."""
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


def resample_levels(run, title, model, z, numbers):
    """One block per level: five images, each followed by five versions with this level's part of z redrawn."""
    grids, begin = {}, 0
    for level, size in enumerate(model.flow.sizes(), start=1):
        columns = [z, *(z.clone() for _ in range(5))]
        for changed in columns[1:]:
            changed[:, begin : begin + size] = torch.randn(len(z), size, generator=numbers).to(z.device)
        grids[f"level {level} redrawn"] = model.decode(torch.stack(columns, 1).flatten(0, 1)) / 255
        begin += size
    figures.image_grids(run.figure("levels.png"), grids, 6, f"{title}: first column unchanged")


ANALYSES = {registry.VAE: latent.vae, registry.GAN: gan, registry.FLOW: flow, registry.FAMILY: latent.family}


def refuse_others(script):
    if script not in ANALYSES:
        raise UserError(f"there is no analysis for {script}, only for {', '.join(ANALYSES)}")


def analyse(folder, precise=False):
    """Make the figures and analyses.json of a finished run.

    `precise`: for a flow or a variant of the VAE, also test results with more samples, which take minutes. A later
    analysis without `precise` keeps them."""
    run = Finished(folder)
    refuse_others(run.results["script"])
    model = registry.module(run.results["script"]).load(models.model_file(folder)).to(run.device)
    splits = (bmnist if run.data in BINARY else mnist)(data=run.data, download=False)
    if run.data in GREY and run.results["script"] == registry.FAMILY:
        splits = [split.as_means() for split in splits]
    train, val, test = splits
    if run.quick:
        val, test = val.subset(2000), test.subset(2000)
    title = f"{registry.title(folder.name)}, {TITLES[run.data]}"
    train, val, test = (split.to(run.device) for split in (train, val, test))
    more = {registry.FLOW: flow_bits, registry.FAMILY: latent.precise_log_px}.get(run.results["script"])
    if precise and (not more or getattr(model, "autoencoder", False)):
        raise UserError("--precise is for flows and variants of the VAE only")
    before = registry.read_json(folder / "analyses.json") if registry.is_analysed(folder) else {}
    numbers = {key: value for key, value in before.items() if key.startswith("test_")}
    numbers |= ANALYSES[run.results["script"]](run, title, model, train, val, test)
    if precise:
        numbers |= more(model, test) | {"test_commit": git_commit()}
    about = {"of": folder.name, "results": registry.results_digest(folder), "data": run.data}
    about |= {"quick": run.quick, "commit": git_commit()}
    registry.write_json(folder / "analyses.json", {**about, **numbers})
    print(f"{folder.name}: analysed, see {show(folder)}/")


def analyse_once(folder):
    """Analyse a run unless its analysis is up to date."""
    if read_results(folder)["script"] in ANALYSES and not registry.is_analysed(folder):
        analyse(folder)


def main(args):
    runs = runs_folder(args.quick)
    for data in (*BINARY, *GREY):
        if (runs / data / args.run / "results.json").exists():
            return analyse(runs / data / args.run, args.precise)
    entry = registry.get(args.run)
    refuse_others(entry.script)
    command = f"python code/study/train.py {entry.name}" + " --quick" * args.quick
    raise UserError(f"there is no finished run {args.run} on images: {command}")


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("run", metavar="RUN", help="name of a finished run")
    parser.add_argument("--quick", action="store_true", help="the quick run of this name")
    text = "flows and variants of the VAE: also test results with up to 64 or 5,000 samples; takes minutes"
    parser.add_argument("--precise", action="store_true", help=text)
    return parser.parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
