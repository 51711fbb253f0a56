// A question before something is done that others feel.

import { h, field } from "./dom.js";

let n = 0;

// What was given as the reason, or null when somebody thought better of it.
export function ask({ title, what, verb, wantsReason = false, isGrave = false, signal }) {
  n += 1;
  const reason = wantsReason ? h("input", { id: `ask-reason-${n}`, autocomplete: "off", required: true, maxlength: "500" }) : null;
  const heading = h("h2", { id: `ask-title-${n}` }, title);
  const told = h("div", { id: `ask-what-${n}`, class: "stack" }, [what].flat().map((one) => h("p", {}, one)));
  const dialog = h("dialog", { "aria-labelledby": heading.id, "aria-describedby": told.id });
  return new Promise((done) => {
    const end = (answer) => {
      // Closing gives the focus back to where it was.
      dialog.close();
      dialog.remove();
      done(answer);
    };
    const form = h("form", { onsubmit: (event) => { event.preventDefault(); end(reason ? reason.value.trim() : ""); } },
      heading, told,
      reason ? field("Reason", reason, "Goes into the audit log.") : null,
      h("div", { class: "row end" },
        h("button", { type: "button", class: "quiet", onclick: () => end(null) }, "Cancel"),
        h("button", { type: "submit", class: isGrave ? "grave" : "" }, verb)));
    reason?.addEventListener("input", () => reason.setCustomValidity(reason.value.trim() ? "" : "A reason is needed."));
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); end(null); });
    signal?.addEventListener("abort", () => { if (dialog.open) end(null); }, { once: true });
    dialog.append(form);
    document.body.append(dialog);
    dialog.showModal();
    (reason || form.querySelector("button.quiet")).focus();
  });
}

// A text that somebody writes, or null when somebody thought better of it.
export function write({ title, label, verb, value, most = 100000, isLong = false, signal }) {
  n += 1;
  const attributes = { id: `write-${n}`, autocomplete: "off", maxlength: String(most), required: true };
  const input = isLong ? h("textarea", { ...attributes, rows: "8" }) : h("input", attributes);
  input.value = value;
  const heading = h("h2", { id: `write-title-${n}` }, title);
  const dialog = h("dialog", { "aria-labelledby": heading.id });
  return new Promise((done) => {
    const end = (answer) => {
      dialog.close();
      dialog.remove();
      done(answer);
    };
    const check = () => input.setCustomValidity(input.value.trim() ? "" : "A text is needed.");
    const form = h("form", { onsubmit: (event) => { event.preventDefault(); end(input.value); } }, heading, field(label, input),
      h("div", { class: "row end" }, h("button", { type: "button", class: "quiet", onclick: () => end(null) }, "Cancel"), h("button", { type: "submit" }, verb)));
    check();
    input.addEventListener("input", check);
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); end(null); });
    signal?.addEventListener("abort", () => { if (dialog.open) end(null); }, { once: true });
    dialog.append(form);
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
}
