// The server's answers. The key is this tab's own and goes to this server alone.

const KEY = "lastmile-key";

export class ApiError extends Error {
  constructor(status, body) {
    super(body?.error?.message || `The server answered with status ${status}.`);
    this.status = status;
    this.code = body?.error?.code;
  }
}

export function key() {
  return sessionStorage.getItem(KEY) || "";
}

export function setKey(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
  index = undefined;
  dispatchEvent(new Event("key-changed"));
}

async function send(path, options = {}) {
  const headers = { accept: "application/json", ...options.headers };
  if (key()) headers.authorization = `Bearer ${key()}`;
  if (options.body) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { error: { message: "The server does not answer." } });
  }
  if (!answer.ok) {
    const error = new ApiError(answer.status, await answer.json().catch(() => null));
    if (answer.status === 401) dispatchEvent(new CustomEvent("key-needed", { detail: error.message }));
    throw error;
  }
  return answer;
}

export async function get(path, options) {
  return (await send(path, options)).json();
}

export async function post(path, body, options = {}) {
  return (await send(path, { ...options, method: "POST", body: JSON.stringify(body) })).json();
}

// Sends what a person wrote as it is.
export async function postText(path, text, options = {}) {
  return (await send(path, { ...options, method: "POST", body: text })).json();
}

// The data of server-sent events, and the answer's headers before them.
export async function* events(path, options = {}) {
  const answer = await send(path, { ...options, headers: { accept: "text/event-stream" } });
  yield { headers: answer.headers };
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n");
        const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
        const kind = lines.find((line) => line.startsWith("event:"))?.slice(6).trim();
        if (data.length) yield { kind, data: data.join("\n") };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

let index;

// Whether the server has a route, such as "GET /v1/requests/{id}".
export async function has(route) {
  index ??= get("/").catch((error) => {
    index = undefined;
    throw error;
  });
  return (await index).routes.includes(route);
}

export function query(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return pairs.length ? `?${new URLSearchParams(pairs)}` : "";
}
