"use strict";
// Draws the charts and keeps them in step. What is shown is state; the controls set it, and every chart follows.

const report = JSON.parse(document.getElementById("report-data").textContent);
const state = report.state;
const views = {};

function rowsOf(name) {
  const columns = Object.entries(report.tables[name]).map(([column, values]) =>
    [column, values.codes ? values.codes.map((code) => values.words[code] ?? null) : values]);
  return columns[0][1].map((_, row) => Object.fromEntries(columns.map(([column, values]) => [column, values[row]])));
}

const boxes = [...document.querySelectorAll("input[name=method]")];
const selects = [...document.querySelectorAll("[data-parameter]")];

function show() {
  const picked = boxes.filter((box) => box.checked).map((box) => box.value);
  const shared = Object.entries(report.together).filter(([, members]) => members.some((series) => picked.includes(series)));
  state.picked = [...new Set([...picked, ...shared.map(([name]) => name)])];
  for (const select of selects) state[select.dataset.parameter] = select.value;
  for (const view of Object.values(views)) {
    for (const [name, value] of Object.entries(state)) view.signal(name, value);
    view.runAsync();
  }
  const told = picked.length ? picked.join("; ") : "all";
  document.getElementById("picked").textContent = told;
}

function pick(series) {
  const members = report.together[series] ?? [series];
  const own = boxes.filter((box) => members.includes(box.value));
  const checked = !own.every((box) => box.checked);
  for (const box of own) box.checked = checked;
  show();
}

function csv(name) {
  const rows = rowsOf(name);
  // Text that a spreadsheet would take for a formula gets an apostrophe.
  const shown = (value) => typeof value === "string" && /^[=+\-@\t\r\n＝＋－＠]/.test(value) ? `'${value}` : String(value);
  const cell = (value) => value === null ? "" : /[",\r\n]/.test(value) ? `"${shown(value).replaceAll('"', '""')}"` : shown(value);
  return [Object.keys(rows[0]), ...rows.map(Object.values)].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function download(name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv(name)], { type: "text/csv" }));
  link.download = `${name}.csv`;
  link.click();
  URL.revokeObjectURL(link.href);
}

const MOST_ROWS = 1000;

function fill(place, name) {
  const rows = rowsOf(name);
  const table = document.createElement("table");
  const add = (parent, tag, text) => {
    const element = parent.appendChild(document.createElement(tag));
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const cut = rows.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${rows.length} rows; the CSV file has all.` : `${rows.length} rows.`;
  add(table, "caption", cut);
  const head = add(add(table, "thead"), "tr");
  for (const column of Object.keys(rows[0])) add(head, "th", column).scope = "col";
  const body = add(table, "tbody");
  for (const row of rows.slice(0, MOST_ROWS)) {
    const line = add(body, "tr");
    for (const value of Object.values(row)) add(line, "td", value === null ? "–" : value);
  }
  place.replaceChildren(table);
}

async function draw(name, figure) {
  const data = { [figure.table]: rowsOf(figure.table) };
  for (const [index, spec] of figure.panels.entries()) {
    const id = `${name}-${index}`;
    const { view } = await vegaEmbed(document.getElementById(id), { ...spec, datasets: data },
      { actions: false, ast: true, renderer: "svg", tooltip: { theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light" } });
    view.addEventListener("click", (event, item) => item?.datum?.series && pick(item.datum.series));
    views[id] = view;
  }
}

async function start() {
  for (const box of boxes) box.addEventListener("change", show);
  for (const select of selects) select.addEventListener("input", show);
  document.getElementById("clear").addEventListener("click", () => { for (const box of boxes) box.checked = false; show(); });
  for (const button of document.querySelectorAll("button[data-table]")) button.addEventListener("click", () => download(button.dataset.table));
  for (const details of document.querySelectorAll("details[data-table]")) {
    details.addEventListener("toggle", () => details.open && fill(details.querySelector("div"), details.dataset.table));
  }
  if (matchMedia("(max-width: 40rem)").matches) document.querySelector(".picker").open = false;
  addEventListener("beforeprint", () => { for (const details of document.querySelectorAll(".picker, .fold")) details.open = true; });
  for (const details of document.querySelectorAll(".fold")) {
    details.addEventListener("toggle", () => details.open && dispatchEvent(new Event("resize")));
  }
  const open = () => { for (let place = document.querySelector(location.hash || "main"); place; place = place.parentElement) if (place.matches("details")) place.open = true; };
  addEventListener("hashchange", open);
  open();
  for (const [name, figure] of Object.entries(report.figures)) await draw(name, figure);
  show();
  document.documentElement.dataset.drawn = "yes";
}

start();
