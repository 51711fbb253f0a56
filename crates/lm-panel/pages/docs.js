// The routes of /openapi.json as a page.

import { h, table } from "/panel/dom.js";

const response = await fetch("/openapi.json");
const document_ = await response.json();
const named = (schema) => (schema?.$ref ? document_.components.schemas[schema.$ref.split("/").pop()] : schema) ?? {};

function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(kind).join(" | ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.items) return `[${kind(schema.items)}]`;
  const type = [schema.type ?? "any"].flat().join(" | ");
  const least = schema.minimum ?? schema.exclusiveMinimum;
  if (least === undefined && schema.maximum === undefined) return type;
  return `${type}, ${least ?? "\u2026"} to ${schema.maximum ?? "\u2026"}`;
}

function fields(caption, schema) {
  const found = named(schema);
  if (!found.properties) return h("p", {}, `${caption}: ${kind(schema)}`);
  const rows = Object.entries(found.properties).map(([name, value]) => [
    name, kind(value), found.required?.includes(name) ? "yes" : "", value.description ?? ""]);
  return table(caption, [["Field"], ["Type"], ["Required"], [""]], rows);
}

function operation(path, method, described) {
  const parts = [h("p", {}, described.description ?? "Needs no key.")];
  if (described.parameters) {
    parts.push(table("Parameters", [["Name"], ["In"], ["Type"]],
      described.parameters.map((one) => [one.name, one.in, kind(one.schema)])));
  }
  const body = described.requestBody?.content["application/json"].schema;
  if (body) parts.push(h("h3", {}, "Body"), fields("Body", body));
  for (const [status, answer] of Object.entries(described.responses)) {
    parts.push(h("h3", {}, status === "default" ? "Errors" : `Status ${status}`), h("p", {}, answer.description));
    for (const [type, content] of Object.entries(answer.content ?? {})) {
      parts.push(h("p", {}, h("code", {}, type)), fields(`Status ${status}`, content.schema));
    }
  }
  return h("details", { id: described.operationId },
    h("summary", {}, h("code", {}, `${method.toUpperCase()} ${path}`), ` ${described.summary}`), parts);
}

const main = document.getElementById("main");
main.append(h("p", {}, document_.info.description));
for (const [path, methods] of Object.entries(document_.paths)) {
  for (const [method, described] of Object.entries(methods)) main.append(operation(path, method, described));
}
