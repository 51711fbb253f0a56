// One request's way through the engine, as the flight recorder saw it: a picture and a table.

import { get, has } from "./api.js";
import { h, ms, number, said, table } from "./dom.js";
import { s } from "./svg.js";

const LANE = 30;
const NAMES = 76;
const AXIS = 24;

// Rows of spans: [name, series, [[from, to, what], ...]], all in milliseconds since arrival.
function lanesOf(answer) {
  const waited = answer.queue_wait_ms ?? answer.ended_ms ?? 0;
  const ahead = answer.ahead ? `${answer.ahead.n_waiting} waited and ${answer.ahead.n_running} ran before it` : "queue";
  const chunk = (one) => [one.at_ms, one.at_ms + one.took_ms, `${one.n_tokens} tokens from ${one.start}, step ${one.step}, ${one.batch} answers in it`];
  return [
    ["queue", 0, [[0, waited, ahead]]],
    ["prefill", 1, answer.prefill.map(chunk)],
    ["tokens", 2, answer.tokens_ms.map((at, i) => [at, at, `token ${i * (answer.tokens_every || 1)}`])],
    ["gaps", 3, answer.largest_gaps.map((gap) => [gap.at_ms - gap.ms, gap.at_ms, `before token ${gap.before_token}: ${gap.because}`])],
    ["stalls", 4, answer.stalls.map((stall) => [stall.at_ms, stall.at_ms + stall.took_ms, `predicted ${ms(stall.predicted_ms)}: ${stall.because}`])],
    ["displaced", 5, answer.displaced.map((one) => [one.at_ms, one.at_ms, `${one.kind}${one.by ? ` for ${one.by}` : ""}`])],
  ].filter(([, , spans]) => spans.length);
}

function drawn(lanes, width, title) {
  const end = Math.max(1e-6, ...lanes.flatMap(([, , spans]) => spans.map(([, to]) => to)));
  const inner = width - NAMES - 16;
  const x = (at) => NAMES + (Math.max(0, at) / end) * inner;
  const height = lanes.length * LANE + AXIS;
  const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" },
    s("title", {}, title),
    s("desc", {}, lanes.map(([name, , spans]) => `${name}: ${spans.length}`).join(", ")));
  for (let i = 0; i <= 4; i += 1) {
    const at = (end * i) / 4;
    svg.append(
      s("line", { class: "grid", x1: x(at), x2: x(at), y1: 0, y2: height - AXIS }),
      s("text", { x: x(at), y: height - 8, "text-anchor": i === 0 ? "start" : i === 4 ? "end" : "middle" }, ms(at)));
  }
  lanes.forEach(([name, series, spans], i) => {
    const top = i * LANE + 5;
    svg.append(s("text", { x: 0, y: top + 14 }, name));
    for (const [from, to, what] of spans) {
      svg.append(s("rect", { class: `s${series}`, x: x(from), y: top, width: Math.max(1.5, x(to) - x(from)), height: LANE - 10 }, s("title", {}, what)));
    }
  });
  return svg;
}

function answerView(answer) {
  const lanes = lanesOf(answer);
  const title = `Timeline of answer ${answer.choice}`;
  const place = h("div", { class: "canvas" });
  const rows = lanes.flatMap(([name, , spans]) => spans.map(([from, to, what]) => [name, what, ms(from), ms(to - from)]));
  const facts = [
    answer.state,
    `${number(answer.cached_tokens)} of ${number(answer.prompt_tokens)} prompt tokens were cached`,
    answer.batch ? `${number(answer.batch[0])} to ${number(answer.batch[2])} answers in its steps` : null,
  ].filter(Boolean).join("; ");
  const view = h("section", { class: "card picture", "aria-label": title }, h("h2", {}, title),
    h("p", { class: "quiet-text" }, facts), place,
    h("details", {}, h("summary", {}, "As a table"),
      table(`${title}, as a table`, [["Row", ""], ["What", "wide"], ["From", "num"], ["Took", "num"]], rows)));
  // Its width is known once it is on the page.
  requestAnimationFrame(() => place.replaceChildren(drawn(lanes, Math.max(240, place.clientWidth), title)));
  return view;
}

// Nothing on a server that has no recorder.
export async function timelineView(id, signal) {
  try {
    if (!(await has("GET /v1/requests/{id}/timeline"))) return [];
    const timeline = await get(`/v1/requests/${encodeURIComponent(id)}/timeline`, { signal });
    return timeline.answers.map(answerView);
  } catch (error) {
    return signal.aborted ? [] : [said(error)];
  }
}
