// In a worker, after net.js and models.js: {id, load} makes the model, {id, method, args} calls one of its methods.
"use strict";

let model;

self.onmessage = async ({ data: { id, load, method, args } }) => {
  try {
    if (load) model = await makeModel(load.description, load.weights);
    self.postMessage({ id, result: load ? null : model[method](...args) });
  } catch (error) {
    self.postMessage({ id, error: error.message });
  }
};
