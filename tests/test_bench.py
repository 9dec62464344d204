"""What is timed and counted, on tiny settings (never how fast), and the arithmetic over seeds."""

import json

import pytest
import torch

import bench
import contestants
import experiment
import figures
import seeds


@pytest.fixture(scope="module")
def machine():
    return bench.machine(64, 1000)


def test_multiplications_are_counted_with_every_place_of_a_convolution():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(3 * 16, 5)
    )  # fmt: skip
    assert contestants.multiply_adds(net, torch.zeros(2, 1, 4, 4)) == 3 * 9 * 16 + 3 * 16 * 5
    assert net.training
    assert not any(layer._forward_hooks for layer in net)


def test_the_plain_coupling_is_inverted_and_keeps_what_its_mask_says():
    torch.manual_seed(0)
    mask = contestants.nf.get_mask()
    coupling, z, ldj = contestants.MaskedCoupling(mask), torch.randn(3, 784), torch.zeros(3)
    with torch.no_grad():
        changed, forward = coupling(z, ldj)
        back, both = coupling(changed, forward, reverse=True)
    assert torch.equal(changed * mask, z * mask)
    assert not torch.allclose(changed, z)
    assert torch.allclose(back, z, atol=1e-4)
    assert torch.allclose(both, torch.zeros(3), atol=1e-3)


@pytest.mark.parametrize("name", ["vae-z20", "nf-multiscale"])
def test_a_comparison_has_every_figure_of_both_sides(name, machine, glyph_cache):
    result = bench.compare(name, machine, images=70, repeats=2, samples=10)
    sides = {"ours", "plain"} if name == "vae-z20" else {"ours"}
    assert sides == result.keys() - {"ratio", "ratio_spread"}
    assert ("ratio" in result) == (name == "vae-z20")
    for side in sides:
        figures_ = result[side]
        parts = [figures_[f"{part}_milliseconds"] for part in ("forward", "backward", "optimiser", "data")]
        assert all(part > 0 for part in parts)
        assert sum(parts) < 3 * figures_["milliseconds_per_step"]
        for key in ("images_per_second", "images_per_second_spread", "share_of_matrix_rate", "samples_per_second"):
            assert figures_[key] > 0
    assert len(list(bench.rows({name: result}))) == len(sides)
    assert all(len(row) == len(bench.HEADER) for row in bench.rows({name: result}))
    json.dumps(result)


def test_a_gans_step_counts_both_nets(glyph_cache):
    images = contestants.MODELS["gan"][2]().subset(4)
    ours, narrow = contestants.our_gan(images), contestants.our_narrow_gan(images)
    plain = contestants.plain_gan(images.images)
    assert ours.operations > 2 * narrow.operations
    # one pass through D less: G's step does not need D's gradient
    assert plain.operations - narrow.operations == 2 * 1 * (784 * 512 + 512 * 256 + 256)


def test_patched_functions_are_put_back(machine, glyph_cache):
    before = torch.Tensor.backward, torch.nn.utils.clip_grad_norm_
    contestant = contestants.our_nf(contestants.grey_images([]).subset(20), ["--hidden", "8", "--flows", "1"])
    whole, spent, steps = bench.one_epoch(contestant)
    assert (torch.Tensor.backward, torch.nn.utils.clip_grad_norm_) == before
    assert steps == 1
    assert sum(spent.values()) == pytest.approx(whole)


def test_growth_has_three_points_an_axis_and_a_figure(tmp_path, glyph_cache):
    result = bench.growth(1, images=(20, 40, 60), hidden=(4, 8, 16), couplings=(2, 4, 6), base=20)
    assert list(result) == ["images", "hidden width", "couplings"]
    assert all(len(line["seconds"]) == len(line["x"]) == 3 for line in result.values())
    assert result["couplings"]["images"] == [20, 20, 20]
    figures.growth(tmp_path / "growth.pdf", result, "a flow", "seconds per epoch")
    assert (tmp_path / "growth.pdf").stat().st_size > 2000


def test_peak_memory_is_that_of_a_process_of_its_own(glyph_cache):
    assert bench.peak_megabytes() is None or bench.peak_megabytes() > 50
    used = bench.memory("vae-z20", "ours")
    assert used is None or used > 50


@pytest.mark.parametrize("script", [bench, seeds])
def test_help_names_the_commands(script, capsys):
    with pytest.raises(SystemExit) as end:
        script.parse_args(["--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert f"python code/{script.__name__}.py" in shown
    assert all(len(line) <= 120 for line in shown.splitlines())


def made_up(seed, **final):
    return {"run": "gan", "seed": seed, "quick": False, "data": "mnist", "commit": "c", "seconds": 10.0 * seed,
            "threads": 2, "device": "cpu", "settings": {"lr": 1, "seed": seed}, "final": final}  # fmt: skip


def test_mean_and_spread_over_seeds():
    results = [made_up(1, frechet=2.0, null=None, counts=[1]), made_up(2, frechet=5.0, null=1.0, counts=[2]),
               made_up(3, frechet=3.5, null=2.0, counts=[3])]  # fmt: skip
    line = seeds.summary(results)
    assert line["seeds"] == [1, 2, 3]
    assert line["frechet"] == {"values": [2.0, 5.0, 3.5], "mean": 3.5, "spread": 3.0}
    assert line["seconds"]["mean"] == 20
    assert "null" not in line
    assert "counts" not in line
    for result in results:
        result["final"]["seconds_to_1_85"] = 70.0
    assert seeds.summary(results)["seconds_to_1_85"]["mean"] == 70
    results[0]["threads"] = 1  # seconds of one thread and of two do not compare
    assert not {"seconds", "seconds_to_1_85"} & set(seeds.summary(results))


def test_seeds_with_different_settings_are_not_averaged():
    other = made_up(2, frechet=1.0)
    other["settings"]["lr"] = 2
    with pytest.raises(experiment.UserError, match="different settings \\(lr\\)"):
        seeds.summary([made_up(1, frechet=1.0), other])
    # unless they only estimate the likelihood with more samples: then that estimate is left out
    mine, other = (made_up(n, test_elbo=-1.0, test_log_likelihood=-1.0, eval_samples=n) for n in (1, 2))
    for n, result in enumerate((mine, other)):
        result["settings"]["eval_samples"] = n
    assert "test_elbo" in seeds.summary([mine, other])
    assert "test_log_likelihood" not in seeds.summary([mine, other])


def test_only_full_runs_with_the_right_seed_are_taken(tmp_path):
    assert seeds.read(tmp_path, 42) is None
    for wrong in (made_up(43), made_up(42) | {"quick": True}):
        (tmp_path / "results.json").write_text(json.dumps(wrong))
        with pytest.raises(experiment.UserError, match="no full run with seed 42"):
            seeds.read(tmp_path, 42)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(experiment.UserError, match="damaged"):
        seeds.read(tmp_path, 42)
    (tmp_path / "results.json").write_text(json.dumps(made_up(42)))
    assert seeds.read(tmp_path, 42)["seed"] == 42
    assert [seeds.name_of("gan", seed) for seed in seeds.SEEDS] == ["gan", "gan-seed43", "gan-seed44"]


def test_collecting_trains_nothing_and_changes_no_line_of_what_is_unfinished(tmp_path, monkeypatch, capsys):
    for module in (experiment, seeds):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(seeds, "ARGS", seeds.parse_args(["--collect"]), raising=False)
    for seed in seeds.SEEDS:
        folder = tmp_path / "runs" / "mnist" / seeds.name_of("gan", seed)
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(made_up(seed, frechet=1.0)))
    path = tmp_path / "runs" / "seeds.json"
    path.write_text(json.dumps({"nf": {"made": "elsewhere"}, "gan": {"made": "before"}}))
    seeds.main()
    table = json.loads(path.read_text())
    assert list(table) == ["gan", "nf"]
    assert table["gan"]["frechet"]["spread"] == 0
    assert table["nf"] == {"made": "elsewhere"}
    said = capsys.readouterr().out
    assert "nf: 0 of 3 seeds finished, its earlier line stays" in said
    assert "vae-z2: 0 of 3 seeds finished, left out" in said
    path.write_text("[1")
    with pytest.raises(experiment.UserError, match="damaged"):
        seeds.main()
    monkeypatch.setattr(seeds, "ARGS", seeds.parse_args(["--only", "nothing"]))
    with pytest.raises(experiment.UserError, match="no standard run is called nothing"):
        seeds.main()
