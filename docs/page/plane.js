// Part 1: the plane of a VAE with two latent dimensions.
"use strict";

/** Half the width of the plane that is shown: nearly all codes lie inside. */
function planeReach() {
  const far = content.plane ? content.plane.codes.map(Math.abs).sort((a, b) => a - b) : [3];
  return Math.max(3.2, Math.min(6, far[Math.floor(0.998 * (far.length - 1))] + 0.2));
}

/** Draw the circles of the prior, and each code as the numeral of its digit. `only`: null, or the digit to show. */
function drawPlane(context, size, reach, only = null, faint = false) {
  const place = (x) => ((x + reach) / (2 * reach)) * size, unit = size / (2 * reach);
  context.clearRect(0, 0, size, size);
  context.fillStyle = colour("--paper");
  context.fillRect(0, 0, size, size);
  context.lineWidth = 1;
  for (const [radius, share] of [[1, "39 %"], [2, "86 %"], [3, "99 %"]]) {
    context.strokeStyle = colour("--ring");
    context.beginPath();
    context.arc(size / 2, size / 2, radius * unit, 0, 2 * Math.PI);
    context.stroke();
    if (size > 300 && !faint) {
      context.fillStyle = colour("--soft");
      context.font = "11px system-ui, sans-serif";
      context.textAlign = "center";
      context.fillText(share, size / 2, place(-radius) + 12);
    }
  }
  context.font = `700 ${size > 420 ? 11 : size > 300 ? 9 : 7}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const { codes, labels } = content.plane, colours = labels.length ? [...Array(10).keys()].map((i) => colour(`--c${i}`)) : [];
  labels.forEach((label, i) => {
    context.globalAlpha = only === null ? (faint ? 0.35 : 0.85) : label === only ? 1 : 0.07;
    context.fillStyle = colours[label];
    context.fillText(label, place(codes[2 * i]), size - place(codes[2 * i + 1]));
  });
  context.globalAlpha = 1;
}

const MANIFOLD = 21;  // digits in a row of the decoded plane

/** A grid of points on the plane, row by row. */
function manifoldCodes(reach) {
  const n = MANIFOLD, codes = [];
  for (let row = 0; row < n; row++) for (let column = 0; column < n; column++) {
    codes.push(reach * ((2 * column + 1) / n - 1), reach * (1 - (2 * row + 1) / n));
  }
  return codes;
}

function drawManifold(context, size, images) {
  const n = MANIFOLD, step = size / n, small = element("canvas", { width: 28, height: 28 });
  context.fillStyle = colour("--paper");
  context.fillRect(0, 0, size, size);
  context.imageSmoothingQuality = "high";
  for (let i = 0; i < n * n; i++) {
    paint(small, images.subarray(784 * i, 784 * (i + 1)), schemes.matches ? 255 : 0);
    context.drawImage(small, (i % n) * step, Math.floor(i / n) * step, step, step);
  }
}

part("plane", ["vae2"], () => {
  const map = $("#plane-map"), marker = $(".marker", map), digit = $("#plane-digit"), where = $("#plane-where");
  const reach = planeReach();
  const first = content.plane.labels.indexOf(0);
  let z = content.plane.codes.slice(2 * first, 2 * first + 2), only = null, decoder = null, noise = null, manifold = null;

  const show = choice("plane-show", async () => {
    if (show() === "manifold") manifold ??= await remote("vae2").call("decode", manifoldCodes(reach));
    redraw();
  });
  const pixels = choice("plane-pixels", () => { noise = null; move(z); });
  const redraw = drawing($("canvas", map), (context, size) => {
    if (show() === "manifold" && manifold) drawManifold(context, size, manifold);
    else drawPlane(context, size, reach, only);
  });

  const say = afterwards(150, async () => {
    const nearer = 1 - Math.exp(-(z[0] ** 2 + z[1] ** 2) / 2);  // a chi-squared distribution with two degrees of freedom
    const chances = (await local("classifier")).classify(decoder.decode(z)), most = chances.indexOf(Math.max(...chances));
    const place = `z = (${fixed(z[0])}, ${fixed(z[1])}); ${percent(nearer)} of the prior is nearer to 0.`;
    where.textContent = `${place} The classifier sees a ${most} (${percent(chances[most])}).`;
  });
  const decode = perFrame(() => {
    if (!decoder) return;
    let image = decoder.decode(z);
    if (pixels() === "draws") {
      noise ??= Float32Array.from({ length: 784 }, Math.random);  // kept while the point moves: only p(x|z) changes
      image = image.map((p, i) => (noise[i] < p ? 1 : 0));
    }
    paint(digit, image);
  });
  function move(to) {
    z = to.map((x) => Math.min(reach, Math.max(-reach, x)));
    marker.style.left = `${(50 * (z[0] + reach)) / reach}%`;
    marker.style.top = `${(50 * (reach - z[1])) / reach}%`;
    decode();
    if (decoder) say();
  }

  const follow = (event) => {
    const [x, y] = placeIn(map, event);
    move([reach * (2 * x - 1), reach * (1 - 2 * y)]);
  };
  map.addEventListener("pointerdown", (event) => { map.setPointerCapture(event.pointerId); follow(event); });
  map.addEventListener("pointermove", follow);
  map.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (!arrow) return;
    event.preventDefault();
    const step = event.shiftKey ? 0.5 : 0.1;
    move([z[0] + step * arrow[0], z[1] - step * arrow[1]]);
  });

  const buttons = [...Array(10).keys()].map((label) => {
    const button = element("button", { type: "button", textContent: label });
    button.style.color = `var(--c${label})`;
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-label", `Only the codes of ${label}`);
    button.addEventListener("click", () => {
      only = only === label ? null : label;
      buttons.forEach((other, i) => other.setAttribute("aria-pressed", i === only));
      $("input[name=plane-show]").checked = true;
      redraw();
    });
    return button;
  });
  $("#plane-legend").append(...buttons);

  /** Digits on a circle around the centre of the plane, for the top of the page. */
  function showHero() {
    const canvases = digitStrip($("#hero"), 12), codes = canvases.flatMap((_, i) => {
      const angle = (2 * Math.PI * i) / canvases.length;
      return [1.5 * Math.cos(angle), 1.5 * Math.sin(angle)];
    });
    const images = decoder.decode(codes);
    canvases.forEach((canvas, i) => paint(canvas, images.subarray(784 * i, 784 * (i + 1))));
  }

  local("vae2").then((model) => { decoder = model; showHero(); move(z); redraw(); document.body.dataset.ready = performance.now(); });
});
