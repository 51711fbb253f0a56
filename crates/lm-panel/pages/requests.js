// What was asked and answered: a search, and one request.

import { get, has, post, query } from "./api.js";
import { h, copyButton, facts, field, ms, number, said, table, time } from "./dom.js";
import { pictureView } from "./picture.js";
import { timelineView } from "./timeline.js";

const PAGE = 50;

function preview(text) {
  if (!text) return h("span", { class: "quiet-text" }, "(not kept)");
  const found = /"(?:content|text)":"((?:[^"\\]|\\.)*)/.exec(text);
  let words = found ? found[1] : text;
  try { words = JSON.parse(`"${words}"`); } catch { /* It was cut within a character. */ }
  return words;
}

function status(row) {
  if (!row.status) return "running";
  return h("span", { class: row.is_error ? "tag bad" : "tag" }, row.status);
}

export function requestsPage(place, { search, signal }) {
  const input = (id, attributes = {}) => h("input", { id, name: id, value: search.get(id) || "", autocomplete: "off", spellcheck: "false", ...attributes });
  const choices = [["", "any"], ["error", "any error"], ["stop", "stop"], ["length", "length"], ["abort", "abort"]];
  const form = h("form", { class: "card filters", role: "search", "aria-label": "Requests" },
    field("Text", input("text", { type: "search", placeholder: "in prompts and answers" })),
    field("Request id", input("id", { placeholder: "or how it begins" })),
    field("Status", h("select", { id: "status", name: "status" },
      choices.map(([value, name]) => h("option", { value, selected: value === (search.get("status") || "") }, name)))),
    field("Error code", input("code", { placeholder: "such as deadline_exceeded" })),
    field("Trace id", input("trace", { placeholder: "32 digits" })),
    field("Key id", input("tenant", { placeholder: "16 digits, or none" })),
    field("Since (UTC)", input("since", { type: "datetime-local" })),
    field("Before (UTC)", input("before", { type: "datetime-local" })),
    h("div", { class: "field action" }, h("button", { type: "submit" }, "Search")));
  const summary = h("p", { class: "quiet-text", role: "status" });
  const results = h("div");
  const older = h("button", { type: "button", class: "quiet", hidden: true }, "Older");
  place.append(h("h1", {}, "Requests"), form, summary, results, older);

  let rows = [];

  async function find(before_ms) {
    const at = (name) => { const ms = Date.parse(`${form.elements[name].value}Z`); return Number.isNaN(ms) ? "" : ms; };
    const values = Object.fromEntries(["text", "id", "trace", "tenant"].map((name) => [name, form.elements[name].value.trim()]));
    values.status = form.elements.code.value.trim() || form.elements.status.value;
    values.since_ms = at("since");
    values.before_ms = before_ms ?? at("before");
    values.limit = PAGE;
    try {
      const found = (await get(`/v1/requests${query(values)}`, { signal })).data;
      rows = before_ms ? rows.concat(found) : found;
      older.hidden = found.length < PAGE;
      show();
    } catch (error) {
      if (!signal.aborted) { summary.textContent = ""; results.replaceChildren(said(error)); }
    }
  }

  function show() {
    summary.textContent = rows.length ? `${number(rows.length)} requests, newest first` : "No request is like this.";
    const columns = [["Arrived", "nowrap"], ["Prompt", "wide"], ["Status", ""], ["Tokens", "num"], ["First token", "num"], ["Whole", "num"], ["Model", "later"], ["Key", "later"]];
    results.replaceChildren(rows.length ? table("Requests", columns, rows.map((row) => [
      h("a", { href: `#/requests/${row.id}` }, time(row.arrived_at_ms)),
      h("div", { class: "clip" }, preview(row.preview)), status(row),
      `${number(row.prompt_tokens)} + ${number(row.completion_tokens)}`, ms(row.ttft_ms), ms(row.e2e_ms), row.model, row.tenant || "none"])) : "");
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); find(); });
  older.addEventListener("click", () => find(rows[rows.length - 1].arrived_at_ms));
  find();
  return "Requests";
}

function promptView(prompt) {
  if (!prompt) return h("p", { class: "quiet-text" }, "The prompt was not kept, or was erased.");
  if (prompt.messages) {
    return h("ol", { class: "messages" }, prompt.messages.map((message) =>
      h("li", {}, h("strong", {}, message.role), h("pre", { tabindex: "0" }, typeof message.content === "string" ? message.content : JSON.stringify(message.content)))));
  }
  const gap = prompt.suffix === undefined ? "" : ` ⟨gap⟩ ${prompt.suffix}`;
  return h("pre", { tabindex: "0" }, prompt.text === undefined ? JSON.stringify(prompt.tokens) : prompt.text + gap);
}

function answerView(attempt) {
  return h("section", { class: "card", "aria-label": `Answer ${attempt.choice}` },
    h("h2", {}, `Answer ${attempt.choice}`),
    attempt.error_code ? h("p", { class: "problem" }, `${attempt.error_code}: ${attempt.error_message || "(not kept)"}`) : null,
    attempt.output_text === null ? h("p", { class: "quiet-text" }, "The text was not kept, or was erased.") : h("pre", { tabindex: "0" }, attempt.output_text),
    facts([
      ["Ended by", attempt.finish_reason || attempt.error_code],
      ["Prompt tokens", `${number(attempt.prompt_tokens)}, ${number(attempt.cached_tokens)} cached`],
      ["Tokens generated", number(attempt.completion_tokens)],
      ["Queue", ms(attempt.queue_wait_ms)], ["First token", ms(attempt.ttft_ms)], ["Whole", ms(attempt.e2e_ms)],
      ["CPU", `${number(attempt.cpu_seconds, 3)} s`], ["Preemptions", number(attempt.n_preemptions)],
    ]));
}

function verdictView(again) {
  const because = again.differs.map((factor) => factor.name).join(", ");
  if (again.verdict === "identical") return `Answer ${again.choice}: identical over its ${number(again.n_tokens)} tokens.`;
  return `Answer ${again.choice}: differs from token ${number(again.at)} on, where ${JSON.stringify(again.expected_text)} is recorded and ${JSON.stringify(again.got_text)} was drawn. ` +
    (because ? `Not as it was: ${because}.` : "Nothing of the release differs.");
}

// A button that has the server compute the request again; nothing on a server that cannot.
async function replayView(id, signal) {
  if (!(await has("POST /ops/v1/requests/{id}/replay"))) return [];
  const verdict = h("div", { role: "status" });
  const button = h("button", { type: "button", onclick: async () => {
    button.disabled = true;
    verdict.replaceChildren(h("p", { class: "quiet-text" }, "It is being computed."));
    try {
      const done = await post(`/ops/v1/requests/${encodeURIComponent(id)}/replay`, {}, { signal });
      verdict.replaceChildren(...done.answers.map((again) =>
        h("p", { class: again.verdict === "identical" ? "good" : "problem" }, verdictView(again))));
    } catch (error) {
      if (!signal.aborted) verdict.replaceChildren(said(error));
    }
    button.disabled = false;
  } }, "Replay");
  return [h("div", { class: "row" }, button), verdict];
}

export function requestPage(place, { id, signal }) {
  const rest = h("div", { class: "stack" });
  const picture = pictureView("Where the time went");
  place.append(h("p", {}, h("a", { href: "#/requests" }, "All requests")), h("h1", {}, "Request"), h("p", { class: "id" }, h("code", {}, id)), rest);

  async function show() {
    rest.replaceChildren(picture.view);
    try {
      const request = await get(`/v1/requests/${encodeURIComponent(id)}/page${query({ width: picture.width() })}`, { signal });
      picture.show(request.picture);
      const command = `lastmile replay ${request.id}`;
      rest.append(
        ...(await timelineView(request.id, signal)),
        h("section", { class: "card", "aria-label": "Facts" }, h("h2", {}, "Facts"),
          facts([
            ["Arrived", time(request.arrived_at_ms)], ["Model", request.model], ["Release", h("code", {}, request.release_hash)],
            ["Priority", request.priority], ["Key", request.tenant || "none"], ["Answers asked for", number(request.n)],
            ...(request.trace_id ? [["Trace", h("code", {}, request.trace_id)]] : []),
            ]),
          h("h3", {}, "Parameters"),
          // A seed may have more digits than a number of this language.
          facts(Object.entries({ ...request.params, ...request.exact_params }).map(([name, value]) => [name, request.exact_params?.[name] ? value : value === null ? "none" : typeof value === "number" ? String(value) : JSON.stringify(value)])),
          h("h3", {}, "Compute it again"),
          ...(await replayView(request.id, signal)),
          h("div", { class: "row" }, h("code", { class: "command" }, command), copyButton(() => command))),
        h("section", { class: "card", "aria-label": "Prompt" }, h("h2", {}, "Prompt"), promptView(request.prompt)),
        ...request.attempts.map(answerView),
        request.feedback.length ? h("section", { class: "card", "aria-label": "Feedback" }, h("h2", {}, "Feedback"),
          table("Feedback", [["When", "nowrap"], ["Answer", "num"], ["Rating", ""], ["Comment", "wide"], ["Correction", "wide"]],
            request.feedback.map((one) => [time(one.created_at_ms), number(one.choice), JSON.stringify(one.rating), one.comment || "", one.correction || ""]))) : "");
    } catch (error) {
      if (!signal.aborted) rest.replaceChildren(said(error));
    }
  }
  show();
  return "Request";
}
