// How fast one learns: from a failure to the proof that it is fixed, and what came of it week by week.

import { get, query } from "./api.js";
import { h, area, every, number, said, span, table } from "./dom.js";
import { asOf, nothingFailed } from "./failures.js";
import { empty } from "./empty.js";
import { pictureView } from "./picture.js";

const EVERY_MS = 15000;
const WINDOWS = [[7, "the last week"], [30, "the last 30 days"], [90, "the last 90 days"], [365, "the last year"]];
const STAGES = [["Failed to noticed", "noticed"], ["Noticed to clustered", "clustered"], ["Clustered to fixed", "fixed"], ["Fixed to verified", "verified"], ["Failed to verified", "whole"]];
const took = (seconds) => (seconds === null ? "\u2013" : seconds < 1 ? `${number(seconds, 2)} s` : span(seconds));
const day = (ms) => new Date(ms).toISOString().slice(0, 10);

function tile(name, value, note) {
  return h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, h("div", { class: "value" }, value), h("div", { class: "note" }, note)));
}

function tiles({ learning, weeks }) {
  const [last, now] = [weeks[weeks.length - 2], weeks[weeks.length - 1]];
  return h("dl", { class: "tiles" },
    tile("Failures", number(learning.n_failures), "in the window"),
    tile("Failure to verified fix", took(learning.whole.median_s), `half at most, of ${number(learning.whole.n)}`),
    tile("Nine tenths at most", took(learning.whole.p90_s), "from failure to verified fix"),
    tile("Corrections this week", number(now.n_corrections), `${number(last.n_corrections)} the week before`),
    tile("Verified fixes this week", number(now.n_verified), `${number(last.n_verified)} the week before`));
}

function tables({ learning, weeks }) {
  return [
    h("h2", {}, "Stages"),
    table("Stages", [["Stage", "wide"], ["Failures", "num"], ["Half at most", "num"], ["Nine tenths at most", "num"]], STAGES.map(([name, key]) => [
      name, number(learning[key].n), took(learning[key].median_s), took(learning[key].p90_s)])),
    h("h2", {}, "Weeks"),
    table("Weeks", [["From", ""], ["Failures", "num"], ["Verdicts", "num"], ["Corrections", "num"], ["Fixes", "num"], ["Verified", "num"], ["To verified, half at most", "num"]], [...weeks].reverse().map((week) => [
      day(week.from_ms), number(week.n_failures), number(week.n_reviews), number(week.n_corrections), number(week.n_fixes), number(week.n_verified), took(week.to_verified.median_s)])),
  ];
}

export function learningPage(place, { signal }) {
  const problem = h("div");
  const told = h("p", { class: "quiet-text" });
  const head = area();
  const rest = area();
  const pictures = { stages: pictureView("From failure to verified fix"), proofs: pictureView("From feedback to verified fix, by week"), weeks: pictureView("Corrections per week") };
  const charts = h("div", { class: "two" }, Object.values(pictures).map((one) => one.view));
  const choice = h("select", { id: "days", onchange: () => show() }, WINDOWS.map(([days, name]) => h("option", { value: days, selected: days === 30 }, name)));
  place.append(
    h("div", { class: "row spread head" }, h("h1", {}, "Learning"), h("div", { class: "row controls" }, h("label", { for: "days" }, "Failures of"), choice)),
    problem, told, head.view, charts, rest.view);

  function advice(found) {
    const { learning, weeks } = found;
    if (!learning.n_failures && !weeks.some((week) => week.n_failures)) return nothingFailed();
    if (learning.fixed.n) return null;
    return empty("Failures are known, and none of them is fixed yet.", [
      ["See what to solve first:", "lastmile failures top"],
      ["Note what was done about a problem:", "lastmile fix add CLUSTER --note \"what was done\""],
      ["Have the traffic prove it:", "lastmile fix verify FIX"]]);
  }

  async function show() {
    try {
      const found = await get(`/ops/v1/learning${query({ days: choice.value, width: pictures.stages.width() })}`, { signal });
      if (told.textContent !== asOf(found)) told.textContent = asOf(found);
      const { learning, weeks } = found;
      const isEmpty = !learning.n_failures && !weeks.some((week) => week.n_failures);
      head.show([learning, weeks], () => [isEmpty ? null : tiles(found), advice(found)]);
      charts.hidden = isEmpty;
      if (!isEmpty) for (const [name, view] of Object.entries(pictures)) view.show(found.pictures[name]);
      rest.show([learning, weeks], () => (isEmpty ? [] : tables(found)));
      problem.replaceChildren();
    } catch (error) {
      if (!signal.aborted) problem.replaceChildren(said(error));
    }
  }

  show();
  every(EVERY_MS, signal, show);
  return "Learning";
}
