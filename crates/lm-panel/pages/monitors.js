// Whether answers are as usual: what is usual of each signal, and the newest answers beside it.

import { get, has, post } from "./api.js";
import { h, area, every, facts, ms, number, percent, said, span, time } from "./dom.js";
import { ask } from "./ask.js";
import { pictureView } from "./picture.js";
import { s } from "./svg.js";

const EVERY_MS = 5000;
// How long an alarm is told of that does not say how it stands.
const TOLD_MS = 3600000;
const HEIGHT = 190;
const LEFT = 56;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 26;
const FEWEST_SLOTS = 8;
// How much higher a picture is than most of what it shows.
const FURTHEST = 2;

// How many digits a number needs beside others of this size.
const digits = (size) => (size >= 20 ? 0 : size >= 2 ? 1 : 3);

function format(shape) {
  if (shape.is_share) return (value) => (value ? percent(value) : "0 %");
  if (shape.signal.endsWith("_ms")) return (value) => (value ? ms(value) : "0");
  return (value) => number(value, Number.isInteger(value) ? 0 : digits(Math.abs(value)));
}

// Beside the axis: no more digits than its numbers differ in.
function short(shape) {
  const trimmed = (value) => number(value, Math.min(6, (String(Number(value.toPrecision(6))).split(".")[1] || "").length));
  if (shape.is_share) return (value) => `${trimmed(value * 100)} %`;
  if (shape.signal.endsWith("_ms")) return (value) => (value >= 10000 ? `${trimmed(value / 1000)} s` : `${trimmed(value)} ms`);
  return trimmed;
}

// Three or four round numbers.
function ticks(low, high) {
  const rough = (high - low) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(Number(at.toPrecision(9)));
  return found;
}

function range({ is_share: isShare, usual, groups }) {
  if (isShare) return [0, Math.min(1, Math.max(0.05, usual?.mean ?? 0, ...groups.map((group) => group.mean)) * 1.15)];
  const all = [usual, ...groups].filter(Boolean);
  const low = Math.min(...all.map((one) => one.p10));
  // A few values far out would press all else flat: they end at the upper edge, and are told to go on.
  const tops = groups.map((group) => group.p90).sort((a, b) => a - b);
  const top = tops[tops.length - 1];
  const rest = Math.max(usual?.p90 ?? low, tops[Math.floor(tops.length / 2)], ...groups.map((group) => group.p50));
  const high = low >= 0 ? Math.min(Math.max(rest, top), rest * FURTHEST) : Math.max(rest, top);
  // Zero belongs to what is counted or measured, and not to what is always below it.
  const [from, to] = low >= 0 ? [0, high * 1.1] : [low - (high - low) * 0.1, Math.min(0, high + (high - low) * 0.1)];
  return to > from ? [from, to] : [from, from + 1];
}

function clock(at, isLong) {
  const text = new Date(at).toISOString();
  return isLong ? `${text.slice(5, 10)} ${text.slice(11, 16)}Z` : `${text.slice(11, 19)}Z`;
}

function sentence(shape) {
  const say = format(shape);
  const one = (spread) => (shape.is_share ? say(spread.mean) : `${say(spread.p50)} (${say(spread.p10)} to ${say(spread.p90)})`);
  const { usual, recent } = shape;
  const before = usual ? `Usually ${one(usual)}` : "What is usual is not known yet";
  return `${before}; of late ${one(recent)}, over ${number(recent.n)} answers.`;
}

function drawn(shape, width) {
  const { usual, groups, is_share: isShare } = shape;
  const [say, axis] = [format(shape), short(shape)];
  const [low, high] = range(shape);
  const y = (value) => TOP + (1 - (Math.min(high, Math.max(low, value)) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const right = width - RIGHT;
  const svg = s("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img" },
    s("title", {}, shape.signal), s("desc", {}, sentence(shape)));
  for (const at of ticks(low, high)) {
    svg.append(s("line", { class: "grid", x1: LEFT, x2: right, y1: y(at), y2: y(at) }), s("text", { x: LEFT - 8, y: y(at) + 4, "text-anchor": "end" }, axis(at)));
  }
  if (usual && !isShare) {
    const top = y(usual.p90);
    svg.append(s("rect", { class: "usual", x: LEFT, y: top, width: right - LEFT, height: Math.max(2, y(usual.p10) - top) }));
  }
  const slot = (right - LEFT) / Math.max(FEWEST_SLOTS, groups.length);
  groups.forEach((group, i) => {
    const x = LEFT + slot * (i + 0.5);
    const wide = Math.max(2, Math.min(10, slot * 0.4));
    const [from, to] = isShare ? [0, group.mean] : [group.p10, group.p90];
    const what = `${clock(group.from_ms, true)}: ${isShare ? say(group.mean) : `${say(group.p50)} (${say(group.p10)} to ${say(group.p90)})`}`;
    svg.append(s("rect", { class: isShare ? "s0" : "s0 spread", x: x - wide / 2, y: y(to), width: wide, height: Math.max(1, y(from) - y(to)) }, s("title", {}, what)));
    if (to > high) svg.append(s("polygon", { class: "s0", points: `${x - 5},${TOP} ${x + 5},${TOP} ${x},${TOP - 7}` }, s("title", {}, what)));
    if (!isShare) svg.append(s("circle", { class: "s0", cx: x, cy: y(group.p50), r: 3.5 }, s("title", {}, what)));
  });
  if (usual) {
    const at = y(isShare ? usual.mean : usual.p50);
    svg.append(s("line", { class: "usual", x1: LEFT, x2: right, y1: at, y2: at }));
  }
  if (groups.length) {
    const [first, last] = [groups[0].from_ms, groups[groups.length - 1].to_ms];
    const isLong = last - first > 72000000;
    svg.append(s("text", { x: LEFT, y: HEIGHT - 6 }, clock(first, isLong)));
    const end = LEFT + slot * groups.length;
    if (end - LEFT > 160) svg.append(s("text", { x: end, y: HEIGHT - 6, "text-anchor": "end" }, clock(last, isLong)));
  }
  return svg;
}

function picture(shape, width) {
  const say = format(shape);
  const row = (name, one) => [name, number(one.n), ...(shape.is_share ? [say(one.mean)] : [say(one.p10), say(one.p50), say(one.p90)])];
  const rows = shape.groups.map((group) => row(time(group.from_ms), group)).reverse();
  if (shape.usual) rows.unshift(row("usual", shape.usual));
  return {
    title: shape.signal, svg: drawn(shape, width), legend: [],
    columns: ["Since", "Answers", ...(shape.is_share ? ["Share"] : ["A tenth at most", "Half at most", "Nine tenths at most"])], rows,
  };
}

// In words, and how it is shown.
function stateOf(model, signal) {
  if (model.signals[signal] === "paused") return { rank: 3, text: "paused", kind: "tag" };
  const isOpen = (one) => (one.state ? one.state !== "ok" : Math.abs(Date.now() - one.at_ms) < TOLD_MS);
  const alarm = model.alarms.find((one) => one.signal === signal && isOpen(one));
  if (alarm) return { rank: 0, text: alarm.how === "higher" || alarm.how === "lower" ? `${alarm.how} than usual` : alarm.how, kind: "tag bad", alarm };
  const word = model.signals[signal];
  if (word === "warning") return { rank: 1, text: "half way to an alarm", kind: "tag warn" };
  if (word === "ok") return { rank: 2, text: "as usual", kind: "tag" };
  return { rank: 3, text: model.state === "learning" ? "learning" : "not known yet", kind: "tag" };
}

function signalView(name) {
  const view = pictureView(name);
  const note = h("p", { class: "quiet-text" });
  const tag = h("p", {});
  view.view.children[0].after(tag, note);
  return {
    view: view.view,
    show(shape, state) {
      tag.replaceChildren(h("span", { class: state.kind }, state.text), state.alarm ? h("a", { class: "more", href: "#/alerts" }, "See the alert") : "");
      note.textContent = sentence(shape);
      view.show(picture(shape, view.width()));
    },
  };
}

function modelView(name, problem, signal, again) {
  const known = area();
  const charts = h("div", { class: "charts" });
  const rest = h("p", { class: "quiet-text" });
  const told = h("p", { role: "status", class: "quiet-text" });
  const cards = new Map();
  const pause = h("button", { type: "button", class: "quiet", hidden: true, onclick: pauseOrResume }, "Pause");
  const forget = h("button", { type: "button", class: "quiet", onclick: learnAnew }, "Learn anew");
  const view = h("section", { class: "stack", "aria-label": name },
    h("div", { class: "row spread" }, h("h2", {}, name), h("div", { class: "row" }, told, pause, forget)), known.view, charts, rest);

  async function learnAnew() {
    const answer = await ask({
      title: `Learn anew what is usual of ${name}?`, verb: "Learn anew", signal,
      what: "What is usual is forgotten, and the next answers become what is usual. Until there are enough of them nothing is noticed.",
    });
    if (answer === null) return;
    try {
      await post(`/ops/v1/monitors/${encodeURIComponent(name)}/forget`, {}, { signal });
      told.textContent = "It is learned anew from the next answer on.";
      problem.replaceChildren();
      await again();
    } catch (error) {
      if (!signal.aborted) problem.replaceChildren(said(error));
    }
  }

  // While something is changed on purpose.
  async function pauseOrResume() {
    const verb = pause.textContent.toLowerCase();
    try {
      const { state } = await post(`/ops/v1/monitors/${encodeURIComponent(name)}/${verb}`, {}, { signal });
      told.textContent = `It is ${state}.`;
      problem.replaceChildren();
      await again();
    } catch (error) {
      if (!signal.aborted) problem.replaceChildren(said(error));
    }
  }

  // Not every server can.
  has("POST /ops/v1/monitors/{model}/pause").then((can) => { pause.hidden = !can; }, () => {});

  function show(model, shapes) {
    pause.textContent = model.state === "paused" ? "Resume" : "Pause";
    const { baseline_answers: n, baseline_needs: needs } = model;
    known.show(model, () => facts([
      ["State", model.state === "learning" ? `learning: ${number(n)} of ${number(needs)} answers` : model.state],
      ["Paused by", model.paused ? [`${model.paused.who}, `, time(model.paused.at_ms), model.paused.reason ? `: ${model.paused.reason}` : null] : null],
      ["Learned from", `${number(n)} answers`],
      ["Of release", model.usual_of ? h("code", {}, model.usual_of) : null],
      ["Seen since the start", number(model.seen)],
      ["Learned within", model.is_provisional ? "less than two weeks" : "two weeks or more"],
    ]));
    const all = shapes.map((shape) => ({ shape, state: stateOf(model, shape.signal) }));
    const drawable = all.filter(({ shape }) => shape.groups.length).sort((a, b) => a.state.rank - b.state.rank);
    const names = drawable.map(({ shape }) => shape.signal);
    for (const one of names) if (!cards.has(one)) cards.set(one, signalView(one));
    const wanted = names.map((one) => cards.get(one).view);
    // Who reads one of them is not carried to another place.
    const isOther = wanted.length !== charts.children.length || wanted.some((one, i) => charts.children[i] !== one);
    if (isOther && !charts.contains(document.activeElement)) charts.replaceChildren(...wanted);
    for (const { shape, state } of drawable) if (cards.get(shape.signal).view.isConnected) cards.get(shape.signal).show(shape, state);
    const without = all.filter(({ shape }) => !shape.groups.length).map(({ shape }) => shape.signal);
    rest.textContent = without.length ? `No answer of late had a value of: ${without.join(", ")}.` : "";
  }

  return { view, show };
}

export function monitorsPage(place, { signal }) {
  const problem = h("div");
  const state = h("p", { class: "state", role: "status" }, "Waiting for the server");
  const body = h("div", { class: "stack" });
  const views = new Map();
  const legend = h("ul", { class: "legend" },
    h("li", { class: "swatch k5" }, "usual: eight of ten values, and their middle; of shares the share"),
    h("li", { class: "swatch k0" }, "the newest answers in groups, the oldest at the left: the same of each"));
  place.append(h("div", { class: "row spread head" }, h("h1", {}, "Monitors"), state), problem, legend, body);

  function say(text, level) {
    if (state.textContent !== text) state.textContent = text;
    state.dataset.level = level;
  }

  function summary(models) {
    const states = models.flatMap((model) => Object.keys(model.signals).map((one) => stateOf(model, one).rank));
    const n = states.filter((rank) => rank === 0).length;
    if (n) say(`${n} not as usual`, "warning");
    else if (models.some((model) => model.state === "paused")) say("Paused", "warning");
    else if (models.some((model) => model.state === "learning")) say("Learning", "");
    else say("As usual", "ok");
  }

  async function show() {
    try {
      const { is_on: isOn, dropped, data } = await get("/ops/v1/monitors", { signal });
      legend.hidden = !data.length;
      if (!isOn || !data.length) {
        say(isOn ? "Nothing to see yet" : "Off", "");
        views.clear();
        body.replaceChildren(h("p", {}, isOn ? "No model was asked yet: what is usual is learned from answers." : "This server watches nothing: it was started with --monitor-baseline 0."));
        return;
      }
      if (!views.size) body.replaceChildren();
      summary(data);
      for (const model of data) {
        if (!views.has(model.model)) {
          views.set(model.model, modelView(model.model, problem, signal, show));
          body.append(views.get(model.model).view);
        }
        const { signals } = await get(`/ops/v1/monitors/${encodeURIComponent(model.model)}/signals`, { signal });
        views.get(model.model).show(model, signals);
      }
      for (const [name, { view }] of views) {
        if (data.some((model) => model.model === name)) continue;
        view.remove();
        views.delete(name);
      }
      problem.replaceChildren(dropped ? h("p", { class: "alert warning" }, `${number(dropped)} answers came too fast to be looked at.`) : "");
    } catch (error) {
      if (!signal.aborted) { problem.replaceChildren(said(error)); say("Not known", "critical"); }
    }
  }

  show();
  every(EVERY_MS, signal, show);
  return "Monitors";
}
