// Which page is shown, and the key.

import { key, setKey } from "./api.js";
import { h, said } from "./dom.js";
import { nowPage } from "./now.js";
import { requestsPage, requestPage } from "./requests.js";
import { modelsPage } from "./models.js";
import { experimentsPage } from "./experiments.js";
import { failuresPage, problemPage } from "./failures.js";
import { reviewPage } from "./review.js";
import { learningPage } from "./learning.js";
import { dataPage, datasetPage } from "./data.js";
import { monitorsPage } from "./monitors.js";
import { alertsPage } from "./alerts.js";
import { overridesPage } from "./overrides.js";
import { rulePage } from "./rule.js";
import { playgroundPage } from "./playground.js";

const main = document.getElementById("main");
const pages = {
  now: nowPage, alerts: alertsPage, requests: requestsPage, models: modelsPage, monitors: monitorsPage,
  failures: failuresPage, review: reviewPage, learning: learningPage, data: dataPage, experiments: experimentsPage, overrides: overridesPage, playground: playgroundPage,
};
// Pages of one thing.
const ones = { requests: requestPage, overrides: rulePage, failures: problemPage, data: datasetPage };
let leave = () => {};
let isFirst = true;

function show() {
  // A link within a page, such as "skip to content".
  if (location.hash && !location.hash.startsWith("#/")) {
    main.focus();
    return;
  }
  const [path, search] = (location.hash.slice(2) || "now").split("?");
  const [name, id] = path.split("/");
  const page = (id && ones[name]) || pages[name] || nowPage;
  leave();
  for (const link of document.querySelectorAll("nav a")) {
    const isCurrent = link.getAttribute("href") === `#/${pages[name] ? name : "now"}`;
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const stop = new AbortController();
  leave = () => stop.abort();
  const place = h("div", { class: "page" });
  main.replaceChildren(place);
  const title = page(place, { id: id && decodeURIComponent(id), search: new URLSearchParams(search), signal: stop.signal });
  document.title = `${title} \u00b7 lastmile`;
  // Who reads by ear or by keys begins at the new page's top.
  if (!isFirst) main.focus();
  isFirst = false;
}

const dialog = document.getElementById("key-dialog");
const input = document.getElementById("key-input");
const why = document.getElementById("key-why");
const usual = why.textContent;

function askKey(reason) {
  why.textContent = reason ? `${reason} ${usual}` : usual;
  input.value = key();
  if (!dialog.open) dialog.showModal();
  input.focus();
}

document.getElementById("key-button").addEventListener("click", () => askKey());
document.getElementById("key-cancel").addEventListener("click", () => dialog.close());
document.getElementById("key-forget").addEventListener("click", () => {
  setKey("");
  dialog.close();
});
document.getElementById("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(input.value.trim());
  dialog.close();
});
addEventListener("key-needed", () => askKey("This server needs a key."));
addEventListener("key-changed", show);
addEventListener("hashchange", show);
addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name === "AbortError") event.preventDefault();
  else main.prepend(said(event.reason));
});
show();
