"""What the comparison of one and two processes computes from its measurements (never how fast)."""

import json

import pytest

from common import distributed
from study import scaling


def measurements(step, sums=0.0):
    return {"made up": {"step": step, "batch_size": 100, "sum": sums, "bytes": 4e6, "sums": 2.0}}


def test_ratios_are_those_of_successive_starts():
    starts = {"one": [measurements(s) for s in (4, 8, 2)], "two": [measurements(s, 0.5) for s in (2, 2, 2)]}
    result = scaling.compare("made up", starts)
    assert (result["ratio"], result["ratio_spread"]) == (2, 3)
    assert result["one"]["milliseconds_per_step"] == 4000
    assert result["one"]["images_per_second"] == 25
    assert result["one"]["images_per_second_spread"] == 50 - 12.5
    assert (result["two"]["sum_milliseconds"], result["two"]["megabytes_per_step"]) == (500, 4)
    result["gpus"] = scaling.estimate(result["two"])
    assert all(len(row) == len(scaling.HEADER) for row in scaling.rows({"made up": result}))
    json.dumps(result)


def test_the_estimate_for_gpus_follows_from_bytes_sums_and_steps():
    two = {"megabytes_per_step": 300.0, "sums_per_step": 5.0}
    estimate = scaling.estimate(two)
    # of 300 MB, each of 4 GPUs sends 3/4 twice, at 100 GB/s; 5 sums of 0.02 ms
    assert estimate["4"]["sum_milliseconds"] == pytest.approx(4.5 + 0.1)
    sums = estimate["4"]["sum_milliseconds"]
    assert scaling.estimate(two, {1: 8.0, 2: 5.0, 4: 3.4, 8: 2.0})["4"]["speed_up"] == pytest.approx(8 / (3.4 + sums))


def test_a_loop_is_timed_and_its_sums_are_counted(glyph_cache, monkeypatch):
    monkeypatch.setattr(distributed, "sum_gradients", lambda model: distributed.add(next(model.parameters())))
    result = scaling.time_loop("vae-z20", 700, 2, share=0.5)
    assert result["batch_size"] == 128
    assert result["step"] > 0
    # in each of six steps one sum of the first weights; at the end of an epoch the losses, and two totals
    assert result["sums"] == (6 + 2) / 6
    assert result["bytes"] == pytest.approx(4 * 784 * 500 + (6 * 4 + 2 * 8) / 6)


@pytest.mark.slow
def test_the_script_compares_both_and_calls_the_gpus_an_estimate(checkout):
    done = checkout.run("study/scaling.py", "--quick", "--only", "vae-z20")
    assert "estimated" in done.stdout
    results = json.loads((checkout.folder / "runs" / "quick" / "scaling.json").read_text())
    assert "estimates" in results["gpus"]["note"]
    model = results["models"]["vae-z20"]
    assert model["two"]["megabytes_per_step"] > 4 * 815_824 / 1e6  # the gradients
    assert model["ratio"] > 0
