// What happened in a run, in ten seconds; then how well, and at what price.

import { facets, get, link } from "./api.js";
import { calibration, dots, histogram, legend, lines } from "./charts.js";
import { dollars, failure, h, number, percent, replace, seconds, section, stageName } from "./dom.js";

const ARM_STYLES = { vanilla: "arm-vanilla", raw: "arm-raw", cleaned: "arm-cleaned", truth: "arm-truth" };
const MEANING = { vanilla: "not trained", raw: "trained on the labels as they came", cleaned: "trained on what was kept", truth: "trained on the true labels" };

function figure(value, name, style, href) {
  const inside = [h("span", { class: "value" }, value), h("span", { class: "what" }, name)];
  return href ? h("a", { class: `figure ${style ?? ""}`, href }, inside) : h("div", { class: `figure ${style ?? ""}` }, inside);
}

function strip(run) {
  const rows = (query) => link(`run/${run.key}/rows`, query);
  const samples = run.samples ?? {};
  const out = [figure(number(samples.read ?? run.rows), "rows read", "", rows({}))];
  if (samples.kept !== undefined) {
    out.push(figure(number(samples.kept), "kept", "kept", rows({ fate: "kept" })));
    out.push(figure(number(samples.relabelled), "of them relabelled", "relabelled", rows({ action: "relabelled" })));
    out.push(figure(number(samples.dropped), "dropped", "dropped", rows({ fate: "dropped" })));
  }
  if (samples.unreadable) out.push(figure(number(samples.unreadable), "unreadable", "", rows({ fate: "unreadable" })));
  out.push(figure(number(run.reviewed), "reviewed by people", "", link(`run/${run.key}/review`)));
  out.push(figure(seconds(run.seconds), "time"));
  out.push(figure(run.usd ? dollars(run.usd) : run.calls_per_sample === undefined ? "–" : number(run.calls_per_sample), run.usd ? "paid for calls" : "calls per row"));
  return h("div", { class: "strip" }, out);
}

function sentence(run) {
  const arm = (name) => run.arms.find((one) => one.arm === name)?.mean;
  const raw = arm("raw"), cleaned = arm("cleaned");
  if (run.status !== "done") return "The run has not ended: run the same command again and it goes on.";
  if (raw !== undefined && cleaned !== undefined) {
    const compared = run.comparisons.cleaned_minus_raw;
    const sure = compared && (compared.low > 0 || compared.high < 0);
    const better = cleaned >= raw ? "better" : "worse";
    return `Trained on what was kept, the model answers ${percent(cleaned)} right, and ${percent(raw)} when trained on the labels as they came: ${(100 * Math.abs(cleaned - raw)).toFixed(1)} points ${better}${sure ? "" : ", which may be chance"}.`;
  }
  return "";
}

function funnel(run) {
  const stages = run.stages.filter((stage) => stage.finished);
  const most = Math.max(1, ...stages.map((stage) => stage.kept + stage.dropped));
  let before = 0;
  const rows = run.stages.map((stage) => {
    if (!stage.finished) return h("li", {}, h("span", { class: "stage" }, stageName(stage.label)), h("span", { class: "note" }, "not finished"));
    const lost = Math.max(0, stage.dropped - before);
    before = stage.dropped;
    const share = (count) => (100 * count) / most;
    const told = [lost ? h("span", { class: "dropped-text" }, `−${number(lost)} dropped`) : null, stage.relabelled ? h("span", { class: "relabelled-text" }, `${number(stage.relabelled)} relabelled`) : null, stage.weighed ? h("span", {}, `${number(stage.weighed)} weighed`) : null];
    return h("li", {},
      h("a", { class: "stage", href: link(`run/${run.key}/rows`, { stage: stage.label }) }, stageName(stage.label)),
      h("span", { class: "bar", "aria-hidden": "true" }, h("i", { class: "kept", "width%": share(stage.kept - stage.relabelled) }), h("i", { class: "relabelled", "width%": share(stage.relabelled) }), h("i", { class: "dropped", "width%": share(lost) })),
      h("span", { class: "told" }, h("span", {}, h("b", {}, number(stage.kept)), " left"), told));
  });
  return h("ol", { class: "funnel" }, rows);
}

function costs(run) {
  const tokens = run.token_stages.map((stage) => ({ calls: 0, ...stage, finished: true }));
  const rows = [...run.stages, ...tokens].filter((stage) => stage.finished && (stage.seconds || stage.calls));
  const most = Math.max(0.001, ...rows.map((stage) => stage.seconds ?? 0));
  const calls = rows.reduce((sum, stage) => sum + stage.calls, 0);
  const known = rows.reduce((sum, stage) => sum + (stage.seconds ?? 0), 0), rest = run.rest_seconds ?? 0;
  const heads = ["Stage", "Time", "", ...(calls ? ["Calls", "Tokens in", "Tokens out"] : [])];
  const counts = (stage) => (calls ? ["calls", "prompt_tokens", "completion_tokens"].map((name) => h("td", { class: "num" }, stage.calls ? number(stage[name]) : "–")) : null);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Time and calls by stage" }, h("table", { class: "plain" },
    h("thead", {}, h("tr", {}, heads.map((head, at) => (head ? h("th", { scope: "col", class: at ? "num" : null }, head) : h("td", {}))))),
    h("tbody", {}, rows.map((stage) => h("tr", {}, h("th", { scope: "row" }, stageName(stage.label)), h("td", { class: "num" }, seconds(stage.seconds)),
      h("td", { class: "barcell" }, h("span", { class: "bar thin", "aria-hidden": "true" }, h("i", { class: "time", "width%": (100 * (stage.seconds ?? 0)) / most }))), counts(stage)))),
    h("tfoot", {}, rest > 1 ? h("tr", {}, h("th", { scope: "row" }, "training, tests and the rest"), h("td", { class: "num" }, seconds(rest)), h("td", {}), calls ? [h("td", {}), h("td", {}), h("td", {})] : null) : null,
      h("tr", {}, h("th", { scope: "row" }, "all"), h("td", { class: "num" }, seconds(known + (rest > 1 ? rest : 0))), h("td", {}), calls ? [h("td", { class: "num" }, number(calls)), h("td", {}), h("td", { class: "num" }, run.usd ? dollars(run.usd) : "")] : null))));
}

function warnings(run) {
  if (!run.warnings.length) return null;
  const rows = run.warnings.map((one) => h("li", {}, h("b", {}, stageName(one.stage || "run")), ` ${one.text}${one.times > 1 ? ` (${one.times} times)` : ""}`));
  const title = `${rows.length} ${rows.length === 1 ? "warning" : "warnings"}`;
  return h("details", { class: "card warn", open: rows.length < 4 }, h("summary", {}, title), h("ul", {}, rows));
}

function detection(run) {
  const found = run.detection;
  if (!found) return null;
  const rows = [["precision", found.precision], ["recall", found.recall], ["F1", found.f1], ["ROC-AUC", found.roc_auc]].filter(([, value]) => typeof value === "number");
  return h("p", { class: "inline" }, h("span", { class: "note" }, "Flags, by the known truth:"), rows.map(([name, value]) => h("span", {}, `${name} `, h("b", {}, value.toFixed(3)))));
}

/** Right labels before and after, for each class or form of answer: what the figures of the whole run hide. */
function classes(run) {
  const found = run.classes;
  if (!found) return null;
  const share = (right, of) => (of ? percent(right / of) : "–");
  const cells = (one) => [number(one.n), share(one.right_before, one.n), number(one.kept), share(one.right_after, one.kept), number(one.lost)];
  const total = {};
  for (const key of ["n", "right_before", "kept", "right_after", "lost"]) total[key] = found.groups.reduce((sum, one) => sum + one[key], 0);
  const heads = [found.by === "answer" ? "True answer" : "Form of the true answer", "Rows", "Right before", "Kept", "Right after", "Right labels lost"];
  const line = (one, name) => h("tr", {}, h("th", { scope: "row" }, name), cells(one).map((cell) => h("td", { class: "num" }, cell)));
  return section("Labels by true answer", "Shares of labels that are right by the known truth, which no stage sees: before among all rows, after among the rows that were kept. Lost labels were right, and were dropped or replaced.",
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Labels by true answer" }, h("table", { class: "plain" },
      h("thead", {}, h("tr", {}, heads.map((head, at) => h("th", { scope: "col", class: at ? "num" : null }, head)))),
      h("tbody", {}, found.groups.map((one) => line(one, one.name))),
      h("tfoot", {}, line(total, "all")))));
}

function trainings(run) {
  const arms = Object.entries(run.trainings).filter(([, one]) => one.loss.length);
  if (!arms.length) return null;
  const of = (what) => arms.map(([name, one]) => ({ name, style: ARM_STYLES[name] ?? "arm-other", points: one[what] })).filter((one) => one.points.length);
  const rates = of("lr");
  const stopped = arms.filter(([, one]) => one.stopped).map(([name, one]) => h("p", { class: "note" }, `${name}: stopped early: ${one.stopped}`));
  return section("Training", null, legend(of("loss")), h("div", { class: "two" }, lines(of("loss"), { x: "optimizer step", y: "loss" }), rates.length ? lines(rates, { x: "optimizer step", y: "learning rate", log: false }) : null), stopped);
}

function tokenPart(run) {
  const found = run.tokens;
  if (!found || found.response === undefined) return null;
  const stages = Object.entries(found.stages ?? {}).map(([name, one]) => h("li", {}, h("span", { class: "stage" }, stageName(name)), h("span", { class: "bar", "aria-hidden": "true" }, h("i", { class: "dropped", "width%": (100 * (one.masked ?? 0)) / found.response })), h("span", { class: "told" }, h("span", {}, h("b", {}, number(one.masked ?? 0)), " tokens out of the loss"))));
  const noise = found.token_noise;
  return section("Tokens", `${number(found.in_loss)} of ${number(found.response)} response tokens are in the loss (${percent(found.in_loss / found.response)}).`, h("ol", { class: "funnel" }, stages),
    noise && noise.noise !== undefined ? h("p", { class: "inline" }, h("span", {}, "noise ", h("b", {}, percent(noise.noise))), h("span", {}, "noise still in the loss ", h("b", {}, percent(noise.noise_kept))), h("span", {}, "signal out of it ", h("b", {}, percent(noise.signal_dropped)))) : null);
}

/** The distributions, which need the index: filled in when it is there. */
async function scores(host, run, alive) {
  const found = await facets(run.key, (done, of) => replace(host, h("p", { class: "note" }, `Reading the rows: ${number(done)} of ${number(of)}. This is done once.`), h("progress", { max: of || 1, value: done, "aria-label": "Reading the rows" })), alive);
  if (!alive()) return;
  if (!found.main) return replace(host, h("p", { class: "note" }, "No stage of this run flags labels."));
  const data = await get(`runs/${run.key}/histogram`);
  if (!alive() || !data) return;
  const flags = [{ name: "not flagged", style: "fill-kept", counts: data.plain }, { name: "flagged", style: "fill-dropped", counts: data.flagged }];
  const truths = data.truth ? [{ name: "right in truth", style: "fill-kept", counts: data.truth.right }, { name: "wrong in truth", style: "fill-dropped", counts: data.truth.wrong }] : null;
  const chartHost = h("div", {});
  const draw = (parts) => replace(chartHost, legend(parts), histogram(data, parts, "noise score"));
  const choose = truths ? h("div", { class: "choose", role: "group", "aria-label": "Colours of the histogram" }, [["flags", flags], ["known truth", truths]].map(([name, parts], at) => h("button", { type: "button", "aria-pressed": at ? "false" : "true", onclick: (event) => {
    for (const other of event.currentTarget.parentElement.children) other.setAttribute("aria-pressed", String(other === event.currentTarget));
    draw(parts);
  } }, name))) : null;
  draw(flags);
  replace(host, h("div", { class: found.calibration.length ? "two" : "" }, h("div", {}, choose, chartHost), found.calibration.length ? h("div", {}, h("p", { class: "note" }, "By the known truth: a calibrated score lies on the diagonal."), calibration(found.calibration)) : null));
}

export async function overviewScreen({ key, alive, where }) {
  const run = await get(`runs/${key}`);
  where(run.folder === "." ? run.name : run.folder);
  if (run.error) return { element: failure(run.error) };
  const host = h("div", {});
  const arms = run.arms.map((one) => ({ ...one, name: one.arm, style: ARM_STYLES[one.arm] ?? "arm-other", value: percent(one.mean), text: `${percent(one.mean)}${typeof one.low === "number" ? ` (95% interval ${percent(one.low)} to ${percent(one.high)})` : ""}, ${MEANING[one.arm] ?? ""}` }));
  const noise = run.noise && (run.noise.estimate ?? null) !== null ? `Estimated share of wrong labels: ${percent(run.noise.estimate)}${typeof run.noise.low === "number" ? ` (${percent(run.noise.low)} to ${percent(run.noise.high)})` : ""}.` : run.noise && typeof run.noise.low === "number" ? `The share of wrong labels is between ${percent(run.noise.low)} and ${percent(run.noise.high)}: the run cannot tell more, because its views may share errors. Rows that you review in a random order narrow it.` : "";
  const meant = run.arms.filter((one) => MEANING[one.arm]).map((one) => `${one.arm} is ${MEANING[one.arm]}`).join(", ");
  const element = h("div", { class: "screen" },
    h("div", { class: "lead" }, h("h1", {}, run.name), h("p", {}, sentence(run))),
    strip(run), warnings(run),
    section("Rows by stage", null, legend([{ name: "kept", style: "fill-kept" }, { name: "relabelled by the stage", style: "fill-relabelled" }, { name: "dropped by the stage", style: "fill-dropped" }]), funnel(run)),
    arms.length ? section("Accuracy by arm", `On ${number(run.arms[0].rows)} test rows, with 95% intervals.${meant ? ` Of the arms, ${meant}.` : ""}`, dots(arms, "share of test rows answered right")) : null,
    run.stages.length > 1 ? section("Noise scores", noise || null, detection(run), host) : null,
    classes(run), tokenPart(run), trainings(run),
    section("Time and calls", null, costs(run)));
  return { element, shown: () => run.stages.length > 1 && scores(host, run, alive).catch((error) => alive() && replace(host, failure(error))) };
}
