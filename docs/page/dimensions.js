// Part 3: a VAE with twenty latent dimensions.
"use strict";

part("dimensions", ["vae20"], (section) => whenNear(section, async () => {
  const model = await local("vae20"), { kl, directions } = content.dimensions, n = model.size;
  const active = [...kl.keys()].sort((a, b) => kl[b] - kl[a]).slice(0, 8);
  const zero = () => new Array(n).fill(0), pushed = Object.fromEntries(Object.keys(directions).map((name) => [name, 0]));
  let code = zero();

  const update = perFrame(() => {
    const z = code.map((x, i) => Object.keys(directions).reduce((sum, name) => sum + pushed[name] * directions[name][i], x));
    paint($("#dimensions-digit"), model.decode(z));
    $("#dimensions-norm").textContent = `|z| = ${Math.hypot(...z).toFixed(2)}; the prior has its mass near √${n} = ${Math.sqrt(n).toFixed(2)}`;
  });

  const row = (label, spoken, reach, change) => {
    const input = element("input", { type: "range", min: -reach, max: reach, step: 0.05, value: 0 });
    input.setAttribute("aria-label", spoken);
    const line = element("label", { className: "slider" }, element("span", { innerHTML: label }), input, element("output"));
    return [line, slider(input, (value) => { change(value); update(); })];
  };
  const dimensions = active.map((i) => row(`<i>z</i><sub>${i + 1}</sub>`, `dimension ${i + 1}`, 3, (value) => { code[i] = value; }));
  const attributes = Object.keys(directions).map((name) => row(name, name, 2.5, (value) => { pushed[name] = value; }));
  $("#dimensions-sliders").append(...dimensions.map(([line]) => line));
  $("#dimensions-attributes").append(...attributes.map(([line]) => line));

  function set(z) {
    code = z;
    active.forEach((i, at) => dimensions[at][1](code[i]));
    attributes.forEach(([, setTo], i) => { setTo(0); pushed[Object.keys(directions)[i]] = 0; });
    update();
  }
  const { images, labels } = await testDigits();
  $("#dimensions-random").addEventListener("click", () => set([...randomNumbers(random(2 ** 31)).normals(n)]));
  $("#dimensions-test").addEventListener("click", () => set(model.encode(binary(images[random(labels.length)])).mean));
  $("#dimensions-zero").addEventListener("click", () => set(zero()));
  set(model.encode(binary(images[labels.indexOf(7)])).mean);

  const strips = { straight: digitStrip($("#dimensions-straight"), 9), spherical: digitStrip($("#dimensions-spherical"), 9) };
  ends($("#dimensions-from"), $("#dimensions-to"), (a, b) => {
    const [from, to] = [a, b].map((bytes) => model.encode(binary(bytes)).mean);
    for (const [name, canvases] of Object.entries(strips)) {
      const path = canvases.map((_, i) => between(from, to, i / 8, name === "spherical"));
      const decoded = model.decode(path.flat());
      canvases.forEach((canvas, i) => {
        paint(canvas, decoded.subarray(784 * i, 784 * (i + 1)));
        canvas.setAttribute("aria-label", `${name}, ${percent(i / 8)}`);
      });
      $(`#dimensions-${name}-norm`).textContent = `path, |z| ${[0, 4, 8].map((i) => Math.hypot(...path[i]).toFixed(2)).join(" → ")}`;
    }
  });
}));
