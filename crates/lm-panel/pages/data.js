// Datasets: which there are, and one with its versions, quarantine and coverage.

import { get, query } from "./api.js";
import { h, facts, number, said, table, time } from "./dom.js";
import { coverageView } from "./coverage.js";
import { diffView } from "./diff.js";
import { command, empty } from "./empty.js";
import { pictureView } from "./picture.js";
import { quarantineView } from "./quarantine.js";

const short = (id) => h("code", { title: id }, id.slice(0, 12));

export function dataPage(place, { signal }) {
  const problem = h("div");
  const told = h("p", { role: "status", class: "quiet-text" });
  const body = h("div", { class: "stack" });
  const more = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => show(next) }, "More");
  place.append(h("h1", {}, "Data"), problem, told, body, more);
  let rows = [];
  let next = null;

  function rowOf({ name, newest, n_versions: n, is_damaged: isDamaged }) {
    const link = h("a", { href: `#/data/${encodeURIComponent(name)}` }, name);
    if (!newest) return [link, isDamaged ? h("span", { class: "tag bad" }, "cannot be read: see the log") : "nothing published yet", "", "", "", number(n)];
    return [link, short(newest.version), time(newest.created_at_ms), number(newest.rows_published), number(newest.rows_quarantined), number(n)];
  }

  async function show(after) {
    try {
      const found = await get(`/ops/v1/datasets${query({ after })}`, { signal });
      rows = after ? rows.concat(found.data) : found.data;
      next = found.next;
      more.hidden = !next;
      told.textContent = rows.length ? `${number(rows.length)} dataset${rows.length === 1 ? "" : "s"}, by name` : "";
      const columns = [["Dataset", "wide"], ["Newest version", ""], ["Published", "nowrap"], ["Rows", "num"], ["In quarantine", "num"], ["Versions", "num"]];
      body.replaceChildren(rows.length ? table("Datasets", columns, rows.map(rowOf)) : empty("There is no dataset in this server's home yet.", [
        ["Propose a contract from a file; read and correct it:", "lastmile data infer rows.jsonl -o rows.toml"],
        ["Add the file's rows as the first version:", "lastmile data ingest rows rows.jsonl --contract rows.toml"],
        ["Or make one of what this server answered:", "lastmile data from-requests traffic"]]));
      problem.replaceChildren();
    } catch (error) {
      if (!signal.aborted) problem.replaceChildren(said(error));
    }
  }

  show();
  return "Data";
}

function newestView(name, newest) {
  return h("section", { class: "card", "aria-label": "Newest version" }, h("h2", {}, "Newest version"),
    facts([
      ["Version", short(newest.version)], ["Published", time(newest.created_at_ms)], ["Rows", number(newest.rows_published)],
      ["In quarantine", number(newest.rows_quarantined)], ["Released from it", number(newest.rows_released)],
      ["Rows read", number(newest.rows_in)], ["Of them for this version", number(newest.batch_rows_in)],
      ["Files", `${number(newest.n_files)}, ${number(newest.size_bytes)} bytes`], ["Contract", short(newest.contract_hash)]]),
    command(`lastmile data checkout ${name} -o FOLDER`));
}

function logView(versions) {
  const columns = [["Version", ""], ["Published", "nowrap"], ["Rows", "num"], ["In quarantine", "num"], ["Read for it", "num"], ["Parent", ""]];
  return table("Versions", columns, versions.map((one) => [
    short(one.version), time(one.created_at_ms), number(one.rows_published), number(one.rows_quarantined), number(one.batch_rows_in),
    one.parent ? short(one.parent) : "none"]));
}

export function datasetPage(place, { id, signal }) {
  const path = `/ops/v1/datasets/${encodeURIComponent(id)}`;
  const problem = h("div");
  const top = h("div", { class: "stack" });
  const log = h("div", { class: "stack" });
  const rest = h("div", { class: "stack" });
  const [rows, rules] = [pictureView("Rows of versions"), pictureView("Rows in quarantine by rule")];
  const pictures = h("div", { class: "two", hidden: true }, rows.view, rules.view);
  const older = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => show(next) }, "Older versions");
  place.append(h("p", {}, h("a", { href: "#/data" }, "All datasets")), h("h1", {}, id), problem, top, pictures,
    h("section", { class: "stack", "aria-label": "Log" }, h("h2", {}, "Log"), log, older), rest);
  let versions = [];
  let next = null;

  async function show(before) {
    pictures.hidden = false;
    try {
      const found = await get(`${path}${query({ before, width: rows.width() })}`, { signal });
      versions = before ? versions.concat(found.versions) : found.versions;
      next = found.next;
      older.hidden = !next;
      const [newest] = versions;
      pictures.hidden = !newest;
      log.replaceChildren(newest ? logView(versions) : empty("Nothing is published yet.", [
        ["Add the rows of a file; what breaks a rule goes to quarantine:", `lastmile data ingest ${id} rows.jsonl`]]));
      if (before) return;
      rows.show(found.pictures.versions);
      rules.show(found.pictures.rules);
      rules.view.hidden = !newest || !newest.rows_quarantined;
      top.replaceChildren(newest ? newestView(id, newest) : "");
      rest.replaceChildren(
        newest ? diffView(path, versions, signal) : "",
        quarantineView(id, path, newest, found.unpublished, signal),
        newest ? coverageView(id, path, signal) : "");
      problem.replaceChildren();
    } catch (error) {
      if (!signal.aborted) { pictures.hidden = true; problem.replaceChildren(said(error)); }
    }
  }

  show();
  return id;
}
