// What the page does: charts where there is something to draw, sorting, copying, links into closed parts, renewal.
"use strict";
const byId = (id) => document.getElementById(id);
const say = (text) => { byId("said").textContent = text; };

function chosen() {
  const select = document.querySelector("#choice select");
  return select && select.value !== "" ? Number(select.value) : report.columns.findIndex((_, i) => measured(i).length);
}

function drawFigures() {
  const place = byId("figures"), column = chosen();
  place.replaceChildren();
  const rows = column < 0 ? [] : measured(column);
  if (rows.length < 2) return;
  if (report.keys.length === 1) byKey(place, column);
  if (report.keys.length === 2) heatMap(place, column);
  if (report.keys.length > 2) parallel(place, column);
  if (rows.filter((row) => row.seconds !== null).length > 1) byTime(place, column);
}

function draw() {
  byId("charts").hidden = false;
  drawFigures();
  byId("curves").replaceChildren();
  for (const chart of report.curves) curve(byId("curves"), chart);
  for (const id of ["h-curves", "about-curves"]) byId(id).hidden = !report.curves.length;
  document.querySelector("#about-curves .losses").hidden = !(report.lossesDiffer && report.curves.some((chart) => chart.tag === "train/loss"));
  byId("choice").hidden = !byId("figures").children.length || report.columns.filter((_, i) => measured(i).length > 1).length < 2;
  byId("charts").hidden = !byId("figures").children.length && !report.curves.length;
}

function offerColumns() {
  const select = document.querySelector("#choice select");
  report.columns.forEach((column, i) => { if (measured(i).length > 1) select.append(element("option", column.title, { value: i })); });
  select.addEventListener("change", drawFigures);
}

function compare(a, b) {
  const [x, y] = [Number(a), Number(b)];
  return !Number.isNaN(x) && !Number.isNaN(y) ? x - y : a.localeCompare(b, undefined, { numeric: true });
}

function sortBy(header, order) {
  const table = header.closest("table"), column = [...header.parentNode.children].indexOf(header);
  for (const other of header.parentNode.children) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", other === header ? order : "none");
  const value = (row) => row.children[column].dataset.sort ?? "";
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows];
  // what is missing comes last in both orders
  rows.sort((a, b) => (value(a) === "") - (value(b) === "") || sign * compare(value(a), value(b)));
  table.tBodies[0].append(...rows);
}

function makeSortable(header) {
  header.querySelector("button").addEventListener("click", () => {
    const first = header.dataset.first ?? "ascending", other = first === "ascending" ? "descending" : "ascending";
    const order = header.getAttribute("aria-sort") === first ? other : first;
    sortBy(header, order);
    say(`Sorted by ${header.textContent}, ${order}`);
  });
}

async function copy(button) {
  const text = button.dataset.copy;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // no permission, or an old browser: the way of old
    const area = element("textarea", text, { class: "hidden" });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    button.focus();
    if (!done) { say("The browser does not allow copying; select the command below"); return; }
  }
  const before = button.textContent;
  button.textContent = "Copied";
  button.classList.add("done");
  say("Copied");
  setTimeout(() => { button.textContent = before; button.classList.remove("done"); }, 1500);
}

// a link into a closed part opens it
function reveal() {
  const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
}

// What a person did to the page, kept while it renews itself.
const KEPT = `ssl-report ${location.pathname}`;
function remember() {
  const sorts = [...document.querySelectorAll("table")].map((table) => {
    const heads = [...table.tHead.rows[0].cells], index = heads.findIndex((head) => ["ascending", "descending"].includes(head.getAttribute("aria-sort")));
    return index < 0 ? null : [table.id, heads[index].textContent, heads[index].getAttribute("aria-sort")];
  });
  const open = [...document.querySelectorAll("details")].map((one) => one.open);
  return { sorts, open, chosen: document.querySelector("#choice select")?.value, x: scrollX, y: scrollY };
}

function recall(kept) {
  for (const [id, text, order] of kept.sorts.filter(Boolean)) {
    const header = [...(byId(id)?.tHead.rows[0].cells ?? [])].find((head) => head.textContent === text);
    if (header) sortBy(header, order);
  }
  const details = [...document.querySelectorAll("details")];
  if (details.length === kept.open.length) details.forEach((one, i) => { one.open = kept.open[i]; });
  const select = document.querySelector("#choice select");
  if (select && [...select.options].some((option) => option.value === kept.chosen)) { select.value = kept.chosen; drawFigures(); }
  scrollTo(kept.x, kept.y);
}

function renewEvery(seconds) {
  history.scrollRestoration = "manual";
  setTimeout(function renew() {
    // not while somebody selects text or looks elsewhere
    if (document.hidden || String(getSelection())) { setTimeout(renew, 1000); return; }
    try { sessionStorage.setItem(KEPT, JSON.stringify(remember())); } catch { /* no storage: renewed without */ }
    location.reload();
  }, seconds * 1000);
}

if (byId("charts")) {
  offerColumns();
  draw();
  let width = byId("charts").clientWidth;
  new ResizeObserver(() => {
    if (byId("charts").clientWidth !== width && !matchMedia("print").matches) { width = byId("charts").clientWidth; draw(); }
  }).observe(byId("charts"));
  addEventListener("beforeprint", () => { paperWidth = 310; draw(); });
  addEventListener("afterprint", () => { paperWidth = null; draw(); });
}
for (const header of document.querySelectorAll("th[aria-sort]")) makeSortable(header);
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
addEventListener("hashchange", reveal);
document.addEventListener("click", (event) => { if (event.target.closest?.("a[href^='#setting-']")) setTimeout(reveal); });
try {
  const kept = sessionStorage.getItem(KEPT);
  sessionStorage.removeItem(KEPT);
  if (kept) recall(JSON.parse(kept)); else reveal();
} catch { reveal(); }
if (document.body.dataset.refresh) renewEvery(Number(document.body.dataset.refresh));
