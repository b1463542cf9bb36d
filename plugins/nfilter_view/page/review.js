// Reviewing row after row by keyboard.

import { facets, get, go, link, post } from "./api.js";
import { failure, h, number, percent, replace, say, section } from "./dom.js";
import { essence } from "./row.js";
import { filterOf } from "./rows.js";

const KEYS = [["a", "accept what the run did"], ["1–9", "relabel with that choice"], ["e", "write another label"], ["d", "drop the row"], ["s", "skip"], ["w", "say why"], ["b", "back to the row before"]];

function interval(found, words, meaning) {
  if (!found) return null;
  if (found.value === null || found.value === undefined) return h("li", {}, h("span", {}, words), h("span", { class: "note" }, found.why ?? "not known"));
  return h("li", {}, h("span", {}, words), h("b", {}, percent(found.value)), h("span", { class: "bar interval", "aria-hidden": "true" }, h("i", { "left%": 100 * found.low, "width%": 100 * (found.high - found.low) })), h("span", { class: "note" }, `${meaning}; 95% interval ${percent(found.low)} to ${percent(found.high)}`));
}

function standing(key, state, draw) {
  const audit = state.audit;
  const counts = ["accept", "relabel", "drop", "skip"].filter((name) => state.actions[name]).map((name) => h("span", {}, `${name} `, h("b", {}, number(state.actions[name]))));
  const parts = [h("p", { class: "inline" }, h("span", {}, "decided ", h("b", {}, number(state.reviewed))), counts)];
  if (audit?.estimates) {
    parts.push(h("p", { class: "note" }, `${number(audit.answered)} of the ${number(audit.drawn)} rows drawn at random count so far.`), h("ul", { class: "figures" }, interval(audit.estimates.precision, "precision", "of the flagged labels are wrong"), interval(audit.estimates.recall, "recall", "of the wrong labels are flagged"), interval(audit.estimates.noise_rate, "noise rate", "of all labels are wrong")));
    if (audit.answered === audit.drawn && audit.drawn < audit.population) parts.push(h("button", { type: "button", onclick: draw }, "Draw 50 more rows"));
  } else if (audit) {
    parts.push(h("p", { class: "note" }, `${number(audit.drawn)} rows are drawn at random; none of them counts yet. Precision and recall come from these rows in their random order.`), h("a", { href: link(`run/${key}/review`, { of: "audit" }) }, "review the rows drawn at random"));
  } else {
    parts.push(h("p", { class: "note" }, "Precision and recall need rows drawn at random, reviewed in a random order: those that one picks, or that a score puts first, say nothing of the others."), h("button", { type: "button", onclick: draw }, "Draw 50 rows"));
  }
  for (const text of audit?.notes ?? []) parts.push(h("p", { class: "note" }, `${text[0].toUpperCase()}${text.slice(1)}.`));
  if (state.reviewed) parts.push(h("p", { class: "note" }, "Type the same nfilter run again: these rows end as decided, and no call is repeated."));
  return parts;
}

export async function reviewScreen({ key, query, alive, where }) {
  const run = await get(`runs/${key}`);
  where(run.folder === "." ? run.name : run.folder);
  await facets(key, () => {}, alive);
  const wanted = filterOf(query);
  const audit = query.get("of") === "audit";
  const past = [];
  let row = null, state = null, left = 0, queue = [], busy = false, inOrder = false;

  const card = h("div", { class: "reviewed" });
  const side = h("div", { class: "standing" });
  const progress = h("p", { class: "count", role: "status" });
  const editor = h("textarea", { id: "editor", rows: "3", "aria-label": "Another label", spellcheck: "false" });
  const why = h("input", { id: "why", type: "text", autocomplete: "off", placeholder: "why (optional)", "aria-label": "Why" });
  const fault = h("div", {});

  const drawState = () => replace(side, standing(key, state, async () => {
    state = await post(`runs/${key}/review/draw`, { n: 50 + (state.audit?.drawn ?? 0) });
    if (audit) return next();
    return go(`run/${key}/review`, { of: "audit" });
  }));
  const fetchQueue = async () => {
    const found = await get(`runs/${key}/review`, audit ? { of: "audit" } : wanted);
    queue = found.next.map((one) => one.id);
    left = found.left;
    state = found;
    drawState();
  };
  async function show(id, ordered) {
    inOrder = audit && ordered;
    row = id ? await get(`runs/${key}/row`, { id }) : null;
    if (!alive()) return;
    editor.value = row?.label_now ?? "";
    why.value = "";
    drawCard();
    window.scrollTo(0, 0);
  }
  async function next() {
    if (!queue.length) await fetchQueue();
    await show(queue.shift() ?? null, true);
  }
  async function decide(action, label) {
    if (!row || busy) return;
    busy = true;
    try {
      const done = await post(`runs/${key}/review/decide`, { id: row.id, action, label: label ?? null, why: why.value, in_order: inOrder });
      state = done;
      replace(fault);
      say(`${action}: ${done.review.label ?? ""}`);
      past.push(row.id);
      left = Math.max(0, left - 1);
      drawState();
      await next();
    } catch (error) {
      replace(fault, failure(error));
    } finally {
      busy = false;
    }
  }
  async function back() {
    if (!past.length || busy) return;
    if (row) queue.unshift(row.id);
    left += 1;
    await show(past.pop());
  }
  function relabel() {
    const text = editor.value;
    if (text.trim()) decide("relabel", text);
  }

  function drawCard() {
    replace(progress, row ? `${number(left)} ${left === 1 ? "row" : "rows"} left` : "Nothing is left to review here.");
    if (!row) {
      replace(card, h("div", { class: "card" }, h("h2", {}, "Done"), h("p", {}, "Run the same command again: the rows end as you decided, and no call is repeated."), h("p", {}, h("a", { href: link(`run/${key}/review`) }, "all borderline rows"))));
      return;
    }
    const dropped = row.status === "dropped";
    const outcome = dropped ? "drop it" : row.label === row.label_now ? "keep it as it is" : "take the new label";
    const choices = row.choices.map((one, at) => h("button", { type: "button", class: "choice", onclick: () => decide("relabel", one.label) }, at < 9 ? h("kbd", {}, String(at + 1)) : null, h("span", { class: "pre clip" }, one.shown), one.source ? h("span", { class: "note" }, one.source) : null));
    const actions = h("div", { class: "card actions", role: "group", "aria-label": "Decision" },
      h("div", { class: "buttons" },
        h("button", { type: "button", class: "main", id: "accept", onclick: () => decide("accept") }, h("kbd", {}, "a"), `accept: ${outcome}`),
        h("button", { type: "button", id: "drop", onclick: () => decide("drop") }, h("kbd", {}, "d"), "drop"),
        h("button", { type: "button", id: "skip-row", onclick: () => decide("skip") }, h("kbd", {}, "s"), "skip"),
        past.length ? h("button", { type: "button", onclick: back }, h("kbd", {}, "b"), "back") : null),
      h("p", { class: "note" }, "The label is:"), h("div", { class: "buttons choices" }, choices),
      h("div", { class: "editor" }, editor, h("button", { type: "button", onclick: relabel }, "relabel with this ", h("kbd", {}, "Ctrl ⏎"))), why, fault);
    const [conversation, views] = essence(row);
    replace(card, conversation, actions, views);
  }

  const keys = (event) => {
    if (event.target === editor && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      editor.blur();
      return relabel();
    }
    if (event.key === "Escape" && (event.target === editor || event.target === why)) return event.target.blur();
    if (event.target === why && event.key === "Enter") return why.blur();
    if (event.target.matches?.("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return undefined;
    const digit = Number(event.key);
    if (digit >= 1 && digit <= 9 && row?.choices[digit - 1]) return decide("relabel", row.choices[digit - 1].label);
    const act = { a: () => decide("accept"), d: () => decide("drop"), s: () => decide("skip"), b: back, e: () => editor.focus(), w: () => why.focus() }[event.key];
    if (act && row) {
      event.preventDefault();
      act();
    }
    return undefined;
  };
  document.addEventListener("keydown", keys);

  await fetchQueue();
  if (query.get("id")) await show(query.get("id"));
  else await next();
  const kinds = [["", "borderline first"], ["audit", "drawn at random"]];
  const select = h("select", { id: "of", onchange: () => go(`run/${key}/review`, select.value ? { of: select.value } : {}) }, kinds.filter(([value]) => !value || state.audit).map(([value, text]) => h("option", { value, selected: (audit ? "audit" : "") === value }, text)));
  const element = h("div", { class: "screen review" },
    h("div", { class: "head" }, h("h1", {}, "Review"), progress, h("label", { class: "inlinelabel", for: "of" }, h("span", {}, "Rows"), select)),
    h("div", { class: "columns" }, card, h("aside", { "aria-label": "Progress" }, section("So far", null, side), section("Keys", null, h("dl", { class: "keys" }, KEYS.map(([name, text]) => h("div", {}, h("dt", {}, h("kbd", {}, name)), h("dd", {}, text))))))));
  return { element, leave: () => document.removeEventListener("keydown", keys) };
}
