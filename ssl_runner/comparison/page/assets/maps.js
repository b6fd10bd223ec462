// Charts over swept keys: a heat map for two, parallel coordinates for more.
"use strict";
const distinct = (values) => [...new Map(values.map((value) => [`${typeof value}${value}`, value])).values()];
const sorted = (values) => distinct(values).sort((a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
const clip = (text, letters) => (String(text).length > Math.max(letters, 4) ? `${String(text).slice(0, Math.max(letters, 4) - 1)}…` : String(text));
// a share of the way from the low to the high colour; CSS mixes, so that it follows light and dark
const mixed = (share) => `color-mix(in oklab, var(--low), var(--high) ${(share * 100).toFixed(1)}%)`;

function shares(rows, column) {
  const [low, high] = d3.extent(rows, (row) => row.figures[column].mean);
  const lower = !report.columns[column].higher;
  const share = (value) => { const found = high > low ? (value - low) / (high - low) : 1; return lower ? 1 - found : found; };
  const percent = report.columns[column].percent;
  const ends = lower ? [high, low] : [low, high];
  const ramp = element("div", [digits(ends[0], percent), element("i", []), `${digits(ends[1], percent)} (best)`], { class: "ramp" });
  return [share, ramp];
}

function heatMap(parent, column) {
  const rows = measured(column);
  const [share, ramp] = shares(rows, column);
  const horizontal = distinct(rows.map((row) => row.values[0])).length >= distinct(rows.map((row) => row.values[1])).length ? 0 : 1;
  const across = report.keys[horizontal], down = report.keys[1 - horizontal];
  const xs = sorted(rows.map((row) => row.values[horizontal])).map(String);
  const ys = sorted(rows.map((row) => row.values[1 - horizontal])).map(String);
  const left = Math.min(110, 22 + 7 * Math.max(...ys.map((y) => y.length)));
  const place = { x: (row) => String(row.values[horizontal]), y: (row) => String(row.values[1 - horizontal]) };
  panel(parent, `${report.columns[column].title} by ${report.labels[across]} and ${report.labels[down]}`, (width) => Plot.plot({
    width, height: 76 + 44 * ys.length, marginLeft: left, marginBottom: 44, marginTop: 26,
    ariaLabel: `${axis(column)} for each ${across} and ${down}: ${rows.map((row) => `${row.label} ${digits(row.figures[column].mean, report.columns[column].percent)}`).join("; ")}`,
    x: { type: "band", domain: xs, label: across, padding: 0.04, tickFormat: (v) => clip(v, width / (xs.length * 7)) },
    y: { type: "band", domain: ys, label: down, padding: 0.06, tickFormat: (v) => clip(v, 13) },
    color: { type: "identity" },
    marks: [
      Plot.cell(rows, { ...place, fill: (row) => mixed(share(row.figures[column].mean)), rx: 3 }),
      (width - left) / xs.length > 30 ? Plot.text(rows, { ...place, text: (row) => digits(row.figures[column].mean, report.columns[column].percent), fill: (row) => (share(row.figures[column].mean) > 0.57 ? "var(--paper)" : "var(--ink)"), fontSize: 12 }) : null,
      tip(rows, { ...place, title: (row) => describe(row, column) }),
    ],
  }), ramp, rows.length < xs.length * ys.length ? "Empty places were not run." : null);
}

// A key's place on its line, from 0 to 1, and its ticks: few values lie evenly, many numbers where they belong.
function scale(values) {
  const found = sorted(values);
  const numbers = found.every((value) => typeof value === "number");
  if (!numbers || found.length <= 7) {
    const at = (value) => (found.length > 1 ? found.indexOf(value) / (found.length - 1) : 0.5);
    const every = Math.ceil(found.length / 10);
    return { at, ticks: found.filter((_, i) => i % every === 0) };
  }
  const wide = found[0] > 0 && found[found.length - 1] / found[0] > 50;
  const made = (wide ? d3.scaleLog() : d3.scaleLinear()).domain(d3.extent(found)).range([0, 1]);
  return { at: made, ticks: wide ? [found[0], Math.sqrt(found[0] * found[found.length - 1]), found[found.length - 1]] : [found[0], ...made.ticks(4).slice(1, -1), found[found.length - 1]] };
}

function parallel(parent, column) {
  const rows = measured(column);
  const [share, ramp] = shares(rows, column);
  const percent = report.columns[column].percent;
  const lines = report.keys.map((key, i) => ({ name: key, of: (row) => row.values[i] }));
  lines.push({ name: axis(column), of: (row) => row.figures[column].mean, last: true });
  for (const line of lines) {
    const [low, high] = d3.extent(rows, line.of);
    Object.assign(line, line.last ? { at: d3.scaleLinear([low, high > low ? high : low + 1], [0, 1]), ticks: distinct([low, (low + high) / 2, high]) } : scale(rows.map(line.of)));
  }
  const points = rows.flatMap((row) => lines.map((line) => ({ row, name: line.name, x: line.at(line.of(row)) })));
  const ticks = lines.flatMap((line) => line.ticks.map((value) => ({ name: line.name, x: line.at(value), text: line.last ? digits(value, percent) : typeof value === "number" ? String(+value.toPrecision(3)) : clip(value, 14) })));
  // the best lie on top
  const order = [...rows].sort((a, b) => share(a.figures[column].mean) - share(b.figures[column].mean));
  points.sort((a, b) => order.indexOf(a.row) - order.indexOf(b.row));
  panel(parent, `${report.columns[column].title} over ${report.keys.length} keys`, (width) => Plot.plot({
    width, height: 40 + 62 * lines.length, marginLeft: 24, marginRight: 24, marginTop: 28, marginBottom: 22,
    ariaLabel: `Parallel coordinates: a line for each of ${rows.length} settings through its values of ${report.keys.join(", ")} and its ${axis(column)}`,
    x: { axis: null, domain: [0, 1] }, y: { type: "point", domain: lines.map((line) => line.name), axis: null, padding: 0 },
    color: { type: "identity" },
    marks: [
      Plot.ruleY(lines, { y: "name", stroke: "var(--soft)" }),
      Plot.line(points, { x: "x", y: "name", z: (d) => rows.indexOf(d.row), stroke: (d) => mixed(0.12 + 0.88 * share(d.row.figures[column].mean)), strokeWidth: 1.8, curve: "bump-y" }),
      Plot.text(ticks, { x: "x", y: "name", text: "text", dy: 11, fontSize: 11, fill: "var(--ink)", stroke: "var(--paper)", strokeWidth: 4 }),
      Plot.text(lines, { x: 0, y: "name", text: "name", textAnchor: "start", dx: -16, dy: -11, fontSize: 11.5, fontWeight: 600, fill: "var(--ink)", stroke: "var(--paper)", strokeWidth: 4 }),
      tip(points, { x: "x", y: "name", title: (d) => describe(d.row, column) }),
    ],
  }), ramp, "A line is a setting; read it from its values to its figure below.");
}
