// The browsable sample: one logged row at a time, its picture with boxes, its responses.

const FATES = {
  "trained": "trained on in this step",
  "surplus": "kept by the filter; waits for a later step",
  "all right": "left out: every response right, nothing to learn from",
  "all wrong": "left out: no response right, nothing to learn from",
  "all equal": "left out: every response equally good, nothing to learn from",
};
const PARTS = [
  ["accuracy", 1], ["format", 1], ["structure", 0.5], ["length_reward", 1], ["reward", 1.5],
];
const NEAR_S = 0.6; // a box belongs to a frame that is at most this many seconds away
const view = { rows: [], at: 0, chosen: 0, frame: 0, others: true, order: "sampled" };
const controls = {};

const pictureOf = (file) => (Object.hasOwn(DATA.pictures, file || "") ? DATA.pictures[file] : null);
const videoOf = (row) => (row.media || []).find((m) => m.kind === "video");
const percent = (thousandths) => `${(thousandths / 10).toFixed(2)}%`;

function option(value, text) { return h("option", { value }, text); }

function choices(key) {
  const seen = new Set(DATA.samples.map((row) => row[key]).filter((v) => v !== null));
  return [...seen].sort((a, b) => (isNumber(a) ? a - b : String(a).localeCompare(String(b))));
}

function filterRows() {
  const want = { task: controls.task.value, step: controls.step.value, fate: controls.fate.value };
  const before = view.rows[view.at];
  view.rows = DATA.samples.filter((row) =>
    Object.entries(want).every(([key, value]) => value === "" || String(row[key]) === value));
  view.at = Math.max(0, view.rows.indexOf(before));
  showRow();
  remember();
}

function go(by) {
  const next = view.at + by;
  if (next < 0 || next >= view.rows.length) return;
  view.at = next;
  showRow();
  remember();
}

// The address names the row shown, so that it can be passed on.
function remember() {
  const row = view.rows[view.at];
  if (row) history.replaceState(null, "", `#sample-${DATA.samples.indexOf(row) + 1}`);
}

function showRow() {
  const row = view.rows[view.at];
  controls.count.textContent = row ? `${view.at + 1} of ${view.rows.length}` : "none";
  controls.back.disabled = view.at <= 0;
  controls.on.disabled = view.at >= view.rows.length - 1;
  if (!row) {
    controls.view.replaceChildren(h("p", { class: "note" }, "No logged row matches."));
    return;
  }
  const best = row.responses.reduce((b, r, i) => ((r.reward ?? -1) > (row.responses[b].reward ?? -1) ? i : b), 0);
  view.chosen = best;
  view.frame = startFrame(row);
  const question = h("div", { class: "question" });
  const responses = h("div", { class: "responses" });
  controls.view.replaceChildren(question, responses);
  drawQuestion(row, question);
  drawResponses(row, question, responses);
}

// Left: picture, question, truth.

function startFrame(row) {
  const video = videoOf(row);
  const time = row.shapes && (row.shapes.time ?? (row.shapes.frames && row.shapes.frames[0][0]));
  if (!video || !isNumber(time) || !video.frames.length) return 0;
  const away = video.frames.map((f) => Math.abs(f.time - time));
  return away.indexOf(Math.min(...away));
}

function drawQuestion(row, into) {
  const shown = [];
  if (row.media === null) shown.push(h("div", { class: "nopicture" }, "This run logged no pictures (an older version)."));
  const hasShapes = row.shapes || row.responses.some((r) => r.shapes);
  const drawn = (row.media || []).map((item, i) => drawMedia(row, item, i === 0, row.media.length > 1 && !(hasShapes && i === 0)));
  shown.push(drawn.length > 1 ? h("div", { class: "gallery" }, drawn) : drawn);
  if (hasShapes && (row.media || []).length) shown.push(drawKey(row, into));
  const spans = drawSpans(row);
  if (spans) shown.push(spans);
  shown.push(
    h("div", { class: "block" }, h("h3", {}, "Prompt"), h("div", { class: "text clip" }, row.problem ?? NO_VALUE),
      row.options.length ? h("ul", { class: "options" }, row.options.map((o) => h("li", { class: "text" }, o))) : null),
    h("div", { class: "block right" }, h("h3", {}, "Truth"), h("div", { class: "text clip" }, row.answer ?? NO_VALUE)),
    h("p", { class: "meta" }, facts(row)));
  into.replaceChildren(...shown.flat(Infinity));
}

function facts(row) {
  const born = isNumber(row.born) && row.born !== row.step ? `, sampled at step ${row.born}` : "";
  const told = [
    `step ${row.step}${born}`, row.task && spaced(row.task), row.problem_type && spaced(row.problem_type),
    row.data_type, row.id && `row ${row.id}`, row.prompt_id && `prompt ${row.prompt_id}`, row.where,
    row.fate && (FATES[row.fate] || row.fate),
  ];
  return [...new Set(told.filter(Boolean))].join(" · ");
}

function drawMedia(row, item, first, beside) {
  if (item.kind === "missing") return h("div", { class: "nopicture" }, `No picture: ${item.reason}`);
  const video = item.kind === "video";
  const frame = video ? item.frames[view.frame] : null;
  const source = pictureOf(video ? frame && frame.file : item.file);
  if (!source) return h("div", { class: "nopicture" }, "The picture is not on this page (missing, or over the page's size).");
  const wide = (item.width || 1) / (item.height || 1);
  const label = video ? `Frame at ${format(frame.time)} s of a video` : "Picture of the prompt";
  const image = h("img", { src: source, alt: label, class: Math.max(item.width, item.height) < 200 ? "small" : null });
  // Never taller than 480 px, never wider than the column; one of several pictures is smaller.
  const width = beside ? Math.min(230, 230 * wide) : Math.min(560, 480 * wide);
  const stage = h("div", {
    class: "stage",
    style: { width: `${Math.max(40, width).toFixed(0)}px`, "aspect-ratio": `${item.width || 1} / ${item.height || 1}` },
  }, image);
  if (first) stage.append(overlay(row, frame && frame.time, video ? item : null));
  return video ? [stage, strip(row, item)] : stage;
}

function strip(row, video) {
  return h("div", { class: "strip", role: "group", "aria-label": "Frames" }, video.frames.map((frame, i) =>
    h("button", {
      type: "button", "aria-pressed": String(i === view.frame),
      on: { click: () => { view.frame = i; redrawQuestion(row); } },
    }, h("img", { src: pictureOf(frame.file) || "data:,", alt: "" }), `${format(frame.time)} s`)));
}

function redrawQuestion(row) { drawQuestion(row, controls.view.querySelector(".question")); }

// The box of a set of shapes at a time: the nearest one in `frames`, or the one box there is.
function boxAt(shapes, time, video) {
  if (!shapes) return null;
  if (shapes.frames && isNumber(time)) {
    const nearest = shapes.frames.reduce((a, b) => (Math.abs(b[0] - time) < Math.abs(a[0] - time) ? b : a));
    return Math.abs(nearest[0] - time) <= NEAR_S ? nearest.slice(1) : null;
  }
  return shapes.box && onFrame(shapes, time, video) ? shapes.box : null;
}

// Whether shapes that name a moment belong on this frame: the shown frame nearest to it.
function onFrame(shapes, time, video) {
  if (!video || !isNumber(shapes.time)) return true;
  return video.frames.every((f) => Math.abs(f.time - shapes.time) >= Math.abs(time - shapes.time));
}

// The drawn form of shapes on one frame. halo: a wide white line below it, to part it from the
// picture; drawn for all before any line, so that equal boxes show both colours.
function mark(shapes, time, video, { kind, name, halo = false, faint = false }) {
  const out = [];
  const style = halo ? "halo" : faint ? `${kind} other` : kind;
  const width = halo ? 6 : faint ? 1.5 : 3;
  const dash = kind === "guess" && !halo;
  const box = boxAt(shapes, time, video);
  if (box) {
    const [left, right] = [Math.min(box[0], box[2]), Math.max(box[0], box[2])];
    const [top, bottom] = [Math.min(box[1], box[3]), Math.max(box[1], box[3])];
    out.push(s("rect", {
      x: percent(left), y: percent(top), width: percent(right - left), height: percent(bottom - top),
      class: style, "data-name": name, "stroke-width": width, "stroke-dasharray": dash ? "8 5" : null,
    }));
    if (!halo && !faint) {
      const above = kind === "truth";
      const y = above ? Math.max(top, 40) : Math.min(bottom, 960);
      out.push(s("text", { x: percent(Math.max(5, Math.min(left, 900))), y: percent(y), dx: 3, dy: above ? -4 : 14, class: kind }, name));
    }
  }
  if (shapes && shapes.points && onFrame(shapes, time, video)) {
    for (const [x, y, sign] of shapes.points) {
      // On the object: filled; beside it: hollow. Predicted points are larger and open to the
      // true ones below them.
      out.push(s("circle", {
        cx: percent(x), cy: percent(y), r: kind === "truth" ? 4 : 8, class: style, "data-name": name,
        "stroke-width": halo ? 5 : 2, fill: !halo && sign > 0 ? `var(--${kind})` : "none",
        "fill-opacity": kind === "truth" ? 1 : 0.35, "stroke-dasharray": dash ? "4 2" : null,
      }));
    }
  }
  return out;
}

function overlay(row, time, video) {
  const svg = s("svg", { "aria-hidden": "true" });
  const draw = (shapes, how) => svg.append(...mark(shapes, time, video, how));
  row.responses.forEach((r, i) => {
    if (i !== view.chosen && view.others) draw(r.shapes, { kind: "guess", name: `#${i + 1}`, faint: true });
  });
  const truth = { kind: "truth", name: "truth" };
  const guess = { kind: "guess", name: `#${view.chosen + 1}` };
  const chosen = row.responses[view.chosen];
  const guessed = chosen ? chosen.shapes : null;
  draw(row.shapes, { ...truth, halo: true });
  draw(guessed, { ...guess, halo: true });
  draw(row.shapes, truth);
  draw(guessed, guess);
  return svg;
}

function drawKey(row) {
  const others = h("input", { type: "checkbox", checked: view.others });
  others.addEventListener("change", () => { view.others = others.checked; redrawQuestion(row); });
  return h("div", { class: "key" },
    h("span", {}, h("i", { style: { "border-color": "var(--truth)" } }), "truth"),
    h("span", {}, h("i", { class: "dash", style: { "border-color": "var(--guess)" } }), `response #${view.chosen + 1}`),
    h("label", {}, others, " the other responses"),
    row.media.length > 1 ? h("span", {}, "drawn on the first picture") : null);
}

// Spans of time: the truth and every response on one axis.
function drawSpans(row) {
  const lines = [["truth", row.shapes], ...row.responses.map((r, i) => [`#${i + 1}`, r.shapes])]
    .filter(([, shapes]) => shapes && shapes.span);
  if (!lines.length) return null;
  const video = videoOf(row);
  const end = Math.max(1, ...lines.map(([, shapes]) => shapes.span[1]), ...(video ? video.frames.map((f) => f.time) : []));
  const width = 520;
  const x = (t) => 44 + ((width - 54) * Math.max(0, Math.min(t, end))) / end;
  const height = 14 * lines.length + 18;
  return s("svg", { class: "spans", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Spans of time" },
    lines.map(([name, { span }], i) => [
      s("text", { x: 0, y: 14 * i + 11 }, name),
      s("rect", { x: x(span[0]), y: 14 * i + 3, height: 9, width: Math.max(2, x(span[1]) - x(span[0])), fill: name === "truth" ? "var(--truth)" : "var(--guess)", opacity: name === "truth" || name === `#${view.chosen + 1}` ? 1 : 0.5 }),
    ]),
    [0, end / 2, end].map((t) => s("text", { x: x(t), y: height - 2, "text-anchor": t === end ? "end" : t ? "middle" : "start" }, `${format(t)} s`)));
}

// Right: the responses.

function drawResponses(row, question, into) {
  const order = row.responses.map((_, i) => i);
  if (view.order === "reward") order.sort((a, b) => (row.responses[b].reward ?? -1) - (row.responses[a].reward ?? -1));
  const largest = Math.max(1.5, ...row.responses.map((r) => Math.abs(r.advantage ?? 0)));
  const cards = order.map((i) => card(row, i, largest, () => {
    view.chosen = i;
    for (const node of into.querySelectorAll(".response")) {
      const own = node.dataset.response === String(i);
      node.classList.toggle("chosen", own);
      node.querySelector(".number").setAttribute("aria-pressed", String(own));
    }
    drawQuestion(row, question);
  }));
  into.replaceChildren(...cards);
  if (row.more_responses) into.append(h("p", { class: "note" }, `${row.more_responses} more responses are not on this page.`));
}

function card(row, i, largest, choose) {
  const response = row.responses[i];
  const chosen = i === view.chosen;
  const number = h("button", {
    class: "number", type: "button", "aria-pressed": String(chosen),
    title: "Show this response on the picture", on: { click: choose },
  }, `#${i + 1}`);
  const node = h("article", { class: chosen ? "response chosen" : "response", "data-response": i },
    h("header", {}, number, advantage(row, response, largest),
      isNumber(response.tokens) ? h("span", { class: "badge" }, `${response.tokens} token${response.tokens === 1 ? "" : "s"}`) : null,
      response.truncated ? h("span", { class: "badge warn" }, "cut off at the token limit") : null,
      response.failure ? h("span", { class: "badge warn", title: DATA.meanings[response.failure] || null }, `failed: ${spaced(response.failure)}`) : null),
    parts(row, response),
    h("div", { class: "clip text" }, response.segments.length ? response.segments.map(segment) : h("span", { class: "note" }, "(empty)")));
  node.addEventListener("click", (event) => { if (!event.target.closest("button")) choose(); });
  return node;
}

function segment([kind, text]) {
  const short = text.length < 60 && !text.includes("\n") ? " short" : "";
  if (kind === "thinking") return h("div", { class: `thinking${short}`, title: "thinking" }, text);
  if (kind === "answer") return h("div", { class: `reply${short}`, title: "answer" }, text);
  if (kind === "tag") return h("span", { class: "tag" }, text);
  return h("span", {}, text);
}

function advantage(row, response, largest) {
  const value = response.advantage;
  if (!isNumber(value)) {
    const why = row.fate === null ? "not logged" : row.fate === "surplus" ? "none yet: surplus" : `none: ${row.fate}`;
    return h("span", { class: "advantage note" }, `advantage ${why}`);
  }
  const end = 50 + (50 * value) / largest;
  return h("span", { class: "advantage" }, "advantage",
    s("svg", { viewBox: "0 0 100 14", preserveAspectRatio: "none", "aria-hidden": "true" },
      s("rect", { x: 0, y: 5, width: 100, height: 4, fill: "var(--fill)" }),
      s("rect", { x: Math.min(50, end), y: 2, width: Math.abs(end - 50), height: 10, fill: value > 0 ? "var(--good)" : "var(--bad)" }),
      s("line", { x1: 50, x2: 50, y1: 0, y2: 14, stroke: "var(--soft)" })),
    h("b", { class: value > 0 ? "up" : value < 0 ? "down" : null }, signed(value, 2)));
}

function parts(row, response) {
  const counts = (name) => isNumber(response[name]) && (name !== "length_reward" || row.length_weight !== 0);
  return h("dl", { class: "parts" }, PARTS.filter(([name]) => counts(name)).map(([name, most]) =>
    h("div", {}, h("dt", {}, spaced(name)), h("dd", {}, format(response[name])),
      s("svg", { viewBox: "0 0 100 5", preserveAspectRatio: "none", "aria-hidden": "true" },
        s("rect", { x: 0, y: 0, height: 5, width: 100 * Math.max(0, Math.min(1, response[name] / most)), fill: "var(--accent)" })))));
}

function showRollouts() {
  const notes = DATA.sample_notes.map((n) => h("p", { class: "note" }, n));
  if (!DATA.samples.length) return void body("rollouts").append(...notes);
  const select = (name, label, list, words) => {
    controls[name] = h("select", { "data-filter": name, on: { change: filterRows } }, option("", "all"), list.map((v) => option(String(v), words(v))));
    return h("label", {}, label, controls[name]);
  };
  const order = h("select", {}, option("sampled", "as sampled"), option("reward", "by reward"));
  order.addEventListener("change", () => { view.order = order.value; showRow(); });
  controls.back = h("button", { type: "button", title: "or the left arrow key", on: { click: () => go(-1) } }, "← Previous");
  controls.on = h("button", { type: "button", title: "or the right arrow key", on: { click: () => go(1) } }, "Next →");
  controls.count = h("span", { class: "note", role: "status" });
  controls.view = h("div", { class: "viewer" });
  body("rollouts").append(
    h("div", { class: "tools" },
      select("task", "Task", choices("task"), spaced), select("step", "Step", choices("step"), String),
      select("fate", "What became of it", choices("fate"), String), h("label", {}, "Responses", order)),
    h("div", { class: "tools" }, controls.back, controls.on, controls.count),
    controls.view, ...notes);
  document.getElementById("rollouts").addEventListener("keydown", (event) => {
    if (["SELECT", "INPUT"].includes(event.target.tagName)) return;
    if (event.key === "ArrowLeft") go(-1);
    if (event.key === "ArrowRight") go(1);
  });
  view.rows = DATA.samples;
  const asked = /^#sample-(\d+)$/.exec(location.hash);
  view.at = asked ? Math.min(view.rows.length, Math.max(1, Number(asked[1]))) - 1 : 0;
  showRow();
  if (asked) document.getElementById("rollouts").scrollIntoView();
}
