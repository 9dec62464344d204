"""The race: what its clock counts, resuming, targets; no real times."""

import itertools
import json
import math
import signal
import time

import pytest
import torch

from common import devices, files
from common.files import save_state
from datasets.files import UserError
from study import charts, loops, publish, race, registry, tables


@pytest.fixture
def clock(monkeypatch):
    """Time that only the tests move: clock[0] seconds."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


class Slow:
    """Fetching one of its 7 batches takes 1 s."""

    def __init__(self, clock):
        self.clock = clock

    def __iter__(self):
        for i in range(7):
            self.clock[0] += 1
            yield i


def slow_loop(clock):
    """A loop whose steps take 3 s, batch included, and add 1 to its only weight."""
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(net.weight)
    optimizer, loader = torch.optim.SGD(net.parameters(), lr=1.0), loops.TimedLoader(Slow(clock))

    def epoch():
        for _ in loader:
            clock[0] += 2
            net.weight.grad = torch.full_like(net.weight, -1.0)
            optimizer.step()

    return loops.Loop([net], loader, [optimizer], epoch, False)


def steps_of(loop):
    return loop.nets[0].weight.item()


def test_the_clock_counts_between_start_and_stop(clock):
    counted = race.Clock(5.0)
    counted.stop()  # it does not run yet
    clock[0] = 10
    counted.start()
    clock[0] = 12
    assert counted.seconds == 7
    counted.stop()
    clock[0] = 100
    assert counted.seconds == 7
    counted.start()
    clock[0] = 101
    assert counted.seconds == 8


@pytest.mark.parametrize("budget", [60.0, 61.0, 200.0])
def test_the_plain_loop_gets_the_same_seconds_and_judging_is_free(budget, clock):
    loop, curve, saved = slow_loop(clock), [], []

    def judge():
        clock[0] += 1000
        return steps_of(loop)

    def save():
        clock[0] += 500
        saved.append(len(curve))

    race.train_plain(loop, budget, curve, judge, save)
    seconds, steps = zip(*curve)
    assert seconds == tuple(3 * n for n in steps)  # nothing but steps was counted
    assert budget <= seconds[-1] < budget + 3
    assert steps_of(loop) == steps[-1]  # and no step after the last measurement
    assert curve[0] == [0, 0]
    assert saved == list(range(1, len(curve) + 1))
    for share in race.SHARES:  # each share is judged after the first step that ends beyond it
        assert any(share * budget <= second < share * budget + 3 for second in seconds)
    assert len(curve) <= len(race.SHARES)
    gaps = [b - a for a, b in itertools.pairwise(race.SHARES)]
    assert gaps == sorted(gaps)
    assert race.SHARES[-1] == 1


def test_an_interrupted_plain_loop_goes_on_from_its_last_measurement(clock, tmp_path, monkeypatch):
    entry, made = registry.get("nf"), []

    def side(*_):
        made.append(slow_loop(clock))
        return made[-1], lambda: steps_of(made[-1])

    def interrupted(path, state):
        save_state(path, state)
        if len(state["curve"]) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(race, "plain_side", side)
    monkeypatch.setattr(race, "save_state", interrupted)
    with pytest.raises(KeyboardInterrupt):
        race.plain(entry, 1, "mnist", False, tmp_path, 90.0)
    monkeypatch.setattr(race, "save_state", save_state)
    result = race.plain(entry, 1, "mnist", False, tmp_path, 90.0)
    assert result["seconds"] == 90
    assert result["curve"] == [[3 * n, n] for _, n in result["curve"]]
    assert len(made) == 2
    steps = [n for _, n in result["curve"]]
    assert steps == sorted(set(steps))
    assert race.plain(entry, 1, "mnist", False, tmp_path, 90.0) == result  # killed after the last measurement
    monkeypatch.setattr(race, "code_digest", lambda script: "other code")
    with pytest.raises(UserError, match="was made by other code"):
        race.plain(entry, 1, "mnist", False, tmp_path, 90.0)


@pytest.mark.parametrize(("name", "data"), [("vae-z20", "glyphs-binary"), ("nf", "glyphs")])
def test_judging_an_untrained_plain_loop_gives_the_known_value_and_keeps_its_mode(name, data, glyph_cache):
    torch.manual_seed(0)
    loop, judge = race.plain_side(registry.get(name), data, quick=True)
    expected = -784 * math.log(2)
    if name == "nf":  # that of the identity
        identity, val = race.nf.Model([784], 1, 8).eval(), race.mnist(data=data)[1].subset(500)
        expected = race.nf.epoch_iter(identity, val, None)
    assert judge() == pytest.approx(expected, rel=0.01)
    for mode in (True, False):
        loop.nets[0].train(mode)
        judge()
        assert loop.nets[0].training is mode


def test_the_plain_gan_is_judged_in_eval_mode_by_as_many_samples_as_images(glyph_cache, monkeypatch):
    loop, judge = race.plain_side(registry.get("gan"), "glyphs", quick=True)
    compared = []
    monkeypatch.setattr(race.quality, "frechet", lambda a, b: compared.append((len(a), len(b))) or 1.0)
    before = {name: value.clone() for name, value in loop.nets[0].state_dict().items()}
    assert judge() == 1.0  # images_of accepts eval mode only
    assert compared == [(1000, 1000)]
    assert loop.nets[0].training
    assert all(torch.equal(value, before[name]) for name, value in loop.nets[0].state_dict().items())


def test_our_side_is_the_scripts_run_without_options(tmp_path, monkeypatch):
    started, results = [], {
        "seconds": 5.0, "epoch_seconds": [0.0, 2.0, 3.0], "final": {}, "settings": {}, "seed": 7, "quick": False,
        "curves": {"epoch": [0, 1, 2], "frechet_val": [9.0, None, 1.0]},
    }  # fmt: skip

    def call(command, log):
        started.append(command)
        (tmp_path / "results.json").write_text(json.dumps(results))

    monkeypatch.setattr(race, "call", call)
    entry = registry.get("gan")
    for _ in range(2):  # the second time it is finished
        found = race.ours(entry, 7, "mnist", False, tmp_path)
        assert found == {"seconds": 5.0, "curve": [[0.0, 9.0], [5.0, 1.0]]}
    assert len(started) == 1
    script = race.gan
    mine, default = script.parse_args(started[0][1:]), script.parse_args([])
    assert {key for key, value in vars(mine).items() if value != getattr(default, key)} == {
        "data", "name", "seed", "device", "resume"
    }  # fmt: skip
    assert (mine.name, mine.seed, mine.device) == (tmp_path.name, 7, "cpu")


# ---- targets


def pair(ours, plain, data="mnist"):
    return {"data": data, "ours": {"seconds": ours[-1][0], "curve": ours}, "plain": {"curve": plain}}


def test_seconds_to_a_target_are_those_of_the_first_measurement_that_reaches_it():
    rising, falling = [[0, -500.0], [5, -101.0], [9, -100.0], [12, -101.0]], [[0, 3.0], [5, 1.9], [9, 1.8], [12, 1.9]]
    assert race.seconds_to(rising, -100.7, True) == 9
    assert race.seconds_to(rising, -99.0, True) is None
    assert race.seconds_to(falling, 1.813, False) == 9
    assert race.seconds_to(falling, 1.9, False) == 5
    assert race.seconds_to(falling, 1.5, False) is None


def test_the_targets_are_those_of_the_best_public_solution_and_for_the_gan_where_its_plain_loop_ends():
    for name, target in race.TARGETS.items():
        assert publish.REFERENCES[name, registry.get(name).metric].split()[0] == str(target)
    pairs = {"42": pair([[0, 900.0], [10, 20.0], [60, 7.0]], [[0, 900.0], [60, 30.0]]),
             "43": pair([[0, 900.0], [10, 20.0], [62, 9.0]], [[0, 900.0], [62, 10.0]])}  # fmt: skip
    found = race.summary("gan", pairs, quick=False)
    assert (found["target"], found["seconds"], found["seeds"]) == (20.0, 61, [42, 43])
    assert found["ours"] == {"after": 8.0, "reached": [10, 62], "seconds_to_target": 36}
    assert found["plain"] == {"after": 20.0, "reached": [60, 62], "seconds_to_target": 61}


def test_the_table_says_what_is_not_reached():
    bound = lambda last: [[0, -543.0], [30, -101.0], [60, last]]
    pairs = {"42": pair(bound(-96.0), bound(-105.0), "bmnist"), "43": pair(bound(-100.9), bound(-104.0), "bmnist")}
    found = race.summary("vae-z20", pairs, quick=False)
    assert found["ours"]["seconds_to_target"] is None  # not of all seeds
    header, (row,) = tables.race({"vae-z20": found})
    assert dict(zip(header, row, strict=True)) == {
        "model": "VAE, D = 20", "data": "static binary MNIST", "validation metric": "nats", "seeds": "2",
        "after": "60 s", "ours": "-98.45", "plain loop": "-104.50", "target": "-100.60",
        "ours reaches it": "60 s (1 of 2 seeds)", "plain loop reaches it": "not reached in 60 s",
    }  # fmt: skip


@pytest.mark.parametrize(("data", "quick"), [("glyphs", False), ("mnist", True)])
def test_there_are_no_targets_on_glyphs_and_for_quick_runs(data, quick):
    curve = [[0, 3.0], [60, 1.5]]
    found = {name: race.summary(name, {"42": pair(curve, curve, data)}, quick) for name in ("gan", "nf")}
    assert all(line["target"] is None for line in found.values())
    header, rows = tables.race(found)
    assert "after" in header
    assert not any("reaches" in name or "target" in name for name in header)
    assert all(len(row) == len(header) for row in rows)
    assert data == "mnist" or "MNIST" not in str(rows).replace("(not MNIST)", "")


def test_the_figure_shows_our_curve_when_the_plain_loop_has_diverged(tmp_path, monkeypatch):
    good, bad = [[0, 28.0], [6, 2.0], [60, 1.7]], [[0, 28.0], [6, math.nan], [60, math.nan]]
    worse = [[0, 28.0], [6, 30.0], [60, 40.0]]
    limits = []
    monkeypatch.setattr(charts, "finish", lambda figure, _: limits.append(figure.axes[0].get_ylim()))
    for other in (bad, worse, good):
        for unit in ("Fréchet distance", "bits per dimension"):
            charts.race(tmp_path / "race.pdf", {"A flow": ({"ours": [good], "plain loop": [other]}, None, unit)})
            assert limits[-1][0] < 1.7 < limits[-1][1]


# ---- the whole


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A checkout without runs, in which both sides take no time. Returns its runs/ and the list of trained loops."""
    trained, curve = [], [[0.0, 3.0], [1.0, 2.0], [8.0, 1.5]]

    def plain(entry, seed, data, quick, folder, budget):
        trained.append((entry.name, seed))
        (folder / "plain.pt").write_bytes(b"")
        return {"seconds": budget, "curve": curve}

    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(race, "data_at_hand", lambda entries: {"binary": "glyphs-binary", "grey": "glyphs"})
    monkeypatch.setattr(race, "code_digest", lambda script: f"digest of {script}")
    monkeypatch.setattr(race, "ours", lambda *_: {"seconds": 8.0, "curve": curve})
    monkeypatch.setattr(race, "plain", plain)
    return tmp_path / "runs", trained


def test_finished_parts_are_kept_and_the_result_has_what_was_asked_for(place, capsys):
    runs, trained = place
    race.main(race.parse_args(["--only", "nf"]))
    race.main(race.parse_args(["--only", "nf", "gan", "--seed", "42", "43"]))
    assert trained == [("nf", 42), ("gan", 42), ("nf", 43), ("gan", 43)]
    result = json.loads((runs / "race.json").read_text())
    assert {name: list(pairs) for name, pairs in result["models"].items()} == {"nf": ["42", "43"], "gan": ["42", "43"]}
    assert result["summary"]["nf"]["plain"]["after"] == 1.5
    both = result["models"]["gan"]["43"]
    conditions = {"data", "processor", "threads", "torch", "bfloat16", "code", "settings", "commit"}
    assert both.keys() == {*conditions, "ours", "plain"}
    assert both["settings"]["seed"] == 43
    assert both["threads"] == torch.get_num_threads()
    assert both["code"] == {"ours": "digest of a3_gan_template.py", "plain": "digest of study/loops.py"}
    assert (runs / "race.pdf").stat().st_size > 2000
    assert not list(runs.rglob("plain.pt"))
    said = capsys.readouterr().out
    assert "glyph digits (not MNIST)" in said
    assert "reaches" not in said


def test_a_part_made_under_other_conditions_is_refused_and_kept(place, monkeypatch):
    runs, trained = place
    race.main(race.parse_args(["--only", "gan"]))
    kept = (runs / "glyphs" / "race-gan-seed42" / "race.json").read_bytes()
    monkeypatch.setattr(devices, "processor", lambda device: "another processor")
    with pytest.raises(UserError, match=r"race-gan-seed42 was made with other processor: .*delete this folder"):
        race.main(race.parse_args(["--only", "gan"]))
    assert (runs / "glyphs" / "race-gan-seed42" / "race.json").read_bytes() == kept
    assert len(trained) == 1


@pytest.mark.slow
def test_a_killed_race_goes_on(checkout):
    folder = checkout.folder / "runs" / "quick" / "glyphs-binary" / "race-vae-z20-seed42"
    child = checkout.start("study/race.py", "--quick", "--only", "vae-z20")
    while not (folder / "plain.pt").exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert "to continue, run the same command again" in child.communicate()[1]
    assert child.returncode == 130
    before = (folder / "results.json").read_bytes()
    done = checkout.run("study/race.py", "--quick", "--only", "vae-z20")
    assert (folder / "results.json").read_bytes() == before
    assert "binary glyph digits (not MNIST)" in done.stdout
    both = json.loads((folder / "race.json").read_text())
    assert 0 <= both["plain"]["seconds"] - both["ours"]["seconds"] < 1
    assert len(both["plain"]["curve"]) > 4
