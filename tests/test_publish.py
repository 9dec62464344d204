"""Publishing: generated numbers are up to date, only full runs on real data are taken, everything is checked first."""

import contextlib
import json
import re
import shutil

import pytest
import torch

import macros
from common import files, models
from conftest import ROOT
from datasets.files import Trouble, UserError
from study import codes, gallery, publish, registry, tables
from study.page import MODELS


@pytest.mark.parametrize("page", publish.PAGES)
def test_the_tables_of_a_page_are_those_of_the_published_results(page):
    text = (ROOT / page).read_text()
    assert publish.with_generated(page, text) == text, "run `make publish`, or python code/study/publish.py --table"


def test_published_results_are_full_runs_on_real_data():
    published = publish.results()
    assert set(published) == {entry.name for entry in registry.RUNS if entry.published}
    for name, result in published.items():
        assert result["run"] == name
        assert result["data"] == registry.get(name).data[0]
        assert result["quick"] is False
        assert "dirty" not in result["commit"]
        assert (result.get("peak_megabytes") or 0) < 4000


def test_gpu_results_stand_beside_those_of_the_same_code_and_settings(monkeypatch):
    """With made-up values, so that no column can be taken for another."""
    result = {"final": {"val_elbo": -95.125}, "seconds": 30.0, "processor": "a GPU", "threads": 8, "torch": "2.11.0",
              "bfloat16": True}  # fmt: skip
    on_cpu = {**result, "final": {"val_elbo": -96.5}, "seconds": 180.0, "processor": "a CPU", "threads": 1,
              "bfloat16": False}  # fmt: skip
    monkeypatch.setattr(publish, "read", lambda name: on_cpu if name == "vae-z20" else {})
    *_, row, _, machines = publish.gpu({"vae-z20": result}).splitlines()
    assert row == "| VAE, D = 20 | validation bound, nats | -95.12, 30 s | -96.50, 3 min |"
    assert machines == "GPU: a GPU, 8 threads, bfloat16, torch 2.11.0. CPU: a CPU, 1 thread, float32, torch 2.11.0."
    monkeypatch.undo()
    for run, measured in publish.read("gpu").items():
        for key in ("code", "settings", "data", "parameters"):
            assert measured[key] == publish.read(run)[key], (run, key)


MEASURED = [registry.VAE, registry.GAN, registry.FLOW, registry.AUTOREGRESSIVE, registry.FAMILY]


@pytest.mark.parametrize("script", MEASURED)
def test_measured_numbers_in_docstrings_are_those_of_the_scripts_results(script):
    """Every number with a decimal point, and every time, in a script's docstring is one of its own published runs."""
    doc = (ROOT / "code" / script).read_text().split('"""')[1].split("Measured", 1)[1]
    known = {"1.85"}  # the bar of Question 3.8
    for result in publish.results().values():
        if result["script"] != script:
            continue
        known.add(result["torch"][:4])
        known |= {str(value) for value in result["settings"].values()}
        for value in [result["seconds"], result["parameters"], *result["final"].values()]:
            if isinstance(value, (int, float)):
                known |= {f"{value:.3f}", f"{value:.2f}", f"{value:.1f}", f"{value:.0f}", f"{value:,}"}
    numbers = re.findall(r"-?\d[\d,]*\.\d+|\d+ s\b", doc)
    assert numbers
    for number in numbers:
        assert number.removesuffix(" s") in known, number


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A checkout that holds what is published, and no runs."""
    shutil.copytree(ROOT / "report" / "results", tmp_path / "report" / "results")
    for page in publish.PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / page, tmp_path / page)
    (tmp_path / "runs").mkdir()
    for name, path in (("ROOT", tmp_path), ("RUNS", tmp_path / "runs"), ("REPORT", tmp_path / "report")):
        monkeypatch.setattr(publish, name, path)
    return tmp_path


def publish_all(*words):
    publish.main(publish.parse_args(list(words)))


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finished_run(place, name, weights=1000, **changed):
    """A finished run like the published one, with a model file of that many weights."""
    entry = registry.get(name)
    folder = place / "runs" / entry.data[0] / name
    (folder / "figures").mkdir(parents=True)
    result = json.loads((ROOT / "report" / "results" / f"{name}.json").read_text()) | changed
    (folder / "results.json").write_text(json.dumps(result))
    (folder / "figures" / "new.png").write_bytes(b"png")
    (folder / "figures" / "step-000500.png").write_bytes(b"a preview")
    state = {"weight": torch.linspace(0, 1, weights), "count": torch.tensor(7)}
    models.save_model(folder / "model.pt", entry.script, {}, state)
    return folder


def made_up_comparison(data="mnist", **more):
    measures = ["frechet", "precision", "recall", "density", "coverage", "class_kl", "confident_share"]
    metrics = {name + end: (i + 1) / 8 for i, name in enumerate(measures) for end in ("", "_real")} | {
        "frechet_floor": 0.5
    }
    common = {
        "quick": False, "parameters": 1234, "training_seconds": 9.0, "training_device": "cpu",
        "samples_per_second": 4000.0, "seconds_per_1000_samples": 0.25,
        "sampling_device": "cpu", "processor": "a processor", "threads": 2,
    }  # fmt: skip
    binary = "bmnist" if data == "mnist" else f"{data}-binary"
    nats = {"test_elbo": -100.0, "test_log_likelihood": -90.0}
    bits = {f"{name}_bits_per_pixel": -value / 543.427 for name, value in nats.items()}
    judged = lambda name: {"reference": name, "images": 1000, **metrics}
    return {
        "vae-z20": common
        | {"data": binary, "likelihood": {"kind": "bound and importance estimate", **nats, **bits}}
        | {"quality": {"means": judged(data), "draws": judged(binary)}},
        "nf": common
        | {"data": data, "likelihood": {"kind": "exact", "test_bpd": 1.5, "test_bpd_8": 1.4}}
        | {"quality": {"samples": judged(data)}}
        | more,
    }


@pytest.mark.parametrize("wrong", [made_up_comparison("glyphs"), made_up_comparison(quick=True)])
def test_a_comparison_of_other_data_or_quick_runs_is_refused(wrong, place):
    (place / "runs" / "comparison").mkdir()
    (place / "runs" / "comparison" / "comparison.json").write_text(json.dumps(wrong))
    finished_run(place, "gan", seconds=9.0)
    finished_run(place, "vae-z20", seconds=9.0)
    before = content(place)
    with pytest.raises(UserError, match="only full runs on real data"):
        publish_all()
    assert content(place) == before


MEASURED_ELSEWHERE = {
    "race.json": {"summary": {"nf": {"data": "mnist"}, "gan": {"data": "glyphs"}}},
    "seeds.json": {"nf": {"data": "mnist"}, "gan": {"data": "glyphs"}},
    "nf-ablation.json": {"data": "glyphs", "quick": False},
    "codes/codes.json": {"data": "bmnist", "quick": True},
}


@pytest.mark.parametrize("file", MEASURED_ELSEWHERE)
def test_measurements_on_other_data_are_refused_before_anything_changes(file, place):
    finished_run(place, "gan", seconds=9.0)
    (place / "runs" / file).parent.mkdir(exist_ok=True)
    (place / "runs" / file).write_text(json.dumps(MEASURED_ELSEWHERE[file]))
    before = content(place)
    with pytest.raises(UserError, match="only full runs on real data"):
        publish_all()
    assert content(place) == before


def test_seeds_of_another_run_are_refused(place):
    value = json.loads((place / "report" / "results" / "gan.json").read_text())["final"]["frechet_val"]
    for first in value, value + 1:
        line = {"seeds": [42, 43], "frechet_val": {"values": [first, 3.0], "mean": 3.0, "deviation": 0.1}}
        (place / "runs" / "seeds.json").write_text(json.dumps({"gan": line}))
        if first == value:
            publish_all()
    with pytest.raises(UserError, match=re.escape("seeds.json was made from another run of gan")):
        publish_all()


def test_a_comparison_of_other_runs_is_refused(place):
    (place / "runs" / "comparison").mkdir()
    (place / "runs" / "comparison" / "comparison.json").write_text(json.dumps(made_up_comparison()))
    with pytest.raises(UserError, match="made from another run of vae-z20"):  # its training took another time
        publish_all()


@pytest.mark.parametrize("wrong", [{"quick": True}, {"data": "glyphs-binary"}])
def test_quick_runs_and_other_data_are_refused_before_anything_changes(wrong, place):
    finished_run(place, "vae-z20")  # a good one, which comes before the bad one in the registry
    finished_run(place, "vae-z2", **wrong)
    before = content(place)
    with pytest.raises(UserError, match="only full runs on real data"):
        publish_all()
    assert content(place) == before


def test_a_damaged_or_missing_model_is_refused_before_anything_changes(place):
    finished_run(place, "gan")
    path = finished_run(place, "nf") / "model.pt"
    path.write_bytes(path.read_bytes()[:-1])
    before = content(place)
    with pytest.raises(UserError, match="damaged"):
        publish_all()
    path.unlink()
    before.pop(path.relative_to(place))
    with pytest.raises(UserError, match=r"no model\.pt"):
        publish_all()
    assert content(place) == before


@pytest.mark.parametrize("words", [["--help"], ["--tabel"], ["gan"]])
def test_help_and_wrong_words_publish_nothing(words, place, capsys):
    finished_run(place, "gan")
    before = content(place)
    with pytest.raises(SystemExit):
        publish_all(*words)
    assert content(place) == before


def test_results_figures_and_weights_are_replaced_together(place, capsys):
    old = place / "report" / "figures" / "gan" / "of-the-old-run.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"png")
    folder = finished_run(place, "gan")
    assert (place / "report" / "results" / "gan-analyses.json").exists()
    publish_all()
    report = place / "report"
    assert [path.name for path in (report / "figures" / "gan").iterdir()] == ["new.png"]
    assert not (report / "results" / "gan-analyses.json").exists()  # the new run has not been analysed
    saved = files.load_state(report / "models" / "gan.pt")
    assert saved["state"]["weight"].dtype == torch.float16
    assert saved["state"]["count"] == 7
    numbers = {"norm_ratio": 134.6, "results": "of another run"}
    (folder / "analyses.json").write_text(json.dumps(numbers))
    with pytest.raises(UserError, match=r"belongs to an earlier run: python code/study/analyses.py gan"):
        publish_all()
    numbers["results"] = registry.results_digest(folder)
    (folder / "analyses.json").write_text(json.dumps(numbers))
    publish_all()
    published = report / "results" / "gan-analyses.json"
    lines = macros.macros({path: registry.read_json(path) for path in (published, folder / "analyses.json")})
    assert lines.count(r"\expandafter\def\csname val/gan-analyses/norm_ratio\endcsname{134.60}") == 2
    (folder / "analyses.json").unlink()
    publish_all()
    assert not published.exists()


def test_weights_of_variants_are_published_where_something_loads_them(place):
    finished_run(place, "family-planar")
    publish_all()
    assert not (place / "report" / "models" / "family-planar.pt").exists()
    loaded = {*codes.NAMES, *codes.SHOWN, *gallery.BEST["grey"].values(), *gallery.BEST["binary"].values()}
    loaded |= {run for run, *_ in MODELS.values()}
    assert all(registry.get(run).weights for run in loaded)


RACED_ON = {"models": {"nf": {"1": {
    "processor": "a processor", "threads": 2, "torch": "2.99.0+x", "bfloat16": False,
    "code": {"ours": publish.digest(registry.FLOW), "plain": publish.digest("study/loops.py")},
    "settings": registry.settings(registry.get("nf"), "--seed", "1"),
}}}}  # fmt: skip


def test_the_race_tells_who_reaches_the_target():
    side = lambda after, reached: {"after": after, "reached": reached}
    entry = {"data": "mnist", "metric": "val_bpd", "seeds": [1], "seconds": 90.0, "target": 1.813}
    nf = entry | {"ours": side(1.85, [None]), "plain": side(1.95, [None])}
    assert publish.race_text(RACED_ON | {"summary": {"nf": nf | {"target": None}}}).endswith("plain loop 1.950.")
    text = publish.race_text(RACED_ON | {"summary": {"nf": nf}})
    assert text.endswith("- RealNVP, bits per dimension after 90 s: 1.850, plain loop 1.950.")
    assert "with the last weights:" in text
    assert "means over 2 seeds (`make race` trains one):" in publish.race_text(
        RACED_ON | {"summary": {"nf": nf | {"seeds": [1, 2]}}}
    )
    multiscale = entry | {"ours": side(1.1, [20.0]), "plain": side(1.95, [None])}
    text = publish.race_text(RACED_ON | {"summary": {"nf": nf, "nf-multiscale": multiscale}})
    assert text.endswith("Ours reaches 1.813, the best public result after 40 epochs, in 20 s.")
    now = RACED_ON["models"]["nf"]["1"]
    for change in {"settings": None}, {"code": now["code"] | {"plain": "older"}}:
        older = {"models": {"nf": {"1": now | change}}, "summary": {"nf": nf}}
        assert publish.race_text(older).endswith("with an earlier version of the code.")
    gan = entry | {"target": 1.95, "ours": side(1.1, [20.0]), "plain": side(1.95, [90.0])}
    text = publish.race_text(RACED_ON | {"summary": {"gan": gan}})
    assert text.endswith("plain loop 1.950.")


def test_the_results_with_more_dequantisation_samples_name_their_standard_errors(monkeypatch):
    bits = {"1": {"bpd": 1.25, "stderr": 0.002}, "8": {"bpd": 1.125, "stderr": 0.00104}, "64": {"bpd": 1, "stderr": 1}}
    monkeypatch.setattr(publish, "read", lambda name: {"test_bits": bits} if name == "nf-short-analyses" else {})
    *_, row = publish.dequantisation().splitlines()
    assert row == "| RealNVP, 10 epochs | 1.2500 ± 0.0020 | 1.1250 ± 0.0010 | 1.0000 ± 1.0000 |"
    monkeypatch.setattr(publish, "read", lambda name: {})
    assert publish.dequantisation() == "Not measured yet."


def test_machines_differ_if_their_number_formats_do():
    one = {"processor": "a processor", "torch": "2.99.0+x", "bfloat16": True}
    assert publish.machines({"gan": one, "nf": one}) == "Trained on a processor, bfloat16, torch 2.99.0."
    older = {key: value for key, value in one.items() if key != "bfloat16"}  # a result that does not name it
    plane = older | {"script": registry.PLANE}
    assert publish.machines({"gan": one | {"bfloat16": False}, "nf": older, "flow-moons": plane}) == (
        "Trained on\n\n- a processor, float32, torch 2.99.0: GAN; flows in the plane\n"
        "- a processor, bfloat16, torch 2.99.0: RealNVP"
    )


def test_weights_that_are_too_large_are_left_out_and_named(place, capsys):
    finished_run(place, "nf", weights=2_100_000)
    publish_all()
    assert not (place / "report" / "models" / "nf.pt").exists()
    assert "nf: weights of 4.2 MB are not published" in capsys.readouterr().out


def test_what_was_measured_is_published_and_told_in_the_pages(place):
    runs, results = place / "runs", place / "report" / "results"
    (runs / "comparison" / "figures").mkdir(parents=True)
    (runs / "comparison" / "figures" / "samples.png").write_bytes(b"png")
    published = json.loads((results / "comparison.json").read_text())
    core = {entry.name: published[entry.name] for entry in registry.select(group="core")}
    comparison = core | made_up_comparison()  # the figure shows all core runs
    for run, entry in comparison.items():
        entry["training_seconds"] = json.loads((results / f"{run}.json").read_text())["seconds"]
    (runs / "comparison" / "comparison.json").write_text(json.dumps(comparison))
    mine = publish.read("nf")["final"]["val_bpd"]
    seeds = {"nf": {"seeds": [1, 2], "data": "mnist", "val_bpd": {"values": [mine, 2], "mean": 1.5, "deviation": 0.5}}}
    (runs / "seeds.json").write_text(json.dumps(seeds))
    parts = ("forward", "backward", "optimiser", "data")
    side = {"images_per_second_spread": 9.0, "milliseconds_per_step": 10.0, "batch_size": 64, "gflops": 50.0,
            "share_of_matrix_rate": 0.25,
            **{f"{part}_milliseconds": 1.0 + i for i, part in enumerate(parts)}}  # fmt: skip
    sides = {"ours": side | {"images_per_second": 7250.0}, "plain": side | {"images_per_second": 1000.0}}
    bench = {"processor": "a processor", "threads": 2, "torch": "2.99.0+x", "bfloat16": False, "gflops_float32": 100.0,
             "gflops_bfloat16": 200.0, "models": {"nf": {"ratio": 7.25, "ratio_spread": 0.5, **sides}}}  # fmt: skip
    (runs / "bench.json").write_text(json.dumps(bench))
    side = lambda after, reached: {"after": after, "reached": reached, "seconds_to_target": 69.7}
    raced = {"data": "mnist", "metric": "val_bpd", "seeds": [1, 2], "seconds": 90.0, "target": 1.813}
    raced = {"quick": False, "summary": {"nf": raced | {"ours": side(1.75, [69, 71]), "plain": side(1.95, [None] * 2)}}}
    (runs / "race.json").write_text(json.dumps(RACED_ON | raced))
    (runs / "race.pdf").write_bytes(b"%PDF")
    publish_all()
    readme, tables_page = (place / "README.md").read_text(), (place / "docs" / "results.md").read_text()
    assert "| RealNVP | validation, bits per dimension | 1.500 ± 0.500 | 1.804, public solution" in readme
    assert "(here a processor, 2 threads, float32, torch 2.99.0)" in readme
    assert "- RealNVP, bits per dimension after 90 s: 1.750, plain loop 1.950." in readme
    assert "Ours reaches 1.813, the best public result after 40 epochs, in 70 s." in readme
    assert "| RealNVP, ours | 7,250 | 9 | 7.2 | 0.5 | 50 | 25% |" in tables_page
    assert "| RealNVP, plain loop | 1,000 | 9 |  |  | 50 | 25% |" in tables_page
    for side in ("ours", "plain loop"):
        assert f"| RealNVP, {side} | 64 | 10.00 | 1.00 | 2.00 | 3.00 | 4.00 |" in tables_page
    assert "Measured on a processor, 2 threads, float32, torch 2.99.0; a large" in tables_page
    assert "| RealNVP | validation, bits per dimension | 1.500 ± 0.500 | 1, 2 |" in tables_page
    assert "| VAE, D = 20, draws |" in tables_page
    assert (
        "| RealNVP | bits per dimension | 2 | 90 s | 1.750 | 1.950 | 1.813 | 70 s | not reached in 90 s |"
        in tables_page
    )
    assert (place / "report" / "figures" / "comparison" / "samples.png").exists()
    assert (place / "report" / "figures" / "race.pdf").exists()
    assert r"val/race/summary/nf/ours/seconds_to_target\endcsname{70}" in "".join(
        macros.macros({results / "race.json": publish.read("race")})
    )
    kept = published["pixelcnn"]["samples_per_second"]  # what was measured of other runs stays published
    assert json.loads((results / "comparison.json").read_text())["pixelcnn"]["samples_per_second"] == kept
    publish_all("--table")
    assert (place / "README.md").read_text() == readme
    assert (place / "docs" / "results.md").read_text() == tables_page


def comparison_of(place, **seconds):
    """A comparison in runs/, with these training seconds of each run and both kinds of figures."""
    made_up, folder = made_up_comparison(), place / "runs" / "comparison"
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name in ("samples.png", "beyond.png"):
        (folder / "figures" / name).write_bytes(b"new")
    entries = {run: made_up["nf"] | {"training_seconds": spent, "commit": "mine"} for run, spent in seconds.items()}
    (folder / "comparison.json").write_text(json.dumps(entries))


def test_a_partial_comparison_and_partial_seeds_replace_only_their_own_entries(place, capsys):
    results, figures = place / "report" / "results", place / "report" / "figures" / "comparison"
    before = {name: json.loads((results / f"{name}.json").read_text()) for name in ("comparison", "seeds")}
    figures.mkdir(parents=True)
    for name in ("samples.png", "beyond.png"):
        (figures / name).write_bytes(b"old")
    beyond = [run for run in before["comparison"] if registry.get(run).group != "core"]
    mine = ["nf", *beyond]
    comparison_of(place, **{run: before["comparison"][run]["training_seconds"] for run in mine})
    line = {
        "seeds": [1, 2],
        "data": "mnist",
        "commits": ["mine"],
        "val_bpd": {"values": [publish.read("nf")["final"]["val_bpd"], 2], "mean": 1.5, "deviation": 0.5},
    }
    (place / "runs" / "seeds.json").write_text(json.dumps({"nf": line}))
    publish_all()
    after = {name: json.loads((results / f"{name}.json").read_text()) for name in before}
    assert list(after["comparison"]) == list(before["comparison"])
    for run, entry in after["comparison"].items():
        assert entry["commit"] == ("mine" if run in mine else before["comparison"][run]["commit"])
        assert run in mine or entry == before["comparison"][run]
    assert after["seeds"] == before["seeds"] | {"nf": line}
    # the figure of the core runs would show one run only
    assert ((figures / "samples.png").read_bytes(), (figures / "beyond.png").read_bytes()) == (b"old", b"new")
    assert "samples.png: published version kept, because runs/comparison/ lacks vae-z20" in capsys.readouterr().out
    (place / "runs" / "comparison" / "figures" / "beyond.png").unlink()
    publish_all()
    assert (figures / "beyond.png").read_bytes() == b"new"
    assert "beyond.png: published version kept; python code/study/evaluate.py draws" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"settings": {"lr": 0.5}}, "has other settings than published runs: delete it, then python code/study/train.py"),
     ({"machines": [{"threads": 1}, {"threads": 2}]}, "was resumed on another machine or with other threads"),
     ({"commit": "38ce36470894-dirty"}, "with uncommitted changes"), ({"commit": None}, "or without git")],
)  # fmt: skip
def test_a_run_of_other_settings_of_two_machines_or_of_no_commit_is_not_published(changed, message, place):
    finished_run(place, "nf", **changed)
    before = content(place)
    with pytest.raises(UserError, match=message):
        publish_all()
    assert content(place) == before


def test_runs_of_a_plain_make_are_evaluated_like_published_ones_first(place, monkeypatch):
    """With the importance samples of published runs; the published comparison gets the new values, too."""
    published = json.loads((ROOT / "report" / "results" / "vae-z20.json").read_text())
    before = {"final": {**published["final"], "test_log_likelihood": -91.5, "eval_samples": 100}}
    folder = finished_run(place, "vae-z20", settings=published["settings"] | {"eval_samples": 100}, **before)
    comparison_of(place, **{"vae-z20": published["seconds"]})
    commands = []

    def call(command, log, advance):
        commands.append(command)
        (folder / "results.json").write_text(
            json.dumps(published | {"final": {**published["final"], "test_log_likelihood": -7.0}})
        )

    monkeypatch.setattr(files, "ROOT", place)
    monkeypatch.setattr(publish.train, "call", call)
    monkeypatch.setattr(publish.train.analyses, "analyse_once", lambda folder: None)
    publish_all()
    ((script, *options),) = commands
    assert (script, options[:2]) == ("code/a3_vae_template.py", ["--data", "bmnist"])
    assert options[-6:] == ["5000", "--name", "vae-z20", "--seed", "42", "--resume"]
    read = lambda name: json.loads((place / "report" / "results" / f"{name}.json").read_text())
    assert read("vae-z20")["settings"]["eval_samples"] == 5000
    assert read("comparison")["vae-z20"]["likelihood"]["test_log_likelihood"] == -7.0
    publish_all()
    assert len(commands) == 1


@pytest.mark.parametrize("words", [[], ["--table"]])
def test_nothing_changes_if_a_page_lacks_the_line_where_a_table_begins(words, place):
    finished_run(place, "gan")
    page = place / "docs" / "flow.md"
    page.write_text(page.read_text().replace(publish.END.format("results"), ""))
    (place / "README.md").write_text((place / "README.md").read_text().replace("Multi-scale", "Other"))
    before = content(place)
    with pytest.raises(UserError, match=r"docs/flow\.md lacks the line .*results.*: restore it from git"):
        publish_all(*words)
    assert content(place) == before


def test_nothing_is_published_if_a_figure_is_missing(place):
    race = place / "runs" / "race.json"
    race.write_text(json.dumps({"quick": False, "summary": {}, "models": {}}))
    before = content(place)
    with pytest.raises(UserError, match=r"race\.pdf is missing: repeat the command that wrote .*race\.json"):
        publish_all()
    assert content(place) == before


def test_a_run_is_not_published_beside_the_comparison_of_an_older_one(place, capsys):
    finished_run(place, "gan", seconds=9.0)
    before = content(place)
    with pytest.raises(UserError, match=r"made from another run of gan: .*evaluate.py --only gan"):
        publish_all()
    assert content(place) == before
    comparison_of(place, gan=9.0)
    publish_all()
    assert json.loads((place / "report" / "results" / "gan.json").read_text())["seconds"] == 9.0


def test_results_of_older_code_or_with_other_settings_are_listed(place, capsys):
    path = place / "report" / "results" / "nf.json"
    result = json.loads(path.read_text())
    code, settings = publish.digest(registry.FLOW), registry.settings(registry.get("nf"))
    for change, listed in (
        ({"code": "0" * 16, "settings": settings}, True),
        ({"code": code, "settings": settings | {"lr": 0.5}}, True),
        ({"code": code, "settings": settings}, False),
    ):
        path.write_text(json.dumps(result | change))
        with pytest.raises(Trouble, match="results are stale") if listed else contextlib.nullcontext():
            publish_all("--stale")
        assert ("nf: stale, made by" in capsys.readouterr().out) == listed
    path.write_text(json.dumps(result | {"seconds": result["seconds"] + 1}))
    with pytest.raises(Trouble, match="results are stale"):
        publish_all("--stale")
    assert "comparison.json was made from another run of nf" in capsys.readouterr().out


def test_ablations_and_speeds_of_older_code_are_listed(place):
    assert not any(name.startswith(("ablation", "bench", "scaling")) for name in publish.stale())
    for name in ("nf-ablation", "bench"):
        path = place / "report" / "results" / f"{name}.json"
        content = json.loads(path.read_text())
        content.get("rows", [content])[-1]["code"] = "0" * 16
        path.write_text(json.dumps(content))
    assert [name for name in publish.stale() if name.startswith(("ablation", "bench", "scaling"))] == [
        "ablation of nf", "bench",
    ]  # fmt: skip


def test_published_numbers_beside_the_runs_belong_to_them():
    comparison, runs = publish.read("comparison"), publish.results()
    for pairs in publish.read("race").get("models", {}).values():
        assert all(pair["data"] in publish.REAL and "dirty" not in pair["commit"] for pair in pairs.values())
    for run, entry in comparison.items():
        assert entry["data"] in publish.REAL
        assert entry["quick"] is False
        assert "dirty" not in entry["commit"]
        assert (entry["parameters"], entry["training_seconds"]) == (runs[run]["parameters"], runs[run]["seconds"])
    for run, line in publish.read("seeds").items():
        assert line["data"] in publish.REAL
        assert len(line[registry.get(run).metric]["values"]) == 3
        for key in line.keys() & runs[run]["final"].keys():
            assert line[key]["values"][0] == runs[run]["final"][key]


def test_nothing_is_published_of_runs_that_the_registry_lacks():
    runs = {entry.name for entry in registry.RUNS}
    results = {path.stem for path in (ROOT / "report" / "results").glob("*.json")} - publish.MEASURED.keys()
    results -= {"bench-bfloat16", "gpu"}  # bench.json of another processor, results of the core runs on a GPU
    assert {name.removesuffix("-analyses") for name in results} <= runs
    assert {path.stem for path in (ROOT / "report" / "models").glob("*.pt")} <= runs  # a ZIP to hand in has none
    figures = {path.name for path in (ROOT / "report" / "figures").iterdir() if path.is_dir()}
    assert figures - {target for _, _, target in publish.MEASURED.values() if target} <= runs


def test_likelihoods_of_binary_and_of_grey_images_share_no_column():
    header, (vae, flow) = tables.likelihood(made_up_comparison())
    for name in ("bound / log p(x), nats", "bits per binary pixel"):
        assert vae[header.index(name)]
        assert flow[header.index(name)] == ""
    assert vae[header.index("bits per dimension")] == ""
    assert flow[header.index("bits per dimension")] == "1.500 / 1.400"
    assert vae[header.index("bits per binary pixel")] == "0.184 / 0.166"


def test_tables_name_other_data_and_have_three_layouts():
    comparison = made_up_comparison("glyphs")
    assert "Glyph digits are not MNIST" in tables.note(comparison)
    named = str([tables.quality(comparison), tables.likelihood(comparison)])
    assert "MNIST" not in named.replace("(not MNIST)", "")
    assert "MNIST" not in tables.note(made_up_comparison())
    for table in (tables.quality(comparison), tables.likelihood(comparison), tables.cost(comparison)):
        header, rows = table
        assert all(len(row) == len(header) for row in rows)
        assert len(tables.markdown(*table).splitlines()) == len(rows) + 2
        assert len(tables.plain(*table).splitlines()) == len(rows) + 1
        assert tables.latex(*table).count(r"\\") == len(rows) + 1
    table = tables.latex(["a", "log p(x)", "c"], [["-1.50, spread 2", "-", "3"]])
    assert "A & log p(x) & C" in table
    assert "$-$1.50, spread 2 & - & 3" in table
    # every number in its column
    _, rows = tables.cost(comparison)
    assert rows[1] == ["RealNVP", "1,234", "9", "4,000"]
    header, rows = tables.quality(comparison)
    shown = dict(zip(header[2:], ["0.12", "0.25", "0.38", "0.50", "0.62", "0.750", "0.88"]))
    assert dict(zip(header[2:], rows[1][2:])) == shown
    assert rows[0][2:] == ["0.50", *rows[1][3:]]
    assert header[2:] == ["Fréchet", "precision", "recall", "density", "coverage", "class KL", "confident"]
    # images judged against the same data stand together, training images first
    assert [row[0] for row in rows] == ["training images", "VAE, D = 20, means", "RealNVP",
                                        "training images", "VAE, D = 20, draws"]  # fmt: skip
