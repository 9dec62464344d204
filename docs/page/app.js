// What all parts share: the content of the page, the models, and small helpers for the document.
"use strict";

const $ = (selector, root = document) => root.querySelector(selector);
const content = JSON.parse($("#content").textContent);
const weightsOf = (name) => $(`#weights-${name}`).textContent;

/** Models that answer within a frame run in the page. They are unpacked at their first use. */
const made = {};
function local(name) {
  made[name] ??= makeModel(content.models[name], weightsOf(name));
  return made[name];
}

/** Slow models run in a worker each: `await call("decode", code)`. */
const workers = {};
function remote(name) {
  workers[name] ??= startWorker(name);
  return workers[name];
}

function startWorker(name) {
  const url = URL.createObjectURL(new Blob([$("#worker").textContent], { type: "text/javascript" }));
  const worker = new Worker(url), waiting = new Map();
  let last = 0;
  worker.onmessage = ({ data: { id, result, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Error(error));
    else resolve(result);
  };
  const send = (message) => new Promise((resolve, reject) => {
    waiting.set(++last, { resolve, reject });
    worker.postMessage({ id: last, ...message });
  });
  const ready = send({ load: { description: content.models[name], weights: weightsOf(name) } });
  return { ready, call: async (method, ...args) => { await ready; return send({ method, args }); } };
}

/** Start a part, or say how to train its models if some are missing. */
function part(id, names, start) {
  const missing = names.filter((name) => !content.models[name]);
  const section = document.getElementById(id);
  if (missing.length) {
    for (const panel of section.querySelectorAll(".panel")) panel.remove();
    section.append(element("p", { className: "panel missing", textContent: content.missing[missing[0]] }));
    return;
  }
  start(section);
}

/** Run `start` once, shortly before an element comes into view. */
function whenNear(target, start) {
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    start();
  }, { rootMargin: "600px" });
  observer.observe(target);
}

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** At most one call per frame, always with the latest arguments. */
function perFrame(action) {
  let latest = null;
  return (...args) => {
    if (!latest) requestAnimationFrame(() => { const now = latest; latest = null; action(...now); });
    latest = args;
  };
}

/** A call after the last one of a series. */
function afterwards(milliseconds, action) {
  let timer;
  return (...args) => { clearTimeout(timer); timer = setTimeout(() => action(...args), milliseconds); };
}

/** Several calls that may overlap: only the newest goes on. `stale()` says whether another one has started. */
function newest(action) {
  let count = 0;
  return (...args) => { const mine = ++count; return action(() => mine !== count, ...args); };
}

const pause = () => new Promise((resolve) => setTimeout(resolve));
const random = (n) => Math.floor(Math.random() * n);
const percent = (p) => `${Math.round(100 * p)} %`;
const fixed = (x, digits = 2) => x.toFixed(digits).replace("-", "−");

/** Values in 0..1 as ink, black by default, on a transparent canvas of 28 x 28 pixels. */
function paint(canvas, values, grey = 0) {
  const picture = new ImageData(28, 28);
  picture.data.fill(grey);
  for (let i = 0; i < 784; i++) picture.data[4 * i + 3] = Math.round(255 * Math.min(1, Math.max(0, values[i])));
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** Real numbers: blue below 0, orange above, full colour at `reach`. */
function paintSigned(canvas, values, reach) {
  const picture = new ImageData(28, 28);
  for (let i = 0; i < 784; i++) {
    picture.data.set(values[i] < 0 ? [0, 114, 178] : [213, 94, 0], 4 * i);
    picture.data[4 * i + 3] = Math.round(255 * Math.min(1, Math.abs(values[i]) / reach));
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function digitCanvas(label = "") {
  const canvas = element("canvas", { className: "digit", width: 28, height: 28 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label || "digit");
  return canvas;
}

function digitStrip(parent, n) {
  const canvases = Array.from({ length: n }, () => digitCanvas());
  parent.replaceChildren(...canvases);
  return canvases;
}

/** A canvas with a caption below it. */
function tile() {
  const canvas = digitCanvas(), caption = element("figcaption");
  return { canvas, caption, figure: element("figure", {}, canvas, caption) };
}

/** The test digits: {images: of 784 bytes each, labels}. They are unpacked once. */
let unpackedDigits;
function testDigits() {
  unpackedDigits ??= inflate(content.digits.images).then((buffer) => {
    const bytes = new Uint8Array(buffer), { labels } = content.digits;
    return { labels, images: labels.map((_, i) => bytes.subarray(784 * i, 784 * (i + 1))) };
  });
  return unpackedDigits;
}

const inUnit = (bytes) => Float32Array.from(bytes, (x) => x / 255);
const binary = (bytes) => Float32Array.from(bytes, (x) => (x > 127 ? 1 : 0));

/** A slider: calls `change` with its value, shows it with `text`. Returns a function that sets it. */
function slider(input, change, text = (value) => fixed(value)) {
  const output = $("output", input.parentElement);
  const show = () => { if (output) output.textContent = text(input.valueAsNumber); };
  input.addEventListener("input", () => { show(); change(input.valueAsNumber); });
  show();
  return (value) => { input.value = value; show(); };
}

/** The chosen one of some radio buttons; `change` is called when it changes. */
function choice(name, change) {
  const inputs = [...document.getElementsByName(name)];
  for (const input of inputs) input.addEventListener("change", () => change(input.value));
  return () => inputs.find((input) => input.checked).value;
}

/** The point of a pointer event in an element, in shares of its width and height. */
function placeIn(target, event) {
  const box = target.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const schemes = matchMedia("(prefers-color-scheme: dark)");

/** Draw on a canvas at the resolution of the screen, again whenever its size or the colour scheme changes. */
function drawing(canvas, draw) {
  const again = () => {
    const { width, height } = canvas.getBoundingClientRect(), ratio = devicePixelRatio || 1;
    if (!width) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    draw(context, width, height);
  };
  new ResizeObserver(again).observe(canvas);
  schemes.addEventListener("change", again);
  return again;
}

/** The two buttons with a digit at the ends of a path. Pressing one takes another test digit. */
async function ends(from, to, change) {
  const { images, labels } = await testDigits(), picked = [labels.indexOf(3), labels.indexOf(8)];
  const show = (i, button) => {
    paint($("canvas", button), inUnit(images[picked[i]]));
    button.setAttribute("aria-label", `${["From", "To"][i]} digit ${labels[picked[i]]}. Press for another one.`);
  };
  const report = () => change(...picked.map((i) => images[i]));
  [from, to].forEach((button, i) => {
    show(i, button);
    button.addEventListener("click", () => { picked[i] = random(labels.length); show(i, button); report(); });
  });
  report();
}
