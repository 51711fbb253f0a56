// What goes wrong: problems by what to solve first, one of them with examples, and what fixes changed.

import { get, query } from "./api.js";
import { h, area, every, facts, number, percent, said, table, time } from "./dom.js";
import { command, cutText, empty } from "./empty.js";
import { pictureView, svgOf } from "./picture.js";

const EVERY_MS = 15000;
// Weighing fixes reads weeks of traffic.
const FIXES_EVERY_MS = 60000;
const PAGE = 20;
const WINDOWS = [[1, "the last day"], [7, "the last week"], [30, "the last 30 days"], [90, "the last 90 days"], [365, "the last year"]];
const points = (value) => `${value >= 0 ? "+" : "\u2212"}${number(Math.abs(value) * 100, 1)}`;
const share = (failed, n) => (n ? `${percent(failed / n)} (${number(failed)} of ${number(n)})` : "no answers");

// How old what is shown is, and whether more is coming.
export function asOf(found) {
  const read = found.as_of_ms ? `Traffic is read until ${new Date(found.as_of_ms).toISOString().slice(11, 19)}Z` : "No traffic was read yet";
  if (found.is_failing) return `${read}; the last reading failed, see the log.`;
  return found.is_reading ? `${read}; more is being read.` : `${read}.`;
}

// A problem is learned of by this.
export const rateCommand = () =>
  `curl ${location.origin}/v1/feedback -H 'content-type: application/json' -d '{"request_id": "ID", "rating": false}'`;

export function nothingFailed() {
  return empty("No failure is known. Errors, answers that are cut, loop or refuse, that the model was not sure of or an override changed, and what readers dislike, correct, edit or ask again become failures by themselves.", [
    ["Say that an answer is bad, by the id in its response:", rateCommand()],
    ["See the same in a terminal:", "lastmile failures top"]]);
}

function verdictTag({ verdict }) {
  return h("span", { class: verdict === "improved" ? "tag on" : verdict === "worse" ? "tag bad" : "tag" }, verdict);
}

function fixesTable(fixes) {
  const columns = [["Fix", "wide"], ["Failed before", ""], ["Failed since", ""], ["Change in points", "num"], ["Verdict", ""], ["Verified", "nowrap"], ["Gate", ""]];
  return table("Fixes", columns, fixes.map((one) => [
    h("div", {}, h("code", {}, one.id), h("div", {}, one.note)), share(one.now.before_failed, one.now.before_n), share(one.now.after_failed, one.now.after_n),
    `${points(one.now.change_low)} to ${points(one.now.change_high)}`, verdictTag(one.now), one.verified_at_ms ? time(one.verified_at_ms) : "not yet", one.gate || "none"]));
}

// Fixes with their evidence.
function fixesView(title, addCommand) {
  const picture = pictureView("What fixes changed");
  const rows = area();
  picture.view.hidden = true;
  const view = h("section", { class: "stack", "aria-label": title }, h("h2", {}, title),
    h("p", { class: "quiet-text" }, "The share of all answers that fail as the problem does, in the 14 days before a fix and since. Problems of the kind that began since count against the fix. The interval holds however often one looks; below zero the fix helps."),
    picture.view, rows.view);
  return {
    view,
    // The picture has none while it is hidden; its card takes 34 pixels.
    width: () => Math.min(1600, Math.max(240, Math.floor((view.clientWidth || 354) - 34))),
    show(fixes, drawn, n = fixes.length) {
      picture.view.hidden = !fixes.length;
      if (fixes.length) picture.show(drawn);
      rows.show(fixes, () => (fixes.length
        ? [fixesTable(fixes), n > fixes.length ? h("p", { class: "quiet-text" }, `${number(n - fixes.length)} older ones are left out; lastmile fix list has them.`) : null, h("p", { class: "quiet-text" }, "To keep what is found now, and to guard a fix that helps:"), command(`lastmile fix verify ${fixes[0].id}`)]
        : empty("No fix was noted yet.", [["Note what was done; from then on answers are compared with those before:", addCommand]])));
    },
  };
}

function windowChoice(show) {
  const choice = h("select", { id: "days", onchange: show }, WINDOWS.map(([days, name]) => h("option", { value: days, selected: days === 30 }, name)));
  return { choice, view: h("div", { class: "row controls" }, h("label", { for: "days" }, "Failures of"), choice) };
}

function problemsTable(problems) {
  const columns = [["Rank", "num"], ["Problem", "wide"], ["Trend", ""], ["Failures", "num"], ["Surely over", "num"], ["Severity", "num"], ["Days to fix", "num"], ["Score", "num"], ["Fixes", "num"]];
  return table("Problems", columns, problems.map((one) => [
    number(one.rank),
    h("div", {}, h("a", { href: `#/failures/${one.cluster}` }, one.fingerprint), h("div", { class: "quiet-text" }, h("code", {}, one.cluster))),
    h("span", { class: "canvas spark" }, svgOf(one.trend_svg)), number(one.n_failures), percent(one.rate_low), number(one.severity, 1),
    number(one.effort_days, 1), number(one.score, 4), number(one.n_fixes)]));
}

export function failuresPage(place, { signal }) {
  const problem = h("div");
  const told = h("p", { class: "quiet-text" });
  const body = area();
  const fixes = fixesView("Fixes", "lastmile fix add CLUSTER --note \"what was done\"");
  const { choice, view } = windowChoice(() => show(true));
  const more = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => { limit += PAGE; show(true); } }, "More problems");
  place.append(h("div", { class: "row spread head" }, h("h1", {}, "Failures"), view), problem, told,
    h("section", { class: "stack", "aria-label": "Problems" }, h("h2", {}, "Problems"), body.view, more), fixes.view);
  let limit = PAGE;

  async function show(isForced = false) {
    try {
      const found = await get(`/ops/v1/failures${query({ days: choice.value, limit: Math.min(100, limit) })}`, { signal });
      const { data, n_problems: n } = found;
      const text = `${number(n)} problem${n === 1 ? "" : "s"} in ${number(found.n_answers)} answers. ${asOf(found)}`;
      if (told.textContent !== text) told.textContent = text;
      more.hidden = data.length >= Math.min(100, n);
      body.show(data, () => (data.length ? problemsTable(data) : nothingFailed()), isForced);
      problem.replaceChildren();
    } catch (error) {
      if (!signal.aborted) problem.replaceChildren(said(error));
    }
  }

  async function showFixes() {
    try {
      const { data, picture, n_fixes: n } = await get(`/ops/v1/fixes${query({ width: fixes.width() })}`, { signal });
      fixes.show(data, picture, n);
    } catch (error) {
      if (!signal.aborted) problem.replaceChildren(said(error));
    }
  }

  show().then(showFixes);
  every(EVERY_MS, signal, show);
  every(FIXES_EVERY_MS, signal, showFixes);
  return "Failures";
}

// What was asked, answered and said of an answer.
export function toldView(told) {
  const left = told.n_messages - told.messages.length;
  const list = h("ol", { class: "messages" }, told.messages.map((message) => h("li", {}, h("strong", {}, message.role), cutText(message))));
  return [
    left > 0 ? h("p", { class: "quiet-text" }, `${number(left)} earlier messages are left out.`) : null,
    told.messages.length ? list : h("p", { class: "quiet-text" }, "The prompt was not kept, or is gone."),
    h("p", {}, h("strong", {}, "Answer"), told.error_code ? `, ended by ${told.error_code}` : told.finish_reason ? `, ended by ${told.finish_reason}` : ""),
    told.output ? cutText(told.output) : h("p", { class: "quiet-text" }, "The answer was not kept, or is gone."),
    told.opinions.map((one) => h("p", {}, time(one.at_ms), one.rating === null ? "" : ` rated ${number(one.rating, 1)}`,
      one.comment ? `: ${one.comment.text}` : "", one.correction ? ` should be: ${one.correction.text}` : "")),
  ].flat(2);
}

function exampleView(one) {
  return h("section", { class: "card", "aria-label": `Answer ${one.answer}` },
    h("div", { class: "row spread" }, h("h3", {}, time(one.occurred_at_ms), ` ${one.kinds.replaceAll(",", ", ")}`), h("a", { href: `#/requests/${one.request_id}`, "aria-label": `The request ${one.request_id}` }, "The request")),
    h("div", { class: "row" }, h("span", { class: "tag" }, one.verdict || "not reviewed"), one.told.tags.map((tag) => h("span", { class: "tag" }, tag))),
    toldView(one.told),
    one.correction ? [h("p", {}, h("strong", {}, "Should be, says a reviewer")), h("pre", { tabindex: "0" }, one.correction)] : null);
}

function problemFacts(found) {
  const one = found.problem;
  if (!one) return h("p", {}, "It did not occur in the window.");
  return facts([
    ["Rank", number(one.rank)], ["Failures", number(one.n_failures)], ["Of answers", number(one.n_answers)], ["Surely over", percent(one.rate_low)],
    ["In the newer half", number(one.n_recent)], ["Severity", number(one.severity, 1)], ["Days to fix", number(one.effort_days, 1)], ["Score", number(one.score, 4)],
    ["Trend, oldest first", one.trend.join(", ")]]);
}

export function problemPage(place, { id, signal }) {
  const problem = h("div");
  const told = h("p", { class: "quiet-text" });
  const top = area();
  const examples = area();
  const fixes = fixesView("Fixes of this problem", `lastmile fix add ${id} --note "what was done"`);
  const { choice, view } = windowChoice(() => show(true));
  const more = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => { limit = Math.min(50, limit * 2); show(true); } }, "More examples");
  const heading = h("h1", {}, "Problem");
  place.append(h("p", {}, h("a", { href: "#/failures" }, "All problems")), h("div", { class: "row spread head" }, heading, view), problem, told,
    h("section", { class: "card", "aria-label": "Facts" }, h("h2", {}, "Facts"), top.view, command(`lastmile failures show ${id}`)), fixes.view,
    h("section", { class: "stack", "aria-label": "Examples" }, h("h2", {}, "Examples, newest first"), examples.view, more));
  let limit = 5;

  async function show(isForced = false) {
    try {
      const found = await get(`/ops/v1/failures/${encodeURIComponent(id)}${query({ days: choice.value, limit, width: fixes.width() })}`, { signal });
      if (found.problem) heading.textContent = found.problem.fingerprint;
      if (told.textContent !== asOf(found)) told.textContent = asOf(found);
      top.show(found.problem, () => problemFacts(found));
      more.hidden = found.examples.length < limit || limit >= 50;
      examples.show(found.examples, () => found.examples.map(exampleView), isForced);
      fixes.show(found.fixes, found.picture);
      problem.replaceChildren();
    } catch (error) {
      if (!signal.aborted) problem.replaceChildren(said(error));
    }
  }

  show();
  every(FIXES_EVERY_MS, signal, show);
  return "Problem";
}
