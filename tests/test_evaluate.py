"""Finished runs judged side by side: small runs on glyph digits, missing ones, damaged ones."""

import json
import math
import types

import pytest
import torch

from common import figures, files
from conftest import refusal
from datasets.files import UserError
from study import evaluate, registry

RUNS = {
    "vae-z2": ("a3_vae_template.py", "glyphs-binary", ["--zdim", "2", "--epochs", "1", "--hidden", "32"]),
    "gan": ("a3_gan_template.py", "glyphs", ["--n_epochs", "1"]),
    "nf-multiscale": ("a3_nf_template.py", "glyphs",
                     ["--arch", "multiscale", "--epochs", "1", "--flows", "1", "--hidden", "8", "--batch_size", "256"]),
    "markov": ("beyond/autoregressive.py", "glyphs-binary", ["--model", "markov", "--epochs", "1", "--hidden", "8"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def judged(checkout):
    """Three of the five standard runs and one beyond them, tiny, then what evaluate.py says of them."""
    for run, (script, data, options) in RUNS.items():
        checkout.run(script, "--quick", "--data", data, "--name", run, *options)
    done = checkout.run("study/evaluate.py", "--quick", cwd="/")
    return checkout.folder / "runs" / "quick", done


def test_every_finished_run_is_judged_and_missing_ones_are_named(judged):
    folder, done = judged
    comparison = json.loads((folder / "comparison" / "comparison.json").read_text())
    assert list(comparison) == list(RUNS)
    assert "Skipped, not finished: vae-z20, nf\n" in done.stdout
    assert done.stderr == ""
    for run, entry in comparison.items():
        results = json.loads((folder / RUNS[run][1] / run / "results.json").read_text())
        for key in ("parameters", "data", "seed", "quick"):
            assert entry[key] == results[key]
        assert entry["training_seconds"] == results["seconds"]
        assert entry["seconds_per_1000_samples"] > 0
        for metrics in entry["quality"].values():
            assert sum(metrics["class_counts"]) == metrics["images"] == 1000
            assert metrics["frechet"] > metrics["frechet_floor"] > 0
            for key in ("precision", "recall", "density", "coverage", "class_kl", "confident_share"):
                assert key in metrics
                assert f"{key}_real" in metrics


def test_each_kind_of_image_meets_its_own_reference(judged):
    comparison = json.loads((judged[0] / "comparison" / "comparison.json").read_text())
    references = {
        run: {what: metrics["reference"] for what, metrics in entry["quality"].items()}
        for run, entry in comparison.items()
    }
    assert references["vae-z2"] == {"means": "glyphs", "draws": "glyphs-binary"}
    assert references["markov"] == {"draws": "glyphs-binary"}
    assert references["gan"] == references["nf-multiscale"] == {"samples": "glyphs", "draws": "glyphs-binary"}
    metrics = [metrics for entry in comparison.values() for metrics in entry["quality"].values()]
    floors = {metrics["reference"]: metrics["frechet_floor"] for metrics in metrics}
    assert floors["glyphs"] != floors["glyphs-binary"]


def test_a_gan_is_judged_by_the_samples_that_its_run_was_judged_by(judged):
    folder, _ = judged
    mine = json.loads((folder / "comparison" / "comparison.json").read_text())["gan"]["quality"]["samples"]
    final = json.loads((folder / "glyphs" / "gan" / "results.json").read_text())["final"]
    for key in ("frechet", "precision", "recall", "coverage", "class_counts"):
        assert mine[key] == final[key]


def test_the_draws_of_every_finished_seed_are_judged(tmp_path, monkeypatch):
    """With models that draw more white pixels for some seeds; the distance is the share of white pixels."""
    entry, share = registry.get("gan"), {"gan": 0.1, "gan-seed43": 0.2, "gan-seed44": 0.4}
    for name in share:
        (tmp_path / name).mkdir()
        seed = 42 if name == "gan" else int(name[-2:])
        results = {"script": entry.script, "final": {}, "settings": {"seed": seed}, "seconds": 1.0, "seed": seed,
                   "quick": False, "epochs": 7, "code": "now", "run": name}  # fmt: skip
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    module = types.SimpleNamespace(load=lambda folder: torch.nn.Threshold(share[folder.name], 0.0))
    monkeypatch.setattr(evaluate.registry, "module", lambda script: module)
    monkeypatch.setattr(evaluate.models, "model_file", lambda folder: folder)
    draw = (lambda model, z: (z < model.threshold).float(), lambda model, n: torch.rand(n, 784))
    monkeypatch.setitem(evaluate.MODELS, entry.script, draw)
    monkeypatch.setattr(evaluate, "reference", lambda *_: (None, ("test images", None), None))
    monkeypatch.setattr(evaluate.quality, "classify", lambda classifier, images: (images.mean(1), None))
    monkeypatch.setattr(evaluate.quality, "frechet", lambda a, b: a.double().mean().item())

    def judged():
        others = evaluate.other_seeds(entry, tmp_path / "gan", quick=False)
        first = {"frechet": 0.7, "images": 50, "reference": "bmnist"}
        return evaluate.draws_of_seeds(others, first, evaluate.parse_args([]), torch.device("cpu"))["frechet"]

    found = judged()
    expected = [0.7]
    for seed, white in (43, 0.2), (44, 0.4):
        evaluate.seed_epoch(seed, 8)
        expected.append((torch.rand(50, 784) < white).double().mean().item())
    assert found["values"] == pytest.approx(expected, abs=1e-9)
    assert found["mean"] == pytest.approx(sum(expected) / 3)
    (tmp_path / "gan-seed44").rename(tmp_path / "moved")
    alone = judged()
    assert (alone["values"], alone["deviation"]) == ([0.7], None)
    (tmp_path / "moved").rename(tmp_path / "gan-seed44")
    other = json.loads((tmp_path / "gan-seed44" / "results.json").read_text())
    (tmp_path / "gan-seed44" / "results.json").write_text(json.dumps(other | {"code": "older"}))
    with pytest.raises(UserError, match="different versions of the code"):
        judged()


def test_likelihoods_are_the_runs_own_and_name_their_kind(judged):
    comparison = json.loads((judged[0] / "comparison" / "comparison.json").read_text())
    vae, gan, nf = (comparison[run]["likelihood"] for run in ("vae-z2", "gan", "nf-multiscale"))
    markov = comparison["markov"]["likelihood"]
    assert markov["kind"] == "exact"
    assert markov["test_log_likelihood"] < 0
    assert gan == {"kind": "none"}
    assert nf["kind"] == "bound"
    assert nf["val_bpd"] > 0
    assert vae["kind"] == "bound and importance estimate"
    assert vae["test_elbo_bits_per_pixel"] == pytest.approx(-vae["test_elbo"] / (784 * 0.6931471805599453))
    assert not any("bits per dimension" in str(value) for value in vae.values())


def test_tables_and_figures_name_the_data(judged):
    folder, done = judged
    for part in ("glyph digits (not MNIST)", "Glyph digits are not MNIST", "quick runs with small settings"):
        assert part in done.stdout
    for name in ("samples.png", "interpolations.png", "beyond.png"):
        assert (folder / "comparison" / "figures" / name).stat().st_size > 2000


def test_some_runs_are_judged_alone_and_the_lines_of_others_stay(judged, checkout):
    folder = judged[0] / "comparison"
    before = json.loads((folder / "comparison.json").read_text())
    pictures = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    whole = dict(before)
    del whole["markov"]
    (folder / "comparison.json").write_text(json.dumps(whole))
    checkout.run("study/evaluate.py", "--quick", "--only", "markov")
    after = json.loads((folder / "comparison.json").read_text())
    assert list(after) == list(before)
    assert after["gan"] == before["gan"]
    assert after["markov"]["quality"] == before["markov"]["quality"]
    assert pictures == {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}


@pytest.mark.parametrize("script", evaluate.MODELS)
def test_weights_of_something_else_are_refused(script, tmp_path):
    load, path = registry.module(script).load, tmp_path / "model.pt"
    model = {"script": script, "sizes": {}, "state": {}}
    for state in ({"other": 1}, [1, 2], model, model | {"sizes": {"latent_dim": "many"}}, model | {"state": [1]}):
        files.save_state(path, state)
        with pytest.raises(UserError):
            load(path)


def test_a_run_that_is_not_compared_is_refused(capsys):
    assert "does not mark these runs as compared: lstm" in refusal(evaluate, ["--quick", "--only", "lstm"], capsys)


def test_no_run_and_a_damaged_results_file_are_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    main = lambda: evaluate.main(evaluate.parse_args(["--quick", "--device", "cpu"]))
    with pytest.raises(UserError, match=r"no finished run of vae-z20, .*study/train\.py vae-z20 --quick$"):
        main()
    folder = tmp_path / "runs" / "quick" / "glyphs" / "gan"
    folder.mkdir(parents=True)
    for content in ("{", "[]", "{}"):
        (folder / "results.json").write_text(content)
        with pytest.raises(UserError, match="damaged"):
            main()


def test_real_data_come_before_other_data(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    entry = registry.get("nf")
    for data in ("glyphs", "mnist"):
        folder = tmp_path / "runs" / data / "nf"
        folder.mkdir(parents=True)
        results = {"data": data, "final": {}, "settings": {}, "seconds": 1, "seed": 42, "quick": False}
        (folder / "results.json").write_text(json.dumps(results))
        assert registry.finished(entry)[1]["data"] == data
    assert registry.finished(entry, quick=True) is None


def test_an_interpolation_joins_two_digits_by_a_models_own_way():
    class Judge(torch.nn.Module):
        """Sees a 3 where the first pixel is bright, an 8 where the second is."""

        def __init__(self):
            super().__init__()
            self.nothing = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images):
            logits = torch.zeros(len(images), 10)
            logits[:, 3], logits[:, 8] = 5 * images[:, 0], 5 * images[:, 1]
            return logits, images

    decode = lambda z: torch.cat([z, torch.zeros(len(z), 780)], 1)
    torch.manual_seed(0)
    path = evaluate.interpolation(decode, lambda n: torch.randn(n, 4), Judge(), torch.device("cpu"))
    assert path.shape == (evaluate.STEPS, 784)
    assert path[0, 0] > path[-1, 0] + 1
    assert path[-1, 1] > path[0, 1] + 1


def test_a_figure_that_would_lack_runs_is_removed_and_one_of_other_runs_stays(tmp_path):
    (tmp_path / "figures").mkdir()
    samples, beyond = (tmp_path / "figures" / name for name in ("samples.png", "beyond.png"))
    for path in (samples, beyond):
        path.write_bytes(b"old")
    data, gan, nf = {"data": "mnist"}, {"gan": {"GAN": torch.rand(18, 784)}}, {"nf": {"RealNVP": torch.rand(18, 784)}}
    evaluate.save_figures(tmp_path, {"gan": data, "nf": data, "markov": data}, gan, {})
    assert not samples.exists()
    assert beyond.read_bytes() == b"old"
    evaluate.save_figures(tmp_path, {"gan": data, "nf": data, "markov": data}, gan | nf, {})
    assert samples.read_bytes().startswith(b"\x89PNG")


def test_the_untrained_model_is_named_so_even_if_half_of_the_training_is_none():
    names = {(0, 1): "epoch 0, untrained", (1, 1): "epoch 1, end", (2, 4): "epoch 2, half-way", (3, 4): "epoch 3"}
    assert {stage: figures.stage_name(*stage) for stage in names} == names


def test_images_that_overflow_count_as_black(capsys):
    codes = torch.full((3, 784), 0.5)
    codes[1, 7] = math.nan
    images = evaluate.images_from(lambda z: z, codes, "cpu")
    assert torch.equal(images, torch.tensor([[0.5], [0.0], [0.5]]).expand(3, 784))
    assert "1 of 3 samples overflow" in capsys.readouterr().out
    assert figures.tile(codes[1:2], 1)[1, 8] == 0
