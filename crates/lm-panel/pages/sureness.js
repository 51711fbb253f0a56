// How sure the model was of an answer, token by token: shading, a legend, and a table for who sees no shading.

import { h, number, percent, table } from "./dom.js";

// From the likeliest on; what is over the first limit is not shaded.
const LEVELS = [
  { over: 0.9, kind: "token", label: "over 90 % likely" },
  { over: 0.5, kind: "token t1", label: "50 to 90 %" },
  { over: 0.2, kind: "token t2", label: "20 to 50 %" },
  { over: -1, kind: "token t3", label: "under 20 %" },
];

// The tokens of one answer as they come. Bytes are joined over tokens, since a character may span several.
export function tokenReader() {
  const decoder = new TextDecoder();
  return ({ token, bytes, logprob }) => {
    const text = decoder.decode(Uint8Array.from(bytes), { stream: true });
    return { name: token, text, probability: Math.exp(logprob) };
  };
}

const spelled = (probability) => (probability > 0 && probability < 0.001 ? "under 0.1 %" : percent(probability));

function tokenSpan({ text, probability }) {
  const level = LEVELS.find(({ over }) => probability > over);
  return h("span", { class: level.kind, title: `${spelled(probability)} likely` }, text);
}

// Writes a text into a place again and again as it grows, and shades what its tokens say of it. From where they say
// something else, as where an operator's rule wrote the text, it stays plain.
export function shadedText(place) {
  const rest = document.createTextNode("");
  place.replaceChildren(rest);
  let [at, next] = [0, 0];
  return (content, tokens) => {
    while (next < tokens.length && content.startsWith(tokens[next].text, at)) {
      if (tokens[next].text) place.insertBefore(tokenSpan(tokens[next]), rest);
      at += tokens[next].text.length;
      next += 1;
    }
    rest.data = content.slice(at);
  };
}

export function sureLegend() {
  return h("ul", { class: "legend", "aria-label": "How tokens are shaded" },
    LEVELS.map(({ kind, label }) => h("li", {}, h("span", { class: kind }, "word"), ` ${label}`)));
}

// What an answer says of itself, in words.
export function sureWords(confidence, tokens) {
  if (!confidence || confidence.token_probability === null) return "";
  const parts = confidence.calibrated
    ? [`confidence ${percent(confidence.probability)}: about so many of ${number(confidence.n_alike)} judged answers like this one were good`]
    : ["confidence is not calibrated: nothing was learned of this release yet"];
  parts.push(`its tokens are ${spelled(confidence.token_probability)} likely on average`);
  const { first_token: first, n_tokens: n, token_probability: least } = confidence.least_sure;
  const where = tokens.slice(first, first + n).map(({ text }) => text).join("").trim();
  if (where) parts.push(`least sure of \u201c${where}\u201d (${spelled(least)})`);
  return parts.join("; ");
}

// The same as the shading, in numbers. Drawn when it is opened.
export function tokenTable(tokens) {
  const place = h("div");
  const view = h("details", {}, h("summary", {}, "Probability of each token"), place);
  view.addEventListener("toggle", () => {
    if (!view.open) return;
    const rows = tokens.map(({ name, probability }, i) => [number(i), h("code", {}, name), spelled(probability)]);
    place.replaceChildren(table("Probability of each token", [["Token", "num"], ["Text", "wide"], ["Probability", "num"]], rows));
  });
  return view;
}
