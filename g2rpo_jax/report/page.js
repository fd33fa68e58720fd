"use strict";
// Helpers, and the sections that are tables: header, outcome, counts, configuration.
// Text of the run reaches the page through textContent and attributes alone, never as HTML.

window.addEventListener("error", (event) => {
  document.documentElement.dataset.error = String(event.message);
});

const DATA = JSON.parse(document.getElementById("data").textContent);
const ALL = ""; // the key of a curve over all tasks
const NO_VALUE = "–";

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [type, f] of Object.entries(value)) node.addEventListener(type, f);
    else if (name === "style") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}
const h = (tag, properties, ...children) =>
  fill(document.createElement(tag), properties, children);
const s = (tag, properties, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);

const body = (id) => document.querySelector(`#${id} > .body`);
const spaced = (name) => name.replaceAll("_", " ");
const isNumber = (v) => typeof v === "number" && Number.isFinite(v);

function format(value, digits = 3) {
  if (!isNumber(value)) return NO_VALUE;
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(size >= 100 ? 4 : digits)));
}
const fixed = (value, digits = 3) => (isNumber(value) ? value.toFixed(digits) : NO_VALUE);
const signed = (value, digits = 3) =>
  isNumber(value) ? (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits) : NO_VALUE;

// Phases of a run that took at least a hundredth of it, most first.
function spent(phases) {
  const found = Object.entries(phases || {}).filter(([, took]) => isNumber(took));
  const total = found.reduce((sum, [, took]) => sum + took, 0);
  return found.filter(([, took]) => took > total / 100).sort((a, b) => b[1] - a[1])
    .map(([phase, took]) => `${phase} ${Math.round((100 * took) / total)}%`).join(", ");
}

function duration(seconds) {
  if (!isNumber(seconds)) return null;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(1)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

// The rest of a line of the run's description that starts with `word`.
function described(word) {
  const line = DATA.description.split("\n").find((l) => l.startsWith(word + " "));
  return line ? line.slice(word.length).trim() : null;
}

function showHeader() {
  const standing = DATA.standing;
  document.getElementById("name").textContent = DATA.name;
  const states = {
    finished: "finished",
    stopped: "stopped; --resume goes on",
    unfinished: "still running, or killed",
  };
  document.getElementById("state").textContent = states[standing.state];
  const compile = standing.compile || {};
  const config = DATA.config;
  const facts = [
    ["Steps", standing.planned ? `${standing.step} of ${standing.planned}` : standing.step],
    ["Time", duration(standing.seconds)],
    ["Of that", spent(standing.phases)],
    ["Devices", described("devices")],
    ["Model", described("model") || (config.model || {}).directory],
    ["Method", config.advantage && `${config.advantage.name}, loss ${(config.objective || {}).name}`],
    ["Step", config.batch && `${config.batch.prompts} prompts × ${config.responses} responses`],
    ["Compiled", compile.count && `${compile.count} programs, ${duration(compile.seconds)}`],
    ["Last written", standing.state === "unfinished" ? standing.last_written : null],
  ];
  for (const [name, value] of facts) {
    if (value === null || value === undefined || value === "") continue;
    document.getElementById("facts").append(h("div", {}, h("dt", {}, name), h("dd", {}, String(value))));
  }
}

function showOutcome() {
  const { rows, note } = DATA.outcome;
  if (!rows.length) return void body("outcome").append(h("p", {}, note));
  const cell = (value, error) =>
    h("td", {}, fixed(value), error && h("span", { class: "error" }, ` ±${fixed(error)}`));
  const change = (row) => {
    const by = isNumber(row.before) && isNumber(row.after) ? row.after - row.before : null;
    return h("td", { class: by > 0 ? "up" : by < 0 ? "down" : null }, signed(by));
  };
  const ends = rows.flatMap((r) => [
    r.before - r.before_error, r.before + r.before_error, r.after - r.after_error, r.after + r.after_error,
  ]).filter((v) => Number.isFinite(v));
  const low = Math.max(0, Math.floor(Math.min(...ends, 1) * 10) / 10);
  const high = Math.min(1, Math.ceil(Math.max(...ends, low + 0.1) * 10) / 10);
  const at = (v) => `${(2 + (96 * (v - low)) / (high - low)).toFixed(2)}%`;
  const whisker = (value, error, y, colour, full) =>
    isNumber(value) && [
      s("line", { x1: at(Math.max(low, value - error)), x2: at(Math.min(high, value + error)), y1: y, y2: y, stroke: colour, "stroke-width": 2 }),
      s("circle", { cx: at(value), cy: y, r: 4.5, fill: full ? colour : "var(--card)", stroke: colour, "stroke-width": 2 }),
    ];
  const plot = (row) =>
    h("td", { class: "plot" }, s("svg", { "aria-hidden": "true" },
      [low, (low + high) / 2, high].map((v) => s("line", { x1: at(v), x2: at(v), y1: 0, y2: 26, stroke: "var(--line)" })),
      whisker(row.before, row.before_error || 0, 8, "var(--soft)", false),
      whisker(row.after, row.after_error || 0, 18, "var(--good)", true)));
  const columns = ["Held-out accuracy", "Before", "After", "Change"];
  const scale = `Before ○ and after ●, from ${format(low)} to ${format(high)}`;
  body("outcome").append(
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Outcome table" },
      h("table", { class: "outcome" },
        h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col" }, c)), h("th", { scope: "col", class: "plot" }, scale))),
        h("tbody", {}, rows.map((row) =>
          h("tr", { class: row.task === "mean" ? "mean" : null },
            h("th", { scope: "row" }, spaced(row.task)),
            cell(row.before, row.before_error), cell(row.after, row.after_error),
            change(row), plot(row)))))),
    h("p", { class: "note" }, note));
}

function showProblems() {
  const list = (counts, meaning) => h("table", { class: "counts" }, counts.map(([kind, count]) =>
    h("tr", {}, h("td", {}, count.toLocaleString("en")),
      h("td", {}, h("b", {}, kind), meaning[kind] ? ` – ${meaning[kind]}` : ""))));
  const table = (title, total, counts, none, meaning, ...more) => h("div", {},
    h("h3", {}, title, isNumber(total) ? `: ${total.toLocaleString("en")}` : ""),
    counts.length
      ? list(counts, meaning)
      : h("p", { class: "note" }, total > 0 ? "By kind: not recorded yet (a checkpoint or the end of the run tells)." : none),
    ...more);
  const files = DATA.skipped_files.length ? h("details", {}, h("summary", {}, "By file"), list(DATA.skipped_files, {})) : null;
  const first = DATA.skipped_first.length
    ? h("details", {}, h("summary", {}, `The first ${DATA.skipped_first.length}, in words`), h("pre", {}, DATA.skipped_first.join("\n")))
    : null;
  body("problems").append(h("div", { class: "pair" },
    table("Rows skipped", DATA.skipped_total, DATA.skipped, "No row was skipped.", {}, files, first),
    table("Responses whose answer could not be read or scored", DATA.failures_total, DATA.failures,
      "Every response could be read and scored.", DATA.meanings)));
}

function showConfig() {
  const filter = h("input", { type: "search", placeholder: "Search fields and values", "aria-label": "Search the configuration" });
  const changedOnly = h("input", { type: "checkbox" });
  const tree = h("div", { class: "tree" });
  const leaves = [];
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const grow = (node, value, usual, path) => {
    for (const [name, item] of Object.entries(value)) {
      const where = path ? `${path}.${name}` : name;
      const other = usual && typeof usual === "object" ? usual[name] : undefined;
      if (item && typeof item === "object" && !Array.isArray(item)) {
        const inside = h("div", {});
        node.append(h("details", {}, h("summary", {}, name), inside));
        grow(inside, item, other, where);
        continue;
      }
      const changed = DATA.defaults && !same(item, other);
      const was = changed && (other === undefined ? "no such default" : `default ${JSON.stringify(other)}`);
      const leaf = h("div", { class: changed ? "field changed" : "field" },
        `${name} = ${JSON.stringify(item)}`, was && h("span", { class: "was" }, `  (${was})`));
      leaves.push({ leaf, changed, text: `${where} ${JSON.stringify(item)}`.toLowerCase() });
      node.append(leaf);
    }
  };
  grow(tree, DATA.config, DATA.defaults, "");
  const found = h("span", { class: "note", role: "status" });
  const update = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { leaf, changed, text } of leaves) {
      leaf.hidden = (changedOnly.checked && !changed) || !words.every((w) => text.includes(w));
      count += !leaf.hidden;
    }
    const narrowed = words.length > 0 || changedOnly.checked;
    for (const part of [...tree.querySelectorAll("details")].reverse()) {
      part.hidden = narrowed && !part.querySelector(".field:not([hidden])");
      part.open = narrowed && !part.hidden;
    }
    found.textContent = narrowed ? `${count} of ${leaves.length} fields` : `${leaves.length} fields`;
  };
  filter.addEventListener("input", update);
  changedOnly.addEventListener("change", update);
  if (!leaves.length) return void body("config").append(h("p", {}, "The run has no config.json."));
  body("config").append(
    h("div", { class: "tools" }, filter,
      DATA.defaults && h("label", {}, changedOnly, "only what differs from the defaults"), found),
    tree,
    DATA.description && h("details", { class: "more" }, h("summary", {}, "What the run said at its start"), h("pre", {}, DATA.description)));
  update();
}

function showFoot() {
  document.getElementById("foot").append(
    h("p", {}, `Written ${DATA.written} (UTC) by python launch/report.py. One file; it loads nothing from anywhere.`));
}
