// The drawing area: strokes by mouse, finger, pen and keyboard, in the canvas' own coordinates.

import { trace } from "./digit.js";

const STEP = 12; // of an arrow key
const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

export class Pad {
  strokes = [];
  shown = null; // the pixels of an example, in place of strokes
  #stroke = null;
  #cursor;
  #keyboard = false;

  /** changed: called after every change of strokes. */
  constructor(canvas, changed) {
    Object.assign(this, { canvas, changed, size: canvas.width });
    this.#cursor = [this.size / 2, this.size / 4];
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.#lift());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => { this.#keyboard = false; this.#lift(); this.draw(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.draw();
  }

  /** Show 64 counts in place of strokes. */
  show(pixels) {
    this.#reset(pixels);
    this.draw();
  }

  clear() {
    this.#reset(null);
    this.#done();
  }

  draw() {
    const context = this.canvas.getContext("2d"), { size } = this;
    const style = getComputedStyle(this.canvas);
    context.clearRect(0, 0, size, size);
    context.strokeStyle = context.fillStyle = style.color;
    if (this.shown !== null) paint(context, this.shown, size);
    trace(context, this.strokes, size / 12);
    if (!this.#keyboard) return;
    context.fillStyle = style.getPropertyValue("--accent");
    context.globalAlpha = this.#stroke ? 1 : 0.5;
    context.beginPath();
    context.arc(...this.#cursor, size / 30, 0, 2 * Math.PI);
    context.fill();
    context.globalAlpha = 1;
  }

  #reset(shown) {
    Object.assign(this, { strokes: [], shown });
    this.#stroke = null;
  }

  #begin(point) {
    if (this.shown !== null) this.#reset(null);
    this.#stroke = [point];
    this.strokes.push(this.#stroke);
    this.#done();
  }

  #extend(point) {
    this.#stroke.push(point);
    this.#done();
  }

  #lift() {
    this.#stroke = null;
  }

  #done() {
    this.draw();
    this.changed();
  }

  #down(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.#keyboard = false;
    this.#begin(this.#place(event));
  }

  #move(event) {
    if (!this.#stroke || this.#keyboard) return;
    for (const part of event.getCoalescedEvents?.() ?? []) this.#stroke.push(this.#place(part));
    this.#extend(this.#place(event));
  }

  #place({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    return [(clientX - box.left) * this.size / box.width, (clientY - box.top) * this.size / box.height];
  }

  #key(event) {
    if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else if (event.key === " ") this.#toggle();
    else if (event.key in ARROWS) this.#step(ARROWS[event.key]);
    else return;
    event.preventDefault();
  }

  #toggle() {
    this.#keyboard = true;
    if (this.#stroke) this.#lift();
    else this.#begin([...this.#cursor]);
    this.draw();
  }

  #step([dx, dy]) {
    this.#keyboard = true;
    const inside = (value) => Math.min(Math.max(value, STEP), this.size - STEP);
    this.#cursor = [inside(this.#cursor[0] + dx), inside(this.#cursor[1] + dy)];
    if (this.#stroke) this.#extend([...this.#cursor]);
    else this.draw();
  }
}

/** 64 counts as squares of the current fill colour, the darker the more. */
export function paint(context, pixels, size) {
  const side = size / 8;
  pixels.forEach((count, i) => {
    context.globalAlpha = count / 16;
    context.fillRect((i % 8) * side, Math.floor(i / 8) * side, side, side);
  });
  context.globalAlpha = 1;
}
