"""The page in a real browser: its networks compute what torch computes, and its parts react to pointer and keys.

The models have random weights, because outputs are compared for given weights. The published models are compared, too,
if there are any."""

import base64
import copy
import json
import math
import re
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn

import a3_gan_template as gan
import a3_nf_template as nf
import a3_vae_template as vae
import browser as chromium
import tiny
from beyond import autoregressive
from common import files, models, quality
from conftest import ROOT
from datasets import loading
from datasets.files import UserError
from nets import multiscale
from study import export, page, registry

SIZES = (60, 20, 400)
CONSOLE = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
EXACT = 20_000  # precision: the page then has the weights nearly as they are


def redraw(module):
    """Random weights in the place of zeros, at which a flow is the identity."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    for buffer in (buffer for name, buffer in module.named_buffers() if "running" in name):
        buffer.uniform_(0.5, 1.5)
    return module.eval()


def made_up():
    """{name in the page: (script, sizes, model)}"""
    torch.manual_seed(3)
    pixelcnn = {"n_hidden": 8, "layers": 4}
    sizes = {"latent_dim": 30, "codes": 4, "waves": 20}
    flow = {"n_flows": 2, "n_hidden": 8, "arch": "multiscale", "mix": "conv1x1", "dequantize": "variational"}
    return {
        "vae2": (registry.VAE, {"hidden_dim": 60, "z_dim": 2}, redraw(vae.VAE(60, 2))),
        "vae20": (registry.VAE, {"hidden_dim": 60, "z_dim": 20}, redraw(vae.VAE(60, 20))),
        "gan": (registry.GAN, sizes, redraw(gan.Generator(**sizes))),
        "flow": (registry.FLOW, flow, redraw(nf.Model([784], **flow))),
        "pixelcnn": (registry.AUTOREGRESSIVE, pixelcnn, redraw(autoregressive.Model(**pixelcnn))),
    }  # fmt: skip


@pytest.fixture(scope="module")
def networks():
    return {name: model for name, (*_, model) in made_up().items()} | {
        "classifier": quality.load_classifier("glyphs", torch.device("cpu"), None)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkout with published models and docs/index.html, made by page.main."""
    root = tmp_path_factory.mktemp("page")
    (root / "docs").mkdir()
    (root / "models").mkdir()
    for name, (script, sizes, model) in made_up().items():
        models.save_model(root / "models" / f"{page.MODELS[name][0]}.pt", script, sizes, model.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "find", lambda name, names, *_: tiny.find(SIZES, name, names))
        patch.setattr(models, "PUBLISHED", root / "models")
        patch.setattr(page, "ROOT", root)
        patch.setattr(page, "MODELS", {name: (*about[:2], EXACT) for name, about in page.MODELS.items()})
        patch.setattr(page, "CLASSIFIER_PRECISION", EXACT)
        patch.setattr(page, "LARGEST", 1e7)
        page.main(page.parse_args([]))
    return root


@pytest.fixture(scope="module")
def window(tmp_path_factory, folder):
    """The browser with the page, opened once for all tests."""
    if not chromium.program():
        pytest.skip("Chromium is not installed: make chromium")
    browser = chromium.Browser(tmp_path_factory.mktemp("profile"))
    try:
        browser.path = folder / "docs" / "index.html"
        browser.open(browser.path)
        browser.content = browser.run("content")
        yield browser
    finally:
        browser.close()


def computed(window, script, **inputs):
    """The numbers of a JavaScript expression, in which the inputs are arrays."""
    given = "".join(f"const {name} = {json.dumps(values.flatten().tolist())};" for name, values in inputs.items())
    return torch.tensor(window.run(f"(async () => {{ {given} return [...({script})]; }})()"), dtype=torch.float64)


def worst(found, expected):
    expected = expected.detach().double().flatten()
    assert len(found) == len(expected)
    return float((found - expected).abs().max())


LOGITS = """await (async () => {
  const net = new PixelCNN(await local('pixelcnn')), found = [];
  for (const pixel of x) {
    const p = net.probability();
    found.push(Math.log(p / (1 - p)));
    net.put(pixel);
  }
  return found;
})()"""


@torch.no_grad()
def check_outputs(window, networks, grey, levels, near):
    """Compare all networks with torch. `levels`: tolerance of images in grey levels, `near`: of other numbers."""
    torch.manual_seed(4)
    x = (grey > 127).float()
    for name in ("vae2", "vae20"):
        model, z = networks[name], torch.randn(3, networks[name].z_dim)
        mean, std = model.encoder(x[None])
        assert worst(computed(window, f"(await local('{name}')).encode(x).mean", x=x), mean) < near
        assert worst(computed(window, f"(await local('{name}')).encode(x).std", x=x), std) < near
        assert worst(255 * computed(window, f"(await local('{name}')).decode(z)", z=z), 255 * model.decoder(z)) < levels
    judge = quality.classify(networks["classifier"], grey[None] / 255)[1]
    assert worst(computed(window, "(await local('classifier')).classify(x)", x=grey / 255), judge) < near
    noise = networks["gan"].noise(2)
    generated = computed(window, "await remote('gan').call('generate', noise)", noise=noise)
    assert worst(255 * generated, 255 * gan.images_of(networks["gan"], noise)) < levels

    flow, code, zero = copy.deepcopy(networks["flow"]).double(), torch.randn(1, 784).double(), torch.zeros(1).double()
    z, ldj = flow.flow(*flow.logit_normalize(grey[None].double() + 0.5, zero))
    assert worst(computed(window, "(await remote('flow').call('encode', x)).code", x=grey + 0.5), z) < 10 * near
    found = computed(window, "[(await remote('flow').call('encode', x)).logdet]", x=grey + 0.5)
    assert worst(found, ldj) < 100 * near  # a sum over 784 pixels
    back, _ = flow.logit_normalize(*flow.flow(code, zero, reverse=True), reverse=True)
    assert worst(computed(window, "await remote('flow').call('decode', z)", z=code), back) < levels
    median = flow.noise.nn(multiscale.squeeze(grey.view(1, 1, 28, 28).double() / 128 - 1))[:, 4:]
    median = torch.sigmoid(multiscale.unsqueeze(flow.noise.mean + median))
    assert worst(computed(window, "await remote('flow').call('noiseOf', x)", x=grey), median) < near

    logits = networks["pixelcnn"].net(2 * x[None] - 1)
    assert worst(computed(window, LOGITS, x=x), logits) < 10 * near


def grey_digit():
    """A smooth image of integers 0..255 with a black background."""
    line = torch.linspace(-3, 3, 28)
    return (330 * torch.exp(-((line[:, None] ** 2 + line**2 - 2) ** 2)) - 30).clamp(0, 255).floor().flatten()


def test_texts_decode_to_their_bytes(window):
    torch.manual_seed(12)
    for size in (0, 1, 2, 3, 4, 5, 7, 1000):
        data = bytes(torch.randint(0, 256, (size,)).tolist())
        for each in (data, b"\xff" * size, b"\0" * size):
            text = json.dumps(base64.b85encode(each).decode().replace("<", ","))
            assert window.run(f"[...bytesOf({text})]") == list(each)
    text = export.as_text(bytes(range(256)) * 300)
    assert not set(text) & set("<\"'\\\n")  # it can stand in a script element and in a string
    assert window.run(f"inflate('{text}').then((buffer) => [...new Uint8Array(buffer)])") == [*range(256)] * 300


def test_outputs_equal_torch_s(window, networks):
    check_outputs(window, networks, grey_digit(), levels=0.1, near=1e-3)


def test_published_models_stay_within_two_grey_levels(window, tmp_path):
    found = page.find_models(user=False, quick=False)
    if len(found) < len(page.MODELS):
        pytest.skip("not all models are published")
    loaded = {name: registry.module(registry.get(run).script).load(path) for name, (run, path) in found.items()}
    loaded["classifier"] = quality.load_classifier("mnist", torch.device("cpu"), None)
    described = page.describe(loaded)
    (tmp_path / "page.html").write_text(page.assemble(described, window.content))
    try:
        window.open(tmp_path / "page.html")
        check_outputs(window, loaded, grey_digit(), levels=2, near=0.05)
    finally:
        window.open(window.path)


def convolutional():
    """Layers in other orders and with other strides than those of today's networks."""
    return nn.Sequential(
        nn.Linear(5, 3 * 49), nn.Unflatten(1, (3, 7, 7)), nn.BatchNorm2d(3), nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(3, 6, 4, 2, 1), nn.BatchNorm2d(6), nn.GELU(), nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2, padding=2, dilation=2, bias=False), nn.BatchNorm2d(8), nn.Tanh(),
        nn.PixelShuffle(2), nn.MaxPool2d(3, 2, 1), nn.Tanh(), nn.Flatten(),
    )  # fmt: skip


def test_layers_of_convolutional_generators_equal_torch_s(window):
    torch.manual_seed(5)
    net, z, pack = redraw(convolutional()), torch.randn(2, 5), export.Packer(EXACT)
    layers = export.layers(pack, net)
    described = json.dumps({"layers": layers})
    script = f"forward(unpackAll({described}, await inflate('{pack.text()}')).layers, {{data: z, shape: [2, 5]}}).data"
    assert sum(layer["op"] == "scale" for layer in layers) == 1  # all other BatchNorms are folded into the layer before
    assert worst(computed(window, script, z=z), net(z)) < 1e-3


def test_waves_replace_a_fixed_matrix(window):
    torch.manual_seed(6)
    n, m = 5, 28
    lines = torch.cos(torch.pi * torch.arange(n)[:, None] * (torch.arange(m) + 0.5) / m)
    scales = torch.rand(n, n) + 0.5
    matrix = torch.einsum("uv,ui,vj->uvij", scales, lines, lines).reshape(n * n, m * m)
    amplitudes, z, pack = nn.Linear(3, n * n), torch.randn(2, 3), export.Packer(EXACT)
    module = SimpleNamespace(waves=matrix, bias=torch.randn(m * m))
    described = json.dumps({"layers": export.waves(pack, module, amplitudes.weight, amplitudes.bias)})
    script = f"forward(unpackAll({described}, await inflate('{pack.text()}')).layers, {{data: z, shape: [2, 3]}}).data"
    assert worst(computed(window, script, z=z), amplitudes(z) @ matrix + module.bias) < 1e-3


@pytest.mark.parametrize("codes", [0, 3])
@pytest.mark.parametrize("arch", ["template", "conv"])
def test_other_generators_equal_torch_s(window, arch, codes):
    torch.manual_seed(9)
    generator = redraw(gan.Generator(latent_dim=5, codes=codes, waves=4, arch=arch)).eval()
    described, weights = export.describe("gan", generator, EXACT)
    script = f"await makeModel({json.dumps(described)}, '{weights}')"
    noise = computed(window, f"({script}).noise(1)").float()
    assert len(noise) == 5 + codes
    if codes:
        assert sorted(noise[5:].tolist()) == sorted(generator.noise(1)[0, 5:].tolist())
    assert worst(computed(window, f"({script}).generate(noise)", noise=noise), (generator(noise[None]) + 1) / 2) < 1e-4


def mixture(x, logits, mean, log_scale):
    """logit of the CDF of a mixture of logistics, in float64; the components are in dimension 0."""
    cdf = (logits.softmax(0) * torch.sigmoid((x - mean) / log_scale.clamp_min(-5).exp())).sum(0)
    rest = (logits.softmax(0) * torch.sigmoid((mean - x) / log_scale.clamp_min(-5).exp())).sum(0)
    return cdf.log() - rest.log()


@pytest.mark.parametrize("components", [0, 3])
def test_coupling_layers_and_their_inverse(window, components):
    """Both kinds of coupling layers against autograd. One component is narrower than the smallest scale, one is wide:
    between narrow components alone, the CDF would be too flat for an inverse."""
    torch.manual_seed(10)
    n, x = 2 + 3 * components, 3 * torch.randn(16, 4, dtype=torch.float64)  # 4 x 4 pixels with 4 channels
    net, pack = nn.Linear(2, 2 * n).requires_grad_(False), export.Packer(EXACT)  # the same for each pixel
    if components:
        log_scales = slice(2 * (n - components), None)
        net.weight[log_scales], net.bias[log_scales] = 0, torch.tensor([-6.0, 0.0, 1.0]).repeat_interleave(2)
    layer = json.dumps({"op": "coupling", "layers": [export.linear(pack, net.weight, net.bias)]})
    step = f"unpackAll({layer}, await inflate('{pack.text()}'))"
    kept = x[:, :2].contiguous()
    value = "{data: Float32Array.from(kept), shape: [1, 4, 4, 2]}"
    parameters = computed(window, f"forward(({step}).layers, {value}).data", kept=kept)
    assert worst(parameters, net(kept.float())) < 0.01
    parameters, changed = parameters.view(16, n, 2).transpose(0, 1), x[:, 2:].clone().requires_grad_()  # [n, 16, 2]
    y = mixture(changed, *parameters[2:].chunk(3)) if components else changed
    y = y * torch.tanh(parameters[0]).exp() + parameters[1]
    logdet = torch.autograd.grad(y.sum(), changed)[0].log().sum()
    script = f"""await (async () => {{
      const value = {{data: Float64Array.from(x), shape: [1, 4, 4, 4]}};
      const step = {step};
      const logdet = STEPS.coupling(step, value, false), there = [...value.data];
      const back = STEPS.coupling(step, value, true);
      return [...there, ...value.data, logdet, back];
    }})()"""
    found = computed(window, script, x=x)
    assert worst(found[:64], torch.cat([x[:, :2], y], 1)) < 1e-8
    assert worst(found[64:128], x) < 1e-10
    assert worst(found[128:], torch.stack([logdet, -logdet])) < 1e-8


def test_far_tails_of_a_mixture_return(window):
    script = """[-1e4, -300, -3, 0, 3, 300, 1e4].map((x) => {
      const mixture = new Mixture(2);
      mixture.set((i) => [0, 0, 0.3, -0.2, -1, 1.5, -2, 0.5][i]);
      return Math.abs(mixture.invert(mixture.transform(x)[0]) - x) / (1 + Math.abs(x));
    })"""
    assert computed(window, script).max() < 1e-12
    narrow = "new Mixture(1)); one.set((i) => [0, 0, 0, 0.3, -9][i]); return one.transform(0.4)"
    logit, log_slope = computed(window, f"(() => {{ const one = ({narrow}; }})()")
    assert float(log_slope) == pytest.approx(5)  # the smallest scale is exp(-5)
    assert float(logit) == pytest.approx(0.1 * math.exp(5))


def test_the_bound_is_that_of_the_script(window, networks):
    model, x = networks["vae20"], (grey_digit() > 127).float()
    found = computed(window, "[(await local('vae20')).bound(x, 2000)].flatMap((b) => [b.bound, b.kl])", x=x)
    with torch.no_grad():
        reconstruction, kl = model.terms(x.expand(2000, -1))
    assert float(found[1]) == pytest.approx(float(kl[0]), abs=0.01)
    spread = float(reconstruction.std()) / 2000**0.5
    assert float(found[0]) == pytest.approx(float((reconstruction - kl).mean()), abs=5 * 2**0.5 * spread)


def ink(window, selector):
    """The ink of a canvas, 0..255."""
    pixels = f"$('{selector}').getContext('2d').getImageData(0, 0, 28, 28).data"
    return torch.tensor(window.run(f"[...{pixels}].filter((_, i) => i % 4 === 3)"), dtype=torch.float64)


def test_the_digit_follows_the_pointer(window, networks):
    left, top, width, height = window.centre("#plane-map")
    shown = []
    for x, y in ((0.3, 0.4), (0.6, 0.8)):
        window.mouse("mouseMoved", left + x * width, top + y * height)
        window.frame()
        shown.append(ink(window, "#plane-digit"))
        reach = window.run("planeReach()")
        z = torch.tensor([[reach * (2 * x - 1), reach * (1 - 2 * y)]])
        assert worst(shown[-1], 255 * networks["vae2"].decoder(z)) < 2.5  # the pointer is where whole pixels are
    assert (shown[0] - shown[1]).abs().max() > 2


def test_draws_are_black_or_white(window):
    window.run("$('input[name=plane-pixels][value=draws]').click()")
    window.frame()
    drawn = ink(window, "#plane-digit")
    window.run("$('input[name=plane-pixels][value=means]').click()")
    window.frame()
    means = ink(window, "#plane-digit")
    assert set(drawn.tolist()) == {0, 255}
    assert abs(float(drawn.mean() - means.mean())) < 5 * 255 * 0.5 / 28
    assert len(set(means.tolist())) > 20


def test_arrow_keys_move_the_point(window):
    window.run("$('#plane-map').focus()")
    place = "[style.left, style.top].map(parseFloat)"
    where = f"(({{style}}) => {place})($('#plane-map .marker'))"
    before = window.run(where)
    window.key("ArrowRight")
    window.key("ArrowUp")
    after = window.run(where)
    step = 100 * 0.1 / (2 * window.run("planeReach()"))
    assert [b - a for a, b in zip(before, after)] == pytest.approx([step, -step], abs=1e-6)


def draw_stroke(window, points):
    left, top, width, height = window.centre("#draw-pad")
    window.run("$('#draw-clear').click()")
    place = [(left + x * width, top + y * height) for x, y in points]
    window.mouse("mousePressed", *place[0], buttons=1)
    for point in place[1:]:
        window.mouse("mouseMoved", *point, buttons=1)
    window.mouse("mouseReleased", *place[-1])
    window.frame()
    window.frame()


def test_a_drawing_changes_the_code_and_is_centred_as_mnist_is(window):
    window.centre("#draw-pad")
    window.wait("$('#draw-bars .most')")
    codes = []
    for points in (((0.2, 0.2), (0.2, 0.7)), ((0.5, 0.3), (0.9, 0.3), (0.9, 0.8))):
        draw_stroke(window, points)
        codes.append(window.run("$('#draw-map').getAttribute('aria-label')"))
        image = ink(window, "#draw-input").view(28, 28)
        rows, columns = torch.nonzero(image).T
        assert max(rows.max() - rows.min(), columns.max() - columns.min()) + 1 == 20  # the longer side
        line = torch.arange(28) + 0.5
        centre = [float((image.sum(dim) * line).sum() / image.sum()) for dim in (0, 1)]
        assert centre == pytest.approx([14, 14], abs=0.6)  # a shift by whole pixels
    assert codes[0] != codes[1]
    window.wait("[...document.querySelectorAll('#draw-terms td')].every((cell) => cell.textContent !== '–')")
    numbers = window.run(
        "[...document.querySelectorAll('#draw-terms td')].map((cell) => Number(cell.textContent.replace('−', '-')))"
    )
    for reconstruction, kl, bound in zip(numbers[0:2], numbers[2:4], numbers[4:6]):
        assert reconstruction + kl == pytest.approx(bound, abs=0.11)


def test_the_keyboard_draws(window):
    window.centre("#draw-pad")
    window.run("$('#draw-clear').click(); $('#draw-pad').focus()")
    window.frame()
    assert not ink(window, "#draw-input").any()
    for key in (" ", *["ArrowDown"] * 5, " "):
        window.key(key)
    window.frame()
    assert ink(window, "#draw-input").any()


def test_a_digit_goes_through_the_flow_and_back(window):
    window.centre("#flow-way")
    window.wait("$('#flow-worst').textContent")
    assert "All 784 grey levels return" in window.run("$('#flow-worst').textContent")
    assert (ink(window, "#flow-input") == ink(window, "#flow-back")).all()
    window.wait(
        "document.querySelectorAll('#flow-way canvas').length === 6"
    )  # the pixels, and after 2 + 1 + 2 couplings


def test_the_image_between_the_levels_has_every_number_once(window, networks):
    """Pixels keep their place: each 2 x 2 square of the input lies in the same 2 x 2 square at every level."""
    script = """(await (async () => {
      const flow = new Flow({alpha: 0.1, noise: null, levels: [[{op: 'roll', by: 0}], [{op: 'coupling', layers: [
        {op: 'linear', weight: {shape: [8, 4], data: new Float32Array(32)}, bias: null}]}]]});
      const seen = [];
      flow.encode(Array.from({length: 784}, (_, i) => i / 4), (values) => seen.push([...values]));
      return seen;
    })()).flat()"""
    seen = computed(window, script).view(2, 28, 28)
    assert torch.equal(seen[0], seen[1])


def test_pixelcnn_completes_an_image(window, networks):
    window.centre("#pixelcnn-pad")
    window.wait("$('#pixelcnn-log').textContent !== '–'")
    window.run("$('#pixelcnn-clear').click()")
    window.run("$('#pixelcnn-speed').value = 3")
    left, top, width, height = window.centre("#pixelcnn-pad")
    for x in (0.3, 0.5, 0.7):
        window.mouse("mousePressed", left + x * width, top + 0.3 * height, buttons=1)
        window.mouse("mouseReleased", left + x * width, top + 0.3 * height)
    window.frame()
    drawn = ink(window, "#pixelcnn-pad canvas")
    assert drawn.any()
    known = 28 * (1 + int(torch.nonzero(drawn).max()) // 28)
    window.run("$('#pixelcnn-complete').click()")
    window.wait("$('#pixelcnn-next').textContent === 'The image is complete.'")
    image = ink(window, "#pixelcnn-pad canvas")
    assert torch.equal(image[:known], drawn[:known])
    with torch.no_grad():
        log_px = float(networks["pixelcnn"]((image[None] / 255).float()))
    said = window.run("$('#pixelcnn-log').textContent")
    assert float(re.search(r"−([\d.]+)", said)[1]) == pytest.approx(-log_px, abs=0.06)


def test_the_curve_gives_its_values_and_the_table_sorts(window):
    left, top, _, height = window.centre("#results-chart")
    chart = window.content["results"]["charts"][0]
    window.mouse("mouseMoved", left + 57, top + height / 2)
    value = chart["lines"]["validation"][0]
    said = window.run("$('#results-value').textContent").replace("−", "-")
    assert f"epoch {value[0]}:" in said
    assert f"validation {value[1]:.2f}" in said
    window.run("document.querySelectorAll('#results-table th button')[2].focus()")
    for direction in (1, -1):
        window.key("Enter")
        shown = window.run(
            "[...document.querySelectorAll('#results-table tbody tr')].map((row) => row.cells[2].textContent)"
        )
        numbers = [float(cell.replace("−", "-").replace(",", "")) for cell in shown]
        assert numbers == sorted(numbers, reverse=direction < 0)
    assert len(numbers) == len(window.content["results"]["rows"])


def test_every_control_has_a_name_for_screen_readers(window):
    window.call("Accessibility.enable")
    nodes = window.call("Accessibility.getFullAXTree")["nodes"]
    window.call("Accessibility.disable")
    wanted = {"button", "slider", "combobox", "image", "radio", "application", "link", "meter"}
    checked = [node for node in nodes if node.get("role", {}).get("value") in wanted and not node["ignored"]]
    assert len(checked) > 100
    assert not [node for node in checked if not node.get("name", {}).get("value")]


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(
        w * (c / 12.92 if c <= 0.04 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip((0.2126, 0.7152, 0.0722), parts)
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_and_numerals_stand_out_from_their_background(window, dark):
    """Contrasts of WCAG: 4.5 for text, 3 for the numerals on the plane, whose shape tells the digits apart, too."""
    window.scheme(dark)
    names = ["page", "panel", "paper", "ink", "soft", "accent", "on-accent", *(f"c{i}" for i in range(10))]
    colours = dict(zip(names, window.run(f"{json.dumps(names)}.map((name) => colour(`--${{name}}`))")))
    window.scheme(False)

    def contrast(a, b):
        low, high = sorted(luminance(colours[name]) for name in (a, b))
        return (high + 0.05) / (low + 0.05)

    for text in ("ink", "soft", "accent"):
        assert min(contrast(text, ground) for ground in ("page", "panel")) >= 4.5, text
    assert contrast("accent", "on-accent") >= 4.5
    for numeral in range(10):
        assert min(contrast(f"c{numeral}", ground) for ground in ("paper", "panel")) >= 3, numeral


@pytest.mark.parametrize("width", [380, 768])
def test_narrow_screens_do_not_scroll_sideways(window, width):
    window.resize(width, 800)
    window.frame()
    wide = f"[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > {width + 1}"
    wide += " && !e.closest('.scroll')).map((e) => e.outerHTML.slice(0, 80))"
    assert window.run(wide) == []
    assert window.run("document.documentElement.scrollWidth") <= width
    window.resize(1280, 900)


def test_no_request_and_no_error(window):
    """The last test that uses this page: all parts have run by now."""
    for part in ("plane", "draw", "dimensions", "gan", "flow", "pixelcnn", "results"):
        window.centre(f"#{part}")
    window.wait("document.querySelectorAll('#gan-strip canvas').length === 9 && $('#dimensions-norm').textContent")
    said = [event["params"] for event in window.events if event["method"] in CONSOLE]
    assert not [about for about in said if about.get("entry", {}).get("source") != "rendering"]  # warns about tests
    urls = {e["params"]["request"]["url"] for e in window.events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith(("data:", "blob:"))} == {window.path.as_uri()}
    assert "://" not in re.sub(
        r"http://www.w3.org/2000/svg", "", "".join(path.read_text() for path in page.SOURCES.iterdir())
    )


def test_missing_models_are_named(window, networks, tmp_path):
    described = page.describe({"vae2": networks["vae2"], "classifier": networks["classifier"]})
    content = {**window.content, "missing": {name: f"no {name}" for name in page.MODELS}}
    (tmp_path / "page.html").write_text(page.assemble(described, content))
    window.open(tmp_path / "page.html")
    shown = window.run("[...document.querySelectorAll('.missing')].map((message) => message.textContent)")
    assert shown == ["no vae20", "no vae20", "no gan", "no flow", "no pixelcnn"]
    assert not [event for event in window.events if event["method"] == "Runtime.exceptionThrown"]
    window.open(window.path)


@pytest.mark.slow
def test_speed(window, tmp_path):
    """With networks of the default sizes; the bars are generous for two cores."""
    torch.manual_seed(7)
    flow = nf.Model([784], 6, 48, arch="multiscale", mix="conv1x1", dequantize="variational")
    nets = {"vae2": vae.VAE(500, 2), "vae20": vae.VAE(), "gan": gan.Generator(24, 10, 20), "flow": flow}
    nets |= {"pixelcnn": autoregressive.Model(), "classifier": quality.Classifier()}
    described = page.describe({name: net.eval() for name, net in nets.items()})
    (tmp_path / "page.html").write_text(page.assemble(described, window.content))
    window.open(tmp_path / "page.html")
    assert float(window.run("document.body.dataset.ready")) < 2000
    timed = """(async (repeats, action) => {
      await action();
      const start = performance.now();
      for (let i = 0; i < repeats; i++) await action();
      return (performance.now() - start) / repeats;
    })"""
    bars = {
        "(20, async () => (await local('vae20')).decode(new Array(20).fill(0.1)))": 10,
        "(20, () => remote('gan').call('generate', new Array(34).fill(0.1)))": 50,
        "(3, () => remote('flow').call('decode', Float64Array.from({length: 784}, Math.random)))": 5000 / 16,
        "(1, async () => { const net = new PixelCNN(await local('pixelcnn')); "
        "for (let i = 0; i < 784; i++) net.put(net.probability() > 0.5); })": 784000 / 60,
    }  # fmt: skip
    for script, bar in bars.items():
        took = window.run(timed + script)
        print(f"{took:.2f} ms {script}")
        assert took < bar
    window.open(window.path)


def test_the_published_page_is_made_from_the_sources(folder):
    """docs/index.html, if it is committed, and that of the fixture."""
    for path in [folder / "docs" / "index.html", ROOT / "docs" / "index.html"]:
        if path.exists():
            text = path.read_text()
            sources = [source for source in page.SOURCES.iterdir() if source.suffix in (".js", ".css")]
            assert len(sources) == len(page.LIBRARY + page.PARTS) + 2
            stale = [source.name for source in sources if source.read_text() not in text and source.name != "worker.js"]
            assert not stale, f"{path}: make page"
            if path.is_relative_to(ROOT):
                shown = json.loads(re.search(r'<script type="text/plain" id="content">(.*?)</script>', text)[1])
                assert shown["results"] == json.loads(json.dumps(page.results(False, False))), f"{path}: make page"
    assert not (ROOT / "docs" / "index.html").exists() or (ROOT / "docs" / "index.html").stat().st_size <= page.LARGEST


def test_digits_are_spread_evenly_over_the_classes():
    images = torch.arange(100, dtype=torch.uint8).repeat_interleave(784).view(100, 784)
    packed = page.digits(SimpleNamespace(images=images, labels=torch.arange(100) // 10), per_class=2)
    assert packed["labels"] == [label for label in range(10) for _ in range(2)]
    values = zlib.decompress(base64.b85decode(packed["images"].replace(",", "<")))
    assert [values[784 * i] for i in range(20)] == [10 * label + place for label in range(10) for place in (0, 9)]


def test_rounding_keeps_the_outputs_for_typical_inputs():
    torch.manual_seed(11)
    weight = torch.randn(40, 60, dtype=torch.float64)
    inputs = torch.randn(500, 6).double() @ torch.randn(6, 60).double() + 0.1 * torch.randn(500, 60).double()
    step = 0.1
    near, plain = (step * whole for whole in (export.rounded(weight, step, inputs), (weight / step).round()))
    assert torch.equal((near / step).round() * step, near)  # whole numbers of steps
    errors = [float(((matrix - weight) @ inputs.T).square().mean()) for matrix in (near, plain)]
    assert errors[0] < 0.1 * errors[1]
    alone = export.rounded(weight, step, 1e3 * torch.eye(60).double())
    assert torch.equal(alone, (weight / step).round())  # nothing to compensate if inputs are uncorrelated


def test_a_packed_matrix_is_near_and_small():
    torch.manual_seed(8)
    matrix, pack = torch.randn(300, 200), export.Packer(64)
    matrix[0, 0] = 40.0  # an outlier takes its middle byte, and no precision from the others
    packed = pack(matrix)
    low, middle, high = (np.frombuffer(part, kind) for part, kind in zip(pack.parts, ("u1", "u1", "i1")))
    found = packed["step"] * (65536.0 * high + 256.0 * middle + low - 128 * 257)
    assert packed["step"] == pytest.approx(float(matrix.square().mean().sqrt()) / 64)
    assert np.abs(found - matrix.flatten().numpy()).max() <= packed["step"] / 2 * 1.001
    assert len(pack.text()) < 1.15 * matrix.numel() * 5 / 4  # bytes in base85
    assert float(pack(torch.zeros(2, 2))["step"]) > 0


def test_charts_hold_the_curves_of_runs_and_races():
    untrained_first = {
        "epoch": [0, 1, 2, 3],
        "train_bpd": [9.0, 2.0, 1.5, math.inf],
        "val_bpd": [9.0, 2.12345678, None, math.nan],
        "seconds": [0, 1, 1, 1],
    }
    found = {"nf": {"curves": untrained_first}, "markov": {}}
    (chart,) = page.curves(found)
    assert chart == {
        "title": "RealNVP", "unit": "bits per dimension", "x": "epoch",
        "lines": {"training": [[1, 2.0], [2, 1.5]], "validation": [[1, 2.12346]]},
    }  # fmt: skip
    pair = {"ours": {"curve": [[1, -110.0], [9, -97.0]]}, "plain": {"curve": [[2, -130.0], [5, math.nan], [9, -104.0]]}}
    race = {"summary": {"vae-z20": {"metric": "val_elbo"}}, "models": {"vae-z20": {"42": pair}}}
    (chart,) = page.race_charts(race)
    assert chart["lines"] == {"ours": [[1, -110.0], [9, -97.0]], "plain loop": [[2, -130.0], [9, -104.0]]}
    assert "nats" in chart["unit"]
    assert page.race_charts({}) == []


def test_a_user_s_own_models_come_first(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(models, "PUBLISHED", folder / "models")
    own = tmp_path / "runs" / "glyphs" / "nf-multiscale" / "model.pt"
    own.parent.mkdir(parents=True)
    own.write_bytes((folder / "models" / "nf-multiscale.pt").read_bytes())
    found = page.find_models(user=True, quick=False)
    assert found["flow"] == ("nf-multiscale", own)
    assert found["gan"] == ("gan", folder / "models" / "gan.pt")
    assert [page.data_of(found, kind, user=True) for kind in ("binary", "grey")] == ["auto", "glyphs"]
    assert page.data_of(page.find_models(user=False, quick=False), "grey", user=False) == "mnist"


def test_a_page_that_is_too_large_or_empty_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "find", lambda name, names, *_: tiny.find(SIZES, name, names))
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setattr(models, "PUBLISHED", tmp_path)
    with pytest.raises(UserError, match="no trained models"):
        page.main(page.parse_args([]))
    monkeypatch.setattr(models, "PUBLISHED", folder / "models")
    monkeypatch.setattr(page, "LARGEST", 1e5)
    with pytest.raises(UserError, match="more than 5"):
        page.main(page.parse_args([]))
    assert not (tmp_path / "docs").exists()


@pytest.mark.parametrize(
    ("kind", "model", "message"),
    [("flow", nf.Model([784], 1, 8), "only flows that were trained with --arch multiscale"),
     ("pixelcnn", autoregressive.Model("markov", "bernoulli", 8, 2), "only PixelCNNs, no other autoregressive models")],
)  # fmt: skip
def test_other_models_under_the_name_of_a_run_are_refused_in_one_line(kind, model, message):
    with pytest.raises(UserError, match=message):
        export.describe(kind, model, EXACT)
