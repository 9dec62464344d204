// Part 5: the multi-scale flow. Everything is computed in a worker.
"use strict";

part("flow", ["flow"], (section) => whenNear(section, async () => {
  const flow = remote("flow"), { images, labels } = await testDigits();
  const inGrey = (values) => Float32Array.from(values, (x) => Math.floor(Math.min(255, Math.max(0, x))) / 255);

  const canvases = Array.from({ length: 16 }, (_, i) => digitCanvas(`sample ${i + 1}`)), temperature = $("#flow-temperature");
  $("#flow-samples").append(...canvases);
  let noise = null;
  const fill = newest(async (stale) => {
    noise ??= canvases.map(() => randomNumbers(random(2 ** 31)).normals(784));
    for (const [i, canvas] of canvases.entries()) {
      const image = await flow.call("decode", Float64Array.from(noise[i], (x) => x * temperature.valueAsNumber));
      if (stale()) return;
      paint(canvas, inGrey(image));
    }
  });
  slider(temperature, afterwards(60, fill));
  $("#flow-new").addEventListener("click", () => { noise = null; fill(); });

  /** 4.8e-13 as 5 · 10⁻¹³. */
  const power = (x) => {
    const [digits, exponent] = x.toExponential(0).split("e");
    return `${digits} · 10${[...exponent].map((c) => (c === "-" ? "⁻" : c === "+" ? "" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("")}`;
  };
  const way = $("#flow-way"), step = $("#flow-step");
  let trip = null;
  /** Values between the steps, scaled to their own mean and spread, so that the digit stays visible. */
  const paintStep = (canvas, { values }) => {
    const mean = values.reduce((a, b) => a + b) / 784, std = Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / 784);
    paintSigned(canvas, values.map((x) => x - mean), 2 * std);
  };
  const showStep = (i) => {
    if (!trip) return;
    [...way.children].forEach((canvas, at) => canvas.classList.toggle("on", at === i));
    $("output", step.parentElement).textContent = `${i} of ${trip.way.length - 1}`;
    paintStep($("#flow-code"), trip.way[i]);
    $("#flow-code + figcaption").textContent = i === trip.way.length - 1 ? "its code" : i ? trip.way[i].name : "logits of the pixels";
  };
  slider(step, showStep, (i) => `${i}`);
  const travel = newest(async (stale, bytes) => {
    const found = await flow.call("roundTrip", Array.from(bytes));
    if (stale()) return;
    trip = found;
    paint($("#flow-input"), inUnit(bytes));
    $("#flow-code").classList.add("signed");
    paint($("#flow-back"), inGrey(trip.back));
    const strip = digitStrip(way, trip.way.length);
    strip.forEach((canvas, i) => {
      canvas.classList.add("signed");
      canvas.setAttribute("aria-label", trip.way[i].name);
      paintStep(canvas, trip.way[i]);
    });
    const equal = bytes.every((x, i) => x === Math.floor(trip.back[i]));
    $("#flow-worst").textContent = `${equal ? "All 784 grey levels return" : "Not all grey levels return"}; largest error before rounding ${power(trip.worst)} grey levels.`;
    step.max = trip.way.length - 1;
    step.value = step.max;
    showStep(trip.way.length - 1);
  });
  $("#flow-test").addEventListener("click", () => travel(images[random(labels.length)]));
  $("#flow-drawn").addEventListener("click", () => { if (drawn) travel(Uint8Array.from(drawn, (x) => Math.round(255 * x))); });

  const strip = digitStrip($("#flow-between"), 9);
  const walk = newest(async (stale, a, b) => {
    const codes = [];
    for (const bytes of [a, b]) codes.push((await flow.call("codeOf", Array.from(bytes))));
    for (const [i, canvas] of strip.entries()) {
      const image = await flow.call("decode", between(codes[0], codes[1], i / 8, false));
      if (stale()) return;
      paint(canvas, inGrey(image));
      canvas.setAttribute("aria-label", percent(i / 8));
    }
  });
  await travel(images[labels.indexOf(2)]);
  await fill();
  ends($("#flow-from"), $("#flow-to"), walk);
}));
