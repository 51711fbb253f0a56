// Elements and numbers as text. Text goes in as text nodes alone, whoever wrote it.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function field(label, input, hint) {
  const id = input.id;
  const note = hint ? h("small", { id: `${id}-hint` }, hint) : null;
  if (note) input.setAttribute("aria-describedby", note.id);
  return h("div", { class: "field" }, h("label", { for: id }, label), input, note);
}

export function facts(pairs) {
  const rows = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: "facts" }, rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

// Columns: [head, class]. Rows: arrays of text or nodes.
export function table(caption, columns, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, columns.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) => h("td", { class: columns[i][1] }, cell)))))));
}

const DASH = "\u2013";

export function number(value, digits = 0) {
  if (value === null || value === undefined) return DASH;
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export function ms(value) {
  if (value === null || value === undefined) return DASH;
  if (value >= 10000) return `${number(value / 1000, 1)} s`;
  return `${number(value, value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;
}

export function bytes(value) {
  if (value === null || value === undefined) return DASH;
  const gib = value / 2 ** 30;
  return gib >= 1 ? `${number(gib, 2)} GiB` : `${number(value / 2 ** 20, 0)} MiB`;
}

export function percent(value) {
  return value === null || value === undefined ? DASH : `${number(value * 100, value < 0.1 && value > 0 ? 1 : 0)} %`;
}

export function time(unixMs) {
  const text = new Date(unixMs).toISOString();
  return h("time", { datetime: text }, `${text.slice(0, 10)} ${text.slice(11, 19)}Z`);
}

export function span(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// Parts of an area are exchanged when what they show is another thing, and never under the hands of who is in them.
export function area(kind = "stack") {
  const view = h("div", { class: kind });
  let last;
  return {
    view,
    show(what, draw, isForced = false) {
      const text = JSON.stringify(what);
      if (!isForced && (text === last || view.contains(document.activeElement))) return;
      last = text;
      view.replaceChildren(...[draw()].flat().filter(Boolean));
    },
  };
}

// Words of a stable name, such as rolled_back.
export const words = (text) => text.replaceAll("_", " ");

// Links to requests, by the beginnings of their ids' ends: what differs among ids of one moment.
export function requestLinks(ids) {
  return h("ul", { class: "ids" }, ids.map((id) => h("li", {}, h("a", { href: `#/requests/${id}`, title: id, "aria-label": `Request ${id}` }, h("code", {}, `\u2026${id.slice(-12)}`)))));
}

// Calls again and again while the page is looked at.
export function every(millis, signal, work) {
  const timer = setInterval(() => { if (!document.hidden) work(); }, millis);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
}

export function said(error) {
  return h("p", { class: "problem", role: "alert" }, error.message || String(error));
}

export function copyButton(text) {
  const done = h("span", { role: "status", class: "quiet-text" });
  const button = h("button", { type: "button", class: "quiet", onclick: async () => {
    try {
      await navigator.clipboard.writeText(text());
      done.textContent = "Copied";
    } catch {
      done.textContent = "Select the text to copy it";
    }
  } }, "Copy");
  return h("span", { class: "row" }, button, done);
}
