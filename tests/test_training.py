"""The scripts' main functions on tiny data, in this process: which epoch is kept, what is measured on which images,
resuming, schedules. Training is real; validation metrics are replaced where a test needs a certain best epoch."""

import json
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch

import a3_gan_template as gan
import a3_nf_template as nf
import a3_vae_template as vae
import tiny
from beyond import autoregressive as ar
from beyond import vae_family as family
from common import files, quality, run
from datasets import loading
from datasets.files import UserError
from study import analyses

SIZES = (40, 30, 20)
SAVE_FIGURES = family.save_figures
CHOSEN = 2  # the epoch that the made-up validation metrics prefer


@dataclass
class Case:
    module: ModuleType
    words: str
    metric: str  # of validation images
    curve: tuple  # made up for epochs 1, 2, 3; the first number of a pair is that of training images
    unit: float = 1.0  # what run_epoch returns in the metric's unit

    def __call__(self, *more):
        words = f"--quick --name tiny --batch_size 8 {self.words}".split()
        self.module.main(self.module.parse_args([*words, *more]))


ELBOS, BITS = ((-9, -100), (-7, -50), (-1, -200)), ((1.8, 1.9), (1.7, 1.5), (1.1, 3.0))
NATS = ((-9.0, -100.0), (-7.0, -50.0), (-1.0, -200.0))
CASES = {
    "vae": Case(vae, "--epochs 3 --hidden 8 --zdim 2 --eval_samples 7", "val_elbo", ELBOS),
    "gan": Case(gan, "--n_epochs 3 --latent_dim 5", "frechet_val", (5.0, 3.0, 7.0)),
    "nf": Case(nf, "--epochs 3 --hidden 8 --flows 1", "val_bpd", BITS),
    "multiscale": Case(
        nf, "--epochs 2 --hidden 4 --flows 1 --arch multiscale --shift 1 --eval_images 9", "val_bpd", BITS
    ),
    "autoregressive": Case(ar, "--epochs 3 --model markov --hidden 4", "val_log_px", NATS),
    "8-bit": Case(
        ar, "--epochs 3 --model markov --hidden 4 --likelihood softmax256", "val_bpd", NATS, nf.bits_per_dim(1)
    ),
    "family": Case(family, "--epochs 2 --hidden 8 --zdim 2 --prior coupling --eval_samples 7", "val_elbo", ELBOS),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


@pytest.fixture
def data(monkeypatch, tmp_path):
    """Tiny splits in place of the real ones, runs in a temporary folder, no figures."""
    grey = tiny.grey_images(SIZES)
    monkeypatch.setattr(loading, "find", lambda name, names, *_: tiny.find(SIZES, name, names))
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(run, "git_commit", lambda: None)
    monkeypatch.setattr(run, "code_digest", lambda script: "")
    monkeypatch.setattr(gan, "EVALUATE_EVERY", 1)
    monkeypatch.setattr(ar, "samples_per_second", lambda *_: (1.0, 1.0))
    monkeypatch.setattr(ar.Model, "sample", lambda self, uniforms: uniforms)
    torch.manual_seed(5)
    classifier = tiny.Judge()
    monkeypatch.setattr(quality, "load_classifier", lambda *_: classifier)
    for module in (vae, gan, nf, ar, family):
        monkeypatch.setattr(module, "save_figures", lambda *_: None)
    monkeypatch.setattr(gan, "save_interpolations", lambda *_: None)
    yield {"grey": grey, "binary": [(part > 127).float() for part in grey], "classifier": classifier}
    release()


def release():
    if run.current:
        run.current.lock.release()
    run.current = None


def finished(case):
    folder = run.current.folder
    results = json.loads((folder / "results.json").read_text())
    return results, case.module.load(folder / "model.pt")


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def watch_epochs(case, monkeypatch):
    """The made-up curve in place of the measured one. What there was after each epoch: weights, learning rate, share
    of shifted images, KL weight."""
    seen, owner = [], vae if case.module is family else case.module
    original = owner.run_epoch

    def run_epoch(model, data, optimizer, schedule):
        (train, _), start = data, len(seen)
        loader = train.gi_frame.f_locals["loader"]  # train_progress is a generator over it
        original(model, data, optimizer, schedule)
        seen.append((weights(model), optimizer.param_groups[0]["lr"], loader.share, getattr(model, "beta", None)))
        return case.curve[start]

    monkeypatch.setattr(owner, "run_epoch", run_epoch)
    return seen


@pytest.mark.parametrize("name", [name for name in CASES if name != "gan"])
def test_the_best_validation_epoch_is_kept_and_judged_once_on_test_images(name, data, monkeypatch):
    case = CASES[name]
    seen = watch_epochs(case, monkeypatch)
    case()
    results, model = finished(case)
    final, args = results["final"], run.current.args
    assert results["curves"][case.metric][1:] == [case.unit * value for _, value in case.curve[: args.epochs]]
    assert final["best_epoch"] == CHOSEN
    assert same(seen[CHOSEN - 1][0], weights(model))
    known = final["val_log_likelihood" if name == "autoregressive" else case.metric]
    assert known == case.unit * case.curve[CHOSEN - 1][1]
    # the rest of `final` is that of the kept weights, on test images, with the seed behind the last epoch
    grey, binary = data["grey"][2].float(), data["binary"][2]
    run.seed_epoch(args.seed, args.epochs + 1)
    with torch.no_grad():
        if case.module is nf:
            picked = torch.linspace(0, len(grey) - 1, min(args.eval_images, len(grey))).long()
            batches = [(part, None) for part in grey[picked].split(8)]
            assert final["eval_images"] == len(picked)
            log_px = nf.sampled_log_px(model, batches, 8)
            assert final["test_bpd"] == nf.averaged_bpd(log_px, 1).mean()
            assert final["test_bpd_8"] == nf.averaged_bpd(log_px, 8).mean()
        elif name == "8-bit":
            assert final["test_bpd"] == pytest.approx(nf.bits_per_dim(model(grey).mean().item()))
        elif name == "autoregressive":
            assert final["test_log_likelihood"] == pytest.approx(model(binary).mean().item())
        else:
            found = case.module.log_likelihood(model, binary.split(8), 7)
            assert (final["test_elbo"], final["test_log_likelihood"]) == found


def test_the_best_gan_is_kept_and_judged_once_on_test_images(data, monkeypatch):
    case, averages, rates, features, penalties, decays = CASES["gan"], [], [], [], [], []
    made_up, frechet, update, train = [1.0, 9.0, *case.curve], quality.frechet, gan.update_batchnorm, gan.train

    def judge(a, b):
        features.append((a, b))
        return made_up[len(features) - 1] if len(features) <= len(made_up) else frechet(a, b)

    def watched(average, batches):
        averages.append(weights(update(average, batches)))
        return average

    def timed(batches, discriminator, generator, optimizer_G, optimizer_D, *more):
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in (optimizer_G, optimizer_D)])
        penalties.append(more[0])
        return train(batches, discriminator, generator, optimizer_G, optimizer_D, *more)

    def averaged(average, generator, decay):
        decays.append(decay)
        return update_average(average, generator, decay)

    update_average = gan.update_average
    for module, name, function in (
        (gan, "update_average", averaged),
        (quality, "frechet", judge),
        (gan, "update_batchnorm", watched),
        (gan, "train", timed),
    ):
        monkeypatch.setattr(module, name, function)
    case("--lr", "0.006", "--d_lr", "0.003")
    results, model = finished(case)
    final = results["final"]
    assert (final["best_epoch"], final["frechet_val"], final["frechet_floor_val"]) == (CHOSEN, 3.0, 1.0)
    assert results["curves"]["frechet_val"] == [9.0, *case.curve]
    assert same(averages[CHOSEN], weights(model))
    decay = [1, 2 / 3 / 0.7, 1 / 3 / 0.7]  # constant for 30 %, then linear to 0
    assert rates == [[pytest.approx(0.006 * factor), pytest.approx(0.003 * factor)] for factor in decay]
    assert penalties == 3 * [run.current.args.penalty]
    assert decays[:3] == [2 / 11, 3 / 12, 4 / 13]  # a short average at first
    of = [quality.classify(data["classifier"], split / 255)[0] for split in data["grey"]]
    assert torch.equal(features[0][0], of[0])
    assert all(torch.equal(against, of[1]) for _, against in features[:5])
    run.seed_epoch(run.current.args.seed, 4)
    samples = gan.images_of(model, model.noise(1000))
    train_images, _, test_images = (split / 255 for split in data["grey"])
    expected = quality.evaluate_samples(data["classifier"], samples, test_images, train_images)
    assert {key: final[key] for key in expected} == expected


def test_the_averaged_generators_statistics_are_computed_in_the_epochs_that_use_them(data, monkeypatch):
    update, epochs = gan.update_batchnorm, []

    def watched(average, batches):
        epochs.append(len(run.current.history))
        return update(average, batches)

    monkeypatch.setattr(gan, "EVALUATE_EVERY", 4)
    monkeypatch.setattr(gan, "update_batchnorm", watched)
    CASES["gan"]()
    assert epochs == [0, 1, 3]  # samples are measured in the first and the last epoch, and drawn half-way


@cases
def test_a_stopped_and_resumed_run_ends_with_the_same_numbers_and_weights(case, data, monkeypatch):
    case("--fresh")
    whole = end_of(case)
    save = run.Run.save

    def save_and_stop(self, *words, **state):
        save(self, *words, **state)
        if len(self.history) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            case("--fresh")
    checkpoint, good = run.current.checkpoint, run.current.checkpoint.read_bytes()
    release()
    other, first = ["--seed", "7"], "seed"
    if case.module is nf:  # the first setting that differs is alpha
        other, first = ["--arch", "template" if "multiscale" in case.words else "multiscale"], "alpha"
    with pytest.raises(UserError, match=f"was made with {first} = "):
        case("--resume", *other)
    release()
    with monkeypatch.context() as patch:
        patch.setattr(run, "code_digest", lambda script: "other")
        with pytest.raises(UserError, match="was started with different code"):
            case("--resume")
    release()
    checkpoint.write_bytes(good[:-100] + bytes([good[-100] ^ 4]) + good[-99:])
    with pytest.raises(UserError, match=r"checkpoint\.pt is damaged"):
        case("--resume")
    release()
    checkpoint.write_bytes(good)
    case("--resume")
    resumed = end_of(case)
    assert same(whole.pop("weights"), resumed.pop("weights"))
    assert whole == resumed


def test_a_run_that_is_resumed_with_other_threads_names_both_numbers(data, monkeypatch):
    case, save = CASES["vae"], run.Run.save

    def save_and_stop(self, *words, **state):
        save(self, *words, **state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "save", save_and_stop)
        patch.setattr(run, "facts", lambda device: {"threads": 64})
        with pytest.raises(KeyboardInterrupt):
            case()
    release()
    monkeypatch.setattr(run, "facts", lambda device: {"threads": 3})
    case("--resume")
    results, _ = finished(case)
    assert results["threads"] == 3
    assert [machine["threads"] for machine in results["machines"]] == [64, 3]
    release()
    case("--fresh")
    assert "machines" not in finished(case)[0]


def test_a_checkpoint_without_settings_is_refused(data, tmp_path):
    folder = tmp_path / "runs" / "quick" / "glyphs-binary" / "tiny"
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"nothing of ours")
    with pytest.raises(UserError, match=r"tiny/settings\.json is missing or damaged"):
        CASES["vae"]()


def end_of(case):
    """What a run ends with, apart from times."""
    results, model = finished(case)
    checkpoint = torch.load(run.current.checkpoint, weights_only=True)
    assert results["seconds"] == pytest.approx(sum(checkpoint["epoch_seconds"]), abs=0.01)
    assert results["epoch_seconds"] == pytest.approx(checkpoint["epoch_seconds"], abs=0.001)
    final = {key: value for key, value in results["final"].items() if not key.startswith("seconds")}
    table = (run.current.folder / "metrics.csv").read_text()
    release()
    return {"weights": weights(model), "final": final, "curves": results["curves"], "table": table}


@pytest.mark.parametrize("name", ["vae", "nf", "family"])
def test_shifts_and_learning_rate_fall_and_the_kl_weight_rises_to_beta(name, data, monkeypatch):
    case, seen = CASES[name], watch_epochs(CASES[name], monkeypatch)
    case(*(["--beta", "3", "--warmup", "1"] if name == "family" else []))
    epochs = run.current.args.epochs
    _, rates, shares, betas = zip(*seen)
    least = 0.3 if name == "vae" else 0
    assert shares == tuple(max(least, 1 - epoch / (0.9 * epochs)) for epoch in range(epochs))
    assert rates[-1] < 1e-5 < rates[0]
    assert betas == {"vae": (None,) * epochs, "nf": (None,) * epochs, "family": (1.5, 3.0, 3.0)[:epochs]}[name]


@pytest.mark.parametrize("options", [
    "--decoder gaussian", "--decoder pixelcnn --pixelcnn 2 1 --free_bits 0.1", "--posterior iaf --prior coupling",
])  # fmt: skip
def test_a_variant_of_the_vae_makes_its_figures_and_is_analysed(options, data, monkeypatch):
    monkeypatch.setattr(family, "save_figures", SAVE_FIGURES)
    case = Case(family, "--epochs 1 --hidden 32 --zdim 4 --eval_images 10 --eval_samples 5", "val_elbo", ELBOS)
    case(*options.split())
    results, _ = finished(case)
    assert results["final"]["eval_images"] == 10
    analyses.analyse(run.current.folder)
    numbers = json.loads((run.current.folder / "analyses.json").read_text())
    assert ("log_px_with_its_own" in numbers) == ("pixelcnn" in options)
    assert ("slant_more" in numbers) == ("pixelcnn" not in options)
    names = {path.name for path in (run.current.folder / "figures").iterdir()}
    assert {"elbo.pdf", "terms.pdf", "samples.png", "aggregate.pdf", "interpolation.png", "norms.pdf"} < names


def groups_of(case, options, monkeypatch):
    """{name of a weight: peak learning rate of its group}, and the norm of huge gradients after a step."""
    rates, norms, owner = {}, [], vae if case.module is family else case.module

    def run_epoch(model, data, optimizer, schedule):
        names = {id(weight): name for name, weight in model.named_parameters()}
        for group in optimizer.param_groups:
            rates.update({names[id(weight)]: group["max_lr"] for weight in group["params"]})
        for weight in model.parameters():
            weight.grad = torch.full_like(weight, 1e4)
        optimizer.step()
        norms.append(torch.stack([w.grad.norm() for w in model.parameters() if w.grad is not None]).norm().item())
        return case.curve[0]

    with monkeypatch.context() as patch:
        patch.setattr(owner, "run_epoch", run_epoch)
        case("--epochs", "1", *options.split())
    return rates, norms[0]


def test_flows_in_a_variant_learn_slower_and_gradients_are_clipped(data, monkeypatch):
    options = "--posterior sylvester --prior coupling --lr 0.03"
    rates, norm = groups_of(CASES["family"], options, monkeypatch)
    slow = {name for name in rates if name.startswith("flow.amortised.")}
    flows = {name for name in rates if name.startswith(("flow.", "prior."))} - slow
    assert slow
    assert flows
    assert all(rates[name] == pytest.approx(0.003) for name in slow)
    assert all(rates[name] == pytest.approx(0.01) for name in flows)
    assert all(rates[name] == 0.03 for name in rates.keys() - slow - flows)
    assert norm == pytest.approx(100, rel=1e-3)


def test_muon_has_its_own_learning_rate(data, monkeypatch):
    rates, _ = groups_of(CASES["multiscale"], "--lr 0.003 --muon 0.02", monkeypatch)
    assert set(rates.values()) == {0.003, 0.02}
    hidden = {name for name, rate in rates.items() if rate == 0.02}
    weights = dict(run.current and nf.load(run.current.folder / "model.pt").named_parameters())
    assert all(weights[name].ndim > 1 for name in hidden)


def test_an_autoencoder_has_no_bound_and_keeps_its_last_epoch(data, monkeypatch):
    monkeypatch.setattr(family, "save_figures", SAVE_FIGURES)
    case = Case(family, "--epochs 2 --hidden 8 --zdim 4 --autoencoder", "val_reconstruction", NATS)
    seen = watch_epochs(case, monkeypatch)
    case()
    results, model = finished(case)
    assert same(weights(model), seen[-1][0])
    assert {key for key, value in results["final"].items() if value is None} == {
        "val_elbo", "val_kl", "test_elbo", "test_log_likelihood"
    }  # fmt: skip
    analyses.analyse(run.current.folder)
    assert {"decoded.png", "samples.png", "terms.pdf"} == {path.name for path in run.current.folder.glob("figures/*")}


def test_every_epoch_and_every_seed_have_random_numbers_of_their_own():
    drawn = set()
    for seed in (1, 2):
        for epoch in range(4):
            run.seed_epoch(seed, epoch)
            drawn.add(torch.rand(1).item())
    assert len(drawn) == 8


def test_the_epoch_that_passes_the_bar_is_one_of_validation_images(data, monkeypatch):
    case = CASES["nf"]
    watch_epochs(case, monkeypatch)
    case()
    results, _ = finished(case)
    spent = run.current.epoch_seconds
    assert results["final"]["first_epoch_below_1_85"] == 2
    assert results["final"]["seconds_to_1_85"] == pytest.approx(sum(spent[:3]))
    assert spent[2] > 0
