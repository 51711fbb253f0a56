// A candidate beside what answers: how far, and what is known.

import { get, post, query } from "./api.js";
import { h, facts, field, number, percent, said, table, time, words } from "./dom.js";
import { pictureView } from "./picture.js";

const EVERY_MS = 5000;
const points = (value) => `${value >= 0 ? "+" : "\u2212"}${number(Math.abs(value) * 100, 1)}`;
const stage = (name) => (name === "shadow" ? name : `${name} %`);

export function experimentsPage(place, { id, signal }) {
  const problem = h("div");
  const body = h("div", { class: "stack" });
  place.append(h("h1", {}, id || "Experiments"), problem, body);
  if (id) one(id, body, problem, signal);
  else list(body, problem, signal);
  return id || "Experiments";
}

async function list(body, problem, signal) {
  try {
    const { experiments, shadow } = await get("/ops/v1/experiments", { signal });
    if (!experiments.length) {
      body.replaceChildren(h("p", {}, "There are none. ", h("code", {}, "lastmile exp start FILE"), " begins one."));
      return;
    }
    body.replaceChildren(
      table("Experiments", [["Name", "wide"], ["State", ""], ["Stage", ""], ["Primary", "num"], ["Candidate", "num"], ["Gain (points)", "num"]], experiments.map((one) => [
        h("a", { href: `#/experiments/${encodeURIComponent(one.name)}` }, one.name), h("span", { class: "tag" }, words(one.status)), stage(one.stage),
        number(one.n_primary), number(one.n_candidate), `${points(one.gain_low)} to ${points(one.gain_high)}`])),
      h("section", { class: "card", "aria-label": "Shadow copies" }, h("h2", {}, "Shadow copies"), facts([
        ["Answered", number(shadow.done)], ["Waiting", number(shadow.waiting)], ["Made way", number(shadow.made_way)],
        ["Dropped", number(shadow.dropped)], ["Model not loaded yet", number(shadow.unavailable)]])));
  } catch (error) {
    if (!signal.aborted) problem.replaceChildren(said(error));
  }
}

function one(id, body, problem, signal) {
  const path = `/ops/v1/experiments/${encodeURIComponent(id)}`;
  const known = h("div", { class: "stack" });
  const picture = pictureView("Gain");
  const done = h("div");
  const told = h("p", { role: "status", class: "quiet-text" });
  const reason = h("input", { id: "why", autocomplete: "off", required: true, maxlength: "500" });
  const button = (verb) => h("button", { type: "button", class: verb === "promote" ? "" : "quiet", onclick: () => act(verb) }, verb);
  const verbs = h("form", { class: "card", "aria-label": "Move it", onsubmit: (event) => event.preventDefault() },
    field("Why", reason, "Goes into the audit log; promoting needs none."), h("div", { class: "row" }, ["promote", "rollback", "stop"].map(button)), told);
  body.append(known, picture.view, verbs, done);

  async function act(verb) {
    if (verb !== "promote" && !reason.reportValidity()) return;
    told.textContent = `${verb} \u2026`;
    try {
      const moved = await post(`${path}/${verb}`, verb === "promote" ? {} : { reason: reason.value }, { signal });
      told.textContent = `${words(moved.status)} at ${stage(moved.stage)}`;
    } catch (error) {
      if (signal.aborted) return;
      told.textContent = error.message;
      return;
    }
    await show();
  }

  async function show() {
    try {
      const found = await get(`${path}${query({ width: picture.width() })}`, { signal });
      known.replaceChildren(
        h("p", {}, h("span", { class: "tag" }, words(found.status)), ` at ${stage(found.stage)} since `, time(found.stage_at_ms), `: ${found.why}`),
        facts([
          ["Advice", `${words(found.advice.action)}: ${found.advice.why}`],
          [words(found.metric), `${percent(found.candidate)} against ${percent(found.primary)}`],
          ["Gain", `${points(found.gain_low)} to ${points(found.gain_high)} points`],
          ["Answers", `${number(found.n_candidate)} of the candidate, ${number(found.n_primary)} of the primary`],
          ["Units", `${number(found.units[1])} of ${number(found.units[0] + found.units[1])} are the candidate's${found.sample_ratio_mismatch ? ": MISMATCH" : ""}`],
          ["Shadow copies", found.shadow.n ? `${number(found.shadow.n)}, ${number(found.shadow.same)} word for word the same` : null],
        ]),
        table("Guardrails", [["Guardrail", "wide"], ["State", ""], ["Primary", "num"], ["Candidate", "num"], ["At least", "num"], ["At most", "num"]], found.guardrails.map((rail) => [
          rail.limit, h("span", { class: "tag" }, rail.is_broken ? "broken" : "holds"),
          number(rail.primary, 3), number(rail.candidate, 3), number(rail.low, 3), number(rail.high, 3)])));
      picture.show(found.picture);
      verbs.hidden = found.status !== "running";
      done.replaceChildren(table("What was done", [["When", ""], ["Who", ""], ["What", ""], ["Why", "wide"]], found.audit.map((entry) => [
        time(entry.at_ms), entry.who, entry.action, entry.action === "start" ? "" : entry.detail])));
      problem.replaceChildren();
    } catch (error) {
      if (!signal.aborted) problem.replaceChildren(said(error));
    }
  }

  show();
  const timer = setInterval(show, EVERY_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}
