"""The registry and what filters it; the chain that `make` runs; seeds."""

import json
import os
import time
import types

import pytest

import macros
from common import files
from conftest import ROOT, refusal
from datasets.files import Trouble, UserError
from study import analyses, evaluate, publish, registry, seeds, tables, train


@pytest.mark.parametrize("entry", registry.RUNS, ids=lambda entry: entry.name)
def test_every_run_parses_and_has_the_title_of_its_script(entry):
    script, words = registry.module(entry.script), entry.command()[1:]
    assert (ROOT / "code" / entry.script).exists()
    full, short = script.parse_args(words), script.parse_args([*words, *entry.short.split()])
    assert entry.title.startswith(script.title(full))
    assert entry.seconds > 0
    script.parse_args([*words, *entry.publishing.split()])
    if entry.kind in registry.DATA:
        script.parse_args([*words, "--data", entry.data[0]])  # refused if it were the other kind
        if entry.group != "long":
            epochs = lambda args: getattr(args, "epochs", None) or args.n_epochs
            assert 1 <= epochs(short) < epochs(full)
            assert entry.group == "family" or entry.name == script.default_name(full)


def test_names_and_titles_are_unique_and_groups_known():
    for values in ([entry.name for entry in registry.RUNS], [entry.title for entry in registry.RUNS]):
        assert len(values) == len(set(values))
    assert {entry.group for entry in registry.RUNS} == set(registry.GROUPS)
    with pytest.raises(UserError, match="no run 'lstm'"):
        registry.get("lstm")


MADE_UP = registry.Entry(
    "nf-made-up", "A made-up flow", registry.FLOW, "grey", "core", 10, "--flows 2", results=("val_bpd", "test_bpd"),
    compared=True, metric="val_bpd",
)  # fmt: skip


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """The registry with one more line, and its finished run on MNIST with the published numbers of another one."""
    monkeypatch.setattr(registry, "RUNS", [*registry.RUNS, MADE_UP])
    for module in (publish, train, files):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(publish, "RUNS", tmp_path / "runs")
    results = json.loads((ROOT / "report" / "results" / "nf.json").read_text())
    for seed in registry.SEEDS:
        folder = tmp_path / "runs" / "mnist" / MADE_UP.name_with(seed)
        folder.mkdir(parents=True)
        settings = registry.settings(MADE_UP, "--seed", str(seed))
        mine = {**results, "run": folder.name, "seed": seed, "settings": settings}
        (folder / "results.json").write_text(json.dumps(mine))
    return tmp_path / "runs" / "mnist" / "nf-made-up"


def test_one_line_in_the_registry_is_enough_for_a_new_run(made_up, monkeypatch, capsys):
    # training
    train.show_list()
    assert "nf-made-up" in capsys.readouterr().out
    started, at_hand = [], ["mnist"]
    monkeypatch.setattr(train, "data_at_hand", lambda entries: {"grey": at_hand[0], "binary": "bmnist"})
    monkeypatch.setattr(train, "call", lambda command, log, advance: started.append(command))
    monkeypatch.setattr(analyses, "analyse_once", lambda folder: None)
    train.main(train.parse_args(["nf-made-up"]))
    assert not started  # it is finished
    (made_up / "results.json").rename(made_up / "kept.json")
    for at_hand[0] in ("mnist", "glyphs"):
        train.main(train.parse_args(["nf-made-up"]))
    (made_up / "kept.json").rename(made_up / "results.json")
    words = ["code/a3_nf_template.py", "--flows", "2", "--data", "mnist", "--name", "nf-made-up"]
    more = ["--name", "nf-made-up", "--seed", "42", "--resume"]
    shorter = [*words[:4], "glyphs", *words[5:], "--epochs", "4", *more]  # the shorter schedule is for glyphs
    assert started == [[*words, *more], shorter]
    # analyses, evaluation
    assert MADE_UP.script in analyses.ANALYSES
    assert registry.finished(MADE_UP)[0] == made_up
    assert MADE_UP in registry.select(compared=True)
    assert MADE_UP.script in evaluate.MODELS
    # seeds
    seeds.main(seeds.parse_args([]))
    summary = json.loads((made_up.parents[1] / "seeds.json").read_text())["nf-made-up"]
    assert summary["seeds"] == [42, 43, 44]
    value = f"{summary['val_bpd']['values'][0]:.3f}"
    assert f"| A made-up flow | validation, bits per dimension | {value} ± 0.000 | 42, 43, 44 |" in (
        publish.over_seeds({"nf-made-up": summary})
    )
    # tables, publishing, the report
    comparison = {"nf-made-up": json.loads((ROOT / "report" / "results" / "comparison.json").read_text())["nf"]}
    assert tables.cost(comparison)[1][0][0] == "A made-up flow"
    result = json.loads((made_up / "results.json").read_text())
    assert f"| A made-up flow (`nf-made-up`) | validation, bits per dimension | {value} |" in (
        publish.table({"nf-made-up": result})
    )
    monkeypatch.setattr(publish, "load_state", lambda path: None)
    (made_up / "model.pt").write_bytes(b"")
    assert (MADE_UP, made_up) in publish.runs_to_publish()
    value = rf"val/nf-made-up/val_bpd\endcsname{{{result['final']['val_bpd']:.2f}}}"
    assert value in "\n".join(macros.macros({made_up / "results.json": result}))


def test_a_finished_run_with_other_options_does_not_count(made_up, monkeypatch):
    monkeypatch.setattr(train, "data_at_hand", lambda entries: {"grey": "mnist"})
    monkeypatch.setattr(analyses, "analyse_once", lambda folder: None)
    monkeypatch.setitem(train.registry.DATA, "grey", ["mnist"])
    results, called = json.loads((made_up / "results.json").read_text()), []
    monkeypatch.setattr(train, "call", lambda command, log, advance: called.append(command))

    def finished_with(**changed):
        (made_up / "results.json").write_text(json.dumps({**results, "settings": results["settings"] | changed}))

    finished_with(epochs=10)
    for published in ([], ["--published"]):
        with pytest.raises(UserError, match=f"epochs = 10, not {results['epochs']}: rename or delete this folder"):
            train.main(train.parse_args(["nf-made-up", *published]))
    finished_with(eval_images=5)  # the model is the same
    train.main(train.parse_args(["nf-made-up"]))
    assert not called
    train.main(train.parse_args(["nf-made-up", "--published"]))  # published runs are evaluated again
    assert [command[-1] for command in called] == ["--resume"]


def test_a_resumed_run_counts_only_the_epochs_that_are_left(made_up, monkeypatch):
    monkeypatch.setattr(train, "data_at_hand", lambda entries: {"grey": "mnist"})
    monkeypatch.setattr(analyses, "analyse_once", lambda folder: None)
    monkeypatch.setattr(train, "call", lambda command, log, advance: None)
    (made_up / "results.json").unlink()
    (made_up / "settings.json").write_text(json.dumps({"settings": {"epochs": 10}}))
    (made_up / "metrics.csv").write_text("epoch,a\n" + "0,1\n" * 6)
    made = []

    class Watched(train.Progress):
        def __init__(self, total):
            super().__init__(total)
            made.append(self)

    monkeypatch.setattr(train, "Progress", Watched)
    train.main(train.parse_args(["nf-made-up"]))
    assert (made[0].skipped, made[0].done) == (5, 10)  # of 10 expected seconds, half is done


def test_the_users_table_compares_only_full_runs_on_real_data_with_others():
    results = publish.results()["nf"]
    others = lambda **changes: publish.rows({"nf": results | changes})[1][0][3]
    assert others() == publish.REFERENCES["nf", "val_bpd"]
    assert others(data="glyphs") == others(quick=True) == ""


def test_progress_is_read_from_the_metrics(tmp_path):
    assert train.share_done(tmp_path) == 0
    (tmp_path / "settings.json").write_text(json.dumps({"settings": {"epochs": 10}}))
    assert train.share_done(tmp_path) == 0
    (tmp_path / "metrics.csv").write_text("epoch,a\n0,1\n1,1\n2,1\n")
    assert train.share_done(tmp_path) == 0.2
    (tmp_path / "settings.json").write_text(json.dumps({"settings": {"n_epochs": 4}}))
    assert train.share_done(tmp_path) == 0.5
    (tmp_path / "settings.json").write_text("{")
    assert train.share_done(tmp_path) == 0


def test_the_time_left_is_in_proportion_to_what_is_left(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: clock[0])
    progress = train.Progress(1000)
    progress.skipped = 200  # finished earlier
    clock[0] = 600.0
    assert progress.left(200) == "time left not known yet"
    assert progress.left(500) == "about 17 min left"  # 300 took 10 minutes, 500 are left


def test_the_quick_chain_trains_analyses_and_does_nothing_twice(checkout):
    done = checkout.run("study/train.py", "--quick", "vae-z2")
    assert done.stderr.count("Using binary glyph digits (not MNIST) instead: these are not") == 1
    assert "vae-z2: done in" in done.stdout
    assert "vae-z2: analysed" in done.stdout
    assert "\x1b" not in done.stdout
    folder = checkout.folder / "runs" / "quick" / "glyphs-binary" / "vae-z2"
    numbers = json.loads((folder / "analyses.json").read_text())
    assert numbers["quadrature_bound"] < numbers["quadrature_log_px"] < 0
    for figure in ("codes.pdf", "posteriors.pdf", "estimates.pdf", "reconstructions.png", "manifold-after.png"):
        assert (folder / "figures" / figure).stat().st_size > 1000
    again = checkout.run("study/train.py", "--quick", "vae-z2")
    assert "vae-z2: already finished" in again.stdout
    assert "analysed" not in again.stdout


def test_a_run_that_fails_is_named_with_its_last_line(tmp_path):
    (tmp_path / "script.py").write_text("print('first')\nprint('last')\nraise SystemExit(2)")
    with pytest.raises(Trouble, match=rf"^{tmp_path.name} stopped: last \(full output: .*log\.txt\)$"):
        train.call([str(tmp_path / "script.py")], tmp_path / "log.txt")
    (tmp_path / "script.py").write_text("import os\nos.kill(os.getpid(), 9)")  # as the kernel does without memory
    with pytest.raises(Trouble, match=rf"^{tmp_path.name} was killed by signal 9 \(output: .*log\.txt\)$"):
        train.call([str(tmp_path / "script.py")], tmp_path / "log.txt")


def test_finished_runs_of_other_settings_or_code_are_refused_before_the_first_training(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    entry = registry.get("gan")
    settings = registry.settings(entry)
    found = {"code": "older", "settings": settings, "final": {}, "seconds": 1.0, "seed": 42, "quick": False}
    path = tmp_path / "runs" / "mnist" / "gan" / "results.json"
    path.parent.mkdir(parents=True)
    planned = lambda **options: train.plan([(registry.get("nf"), 42), (entry, 42)], {"grey": "mnist"}, False, **options)
    path.write_text(json.dumps(found))
    assert [(folder, finished) for _, _, folder, _, finished in planned(published=False)] == [
        (tmp_path / "runs" / "mnist" / "nf", False), (path.parent, True),
    ]  # fmt: skip
    with pytest.raises(UserError, match="was made by older code: rename or delete this folder"):
        planned(published=True)
    path.write_text(json.dumps(found | {"code": train.code_digest(entry.script)}))
    assert planned(published=True)[1][-1]
    path.write_text(
        json.dumps(found | {"code": train.code_digest(entry.script), "settings": settings | {"eval_images": 9}})
    )
    assert [planned(published=published)[1][-1] for published in (False, True)] == [True, False]  # evaluated otherwise
    path.write_text(json.dumps(found | {"settings": settings | {"lr": 0.5}}))
    with pytest.raises(UserError, match=r"was made with lr = 0\.5, not .*: rename or delete this folder"):
        planned(published=False)


def test_the_other_runs_of_a_selection_are_trained_after_one_that_fails(tmp_path, monkeypatch):
    started, analysed = [], []

    def call(command, log, advance):
        started.append(log.parent.name)
        if log.parent.name != "gan":
            raise Trouble(f"{log.parent.name} stopped: why")

    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(train, "call", call)
    monkeypatch.setattr(analyses, "analyse_once", lambda folder: analysed.append(folder.name))
    jobs = [(registry.get(name), 42) for name in ("nf", "gan", "nf-short")]
    with pytest.raises(Trouble, match=r"^nf stopped: why; nf-short stopped: why$"):
        train.train(train.plan(jobs, {"grey": "mnist"}, quick=False, published=False))
    assert started == ["nf", "gan", "nf-short"]
    assert analysed == ["gan"]
    started.clear()

    def damaged(folder):
        raise UserError(f"{folder.name} is damaged")

    monkeypatch.setattr(analyses, "analyse_once", damaged)
    with pytest.raises(Trouble, match=r"^gan is damaged; nf stopped: why$"):
        train.train(train.plan([jobs[1], jobs[0]], {"grey": "mnist"}, quick=False, published=False))
    assert started == ["gan", "nf"]


def test_every_index_trains_one_job_of_the_printed_list(tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(train, "data_at_hand", lambda entries: {"grey": "mnist", "binary": "bmnist"})
    monkeypatch.setattr(train, "call", lambda command, log, advance: started.append(command))
    monkeypatch.setattr(analyses, "analyse_once", lambda folder: None)
    selection = ["vae-z2", "--group", "core", "--seed", "42", "7"]
    train.main(train.parse_args([*selection, "--list"]))
    listed = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert [int(number) for number, _ in listed] == list(range(10))
    assert {name for _, name in listed} >= {"vae-z2", "vae-z2-seed7", "nf-multiscale-seed7"}
    for number, name in listed:
        train.main(train.parse_args([*selection, "--index", number]))
        (command,) = started
        assert command[-5:] == ["--name", name, "--seed", "7" if name.endswith("seed7") else "42", "--resume"]
        started.clear()
    with pytest.raises(UserError, match="the 10 jobs are numbered from 0"):
        train.main(train.parse_args([*selection, "--index", "10"]))


def test_wrong_words_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    for words in (["lstm"], [], ["--group", "gpu"]):
        refusal(train, words, capsys)
    refusal(analyses, ["gan-that-never-was"], capsys)
    assert "no analysis for beyond/autoregressive.py" in refusal(analyses, ["pixelcnn"], capsys)
    monkeypatch.setattr(train, "data_at_hand", lambda entries: {"binary": "bmnist", "grey": "glyphs"})
    assert "need bmnist and mnist" in refusal(train, ["vae-z20", "gan", "--published"], capsys)


# ---- seeds


def result_of(seed, **final):
    return {"run": "gan", "script": registry.GAN, "seed": seed, "quick": False, "data": "mnist",
            "commit": "c", "code": "d", "seconds": 10.0 * seed, "threads": 2, "device": "cpu",
            "settings": {"lr": 1, "seed": seed}, "final": final}  # fmt: skip


def test_make_seeds_trains_all_runs_of_which_seeds_are_compared():
    assert [entry for entry in registry.RUNS if entry.metric] == registry.select(group="core")


def test_mean_and_deviation_over_seeds():
    results = [result_of(1, frechet=2.0, null=None, counts=[1]), result_of(2, frechet=5.0, null=1.0, counts=[2]),
               result_of(3, frechet=3.5, null=2.0, counts=[3])]  # fmt: skip
    line = seeds.summary(results)
    assert line["seeds"] == [1, 2, 3]
    assert line["frechet"] == {"values": [2.0, 5.0, 3.5], "mean": 3.5, "deviation": 1.5}
    assert line["seconds"]["mean"] == 20
    assert "null" not in line
    assert "counts" not in line
    for result in results:
        result["final"]["seconds_to_1_85"] = 70.0
    assert seeds.summary(results)["seconds_to_1_85"]["mean"] == 70
    for key in ("threads", "processes"):  # seconds of one thread and of two do not compare, nor of two processes
        other = [{**results[0], key: 1 if key == "threads" else 2}, *results[1:]]
        assert not {"seconds", "seconds_to_1_85"} & set(seeds.summary(other))


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((97.594, 1.476, 2), ("97.59", "1.48")),
        ((1.03712, 0.00029, 3), ("1.0371", "0.0003")),
        ((1.5, 0.0005, 3), ("1.500", "0.001")),
        ((2.0, 0.0, 2), ("2.00", "0.00")),
    ],
)
def test_a_small_deviation_is_not_shown_as_zero(values, shown):
    assert tables.with_deviation(*values) == shown


def test_seeds_with_different_settings_are_not_averaged():
    other = result_of(2, frechet=1.0)
    other["settings"]["lr"] = 2
    with pytest.raises(UserError, match="different settings \\(lr\\)"):
        seeds.summary([result_of(1, frechet=1.0), other])
    other = result_of(2, frechet=1.0)
    other["settings"]["shift"] = 1  # an option that the first seed does not have
    with pytest.raises(UserError, match="different settings \\(shift\\)"):
        seeds.summary([result_of(1, frechet=1.0), other])
    with pytest.raises(UserError, match="different versions of the code"):
        seeds.summary([result_of(1, frechet=1.0), result_of(2, frechet=1.0) | {"code": "e"}])
    # unless they only estimate the likelihood with more samples: then that estimate is left out
    mine, other = (result_of(n, test_elbo=-1.0, test_log_likelihood=-1.0, eval_samples=n) for n in (1, 2))
    for n, result in enumerate((mine, other)):
        result["settings"]["eval_samples"] = n
    assert "test_elbo" in seeds.summary([mine, other])
    assert "test_log_likelihood" not in seeds.summary([mine, other])
    mine["settings"]["eval_images"], other["settings"]["eval_images"] = (
        1000,
        10000,
    )  # or on other images: then nothing about test images is left
    assert "test_elbo" not in seeds.summary([mine, other])


def test_only_full_runs_with_the_right_seed_are_taken(tmp_path):
    assert seeds.read(tmp_path, 42) is None
    for wrong in (result_of(43), result_of(42) | {"quick": True}):
        (tmp_path / "results.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match="not a full run with seed 42"):
            seeds.read(tmp_path, 42)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        seeds.read(tmp_path, 42)
    (tmp_path / "results.json").write_text(json.dumps(result_of(42)))
    assert seeds.read(tmp_path, 42)["seed"] == 42
    gan = registry.get("gan")
    assert [gan.name_with(seed) for seed in registry.SEEDS] == ["gan", "gan-seed43", "gan-seed44"]


def test_unfinished_seeds_keep_their_earlier_entry(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    for seed in registry.SEEDS:
        folder = tmp_path / "runs" / "mnist" / registry.get("gan").name_with(seed)
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(result_of(seed, frechet=1.0)))
    path = tmp_path / "runs" / "seeds.json"
    path.write_text(json.dumps({"nf": {"made": "elsewhere"}, "gan": {"made": "before"}}))
    seeds.main(types.SimpleNamespace())
    table = json.loads(path.read_text())
    assert list(table) == ["gan", "nf"]
    assert table["gan"]["frechet"]["deviation"] == 0
    assert table["nf"] == {"made": "elsewhere"}
    said = capsys.readouterr().out
    assert "nf: 0 of 3 seeds finished, its earlier entry stays" in said
    assert "vae-z2: 0 of 3 seeds finished, left out" in said
    path.write_text("[1")
    with pytest.raises(UserError, match="damaged"):
        seeds.main(types.SimpleNamespace())


def test_an_interrupted_selection_ends_its_script_even_under_nohup(tmp_path):
    """Children of a command that nohup started in the background ignore SIGINT."""
    script, pid = tmp_path / "script.py", tmp_path / "pid"
    script.write_text(
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )

    def interrupt():
        if pid.exists() and pid.read_text():
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train.call([str(script)], tmp_path / "log.txt", interrupt)
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
