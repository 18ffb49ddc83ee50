(() => {
"use strict";

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else made[key] = value;
  }
  made.append(...children); // strings become text, never markup
  return made;
}

// --- light and dark -------------------------------------------------------------------------------------------------

const root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
const onTheme = [];
const themeButton = $("#theme");

function showTheme() {
  themeButton.textContent = isDark() ? "Light" : "Dark";
  for (const listener of onTheme) listener();
}
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
prefersDark.addEventListener("change", showTheme);

// --- tables that sort -----------------------------------------------------------------------------------------------

for (const table of $$("table.sortable")) {
  const heads = $$("thead th", table);
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = element("button", { type: "button", class: "sort" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const isNumber = head.classList.contains("n");
      const next = head.ariaSort === (isNumber ? "descending" : "ascending");
      const direction = next === isNumber ? 1 : -1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      const value = (row) => {
        const cell = row.cells[column];
        return "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent.trim();
      };
      const body = table.tBodies[0];
      const compare = (a, b) =>
        typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
      const rows = [...body.rows].sort((a, b) => direction * compare(value(a), value(b)));
      body.append(...rows);
    });
  });
}

// --- on paper everything is open ------------------------------------------------------------------------------------

let closed = [];
addEventListener("beforeprint", () => {
  closed = $$("details:not([open])");
  for (const part of closed) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of closed) part.open = false;
  closed = [];
});

// --- the data of the maps -------------------------------------------------------------------------------------------

const script = $("#payload");
if (!script || !window.Bokeh) {
  showTheme();
  return;
}
const payload = JSON.parse(script.textContent);
const types = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };

function unpack(packed) {
  if (!packed) return null;
  const bytes = Uint8Array.from(atob(packed.bytes), (character) => character.charCodeAt(0));
  return new types[packed.type](bytes.buffer);
}

const n = payload.n;
const index = unpack(payload.index);
const labels = payload.labels && { ...payload.labels, codes: unpack(payload.labels.codes) };
const columns = payload.columns.map((column) => {
  const values = unpack(column.values);
  return { ...column, values: column.offset ? Float64Array.from(values, (value) => value + column.offset) : values };
});
const runs = payload.runs.map((run) => ({
  ...run,
  ...Object.fromEntries(["x", "y", "cluster", "distance", "margin", "confidence"].map((key) => [key, unpack(run[key])])),
}));

// Runs whose data were not at hand have no map.
const runOf = (number) => runs.find((run) => run.number === Number(number));
const rowName = (row) => (payload.ids ? payload.ids[row] : String(index[row]));
const clusterName = (run, cluster) => `${cluster}${run.names[cluster] ? ` · ${run.names[cluster]}` : ""}`;

// Four significant digits, and at least so many decimals; as format_number does for the cards.
function number(value, decimals = 0) {
  if (!Number.isFinite(value)) return "missing";
  const magnitude = Math.abs(value);
  if (magnitude === 0 || magnitude < 1e-4 || magnitude >= 1e15) return String(Number(value.toPrecision(4)));
  const digits = Math.max(decimals, 3 - Math.floor(Math.log10(magnitude)), 0);
  const rounded = Number(value.toFixed(digits)) + 0; // no minus before a zero
  return rounded.toLocaleString("en", { maximumFractionDigits: digits, useGrouping: Math.abs(rounded) >= 10000 });
}

function cell(column, row) {
  const value = column.values[row];
  if (column.kind === "category") return column.levels[value] ?? "missing";
  if (!Number.isFinite(value)) return "missing";
  if (column.kind === "date") return new Date(value * 86400000).toISOString().slice(0, 10);
  return number(value, column.decimals);
}

// --- colors ---------------------------------------------------------------------------------------------------------

const ramp = ["#46327e", "#3f5f9b", "#2f8b9a", "#3bb182", "#8fce4e", "#f2d02c"];
const missingColor = "#a0a7b1";

function mix(one, other, share) {
  const part = (color, at) => parseInt(color.slice(at, at + 2), 16);
  const mixed = [1, 3, 5].map((at) => Math.round(part(one, at) * (1 - share) + part(other, at) * share));
  return "#" + mixed.map((value) => value.toString(16).padStart(2, "0")).join("");
}
const steps = Array.from({ length: 64 }, (_, step) => {
  const at = (step / 63) * (ramp.length - 1);
  const low = Math.min(Math.floor(at), ramp.length - 2);
  return mix(ramp[low], ramp[low + 1], at - low);
});
const token = (name) => getComputedStyle(root).getPropertyValue(name).trim();

// What the rows are colored by: groups with names and counts, or numbers from low to high.
function coloring(run, choice) {
  if (choice === "cluster")
    return { groups: run.cluster, names: run.names.map((_, k) => clusterName(run, k)), colors: run.colors, counts: run.sizes };
  if (choice === "label") return { groups: labels.codes, ...labels };
  if (choice.startsWith("column:")) {
    const column = columns[Number(choice.slice(7))];
    if (column.kind === "category") {
      const rest = column.missing ? [["missing"], [missingColor]] : [[], []];
      return { groups: column.values, names: [...column.levels, ...rest[0]], colors: [...column.colors, ...rest[1]] };
    }
    return { numbers: column.values, text: (value) => cell({ ...column, values: [value] }, 0), clip: true };
  }
  if (choice === "confidence" && run.confidence) return { numbers: Float32Array.from(run.confidence, (value) => value / 255), low: 0, high: 1, text: number };
  const values = run[choice];
  if (!values) return { groups: new Uint8Array(n), names: ["not defined for one cluster"], colors: [missingColor], counts: run.sizes };
  return { numbers: values, text: number };
}

function limits(found) {
  if (found.low !== undefined) return [found.low, found.high];
  const sorted = Float64Array.from(found.numbers).filter(Number.isFinite).sort();
  if (!sorted.length) return [0, 1];
  // A few far values would leave one color for all others.
  const cut = found.clip ? Math.floor(sorted.length * 0.01) : 0;
  return [sorted[cut], sorted[sorted.length - 1 - cut]];
}

function colorsOf(run, found, focus) {
  const faded = token("--faded");
  if (found.groups)
    return Array.from(found.groups, (group) => (focus !== null && group !== focus ? faded : found.colors[group] ?? faded));
  const [low, high] = limits(found);
  const scale = high > low ? 63 / (high - low) : 0;
  return Array.from(found.numbers, (value) =>
    Number.isFinite(value) ? steps[Math.max(0, Math.min(63, Math.round((value - low) * scale)))] : faded);
}

// --- a row in words -------------------------------------------------------------------------------------------------

function thumbnail(row) {
  const { n_columns, step_x, step_y, width, height } = payload.sprite;
  const factor = Math.max(1, 64 / Math.max(width, height));
  const lines = Math.ceil(payload.sprite.n_images / n_columns);
  const made = element("span", { class: "thumb" });
  Object.assign(made.style, {
    width: `${width * factor}px`,
    height: `${height * factor}px`,
    backgroundSize: `${n_columns * step_x * factor}px ${lines * step_y * factor}px`,
    backgroundPosition: `${-(row % n_columns) * step_x * factor}px ${-Math.floor(row / n_columns) * step_y * factor}px`,
  });
  return made;
}

function record(row, run, limit) {
  const made = element("div", { class: "record" });
  made.append(element("h6", { dir: "auto" }, `${payload.ids ? "" : "row "}${rowName(row)}`));
  if (payload.sprite) made.append(thumbnail(row));
  if (payload.texts) made.append(element("p", { class: "text", dir: "auto" }, payload.texts[row]));
  const table = element("table");
  const line = (name, value, color) => {
    const data = element("td");
    if (color) {
      const swatch = element("span", { class: "swatch" });
      swatch.style.background = color;
      data.append(swatch);
    }
    data.append(element("bdi", {}, value));
    table.append(element("tr", {}, element("th", { scope: "row" }, name), data));
  };
  for (const one of limit ? [run] : runs) {
    const cluster = one.cluster[row];
    const where = runs.length > 1 ? ` in ${one.title.slice(0, 1)}` : "";
    line(`cluster${where}`, clusterName(one, cluster), one.colors[cluster]);
    if (one.confidence) line(`confidence${where}`, (one.confidence[row] / 255).toFixed(2));
  }
  if (labels) line("label", labels.names[labels.codes[row]]);
  const chosen = choice.startsWith("column:") ? Number(choice.slice(7)) : -1;
  const listed = columns.map((column, i) => i).filter((i) => !limit || i < limit || i === chosen);
  for (const i of listed) line(columns[i].name, cell(columns[i], row));
  if (columns.length > listed.length) line("…", `${columns.length - listed.length} more: click`);
  made.append(table);
  return made;
}

// --- the maps -------------------------------------------------------------------------------------------------------

let choice = "cluster";
let focus = null; // a group, in the coloring by cluster of focusRun or by groups that all runs share
let pinned = null;
const tip = $("#tip");
const details = $("#details");
const size = n > 6000 ? 4 : n > 2000 ? 5 : n > 400 ? 6 : 8;
const maps = [];

function pin(row, run) {
  pinned = row;
  details.replaceChildren(record(row, run, 0));
  for (const map of maps) map.mark.data = { x: [map.run.x[row]], y: [map.run.y[row]] };
}

function makeMap(run, place) {
  const { figure } = Bokeh.Plotting;
  const plot = figure({
    sizing_mode: "stretch_both", toolbar_location: null, tools: [],
    x_axis_type: null, y_axis_type: null, outline_line_color: null,
    background_fill_color: null, border_fill_color: null, min_border: 6, lod_threshold: null,
  });
  plot.xgrid.visible = false;
  plot.ygrid.visible = false;
  const source = new Bokeh.ColumnDataSource({ data: { x: run.x, y: run.y, color: colorsOf(run, coloring(run, choice), null) } });
  const points = plot.scatter({ field: "x" }, { field: "y" }, {
    source, size, fill_color: { field: "color" }, line_color: null, fill_alpha: 0.85,
    nonselection_fill_alpha: 0.85,
  });
  const mark = new Bokeh.ColumnDataSource({ data: { x: [], y: [] } });
  plot.scatter({ field: "x" }, { field: "y" }, { source: mark, size: size + 10, fill_color: null, line_color: "#e11d48", line_width: 2.5 });
  const shown = run.places.map((position, k) => [position, k]).filter(([position]) => position);
  const numbers = new Bokeh.ColumnDataSource({
    data: { x: shown.map(([p]) => p[0]), y: shown.map(([p]) => p[1]), text: shown.map(([, k]) => String(k)) },
  });
  const text = plot.text({ field: "x" }, { field: "y" }, { field: "text" }, {
    source: numbers, text_align: "center", text_baseline: "middle",
    text_font: "sans-serif", text_font_size: shown.length > 40 ? "12px" : "16px", text_font_style: "bold",
    text_color: "#111", text_outline_color: "#fff",
  });
  const map = { run, source, mark, plot, text, place };
  const hover = new Bokeh.HoverTool({
    renderers: [points], tooltips: null, mode: "mouse",
    callback: { execute: (_, { index: found }) => showTip(map, found.indices) },
  });
  const tap = new Bokeh.TapTool({
    renderers: [points], behavior: "inspect",
    callback: { execute: (_, { source: hit }) => { const rows = hit.inspected.indices; if (rows.length) pin(rows[0], run); } },
  });
  map.wheel = new Bokeh.WheelZoomTool({ modifiers: { ctrl: true } });
  plot.add_tools(new Bokeh.PanTool(), map.wheel, tap, hover);
  plot.toolbar.active_scroll = map.wheel;
  place.hidden = false;
  Bokeh.Plotting.show(plot, place);

  let pointer = [0, 0];
  place.addEventListener("pointermove", (event) => { pointer = [event.clientX, event.clientY]; moveTip(pointer); }, true);
  place.addEventListener("pointerdown", () => { map.wheel.modifiers = {}; }, true);
  place.addEventListener("pointerleave", () => { map.wheel.modifiers = { ctrl: true }; tip.hidden = true; });
  place.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (event.key in moves) move(map, ...moves[event.key]);
    else if (event.key === "+" || event.key === "=") zoom(map, 0.7);
    else if (event.key === "-") zoom(map, 1 / 0.7);
    else if (event.key === "0") all(map);
    else return;
    event.preventDefault();
  });
  const buttons = $(".zoom", place.parentElement);
  buttons.hidden = false;
  buttons.addEventListener("click", (event) => {
    const action = event.target.dataset.zoom;
    if (action === "in") zoom(map, 0.6);
    if (action === "out") zoom(map, 1 / 0.6);
    if (action === "all") all(map);
  });
  return map;
}

function ranges(map) {
  return [map.plot.x_range, map.plot.y_range];
}
function zoom(map, factor) {
  for (const range of ranges(map)) {
    const [middle, half] = [(range.start + range.end) / 2, (factor * (range.end - range.start)) / 2];
    range.setv({ start: middle - half, end: middle + half });
  }
}
function move(map, x, y) {
  ranges(map).forEach((range, axis) => {
    const step = 0.15 * (range.end - range.start) * (axis ? y : x);
    range.setv({ start: range.start + step, end: range.end + step });
  });
}
function all(map) {
  map.plot.reset.emit();
}

function moveTip([x, y]) {
  if (tip.hidden) return;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 18 + width > innerWidth ? x - width - 14 : x + 18;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - height - 8))}px`;
  map_pointer = [x, y];
}
let map_pointer = [0, 0];

function showTip(map, rows) {
  if (!rows || !rows.length) {
    tip.hidden = true;
    return;
  }
  tip.replaceChildren(record(rows[0], map.run, 8));
  if (rows.length > 1) tip.append(element("p", { class: "hint" }, `and ${rows.length - 1} more here`));
  tip.dataset.row = rowName(rows[0]);
  tip.hidden = false;
  moveTip(map_pointer);
  if (maps.length > 1) for (const other of maps) other.mark.data = { x: [other.run.x[rows[0]]], y: [other.run.y[rows[0]]] };
}
addEventListener("pointermove", (event) => { map_pointer = [event.clientX, event.clientY]; }, true);

function recolor() {
  for (const map of maps) {
    const own = focus && choice === "cluster" && focus.run !== map.run ? null : focus && focus.group;
    map.source.data = { ...map.source.data, color: colorsOf(map.run, coloring(map.run, choice), own ?? null) };
    map.place.dataset.choice = choice;
    map.place.dataset.color = map.source.data.color[0];
  }
}

function legend() {
  const box = $("#legend");
  box.replaceChildren();
  // What each run has of its own; labels and columns are those of all.
  const lists = ["cluster", "confidence", "margin", "distance"].includes(choice) ? runs : [runs[0]];
  for (const run of lists) {
    const found = coloring(run, choice);
    if (found.groups && !found.counts && n < payload.n_rows)
      box.append(element("div", { class: "soft" }, `of the ${n.toLocaleString("en")} rows shown`));
    if (lists.length > 1) box.append(element("div", { class: "soft" }, run.title));
    if (found.groups) {
      const counts = found.counts ?? found.groups.reduce((sum, group) => ((sum[group] = (sum[group] ?? 0) + 1), sum), []);
      found.names.forEach((name, group) => {
        const swatch = element("span", { class: "swatch" });
        swatch.style.background = found.colors[group];
        const count = element("span", { class: "count" }, (counts[group] ?? 0).toLocaleString("en"));
        const button = element("button", { type: "button" }, swatch, element("span", { class: "name" }, name), count);
        button.setAttribute("aria-pressed", String(Boolean(focus) && focus.group === group && (lists.length === 1 || focus.run === run)));
        button.addEventListener("click", () => {
          const isOn = button.getAttribute("aria-pressed") === "true";
          setFocus(isOn ? null : { group, run });
        });
        box.append(button);
      });
    } else {
      const [low, high] = limits(found);
      const bar = element("div", { class: "ramp" });
      bar.style.background = `linear-gradient(to right, ${ramp.join(", ")})`;
      const ends = element("div", { class: "ends" }, element("span", {}, found.text(low)), element("span", {}, found.text(high)));
      box.append(bar, ends);
      const missing = found.numbers.reduce((sum, value) => sum + !Number.isFinite(value), 0);
      if (missing) box.append(element("div", { class: "soft" }, `${missing.toLocaleString("en")} missing`));
    }
  }
}

function setFocus(next) {
  focus = next;
  recolor();
  legend();
}

function showColors() {
  for (const { text } of maps) {
    text.glyph.text_color = isDark() ? "#f4f6f8" : "#15191f";
    text.glyph.text_outline_color = isDark() ? "#191f27" : "#ffffff";
  }
  recolor();
}

$(".controls").hidden = false;
$(".side").hidden = false;
for (const run of runs) maps.push(makeMap(run, $(`.canvas[data-run="${run.number}"]`)));
onTheme.push(showColors);
showTheme();
legend();

$("#color").addEventListener("change", (event) => {
  choice = event.target.value;
  setFocus(null);
});

// Several rows may have one id: shortened ones, in other letters, or repeated in the file.
function rowsBy(nameOf) {
  const rows = new Map();
  for (let row = 0; row < n; row += 1) {
    const name = nameOf(row);
    if (rows.has(name)) rows.get(name).push(row);
    else rows.set(name, [row]);
  }
  return rows;
}
const idsAsWritten = rowsBy(rowName);
const idsInSmallLetters = rowsBy((row) => rowName(row).toLowerCase());
// Long ids have lost their middle.
function cutId(text) {
  const characters = [...text];
  const [start, end] = payload.id_ends;
  if (characters.length <= start + 1 + end) return text;
  return `${characters.slice(0, start).join("")}…${characters.slice(-end).join("")}`;
}
$("#find").addEventListener("input", (event) => {
  const wanted = cutId(event.target.value.trim());
  const rows = idsAsWritten.get(wanted) ?? idsInSmallLetters.get(wanted.toLowerCase()) ?? [];
  let row = rows[0];
  if (row === undefined && /^\d+$/.test(wanted)) row = [...index].indexOf(Number(wanted));
  const isFound = row !== undefined && row >= 0;
  const told = rows.length > 1 ? `the first of ${rows.length} rows with this id` : "";
  $("#found").textContent = !wanted ? "" : isFound ? told : "not on the map";
  if (wanted && isFound) pin(row, runs[0]);
});

for (const button of $$(".show")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    choice = $("#color").value = "cluster";
    setFocus({ group: Number(button.dataset.cluster), run: runOf(button.dataset.run) });
    $("#map").scrollIntoView();
  });
}
function pinFromCard(place) {
  pin(Number(place.dataset.place), runOf(place.closest(".card").dataset.run) ?? runs[0]);
}
document.addEventListener("click", (event) => {
  const place = event.target.closest("[data-place]");
  if (place) pinFromCard(place);
});
// Each list of rows is one stop of the tabulator; arrows move within it.
const siblings = (place) => $$(":scope > [data-place]", place.parentElement);
for (const place of $$("[data-place]")) place.tabIndex = siblings(place)[0] === place ? 0 : -1;
document.addEventListener("keydown", (event) => {
  const place = event.target.closest("[data-place]");
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!place || (!step && event.key !== "Enter" && event.key !== " ")) return;
  event.preventDefault();
  if (!step) return pinFromCard(place);
  const rows = siblings(place);
  rows[rows.indexOf(place) + step]?.focus();
});
})();
