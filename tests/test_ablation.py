"""The ablation: as many epochs as the seconds allow, rows that stay, the plain loop's row; nothing is trained."""

import itertools
import json

import pytest
import torch

import a3_gan_template as gan
from a3_vae_template import VAE
from common import files, models
from common.run import settings_of
from datasets.files import UserError
from datasets.loading import Batches
from study import ablation, loops, registry, tables


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A checkout in which an epoch takes 7 s and runs end at once. Returns its runs/ and the commands of all runs."""
    trained = []

    def call(command, log):
        trained.append(command)
        option = next(option for option in ("--epochs", "--n_epochs") if option in command)
        epochs = int(command[command.index(option) + 1])
        seed = int(command[command.index("--seed") + 1]) if "--seed" in command else 42
        final = {registry.get("nf").metric: 1.5 + seed / 1000}
        settings = settings_of(registry.module(registry.FLOW).parse_args(command[1:]))
        results = {"final": final, "seconds": 7.0 * epochs, "seed": seed, "quick": False, "code": "now"}
        results |= {"settings": settings, "epochs": settings["epochs"]}
        there = {"processor": "P", "threads": 1, "torch": "2.99", "bfloat16": False, "commit": "c"}
        (log.parent / "results.json").write_text(json.dumps(results | there))

    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(ablation, "data_at_hand", lambda entries: {"grey": "glyphs"})
    monkeypatch.setattr(ablation, "call", call)
    monkeypatch.setattr(ablation, "code_digest", lambda script: "now")

    def plain(entry, seed, data, quick, folder, budget):
        curve = [[0.0, 9.0], [budget / 2, 2.0], [budget, 3.0]]
        return {"seconds": budget, "curve": curve, "commit": "that of the plain loop"}

    monkeypatch.setattr(ablation.race, "plain", plain)
    rows = {"plain": ("as handed out", None), "ours": ("ours", "--lr 0.1"), "wide": ("wider", "--hidden 9")}
    monkeypatch.setitem(ablation.ROWS, "nf", ("nf", "--epochs", "--eval_images 1", rows))
    return tmp_path / "runs", trained


def run(*words):
    ablation.main(ablation.parse_args(["nf", *words]))


def test_each_variant_trains_for_the_epochs_that_come_nearest(place, capsys):
    runs, trained = place
    run("--seconds", "60", "--seed", "42", "43", "--only", "plain", "ours")
    options = [command[command.index("--resume") + 1 :] for command in trained]
    common = ["--lr", "0.1", "--eval_images", "1", "--epochs"]
    assert options == [[*common, "1", "--seed", "42"], [*common, "9", "--seed", "42"], [*common, "9", "--seed", "43"]]
    table = json.loads((runs / "nf-ablation.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["plain", "ours"]
    plain, ours = table["rows"]
    assert (plain["seconds"], plain["value"], plain["epochs"]) == ([60, 60], [2, 2], [None, None])
    assert plain["commit"] == "that of the plain loop"  # which may have been trained before
    assert (ours["seconds"], ours["value"], ours["epochs"]) == ([63, 63], [1.542, 1.543], [9, 9])
    assert table["metric"] == "val_bpd"
    assert "1.542" in capsys.readouterr().out
    with pytest.raises(UserError, match="was made with 60 s on glyphs, not 30 s on glyphs"):
        run("--seconds", "30", "--only", "wide")
    run("--seconds", "60", "--only", "wide")  # the other rows stay, and finished runs are not trained again
    run("--seconds", "60", "--seed", "42", "43", "--only", "ours")
    assert len(trained) == 5
    rows = json.loads((runs / "nf-ablation.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["plain", "ours", "wide"]
    assert rows[:2] == table["rows"]
    assert all(command[command.index("--device") + 1] == "cpu" for command in trained)  # as the plain loop


def test_a_quick_run_tells_how_many_epochs_it_trained(place):
    runs, _ = place
    run("--seconds", "60", "--quick", "--only", "ours")
    (row,) = json.loads((runs / "quick" / "nf-ablation.json").read_text())["rows"]
    assert row["epochs"] == [4]


def test_the_run_that_times_an_epoch_is_the_variant_if_one_epoch_is_enough(place):
    runs, trained = place
    run("--seconds", "8", "--seed", "42", "43", "--only", "ours")
    assert [command[command.index("--seed") + 1] for command in trained] == ["42", "43"]
    (row,) = json.loads((runs / "nf-ablation.json").read_text())["rows"]
    assert (row["seconds"], row["value"], row["epochs"]) == ([7, 7], [1.542, 1.543], [1, 1])


def test_a_row_names_the_machine_of_its_runs_and_refuses_other_code(place):
    runs, _ = place
    run("--seconds", "60", "--seed", "42", "43", "--only", "ours")
    (row,) = json.loads((runs / "nf-ablation.json").read_text())["rows"]
    assert [row[key] for key in (*ablation.MADE_BY, "commit")] == ["P", 1, "2.99", False, "now", "c"]
    (path,) = runs.glob("glyphs/ablation-nf-ours-60s-seed43/results.json")
    results = json.loads(path.read_text())
    path.write_text(json.dumps(results | {"threads": 2}))
    with pytest.raises(UserError, match="row ours were trained with other threads"):
        run("--seconds", "60", "--seed", "42", "43", "--only", "ours")
    for change in ({"code": "older"}, {"settings": results["settings"] | {"alpha": 0.3}}):
        path.write_text(json.dumps(results | change))
        with pytest.raises(UserError, match="seed43 was made by other code or with other settings"):
            run("--seconds", "60", "--seed", "43", "--only", "ours")


def test_the_figure_shows_samples_of_the_plain_loop_and_of_ours(tmp_path, monkeypatch):
    torch.manual_seed(5)
    plain, ours = loops.plain_gan(torch.zeros(1, 784)).nets[0].eval(), gan.Generator(3, 2, 4).eval()
    (tmp_path / "ours").mkdir()
    files.save_state(tmp_path / "plain.pt", {"parts": [plain.state_dict()]})
    sizes = {"latent_dim": 3, "codes": 2, "waves": 4, "arch": "template"}
    models.save_model(tmp_path / "ours" / "model.pt", registry.GAN, sizes, ours.state_dict())
    shown = {}
    monkeypatch.setattr(ablation.figures, "image_rows", lambda path, rows, title: shown.update(rows))
    ablation.save_samples(tmp_path / "gan.png", {"plain": tmp_path, "ours": tmp_path / "ours"}, "")
    assert list(shown) == ["plain loop", "our GAN"]
    for net, images in zip((plain, ours), shown.values()):
        torch.manual_seed(0)
        torch.testing.assert_close(images, gan.draw(net, 16))


def test_short_budgets_still_train_an_epoch():
    assert [ablation.epochs_for(seconds, 8.0) for seconds in (1, 11, 13)] == [1, 1, 2]


def test_the_table_shows_means_and_deviations():
    rows = [{"name": "a", "change": "b", "epochs": [3, 5], "seconds": [10.0, 12.0], "value": [1.5, 1.25]}]
    rows.append({"name": "c", "change": "d", "epochs": [None], "seconds": [10.0], "value": [2.0]})
    _, lines = tables.ablation({"metric": "val_bpd", "rows": rows})
    assert lines == [["a", "b", "2", "4", "11", "1.375 ± 0.177"], ["c", "d", "1", "", "10", "2.000"]]


def test_a_row_that_does_not_exist_is_refused(place):
    with pytest.raises(UserError, match="no row narrow: choose from plain, ours, wide"):
        run("--seconds", "60", "--only", "narrow")


def test_the_rows_of_the_vae_start_with_a_typical_solution_and_add_one_change_at_a_time():
    *rows, without = (changes for _, changes in ablation.ROWS["vae"][3].values())
    assert rows[0] == ()
    assert all(more[:-1] == fewer for fewer, more in itertools.pairwise(rows))
    assert rows[-1] == tuple(loops.VAE_CHANGES)
    assert set(rows[-1]) - set(without) == {"init"}


def test_with_two_dimensions_one_row_lacks_one_change():
    (_, everything), (_, without) = ablation.ROWS["vae-z2"][3].values()
    assert everything == tuple(loops.VAE_CHANGES)
    assert set(everything) - set(without) == {"init"}


def test_the_vae_trains_for_the_epochs_that_fit_and_its_best_epoch_counts(monkeypatch):
    """An epoch takes 7 s; bounds are those of a made-up curve."""
    clock, made, judged = iter(range(0, 7000, 7)), [], iter([-9.0, -200.0, -120.0, -110.0, -130.0])

    def changed_vae(images, epochs, changes, z_dim):
        made.append((epochs, changes, z_dim))
        return loops.Loop([VAE(4, 2)], images, [], lambda: None, True)

    split = Batches(torch.zeros(8, 784), None, "glyphs-binary", "", 4, with_labels=False)
    monkeypatch.setattr(ablation.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(ablation.loops, "changed_vae", changed_vae)
    batches = []
    monkeypatch.setattr(
        ablation, "bmnist", lambda batch_size, **_: batches.append(batch_size) or (split, "validation", 0)
    )
    monkeypatch.setattr(ablation.vae, "epoch_iter", lambda model, data, _: next(judged) if data == "validation" else 0)
    found = ablation.train_changed(("gelu",), 2, 42, "glyphs-binary", False, 29)
    assert found == {"seconds": 28, "value": -110.0, "epochs": 4}
    assert made == [(1, ("gelu",), 2), (4, ("gelu",), 2)]
    assert batches == [128]


def test_the_scripts_accept_the_options_of_every_row():
    for run, epochs, cheap, rows in ablation.ROWS.values():
        script = registry.module(registry.get(run).script)
        assert len(rows) <= 8
        for _, options in rows.values():
            if isinstance(options, str):
                script.parse_args([*options.split(), epochs, "1", *cheap.split()])
