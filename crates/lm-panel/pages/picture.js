// A picture, what its colours mean, and its table: as the server drew it, or as an element.

import { h, table } from "./dom.js";

// An SVG of the server as an element.
export function svgOf(text) {
  return document.importNode(new DOMParser().parseFromString(text, "image/svg+xml").documentElement, true);
}

export function pictureView(title) {
  const heading = h("h3", {}, title);
  const legend = h("ul", { class: "legend", "aria-hidden": "true" });
  const place = h("div", { class: "canvas" });
  const rows = h("div");
  const details = h("details", {}, h("summary", {}, "As a table"), rows);
  const view = h("section", { class: "card picture", "aria-label": title }, h("div", { class: "row spread" }, heading, legend), place, details);
  let last;

  function showTable() {
    if (!last || !details.open) return;
    const columns = last.columns.map((name, i) => [name, i === 0 ? "" : "num"]);
    rows.replaceChildren(table(`${last.title}, as a table`, columns, last.rows));
  }
  details.addEventListener("toggle", showTable);

  return {
    view,
    width: () => Math.min(1600, Math.max(240, Math.floor(place.clientWidth || 320))),
    show(picture) {
      last = picture;
      heading.textContent = picture.title;
      place.replaceChildren(typeof picture.svg === "string" ? svgOf(picture.svg) : picture.svg);
      legend.replaceChildren(...picture.legend.map(({ series, name }) => h("li", { class: `swatch k${series % 6}` }, name)));
      // A table that somebody reads is not exchanged under their eyes.
      if (!rows.contains(document.activeElement)) showTable();
    },
  };
}
