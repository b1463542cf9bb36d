// Charts as SVG. Each is drawn for the width that it has, and again when that changes; a table of its numbers is beside it.

import { h, number, replace, s } from "./dom.js";

/** An element that draws itself with `draw(width)`; `label` is what a screen reader says. */
export function chart(label, draw) {
  const host = h("div", { class: "chart", role: "img", "aria-label": label });
  let width = 0;
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now > 40 && now !== width) {
      width = now;
      replace(host, draw(now));
    }
  }).observe(host);
  return host;
}

export function ticks(low, high, about = 5) {
  if (!(high > low)) return [low];
  const raw = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((one) => one * power >= raw) * power;
  const out = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) out.push(Math.abs(at) < step * 1e-9 ? 0 : at);
  return out;
}

export function decades(low, high) {
  const out = [];
  const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
  const every = Math.max(1, Math.ceil((last - first) / 6));
  for (let power = first; power <= last; power += every) out.push(10 ** power);
  return out;
}

export function scale(low, high, from, to, log = false) {
  const a = log ? Math.log10(low) : low, b = log ? Math.log10(high) : high;
  return (value) => from + ((log ? Math.log10(value) : value) - a) / (b - a || 1) * (to - from);
}

function short(value) {
  if (value && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e5)) return value.toExponential(0).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

/** The frame of a chart: axes with ticks and names. */
function frame(width, height, box, x, y, names) {
  const out = [];
  for (const at of y.ticks) {
    out.push(s("line", { class: "grid", x1: box.left, x2: width - box.right, y1: y.at(at), y2: y.at(at) }));
    out.push(s("text", { class: "tick", x: box.left - 6, y: y.at(at) + 4, "text-anchor": "end" }, (y.text ?? short)(at)));
  }
  for (const at of x.ticks) {
    out.push(s("text", { class: "tick", x: x.at(at), y: height - box.bottom + 16, "text-anchor": "middle" }, (x.text ?? short)(at)));
  }
  out.push(s("line", { class: "axis", x1: box.left, x2: width - box.right, y1: height - box.bottom, y2: height - box.bottom }));
  if (names.x) out.push(s("text", { class: "name", x: (box.left + width - box.right) / 2, y: height - 4, "text-anchor": "middle" }, names.x));
  if (names.y) out.push(s("text", { class: "name", x: 2, y: 11 }, names.y));
  return out;
}

/** Bars of a score's histogram, stacked: `parts` are {name, counts, style}, from below. */
export function histogram(found, parts, name) {
  const totals = found.edges.slice(1).map((_, at) => parts.reduce((sum, part) => sum + part.counts[at], 0));
  const most = Math.max(1, ...totals);
  const some = totals.filter((one) => one > 0);
  // Counts that span decades are drawn on a logarithmic axis, as else most bars could not be seen.
  const log = some.length > 1 && most / Math.min(...some) > 100;
  const label = `Histogram of ${name}: ${parts.map((part) => `${number(part.counts.reduce((a, b) => a + b, 0))} ${part.name}`).join(", ")}`;
  return chart(label, (width) => {
    const height = 210, box = { left: 46, right: 12, top: 22, bottom: 38 };
    const low = found.edges[0], high = found.edges.at(-1);
    const atX = scale(low, high, box.left, width - box.right, found.log);
    const plain = scale(log ? 0.7 : 0, most, height - box.bottom, box.top, log);
    const atY = (value) => (value <= 0 ? height - box.bottom : plain(value));
    const x = { at: atX, ticks: found.log ? decades(low, high) : ticks(low, high, width < 500 ? 4 : 8) };
    const y = { at: atY, ticks: log ? decades(1, most) : ticks(0, most, 4) };
    const out = frame(width, height, box, x, y, { x: name + (found.log ? " (log)" : ""), y: log ? "rows (log)" : "rows" });
    for (let at = 0; at < totals.length; at += 1) {
      let sum = 0;
      const left = atX(found.edges[at]), right = atX(found.edges[at + 1]);
      for (const part of parts) {
        const count = part.counts[at];
        if (!count) continue;
        const top = atY(sum + count), foot = atY(sum);
        out.push(s("rect", { class: part.style, x: left + 0.5, width: Math.max(0.5, right - left - 1), y: top, height: Math.max(0.5, foot - top) },
          s("title", {}, `${number(found.edges[at])} to ${number(found.edges[at + 1])}: ${number(count)} ${part.name}`)));
        sum += count;
      }
    }
    if (found.cut !== null && found.cut !== undefined) {
      const at = atX(found.cut);
      out.push(s("line", { class: "cut", x1: at, x2: at, y1: box.top - 8, y2: height - box.bottom }));
      out.push(s("text", { class: "cutname", x: at + (at > width - 90 ? -5 : 5), y: box.top - 2, "text-anchor": at > width - 90 ? "end" : "start" }, `cut ${number(found.cut)}`));
    }
    return s("svg", { width, height, viewBox: `0 0 ${width} ${height}` }, out);
  });
}

export function legend(parts) {
  return h("p", { class: "legend" }, parts.map((part) => h("span", {}, h("i", { class: `swatch ${part.style}` }), part.name)));
}

/** Points with intervals, one line each: {name, mean, low, high, style, value, text}. */
export function dots(rows, name) {
  const label = `${name}: ${rows.map((row) => `${row.name} ${row.text}`).join("; ")}`;
  return chart(label, (width) => {
    const left = Math.min(110, width * 0.27), right = 14, line = 34;
    const height = rows.length * line + 40;
    const ends = rows.flatMap((row) => [row.low ?? row.mean, row.high ?? row.mean]);
    let low = Math.min(...ends), high = Math.max(...ends);
    const pad = Math.max(0.01, (high - low) * 0.12);
    low = Math.max(0, low - pad);
    high = Math.min(1, high + pad);
    const at = scale(low, high, left, width - right);
    const box = { left, right, top: 4, bottom: 38 };
    const out = frame(width, height, box, { at, ticks: ticks(low, high, width < 500 ? 4 : 7), text: (one) => `${Math.round(one * 1000) / 10}%` }, { at: () => 0, ticks: [] }, { x: name });
    rows.forEach((row, index) => {
      const y = 18 + index * line;
      out.push(s("text", { class: "rowname", x: 0, y: y + 4 }, row.name));
      if (row.low !== null && row.low !== undefined) out.push(s("line", { class: `whisker ${row.style}`, x1: at(row.low), x2: at(row.high), y1: y, y2: y }));
      const end = at(row.high ?? row.mean) + 10, start = at(row.low ?? row.mean) - 10, room = end + 50 < width;
      out.push(s("text", { class: "value", x: room ? end : start, y: y + 4, "text-anchor": room ? "start" : "end" }, row.value));
      out.push(s("circle", { class: `dot ${row.style}`, cx: at(row.mean), cy: y, r: 6 }, s("title", {}, row.text)));
    });
    return s("svg", { width, height, viewBox: `0 0 ${width} ${height}` }, out);
  });
}

/** Lines over steps: {name, points: [[x, y]], style}; on a log axis where values span decades. */
export function lines(rows, names, height = 210) {
  const values = rows.flatMap((row) => row.points.map((point) => point[1]));
  const positive = values.filter((value) => value > 0);
  const log = names.log !== false && positive.length === values.length && Math.max(...values) / Math.min(...values) > 100;
  return chart(`${names.y} over ${names.x}: ${rows.map((row) => row.name).join(", ")}`, (width) => {
    const box = { left: 52, right: 12, top: 22, bottom: 38 };
    const most = Math.max(...rows.flatMap((row) => row.points.map((point) => point[0])));
    let low = log ? Math.min(...positive) : Math.min(0, ...values), high = Math.max(...values);
    if (high === low) high = low + 1;
    const atX = scale(1, Math.max(2, most), box.left, width - box.right);
    const atY = scale(low, high, height - box.bottom, box.top, log);
    const x = { at: atX, ticks: ticks(1, most, width < 500 ? 4 : 8).filter((one) => one >= 1) };
    const y = { at: atY, ticks: log ? decades(low, high) : ticks(low, high, 4) };
    const out = frame(width, height, box, x, y, { x: names.x, y: names.y + (log ? " (log)" : "") });
    for (const row of rows) {
      const path = row.points.map((point, at) => `${at ? "L" : "M"}${atX(point[0]).toFixed(1)} ${atY(point[1]).toFixed(1)}`).join("");
      out.push(s("path", { class: `line ${row.style}`, d: path }, s("title", {}, row.name)));
    }
    return s("svg", { width, height, viewBox: `0 0 ${width} ${height}` }, out);
  });
}

/** The share of wrong labels by noise score, with its interval, and the diagonal of a calibrated score. */
export function calibration(parts) {
  return chart(`Calibration: ${parts.map((part) => `score ${part.score.toFixed(2)}, wrong ${part.wrong.toFixed(2)} of ${part.n}`).join("; ")}`, (width) => {
    const height = 210, box = { left: 46, right: 12, top: 22, bottom: 38 };
    const atX = scale(0, 1, box.left, width - box.right), atY = scale(0, 1, height - box.bottom, box.top);
    const shares = { ticks: [0, 0.25, 0.5, 0.75, 1] };
    const out = frame(width, height, box, { ...shares, at: atX }, { ...shares, at: atY }, { x: "noise score", y: "share of labels that are wrong" });
    out.push(s("line", { class: "diagonal", x1: atX(0), x2: atX(1), y1: atY(0), y2: atY(1) }));
    for (const part of parts) {
      out.push(s("line", { class: "whisker wrong", x1: atX(part.score), x2: atX(part.score), y1: atY(part.low), y2: atY(part.high) }));
      out.push(s("circle", { class: "dot wrong", cx: atX(part.score), cy: atY(part.wrong), r: 5 }, s("title", {}, `${part.n} rows`)));
    }
    return s("svg", { width, height, viewBox: `0 0 ${width} ${height}` }, out);
  });
}
