// What is loaded, and what it takes.

import { get, has, post, query } from "./api.js";
import { h, bytes, facts, number, percent, said, span, table } from "./dom.js";
import { pictureView } from "./picture.js";

export function modelsPage(place, { signal }) {
  const list = h("div", { class: "stack" });
  const memory = pictureView("Memory");

  const problem = h("div");
  const manage = h("div", { class: "stack" });
  const told = h("p", { role: "status", class: "quiet-text" });
  place.append(h("h1", {}, "Models"), problem, manage, memory.view, list);

  // A name may hold slashes, which are part of the path.
  const path = (name) => name.split("/").map(encodeURIComponent).join("/");

  async function act(name, verb) {
    told.textContent = `${name}: ${verb} \u2026`;
    try {
      const model = await post(`/ops/v1/models/${path(name)}/${verb}`, {}, { signal });
      told.textContent = `${model.name} is ${model.state}`;
    } catch (error) {
      if (signal.aborted) return;
      told.textContent = "";
      problem.replaceChildren(said(error));
      return;
    }
    await show();
  }

  // Which models there are, and whether they are loaded: on servers that hold several.
  async function showManaged() {
    if (!(await has("GET /ops/v1/models"))) return;
    const { models } = await get("/ops/v1/models", { signal });
    const button = (name, verb) => h("button", { type: "button", class: "quiet", "aria-label": `${verb} ${name}`, onclick: () => act(name, verb) }, verb);
    manage.replaceChildren(
      table("Models that can be served", [["Name", "wide"], ["State", ""], ["Takes", "num"], ["Running", "num"], ["", ""]], models.map((model) => [
        model.name, h("span", { class: "tag" }, model.state), bytes(model.planned_bytes), number(model.running),
        h("div", { class: "row" }, model.release ? [button(model.name, "unload"), button(model.name, "reload")] : [button(model.name, "load")])])),
      told);
  }

  async function show() {
    try {
      await showManaged();
      const now = await get("/ops/v1/now", { signal });
      memory.show(await get(`/ops/v1/charts/memory${query({ width: memory.width() })}`, { signal }));
      list.replaceChildren(...now.models.map((model) => h("section", { class: "card", "aria-label": model.name },
        h("h2", {}, model.name),
        facts([
          ["Kernels", model.kernel_path],
          ["Release", h("code", {}, model.release)],
          ["Context", `${number(model.max_model_len)} tokens`],
          ["Weights", bytes(model.weights_bytes)],
          ["KV cache", `${bytes(model.kv_bytes)} as ${model.kv_type}`],
          ["KV blocks", `${number(model.kv_blocks)} of ${number(model.kv_block_size)} tokens, ${percent(model.kv_usage)} held`],
          ["Up", span(model.uptime_s)],
          ["Step prediction off by", percent(model.step_error_ratio)],
        ]))));
      problem.replaceChildren();
    } catch (error) {
      if (!signal.aborted) problem.replaceChildren(said(error));
    }
  }

  show();
  return "Models";
}
