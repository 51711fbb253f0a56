// What holds in the place of a model's answers: rules, switches, who waits for a person, and what was done.

import { get, post } from "./api.js";
import { h, area, every, field, number, said, table, time, words } from "./dom.js";
import { ask } from "./ask.js";
import { plain, stateTag } from "./rule.js";
import { ruleForm } from "./rule_form.js";

const EVERY_MS = 5000;
const SHOWN = 50;
// What can be taken back.
const CHANGES = ["add", "publish", "expire", "remove", "kill", "pin"];

function rulesView(rules) {
  if (!rules.length) return h("p", {}, "There are none. One is written below, or by ", h("code", {}, "lastmile override add FILE"), ".");
  const columns = [["Rule", "wide"], ["State", ""], ["Hits", "num"], ["Action", ""], ["Ends", "nowrap"], ["Owner", ""]];
  return table("Rules", columns, rules.map((one) => [
    h("div", {}, h("a", { href: `#/overrides/${encodeURIComponent(one.id)}` }, one.id), h("div", { class: "clip quiet-text" }, one.rule.reason)),
    stateTag(one.state), number(one.hits), one.rule.then.action, time(one.expires_at_ms), one.rule.owner]));
}

// The rule or the switches as JSON, or words.
function whyOf(entry) {
  if (!entry.detail.startsWith("{")) return entry.detail;
  try { return JSON.parse(entry.detail).reason || ""; } catch { return entry.detail; }
}

function auditView(audit, all) {
  if (!audit.length) return h("p", { class: "quiet-text" }, "Nothing yet.");
  const shown = audit.slice(0, all.checked ? audit.length : SHOWN);
  return table("What was done", [["When", "nowrap"], ["What", "wide"], ["Why", "wide"], ["Who", ""]], shown.map((entry) => [
    time(entry.at_ms), h("span", {}, h("strong", {}, entry.action), entry.action === "rollback" ? "" : ` ${entry.target}`), whyOf(entry), entry.who]));
}

// What a rollback would take back.
function lastChange(audit) {
  const undone = new Set(audit.filter((entry) => entry.action === "rollback").map((entry) => entry.target));
  return audit.find((entry) => CHANGES.includes(entry.action) && !undone.has(String(entry.id)));
}

function holdsView(operator, breakers) {
  const killed = operator.killed.map((route) => h("p", { class: "alert critical" }, h("strong", {}, "Killed: "), `${route} answers nothing.`));
  const pin = operator.pin ? [h("p", { class: "alert warning" }, h("strong", {}, "Pinned: "), `${operator.pin} answers everything.`)] : [];
  const broken = Object.entries(breakers).filter(([, state]) => state !== "closed")
    .map(([model, state]) => h("p", { class: "alert warning" }, h("strong", {}, "Breaker: "), `${model} failed; its breaker is ${words(state)}.`));
  return [...killed, ...pin, ...broken];
}

function switchesView({ routes, models, audit, problem, show, signal }) {
  const told = h("p", { role: "status", class: "quiet-text" });
  const route = h("select", { id: "kill-route" }, routes.map((one) => h("option", { value: one }, one)));
  const target = h("input", { id: "pin-target", autocomplete: "off", spellcheck: "false", list: "pin-targets", maxlength: "256" });
  const targets = h("datalist", { id: "pin-targets" }, models.map((one) => h("option", { value: one })));

  async function act(verb, body, question, done) {
    const reason = await ask({ ...question, wantsReason: true, signal });
    if (reason === null) return;
    told.textContent = "\u2026";
    try {
      const answer = await post(`/ops/v1/overrides/${verb}`, { ...body, reason }, { signal });
      told.textContent = done(answer);
      problem.replaceChildren();
    } catch (error) {
      if (signal.aborted) return;
      told.textContent = "";
      problem.replaceChildren(said(error));
      return;
    }
    await show(true);
  }

  const kill = () => act("kill", { route: route.value }, {
    title: `Kill ${route.value}?`, verb: "Kill it", isGrave: true,
    what: ["It answers nothing from now on, to nobody, and what runs on it ends.", "A rollback opens it again."],
  }, () => `${route.value} answers nothing.`);

  const pin = () => {
    target.setCustomValidity(target.value.trim() ? "" : "The name of a model, or how the hash of a release begins.");
    if (!target.reportValidity()) return;
    act("pin", { target: target.value.trim() }, {
      title: `Pin everything to ${target.value.trim()}?`, verb: "Pin it", isGrave: true,
      what: ["It answers every request from now on, whatever model they ask for. Nothing that runs is dropped.", "A rollback takes it back."],
    }, (operator) => `${operator.pin} answers everything.`);
  };
  target.addEventListener("input", () => target.setCustomValidity(""));

  const rollback = () => {
    const last = lastChange(audit());
    act("rollback", {}, {
      title: "Take the last change back?", verb: "Take it back",
      what: last ? ["This is undone:", `${last.action} ${last.target}, by ${last.who}, ${new Date(last.at_ms).toISOString().slice(0, 19).replace("T", " ")}Z.`, "Again takes back the one before it."] : "There seems to be nothing to take back.",
    }, (answer) => `Taken back: ${answer.undone}.`);
  };

  const one = (place, button) => h("div", { class: "row join" }, place, button);
  return h("section", { class: "card", "aria-label": "Switches" }, h("h2", {}, "Switches"),
    h("div", { class: "two" },
      one(field("Route that answers nothing", route), h("button", { type: "button", class: "grave", onclick: kill }, "Kill")),
      one(field("Model or release that answers everything", target), h("button", { type: "button", class: "grave", onclick: pin }, "Pin"))),
    targets, h("div", { class: "row" }, h("button", { type: "button", class: "quiet", onclick: rollback }, "Take the last change back"), told));
}

function promptText(prompt) {
  const last = prompt?.messages?.[prompt.messages.length - 1]?.content;
  if (typeof last === "string") return last;
  return prompt?.text ?? JSON.stringify(prompt);
}

function waitingView(waiting, answer) {
  return h("ul", { class: "messages" }, waiting.map((item) => {
    const text = h("textarea", { id: `answer-${item.id}`, rows: "3", required: true });
    return h("li", {}, h("form", { class: "stack", "aria-label": `Answer ${item.id}`, onsubmit: (event) => { event.preventDefault(); answer(item.id, text.value); } },
      h("p", {}, h("strong", {}, `${item.rule}, until `), time(item.deadline_ms)),
      h("pre", { tabindex: "0", "aria-label": "What was asked" }, promptText(item.prompt)),
      field("Answer", text), h("div", { class: "row" }, h("button", { type: "submit" }, "Answer"))));
  }));
}

export function overridesPage(place, { search, signal }) {
  const problem = h("div");
  const unread = h("div");
  const holds = area("alerts");
  const rules = area();
  const write = h("details", { class: "card" }, h("summary", {}, "Write a rule"));
  const switches = h("div");
  const waiting = area("card");
  const all = h("input", { id: "audit-all", type: "checkbox" });
  const log = area();
  place.append(h("h1", {}, "Overrides"), unread, problem, holds.view, waiting.view,
    h("section", { class: "stack", "aria-label": "Rules" }, h("h2", {}, "Rules"), rules.view), write, switches,
    h("section", { class: "stack", "aria-label": "What was done" }, h("div", { class: "row spread" }, h("h2", {}, "What was done"),
      h("div", { class: "row tick" }, all, h("label", { for: all.id }, "Show everything"))), log.view));
  let audit = [];

  async function answer(id, text) {
    try {
      await post(`/ops/v1/overrides/queue/${encodeURIComponent(id)}`, { text }, { signal });
      problem.replaceChildren();
      await show(true);
    } catch (error) {
      if (!signal.aborted) problem.replaceChildren(said(error));
    }
  }

  // Once: what somebody writes into is not drawn again.
  async function prepare({ routes, rules }) {
    const form = ruleForm({ routes, signal, done: (standing) => { location.hash = `#/overrides/${encodeURIComponent(standing.id)}`; } });
    write.append(form.view);
    const other = rules.find((one) => one.id === search.get("from"));
    if (other) {
      write.open = true;
      form.begin({ ...plain(other.rule), id: `${other.id}-2` });
    }
    const { data } = await get("/v1/models", { signal });
    switches.replaceChildren(switchesView({ routes, models: data.map((one) => one.id), audit: () => audit, problem, show, signal }));
  }

  async function show(isForced = false) {
    try {
      const [found, entries, queue] = await Promise.all(["", "/audit", "/queue"].map((one) => get(`/ops/v1/overrides${one}`, { signal })));
      audit = entries;
      holds.show([found.operator, found.breakers], () => holdsView(found.operator, found.breakers), isForced);
      rules.show(found.rules, () => rulesView(found.rules), isForced);
      waiting.view.hidden = !queue.length;
      waiting.show(queue, () => [h("h2", {}, "Waiting for a person"), waitingView(queue, answer)], isForced);
      log.show([audit, all.checked], () => auditView(audit, all), isForced);
      if (!switches.children.length) await prepare(found);
      unread.replaceChildren();
    } catch (error) {
      if (!signal.aborted) unread.replaceChildren(said(error));
    }
  }

  all.addEventListener("change", () => show());
  show();
  every(EVERY_MS, signal, () => show());
  return "Overrides";
}
