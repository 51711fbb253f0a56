// What goes on: numbers as they come, charts of the last minutes, alerts and errors.

import { events, get, query } from "./api.js";
import { h, bytes, facts, ms, number, percent, said, span, table, time } from "./dom.js";
import { pictureView } from "./picture.js";

const CHARTS = [
  ["throughput", "Tokens per second"], ["ttft", "Time to first token"], ["gap", "Gap between tokens"],
  ["queue", "Answers running and waiting"], ["kv", "KV cache in use"], ["errors", "Answers per second"],
];
const CHARTS_EVERY_MS = 10000;
const AGAIN_MS = 3000;

function wait(millis, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, millis);
    signal.addEventListener("abort", () => { clearTimeout(timer); done(); }, { once: true });
  });
}

function tile(name) {
  const value = h("dd", { class: "value" }, "\u2013");
  const note = h("dd", { class: "note" });
  return { view: h("div", { class: "tile" }, h("dt", {}, name), value, note),
    set(text, more) { value.textContent = text; note.textContent = more; } };
}

export function nowPage(place, { signal }) {
  const state = h("p", { class: "state", role: "status" }, "Waiting for the server");
  const alerts = h("div", { "aria-live": "polite", class: "alerts" });
  const models = h("select", { id: "now-model" });
  const minutes = h("select", { id: "now-minutes" },
    [5, 15, 60].map((n) => h("option", { value: n, selected: n === 15 }, `${n} minutes`)));
  const tiles = Object.fromEntries(
    ["Throughput", "First token", "Token gap", "Queue", "KV cache", "Prefix cache", "CPU", "Errors"].map((name) => [name, tile(name)]));
  const charts = CHARTS.map(([name, title]) => ({ name, ...pictureView(title) }));
  const rest = h("div");
  const errors = h("div");
  place.append(
    h("div", { class: "row spread head" }, h("h1", {}, "Now"), state),
    alerts,
    h("div", { class: "row controls" },
      h("label", { for: "now-model" }, "Model"), models,
      h("label", { for: "now-minutes" }, "Charts of the last"), minutes),
    h("h2", { class: "hidden" }, "Numbers"),
    h("dl", { class: "tiles" }, Object.values(tiles).map((one) => one.view)),
    h("p", { class: "quiet-text" }, "Rates over ten seconds, percentiles over the last minute; percentiles are a fifth off at most."),
    h("h2", { class: "hidden" }, "Charts"),
    h("div", { class: "charts" }, charts.map((chart) => chart.view)),
    h("div", { class: "two" },
      h("section", { class: "card" }, h("h2", {}, "Last errors"), errors),
      h("section", { class: "card" }, h("h2", {}, "Since start"), rest)));

  let last;
  let said_alerts = "";

  function show(now) {
    last = now;
    const names = now.models.map((model) => model.name);
    if (names.join("\n") !== [...models.options].map((option) => option.value).join("\n")) {
      const chosen = models.value;
      models.replaceChildren(...names.map((name) => h("option", { value: name, selected: name === chosen }, name)));
    }
    const word = { ok: "All is well", draining: "Draining", stalled: "Engine stands still", died: "Engine died" };
    const text = now.server.status === "ok" && now.alerts.length ? "Needs a look" : word[now.server.status] || now.server.status;
    if (state.textContent !== text) state.textContent = text;
    state.dataset.level = now.server.status !== "ok" ? "critical" : now.alerts.length ? "warning" : "ok";
    const saying = now.alerts.map((alert) => alert.what + alert.next).join("\n");
    if (saying !== said_alerts) {
      said_alerts = saying;
      alerts.replaceChildren(...now.alerts.map((alert) =>
        h("p", { class: `alert ${alert.level}` }, h("strong", {}, alert.level === "critical" ? "Critical: " : "Warning: "), alert.what, ". ", alert.next)));
    }
    const model = now.models.find((one) => one.name === models.value) || now.models[0];
    if (model) showModel(now, model);
    if (!errors.contains(document.activeElement)) showErrors(now);
  }

  function showModel(now, model) {
    const two = (latency) => (latency ? [ms(latency.p50), `p99 ${ms(latency.p99)}`] : ["\u2013", "none in the last minute"]);
    tiles.Throughput.set(`${number(model.generation_tokens_per_s)} tok/s`, `${number(model.prompt_tokens_per_s)} prompt tok/s`);
    tiles["First token"].set(...two(model.ttft_ms));
    tiles["Token gap"].set(...two(model.gap_ms));
    tiles.Queue.set(`${number(model.running)} running`, `${number(model.waiting)} waiting, ${number(model.queued_tokens)} tokens`);
    tiles["KV cache"].set(percent(model.kv_usage), `${number(model.kv_blocks - model.kv_blocks_free)} of ${number(model.kv_blocks)} blocks`);
    tiles["Prefix cache"].set(percent(model.prefix_hit_ratio), "of prompt tokens");
    tiles.CPU.set(`${number(model.cpu_cores, 2)} cores`,
      model.cpu_s_per_1k_tokens === null ? "no tokens now" : `${number(model.cpu_s_per_1k_tokens, 2)} CPU s / 1k tokens`);
    tiles.Errors.set(`${number(model.errors_per_s, 1)} /s`, `${number(model.errors)} since start`);
    rest.replaceChildren(facts([
      ["Up", span(model.uptime_s)],
      ["Answers", number(model.finished)],
      ["Tokens generated", number(model.generation_tokens)],
      ["Prompt tokens", number(model.prompt_tokens)],
      ["Refused by the queue", number(model.rejected)],
      ["Preemptions", number(model.preemptions)],
      ["CPU time", `${number(model.cpu_seconds, 1)} s`],
      ["CPU per 1,000 tokens", model.generation_tokens ? `${number(1000 * model.cpu_seconds / model.generation_tokens, 2)} s` : null],
      ["Stored", `${number(now.store.recorded)}, ${number(now.store.dropped)} dropped`],
      ["Memory", bytes(now.server.resident_bytes)],
      ["Open requests", `${number(now.server.open_requests)} of ${number(now.server.open_requests_limit)}`],
      ["Turned away for the key", number(now.server.key_denials)],
    ]));
  }

  function showErrors(now) {
    if (!now.last_errors.length) {
      errors.replaceChildren(h("p", { class: "quiet-text" }, "None."));
      return;
    }
    errors.replaceChildren(table("Last errors", [["When", "nowrap"], ["What", ""]], now.last_errors.map((error) => [
      time(error.arrived_at_ms),
      h("div", {}, h("a", { href: `#/requests/${error.request_id}` }, error.code), h("div", { class: "quiet-text" }, error.message || "(not kept)"))])));
  }

  async function follow() {
    while (!signal.aborted) {
      try {
        for await (const { data } of events("/ops/v1/now/stream", { signal })) if (data) show(JSON.parse(data));
        if (!signal.aborted) state.textContent = "The server ended the connection";
      } catch (error) {
        if (signal.aborted) return;
        state.textContent = error.message;
        state.dataset.level = "critical";
        if (error.status === 401 || error.status === 403) return;
      }
      state.dataset.level = "critical";
      await wait(AGAIN_MS, signal);
    }
  }

  async function draw() {
    for (const chart of charts) {
      if (signal.aborted) return;
      const values = { model: models.value, minutes: minutes.value, width: chart.width() };
      try {
        chart.show(await get(`/ops/v1/charts/${chart.name}${query(values)}`, { signal }));
      } catch (error) {
        // What is wrong is said beside the numbers already.
        if (signal.aborted || !last) return;
        chart.view.replaceChildren(said(error));
      }
    }
  }

  async function redraw() {
    while (!signal.aborted && !last) await wait(50, signal);
    while (!signal.aborted) {
      if (!document.hidden) await draw();
      await wait(CHARTS_EVERY_MS, signal);
    }
  }

  models.addEventListener("change", () => { if (last) show(last); draw(); });
  minutes.addEventListener("change", draw);
  follow();
  redraw();
  return "Now";
}
