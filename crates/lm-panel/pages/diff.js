// Which rows one version of a dataset has and another has not.

import { get, query } from "./api.js";
import { h, field, number, said } from "./dom.js";
import { cutText } from "./empty.js";

const name = (one) => `${one.version.slice(0, 12)} (${number(one.rows_published)} rows)`;

function rowsView(title, rows, n) {
  if (!rows.length) return null;
  return h("section", { class: "stack", "aria-label": title },
    h("h3", {}, n > rows.length ? `${title}: the first ${rows.length} of ${number(n)}` : title), rows.flatMap(cutText));
}

export function diffView(path, versions, signal) {
  const choice = (id, first) => h("select", { id }, [h("option", { value: "" }, first), ...versions.map((one) => h("option", { value: one.version }, name(one)))]);
  const [from, to] = [choice("diff-from", "its parent"), choice("diff-to", "the newest version")];
  const told = h("p", { role: "status", class: "quiet-text" });
  const found = h("div", { class: "stack" });
  const button = h("button", { type: "submit" }, "Compare");
  const form = h("form", { class: "filters", "aria-label": "Compare versions", onsubmit: (event) => { event.preventDefault(); compare(); } },
    field("Version", to), field("With", from), h("div", { class: "field" }, button));

  async function compare() {
    button.disabled = true;
    told.textContent = "The rows are being compared.";
    found.replaceChildren();
    try {
      const diff = await get(`${path}/diff${query({ from: from.value, to: to.value })}`, { signal });
      const beside = diff.from ? diff.from.slice(0, 12) : "nothing";
      told.textContent = `${diff.to.slice(0, 12)} beside ${beside}: ${number(diff.rows_added)} rows added, ${number(diff.rows_removed)} removed, ${number(diff.rows_same)} the same.`;
      found.replaceChildren(...[rowsView("Added rows", diff.added, diff.rows_added), rowsView("Removed rows", diff.removed, diff.rows_removed)].filter(Boolean));
    } catch (error) {
      if (!signal.aborted) { told.textContent = ""; found.replaceChildren(said(error)); }
    }
    button.disabled = false;
  }

  return h("section", { class: "card", "aria-label": "Differences" }, h("h2", {}, "Differences"), form, told, found);
}
