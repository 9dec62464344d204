// The models: each class wraps the layers of one trained network. Images are 784 numbers, codes are plain arrays.
"use strict";

class VAE {
  constructor({ encoder, decoder, z_dim, std_shift }) {
    Object.assign(this, { encoder, decoder, size: z_dim, shift: std_shift });
  }

  /** The mean and std of q(z|x) for one image in 0..1 (Equation 13). */
  encode(image) {
    const out = forward(this.encoder, { data: Float32Array.from(image), shape: [1, 784] }).data;
    const std = [...out.subarray(this.size)].map((value) => softplus(value + this.shift) + 1e-6);
    return { mean: [...out.subarray(0, this.size)], std };
  }

  /** Logits of the pixels, for several codes one after the other. */
  logits(codes) {
    return forward(this.decoder, { data: Float32Array.from(codes), shape: [codes.length / this.size, this.size] }).data;
  }

  /** Bernoulli means in 0..1. */
  decode(codes) {
    return this.logits(codes).map(sigmoid);
  }

  /** The bound for a binary image in nats: {bound, reconstruction, kl}, from `n` fixed draws of z. */
  bound(image, n = 16) {
    const { mean, std } = this.encode(image), random = randomNumbers(1), codes = [];
    for (let draw = 0; draw < n; draw++) codes.push(...mean.map((m, i) => m + std[i] * random.normal()));
    let reconstruction = 0, kl = 0;
    this.logits(codes).forEach((logit, i) => { reconstruction += (image[i % 784] * logit - softplus(logit)) / n; });
    mean.forEach((m, i) => { kl += 0.5 * (std[i] ** 2 + m ** 2 - 1) - Math.log(std[i]); });
    return { bound: reconstruction - kl, reconstruction, kl };
  }
}

class Classifier {
  constructor({ layers }) {
    this.layers = layers;
  }

  /** Probabilities of the ten digits for one image in 0..1. */
  classify(image) {
    const logits = forward(this.layers, { data: Float32Array.from(image), shape: [1, 28, 28, 1] }).data;
    const most = Math.max(...logits), powers = [...logits].map((value) => Math.exp(value - most));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((value) => value / sum);
  }
}

class GAN {
  constructor({ layers, latent_dim, codes, code_length }) {
    Object.assign(this, { layers, latent: latent_dim, codes, length: code_length, size: latent_dim + codes });
  }

  /** A noise vector: normal numbers, and a one-hot code if the generator has codes. */
  noise(seed) {
    const random = randomNumbers(seed), code = Math.floor(random.uniform() * this.codes);
    const ends = Array.from({ length: this.codes }, (_, i) => (i === code ? this.length : 0));
    return [...random.normals(this.latent), ...ends];
  }

  /** Images in 0..1 from noise vectors, one after the other. */
  generate(noise) {
    const value = { data: Float32Array.from(noise), shape: [noise.length / this.size, this.size] };
    return forward(this.layers, value).data.map((x) => (x + 1) / 2);
  }
}

/** Points from a to b, at the shares t of the way: on the straight line, or with direction and length changing evenly. */
function between(a, b, t, spherical) {
  if (!spherical) return a.map((x, i) => (1 - t) * x + t * b[i]);
  const norm = (v) => Math.hypot(...v), p = a.map((x) => x / norm(a)), q = b.map((x) => x / norm(b));
  const cosine = p.reduce((sum, x, i) => sum + x * q[i], 0), across = q.map((x, i) => x - cosine * p[i]);
  const length = norm(across), angle = Math.atan2(length, cosine), radius = (1 - t) * norm(a) + t * norm(b);
  return p.map((x, i) => radius * (Math.cos(t * angle) * x + (Math.sin(t * angle) * across[i]) / Math.max(length, 1e-12)));
}

/** The inverse of a square matrix, row by row (Gauss and Jordan), in double precision. */
function inverse(matrix, n) {
  const rows = Array.from({ length: n }, (_, i) =>
    Float64Array.from({ length: 2 * n }, (_, j) => (j < n ? matrix[i * n + j] : j - n === i ? 1 : 0)));
  for (let i = 0; i < n; i++) {
    let pivot = i;
    for (let r = i + 1; r < n; r++) if (Math.abs(rows[r][i]) > Math.abs(rows[pivot][i])) pivot = r;
    [rows[i], rows[pivot]] = [rows[pivot], rows[i]];
    const factor = rows[i][i];
    for (let j = 0; j < 2 * n; j++) rows[i][j] /= factor;
    for (let r = 0; r < n; r++) {
      const share = rows[r][i];
      if (r !== i) for (let j = 0; j < 2 * n; j++) rows[r][j] -= share * rows[i][j];
    }
  }
  return Float64Array.from({ length: n * n }, (_, i) => rows[Math.floor(i / n)][n + (i % n)]);
}

/** log |det| of a square matrix. */
function logDeterminant(matrix, n) {
  const rows = Array.from({ length: n }, (_, i) => Float64Array.from(matrix.slice(i * n, (i + 1) * n)));
  let sum = 0;
  for (let i = 0; i < n; i++) {
    let pivot = i;
    for (let r = i + 1; r < n; r++) if (Math.abs(rows[r][i]) > Math.abs(rows[pivot][i])) pivot = r;
    [rows[i], rows[pivot]] = [rows[pivot], rows[i]];
    sum += Math.log(Math.abs(rows[i][i]));
    for (let r = i + 1; r < n; r++) {
      const share = rows[r][i] / rows[i][i];
      for (let j = i; j < n; j++) rows[r][j] -= share * rows[i][j];
    }
  }
  return sum;
}

/** Steps of the multi-scale flow on a value [1, H, W, C] in double precision; each returns its log-determinant. */
const STEPS = {
  actnorm({ mean, log_std }, { data, shape }, reverse) {
    const c = shape[3], scale = log_std.data.map(Math.exp);
    for (let i = 0; i < data.length; i++) {
      const l = i % c;
      data[i] = reverse ? data[i] * scale[l] + mean.data[l] : (data[i] - mean.data[l]) / scale[l];
    }
    return ((reverse ? 1 : -1) * log_std.data.reduce((a, b) => a + b, 0) * data.length) / c;
  },

  matrix(step, { data, shape }, reverse) {
    const c = shape[3], before = new Float64Array(c);
    step.inverse ||= inverse(step.matrix.data, c);
    step.logdet ??= logDeterminant(step.matrix.data, c);
    const matrix = reverse ? step.inverse : step.matrix.data;
    for (let at = 0; at < data.length; at += c) {
      for (let i = 0; i < c; i++) before[i] = data[at + i];
      for (let i = 0; i < c; i++) {
        let sum = 0;
        for (let j = 0; j < c; j++) sum += matrix[i * c + j] * before[j];
        data[at + i] = sum;
      }
    }
    return ((reverse ? -1 : 1) * step.logdet * data.length) / c;
  },

  roll({ by }, { data, shape }, reverse) {
    const c = shape[3], before = new Float64Array(c), from = reverse ? c - by : by;
    for (let at = 0; at < data.length; at += c) {
      for (let i = 0; i < c; i++) before[i] = data[at + i];
      for (let i = 0; i < c; i++) data[at + i] = before[(i + from) % c];
    }
    return 0;
  },

  /** The first half of the channels determines the transformation of the second half: affine, or with a mixture. */
  coupling({ layers }, { data, shape }, reverse) {
    const [, h, w, c] = shape, half = c / 2, kept = new Float32Array(data.length / 2);
    for (let p = 0; p < h * w; p++) for (let l = 0; l < half; l++) kept[p * half + l] = data[p * c + l];
    const out = forward(layers, { data: kept, shape: [1, h, w, half] }).data, n = out.length / (h * w);
    const components = (n / half - 2) / 3, mixture = new Mixture(components);  // parameters: 2 + 3 per component
    let logdet = 0;
    for (let p = 0; p < h * w; p++) for (let l = 0; l < half; l++) {
      const at = (parameter) => out[p * n + parameter * half + l], i = p * c + half + l;
      const scale = Math.tanh(at(0)), shift = at(1);
      mixture.set(at);
      if (reverse) {
        data[i] = (data[i] - shift) * Math.exp(-scale);
        if (components) data[i] = mixture.invert(data[i]);
        logdet -= scale + (components ? mixture.transform(data[i])[1] : 0);
      } else {
        const [value, slope] = components ? mixture.transform(data[i]) : [data[i], 0];
        data[i] = value * Math.exp(scale) + shift;
        logdet += scale + slope;
      }
    }
    return logdet;
  },
};

/** y = logit(F(x)) with the CDF F of a mixture of logistic distributions (Flow++). */
class Mixture {
  constructor(n) {
    for (const name of ["weights", "means", "scales", "below", "above", "slope"]) this[name] = new Float64Array(n);
  }

  /** `at(2)`, `at(3)`, ...: logits of the weights, means, log-scales. */
  set(at) {
    const n = this.weights.length;
    for (let k = 0; k < n; k++) {
      this.weights[k] = at(2 + k);
      this.means[k] = at(2 + n + k);
      this.scales[k] = Math.max(-5, at(2 + 2 * n + k));  // log-scales, bounded as in nets/multiscale.py
    }
    const total = logSumExp(this.weights);
    for (let k = 0; k < n; k++) this.weights[k] -= total;
  }

  /** y and log dy/dx. F and 1 - F are sums of positive terms, so both tails keep their digits. */
  transform(x) {
    const { below, above, slope } = this;
    for (let k = 0; k < below.length; k++) {
      const t = (x - this.means[k]) * Math.exp(-this.scales[k]);
      below[k] = this.weights[k] - softplus(-t);
      above[k] = below[k] - t;
      slope[k] = below[k] + above[k] - this.weights[k] - this.scales[k];
    }
    const [cdf, rest] = [logSumExp(below), logSumExp(above)];
    return [cdf - rest, logSumExp(slope) - cdf - rest];
  }

  /** The x of a y: Newton's method, with bisection of a bracket. x lies between the solutions for single components. */
  invert(y) {
    let low = Infinity, high = -Infinity;
    this.means.forEach((mean, k) => {
      const solution = mean + Math.exp(this.scales[k]) * y;
      low = Math.min(low, solution);
      high = Math.max(high, solution);
    });
    let x = (low + high) / 2, step = high - low;
    while (step > 1e-15 * (1 + Math.abs(x))) {  // each step halves the bracket, or is half as long as the one before
      const [value, slope] = this.transform(x), error = value - y;
      if (error < 0) low = x;
      else high = x;
      let next = x - error * Math.exp(-slope);
      if (!(next > low && next < high && Math.abs(next - x) < step / 2)) next = (low + high) / 2;
      step = Math.abs(next - x);
      x = next;
    }
    return x;
  }
}

function logSumExp(values) {
  const most = values.reduce((a, b) => Math.max(a, b), -Infinity);
  return most + Math.log(values.reduce((sum, x) => sum + Math.exp(x - most), 0));
}

const DIAGONAL_FIRST = [0, 3, 1, 2];  // the pixels of a 2 x 2 square in the order of the new channels

/** [1, 2H, 2W, C] -> [1, H, W, 4C]: pixels of each 2 x 2 square become channels, those on the diagonal first. */
function squeeze({ data, shape: [, h, w, c] }, reverse = false) {
  const out = new Float64Array(data.length), [oh, ow, oc] = reverse ? [h, w, c / 4] : [h / 2, w / 2, c];
  for (let y = 0; y < oh; y++) for (let x = 0; x < ow; x++) for (let q = 0; q < 4; q++) for (let l = 0; l < oc; l++) {
    const pixel = DIAGONAL_FIRST[q], wide = ((2 * y + (pixel >> 1)) * 2 * ow + 2 * x + (pixel & 1)) * oc + l;
    const deep = (y * ow + x) * 4 * oc + q * oc + l;
    if (reverse) out[wide] = data[deep];
    else out[deep] = data[wide];
  }
  return { data: out, shape: reverse ? [1, 2 * oh, 2 * ow, oc] : [1, oh, ow, 4 * oc] };
}

/** The second half of the channels, and the first half as a value of its own. */
function halves({ data, shape: [, h, w, c] }) {
  const part = (from) => Float64Array.from({ length: data.length / 2 }, (_, i) =>
    data[Math.floor(i / (c / 2)) * c + from + (i % (c / 2))]);
  return [{ data: part(0), shape: [1, h, w, c / 2] }, { data: part(c / 2), shape: [1, h, w, c / 2] }];
}

function joined(a, b) {
  const c = a.shape[3], data = new Float64Array(2 * a.data.length);
  for (let i = 0; i < data.length; i++) {
    const p = Math.floor(i / (2 * c)), l = i % (2 * c);
    data[i] = l < c ? a.data[p * c + l] : b.data[p * c + l - c];
  }
  return { data, shape: [...a.shape.slice(0, 3), 2 * c] };
}

/** The numbers of a value in torch's order, channel by channel, and back. */
function channelsFirst({ data, shape: [, h, w, c] }) {
  return Float64Array.from({ length: data.length }, (_, i) => data[(i % (h * w)) * c + Math.floor(i / (h * w))]);
}

function channelsLast(numbers, h, w, c) {
  const data = Float64Array.from({ length: numbers.length }, (_, i) => numbers[(i % c) * h * w + Math.floor(i / c)]);
  return { data, shape: [1, h, w, c] };
}

class Flow {
  constructor({ alpha, levels, noise }) {
    Object.assign(this, { alpha, levels, noise });
  }

  /** Dequantisation noise of an image 0..255: 1/2, or the median of the learned q(u|x). */
  noiseOf(image) {
    if (!this.noise) return new Float64Array(784).fill(0.5);
    const pixels = { data: Float64Array.from(image, (x) => x / 128 - 1), shape: [1, 28, 28, 1] };
    const { data, shape } = squeeze(pixels), c = 4;
    const out = forward(this.noise.layers, { data: Float32Array.from(data), shape }).data;
    const mean = Float64Array.from(data, (_, i) => this.noise.mean + out[Math.floor(i / c) * 2 * c + c + (i % c)]);
    return squeeze({ data: mean, shape }, true).data.map(sigmoid);
  }

  /** An image with real values in [0, 256] to its code; `seen` gets the image between the steps. */
  encode(image, seen = () => {}) {
    let logdet = 0, value = { data: new Float64Array(784), shape: [1, 28, 28, 1] };
    image.forEach((x, i) => {
      const y = this.alpha / 2 + ((1 - this.alpha) * x) / 256;
      value.data[i] = Math.log(y) - Math.log1p(-y);
      logdet += Math.log((1 - this.alpha) / 256) - Math.log(y) - Math.log1p(-y);
    });
    const out = [];
    seen(this.wholeImage(value, out), "pixels");
    this.levels.forEach((steps, level) => {
      value = squeeze(value);
      steps.forEach((step, i) => {
        logdet += STEPS[step.op](step, value, false);
        if (step.op === "coupling") seen(this.wholeImage(value, out), `level ${level + 1}, step ${i + 1}`);
      });
      if (level < this.levels.length - 1) {
        const [kept, half] = halves(value);
        value = kept;
        out.push(half);
      }
    });
    const code = Float64Array.from([...out, value].flatMap((part) => [...channelsFirst(part)]));
    return { code, logdet };
  }

  /** A code to an image with real values in [0, 256]. */
  decode(code) {
    let side = 28 >> this.levels.length, c = 784 / side ** 2 / 2 ** (this.levels.length - 1), end = 784;
    const take = (h, channels) => {
      end -= h * h * channels;
      return channelsLast(code.slice(end, end + h * h * channels), h, h, channels);
    };
    let value = take(side, c);
    for (let level = this.levels.length - 1; level >= 0; level--) {
      if (level < this.levels.length - 1) value = joined(value, take(side, value.shape[3]));
      for (const step of [...this.levels[level]].reverse()) STEPS[step.op](step, value, true);
      value = squeeze(value, true);
      side *= 2;
    }
    return value.data.map((x) => ((sigmoid(x) - this.alpha / 2) / (1 - this.alpha)) * 256);
  }

  /** The current value and the factored-out halves, put back to where their pixels are: 784 numbers. */
  wholeImage(value, out) {
    let whole = { data: Float64Array.from(value.data), shape: value.shape };
    for (const half of [...out].reverse()) {
      while (whole.shape[1] < half.shape[1]) whole = squeeze(whole, true);
      whole = joined(whole, half);
    }
    while (whole.shape[1] < 28) whole = squeeze(whole, true);
    return whole.data;
  }

  codeOf(digit) {
    const noise = this.noiseOf(digit);
    return this.encode(digit.map((x, i) => x + noise[i])).code;
  }

  /** A digit 0..255 to its code and back: the image, the worst error in grey levels, the values between the steps. */
  roundTrip(digit) {
    const noise = this.noiseOf(digit), image = Float64Array.from(digit, (x, i) => x + noise[i]), way = [];
    const { code } = this.encode(image, (values, name) => way.push({ values: Float32Array.from(values), name }));
    const back = this.decode(code), worst = back.reduce((most, x, i) => Math.max(most, Math.abs(x - image[i])), 0);
    return { back, worst, way };
  }
}

/** Sampling pixel by pixel. The vertical stack is computed once per row, the horizontal one once per pixel. */
class PixelCNN {
  constructor(model) {
    Object.assign(this, model);
    this.width = this.first_v.weight.shape[0];
    this.reset();
  }

  reset() {
    this.pixels = new Float32Array(784);  // -1 or 1; 0 is not drawn yet
    this.next = 0;
    this.past = this.dilations.map(() => []);  // of each layer: v of the earlier rows
  }

  /** Rows of v times a kernel [out, rows, columns, in], with zeros outside the image. */
  convolve({ weight, bias }, rows, dilation) {
    const [n, kh, kw, c] = weight.shape, k = kh * kw * c, around = ((kw - 1) / 2) * dilation;
    const patches = new Float32Array(28 * k);
    for (let x = 0; x < 28; x++) for (let i = 0; i < kh; i++) for (let j = 0; j < kw; j++) {
      const from = x - around + j * dilation;
      if (!rows[i] || from < 0 || from > 27) continue;
      for (let l = 0; l < c; l++) patches[x * k + (i * kw + j) * c + l] = rows[i][from * c + l];
    }
    return product(patches, weight.data, bias.data, 28, k, n);
  }

  /** The first half times the piecewise linear sigmoid of the second. */
  gate(a, pixels) {
    const c = a.length / pixels / 2, out = new Float32Array(pixels * c);
    for (let p = 0; p < pixels; p++) for (let l = 0; l < c; l++) {
      out[p * c + l] = a[2 * p * c + l] * Math.min(Math.max(a[(2 * p + 1) * c + l] / 6 + 0.5, 0), 1);
    }
    return out;
  }

  nextRow(row) {
    const image = [3, 2, 1].map((up) => row >= up && this.pixels.subarray(28 * (row - up), 28 * (row - up + 1)));
    let v = this.convolve(this.first_v, image, 1);
    this.firstLink = product(v, this.first_link.weight.data, this.first_link.bias.data, 28, this.width, this.width);
    this.links = [];
    this.before = this.dilations.map(() => []);  // of each layer: h of the earlier pixels in this row
    this.dilations.forEach((dilation, i) => {
      this.past[i][row] = v;
      const above = this.gate(this.convolve(this.v[i], [this.past[i][row - dilation], v], dilation), 28);
      const { weight, bias } = this.link[i];
      this.links.push(product(above, weight.data, bias.data, 28, this.width, 2 * this.width));
      v = v.map((x, j) => x + above[j]);
    });
  }

  /** The probability that the next pixel is white, given all pixels before it. */
  probability() {
    const row = Math.floor(this.next / 28), column = this.next % 28, c = this.width;
    if (column === 0) this.nextRow(row);
    const left = Float32Array.from({ length: 4 }, (_, i) => (column + i >= 4 ? this.pixels[this.next + i - 4] : 0));
    let h = product(left, this.first_h.weight.data, this.first_h.bias.data, 1, 4, c);
    h = h.map((x, l) => x + this.firstLink[column * c + l]);
    this.dilations.forEach((dilation, i) => {
      this.before[i][column] = h;
      const both = new Float32Array(2 * c);
      if (column >= dilation) both.set(this.before[i][column - dilation]);
      both.set(h, c);
      const a = product(both, this.h[i].weight.data, this.h[i].bias.data, 1, 2 * c, 2 * c);
      const link = this.links[i], mixed = this.gate(a.map((x, l) => x + link[column * 2 * c + l]), 1);
      const change = product(mixed, this.mix[i].weight.data, this.mix[i].bias.data, 1, c, c);
      h = h.map((x, l) => x + change[l]);
    });
    return sigmoid(forward(this.out, { data: h, shape: [1, c] }).data[0]);
  }

  /** Set the next pixel to 0 or 1. */
  put(pixel) {
    this.pixels[this.next++] = 2 * pixel - 1;
  }
}

const MODELS = { vae: VAE, classifier: Classifier, gan: GAN, flow: Flow, pixelcnn: PixelCNN };

/** A model from its packed description {kind, model} and its compressed weights. */
async function makeModel(description, weights) {
  return new MODELS[description.kind](unpackAll(description.model, await inflate(weights)));
}
