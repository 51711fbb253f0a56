// One rule: what it says, how often it held, what it would have done, and what can be done with it.

import { get, post, query } from "./api.js";
import { h, area, every, facts, number, percent, requestLinks, said, time } from "./dom.js";
import { ask } from "./ask.js";

const EVERY_MS = 5000;
const DAY_MS = 86400000;
const SPANS = [["1", "day"], ["7", "7 days"], ["30", "30 days"]];

export function stateTag(state) {
  return h("span", { class: state === "published" ? "tag on" : "tag" }, state);
}

// The rule without what it does not say.
export function plain(rule) {
  const isSaid = ([, value]) => value !== null && value !== false && value !== 0 && !(Array.isArray(value) && !value.length);
  const when = Object.fromEntries(Object.entries(rule.when).filter(isSaid));
  const all = Object.entries({ ...rule, when }).filter(isSaid);
  return Object.fromEntries(all.filter(([name]) => name !== "when" || Object.keys(when).length));
}

// What the rule is about, in short; everything when it says nothing.
function about(when) {
  const said = Object.entries(when).filter(([, value]) => value && value !== true && value.length);
  const one = ([name, value]) => `${name}: ${Array.isArray(value) ? value.map((each) => (typeof each === "string" ? each : JSON.stringify(each))).join(", ") : value}`;
  const all = said.map(one);
  if (when.asked) all.push("only when asked for by the header");
  return all.length ? all.join("; ") : "everything";
}

function dryRunView(id, signal) {
  const days = h("select", { id: "dry-days" }, SPANS.map(([value, name]) => h("option", { value, selected: value === "7" }, name)));
  const found = h("div", { role: "status", class: "stack" });
  const button = h("button", { type: "button", onclick: run }, "Dry run");

  async function run() {
    button.disabled = true;
    found.replaceChildren(h("p", { class: "quiet-text" }, "The recorded answers are being looked at."));
    try {
      const since = Date.now() - Number(days.value) * DAY_MS;
      const { answers, hits, unknown, examples } = await post(`/ops/v1/overrides/${encodeURIComponent(id)}/dry-run${query({ since_ms: since })}`, {}, { signal });
      const share = answers ? ` (${percent(hits / answers)})` : "";
      const untold = unknown ? ` The texts of ${number(unknown)} were not kept, so that nobody can tell.` : "";
      found.replaceChildren(
        h("p", {}, h("strong", {}, `It would have held for ${number(hits)} of ${number(answers)} answers${share}.`), untold),
        ...(examples.length ? [h("p", { class: "quiet-text" }, "Such as:"), requestLinks(examples)] : []));
    } catch (error) {
      if (!signal.aborted) found.replaceChildren(said(error));
    }
    button.disabled = false;
  }

  return h("section", { class: "card", "aria-label": "Dry run" }, h("h2", {}, "Dry run"),
    h("p", { class: "quiet-text" }, "For which of the recorded answers it would have held, beside the rules that are published. Nothing is changed."),
    h("div", { class: "row controls" }, h("label", { for: days.id }, "Traffic of the last"), days, button), found);
}

const ASKED = {
  publish: { title: "Publish", verb: "Publish", what: "It holds for every request from now on, until it ends or is taken back." },
  expire: { title: "End", verb: "End it now", what: "It holds no more from now on. It stays in the list." },
  remove: { title: "Remove", verb: "Remove it", isGrave: true, what: "It holds no more, and leaves the list. Its hits and what was done stay." },
};

export function rulePage(place, { id, signal }) {
  const problem = h("div");
  const unread = h("div");
  const known = area();
  const told = h("p", { role: "status", class: "quiet-text" });
  const verbs = h("div", { class: "row" });
  place.append(h("p", {}, h("a", { href: "#/overrides" }, "All overrides")), h("h1", {}, id), unread, problem, known.view,
    h("section", { class: "card", "aria-label": "Change it" }, h("h2", {}, "Change it"), verbs, told), dryRunView(id, signal));
  const path = `/ops/v1/overrides/${encodeURIComponent(id)}`;

  async function act(verb) {
    const { title, ...rest } = ASKED[verb];
    if ((await ask({ title: `${title} ${id}?`, ...rest, signal })) === null) return;
    try {
      const standing = await post(`${path}/${verb}`, {}, { signal });
      problem.replaceChildren();
      if (verb === "remove") {
        location.hash = "#/overrides";
        return;
      }
      told.textContent = `It is ${standing.state}.`;
    } catch (error) {
      if (!signal.aborted) problem.replaceChildren(said(error));
    }
    await show(true);
  }

  async function show(isForced) {
    try {
      const { rules } = await get("/ops/v1/overrides", { signal });
      const one = rules.find((each) => each.id === id);
      if (!one) {
        unread.replaceChildren(said(new Error(`There is no rule ${id}: it was removed, or taken back.`)));
        known.show(null, () => null, true);
        verbs.replaceChildren();
        return;
      }
      const { rule } = one;
      known.show(one, () => [
        h("p", {}, stateTag(one.state), ` ${rule.reason}`),
        facts([
          ["Owner", rule.owner], ["Hits", number(one.hits)], ["Action", rule.then.action], ["About", about(rule.when)],
          ["Added", h("span", {}, time(one.added_at_ms), ` by ${one.added_by}`)],
          ["Published", one.published_at_ms ? time(one.published_at_ms) : "not yet"],
          [one.state === "expired" ? "Ended" : "Ends", time(one.expires_at_ms)],
          ["Priority", number(rule.priority)], ["Mandatory", rule.mandatory ? "yes: no user's override gets past it" : "no"],
        ]),
        h("h2", {}, "What it says"), h("pre", { tabindex: "0", "aria-label": "The rule as JSON" }, JSON.stringify(plain(rule), null, 2)),
        h("p", {}, h("a", { href: `#/overrides?from=${encodeURIComponent(id)}` }, "Write another one from it")),
      ], isForced);
      const wanted = { draft: ["publish", "remove"], published: ["expire", "remove"], expired: ["remove"] }[one.state];
      const is = [...verbs.children].map((button) => button.dataset.verb).join();
      if (is !== wanted.join()) {
        verbs.replaceChildren(...wanted.map((verb) => h("button", { type: "button", "data-verb": verb, class: verb === "publish" ? "" : "quiet", onclick: () => act(verb) }, ASKED[verb].verb)));
      }
      unread.replaceChildren();
    } catch (error) {
      if (!signal.aborted) unread.replaceChildren(said(error));
    }
  }

  show();
  every(EVERY_MS, signal, show);
  return id;
}
