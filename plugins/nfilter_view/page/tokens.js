// The response as training sees it: tokens coloured by weight and reason, or by a score.

import { scale } from "./charts.js";
import { h, number, replace, stageName, visible } from "./dom.js";

const STEPS = 7;
const REASONS = 5;

function shades(tokens, name) {
  const values = tokens.map((token) => token.scores[name]).filter((value) => value !== undefined);
  const low = Math.min(...values), high = Math.max(...values);
  const log = low > 0 && high / low > 100;
  const at = scale(low, high, 0, STEPS - 1, log);
  return { low, high, log, of: (value) => (value === undefined ? "none" : `h${high === low ? 0 : Math.round(at(value))}`) };
}

function told(token) {
  const scores = Object.entries(token.scores).map(([name, value]) => `${name} ${number(value)}`);
  const loss = token.weight ? `weight ${number(token.weight)}` : token.masked_by.length ? `out of the loss by ${token.masked_by.map(stageName).join(", ")}` : "out of the loss";
  return [`token ${token.position}, id ${token.id}`, loss, ...scores].join(" · ");
}

export function tokenPart(tokens) {
  const names = [...new Set(tokens.flatMap((token) => Object.keys(token.scores)))];
  const reasons = [...new Set(tokens.flatMap((token) => token.masked_by))];
  const most = Math.max(...tokens.map((token) => token.weight), 1e-9);
  const strip = h("p", { class: "tokens pre", tabindex: "0", role: "group", "aria-label": "Tokens of the response; left and right move, what is told of the token stands below" });
  const info = h("p", { class: "note", role: "status" }, "Point at a token, or move with the arrow keys, for its weight and scores.");
  const key = h("p", { class: "legend" });
  let chosen = "";
  let active = -1;

  const mark = (at) => {
    strip.children[active]?.classList.remove("active");
    active = at;
    strip.children[at]?.classList.add("active");
    replace(info, h("b", {}, visible(tokens[at].piece) || "·"), ` ${told(tokens[at])}`);
  };
  const draw = () => {
    const shade = chosen ? shades(tokens, chosen) : null;
    const style = (token) => {
      if (shade) return shade.of(token.scores[chosen]);
      if (token.weight) return token.weight >= most * 0.99 ? "in" : "in part";
      return `out r${Math.min(REASONS, Math.max(0, reasons.indexOf(token.masked_by[0])))}`;
    };
    replace(strip, tokens.map((token, at) => h("span", { class: `token ${style(token)}`, onmouseenter: () => mark(at) }, token.piece || "·")));
    if (shade) replace(key, h("span", {}, number(shade.low)), Array.from({ length: STEPS }, (_, at) => h("i", { class: `swatch h${at}` })), h("span", {}, `${number(shade.high)}${shade.log ? " (log scale)" : ""}`));
    else replace(key, h("span", {}, h("i", { class: "swatch in" }), "in the loss"), reasons.map((name, at) => h("span", {}, h("i", { class: `swatch r${Math.min(REASONS, at)}` }), `out: ${stageName(name)}`)));
  };
  strip.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    mark(Math.min(tokens.length - 1, Math.max(0, active + step)));
  });
  const select = h("select", { id: "token-colour", onchange: () => { chosen = select.value; draw(); } }, h("option", { value: "" }, "weight and reason"), names.map((name) => h("option", { value: name }, name)));
  draw();
  const count = tokens.filter((token) => token.weight).length;
  return h("div", {}, h("label", { class: "inlinelabel", for: "token-colour" }, h("span", {}, "Colour by"), select), key, strip, info, h("p", { class: "note" }, `${number(count)} of ${number(tokens.length)} tokens are in the loss.`));
}

