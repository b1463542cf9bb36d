// One row: what came in, what became of it, who said what, and what each call asked, answered and cost.

import { facets, get, link } from "./api.js";
import { diff } from "./diff.js";
import { badge, dollars, h, number, section, stageName } from "./dom.js";
import { filterOf } from "./rows.js";
import { tokenPart } from "./tokens.js";

function turn(role, text) {
  return h("div", { class: `turn ${["user", "assistant", "system", "tool"].includes(role) ? role : "other"}` }, h("span", { class: "role" }, role), h("p", { class: "pre text" }, text || "(empty)"));
}

/** Any JSON value as nested lists. */
function tree(value, deep = 0) {
  if (value === null || typeof value !== "object") return h("span", { class: "pre" }, typeof value === "number" ? number(value, 6) : value === null ? "none" : String(value));
  const entries = Array.isArray(value) ? value.map((one, at) => [at + 1, one]) : Object.entries(value);
  if (!entries.length) return h("span", {}, "none");
  const short = (one) => typeof one === "number" || (typeof one === "string" && one.length <= 40 && !/[,\n]/.test(one));
  if (Array.isArray(value) && value.every(short)) return h("span", {}, value.map((one) => (typeof one === "number" ? number(one, 6) : one)).join(", "));
  if (deep > 6) return h("span", { class: "pre" }, JSON.stringify(value));
  return h("dl", { class: "tree" }, entries.slice(0, 200).map(([name, one]) => h("div", {}, h("dt", {}, name), h("dd", {}, tree(one, deep + 1)))));
}

function isView(note) {
  return note && typeof note === "object" && "answer" in note && "text" in note;
}

function isVerdict(note) {
  return note && typeof note === "object" && "flagged" in note && "noise_score" in note;
}

export function viewCard(name, note, label) {
  const agrees = note.answer === null ? (note.skipped ? "not asked" : "no answer") : note.answer === label ? "agrees with the label" : "contradicts the label";
  const facts = [["loss per token", note.nll, "of the model's own answer; near 0 where it is sure"], ["answers that agree", note.agreement, "the share of several answers of this model that are the same"], ["votes for the label", note.support, "as a share of all votes"], ["tokens", note.tokens || null], ["calls", note.calls || null]].filter(([, value]) => typeof value === "number");
  const votes = note.votes && typeof note.votes === "object" ? Object.entries(note.votes).filter(([, value]) => typeof value === "number").sort((a, b) => b[1] - a[1]).slice(0, 6) : [];
  return h("article", { class: "view" }, h("h3", {}, name, h("span", { class: `badge ${note.answer === null ? "plain" : note.answer === label ? "kept" : "dropped"}` }, agrees)),
    h("p", { class: `answer pre${note.answer === null ? " none" : ""}` }, note.answer ?? note.skipped ?? note.failure ?? "no answer"),
    facts.length ? h("p", { class: "inline" }, facts.map(([fact, value, meaning]) => h("span", { title: meaning ?? null }, `${fact} `, h("b", {}, number(value))))) : null,
    votes.length ? h("ul", { class: "votes" }, votes.map(([answer, value]) => h("li", {}, h("span", { class: "pre" }, answer), h("span", { class: "bar thin", "aria-hidden": "true" }, h("i", { class: "time", "width%": 100 * Math.min(1, value) })), h("span", { class: "num" }, number(value))))) : null,
    note.reasoning ? h("details", { open: note.reasoning.length < 400 }, h("summary", {}, "Reasoning"), h("p", { class: "pre text" }, note.reasoning)) : null,
    note.weak ? h("p", { class: "note" }, `no vote: ${note.weak}`) : null);
}

function neighbours(row, key) {
  const cards = Object.values(row.related).filter((one) => !row.parents.includes(one.id) && !row.children.includes(one.id));
  if (!cards.length) return null;
  return section("Neighbours that voted", null, h("ul", { class: "cards" }, cards.map((one) => h("li", {}, h("a", { href: link(`run/${key}/row`, { id: one.id }) }, h("span", { class: "pre clip" }, one.question || one.id), h("b", { class: "pre clip" }, one.given ?? ""), badge(one.action))))));
}

function family(row, key) {
  const list = (names, title) => (names.length ? h("p", {}, `${title}: `, names.slice(0, 20).map((id) => [h("a", { href: link(`run/${key}/row`, { id }) }, id), " "])) : null);
  return row.parents.length || row.children.length ? section("Parents and children", null, list(row.parents, "made from"), list(row.children, "rows made from this one")) : null;
}

function call(one, at) {
  const facts = [one.model, `${number(one.prompt_tokens)} tokens in`, `${number(one.completion_tokens)} out`, one.usd ? dollars(one.usd) : null, one.nll === null ? null : `loss per token ${number(one.nll)}`, one.failure ? `failed: ${one.failure}` : null].filter(Boolean);
  return h("details", { class: "call" }, h("summary", {}, h("span", {}, `${at + 1}. ${stageName(one.stage)}`), h("span", { class: "note" }, facts.join(" · "))),
    one.prompt ? one.prompt.map(([role, text]) => turn(role, text)) : h("p", { class: "note" }, "The prompt is not on record: this run is from before prompts were kept. Run it again and it is; no call is repeated."),
    one.reasoning ? h("details", {}, h("summary", {}, "Reasoning"), h("p", { class: "pre text" }, one.reasoning)) : null,
    turn("assistant", one.text));
}

function timeline(row) {
  const rows = row.events.map((event) => {
    const others = Object.entries(event.notes).filter(([, note]) => !isView(note) && !isVerdict(note));
    const asIs = Object.entries(event.notes).filter(([, note]) => isView(note) || isVerdict(note));
    return h("li", {}, h("h3", {}, stageName(event.stage)),
      event.decisions.map((one) => h("p", {}, h("span", { class: `badge ${{ drop: "dropped", relabel: "relabelled", keep: "kept" }[one.action] ?? "plain"}` }, one.action), " ", h("span", { class: "pre" }, one.reason))),
      event.label_after !== null && event.label_before !== event.label_after ? diff(event.label_before ?? "", event.label_after) : null,
      event.weight_after !== null && event.weight_after !== undefined ? h("p", {}, `weight ${number(event.weight_before)} → ${number(event.weight_after)}`) : null,
      others.map(([name, note]) => h("div", { class: "gate" }, h("h4", {}, name), tree(note))),
      asIs.length ? h("details", {}, h("summary", {}, `What it wrote: ${asIs.map(([name]) => name).join(", ")}`), asIs.map(([name, note]) => h("div", { class: "gate" }, h("h4", {}, name), tree(note)))) : null);
  });
  return rows.length ? section("Stage by stage", null, h("ol", { class: "timeline" }, rows)) : null;
}

export function verdictOf(row) {
  let found = null;
  for (const event of row.events) for (const [name, note] of Object.entries(event.notes)) if (isVerdict(note)) found = { name, stage: event.stage, ...note };
  return found;
}

export function viewsOf(row) {
  const found = {};
  for (const event of row.events) for (const [name, note] of Object.entries(event.notes)) if (isView(note)) found[name] = note;
  return found;
}

// The rules by which views flag a label; another name is shown as it is.
const RULES = { all: "a label is flagged unless all views agree with it", any: "a label is flagged if no view agrees with it", probability: "a label is flagged by its noise score", judge: "a model decides where views contradict the label", none: "no label is flagged" };

export function verdictLine(row) {
  const found = verdictOf(row);
  if (!found) return null;
  const agree = Object.entries(found.agree ?? {}).map(([name, value]) => `${name} ${value === null ? "says nothing" : value ? "agrees" : "contradicts"}`);
  return h("p", { class: "inline" }, h("span", { class: `badge ${found.flagged ? "dropped" : "kept"}` }, found.flagged ? "flagged" : "not flagged"), h("span", { title: "how likely the label is wrong: 0 is surely right, 1 surely wrong" }, "noise score ", h("b", {}, number(found.noise_score)), " of 1"), found.vote ? h("span", { class: "note" }, RULES[found.vote] ?? `rule: ${found.vote}`) : null, agree.length ? h("span", {}, agree.join(", ")) : null);
}

/** The parts of a row that a person needs to judge it. */
export function essence(row) {
  if (row.status === "unreadable") return [section("The line", row.reason, h("p", { class: "pre text" }, row.raw))];
  const views = Object.entries(viewsOf(row));
  const dropped = row.status === "dropped";
  const changed = row.label !== row.label_now;
  const relabels = row.events.flatMap((event) => event.decisions).filter((one) => one.action === "relabel");
  const why = changed && !dropped && relabels.length ? relabels.at(-1).reason : row.reason ?? "";
  return [
    section("Conversation", null, row.messages.map(([role, text]) => turn(role, text)),
      h("div", { class: "turn assistant now" }, h("span", { class: "role" }, changed ? "label, before and after" : "label"), diff(row.label ?? "", row.label_now ?? "")),
      row.rejected ? turn("rejected", row.rejected) : null,
      h("p", { class: "inline" }, badge(dropped ? "dropped" : changed ? "relabelled" : row.status), row.pinned ? h("span", { class: "badge plain" }, "pinned by a person") : null, h("span", { class: "pre" }, why)), why !== row.reason && row.reason ? h("p", { class: "pre note" }, `then kept: ${row.reason}`) : null, verdictLine(row)),
    views.length ? section("Views", null, h("div", { class: "views" }, views.map(([name, note]) => viewCard(name, note, row.label)))) : null,
  ];
}

function truthPart(row) {
  if (row.truth === undefined || row.truth === null) return null;
  return h("details", { class: "card" }, h("summary", {}, "The known true label"), h("p", { class: "pre text" }, row.truth), h("p", { class: "note" }, row.truth === row.label ? "The label as given is right." : row.truth === row.label_now ? "The label as given is wrong; the run's label is right." : "The label as given is wrong."));
}

function costLine(row) {
  const calls = row.events.flatMap((event) => event.calls);
  if (!calls.length) return section("Calls", null, h("p", { class: "note" }, "No model was asked about this row."));
  const sum = (what) => calls.reduce((total, one) => total + (one[what] ?? 0), 0);
  const paid = sum("usd");
  return section("Calls", `${calls.length} ${calls.length === 1 ? "call" : "calls"}, ${number(sum("prompt_tokens"))} tokens in, ${number(sum("completion_tokens"))} out${paid ? `, ${dollars(paid)}` : ""}.`, calls.map(call));
}

export async function rowScreen({ key, query, alive, where }) {
  const run = await get(`runs/${key}`);
  where(run.folder === "." ? run.name : run.folder);
  await facets(key, () => {}, alive);
  const row = await get(`runs/${key}/row`, { id: query.get("id") ?? "" });
  const review = row.review;
  const columns = Object.entries(row.columns ?? {});
  const element = h("div", { class: "screen" },
    h("div", { class: "idline" }, h("h1", { class: "id" }, row.id), h("a", { href: link(`run/${key}/rows`, filterOf(query)) }, "← all rows"),
      row.status === "unreadable" || row.parents.length ? null : h("a", { href: link(`run/${key}/review`, { id: row.id }) }, "review this row")),
    review ? h("p", { class: "inline" }, h("span", { class: "badge plain" }, `reviewed: ${review.action}`), h("span", {}, `${review.who} ${review.when}`), review.why ? h("span", { class: "pre" }, review.why) : null) : null,
    essence(row), neighbours(row, key), family(row, key),
    row.response_tokens?.length ? section("Tokens", null, tokenPart(row.response_tokens)) : null,
    timeline(row), row.status === "unreadable" ? null : costLine(row), truthPart(row),
    columns.length ? section("Columns of the source", null, tree(Object.fromEntries(columns))) : null,
    row.gaps.length ? h("p", { class: "note" }, row.gaps.join("; ")) : null);
  return { element };
}

