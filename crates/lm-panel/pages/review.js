// Failures that a person looks at one by one: the reviewer's own for a while, judged by keys.

import { key, post } from "./api.js";
import { h, facts, field, number, said, span, time } from "./dom.js";
import { write } from "./ask.js";
import { nothingFailed, toldView } from "./failures.js";

const N = 5;
// With fewer than this the next ones are fetched.
const FEW = 3;
const TICK_MS = 5000;
const AGAIN_MS = 2000;
const NAME = "lastmile-reviewer";
const OWN = "lastmile-reviewer-own";
const KEYS = "lastmile-review-keys";
const HINTS = [["j", "next"], ["k", "the one before"], ["a", "accept: it is a failure"], ["r", "reject: it is none"],
  ["c", "correct: what it should have been"], ["t", "tag"], ["u", "undo the last verdict"]];
const DONE = { accept: "accepted as a failure", reject: "rejected: no failure", correct: "corrected", tag: "tagged" };

const short = (answer) => `\u2026${answer.slice(-12)}`;
const kinds = (item) => item.kinds.replaceAll(",", ", ");

function isTyping(target) {
  return target instanceof Element && target.closest("input, textarea, select, [contenteditable]") !== null;
}

// Without a name it is the key's, and where there is no key this tab's own: two people are never one reviewer.
function ownName() {
  if (key()) return "";
  const drawn = () => crypto.getRandomValues(new Uint32Array(1))[0].toString(16).padStart(8, "0");
  const own = sessionStorage.getItem(OWN) || `panel-${drawn()}`;
  sessionStorage.setItem(OWN, own);
  return own;
}

export function reviewPage(place, { signal }) {
  const problem = h("div");
  const state = h("p", { class: "state" }, "Waiting for the server");
  const told = h("p", { role: "status", class: "quiet-text" });
  const queue = h("ol", { class: "queue", "aria-label": "Yours" });
  const card = h("section", { class: "card", tabindex: "-1", "aria-label": "Failure" });
  const nothing = h("div", { class: "stack" });
  const name = h("input", { id: "reviewer", autocomplete: "off", maxlength: "64", value: sessionStorage.getItem(NAME) || ownName() });
  const usesKeys = h("input", { id: "review-keys", type: "checkbox", checked: sessionStorage.getItem(KEYS) !== "off" });
  const button = (verb, key, work, kind = "quiet") => h("button", { type: "button", class: kind, "aria-keyshortcuts": key, onclick: work }, `${verb} `, h("kbd", {}, key));
  const judging = [
    button("Accept", "a", () => judge("accept"), ""), button("Reject", "r", () => judge("reject"), ""),
    button("Correct", "c", () => correct()), button("Tag", "t", () => tag())];
  const moving = [button("Next", "j", () => move(1)), button("Before", "k", () => move(-1))];
  const undoing = button("Undo", "u", () => undo());
  const back = h("button", { type: "button", class: "quiet", onclick: () => giveBack() }, "Give back");
  const more = h("button", { type: "button", hidden: true, onclick: () => lease() }, "Go on");
  const bar = h("div", { class: "row", role: "group", "aria-label": "Verdict" }, judging, moving, undoing, back);
  const who = h("form", { class: "card", "aria-label": "Reviewer", onsubmit: (event) => { event.preventDefault(); rename(); } },
    h("div", { class: "row join" }, field("Reviewer", name, "Whose leases and verdicts these are."), h("button", { type: "submit", class: "quiet" }, "Review as")),
    h("div", { class: "row tick" }, usesKeys, h("label", { for: "review-keys" }, "Judge by keys")),
    h("dl", { class: "keys" }, HINTS.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)))));
  place.append(h("div", { class: "row spread head" }, h("h1", {}, "Review"), state), problem, told,
    h("div", { class: "play" }, h("div", { class: "stack" }, bar, more, nothing, card), h("div", { class: "stack" }, h("h2", {}, "Yours"), queue, who)));

  let items = [];
  let at = 0;
  let waiting = 0;
  let judged = [];
  let isBusy = false;

  // Not what is being typed.
  let reviewer = name.value;
  const body = (more) => (reviewer ? { ...more, reviewer } : more);
  const say = (text) => { told.textContent = text; };

  function standing() {
    const left = items.length ? (items[0].leased_until_ms - Date.now()) / 1000 : 0;
    let text = "None is yours";
    if (items.length) text = left > 0 ? `${number(items.length)} yours for ${span(left)}, ${number(waiting)} wait besides` : "Your leases ended";
    if (state.textContent !== text) state.textContent = text;
    state.dataset.level = items.length ? (left > 60 ? "ok" : "warning") : "";
    more.hidden = !(items.length && left <= 0);
  }

  function show() {
    at = Math.max(0, Math.min(at, items.length - 1));
    const item = items[at];
    card.hidden = !item;
    for (const one of [...judging, ...moving, back]) one.disabled = !item;
    undoing.disabled = !judged.length;
    queue.replaceChildren(...items.map((one, i) => h("li", {}, h("button", {
      type: "button", class: "quiet", "aria-current": i === at ? "true" : null, onclick: () => { at = i; show(); card.focus(); },
    }, `${kinds(one)} `, h("code", {}, short(one.answer))))));
    standing();
    if (!item) return;
    card.setAttribute("aria-label", `Failure ${at + 1} of ${items.length}: ${kinds(item)}`);
    card.replaceChildren(
      h("div", { class: "row spread" }, h("h2", {}, kinds(item)), h("a", { href: `#/requests/${item.request_id}` }, "The request")),
      facts([
        ["When", time(item.occurred_at_ms)], ["Model", item.model], ["Problem", h("a", { href: `#/failures/${item.cluster}` }, item.cluster)],
        ["Chosen", item.chosen === "random" ? "at random, as one in five" : item.chosen === "held" ? "yours before" : "as the most uncertain"],
        ["Tags", item.told.tags.join(", ")]]),
      ...toldView(item.told).filter(Boolean));
  }

  // Why there is nothing to look at.
  function rest(found) {
    nothing.replaceChildren();
    if (items.length) return;
    if (!found.n_failures) nothing.replaceChildren(nothingFailed());
    else nothing.replaceChildren(h("p", { class: "card" }, found.n_unreviewed
      ? `All ${number(found.n_unreviewed)} failures that wait for a verdict are leased to others, for 15 minutes at most.`
      : `All ${number(found.n_failures)} failures are reviewed. New ones come by themselves.`));
  }

  async function lease() {
    try {
      const found = await post("/ops/v1/review/lease", body({ n: N }), { signal });
      // Those that are there keep their places.
      const fresh = new Map(found.data.map((item) => [item.answer, item]));
      const kept = items.filter((item) => fresh.has(item.answer)).map((item) => fresh.get(item.answer));
      items = [...kept, ...found.data.filter((item) => !kept.some((one) => one.answer === item.answer))];
      waiting = found.data[0]?.n_waiting ?? 0;
      reviewer = found.reviewer;
      if (!name.value) name.value = reviewer;
      problem.replaceChildren();
      rest(found);
      show();
    } catch (error) {
      failed(error);
    }
  }

  function failed(error) {
    if (signal.aborted) return;
    problem.replaceChildren(said(error));
    standing();
    // Much traffic is being read, or too many ask: it passes by itself.
    if (error.status === 429 && !items.length) setTimeout(() => { if (!signal.aborted) lease(); }, AGAIN_MS);
  }

  async function judge(verdict, text) {
    const item = items[at];
    if (!item || isBusy) return;
    isBusy = true;
    try {
      await post("/ops/v1/review/verdict", body({ answer: item.answer, verdict, ...(text === undefined ? {} : { text }) }), { signal });
      problem.replaceChildren();
      if (verdict === "tag") {
        if (!item.told.tags.includes(text)) item.told.tags.push(text);
      } else {
        items = items.filter((one) => one !== item);
        judged.push(item.answer);
      }
      show();
      const next = verdict !== "tag" && items[at] ? ` Now: ${kinds(items[at])}.` : "";
      say(`${short(item.answer)}: ${DONE[verdict]}.${verdict === "tag" ? "" : " u takes it back."}${next}`);
      if (verdict !== "tag" && items.length < FEW) await lease();
    } catch (error) {
      failed(error);
    }
    isBusy = false;
  }

  async function correct() {
    const item = items[at];
    if (!item) return;
    const text = await write({ title: "What should the answer have been?", label: "Answer", verb: "Correct", value: item.told.output?.is_cut ? "" : item.told.output?.text ?? "", isLong: true, signal });
    if (text !== null && items[at] === item) await judge("correct", text);
  }

  async function tag() {
    const item = items[at];
    if (!item) return;
    const text = await write({ title: "Tag this failure", label: "Tag", verb: "Tag", value: "", most: 64, signal });
    if (text !== null && items[at] === item) await judge("tag", text.trim());
  }

  async function undo() {
    const answer = judged[judged.length - 1];
    if (!answer || isBusy) return;
    isBusy = true;
    try {
      const item = await post("/ops/v1/review/undo", body({ answer }), { signal });
      judged.pop();
      items.splice(at, 0, item);
      nothing.replaceChildren();
      problem.replaceChildren();
      show();
      say(`${short(answer)} waits for a verdict again.`);
    } catch (error) {
      failed(error);
    }
    isBusy = false;
  }

  function move(by) {
    if (!items.length) return;
    at = (at + by + items.length) % items.length;
    show();
    card.focus();
    card.scrollIntoView({ block: "nearest" });
  }

  async function giveBack() {
    try {
      const done = await post("/ops/v1/review/give-back", body({}), { signal });
      items = [];
      show();
      say(`${number(done.given_back)} are others' to review.`);
      nothing.replaceChildren(h("div", {}, h("button", { type: "button", onclick: () => { nothing.replaceChildren(); lease(); } }, "Review again")));
    } catch (error) {
      failed(error);
    }
  }

  // Another reviewer begins with what is that one's own.
  async function rename() {
    sessionStorage.setItem(NAME, name.value.trim());
    reviewer = name.value.trim() || ownName();
    name.value = reviewer;
    [items, judged, at] = [[], [], 0];
    say("");
    await lease();
    say(`You review as ${reviewer}.`);
  }

  const byKey = { j: () => move(1), k: () => move(-1), a: () => judge("accept"), r: () => judge("reject"), c: correct, t: tag, u: undo };
  document.addEventListener("keydown", (event) => {
    const isFree = usesKeys.checked && !event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat;
    if (!isFree || isTyping(event.target) && event.target !== usesKeys || document.querySelector("dialog[open]")) return;
    const work = byKey[event.key];
    if (!work) return;
    event.preventDefault();
    work();
  }, { signal });
  usesKeys.addEventListener("change", () => sessionStorage.setItem(KEYS, usesKeys.checked ? "on" : "off"));
  const timer = setInterval(standing, TICK_MS);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
  show();
  lease();
  return "Review";
}
