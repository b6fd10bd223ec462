// Charts of the page, drawn by Observable Plot: learning curves, figures by setting, accuracy against time.
"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
// as in page.css: a dash for each colour, for prints in grey and for eyes that do not tell colours apart
const DASHES = [null, null, "8 3", "3 3", "9 3 3 3", null, "8 3", "3 3", "9 3 3 3"];
const colour = (row) => `var(--c${row.colour})`;
const digits = (value, percent) => (value === null || value === undefined ? "–" : percent ? value.toFixed(2) : String(+value.toPrecision(4)));

function element(name, content, attributes = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...[content].flat().filter((one) => one !== null && one !== undefined));
  return made;
}

// text for the pointer: a tip of several lines
const tip = (data, options) => Plot.tip(data, Plot.pointer({ fill: "var(--paper)", stroke: "var(--line)", lineWidth: 30, ...options }));

function swatch(number) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const line = document.createElementNS(space, "line");
  for (const [key, value] of Object.entries({ class: `swatch c${number}`, width: 26, height: 10, "aria-hidden": "true" })) svg.setAttribute(key, value);
  for (const [key, value] of Object.entries({ x1: 1, y1: 5, x2: 25, y2: 5 })) line.setAttribute(key, value);
  svg.append(line);
  return svg;
}

function legend(rows) {
  const named = rows.filter((row) => row.colour);
  const items = named.map((row) => element("li", [swatch(row.colour), row.label]));
  if (named.length < rows.length) items.push(element("li", [swatch(0), `${rows.length - named.length} others`]));
  return element("ul", items, { class: "legend" });
}

// on paper, charts are drawn for the width of half a page, so that their letters do not shrink
let paperWidth = null;

// A panel: heading, chart, legend. `draw(width)` returns the chart.
function panel(parent, title, draw, below, note) {
  const place = element("div", []);
  const figure = element("figure", [element(parent.id === "figures" ? "h3" : "h4", title), place, below, note ? element("figcaption", note) : null], { class: "chart" });
  parent.append(figure);
  const chart = draw(paperWidth ?? Math.max(place.clientWidth, 220));
  chart.setAttribute("role", "img");
  place.append(chart);
}

function curve(parent, chart) {
  const drawn = chart.series.map((one) => ({ ...one, setting: report.rows[one.row] }));
  // the grey ones lie below
  drawn.sort((a, b) => Boolean(a.setting.colour) - Boolean(b.setting.colour));
  const points = (one) => one.steps.map((step, i) => ({ step, mean: one.mean[i], low: one.low[i], high: one.high[i], one }));
  const marks = drawn.flatMap((one) => {
    const data = points(one);
    const band = one.seeds > 1 && one.setting.colour;
    return [
      band ? Plot.areaY(data, { x: "step", y1: "low", y2: "high", fill: colour(one.setting), fillOpacity: 0.16 }) : null,
      Plot.lineY(data, { x: "step", y: "mean", stroke: colour(one.setting), strokeWidth: one.setting.colour ? 2 : 1, strokeDasharray: DASHES[one.setting.colour] }),
      data.length < 6 ? Plot.dot(data, { x: "step", y: "mean", fill: colour(one.setting), r: 3 }) : null,
    ];
  });
  const said = (d) => `${d.one.setting.label}\nstep ${Math.round(d.step)}: ${digits(d.mean, chart.percent)}` + (d.one.seeds > 1 ? `\n${digits(d.low, chart.percent)} to ${digits(d.high, chart.percent)}, ${d.one.seeds} seeds` : "\n1 seed");
  const unit = chart.percent ? "accuracy, %" : chart.tag === "train/loss" ? "loss" : chart.title;
  panel(parent, chart.title, (width) => Plot.plot({
    width, height: Math.round(Math.min(320, Math.max(230, width * 0.62))), marginLeft: 48, marginBottom: 40,
    ariaLabel: `${chart.title} over training steps, ${drawn.length} settings`,
    x: { label: "training step", nice: true, ticks: Math.min(8, Math.floor(width / 70)) },
    y: { label: unit, grid: true, nice: true },
    marks: [...marks, tip(drawn.flatMap(points), { x: "step", y: "mean", title: said })],
  }), legend(drawn.map((one) => one.setting).sort((a, b) => report.rows.indexOf(a) - report.rows.indexOf(b))));
}

const measured = (column) => report.rows.filter((row) => row.figures[column]);
const axis = (column) => report.columns[column].title + (report.columns[column].percent ? ", %" : "");
const seeds = (figure, percent) => figure.low === null || figure.high === null
  ? (figure.values.length > 1 ? `${figure.values.length} seeds` : "1 seed, no interval")
  : `95%: ${digits(figure.low, percent)} to ${digits(figure.high, percent)}, ${figure.values.length} seeds`;
const describe = (row, column) => `${row.label}\n${digits(row.figures[column].mean, report.columns[column].percent)} (${seeds(row.figures[column], report.columns[column].percent)})`;

// where one key varies: mean, interval and each seed, by its value
function byKey(parent, column) {
  const rows = measured(column);
  const at = (row) => String(row.values[0]);
  const values = rows.flatMap((row) => row.figures[column].values.filter((v) => v !== null).map((value) => ({ row, value })));
  const lines = rows.filter((row) => row.figures[column].low !== null && row.figures[column].high !== null);
  panel(parent, `${report.columns[column].title} by ${report.labels[report.keys[0]]}`, (width) => Plot.plot({
    width, height: Math.round(Math.min(320, Math.max(230, width * 0.62))), marginLeft: 48, marginBottom: 44,
    ariaLabel: `${axis(column)} for each ${report.keys[0]}`,
    x: { type: "point", domain: sorted(rows.map((row) => row.values[0])).map(String), label: report.keys[0], labelArrow: "none", padding: 0.5, tickFormat: (v) => clip(v, width / (rows.length * 7)) },
    y: { label: axis(column), grid: true, nice: true },
    marks: [
      Plot.ruleX(lines, { x: at, y1: (d) => d.figures[column].low, y2: (d) => d.figures[column].high, stroke: "var(--c1)", strokeWidth: 2 }),
      Plot.dot(values, { x: (d) => at(d.row), y: "value", stroke: "var(--soft)", r: 3, dx: 9 }),
      Plot.dot(rows, { x: at, y: (d) => d.figures[column].mean, fill: "var(--c1)", r: 5 }),
      tip(rows, { x: at, y: (d) => d.figures[column].mean, title: (d) => describe(d, column) }),
    ],
  }), null, "Filled: mean over seeds, with its 95% interval. Rings: single seeds.");
}

function byTime(parent, column) {
  const rows = measured(column).filter((row) => row.seconds !== null);
  const most = Math.max(...rows.map((row) => row.seconds));
  const [unit, divisor] = most > 7200 ? ["hours", 3600] : most > 180 ? ["minutes", 60] : ["seconds", 1];
  const x = (row) => row.seconds / divisor;
  const lines = rows.filter((row) => row.colour && row.figures[column].low !== null && row.figures[column].high !== null);
  const runs = rows.filter((row) => row.colour && row.runSeconds.length === row.figures[column].values.length && row.runSeconds.length > 1)
    .flatMap((row) => row.runSeconds.map((seconds, i) => ({ row, seconds, value: row.figures[column].values[i] })))
    .filter((d) => d.seconds !== null && d.value !== null);
  panel(parent, `${report.columns[column].title} against training time`, (width) => Plot.plot({
    width, height: Math.round(Math.min(320, Math.max(230, width * 0.62))), marginLeft: 48, marginBottom: 40,
    ariaLabel: `${axis(column)} against mean training time in ${unit}, ${rows.length} settings`,
    x: { label: `training time of a run, ${unit}`, nice: true, zero: false, inset: 8, ticks: Math.min(8, Math.floor(width / 70)) },
    y: { label: axis(column), grid: true, nice: true },
    marks: [
      Plot.ruleX(lines, { x, y1: (d) => d.figures[column].low, y2: (d) => d.figures[column].high, stroke: colour, strokeWidth: 1.5 }),
      Plot.dot(runs, { x: (d) => d.seconds / divisor, y: "value", stroke: (d) => colour(d.row), strokeOpacity: 0.6, r: 2.5 }),
      Plot.dot(rows, { x, y: (d) => d.figures[column].mean, fill: colour, r: 5 }),
      tip(rows, { x, y: (d) => d.figures[column].mean, title: (d) => `${describe(d, column)}\n${digits(x(d), false)} ${unit}` }),
    ],
    color: { type: "identity" },
  }), legend(rows), runs.length ? "Filled: means over seeds, with the figure's 95% interval. Rings: single runs." : null);
}
