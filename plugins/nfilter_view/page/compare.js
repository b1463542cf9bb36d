// Two runs side by side, and the rows whose fate differs.

import { get, go, link } from "./api.js";
import { badge, failure, h, number, replace } from "./dom.js";

const KINDS = [["kept_to_dropped", "kept, then dropped"], ["dropped_to_kept", "dropped, then kept"], ["other_label", "kept with another label"]];
const PAGE = 50;

function cell(found) {
  if (!found) return "–";
  const value = found.mean ?? null;
  if (value === null) return `${number(found.low)} to ${number(found.high)}`;
  return `${number(value)}${found.sd ? ` ± ${number(found.sd)}` : typeof found.low === "number" ? ` [${number(found.low)}, ${number(found.high)}]` : ""}`;
}

function side(row) {
  const changed = row.now !== null && row.given !== null && row.given !== row.now;
  return h("td", {}, badge(row.action), " ", h("span", { class: "pre clip" }, changed ? [h("del", {}, row.given), " ", h("ins", {}, row.now)] : (row.given ?? row.now ?? "")), h("p", { class: "note clip" }, row.reason));
}

function same(row) {
  return cell(row.cells[0]) === cell(row.cells[1]);
}

function figures(rows, label) {
  return h("table", { class: "plain", "aria-label": label }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Figure"), h("th", { scope: "col", class: "num" }, "First run"), h("th", { scope: "col", class: "num" }, "Second run"))), h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.name), row.cells.map((one) => h("td", { class: "num" }, cell(one)))))));
}

async function differing(host, query, a, b, alive) {
  const kind = query.get("kind") ?? "";
  const body = h("tbody", {});
  const more = h("button", { type: "button" }, "more");
  let offset = 0;
  const load = async () => {
    const found = await get("compare/rows", { a, b, ...(kind ? { kind } : {}), offset, limit: PAGE });
    if (!alive()) return;
    for (const { first, second } of found.rows) body.append(h("tr", {}, h("th", { scope: "row" }, h("a", { href: link(`run/${b}/row`, { id: first.id }), class: "pre clip" }, first.question || first.id)), side(first), side(second)));
    offset += found.rows.length;
    more.hidden = offset >= found.total;
  };
  more.addEventListener("click", load);
  replace(host, h("div", { class: "card scroll", tabindex: "0", role: "region", "aria-label": "Rows whose fate or label differs" }, h("table", { class: "plain wide" }, h("thead", {}, h("tr", {}, ["Row", "First run", "Second run"].map((text) => h("th", { scope: "col" }, text)))), body)), more);
  await load();
  if (alive() && !body.childElementCount) replace(host, h("p", { class: "note" }, "There is no such row."));
}

export async function compareScreen({ query, alive, where }) {
  const { runs } = await get("runs");
  where("compare");
  const done = runs.filter((run) => run.status === "done");
  const a = query.get("a") ?? done[0]?.key ?? "", b = query.get("b") ?? done.find((run) => run.key !== a)?.key ?? "";
  const pick = (name, value, label) => {
    const select = h("select", { id: `run-${name}`, onchange: () => go("compare", { a, b, [name]: select.value }) }, done.map((run) => h("option", { value: run.key, selected: run.key === value }, run.folder === "." ? run.name : run.folder)));
    return h("label", { class: "inlinelabel", for: `run-${name}` }, h("span", {}, label), select);
  };
  const head = [h("h1", {}, "Compare"), h("div", { class: "head pair" }, pick("a", a, "First run"), pick("b", b, "Second run"))];
  if (done.length < 2 || a === b) return { element: h("div", { class: "screen" }, head, h("p", { class: "note" }, "Two finished runs are needed: name their folder, as in nfilter view runs.")) };
  let found = await get("compare", { a, b });
  while (!found.ready && alive()) {
    replace(document.getElementById("main"), h("p", { class: "quiet" }, "Reading the rows of both runs."));
    await new Promise((later) => setTimeout(later, 500));
    found = await get("compare", { a, b });
  }
  const host = h("div", {});
  const tabs = [["", `all (${number(KINDS.reduce((sum, [name]) => sum + (found.counts?.[name] ?? 0), 0))})`], ...KINDS.map(([name, text]) => [name, `${text} (${number(found.counts?.[name])})`])];
  const element = h("div", { class: "screen" }, head,
    found.notes.length ? h("div", { class: "card warn" }, h("h2", {}, "Not comparable in all points"), h("ul", {}, found.notes.map((text) => h("li", {}, text)))) : null,
    h("section", { class: "card scroll", tabindex: "0", "aria-label": "Figures" }, h("h2", {}, "Figures that differ"), found.rows.every(same) ? h("p", { class: "note" }, "No figure differs.") : figures(found.rows.filter((row) => !same(row)), "Figures that differ"),
      h("details", {}, h("summary", {}, `${number(found.rows.filter(same).length)} figures are alike`), figures(found.rows.filter(same), "Figures that are alike"))),
    h("h2", {}, "Rows whose fate or label differs"), h("p", { class: "note" }, `${number(found.counts?.same)} rows end alike${found.counts?.only_first ? `, ${number(found.counts.only_first)} are in the first run alone` : ""}${found.counts?.only_second ? `, ${number(found.counts.only_second)} in the second alone` : ""}.`),
    h("div", { class: "choose", role: "group", "aria-label": "Which rows" }, tabs.map(([name, text]) => h("button", { type: "button", "aria-pressed": String((query.get("kind") ?? "") === name), onclick: () => go("compare", name ? { a, b, kind: name } : { a, b }) }, text))), host);
  return { element, shown: () => differing(host, query, a, b, alive).catch((error) => replace(host, failure(error))) };
}
