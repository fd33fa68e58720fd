// Curves: one chart a metric, a line a task. No library: a few hundred points each.

const FIRST = [
  ["eval/accuracy", "Held-out accuracy"],
  ["reward/accuracy", "Reward: accuracy of sampled responses"],
  ["reward/format", "Reward: format"],
  ["reward/structure", "Reward: structure"],
  ["reward/length", "Reward: length"],
  ["reward/total", "Reward: total"],
  ["rollout/length_tokens", "Response length, tokens"],
  ["policy/entropy", "Entropy, nats per token"],
  ["rollout/zero_variance_share", "Rows with equal rewards, share"],
  ["rollout/kept_share", "Rows kept by the filter, share"],
  ["policy/clip_share", "Clipped tokens, share"],
  ["ledger/share", "Gradient: norm of each task's part, share"],
  ["ledger/cosine", "Gradient: cosine of each task's part and the others'"],
  ["rollout/gap", "Sampler-trainer gap, nats"],
  ["rollout/tokens_per_s", "Generated tokens per second"],
];
const SMOOTHINGS = [1, 5, 10, 25, 50];
// Where a task's configuration says the number should be: the field of `tasks`, and its two places.
const BANDS = { "policy/entropy": ["entropy", 0, 1], "rollout/length_tokens": ["length", 1, 2] };
const PLOT = { left: 46, right: 10, top: 8, bottom: 22, height: 190 };
const chartState = { off: new Set(), focus: null, smoothing: 10, charts: [] };

const lineColour = (task) => (task === ALL ? "var(--ink)" : `var(--c${DATA.tasks.indexOf(task) % 7})`);
const lineDash = (task) => ["", "7 3", "2 3"][task === ALL ? 0 : Math.floor(DATA.tasks.indexOf(task) / 7) % 3];
const isEvaluation = (name) => name.startsWith("eval/") || name === "time/eval_s";

// Mean of a point and those before it, `width` together; fewer at the start.
function smooth(values, width) {
  let sum = 0;
  return values.map((value, i) => {
    sum += value - (i >= width ? values[i - width] : 0);
    return sum / Math.min(i + 1, width);
  });
}

function ticks(low, high, count) {
  const rough = (high - low) / count;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * unit).find((m) => m >= rough);
  const out = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i += 1) out.push(i * step);
  return out;
}

function visibleSeries(curve) {
  return Object.entries(curve.series)
    .filter(([task]) => !chartState.off.has(task))
    .sort(([a], [b]) => (a === ALL) - (b === ALL)) // the line over all tasks is drawn last
    .map(([task, [steps, values]]) => ({
      task, steps, raw: values,
      values: isEvaluation(curve.name) ? values : smooth(values, chartState.smoothing),
    }));
}

function limits(series) {
  let low = Infinity;
  let high = -Infinity;
  let last = 1;
  let first = Infinity;
  for (const { steps, values } of series) {
    for (const v of values) { low = Math.min(low, v); high = Math.max(high, v); }
    first = Math.min(first, steps[0]);
    last = Math.max(last, steps[steps.length - 1]);
  }
  if (!(high >= low)) return { low: 0, high: 1, first: 0, last: 1 };
  if (low >= 0 && low < 0.5 * high) low = 0;
  if (high === low) { const pad = Math.abs(high) * 0.1 || 1; high += pad; low -= low > 0 || low < 0 ? pad : 0; }
  const pad = (high - low) * 0.06;
  return { low: low === 0 ? 0 : low - pad, high: high + pad, first: Math.min(first, last - 1), last };
}

// The configured band of a metric, where one task alone is shown or pointed at.
function bandOf(name, series) {
  const shown = series.map(({ task }) => task).filter((task) => task !== ALL);
  const task = chartState.focus || (shown.length === 1 ? shown[0] : null);
  if (!BANDS[name] || !task || !shown.includes(task)) return null;
  const [field, low, high] = BANDS[name];
  const band = ((DATA.config.tasks || {})[task] || {})[field];
  return Array.isArray(band) && isNumber(band[low]) && isNumber(band[high]) ? [band[low], band[high]] : null;
}

class Chart {
  constructor(curve, title) {
    this.curve = curve;
    this.svg = s("svg", { role: "img", tabindex: 0 });
    this.tip = h("div", { class: "tip", hidden: true, "aria-live": "polite" });
    this.node = h("figure", { class: "chart", style: { margin: "0" }, "data-metric": curve.name },
      h("h3", {}, title), h("p", {}, title === curve.name ? curve.about : `${curve.name}: ${curve.about}`), this.svg, this.tip);
    this.svg.addEventListener("pointermove", (e) => this.pointAt(e.clientX - this.svg.getBoundingClientRect().left));
    this.svg.addEventListener("pointerdown", (e) => this.pointAt(e.clientX - this.svg.getBoundingClientRect().left));
    this.svg.addEventListener("pointerleave", () => this.unpoint());
    this.svg.addEventListener("blur", () => this.unpoint());
    this.svg.addEventListener("keydown", (e) => this.key(e));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  draw() {
    const width = this.svg.clientWidth;
    if (!width) return; // inside a closed <details>
    this.series = visibleSeries(this.curve);
    const { low, high, first, last } = limits(this.series);
    this.x = (step) => PLOT.left + ((width - PLOT.left - PLOT.right) * (step - first)) / (last - first);
    this.y = (v) => PLOT.top + ((PLOT.height - PLOT.top - PLOT.bottom) * (high - v)) / (high - low);
    this.steps = [...new Set(this.series.flatMap((line) => line.steps))].sort((a, b) => a - b);
    const bottom = PLOT.height - PLOT.bottom;
    this.svg.replaceChildren();
    const band = bandOf(this.curve.name, this.series);
    if (band) {
      const top = this.y(Math.min(high, Math.max(low, band[1])));
      const floor = this.y(Math.min(high, Math.max(low, band[0])));
      this.svg.append(s("rect", { class: "band", x: PLOT.left, width: width - PLOT.left - PLOT.right, y: top, height: floor - top }));
    }
    for (const v of ticks(low, high, 4)) {
      this.svg.append(
        s("line", { class: "grid", x1: PLOT.left, x2: width - PLOT.right, y1: this.y(v), y2: this.y(v) }),
        s("text", { x: PLOT.left - 5, y: this.y(v) + 4, "text-anchor": "end" }, format(Number(v.toPrecision(6)))));
    }
    for (const v of ticks(first, last, Math.max(2, Math.floor(width / 90)))) {
      if (Number.isInteger(v)) this.svg.append(s("text", { x: this.x(v), y: bottom + 15, "text-anchor": "middle" }, String(v)));
    }
    for (const line of this.series) this.drawLine(line);
    this.cursor = s("line", { class: "cursor", y1: PLOT.top, y2: bottom, visibility: "hidden" });
    this.svg.append(this.cursor);
    this.svg.setAttribute("aria-label", `${this.curve.name} by step. ` + this.series
      .map(({ task, values }) => `${task === ALL ? "all" : spaced(task)}: ${format(values[0])} to ${format(values[values.length - 1])}`)
      .join("; ") + ". Arrow keys move along the steps.");
  }

  drawLine({ task, steps, values }) {
    const faded = chartState.focus !== null && chartState.focus !== task ? " faded" : "";
    const colour = lineColour(task);
    const group = s("g", { class: `series${task === ALL ? " all" : ""}${faded}`, stroke: colour, "data-task": task });
    const path = values.map((v, i) => `${i ? "L" : "M"}${this.x(steps[i]).toFixed(1)} ${this.y(v).toFixed(1)}`).join("");
    group.append(s("path", { d: path, "stroke-dasharray": lineDash(task) }));
    if (isEvaluation(this.curve.name) || values.length === 1) {
      const errors = this.curve.errors && this.curve.errors[task];
      values.forEach((v, i) => {
        const x = this.x(steps[i]);
        if (errors && isNumber(errors[i])) {
          group.append(s("line", { x1: x, x2: x, y1: this.y(v - errors[i]), y2: this.y(v + errors[i]), "stroke-width": 1, opacity: 0.55 }));
        }
        group.append(s("circle", { cx: x, cy: this.y(v), r: 2.4, fill: colour, stroke: "none" }));
      });
    }
    this.svg.append(group);
  }

  pointAt(pixel) {
    if (!this.steps || !this.steps.length) return;
    let best = 0;
    this.steps.forEach((step, i) => {
      if (Math.abs(this.x(step) - pixel) < Math.abs(this.x(this.steps[best]) - pixel)) best = i;
    });
    this.point(best);
  }

  point(i) {
    this.at = i;
    const step = this.steps[i];
    const x = this.x(step);
    for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, x);
    this.cursor.setAttribute("visibility", "visible");
    const rows = this.series
      .map(({ task, steps, values }) => ({ task, value: values[steps.indexOf(step)] }))
      .filter(({ value }) => isNumber(value))
      .sort((a, b) => b.value - a.value);
    this.tip.replaceChildren(h("b", {}, `step ${format(step, 6)}`), h("table", {}, rows.map(({ task, value }) =>
      h("tr", {},
        h("td", {}, h("span", { class: "swatch", style: { background: lineColour(task) } })),
        h("td", {}, task === ALL ? "all" : spaced(task)), h("td", {}, format(value, 4))))));
    this.tip.hidden = false;
    const width = this.svg.clientWidth;
    const left = x < width / 2 ? x + 22 : x - this.tip.offsetWidth - 2;
    this.tip.style.left = `${Math.max(0, Math.min(left, this.node.clientWidth - this.tip.offsetWidth))}px`;
    const above = this.svg.getBoundingClientRect().top - this.node.getBoundingClientRect().top;
    this.tip.style.top = `${above + 4}px`;
  }

  unpoint() {
    this.tip.hidden = true;
    if (this.cursor) this.cursor.setAttribute("visibility", "hidden");
  }

  key(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") this.unpoint();
    if (move === undefined || !this.steps.length) return;
    event.preventDefault();
    const from = this.at === undefined ? (move > 0 ? -1 : this.steps.length) : this.at;
    this.point(Math.max(0, Math.min(this.steps.length - 1, from + move)));
  }
}

function redraw() {
  for (const chart of chartState.charts) { chart.unpoint(); chart.at = undefined; chart.draw(); }
}

function taskChip(task) {
  const sample = s("svg", { "aria-hidden": "true" },
    s("line", { x1: 0, x2: 22, y1: 5, y2: 5, stroke: lineColour(task), "stroke-width": 3, "stroke-dasharray": lineDash(task) }));
  const focus = (on) => () => { chartState.focus = on ? task : null; redraw(); };
  const chip = h("button", {
    class: "chip", type: "button", "aria-pressed": "true", "data-task": task,
    on: { pointerenter: focus(true), pointerleave: focus(false) },
  }, sample, task === ALL ? "all tasks" : spaced(task));
  chip.addEventListener("click", () => {
    const off = !chartState.off.has(task);
    chartState.off[off ? "add" : "delete"](task);
    chip.setAttribute("aria-pressed", String(!off));
    chartState.focus = null;
    redraw();
  });
  return chip;
}

// Standard errors belong to the chart of what they are errors of.
function joinErrors(curves) {
  const found = Object.fromEntries(curves.map((c) => [c.name, c]));
  const errors = found["eval/accuracy_stderr"];
  if (!errors || !found["eval/accuracy"]) return;
  found["eval/accuracy"].errors = Object.fromEntries(
    Object.entries(errors.series).map(([task, [, values]]) => [task, values]));
}

function showCurves() {
  if (!DATA.curves.length) return void body("curves").append(h("p", {}, "Nothing is logged yet."));
  joinErrors(DATA.curves);
  const tasks = [ALL, ...DATA.tasks];
  const select = h("select", {}, SMOOTHINGS.map((n) =>
    h("option", { value: n, selected: n === chartState.smoothing }, n === 1 ? "none" : `mean over ${n} points`)));
  select.addEventListener("change", () => { chartState.smoothing = Number(select.value); redraw(); });
  const all = (on) => () => {
    chartState.off = new Set(on ? [] : DATA.tasks);
    for (const chip of body("curves").querySelectorAll(".chip")) chip.setAttribute("aria-pressed", String(!chartState.off.has(chip.dataset.task)));
    redraw();
  };
  const names = new Set(FIRST.map(([name]) => name));
  const make = ([curve, title]) => {
    const chart = new Chart(curve, title);
    chartState.charts.push(chart);
    return chart.node;
  };
  const first = FIRST.map(([name, title]) => [DATA.curves.find((c) => c.name === name), title]).filter(([curve]) => curve);
  const rest = DATA.curves.filter((c) => !names.has(c.name)).map((c) => [c, c.name]);
  body("curves").append(
    h("div", { class: "tools chips", role: "group", "aria-label": "Tasks shown" }, tasks.map(taskChip)),
    h("div", { class: "tools" },
      h("button", { type: "button", on: { click: all(true) } }, "Show every task"),
      h("button", { type: "button", on: { click: all(false) } }, "Only the mean"),
      h("label", {}, "Smoothing", select)),
    h("p", { class: "note" }, "Smoothing is the mean of a point and those before it; evaluations are never smoothed (bars: one standard error). ",
      DATA.thinned > 1 ? `The run is long: a point is already the mean of ${DATA.thinned} logged steps. ` : "",
      "Point at a chart, or focus it and use the arrow keys, for values. Point at a task to see it alone, with its configured band of entropy and of length shaded."),
    h("div", { class: "charts" }, first.map(make)),
    rest.length ? h("details", { class: "more" }, h("summary", {}, `${rest.length} more`), h("div", { class: "charts" }, rest.map(make))) : null);
}
