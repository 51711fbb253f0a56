// A rule as somebody writes it: as a form, or as text.

import { postText } from "./api.js";
import { h, field, said } from "./dom.js";

const lines = (text, separator) => text.split(separator).map((one) => one.trim()).filter(Boolean);

function input(id, attributes = {}) {
  return h("input", { id: `rule-${id}`, autocomplete: "off", spellcheck: "false", ...attributes });
}

function select(id, choices) {
  return h("select", { id: `rule-${id}` }, choices.map(([value, name]) => h("option", { value }, name)));
}

function area(id, attributes = {}) {
  return h("textarea", { id: `rule-${id}`, rows: "3", spellcheck: "false", ...attributes });
}

function check(id, label, hint) {
  const box = h("input", { id: `rule-${id}`, type: "checkbox", "aria-describedby": `rule-${id}-hint` });
  return [box, h("div", { class: "field" }, h("div", { class: "row tick" }, box, h("label", { for: box.id }, label)), h("small", { id: `rule-${id}-hint` }, hint))];
}

// What a rule can do, with the fields that each of them has: { fields, value() }.
function actions() {
  const text = (id, label, hint) => {
    const place = area(id);
    return { fields: [field(label, place, hint)], value: () => ({ text: place.value }) };
  };
  const phrases = area("phrases");
  const onHit = select("on-hit", [["stop", "end the answer before it"], ["replace", "end it with a text"], ["resubmit", "go on another way"]]);
  const instead = field("Text that replaces the rest", input("instead"));
  const [ignoreCase, caseField] = check("ignore-case", "Ignore case", "Acme is acme, too.");
  const showInstead = () => { instead.hidden = onHit.value !== "replace"; };
  onHit.addEventListener("change", showInstead);
  showInstead();
  const schema = area("schema", { rows: "6", placeholder: '{"type": "object"}' });
  const models = input("fallback-models");
  const only = select("only", [["always", "always"], ["errors", "as long as the model fails"]]);
  const deadline = input("deadline", { value: "10m" });
  const canned = area("canned-text");
  return {
    ban: { name: "never let phrases out", fields: [field("Phrases", phrases, "One in each line, as they are written."), field("When one would come", onHit), instead, caseField],
      value: () => ({
        phrases: lines(phrases.value, "\n"), ignore_case: ignoreCase.checked, on_hit: onHit.value,
        ...(onHit.value === "replace" ? { text: instead.querySelector("input").value } : {}),
      }) },
    canned: { name: "give a canned answer", ...text("canned", "Answer") },
    prefix: { name: "begin answers with a text", ...text("prefix", "Beginning") },
    schema: { name: "answer as JSON of a schema", fields: [field("JSON schema", schema)], value: () => ({ schema: JSON.parse(schema.value) }) },
    fallback: { name: "let another model answer", fields: [field("Models", models, "By commas; the first that can answers."), field("When", only)],
      value: () => ({ models: lines(models.value, ","), only: only.value }) },
    human: { name: "let a person answer", fields: [field("Deadline", deadline, "Such as 10m."), field("Answer when nobody did by then", canned)],
      value: () => ({ deadline: deadline.value.trim(), text: canned.value }) },
    stop: { name: "refuse", ...text("stop", "What the sender is told") },
  };
}

// `routes`: those that are computed. `done(rule)` is called with what was saved.
export function ruleForm({ routes, done, signal }) {
  const problem = h("div");
  const known = { id: input("id", { required: true, maxlength: "64" }), owner: input("owner", { required: true }), reason: input("reason", { required: true }), expires: input("expires", { value: "14d" }), priority: input("priority", { type: "number", value: "0", step: "1" }) };
  const [mandatory, mandatoryField] = check("mandatory", "Mandatory", "No user's override gets past it.");
  const when = { route: select("route", [["", "any"], ...routes.map((one) => [one, one])]), models: input("models"), tenants: input("tenants"), prompt: input("prompt"), language: input("language", { maxlength: "2" }) };
  const all = actions();
  const action = select("action", Object.entries(all).map(([word, { name }]) => [word, name]));
  const details = h("div", { class: "stack" });
  const text = area("text", { rows: "16", class: "code" });
  const kind = select("kind", [["form", "a form"], ["text", "text"]]);

  function showAction() {
    details.replaceChildren(...all[action.value].fields);
  }
  action.addEventListener("change", showAction);
  showAction();

  function written() {
    const value = (place) => place.value.trim();
    const rule = { id: value(known.id), owner: value(known.owner), reason: value(known.reason) };
    if (value(known.expires)) rule.expires = value(known.expires);
    if (Number(known.priority.value)) rule.priority = Number(known.priority.value);
    if (mandatory.checked) rule.mandatory = true;
    const about = {};
    if (when.route.value) about.routes = [when.route.value];
    for (const name of ["models", "tenants"]) if (value(when[name])) about[name] = lines(when[name].value, ",");
    for (const name of ["prompt", "language"]) if (value(when[name])) about[name] = value(when[name]);
    if (Object.keys(about).length) rule.when = about;
    rule.then = { action: action.value, ...all[action.value].value() };
    return rule;
  }

  const group = (legend, ...fields) => h("fieldset", {}, h("legend", {}, legend), h("div", { class: "filters" }, fields));
  const asForm = h("div", { class: "stack" },
    group("What it is", field("Id", known.id, "Letters, digits, - _ and ."), field("Owner", known.owner, "Who answers for it."), field("Reason", known.reason),
      field("Ends after", known.expires, "Such as 14d or 12h."), field("Priority", known.priority, "Higher ones first."), mandatoryField),
    group("When", field("Route", when.route), field("Models", when.models, "Their names by commas; any when empty."), field("Keys", when.tenants, "Their ids by commas, or anonymous."),
      field("Prompt", when.prompt, "A regular expression, searched for."), field("Language", when.language, "Of the user, such as de.")),
    h("fieldset", {}, h("legend", {}, "Then"), h("div", { class: "stack" }, field("Action", action), details)));
  const asText = field("Rule", text, "TOML or JSON, with all that a rule can say, such as several routes and tests of the request's JSON.");
  asText.hidden = true;

  kind.addEventListener("change", () => {
    const isText = kind.value === "text";
    if (isText && !text.value.trim()) {
      try { text.value = JSON.stringify(written(), null, 2); } catch { /* A schema that is no JSON yet stays in the form. */ }
    }
    asForm.hidden = isText;
    asText.hidden = !isText;
    // What is not shown is not asked for.
    for (const place of [known.id, known.owner, known.reason]) place.required = !isText;
  });

  async function save(event) {
    event.preventDefault();
    problem.replaceChildren();
    let body;
    try {
      body = kind.value === "text" ? text.value : JSON.stringify(written());
    } catch (error) {
      problem.replaceChildren(said(new Error(`JSON schema: ${error.message}`)));
      return;
    }
    try {
      done(await postText("/ops/v1/overrides", body, { signal }));
    } catch (error) {
      if (!signal.aborted) problem.replaceChildren(said(error));
    }
  }

  const view = h("form", { class: "stack", "aria-label": "Write a rule", onsubmit: save },
    h("div", { class: "row controls" }, h("label", { for: kind.id }, "Write it as"), kind),
    asForm, asText, problem,
    h("div", { class: "row" }, h("button", { type: "submit" }, "Save as a draft"), h("span", { class: "quiet-text" }, "A draft does nothing until it is published.")));

  return {
    view,
    // Begins with another rule's words.
    begin(rule) {
      kind.value = "text";
      text.value = JSON.stringify(rule, null, 2);
      kind.dispatchEvent(new Event("change"));
      text.focus();
    },
  };
}
