// What the newest version of a dataset has of each kind of rows, beside another dataset such as traffic.

import { get, query } from "./api.js";
import { h, field, number, percent, said, table } from "./dom.js";
import { pictureView } from "./picture.js";

export function coverageView(name, path, signal) {
  const by = h("input", { id: "coverage-by", autocomplete: "off", spellcheck: "false", maxlength: "300", placeholder: "such as label" });
  const traffic = h("select", { id: "coverage-traffic" }, h("option", { value: "" }, "none"));
  const told = h("p", { role: "status", class: "quiet-text" });
  const picture = pictureView("Share of rows");
  const found = h("div", { class: "stack" });
  const button = h("button", { type: "submit" }, "Count");
  const form = h("form", { class: "filters", "aria-label": "Count kinds of rows", onsubmit: (event) => { event.preventDefault(); count(); } },
    field("Columns", by, "Up to three, with commas; without, the length of the texts."), field("Beside the dataset", traffic), h("div", { class: "field" }, button));
  picture.view.hidden = true;

  async function others() {
    try {
      const { data } = await get("/ops/v1/datasets?limit=100", { signal });
      traffic.append(...data.filter((one) => one.name !== name && one.newest).map((one) => h("option", { value: one.name }, one.name)));
    } catch (error) {
      if (!signal.aborted) found.replaceChildren(said(error));
    }
  }

  async function count() {
    button.disabled = true;
    told.textContent = "The rows are being counted.";
    found.replaceChildren();
    picture.view.hidden = false;
    try {
      const isBeside = Boolean(traffic.value);
      const coverage = await get(`${path}/coverage${query({ by: by.value, traffic: traffic.value, width: picture.width() })}`, { signal });
      const { strata, n_strata: n, n_lacking: nLacking } = coverage;
      picture.show(coverage.picture);
      told.textContent = `${number(n)} kind${n === 1 ? "" : "s"} of rows. ` +
        (isBeside ? `${number(nLacking)} of them are lacking: the other dataset has them, and this one under half of their share.` : "Another dataset beside it would say which are lacking.");
      const columns = [["Kind", "wide"], ["Rows", "num"], ["Share", "num"], ...(isBeside ? [["Rows there", "num"], ["Share there", "num"], ["State", ""]] : [])];
      found.replaceChildren(table("Kinds of rows", columns, strata.map((one) => [
        one.values.join(", "), number(one.rows), percent(one.share),
        ...(isBeside ? [number(one.traffic_rows), percent(one.traffic_share), one.lacking ? h("span", { class: "tag warn" }, "lacking") : ""] : [])])));
    } catch (error) {
      if (!signal.aborted) { told.textContent = ""; picture.view.hidden = true; found.replaceChildren(said(error)); }
    }
    button.disabled = false;
  }

  others();
  return h("section", { class: "card", "aria-label": "Coverage" }, h("h2", {}, "Coverage"), form, told, picture.view, found);
}
