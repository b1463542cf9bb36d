// All runs of the folder.

import { get, go, link } from "./api.js";
import { dollars, h, moment, number, percent, seconds } from "./dom.js";

function arm(run, name) {
  return run.arms?.find((one) => one.arm === name)?.mean;
}

function gain(run) {
  const cleaned = arm(run, "cleaned"), raw = arm(run, "raw");
  if (cleaned === undefined) return "–";
  return raw === undefined ? percent(cleaned) : `${percent(raw)} → ${percent(cleaned)}`;
}

export async function runsScreen({ where }) {
  const { runs, root } = await get("runs");
  if (runs.length === 1 && !runs[0].error) {
    queueMicrotask(() => go(`run/${runs[0].key}`));
  }
  where("");
  const rows = runs.map((run) => h("tr", {},
    h("th", { scope: "row" }, h("a", { href: link(`run/${run.key}`) }, run.folder === "." ? run.name : run.folder), run.error ? h("p", { class: "note" }, run.error) : h("p", { class: "note moment" }, moment(run.began))),
    h("td", {}, h("span", { class: `badge ${run.status === "done" ? "kept" : "relabelled"}` }, run.status)),
    h("td", { class: "num" }, number(run.rows)),
    h("td", { class: "num" }, number(run.samples?.kept)),
    h("td", { class: "num" }, number(run.samples?.relabelled)),
    h("td", { class: "num" }, number(run.samples?.dropped)),
    h("td", { class: "num" }, gain(run)),
    h("td", { class: "num" }, seconds(run.seconds)),
    h("td", { class: "num" }, run.usd ? dollars(run.usd) : "–"),
  ));
  const heads = ["Run", "Status", "Rows", "Kept", "Relabelled", "Dropped", "Accuracy raw → cleaned", "Time", "Cost"];
  const element = h("div", {}, h("h1", {}, `${runs.length} ${runs.length === 1 ? "run" : "runs"}`), h("p", { class: "note" }, root),
    h("div", { class: "card scroll", tabindex: "0", role: "region", "aria-label": "Runs" }, h("table", { class: "plain" }, h("thead", {}, h("tr", {}, heads.map((head, at) => h("th", { scope: "col", class: at > 1 ? "num" : null }, head)))), h("tbody", {}, rows))));
  return { element };
}
