// Every row of a run: filters above, a table below that asks only for the rows that are seen.

import { facets, get, link, note } from "./api.js";
import { badge, failure, h, number, replace, say, stageName } from "./dom.js";

const PAGE = 100;
const TALLEST = 8_000_000; // pixels; browsers draw nothing beyond some 17 million
const MEANING = { weighed: "given another weight", made: "made by a stage" };
const ACTIONS = ["unchanged", "relabelled", "dropped", "weighed", "made", "unreadable"];

/** The filters of the address, as the server takes them. */
export function filterOf(query) {
  const out = {};
  for (const name of ["text", "action", "fate", "stage", "reason", "flagged", "wrong", "conflict", "score", "low", "high", "sort", "descending"]) {
    if (query.get(name)) out[name] = query.get(name);
  }
  return out;
}

function choice(name, label, options, state, changed) {
  const id = `f-${name}`;
  const select = h("select", { id, onchange: () => changed(name, select.value) }, options.map(([value, text]) => h("option", { value, selected: (state[name] ?? "") === value }, text)));
  return h("label", { for: id }, h("span", {}, label), select);
}

function field(name, label, state, changed, type = "number") {
  const id = `f-${name}`;
  let timer = 0;
  const input = h("input", { id, type, value: state[name] ?? "", step: "any", autocomplete: "off", oninput: () => {
    clearTimeout(timer);
    timer = setTimeout(() => changed(name, input.value), 200);
  } });
  return h("label", { for: id }, h("span", {}, label), input);
}

function filters(found, state, changed) {
  const any = ["", "any"];
  const scores = ["disagreement", ...found.scores];
  const fields = [
    choice("action", "Decision", [any, ...ACTIONS.filter((one) => found.counts.action[one]).map((one) => [one, `${MEANING[one] ?? one} (${number(found.counts.action[one])})`])], state, changed),
    choice("stage", "Decided by", [any, ...found.stages.map((one) => [one, stageName(one)])], state, changed),
    choice("reason", "Reason", [any, ...found.kinds.slice(0, 150).map((one) => [String(one.code), `${one.text.slice(0, 90)} (${number(one.rows)})`])], state, changed),
    choice("flagged", "Flag", [any, ["yes", "flagged"], ["no", "not flagged"]], state, changed),
    choice("conflict", "Views", [any, ["yes", "in conflict"]], state, changed),
    found.truth ? choice("wrong", "Label in truth", [any, ["yes", "wrong"], ["no", "right"]], state, changed) : null,
    h("div", { class: "range" }, choice("score", "Range of a score", [["", "none"], ...scores.map((one) => [one, one])], state, changed), field("low", "from", state, changed), field("high", "to", state, changed)),
    choice("sort", "Sort by", [["", "source order"], ["borderline", "borderline first"], ...scores.map((one) => [one, one])], state, changed),
    choice("descending", "Order", [["", "lowest first"], ["yes", "highest first"]], state, changed),
  ];
  const wide = window.matchMedia("(min-width: 700px)").matches;
  return h("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() }, field("text", "Search in all texts", state, changed, "search"), h("details", { open: wide }, h("summary", {}, "Filters and order"), h("div", { class: "fields" }, fields)));
}

function score(row, name) {
  if (!name || name === "borderline") return null;
  const value = name === "disagreement" ? row.disagreement : row.scores[name];
  if (value === undefined || value === null) return "–";
  // Three decimals, also where the last is 0: the column is read downwards.
  return Number.isInteger(value) || Math.abs(value) < 0.001 || Math.abs(value) >= 1000 ? number(value) : value.toFixed(3);
}

function titles(columns) {
  return columns.map((name) => name.split(".").at(-1).replaceAll("_", " ")).join("  ") || "score";
}

function cells(row, columns, href, active) {
  const changed = row.now !== null && row.given !== null && row.now !== row.given;
  return [
    h("span", { class: "cell question", role: "gridcell" }, h("a", { href, tabindex: active ? "0" : "-1" }, row.question || row.id)),
    h("span", { class: "cell label", role: "gridcell" }, changed ? [h("del", {}, row.given), " ", h("ins", {}, row.now)] : (row.given ?? row.now ?? "")),
    h("span", { class: "cell", role: "gridcell" }, badge(row.action), row.review ? h("span", { class: "badge plain" }, `reviewed: ${row.review}`) : null),
    h("span", { class: "cell num", role: "gridcell" }, columns.map((name) => score(row, name)).filter((one) => one !== null).join("  ")),
    h("span", { class: "cell reason", role: "gridcell" }, row.reason),
  ];
}

/** A table of `total` rows in a box that scrolls; `load(offset, limit)` gets rows, `address(row)` is where one leads. */
function virtual(load, address, columns) {
  const open = (row) => { location.hash = address(row); };
  const spacer = h("div", { class: "spacer" });
  const layer = h("div", { class: "layer", role: "rowgroup" });
  const heads = ["Question", "Label", "Decision", titles(columns), "Reason"];
  const head = h("div", { class: "vhead", role: "rowgroup" }, h("div", { class: "vrow", role: "row" }, heads.map((text, at) => h("span", { class: `cell ${["question", "label", "", "num", "reason"][at]}`, role: "columnheader" }, text))));
  const box = h("div", { class: "vbox", role: "grid", tabindex: "0", "aria-label": "Rows", "aria-colcount": "5" }, head, h("div", { class: "vbody", role: "presentation" }, spacer, layer));
  const body = box.lastChild;
  const pages = new Map();
  let total = 0, active = 0, height = 44, drawn = "", version = 0;

  const page = (at) => {
    if (!pages.has(at)) {
      if (pages.size > 40) pages.delete(pages.keys().next().value);
      const mine = version;
      pages.set(at, null);
      load(at * PAGE, PAGE).then((found) => {
        if (mine !== version) return;
        pages.set(at, found.rows);
        drawn = "";
        draw();
      }).catch(() => pages.delete(at));
    }
    return pages.get(at);
  };
  const full = () => Math.min(total * height, TALLEST);
  const seen = () => Math.ceil(body.clientHeight / height);
  // Beyond the tallest box a pixel stands for more than a row's share.
  const first = () => {
    if (total * height <= TALLEST) return Math.floor(body.scrollTop / height);
    return Math.round((body.scrollTop / Math.max(1, full() - body.clientHeight)) * Math.max(0, total - seen()));
  };
  const top = (row) => (total * height <= TALLEST ? row * height : (row / Math.max(1, total - seen())) * (full() - body.clientHeight));

  function draw() {
    height = window.matchMedia("(min-width: 700px)").matches ? 44 : 92;
    spacer.style.height = `${full()}px`;
    const from = Math.max(0, first() - 3), to = Math.min(total, first() + seen() + 4);
    const key = `${from} ${to} ${active} ${height}`;
    if (key === drawn) return;
    drawn = key;
    const out = [];
    for (let at = from; at < to; at += 1) {
      const row = page(Math.floor(at / PAGE))?.[at % PAGE];
      out.push(h("div", { class: `vrow${at === active ? " active" : ""}`, id: `row-${at}`, role: "row", "aria-rowindex": at + 2, "aria-selected": String(at === active), onclick: (event) => row && !event.target.closest("a") && open(row) }, row ? cells(row, columns, address(row), at === active) : h("span", { class: "cell quiet", role: "gridcell" }, "…")));
    }
    const exact = total * height <= TALLEST;
    layer.style.transform = `translateY(${exact ? from * height : body.scrollTop - (first() - from) * height}px)`;
    const focused = layer.contains(document.activeElement);
    replace(layer, out);
    if (focused) box.focus({ preventScroll: true });
    box.setAttribute("aria-activedescendant", total ? `row-${active}` : "");
  }
  function move(to) {
    active = Math.min(Math.max(0, to), Math.max(0, total - 1));
    const start = first();
    if (active < start) body.scrollTop = top(active);
    else if (active >= start + seen() - 1) body.scrollTop = top(active - seen() + 2);
    draw();
  }
  body.addEventListener("scroll", () => draw(), { passive: true });
  box.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: seen() - 1, PageUp: 1 - seen(), Home: -total, End: total };
    if (event.key in steps) {
      event.preventDefault();
      move(active + steps[event.key]);
    } else if (event.key === "Enter" && !event.target.closest("a")) {
      const row = pages.get(Math.floor(active / PAGE))?.[active % PAGE];
      if (row) open(row);
    }
  });
  const watch = new ResizeObserver(() => { drawn = ""; draw(); });
  watch.observe(box);
  return {
    element: box,
    reset(count, rows) {
      version += 1;
      pages.clear();
      if (rows) pages.set(0, rows);
      total = count;
      active = 0;
      drawn = "";
      body.scrollTop = 0;
      box.setAttribute("aria-rowcount", String(count + 1));
      draw();
    },
    leave: () => watch.disconnect(),
  };
}

export async function rowsScreen({ key, query, alive, where }) {
  const run = await get(`runs/${key}`);
  where(run.folder === "." ? run.name : run.folder);
  const waiting = h("div", { class: "card" }, h("p", {}, "Reading the rows."));
  document.getElementById("main").replaceChildren(waiting);
  const found = await facets(key, (done, of) => replace(waiting, h("p", {}, `Reading the rows: ${number(done)} of ${number(of)}. This is done once.`), h("progress", { max: of || 1, value: done, "aria-label": "Reading the rows" })), alive);
  const state = filterOf(query);
  const count = h("p", { class: "count", role: "status" });
  const fault = h("div", {});
  const columns = [...new Set([state.sort, state.score].filter((one) => one && one !== "borderline"))];
  if (!columns.length && found.main) columns.push(found.main);
  const table = virtual((offset, limit) => get(`runs/${key}/rows`, { ...state, offset, limit }), (row) => link(`run/${key}/row`, { ...state, id: row.id }), columns);
  let asked = 0;
  const refresh = async () => {
    const mine = (asked += 1);
    try {
      const page = await get(`runs/${key}/rows`, { ...state, offset: 0, limit: PAGE });
      if (mine !== asked || !alive()) return;
      replace(fault);
      table.reset(page.total, page.rows);
      const text = page.total === found.rows ? `${number(page.total)} rows` : `${number(page.total)} of ${number(found.rows)} rows`;
      replace(count, text, page.total ? h("a", { href: link(`run/${key}/review`, state) }, "review these") : null);
      say(text);
    } catch (error) {
      if (mine === asked) replace(fault, failure(error));
    }
  };
  const changed = (name, value) => {
    if (value) state[name] = value;
    else delete state[name];
    note(`run/${key}/rows`, state);
    if (name === "sort" || name === "score") {
      const shown = [...new Set([state.sort, state.score].filter((one) => one && one !== "borderline"))];
      columns.splice(0, columns.length, ...(shown.length ? shown : found.main ? [found.main] : []));
      replace(table.element.querySelector(".vhead .num"), titles(columns));
    }
    refresh();
  };
  const element = h("div", { class: "screen rows" }, h("h1", { class: "hidden" }, "Rows"), filters(found, state, changed), count, fault, table.element);
  return { element, shown: refresh, leave: table.leave };
}
