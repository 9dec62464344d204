"""The chain that `make` runs: what it starts, how it measures progress, what it says of a failure."""

import json

import standard_runs


def test_every_run_names_an_existing_script_and_parses():
    import importlib

    for _, script, binary, options, shorter, weight in [*standard_runs.RUNS, *standard_runs.BEYOND]:
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        full, short = module.parse_args(options), module.parse_args([*options, *shorter])
        assert weight > 0
        if isinstance(binary, bool):
            module.parse_args(
                [*options, "--data", "bmnist" if binary else "mnist"]
            )  # refused if it were the other kind
            epochs = lambda args: getattr(args, "epochs", None) or args.n_epochs
            assert 1 <= epochs(short) < epochs(full)


def test_progress_is_read_from_the_metrics(tmp_path):
    assert standard_runs.epochs_done(tmp_path, 10) == 0
    (tmp_path / "settings.json").write_text(json.dumps({"settings": {"epochs": 10}}))
    assert standard_runs.planned_epochs(tmp_path) == 10
    (tmp_path / "metrics.csv").write_text("epoch,a\n0,1\n1,1\n2,1\n")
    assert standard_runs.epochs_done(tmp_path, 10) == 0.2
    (tmp_path / "settings.json").write_text("{")
    assert standard_runs.planned_epochs(tmp_path) > 1000


def test_the_quick_chain_ends_well_and_is_not_run_twice(checkout):
    """Only the cheapest run here: the whole chain is what `make quick` shows."""
    script = checkout.folder / "code" / "standard_runs.py"
    text = script.read_text()
    only = "RUNS = [('vae-z2', 'a3_vae_template.py', True, ['--zdim', '2'], [], 1)]\n_ = ["
    # what comes after the runs has tests of its own, in test_evaluate.py
    script.write_text(text.replace("RUNS = [", only, 1).replace("code/evaluate.py", "code/nothing.py"))
    empty = checkout.folder / "no real data here"
    empty.mkdir(exist_ok=True)
    checkout.environment["https_proxy"] = "http://127.0.0.1:1"  # no way to the net
    try:
        done = checkout.run("standard_runs.py", "--quick")
        assert done.returncode == 0, done.stderr
        assert "Going on with binary glyph digits" in done.stderr
        assert "vae-z2: done" in done.stdout
        assert "\x1b" not in done.stdout
        again = checkout.run("standard_runs.py", "--quick")
        assert again.returncode == 0
        assert "vae-z2: finished earlier" in again.stdout
        vae = checkout.folder / "code" / "a3_vae_template.py"
        original = vae.read_text()
        vae.write_text(original.replace("def main():", "def main():\n    raise experiment.Trouble('no luck')", 1))
        (checkout.folder / "runs/quick/glyphs-binary/vae-z2/results.json").unlink()
        failed = checkout.run("standard_runs.py", "--quick")
        vae.write_text(original)
        assert failed.returncode == 1
        assert "vae-z2 stopped: a3_vae_template.py: no luck" in failed.stderr
    finally:
        script.write_text(text)
        del checkout.environment["https_proxy"]
