// Asks the server. The token stands behind # in the address, which browsers send to nobody; each request carries it in a header.

let token = "";

/** What the address says: the path behind the token, and its parameters. */
export function route() {
  const text = location.hash.slice(1);
  const cut = text.indexOf("/");
  if (cut > 0) token = text.slice(0, cut);
  const [path, query] = (cut < 0 ? "" : text.slice(cut + 1)).split("?");
  return { parts: path.split("/").filter(Boolean).map(decodeURIComponent), query: new URLSearchParams(query ?? "") };
}

/** The address of a screen. */
export function link(path, query) {
  const text = query ? new URLSearchParams(query).toString() : "";
  return `#${token}/${path}${text ? `?${text}` : ""}`;
}

export function go(path, query) {
  location.hash = link(path, query);
}

/** Changes the address without leaving the screen. */
export function note(path, query) {
  history.replaceState(null, "", link(path, query));
}

export async function get(path, query, signal) {
  const text = query ? `?${new URLSearchParams(query)}` : "";
  return answer(await fetch(`api/${path}${text}`, { headers: { "X-Nfilter-Token": token }, signal }));
}

export async function post(path, value) {
  const headers = { "X-Nfilter-Token": token, "Content-Type": "application/json" };
  return answer(await fetch(`api/${path}`, { method: "POST", headers, body: JSON.stringify(value) }));
}

async function answer(response) {
  const text = await response.text();
  let value = null;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error(text || `The server answered ${response.status}.`);
  }
  if (!response.ok) throw new Error(value.error ?? `The server answered ${response.status}.`);
  return value;
}

/** Waits until the index of a run is made; `tell` is called with the number of rows so far. */
export async function facets(key, tell, alive) {
  for (;;) {
    const found = await get(`runs/${key}/index`);
    if (found.ready || !alive()) return found;
    tell(found.done, found.of);
    await new Promise((done) => setTimeout(done, 500));
  }
}
