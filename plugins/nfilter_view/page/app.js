// The frame of the page: the bar at the top, and which screen is shown.

import { go, link, route } from "./api.js";
import { compareScreen } from "./compare.js";
import { failure, h, replace } from "./dom.js";
import { overviewScreen } from "./overview.js";
import { reviewScreen } from "./review.js";
import { rowScreen } from "./row.js";
import { rowsScreen } from "./rows.js";
import { runsScreen } from "./runs.js";

const main = document.getElementById("main");
const bar = document.getElementById("top");
let shown = 0;
let leave = null;

const SCREENS = { "": overviewScreen, rows: rowsScreen, row: rowScreen, review: reviewScreen };
const TABS = [["", "Overview"], ["rows", "Rows"], ["review", "Review"]];

function header(key, screen, comparing) {
  const tabs = key ? TABS.map(([name, text]) => h("a", { href: link(`run/${key}${name ? `/${name}` : ""}`), "aria-current": name === screen || (name === "rows" && screen === "row") ? "page" : null }, text)) : [];
  tabs.push(h("a", { href: link("compare", key ? { a: key } : {}), "aria-current": comparing ? "page" : null }, "Compare"));
  replace(bar, h("a", { class: "brand", href: link("") }, "nfilter"), h("span", { id: "where" }), h("nav", { "aria-label": "Screens" }, tabs));
}

/** Names the run in the bar and in the window's title. */
export function where(text) {
  replace(document.getElementById("where"), text);
  document.title = text ? `${text} · nfilter` : "nfilter";
}

async function show() {
  const { parts, query } = route();
  const mine = (shown += 1);
  const alive = () => mine === shown;
  leave?.();
  leave = null;
  const [first, key, screen = ""] = parts;
  header(first === "run" ? key : null, screen, first === "compare");
  where("");
  replace(main, h("p", { class: "quiet" }, "Loading."));
  window.scrollTo(0, 0);
  try {
    let made;
    if (first === "run") made = await (SCREENS[screen] ?? overviewScreen)({ key, query, alive, where });
    else if (first === "compare") made = await compareScreen({ query, alive, where });
    else made = await runsScreen({ alive, where });
    if (!alive()) return made?.leave?.();
    leave = made.leave ?? null;
    replace(main, made.element);
    made.shown?.();
  } catch (error) {
    if (alive()) replace(main, failure(error));
  }
}

window.addEventListener("hashchange", (event) => {
  // A link to a place of the page keeps the screen.
  if (location.hash === "#main") {
    history.replaceState(null, "", new URL(event.oldURL).hash || "#");
    main.focus();
    return;
  }
  show();
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && route().parts[2] === "row") {
    const { parts, query } = route();
    query.delete("id");
    go(`run/${parts[1]}/rows`, query);
  }
});
show();
