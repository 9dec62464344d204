// Part 2: a drawing area, and what the encoders and the classifier make of the drawing.
"use strict";

/** Centre and scale ink [h, w] in 0..1 as MNIST's digits are: into 20 x 20 pixels, centre of mass in the middle of 28. */
function asDigit(ink, w, h) {
  let [left, right, top, bottom] = [w, -1, h, -1];
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) if (ink[y * w + x] > 0.1) {
    left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
  }
  const image = new Float32Array(784);
  if (right < 0) return image;
  const scale = Math.max(right - left + 1, bottom - top + 1) / 20;  // pixels of the drawing per pixel of the digit
  const columns = Math.max(1, Math.round((right - left + 1) / scale)), rows = Math.max(1, Math.round((bottom - top + 1) / scale));
  const small = new Float32Array(rows * columns);
  let mass = 0, massX = 0, massY = 0;
  for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
    const fromY = Math.floor(top + row * scale), toY = Math.max(fromY + 1, Math.floor(top + (row + 1) * scale));
    const fromX = Math.floor(left + column * scale), toX = Math.max(fromX + 1, Math.floor(left + (column + 1) * scale));
    let sum = 0;
    for (let y = fromY; y < toY; y++) for (let x = fromX; x < toX; x++) if (y < h && x < w) sum += ink[y * w + x];
    const value = sum / ((toY - fromY) * (toX - fromX));  // the average over the area of a pixel
    small[row * columns + column] = value;
    mass += value; massX += value * (column + 0.5); massY += value * (row + 0.5);
  }
  const shiftX = Math.round(14 - massX / mass), shiftY = Math.round(14 - massY / mass);
  for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
    const x = column + shiftX, y = row + shiftY;
    if (x >= 0 && x < 28 && y >= 0 && y < 28) image[28 * y + x] = small[row * columns + column];
  }
  return image;
}

/** The last drawing, for the other parts: 784 numbers in 0..1, or null. */
let drawn = null;

part("draw", ["vae2", "vae20"], () => {
  const pad = $("#draw-pad"), canvas = $("canvas", pad), marker = $(".marker", pad), map = $("#draw-map canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true }), reach = planeReach(), size = 280;
  const nearest = Array.from({ length: 3 }, () => tile());
  $("#draw-nearest").append(...nearest.map(({ figure }) => figure));
  const bars = Array.from({ length: 10 }, (_, i) => element("div", {}, element("i"), element("span", { textContent: i })));
  $("#draw-bars").append(...bars);
  Object.assign(context, { lineWidth: 23, lineCap: "round", lineJoin: "round", strokeStyle: "#000", fillStyle: "#000" });
  const cells = [...$("#draw-terms").rows].map((row) => [...row.querySelectorAll("td")]);
  let code = null, models = null;

  const redraw = drawing(map, (on, width) => {
    drawPlane(on, width, reach, null, true);
    if (!code) return;
    const unit = width / (2 * reach), radius = Math.sqrt(5.99);  // 95 % of a Gaussian in the plane
    on.beginPath();
    on.ellipse((code.mean[0] + reach) * unit, (reach - code.mean[1]) * unit, Math.max(3, code.std[0] * radius * unit),
      Math.max(3, code.std[1] * radius * unit), 0, 0, 2 * Math.PI);
    on.fillStyle = colour("--accent");
    on.globalAlpha = 0.3;
    on.fill();
    on.globalAlpha = 1;
    on.strokeStyle = colour("--accent");
    on.lineWidth = 2;
    on.stroke();
  });

  const details = afterwards(120, async () => {
    if (!drawn || !models) return;
    const [two, twenty] = models, pixels = drawn.map((x) => (x > 0.5 ? 1 : 0));
    [two, twenty].forEach((model, column) => {
      const { reconstruction, kl, bound } = model.bound(pixels);
      [reconstruction, -kl, bound].forEach((value, row) => { cells[row][column].textContent = fixed(value, 1); });
    });
    const { images, labels } = await testDigits();
    const distance = (bytes) => bytes.reduce((sum, x, i) => sum + (x / 255 - drawn[i]) ** 2, 0);
    const order = images.map((bytes, i) => [distance(bytes), i]).sort((a, b) => a[0] - b[0]);
    nearest.forEach(({ canvas: to, caption }, i) => {
      const [far, at] = order[i];
      paint(to, inUnit(images[at]));
      to.setAttribute("aria-label", `test digit ${labels[at]}`);
      caption.textContent = `${labels[at]}, distance ${Math.sqrt(far).toFixed(1)}`;
    });
  });

  /** Show everything that the models say about an image in 0..1. */
  function look(image) {
    if (!models) return;
    drawn = image;
    const [two, twenty, judge] = models, pixels = image.map((x) => (x > 0.5 ? 1 : 0));
    paint($("#draw-input"), image);
    code = two.encode(pixels);
    paint($("#draw-two"), two.decode(code.mean));
    paint($("#draw-twenty"), twenty.decode(twenty.encode(pixels).mean));
    const chances = judge.classify(image), most = chances.indexOf(Math.max(...chances));
    bars.forEach((bar, i) => {
      $("i", bar).style.height = `${100 * chances[i]}%`;
      bar.classList.toggle("most", i === most);
    });
    $("#draw-bars").setAttribute("aria-label", `The classifier sees a ${most}, with probability ${percent(chances[most])}`);
    $("#draw-map").setAttribute("aria-label", `Code (${code.mean.map((x) => fixed(x)).join(", ")}), std ${code.std.map((x) => fixed(x)).join(", ")}`);
    redraw();
    details();
  }
  const read = perFrame(() => {
    const { data } = context.getImageData(0, 0, size, size);
    look(asDigit(Float32Array.from({ length: size * size }, (_, i) => data[4 * i + 3] / 255), size, size));
  });

  let last = null;
  const stroke = (to) => {
    context.beginPath();
    context.moveTo(...(last ?? to));
    context.lineTo(...to);
    context.stroke();
    last = to;
    read();
  };
  const place = (event) => placeIn(pad, event).map((x) => x * size);
  pad.addEventListener("pointerdown", (event) => { pad.setPointerCapture(event.pointerId); last = null; stroke(place(event)); });
  pad.addEventListener("pointermove", (event) => {
    if (event.buttons) for (const each of event.getCoalescedEvents?.() ?? [event]) stroke(place(each));
  });

  let pen = [140, 60], down = false;
  const showPen = () => {
    marker.style.left = `${(100 * pen[0]) / size}%`;
    marker.style.top = `${(100 * pen[1]) / size}%`;
    marker.classList.toggle("down", down);
  };
  pad.addEventListener("focus", showPen);
  pad.addEventListener("keydown", (event) => {
    if (event.key === " ") {
      down = !down;
      last = null;
      if (down) stroke(pen);
    } else if (ARROWS[event.key]) {
      pen = pen.map((x, i) => Math.min(size - 15, Math.max(15, x + 10 * ARROWS[event.key][i])));
      if (down) stroke(pen);
    } else return;
    event.preventDefault();
    showPen();
  });

  const clear = () => context.clearRect(0, 0, size, size);
  $("#draw-clear").addEventListener("click", () => { clear(); down = false; read(); });
  const take = async (at) => {
    const { images, labels } = await testDigits(), bytes = images[at ?? random(labels.length)];
    const small = element("canvas", { width: 28, height: 28 });
    paint(small, inUnit(bytes));
    clear();
    context.drawImage(small, 0, 0, size, size);
    look(inUnit(bytes));
  };
  $("#draw-test").addEventListener("click", () => take());

  whenNear(pad, async () => {
    models = await Promise.all(["vae2", "vae20", "classifier"].map(local));
    take(content.digits.labels.indexOf(5));
  });
});
