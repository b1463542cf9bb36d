// What changed between two texts, by words.

import { h } from "./dom.js";

const MOST = 400; // words; longer texts are shown whole, before and after

function words(text) {
  return text.match(/\s+|[^\s]+/gu) ?? [];
}

/** Parts of both texts in order: [kind, text] with kind "same", "del" or "ins". */
export function parts(before, after) {
  const a = words(before), b = words(after);
  if (a.length > MOST || b.length > MOST) return [["del", before], ["ins", after]];
  const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  }
  const out = [];
  const add = (kind, text) => (out.at(-1)?.[0] === kind ? (out.at(-1)[1] += text) : out.push([kind, text]));
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      add("same", a[i]);
      i += 1;
      j += 1;
    } else if (j >= b.length || (i < a.length && table[i + 1][j] >= table[i][j + 1])) {
      add("del", a[i]);
      i += 1;
    } else {
      add("ins", b[j]);
      j += 1;
    }
  }
  return out;
}

/** The label before and after, with what was taken out and what was put in. */
export function diff(before, after) {
  if (before === after) return h("p", { class: "pre text" }, before || "(empty)");
  return h("p", { class: "pre text" }, parts(before, after).map(([kind, text]) => (kind === "same" ? text : h(kind, {}, text))));
}
