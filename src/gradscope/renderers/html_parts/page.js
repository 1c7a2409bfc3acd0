"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const specs = JSON.parse(byId("specs").textContent);
  const views = new Map();

  // 10^log10, at any exponent.
  function power(log10) {
    if (log10 >= -3 && log10 < 4) return String(Number((10 ** log10).toPrecision(3)));
    let exponent = Math.floor(log10);
    let digits = (10 ** (log10 - exponent)).toFixed(1);
    if (digits === "10.0") { exponent += 1; digits = "1.0"; }
    return `${digits}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }

  function nearest(rows, field, at) {
    let best = null;
    for (const row of rows) {
      if (best === null || Math.abs(row[field] - at) < Math.abs(best[field] - at)) best = row;
    }
    return best;
  }

  // Rows of every line, and a line's name: what a readout looks values up in.
  function linesOf(entry) {
    const lines = new Map();
    for (const row of entry.spec.datasets[entry.reads.rows] || []) {
      const name = row[entry.reads.by];
      if (!lines.has(name)) lines.set(name, []);
      lines.get(name).push(row);
    }
    return lines;
  }

  // Lags count from the anchor, the newest step that the loss reads; this is its own inverse.
  function turned(entry, at) {
    return entry.anchor - at;
  }

  function place(entry, step) {
    return entry.reads.x === "lag" ? turned(entry, step) : step;
  }

  // What a place on the axis is called on the other one; nothing for a step that the loss hears nothing of.
  function otherwise(entry, at) {
    if (entry.reads.x === "lag") return ` (step ${turned(entry, at)})`;
    return at > entry.anchor ? "" : ` (lag ${turned(entry, at)})`;
  }

  function readout(entry, at) {
    if (entry.reads.x === "lag" && at < 0) return `step ${turned(entry, at)}: after all that the loss reads`;
    const said = [...entry.lines].map(([name, rows]) => {
      const row = nearest(rows, "x", at);
      if (!row) return `${name}: unknown`;
      const value = row.odd || (entry.reads.log ? power(row.y) : Number(row.y.toPrecision(3)));
      return row.x === at ? `${name} ${value}` : `${name} ${value} (at ${row.x})`;
    });
    return `${entry.reads.x} ${at}${otherwise(entry, at)}: ${said.join("; ")}`;
  }

  // The same step in every chart over steps or lags.
  let current = null;
  function pointAt(step) {
    current = step;
    for (const entry of views.values()) {
      if (!entry.lines) continue;
      const at = place(entry, step);
      const x = entry.view.scale("x");
      const left = entry.view.origin()[0] + x(at);
      const [low, high] = x.range();
      const inside = left >= entry.view.origin()[0] + low - 1 && left <= entry.view.origin()[0] + high + 1;
      entry.cursor.hidden = !inside;
      entry.cursor.style.left = `${left}px`;
      entry.cursor.style.top = `${entry.view.origin()[1]}px`;
      entry.cursor.style.height = `${entry.view.height()}px`;
      entry.out.textContent = readout(entry, at);
    }
  }

  function follow(entry) {
    const box = entry.box;
    box.addEventListener("pointermove", (event) => {
      const x = entry.view.scale("x");
      const inner = event.clientX - box.getBoundingClientRect().left - entry.view.origin()[0];
      const [low, high] = x.range();
      if (inner < low - 4 || inner > high + 4) return;
      const most = entry.reads.x === "lag" ? entry.anchor : entry.last;
      pointAt(place(entry, Math.max(0, Math.min(most, Math.round(x.invert(inner))))));
    });
    box.addEventListener("keydown", (event) => {
      const far = event.shiftKey ? Math.max(2, Math.round(entry.last / 20)) : 1;
      const back = entry.reads.x === "lag" ? 1 : -1;
      const step = current === null ? entry.last : current;
      const moves = { ArrowLeft: step + back * far, ArrowRight: step - back * far };
      if (!(event.key in moves)) return;
      event.preventDefault();
      pointAt(Math.max(0, Math.min(entry.last, moves[event.key])));
    });
  }

  async function draw(id, entry) {
    const box = byId(id);
    if (!box) return;
    const options = { mode: "vega-lite", renderer: "svg", actions: false, tooltip: { theme: "custom" } };
    const { view } = await window.vegaEmbed(box.querySelector(".canvas"), entry.spec, options);
    Object.assign(entry, { view, box, out: box.parentElement.querySelector(".readout") });
    views.set(id, entry);
    if (!entry.reads.rows) return;
    entry.lines = linesOf(entry);
    entry.cursor = document.createElement("div");
    entry.cursor.className = "cursor";
    entry.cursor.hidden = true;
    box.append(entry.cursor);
    follow(entry);
  }

  function sortBy(table, column, button) {
    const head = button.closest("th");
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const valued = [...body.rows].map((row) => {
      const cell = row.cells[column];
      const text = cell.textContent.trim();
      const given = cell.dataset.v === undefined ? text.replace(/ .*$/, "").replace(/^10\^/, "1e") : cell.dataset.v;
      const number = given === "" || given === "-" ? NaN : Number(given);
      return { row, number, text };
    });
    const numeric = valued.some((one) => !Number.isNaN(one.number));
    valued.sort((a, b) => {
      if (!numeric) return a.text.localeCompare(b.text);
      if (Number.isNaN(a.number) || Number.isNaN(b.number)) return Number.isNaN(a.number) - Number.isNaN(b.number);
      return a.number === b.number ? 0 : a.number < b.number ? -1 : 1;
    });
    if (!up) valued.reverse();
    body.append(...valued.map((one) => one.row));
  }

  async function reportText() {
    const held = byId("report");
    if (held.dataset.encoding !== "gzip") return held.textContent;
    const bytes = Uint8Array.from(atob(held.textContent), (char) => char.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  async function download() {
    const url = URL.createObjectURL(new Blob([await reportText()], { type: "application/json" }));
    const link = Object.assign(document.createElement("a"), { href: url, download: "report.json" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  function switchTheme() {
    const set = document.documentElement.dataset.theme;
    const dark = set ? set === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    table.querySelectorAll("th").forEach((head, column) => {
      const button = head.querySelector("button");
      if (button) button.addEventListener("click", () => sortBy(table, column, button));
    });
  }
  byId("theme").addEventListener("click", switchTheme);
  if (byId("download")) byId("download").addEventListener("click", download);
  window.addEventListener("resize", () => { for (const entry of views.values()) if (entry.cursor) entry.cursor.hidden = true; });
  window.addEventListener("beforeprint", () => { for (const fold of document.querySelectorAll("details")) fold.open = true; });

  (async () => {
    for (const [id, entry] of Object.entries(specs)) await draw(id, entry);
    document.documentElement.dataset.drawn = "yes";
  })();
})();
