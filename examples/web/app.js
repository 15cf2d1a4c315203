// The page: what is drawn goes through the network, what comes back is shown.

import { pixelsOf } from "./digit.js";
import { classify, open, operations, total } from "./network.js";
import { Pad, paint } from "./pad.js";

const $ = (id) => document.getElementById(id);
const SETTINGS = ["sigma", "steps", "runs"];
const number = (value) => value.toLocaleString("en");
const sum = (values) => values.reduce((a, b) => a + b, 0);
const element = (tag, fields = {}) => Object.assign(document.createElement(tag), fields);

let network = null;
let busy = false, waiting = false; // at most one run at a time, and one that will see the newest input

const pad = new Pad($("pad"), refresh);

function settings() {
  return Object.fromEntries(SETTINGS.map((name) => [name, Number($(name).value)]));
}

function pixels() {
  return pad.shown ?? pixelsOf(pad.strokes);
}

/** Run on what is there now; a call during a run is answered by one run after it. */
async function refresh() {
  showSettings();
  if (network === null) return;
  if (busy) {
    waiting = true;
    return;
  }
  busy = true;
  try {
    do {
      waiting = false;
      await look();
      await new Promise(requestAnimationFrame); // let pointer and slider speak
    } while (waiting);
  } catch (error) {
    fail(error);
  } finally {
    busy = false;
  }
}

async function look() {
  const seen = pixels(), chosen = settings();
  showSeen(seen ?? new Array(64).fill(0));
  if (seen === null) {
    showNothing();
    return;
  }
  const start = performance.now();
  const result = await classify(network, seen.map((count) => count / 16), chosen);
  showVote(result, chosen, performance.now() - start);
  showWork(result.counts, chosen);
}

function showVote({ votes, prediction }, { runs, steps }, wall) {
  $("prediction").textContent = network.facts.labels[prediction];
  $("status").textContent =
    `${votes[prediction]} of ${runs} runs say ${network.facts.labels[prediction]} (T = ${steps}, ${wall.toFixed(0)}\u00a0ms)`;
  votes.forEach((count, k) => showBar($("votes").children[k], count, runs, k === prediction));
}

function showBar(item, count, runs, best) {
  item.classList.toggle("best", best);
  const meter = item.querySelector(".bar");
  meter.setAttribute("aria-valuemax", runs);
  meter.setAttribute("aria-valuenow", count);
  meter.firstChild.style.width = `${100 * count / runs}%`;
  item.querySelector(".count").textContent = count;
}

function showNothing() {
  $("prediction").textContent = "–";
  $("status").textContent = "Draw a digit, or take one of the test digits.";
  for (const item of $("votes").children) showBar(item, 0, 1, false);
  for (const id of ["total-sop", "run-sop", "total-mac", "total-spikes"]) $(id).textContent = "–";
  for (const row of $("layers").children) row.replaceWith(emptyRow(row));
}

function showWork(counts, chosen) {
  const { facts } = network, { events, graded } = operations(facts, counts, chosen);
  const sop = total(events, "sop");
  $("total-sop").textContent = number(sop);
  $("run-sop").textContent = number(Math.round(sop / chosen.runs));
  $("total-mac").textContent = number(total(graded, "mac"));
  $("total-spikes").textContent = number(sum(facts.populations.map(({ node }) => sum(counts[node] ?? []))));
  for (const row of $("layers").children) {
    const { node, neurons } = row.dataset, sites = counts[node];
    const [, , spikes, rate, , work, map] = row.children;
    const mine = events.filter((edge) => edge.source === node);
    const macs = graded.filter((edge) => edge.sources.includes(node));
    const fired = row.dataset.spiking === "true" ? sum(sites) : null;
    spikes.textContent = fired === null ? "graded" : number(fired);
    const share = fired === null ? null : fired / (Number(neurons) * chosen.steps * chosen.runs);
    rate.textContent = share === null ? "" : `${(100 * share).toFixed(1)} %`;
    work.textContent = mine.length ? `${number(total(mine, "sop"))} SOP` : `${number(total(macs, "mac"))} MAC`;
    if (fired !== null) showMap(map.firstChild, sites, chosen.steps * chosen.runs);
  }
}

/** One square per neuron, as opaque as the root of its rate; channels lie side by side, in two rows. */
function showMap(canvas, sites, most) {
  const context = canvas.getContext("2d"), { across, rows, columns } = tiling(network.facts, canvas.dataset.node);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = getComputedStyle(canvas).color;
  sites.forEach((count, i) => {
    const channel = Math.floor(i / (rows * columns)), row = Math.floor(i / columns) % rows, column = i % columns;
    context.globalAlpha = Math.sqrt(count / most);
    const x = (channel % across) * (columns + 1) + column, y = Math.floor(channel / across) * (rows + 1) + row;
    context.fillRect(x, y, 1, 1);
  });
}

/** How the neurons of a population are laid out: channels in two rows, or a plain vector likewise. */
function tiling({ populations }, node) {
  const { shape } = populations.find((found) => found.node === node);
  const [channels, rows, columns] = shape.length === 3 ? shape : [shape.reduce((a, b) => a * b, 1), 1, 1];
  const lines = channels > 1 ? 2 : 1;
  return { across: Math.ceil(channels / lines), lines, rows, columns };
}

function emptyRow(row) {
  const fresh = row.cloneNode(true);
  for (const i of [2, 3, 5]) fresh.children[i].textContent = "–";
  return fresh;
}

function showSeen(counts) {
  const canvas = $("seen"), context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = getComputedStyle(canvas).color;
  paint(context, counts, canvas.width);
}

function showSettings() {
  for (const name of SETTINGS) {
    const value = Number($(name).value);
    document.querySelector(`output[for=${name}]`).textContent = name === "sigma" ? value.toFixed(2) : value;
  }
}

function makeVotes(labels) {
  $("votes").replaceChildren(...labels.map((label, k) => {
    const item = element("li"), bar = element("div", { className: "bar" });
    bar.setAttribute("role", "meter");
    bar.setAttribute("aria-labelledby", `label-${k}`);
    bar.setAttribute("aria-valuemin", 0);
    bar.append(element("div"));
    item.append(element("span", { id: `label-${k}`, className: "label", textContent: label }), bar,
      element("span", { className: "count" }));
    showBar(item, 0, 1, false);
    return item;
  }));
}

function makeExamples(examples) {
  $("examples").replaceChildren(...examples.map(({ label, pixels: counts }) => {
    const button = element("button", { type: "button" });
    button.setAttribute("aria-label", `Test digit ${label}`);
    const canvas = element("canvas", { width: 32, height: 32 });
    button.append(canvas);
    const draw = () => {
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, 32, 32);
      context.fillStyle = getComputedStyle(button).color;
      paint(context, counts, 32);
    };
    requestAnimationFrame(draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    button.addEventListener("click", () => { pad.show(counts); refresh(); });
    return button;
  }));
}

function makeLayers(facts) {
  const { inputs, populations, edges, graded } = facts;
  const rows = [...inputs.map((node) => ({ node, kind: "noisy pixels" })), ...populations];
  const spiking = new Set(edges.map((edge) => edge.source));
  $("layers").replaceChildren(...rows.map(({ node, kind, neurons }) => {
    const row = element("tr", { role: "row" });
    Object.assign(row.dataset, { node, neurons: neurons ?? 0, spiking: spiking.has(node) });
    const into = [...edges.filter((e) => e.source === node), ...graded.filter((e) => e.sources.includes(node))];
    const name = element("th", { role: "rowheader", scope: "row", textContent: node });
    name.append(element("small", { textContent: kind }));
    const columns = [...document.querySelectorAll("thead th")].slice(1).map((head) => head.textContent);
    const cells = [neurons ? number(neurons) : "", "–", "–", into.map((e) => e.target).join(", "), "–", ""];
    row.append(name, ...cells.map((text) => element("td", { role: "cell", textContent: text })));
    columns.forEach((column, i) => { row.children[i + 1].dataset.column = column; });
    if (spiking.has(node) && neurons) row.lastChild.append(mapOf(facts, node));
    return row;
  }));
}

function mapOf(facts, node) {
  const { across, lines, rows, columns } = tiling(facts, node);
  const canvas = element("canvas", { className: "map" });
  canvas.width = across * (columns + 1) - 1;
  canvas.height = lines * (rows + 1) - 1;
  canvas.dataset.node = node;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `How often every neuron of ${node} fired`);
  return canvas;
}

function fail(error) {
  $("status").textContent = `It failed: ${error.message}`;
  $("status").classList.add("failed");
  console.error(error);
}

function setDefaults() {
  for (const [name, value] of Object.entries(network.facts.defaults)) $(name).value = value;
  refresh();
}

async function start() {
  const opened = await open(), { facts } = opened;
  for (const name of SETTINGS) {
    document.querySelector(`[data-setting=${name}]`).hidden = !opened.session.inputNames.includes(name);
  }
  makeVotes(facts.labels);
  makeExamples(facts.examples);
  makeLayers(facts);
  const accuracy = facts.accuracy === null ? "" : `, ${(100 * facts.accuracy).toFixed(1)} % right on test digits`;
  $("about").textContent = `Model ${facts.name} (${facts.encoder}${accuracy}), ${facts.runtime}.`;
  network = opened;
  for (const name of SETTINGS) $(name).addEventListener("input", refresh);
  $("clear").addEventListener("click", () => pad.clear());
  $("again").addEventListener("click", refresh);
  $("defaults").addEventListener("click", setDefaults);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh); // pictures have ink colours
  setDefaults();
}

start().catch(fail);
