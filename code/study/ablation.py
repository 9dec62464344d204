"""What each change is worth: variants of a model, trained for the same seconds on the same machine.

    python code/study/ablation.py nf --seconds 450                    all rows of the table, one seed; resumable
    python code/study/ablation.py nf --seconds 450 --seed 42 43 44    three seeds
    python code/study/ablation.py nf --seconds 450 --only affine      some rows; the others keep what they have
    python code/study/ablation.py nf --seconds 60 --quick             small runs, to check that everything works

ROWS has the variants of each model: a name, the change in words and the options of the script. A row with
None instead is the plain loop of the race (race.py): the template's networks and learning rate. A variant is trained in
runs/<data>/ablation-<model>-<row>-<seconds>s-seed<seed>/ for a whole number of epochs. One epoch, trained before, tells
how many epochs come nearest to the given seconds, and the learning rate's schedule spans exactly these epochs. Nothing
else should run on the machine. Values are those of the validation images at the best epoch; the plain loop is evaluated
thirteen times. Variants of the flow are evaluated on one test image only, to save time. runs/<model>-ablation.json has
the table, runs/gan-ablation.png samples of three GANs (not drawn with `--only`).

The rows of the VAE begin with a typical solution (tanh, Adam at 0.001) and add one change of ours, or a group of
changes, at a time; the last one, and that of `vae-z2`, with two latent dimensions, leave one change out. All use our
data loader and number format, so they show the effect on the result, not on the speed; loops.py has the loop. They
have no folder: repeating the command trains all rows again; `--only` trains the rows that it names.

Each row names its machine, its commit and the digest of its code: that of the script, or of loops.py.
"""

import sys
import time
from pathlib import Path

import torch

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
import a3_gan_template as gan
import a3_vae_template as vae
from common import cli, figures
from common.devices import facts
from common.digest import code_digest
from common.files import load_state, runs_folder
from common.run import git_commit, read_results, seed_epoch, settings_of
from datasets.bmnist import bmnist
from datasets.files import UserError, show
from datasets.loading import TITLES
from study import loops, race, registry, tables
from study.registry import SEEDS
from study.train import call, data_at_hand

CHANGES = tuple(loops.VAE_CHANGES)
WITHOUT_INIT = tuple(name for name in CHANGES if name != "init")
# model: (its run in the registry, option for the number of epochs, options of all its runs, rows)
# row: (change in words, options; None for the plain loop; a tuple for the changes of loops.VAE_CHANGES)
ROWS = {
    "vae": ("vae-z20", None, None, {
        "typical": ("typical solution: tanh, Adam at 0.001", ()),
        **{name: (words, CHANGES[: i + 1]) for i, (name, words) in enumerate(loops.VAE_CHANGES.items())},
        "no-init": ("all changes but the wider initial weights", WITHOUT_INIT),
    }),
    "vae-z2": ("vae-z2", None, None, {
        "ours": ("our VAE with D = 2", CHANGES),
        "no-init": ("all changes but the wider initial weights", WITHOUT_INIT),
    }),
    "nf": ("nf", "--epochs", "--eval_images 1", {
        "plain": ("RealNVP, plain loop", None),
        "ours": ("RealNVP, our training", ""),
        "multiscale": ("multi-scale flow", "--arch multiscale"),
        "affine": ("multi-scale, affine couplings", "--arch multiscale --components 0"),
        "uniform": ("multi-scale, uniform noise", "--arch multiscale --dequantize uniform"),
        "conv1x1": ("multi-scale, 1 x 1 convolutions for permutations", "--arch multiscale --mix conv1x1"),
        "narrow": ("multi-scale, half as wide", "--arch multiscale --hidden 24"),
        "shallow": ("multi-scale, half as deep", "--arch multiscale --flows 3"),
    }),
    "gan": ("gan", "--n_epochs", "", {  # the figure shows the first three rows
        "plain": ("plain loop", None),
        "ours": ("our GAN", ""),
        "codes": ("without codes in the noise", "--codes 0"),
        "noise": ("100 dimensions of normal noise", "--latent_dim 100"),
        "waves": ("pixels instead of waves", "--waves 0"),
        "penalty": ("without gradient penalty", "--penalty 0"),
        "averaging": ("without averaged weights", "--averaging 0"),
    }),
}  # fmt: skip


MADE_BY = (*facts(), "code")  # the same for all seeds of a row


def script_of(model, options):
    """The script whose digest names the code of a row with these options."""
    return registry.get(ROWS[model][0]).script if isinstance(options, str) else "study/loops.py"


def train(entry, options, folder, quick):
    """The results of a run of the script; it is trained, or resumed, if it is not finished."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*options.split(), *["--quick"] * quick]
    if not read_results(folder):
        where = ["--data", folder.parent.name, "--name", folder.name, "--device", "cpu"]  # as the plain loop
        call([f"code/{entry.script}", *where, "--resume", *words], folder / "log.txt")
    results, settings = read_results(folder), settings_of(registry.module(entry.script).parse_args(words))
    if (results["code"], results["settings"]) != (code_digest(entry.script), settings):
        raise UserError(f"{show(folder)} was made by other code or with other settings: delete it to train it again")
    return results


def epochs_for(seconds, of_one):
    """The number of epochs that comes nearest to `seconds`, if one epoch takes `of_one`; at least one."""
    return max(1, round(seconds / of_one))


def train_changed(changes, z_dim, seed, data, quick, seconds):
    """{seconds, value, epochs} of the VAE's training with these changes. The value is that of the best epoch."""
    train, val, _ = bmnist(batch_size=256 if "cycle" in changes else 128, data=data, shift=1)
    if quick:
        train, val = train.subset(2000), val.subset(500)

    def run(epochs):
        """The seconds of training and the validation bound after each epoch."""
        torch.manual_seed(seed)
        loop, values, spent = loops.changed_vae(train, epochs, changes, z_dim), [], 0.0
        for epoch in range(1, epochs + 1):
            seed_epoch(seed, epoch)
            start = time.perf_counter()
            loop.epoch()
            spent += time.perf_counter() - start
            loop.nets[0].eval()
            values.append(float(vae.epoch_iter(loop.nets[0], val, None)))
        return spent, values

    spent, values = run(epochs_for(seconds, run(1)[0]))
    return {"seconds": spent, "value": max(values), "epochs": len(values)}


def measure(model, row, seed, args, data):
    """{seconds, value, epochs, commit, *MADE_BY} of one variant and seed, and its folder.

    The plain loop counts no epochs; the variants of the VAE have no folder."""
    run, epochs_option, common, rows = ROWS[model]
    entry, options, metric = registry.get(run), rows[row][1], registry.get(run).metric
    name = f"ablation-{model}-{row}-{args.seconds:g}s-seed{seed}"
    folder = runs_folder(args.quick) / data / name
    here = facts() | {"commit": git_commit(), "code": code_digest(script_of(model, options))}
    if isinstance(options, tuple):
        z_dim = registry.settings(entry)["zdim"]
        return here | train_changed(options, z_dim, seed, data, args.quick, args.seconds), None
    if options is None:
        folder.mkdir(parents=True, exist_ok=True)
        plain = race.plain(entry, seed, data, args.quick, folder, args.seconds)
        value = min(value for _, value in plain["curve"])
        return here | {"commit": plain["commit"], "seconds": plain["seconds"], "value": value, "epochs": None}, folder
    options, timing = f"{options} {common} {epochs_option}", folder.with_name(f"ablation-{model}-{row}-timing")
    timed = train(entry, f"{options} 1 --seed {SEEDS[0]}", timing, args.quick)
    epochs = epochs_for(args.seconds, timed["seconds"])
    if (epochs, seed) == (1, SEEDS[0]):  # that run already is the variant
        folder = timing
    results = train(entry, f"{options} {epochs} --seed {seed}", folder, args.quick)
    there = {key: results[key] for key in (*MADE_BY, "commit")}
    there |= {"seconds": results["seconds"], "value": results["final"][metric], "epochs": results["epochs"]}
    return there, folder


def save_samples(path, folders, title):
    """Random samples of the first variants of the GAN after training. `folders`: {row: folder of one seed}."""
    rows = {}
    for row, folder in list(folders.items())[:3]:
        if ROWS["gan"][3][row][1] is None:
            net = loops.plain_gan(torch.zeros(1, 784)).nets[0].eval()
            net.load_state_dict(load_state(folder / "plain.pt")["parts"][0])
        else:
            net = gan.load(folder / "model.pt")
        torch.manual_seed(0)
        rows[ROWS["gan"][3][row][0]] = gan.draw(net, 16)
    figures.image_rows(path, rows, title)


def main(args):
    run, _, _, rows = ROWS[args.model]
    if unknown := set(args.only or ()) - rows.keys():
        raise UserError(f"{args.model} has no row {', '.join(sorted(unknown))}: choose from {', '.join(rows)}")
    entry = registry.get(run)
    data = data_at_hand([entry])[entry.kind]
    path = runs_folder(args.quick) / f"{args.model}-ablation.json"
    table = registry.read_json(path)
    before = {row["name"]: row for row in table.get("rows", ())}
    if before and (table["data"], table["seconds"]) != (data, args.seconds):
        made = f"{show(path)} was made with {table['seconds']:g} s on {table['data']}"
        raise UserError(f"{made}, not {args.seconds:g} s on {data}: delete it to start again")
    seeds, folders = list(dict.fromkeys(args.seed)), {}
    for row in args.only or rows:
        found = []
        for seed in seeds:
            result, folder = measure(args.model, row, seed, args, data)
            folders.setdefault(row, folder)
            found.append(result)
            print(f"{row}, seed {seed}: {result['value']:.4f} after {result['seconds']:.0f} s", flush=True)
        about = {key: found[0][key] for key in (*MADE_BY, "commit")}
        if different := [key for key in MADE_BY if any(each[key] != about[key] for each in found)]:
            raise UserError(
                f"the seeds of row {row} were trained with other {' and '.join(different)}: delete their folders"
            )
        columns = {key: [each[key] for each in found] for key in ("seconds", "value", "epochs")}
        before[row] = {"name": row, "change": rows[row][0], "options": rows[row][1], "seeds": seeds,
                       **columns, **about}  # fmt: skip
        table = {"model": args.model, "data": data, "quick": args.quick, "metric": entry.metric,
                 "seconds": args.seconds, "rows": [before[name] for name in rows if name in before]}  # fmt: skip
        registry.write_json(path, table)
    files = [path]
    if args.model == "gan" and not args.only:
        files.append(path.with_suffix(".png"))
        title = f"GAN, {TITLES[data]}: samples after {args.seconds:g} s of training"
        save_samples(files[-1], folders, title)
    print("\n" + tables.plain(*tables.ablation(table)) + "\n")
    print(f"Files:  {', '.join(map(show, files))}")


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("model", choices=list(ROWS), help="the model whose variants are trained")
    seconds = cli.number(float, above=0)
    parser.add_argument("--seconds", type=seconds, required=True, help="seconds of training of each variant")
    seed = cli.number(int, 0, 2**31)
    parser.add_argument("--seed", nargs="+", type=seed, default=[SEEDS[0]], help="train each variant with each seed")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="train these variants only")
    parser.add_argument("--quick", action="store_true", help="small runs, to check that everything works")
    return parser.parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
