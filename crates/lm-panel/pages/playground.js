// A chat with the model. What is said stays in this tab.

import { events, get } from "./api.js";
import { h, field, ms, number, said } from "./dom.js";
import { shadedText, sureLegend, sureWords, tokenReader, tokenTable } from "./sureness.js";

// Kept while the tab shows other pages.
const talk = [];
const chosen = { model: "", system: "", temperature: "", top_p: "", max_tokens: "256", seed: "", sure: true };

export function playgroundPage(place, { signal }) {
  const log = h("ol", { class: "talk", "aria-label": "Conversation" });
  const spoken = h("p", { class: "hidden", role: "status" });
  const problem = h("div");
  const model = h("select", { id: "pg-model" });
  const input = h("textarea", { id: "pg-input", rows: "3", placeholder: "Enter sends, Shift+Enter makes a new line" });
  const send = h("button", { type: "submit" }, "Send");
  const stop = h("button", { type: "button", class: "quiet", disabled: true }, "Stop");
  const clear = h("button", { type: "button", class: "quiet" }, "Clear");
  const option = (name, label, attributes) => {
    const element = h("input", { id: `pg-${name}`, value: chosen[name], ...attributes });
    element.addEventListener("input", () => { chosen[name] = element.value; });
    return field(label, element);
  };
  const system = h("textarea", { id: "pg-system", rows: "2" }, chosen.system);
  system.addEventListener("input", () => { chosen.system = system.value; });
  const sure = h("input", { id: "pg-sure", type: "checkbox", checked: chosen.sure });
  sure.addEventListener("change", () => { chosen.sure = sure.checked; });
  const numeric = { type: "number", inputmode: "decimal", placeholder: "default" };
  const form = h("form", { class: "card say", "aria-label": "Say something" },
    field("Message", input), h("div", { class: "row" }, send, stop, clear));
  place.append(
    h("h1", {}, "Playground"),
    h("div", { class: "play" },
      h("div", { class: "stack" }, log, problem, spoken, form),
      h("section", { class: "card params", "aria-label": "Parameters" }, h("h2", {}, "Parameters"),
        field("Model", model), field("System message", system),
        option("temperature", "Temperature", { ...numeric, min: "0", step: "0.1" }),
        option("top_p", "Top p", { ...numeric, min: "0", max: "1", step: "0.05" }),
        option("max_tokens", "Most tokens", { ...numeric, min: "1", step: "1" }),
        option("seed", "Seed", { ...numeric, step: "1" }),
        h("div", { class: "row tick" }, sure, h("label", { for: "pg-sure" }, "Show how sure the model is")), sureLegend())));
  for (const message of talk) log.append(bubble(message).view);

  let running;

  async function listModels() {
    try {
      const found = (await get("/v1/models", { signal })).data;
      model.replaceChildren(...found.map(({ id }) => h("option", { value: id, selected: id === chosen.model }, id)));
    } catch (error) {
      if (!signal.aborted) problem.replaceChildren(said(error));
    }
  }

  function request() {
    const messages = talk.filter((message) => !message.failed).map(({ role, content }) => ({ role, content }));
    if (chosen.system.trim()) messages.unshift({ role: "system", content: chosen.system });
    const body = { model: model.value, messages, stream: true, stream_options: { include_usage: true } };
    if (chosen.sure) Object.assign(body, { logprobs: true, confidence: true });
    for (const name of ["temperature", "top_p", "max_tokens"]) if (chosen[name] !== "") body[name] = Number(chosen[name]);
    if (chosen.seed === "") return JSON.stringify(body);
    // A seed may have more digits than a number of this language.
    const seed = /^-?\d+$/.test(chosen.seed) ? BigInt(chosen.seed) : Number(chosen.seed);
    return JSON.stringify(body).replace(/}$/, `,"seed":${seed}}`);
  }

  async function ask(text) {
    talk.push({ role: "user", content: text });
    log.append(bubble(talk[talk.length - 1]).view);
    const body = request();
    const answer = { role: "assistant", thought: "", content: "", tokens: [], thoughtTokens: 0 };
    talk.push(answer);
    const shown = bubble(answer);
    log.append(shown.view);
    shown.view.scrollIntoView({ block: "nearest" });
    running = new AbortController();
    const all = AbortSignal.any([signal, running.signal]);
    send.disabled = true;
    stop.disabled = false;
    spoken.textContent = "The model answers";
    const timing = { began: performance.now(), read: tokenReader() };
    try {
      const options = { method: "POST", body, signal: all };
      for await (const event of events("/v1/chat/completions", options)) take(event, answer, timing, shown);
      spoken.textContent = ["Answer:", answer.content, sureWords(answer.confidence, answer.tokens)].join(" ");
    } catch (error) {
      answer.failed = !answer.content;
      if (error.name === "AbortError") { answer.note = [answer.note, "stopped"].filter(Boolean).join(", "); spoken.textContent = "Stopped"; }
      else { answer.error = error.message; spoken.textContent = error.message; }
    }
    answer.isOver = true;
    shown.update();
    send.disabled = false;
    stop.disabled = true;
    if (!signal.aborted) input.focus();
  }

  function take({ headers, kind, data }, answer, timing, shown) {
    if (headers) { answer.id = headers.get("x-request-id"); return; }
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (kind === "error" || chunk.error) throw new Error(chunk.error?.message || "The answer broke off.");
    const choice = chunk.choices[0];
    const text = choice?.delta?.content || "";
    const thought = choice?.delta?.reasoning_content || "";
    answer.tokens.push(...(choice?.logprobs?.content || []).map(timing.read));
    answer.confidence = choice?.confidence || answer.confidence;
    const now = performance.now();
    if (text || thought) {
      timing.first ??= now;
      answer.content += text;
      answer.thought += thought;
    }
    // What was thought is not shaded.
    if (answer.thought && !answer.content) answer.thoughtTokens = answer.tokens.length;
    const n = chunk.usage?.completion_tokens;
    const notes = [];
    if (timing.first) notes.push(`first token ${ms(timing.first - timing.began)}`);
    if (n) {
      notes.unshift(`${number(n)} tokens`);
      const seconds = (now - timing.first) / 1000;
      if (n > 1 && seconds > 0) notes.push(`${number((n - 1) / seconds, 1)} tokens/s`);
    }
    answer.note = notes.join(", ");
    shown.update();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (!text || send.disabled) return;
    problem.replaceChildren();
    input.value = "";
    ask(text);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  model.addEventListener("change", () => { chosen.model = model.value; });
  stop.addEventListener("click", () => running?.abort());
  clear.addEventListener("click", () => {
    running?.abort();
    talk.length = 0;
    log.replaceChildren();
    input.focus();
  });
  listModels();
  return "Playground";
}

function bubble(message) {
  const text = h("div", { class: "text" });
  const write = shadedText(text);
  const note = h("p", { class: "quiet-text" });
  const sureness = h("p", { class: "quiet-text" });
  const summary = h("summary", {});
  const thoughtText = h("div", { class: "thought" });
  const thought = h("details", { class: "quiet-text" }, summary, thoughtText);
  const view = h("li", { class: message.role }, h("strong", {}, message.role === "user" ? "You" : "Model"), text, note);
  let isWhole = false;
  function update() {
    if (message.thought && !thought.isConnected) text.before(thought);
    summary.textContent = message.content ? "Thought" : "Thinks";
    thoughtText.textContent = message.thought || "";
    write(message.content, message.content ? (message.tokens || []).slice(message.thoughtTokens || 0) : []);
    const link = message.id && message.role === "assistant" ? h("a", { href: `#/requests/${message.id}` }, "this request") : null;
    const error = message.error ? h("span", { class: "problem-text" }, message.error) : null;
    const parts = [message.note || null, error, link].filter(Boolean);
    note.replaceChildren(...parts.flatMap((part, i) => (i ? [" \u00b7 ", part] : [part])));
    if (!message.isOver || isWhole || !message.tokens.length) return;
    isWhole = true;
    sureness.textContent = sureWords(message.confidence, message.tokens);
    view.append(sureness, tokenTable(message.tokens));
  }
  update();
  return { view, update };
}
