"""What is timed and counted, on tiny settings (never how fast)."""

import json
import types

import pytest
import torch

from common import devices
from study import bench, loops, tables


@pytest.fixture(scope="module")
def machine():
    return bench.machine(64)


def test_operations_are_counted_forward_and_backward_with_every_place_of_a_convolution():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(3 * 16, 5)
    )  # fmt: skip
    x = torch.zeros(2, 1, 4, 4)
    loop = loops.Loop([net], None, [], lambda: net(x).sum().backward(), False)
    convolution, linear = 2 * 3 * 9 * 16, 2 * 3 * 16 * 5  # a multiplication and an addition for each weight and place
    # backward: to the weights and to the inputs, but not to the image
    assert bench.count_operations(loop) == 2 * (2 * convolution + 3 * linear)


def test_the_plain_coupling_is_inverted_and_keeps_what_its_mask_says():
    torch.manual_seed(0)
    mask = loops.nf.get_mask()
    coupling, z, ldj = loops.MaskedCoupling(mask), torch.randn(3, 784), torch.zeros(3)
    with torch.no_grad():
        assert torch.equal(coupling(z, ldj)[0], z)  # as the template asks, it starts as the identity
        coupling.nn[-1].reset_parameters()
        changed, forward = coupling(z, ldj)
        back, both = coupling(changed, forward, reverse=True)
    assert torch.equal(changed * mask, z * mask)
    assert not torch.allclose(changed, z)
    assert torch.allclose(back, z, atol=1e-4)
    assert torch.allclose(both, torch.zeros(3), atol=1e-3)


class Stop(Exception):
    pass


@pytest.mark.parametrize("options", [[], loops.MULTISCALE])
def test_the_flow_that_is_timed_is_the_one_that_the_script_trains(options, glyph_cache, monkeypatch):
    made = []

    def muon(parameters, lr, hidden, *_, weight_decay, **__):
        made.append(([weight.shape for weight in parameters], [weight.shape for weight in hidden], weight_decay))
        raise Stop

    monkeypatch.setattr(loops.nf, "Run", lambda *_: types.SimpleNamespace(finished=False, device=torch.device("cpu")))
    for module in (loops.nf, loops):
        monkeypatch.setattr(module, "Muon", muon)
    with pytest.raises(Stop):
        loops.nf.main(loops.nf.parse_args([*options, "--data", "glyphs"]))
    with pytest.raises(Stop):
        loops.our_nf(None, options)
    assert made[0] == made[1]
    assert len(made[0][1]) == (2 * 14 if options else 0)  # 2 x 6 + 1 coupling layers and the dequantisation


@pytest.mark.parametrize("name", ["vae-z20", "nf-multiscale"])
def test_a_comparison_has_every_metric_of_all_sides(name, machine, glyph_cache, monkeypatch):
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device_type: True)
    monkeypatch.setattr(loops, "MULTISCALE", [*loops.MULTISCALE, "--flows", "1", "--hidden", "8"])
    result = bench.compare(name, machine, images=70, repeats=2)
    sides = {"ours", "float32", "plain"} if name == "vae-z20" else {"ours", "float32"}
    assert (result["ours"]["matrix_rate"], result["float32"]["matrix_rate"]) == ("bfloat16", "float32")
    assert sides == result.keys() - {"ratio", "ratio_spread"}
    assert ("ratio" in result) == (name == "vae-z20")
    for side in sides:
        metrics = result[side]
        parts = [metrics[f"{part}_milliseconds"] for part in ("forward", "backward", "optimiser", "data")]
        assert all(part > 0 for part in parts)
        for key in ("images_per_second", "images_per_second_spread", "share_of_matrix_rate"):
            assert metrics[key] > 0
    for header, rows in tables.bench({name: result}):
        assert len(rows) == len(sides)
        assert all(len(row) == len(header) for row in rows)
    json.dumps(result)


def test_a3_float32_switches_bfloat16_off(monkeypatch):
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device_type: True)
    net, x = torch.nn.Linear(3, 3), torch.randn(2, 3)

    def kind():
        with devices.autocast(torch.device("cpu")):
            return net(x).dtype

    assert kind() == torch.bfloat16
    monkeypatch.setenv("A3_FLOAT32", "1")
    assert kind() == torch.float32


def test_the_loop_in_float32_is_timed_in_float32(machine, monkeypatch):
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device_type: True)
    kinds, data = [], loops.grey_images([])
    loop = lambda *_: loops.Loop([], loops.TimedLoader(data), [], lambda: kinds.append(bench.fast_bf16("cpu")), True)
    monkeypatch.setitem(loops.MODELS, "made up", (loop, None, lambda: data, 10))
    monkeypatch.setattr(bench, "count_operations", lambda loop: 1)
    monkeypatch.setattr(bench, "one_epoch", lambda loop: (loop.epoch(), (1.0, {}, 1))[1])
    bench.compare("made up", machine, repeats=2)
    assert kinds == [True, False, True, False]


def test_a_gans_step_counts_both_nets(glyph_cache):
    images = loops.MODELS["gan"][2]().subset(4)
    count = lambda loop: bench.count_operations(loop) / 4
    ours, narrow = count(loops.our_gan(images)), count(loops.our_narrow_gan(images))
    assert ours > 1.3 * narrow  # the gradient penalty
    # for G's loss the plain loop also computes the gradient of D's weights, which nothing uses
    assert count(loops.plain_gan(images.images)) - narrow == 2 * (784 * 512 + 512 * 256 + 256)


def test_patched_functions_are_put_back(glyph_cache):
    before = torch.Tensor.backward, torch.nn.utils.clip_grad_norm_
    loop = loops.our_nf(loops.grey_images([]).subset(20), ["--hidden", "8", "--flows", "1"])
    assert bench.one_epoch(loop)[2] == 1
    assert (torch.Tensor.backward, torch.nn.utils.clip_grad_norm_) == before


def test_each_part_of_a_step_is_timed_and_forward_is_the_rest(monkeypatch):
    """On a clock that only the parts move: 1 s for data, 2 s for a step of the optimiser, 4 s for the rest."""
    clock = [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(loops.time, "perf_counter", lambda: clock[0])

    def work(seconds):
        clock[0] += seconds

    class Data:
        def __iter__(self):
            for _ in range(3):
                work(1)
                yield 0

    class Optimizer:
        step = staticmethod(lambda: work(2))
        zero_grad = staticmethod(lambda: None)

    optimizer, data = Optimizer(), loops.TimedLoader(Data())

    def epoch():
        for _ in data:
            work(4)
            optimizer.step()

    whole, spent, steps = bench.one_epoch(loops.Loop([], data, [optimizer], epoch, False))
    assert (whole, steps) == (21, 3)
    assert spent == {"forward": 12, "backward": 0, "optimiser": 6, "data": 3}


def test_the_ratio_says_how_many_times_as_fast_ours_is(monkeypatch, machine):
    clock = [0.0]
    for module in (bench, loops):
        monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    data = loops.grey_images([])

    def loop(seconds):
        def epoch():
            clock[0] += seconds

        return loops.Loop([], loops.TimedLoader(data), [], epoch, False)

    monkeypatch.setattr(
        bench, "one_epoch", lambda loop: (lambda start: (loop.epoch(), (clock[0] - start, {}, 1))[1])(clock[0])
    )
    monkeypatch.setitem(loops.MODELS, "made up", (lambda data: loop(2), lambda images: loop(5), lambda: data, 10))
    result = bench.compare("made up", machine)
    assert (result["ratio"], result["ratio_spread"]) == (2.5, 0)
    assert (result["ours"]["images_per_second"], result["plain"]["images_per_second"]) == (5, 2)
