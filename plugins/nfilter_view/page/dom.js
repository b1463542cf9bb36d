// Builds the page of elements and text nodes alone: what rows and models wrote is never parsed as markup.

const SVG = "http://www.w3.org/2000/svg";
// C0 and C1 controls but tab and newline, marks that turn the direction of text, and lone surrogates.
const UNSAFE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]/u;

/** A text with every character that could mislead made visible. */
export function visible(text) {
  let out = "";
  for (const character of String(text).replaceAll("\r\n", "\n")) {
    const code = character.codePointAt(0);
    if (!UNSAFE.test(character)) out += character;
    else if (code < 256) out += "\\x" + code.toString(16).padStart(2, "0");
    else out += "\\u" + code.toString(16).padStart(4, "0");
  }
  return out;
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected") element[name] = value;
    else if (name === "width%") element.style.width = `${value}%`;
    else if (name === "left%") element.style.left = `${value}%`;
    else element.setAttribute(name, value === true ? "" : visible(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(4)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(visible(child)));
  }
}

/** An HTML element with attributes (`onclick` and the like are listeners) and children: nodes, or texts. */
export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** An SVG element. */
export function s(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/** Puts `children` in the place of what an element holds. */
export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** Tells a screen reader. */
export function say(text) {
  replace(document.getElementById("say"), text);
}

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size && (size < 0.001 || size >= 1e6)) return value.toExponential(2);
  return value.toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: Math.min(digits, 2) });
}

export function percent(value, digits = 1) {
  return value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)}%`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(1)} s`;
  // Whole seconds first, so that neither part is rounded up to 60.
  const whole = Math.round(value);
  if (whole < 600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(value / 60);
  if (minutes < 60) return `${minutes} min`;
  return minutes < 600 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.round(minutes / 60)} h`;
}

/** A time as runs record it, `2026-01-31T09:05:00Z`, without its seconds. */
export function moment(text) {
  const found = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*Z$/.exec(text ?? "");
  return found ? `${found[1]} ${found[2]} UTC` : (text ?? "");
}

export function dollars(value) {
  if (value === null || value === undefined) return "–";
  return value && value < 0.01 ? `$${value.toPrecision(2)}` : `$${value.toFixed(2)}`;
}

/** Without the number of the stage and of the plugin: `03-robustft.check` reads `check`. */
export function stageName(label) {
  return label.replace(/^\d+-/, "");
}

const BADGES = { kept: "kept", unchanged: "kept", relabelled: "relabelled", dropped: "dropped", made: "plain", weighed: "plain", unreadable: "plain" };

export function badge(word) {
  return h("span", { class: `badge ${BADGES[word] ?? "plain"}` }, word);
}

/** A section with a heading; `note` says in one line how to read it. */
export function section(title, note, ...children) {
  const id = `s-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return h("section", { class: "card", "aria-labelledby": id }, h("h2", { id }, title), note ? h("p", { class: "note" }, note) : null, children);
}

export function failure(error) {
  return h("div", { class: "card failure", role: "alert" }, h("h2", {}, "This did not work"), h("p", { class: "pre" }, error.message ?? error));
}
