// Part 6: the PixelCNN draws, from the first pixel or from where the user's drawing ends.
"use strict";

part("pixelcnn", ["pixelcnn"], (section) => whenNear(section, async () => {
  const model = await local("pixelcnn"), pad = $("#pixelcnn-pad"), canvas = $("canvas", pad), cell = $(".marker", pad);
  const pauseButton = $("#pixelcnn-pause"), speed = $("#pixelcnn-speed"), meter = $("#pixelcnn-meter");
  slider(speed, () => {}, (x) => (x > 2.95 ? "fastest" : String(Math.round(10 ** x))));
  let image = new Float32Array(784), chances = new Float32Array(784), surprise = new Float32Array(784);
  let known = 0, running = false, logLikelihood = 0;

  const show = () => {
    paint(canvas, image);
    paint($("#pixelcnn-chances"), chances);
    paintSigned($("#pixelcnn-surprise"), surprise, 3);
    cell.hidden = model.next >= 784;
    cell.style.cssText = `width: ${100 / 28}%; height: ${100 / 28}%; left: ${((model.next % 28) * 100) / 28}%; top: ${(Math.floor(model.next / 28) * 100) / 28}%`;
    $("#pixelcnn-log").textContent = model.next ? `log p = ${fixed(logLikelihood, 1)} nats` : "–";
  };
  const say = (p) => {
    $("#pixelcnn-next").textContent = model.next < 784
      ? `Pixel ${model.next + 1} of 784: white with probability ${p.toFixed(3)}` : "The image is complete.";
    const shown = model.next < 784 ? p : 0;
    $("i", meter).style.transform = `scaleX(${shown})`;
    meter.setAttribute("aria-valuenow", shown.toFixed(2));
  };
  /** Give the model its next pixel: the user's while `model.next` is below `known`, then a draw. */
  function advance() {
    const at = model.next, p = model.probability();
    if (at >= known) image[at] = Math.random() < p ? 1 : 0;
    chances[at] = p;
    surprise[at] = -Math.log(Math.max(1e-9, image[at] ? p : 1 - p));
    logLikelihood -= surprise[at];
    model.put(image[at]);
    return p;
  }
  function restart(from) {
    model.reset();
    known = from;
    chances.fill(0);
    surprise.fill(0);
    logLikelihood = 0;
    image.fill(0, known);
    show();
  }

  let owed = 0, before = 0, handle = 0;
  function frame(now) {
    const perSecond = speed.valueAsNumber > 2.95 ? 1e5 : 10 ** speed.valueAsNumber, started = performance.now();
    owed = Math.min(owed + (perSecond * Math.min(100, now - before)) / 1000, 784);
    before = now;
    let p = null;
    while (model.next < 784 && (owed >= 1 || model.next < known) && performance.now() - started < 12) {
      owed -= model.next < known ? 0 : 1;  // known pixels are read as fast as possible
      p = advance();
    }
    if (p !== null) { show(); say(p); }
    if (model.next >= 784) stop();
    else handle = requestAnimationFrame(frame);
  }
  function stop() {
    running = false;
    cancelAnimationFrame(handle);
    pauseButton.disabled = model.next >= 784;
  }
  function run() {
    stop();
    owed = 1;
    running = true;
    pauseButton.disabled = false;
    pauseButton.textContent = "Pause";
    before = performance.now();
    handle = requestAnimationFrame(frame);
  }

  /** The first pixel after the last row that has ink. */
  const afterInk = () => {
    let last = image.length - 1;
    while (last >= 0 && !image[last]) last--;
    return last < 0 ? 0 : Math.min(784, 28 * (Math.floor(last / 28) + 1));
  };
  $("#pixelcnn-new").addEventListener("click", () => { restart(0); run(); });
  $("#pixelcnn-complete").addEventListener("click", () => {
    if (model.next === 0) restart(afterInk());
    else if (model.next === 784) restart(known);  // another completion
    run();
  });
  pauseButton.addEventListener("click", () => {
    if (running) {
      stop();
      pauseButton.textContent = "Go on";
    } else run();
  });
  $("#pixelcnn-one").addEventListener("click", () => {
    stop();
    if (model.next === 784) return;
    if (model.next === 0) restart(afterInk());
    while (model.next < known) advance();
    const p = model.next < 784 ? advance() : 0;
    show();
    say(p);
  });
  $("#pixelcnn-clear").addEventListener("click", () => { stop(); image.fill(0); restart(0); say(0); });
  $("#pixelcnn-half").addEventListener("click", async () => {
    const { images, labels } = await testDigits();
    stop();
    image.set(binary(images[random(labels.length)]));
    restart(392);
    run();
  });

  /** Set a pixel and, as a pen is wider, those right of it and below. Pixels that the model has drawn are gone. */
  function ink(column, row) {
    stop();
    if (model.next > known) image.fill(0, known);
    for (const [x, y] of [[column, row], [column + 1, row], [column, row + 1], [column + 1, row + 1]]) {
      if (x >= 0 && x < 28 && y >= 0 && y < 28) image[28 * y + x] = 1;
    }
    model.reset();
    known = 0;
    chances.fill(0);
    surprise.fill(0);
    show();
    cell.hidden = true;
    $("#pixelcnn-next").textContent = "Press “Complete the image” when you have drawn its upper part.";
  }
  const cellOf = (event) => placeIn(pad, event).map((x) => Math.floor(28 * x - 0.5));
  pad.addEventListener("pointerdown", (event) => { pad.setPointerCapture(event.pointerId); ink(...cellOf(event)); });
  pad.addEventListener("pointermove", (event) => { if (event.buttons) ink(...cellOf(event)); });
  let pen = [13, 6];
  const showPen = () => { cell.hidden = false; cell.style.left = `${(pen[0] * 100) / 28}%`; cell.style.top = `${(pen[1] * 100) / 28}%`; };
  pad.addEventListener("keydown", (event) => {
    if (event.key === " ") ink(...pen);
    else if (ARROWS[event.key]) pen = pen.map((x, i) => Math.min(27, Math.max(0, x + ARROWS[event.key][i])));
    else return;
    event.preventDefault();
    showPen();
  });

  restart(0);
  run();
}));
