// What to do where there is nothing to see yet, and texts that may be long or strange.

import { h, copyButton } from "./dom.js";

// A command that can be copied.
export function command(text) {
  return h("div", { class: "row" }, h("code", { class: "command" }, text), copyButton(() => text));
}

// Why there is nothing, and what would change that: [what it does, the command].
export function empty(why, steps) {
  return h("section", { class: "card", "aria-label": "Nothing yet" }, h("p", {}, why),
    steps.map(([what, text]) => h("div", { class: "stack" }, h("p", { class: "quiet-text" }, what), command(text))));
}

const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;

// Characters that nobody would see are written as their numbers.
export const visible = (text) => text.replace(UNSEEN, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);

// A text of the server, which may have left its end out.
export function cutText({ text, is_cut: isCut }) {
  return [h("pre", { tabindex: "0" }, visible(text)), isCut ? h("p", { class: "quiet-text" }, "It goes on.") : null];
}
