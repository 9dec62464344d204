// Part 4: samples of the GAN, and the path between two noise vectors.
"use strict";

part("gan", ["gan"], (section) => whenNear(section, async () => {
  const generator = remote("gan"), judge = await local("classifier");
  const tiles = Array.from({ length: 16 }, () => tile());
  $("#gan-samples").append(...tiles.map(({ figure }) => figure));

  /** A new sample; the classifier says which digit it is, and how sure it is. */
  async function sample() {
    const noise = await generator.call("noise", random(2 ** 31)), image = await generator.call("generate", noise);
    const chances = judge.classify(image), digit = chances.indexOf(Math.max(...chances));
    return { noise, image, digit, chances };
  }
  const fill = newest(async (stale) => {
    for (const { canvas, caption } of tiles) {
      const { image, digit, chances } = await sample();
      if (stale()) return;
      paint(canvas, image);
      canvas.setAttribute("aria-label", `sample, classified as ${digit}`);
      caption.textContent = `${digit}, ${percent(chances[digit])}`;
    }
  });
  $("#gan-new").addEventListener("click", fill);

  const selects = [$("#gan-from"), $("#gan-to")];
  selects.forEach((select, i) => {
    select.append(...[...Array(10).keys()].map((digit) => element("option", { value: digit, textContent: digit })));
    select.value = [3, 8][i];
  });
  const spherical = choice("gan-path", () => walk());
  const canvases = digitStrip($("#gan-strip"), 9), share = $("#gan-between"), found = [null, null];
  slider(share, () => step(), percent);

  /** Noise that the classifier gives this digit: the surest of at most 200 samples, the first one above 99 %. */
  async function find(digit) {
    let best = null;
    for (let attempt = 0; attempt < 200 && !(best?.chances[digit] > 0.99); attempt++) {
      const next = await sample();
      if (!best || next.chances[digit] > best.chances[digit]) best = next;
      if (attempt % 4 === 3) await pause();
    }
    return best;
  }
  const at = (t) => generator.call("generate", between(found[0].noise, found[1].noise, t, spherical() === "spherical"));
  const step = perFrame(async () => {
    if (!found[1]) return;
    const image = await at(share.valueAsNumber), chances = judge.classify(image), most = chances.indexOf(Math.max(...chances));
    paint($("#gan-digit"), image);
    $("#gan-said").textContent = `The classifier sees a ${most} (${percent(chances[most])}).`;
  });
  const walk = newest(async (stale) => {
    step();
    for (let i = 0; i < 9; i++) {
      const image = await at(i / 8);
      if (stale()) return;
      paint(canvases[i], image);
      canvases[i].setAttribute("aria-label", percent(i / 8));
    }
  });
  const search = newest(async (stale, which) => {
    for (const i of which) {
      const best = await find(Number(selects[i].value));
      if (stale()) return;
      found[i] = best;
    }
    await walk();
  });
  selects.forEach((select) => select.addEventListener("change", () => search([0, 1])));
  $("#gan-again").addEventListener("click", () => search([0, 1]));
  await search([0, 1]);
  await fill();
}));
