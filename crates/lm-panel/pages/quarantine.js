// The rows that broke a rule: how many of which, examples, and what could be published in their place.

import { get, query } from "./api.js";
import { h, facts, field, number, said, words } from "./dom.js";
import { command, cutText } from "./empty.js";

const PAGE = 5;

function rowView(row) {
  return h("section", { class: "card", "aria-label": `Row ${row.id}` },
    h("h3", {}, `${row.source}, line ${number(row.line)}`),
    h("p", {}, row.detail),
    facts([["Id", h("code", {}, row.id)], ["First byte", number(row.offset_bytes)], ["Bytes", number(row.size_bytes)],
      ["Text", row.is_utf8 ? "UTF-8" : "not UTF-8: bytes that are no text are shown as \ufffd"]]),
    h("h4", {}, "As it came"), cutText(row.raw),
    row.repair ? [h("h4", {}, `Proposed repair: ${words(row.repair.kind)}`), ...cutText(row.repair.row)] : h("p", { class: "quiet-text" }, "No repair is proposed."));
}

export function quarantineView(name, path, newest, unpublished, signal) {
  const told = h("p", { role: "status", class: "quiet-text" });
  const found = h("div", { class: "stack" });
  const act = h("div", { class: "stack" });
  const which = h("select", { id: "quarantine-which", onchange: () => choose() },
    newest ? h("option", { value: "newest" }, "the newest version's") : null,
    unpublished ? h("option", { value: "unpublished" }, "of the last ingest that published nothing") : null);
  const rule = h("select", { id: "quarantine-rule", onchange: () => show(0) });
  const more = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => show(next) }, "More rows");
  const filters = h("div", { class: "filters" }, field("Quarantine", which), field("Rule", rule));
  let next = null;
  let n = 0;

  // The rules of what was chosen, the most frequent first.
  function choose() {
    const report = which.value === "unpublished" ? unpublished : newest;
    const counts = Object.entries(report?.by_rule ?? {}).sort((a, b) => b[1] - a[1]);
    rule.replaceChildren(...counts.map(([one, count]) => h("option", { value: one }, `${one} (${number(count)} rows)`)));
    filters.hidden = !counts.length && !unpublished;
    if (counts.length) { show(0); return; }
    told.textContent = "No row broke a rule.";
    found.replaceChildren();
    act.replaceChildren();
    more.hidden = true;
  }

  function commands() {
    if (which.value === "unpublished") {
      return [h("p", { class: "quiet-text" }, "Too many of its rows broke this rule. To publish the others nevertheless:"), command(`lastmile data ingest ${name} FILE --allow ${rule.value}`)];
    }
    return [h("p", { class: "quiet-text" }, "To publish the proposed repairs of this rule, as far as they break no other:"), command(`lastmile quarantine repair ${name} --rule ${rule.value}`)];
  }

  async function show(from) {
    const unpublishedToo = which.value === "unpublished" ? "true" : "";
    if (!from) { n = 0; found.replaceChildren(); }
    more.disabled = true;
    try {
      const asked = rule.value;
      const page = await get(`${path}/quarantine${query({ rule: asked, unpublished: unpublishedToo, from, limit: PAGE })}`, { signal });
      // Somebody chose another one meanwhile.
      if (asked !== rule.value) return;
      n += page.data.length;
      next = page.next;
      more.hidden = next === null;
      told.textContent = n ? `${number(n)} row${n === 1 ? "" : "s"} shown.` : "None so far.";
      found.append(...page.data.map(rowView));
      act.replaceChildren(...commands());
    } catch (error) {
      if (!signal.aborted) { told.textContent = ""; found.replaceChildren(said(error)); }
    }
    more.disabled = false;
  }

  choose();
  return h("section", { class: "card", "aria-label": "Quarantine" }, h("h2", {}, "Quarantine"), filters, act, told, found, more);
}
