// The exported model: run it on 64 pixels, and count operations as `rsc energy` does.

import * as ort from "./vendor/ort.js";

ort.env.wasm.numThreads = 1; // threads ask for headers that a plain file server does not send
ort.env.wasm.wasmPaths = { wasm: new URL("vendor/ort.wasm", import.meta.url).href };
ort.env.logLevel = "error";

/** A session and what digits.json says about it. */
export async function open(model = "vendor/digits.onnx", facts = "vendor/digits.json") {
  const answer = await fetch(facts);
  if (!answer.ok) throw new Error(`${facts} is not here. Run build.py first.`);
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], logSeverityLevel: 3 });
  return { session, facts: await answer.json() };
}

/** Votes, prediction and spikes of every site, summed over the runs.
 *
 * pixels: numbers in [0, 1]. settings: {sigma, steps, runs}. noise: {data, dims}, for models that are fed it.
 */
export async function classify({ session, facts }, pixels, settings, noise) {
  const whole = (value) => new ort.Tensor("int64", BigInt64Array.of(BigInt(value)), [1]);
  const makers = {
    image: () => new ort.Tensor("float32", Float32Array.from(pixels), [1, ...facts.shape]),
    sigma: () => new ort.Tensor("float32", Float32Array.of(settings.sigma), []),
    steps: () => whole(settings.steps),
    runs: () => whole(settings.runs),
    noise: () => new ort.Tensor("float32", Float32Array.from(noise.data), noise.dims),
  };
  const fed = Object.fromEntries(session.inputNames.map((name) => [name, makers[name]()]));
  const found = await session.run(fed);
  const counts = {};
  for (const [name, value] of Object.entries(found)) {
    if (name.startsWith("counts.")) counts[name.slice("counts.".length)] = Array.from(value.data, Number);
  }
  return { votes: Array.from(found.votes.data, Number), prediction: Number(found.prediction.data[0]), counts };
}

/** Operations by edge: {source, target, sop, sop_nz} of spikes, {sources, target, mac} of graded values.
 *
 * sop = sum over sites of spikes times fan-out; mac = synapses of a dense step, times T and K.
 */
export function operations(facts, counts, settings) {
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const events = facts.edges.map(({ source, target, fan_out, fan_out_nz }) => ({
    source, target, sop: dot(counts[source], fan_out), sop_nz: dot(counts[source], fan_out_nz),
  }));
  const graded = facts.graded.map(({ sources, target, mac }) => ({
    sources, target, mac: mac * settings.steps * settings.runs,
  }));
  return { events, graded };
}

export const total = (rows, key) => rows.reduce((sum, row) => sum + row[key], 0);
