// What somebody should look at, since when, and what was and is over.

import { get } from "./api.js";
import { h, area, every, requestLinks, said, span, table, time } from "./dom.js";

const EVERY_MS = 5000;
const level = (one) => (one.level === "critical" ? "Critical" : "Warning");

// How long it lasts or lasted.
const lasted = (one, until) => span(Math.max(0, ((one.ended_at_ms ?? until) - one.since_ms) / 1000));

// The examples are links below.
const what = (one) => one.what.replace(`, such as ${one.requests[0]}`, "");

function openView(one, at) {
  return h("li", { class: `alert ${one.level}` },
    h("h3", {}, `${level(one)}: ${what(one)}`),
    h("p", {}, "Since ", time(one.since_ms), `, for ${lasted(one, at)}. ${one.next}`),
    one.requests.length ? h("div", { class: "row" }, h("span", {}, "Requests that show it:"), requestLinks(one.requests)) : null,
    one.key.startsWith("drift ") ? h("p", {}, h("a", { href: "#/monitors" }, "See it beside what is usual")) : null);
}

function pastView(past) {
  if (!past.length) return h("p", { class: "quiet-text" }, "None since the server started.");
  const columns = [["Since", "nowrap"], ["Lasted", ""], ["Level", ""], ["What", "wide"], ["Requests", ""]];
  return table("Past alerts", columns, past.map((one) => [
    time(one.since_ms), lasted(one), h("span", { class: "tag" }, level(one)), what(one),
    one.requests.length ? requestLinks(one.requests) : "none"]));
}

export function alertsPage(place, { signal }) {
  const problem = h("div");
  const state = h("p", { class: "state", role: "status" }, "Waiting for the server");
  const open = area();
  const past = area();
  place.append(h("div", { class: "row spread head" }, h("h1", {}, "Alerts"), state), problem,
    h("section", { class: "stack", "aria-label": "Open" }, h("h2", {}, "Open"), open.view),
    h("section", { class: "stack", "aria-label": "Past" }, h("h2", {}, "Past"), past.view));

  async function show() {
    try {
      const found = await get("/ops/v1/alerts", { signal });
      const isCritical = found.open.some((one) => one.level === "critical");
      const text = found.open.length ? `${found.open.length} open` : "All is well";
      if (state.textContent !== text) state.textContent = text;
      state.dataset.level = isCritical ? "critical" : found.open.length ? "warning" : "ok";
      open.show(found.open.map((one) => [one, lasted(one, found.at_ms)]), () => (found.open.length
        ? h("ul", { class: "alerts" }, found.open.map((one) => openView(one, found.at_ms)))
        : h("p", { class: "quiet-text" }, "Nothing has to be looked at.")));
      past.show(found.past, () => pastView(found.past));
      problem.replaceChildren();
    } catch (error) {
      if (signal.aborted) return;
      state.textContent = "Not known";
      state.dataset.level = "critical";
      problem.replaceChildren(said(error));
    }
  }

  show();
  every(EVERY_MS, signal, show);
  return "Alerts";
}
