// Networks as lists of layers. A value is {data, shape}; its shape is [batch, features] or [batch, row, column, channel].
// code/study/export.py writes the layers and packs their weights. The page and its workers run this file.
"use strict";

const LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~";
const DIGITS = new Uint8Array(128);
for (let digit = 0; digit < 85; digit++) DIGITS[LETTERS.charCodeAt(digit)] = digit;

/** The bytes of a base85 text: five characters are four bytes. `as_text` in code/study/export.py writes such texts. */
function bytesOf(text) {
  const bytes = new DataView(new ArrayBuffer(4 * Math.ceil(text.length / 5)));
  for (let i = 0, at = 0; i < text.length; at += 4) {
    let value = 0;
    for (const end = i + 5; i < end; i++) value = 85 * value + (i < text.length ? DIGITS[text.charCodeAt(i)] : 84);
    bytes.setUint32(at, value);
  }
  return new Uint8Array(bytes.buffer, 0, Math.floor((4 * text.length) / 5)); // the last bytes can be missing
}

/** Decompress base85 text (zlib). */
async function inflate(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const OFFSET = 128 * 257; // with it, the middle and high bytes of most integers are the same, and compress well

/** A packed tensor {at, shape, step}: float32 if step is 0, else integers of three bytes, first all low bytes. */
function unpack({ at, shape, step }, buffer) {
  const size = shape.reduce((a, b) => a * b, 1);
  if (!step) return { shape, data: new Float32Array(buffer.slice(at, at + 4 * size)) };
  const [low, middle] = [0, 1].map((k) => new Uint8Array(buffer, at + k * size, size));
  const high = new Int8Array(buffer, at + 2 * size, size);
  return { shape, data: Float32Array.from(low, (byte, i) => step * (65536 * high[i] + 256 * middle[i] + byte - OFFSET)) };
}

/** Replace every packed tensor in a description of a model. */
function unpackAll(node, buffer) {
  if (node === null || typeof node !== "object") return node;
  if (Array.isArray(node)) return node.map((child) => unpackAll(child, buffer));
  if ("at" in node) return unpack(node, buffer);
  return Object.fromEntries(Object.entries(node).map(([key, child]) => [key, unpackAll(child, buffer)]));
}

/** a [m, k] times the transpose of w [n, k], plus the bias of each column: [m, n]. Blocks of 2 x 4 stay in registers. */
function product(a, w, bias, m, k, n) {
  const out = new Float32Array(m * n);
  let i = 0;
  for (; i + 1 < m; i += 2) {
    const p = i * k, q = p + k;
    let j = 0;
    for (; j + 3 < n; j += 4) {
      const r = j * k, s = r + k, t = s + k, u = t + k;
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
      for (let l = 0; l < k; l++) {
        const x = a[p + l], y = a[q + l], w0 = w[r + l], w1 = w[s + l], w2 = w[t + l], w3 = w[u + l];
        a0 += x * w0; a1 += x * w1; a2 += x * w2; a3 += x * w3;
        b0 += y * w0; b1 += y * w1; b2 += y * w2; b3 += y * w3;
      }
      let o = i * n + j;
      out[o] = a0; out[o + 1] = a1; out[o + 2] = a2; out[o + 3] = a3;
      o += n;
      out[o] = b0; out[o + 1] = b1; out[o + 2] = b2; out[o + 3] = b3;
    }
    for (; j < n; j++) {
      let sumA = 0, sumB = 0;
      for (let l = 0, r = j * k; l < k; l++) { sumA += a[p + l] * w[r + l]; sumB += a[q + l] * w[r + l]; }
      out[i * n + j] = sumA; out[i * n + n + j] = sumB;
    }
  }
  for (; i < m; i++) {
    const p = i * k;
    let j = 0;
    for (; j + 3 < n; j += 4) {
      const r = j * k, s = r + k, t = s + k, u = t + k;
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0;
      for (let l = 0; l < k; l++) {
        const x = a[p + l];
        a0 += x * w[r + l]; a1 += x * w[s + l]; a2 += x * w[t + l]; a3 += x * w[u + l];
      }
      const o = i * n + j;
      out[o] = a0; out[o + 1] = a1; out[o + 2] = a2; out[o + 3] = a3;
    }
    for (; j < n; j++) {
      let sum = 0;
      for (let l = 0, r = j * k; l < k; l++) sum += a[p + l] * w[r + l];
      out[i * n + j] = sum;
    }
  }
  if (bias) for (let o = 0; o < out.length;) for (let j = 0; j < n; j++) out[o++] += bias[j];
  return out;
}

/** The error function: Abramowitz and Stegun 7.1.26, at most 1.5e-7 off. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(x) * (1 - tail * Math.exp(-x * x));
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

const ACTIVATIONS = {
  relu: () => (x) => (x > 0 ? x : 0),
  leaky: ({ slope }) => (x) => (x > 0 ? x : slope * x),
  gelu: () => (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  tanh: () => Math.tanh,
};

const LAYERS = {
  linear({ weight, bias }, { data, shape }) {
    const [n, k] = weight.shape, m = data.length / k;
    return { data: product(data, weight.data, bias && bias.data, m, k, n), shape: [...shape.slice(0, -1), n] };
  },

  /** Convolution: one product of all patches with the kernels. The kernels are [out, rows, columns, in]. */
  conv({ weight, bias, stride = 1, padding = 0, dilation = 1 }, { data, shape }) {
    const [b, h, w, c] = shape, [n, kh, kw] = weight.shape, k = kh * kw * c;
    const oh = Math.floor((h + 2 * padding - dilation * (kh - 1) - 1) / stride) + 1;
    const ow = Math.floor((w + 2 * padding - dilation * (kw - 1) - 1) / stride) + 1;
    let patches = data;
    if (kh * kw > 1 || stride > 1 || padding) {
      patches = new Float32Array(b * oh * ow * k);
      let at = 0;
      for (let image = 0; image < b; image++) {
        for (let row = 0; row < oh; row++) for (let column = 0; column < ow; column++) for (let i = 0; i < kh; i++) {
          const y = row * stride - padding + i * dilation;
          for (let j = 0; j < kw; j++, at += c) {
            const x = column * stride - padding + j * dilation;
            if (y < 0 || y >= h || x < 0 || x >= w) continue;
            const from = ((image * h + y) * w + x) * c;
            for (let l = 0; l < c; l++) patches[at + l] = data[from + l];
          }
        }
      }
    }
    return { data: product(patches, weight.data, bias && bias.data, b * oh * ow, k, n), shape: [b, oh, ow, n] };
  },

  /** Put `stride` - 1 zeros between pixels; with a convolution this makes a transposed convolution. */
  spread({ stride }, { data, shape: [b, h, w, c] }) {
    const oh = (h - 1) * stride + 1, ow = (w - 1) * stride + 1, out = new Float32Array(b * oh * ow * c);
    for (let image = 0; image < b; image++) for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
      const from = ((image * h + y) * w + x) * c, to = ((image * oh + y * stride) * ow + x * stride) * c;
      for (let l = 0; l < c; l++) out[to + l] = data[from + l];
    }
    return { data: out, shape: [b, oh, ow, c] };
  },

  maxpool({ size, stride, padding }, { data, shape: [b, h, w, c] }) {
    const oh = Math.floor((h + 2 * padding - size) / stride) + 1, ow = Math.floor((w + 2 * padding - size) / stride) + 1;
    const out = new Float32Array(b * oh * ow * c).fill(-Infinity);
    for (let image = 0; image < b; image++) for (let row = 0; row < oh; row++) for (let column = 0; column < ow; column++) {
      const to = ((image * oh + row) * ow + column) * c;
      for (let y = row * stride - padding; y < row * stride - padding + size; y++) {
        for (let x = column * stride - padding; x < column * stride - padding + size; x++) {
          if (y < 0 || y >= h || x < 0 || x >= w) continue;
          const from = ((image * h + y) * w + x) * c;
          for (let l = 0; l < c; l++) if (data[from + l] > out[to + l]) out[to + l] = data[from + l];
        }
      }
    }
    return { data: out, shape: [b, oh, ow, c] };
  },

  /** One factor and one summand per channel: BatchNorm after training. */
  scale({ factor, summand }, { data, shape }) {
    const c = factor.data.length, out = new Float32Array(data.length);
    for (let i = 0; i < data.length; i++) out[i] = data[i] * factor.data[i % c] + summand.data[i % c];
    return { data: out, shape };
  },

  add({ bias }, { data, shape }) {
    return { data: data.map((value, i) => value + bias.data[i % bias.data.length]), shape };
  },

  residual({ layers }, value) {
    const change = forward(layers, value).data;
    return { data: value.data.map((x, i) => x + change[i]), shape: value.shape };
  },

  /** Features in torch's order, channel by channel, to an image. */
  unflatten({ shape: [c, h, w] }, { data, shape: [b] }) {
    const out = new Float32Array(data.length), pixels = h * w;
    for (let image = 0, at = 0; image < b; image++) for (let l = 0; l < c; l++) for (let p = 0; p < pixels; p++) {
      out[(image * pixels + p) * c + l] = data[at++];
    }
    return { data: out, shape: [b, h, w, c] };
  },

  flatten(_, { data, shape }) {
    if (shape.length === 2) return { data, shape };
    const [b, h, w, c] = shape, out = new Float32Array(data.length), pixels = h * w;
    for (let image = 0, at = 0; image < b; image++) for (let l = 0; l < c; l++) for (let p = 0; p < pixels; p++) {
      out[at++] = data[(image * pixels + p) * c + l];
    }
    return { data: out, shape: [b, data.length / b] };
  },

  /** [B, H, W, C r r] -> [B, r H, r W, C], torch's pixel_shuffle. */
  shuffle({ by }, { data, shape: [b, h, w, channels] }) {
    const c = channels / (by * by), out = new Float32Array(data.length);
    for (let image = 0, at = 0; image < b; image++) for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
      for (let l = 0; l < c; l++) for (let i = 0; i < by; i++) for (let j = 0; j < by; j++) {
        out[((image * h * by + y * by + i) * w * by + x * by + j) * c + l] = data[at++];
      }
    }
    return { data: out, shape: [b, h * by, w * by, c] };
  },

  /** Amplitudes [B, n n] of waves to images [B, m m]: waves' A waves, with `waves` [n, m]. */
  outer({ waves }, { data, shape: [b] }) {
    const [n, m] = waves.shape, turned = new Float32Array(n * m), out = new Float32Array(b * m * m);
    for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) turned[j * n + i] = waves.data[i * m + j];
    for (let image = 0; image < b; image++) {
      const half = product(turned, data.subarray(image * n * n, (image + 1) * n * n), null, m, n, n);  // [column, wave]
      out.set(product(turned, half, null, m, n, m), image * m * m);
    }
    return { data: out, shape: [b, m * m] };
  },
};

/** Apply layers in order to a value {data, shape}. */
function forward(layers, value) {
  for (const layer of layers) {
    const activation = ACTIVATIONS[layer.op];
    if (activation) value = { data: value.data.map(activation(layer)), shape: value.shape };
    else if (LAYERS[layer.op]) value = LAYERS[layer.op](layer, value);
    else throw new Error(`the page has no layer ${layer.op}`);
  }
  return value;
}

/** Random numbers with a seed (mulberry32): uniform in [0, 1), and standard normal (Box and Muller). */
function randomNumbers(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normal, normals: (n) => Float32Array.from({ length: n }, normal) };
}
