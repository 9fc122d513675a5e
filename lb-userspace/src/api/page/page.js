// A reader of the OpenAPI document beside it. Everything is put into the page as text.

const DOCUMENT = "/api/v1/loadbalancer/openapi.json";
const METHODS = ["get", "put", "post", "patch", "delete"];

const byId = (id) => document.getElementById(id);

/** An element with properties and children; strings become text. */
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** `code` and **strong** of a description, and its paragraphs. */
function prose(text) {
  const paragraphs = (text ?? "").split(/\n\s*\n/).filter((paragraph) => paragraph.trim());
  return paragraphs.map((paragraph) => {
    const pieces = paragraph.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((piece) => {
      if (piece.startsWith("`")) return element("code", {}, piece.slice(1, -1));
      if (piece.startsWith("**")) return element("strong", {}, piece.slice(2, -2));
      return piece;
    });
    return element("p", {}, ...pieces);
  });
}

/** The document, and what references in it lead to. */
class Api {
  constructor(document) {
    this.document = document;
  }

  follow(value) {
    while (value && value.$ref) {
      const steps = value.$ref.slice(2).split("/");
      value = steps.reduce((at, step) => at?.[step.replace(/~1/g, "/").replace(/~0/g, "~")], this.document);
    }
    return value ?? {};
  }

  /** Operations by tag, in the order of the document. */
  groups() {
    const groups = new Map(this.document.tags.map((tag) => [tag.name, { tag, operations: [] }]));
    for (const [path, item] of Object.entries(this.document.paths)) {
      for (const method of METHODS.filter((method) => item[method])) {
        const operation = item[method];
        groups.get(operation.tags[0])?.operations.push({ path, method, operation });
      }
    }
    return [...groups.values()].filter((group) => group.operations.length > 0);
  }
}

/** The name of a schema's type, in a word or two. */
function typeName(api, schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const options = (schema.oneOf ?? schema.anyOf)?.filter((option) => option.type !== "null");
  if (options) return options.map((option) => typeName(api, option)).join(" | ");
  const types = [schema.type ?? "any"].flat().filter((type) => type !== "null");
  if (types[0] === "array") return `array of ${typeName(api, schema.items ?? {})}`;
  return types.join(" | ");
}

/** Properties that a schema has, those of its parts included. */
function properties(api, schema) {
  const found = api.follow(schema);
  if (found.allOf) return found.allOf.flatMap((part) => properties(api, part));
  const required = new Set(found.required ?? []);
  return Object.entries(found.properties ?? {}).map(([name, of]) => [name, of, required.has(name)]);
}

/** The schema beneath arrays, alternatives with null, and maps. */
function beneath(api, schema) {
  const found = api.follow(schema);
  if (found.items) return beneath(api, found.items);
  const option = (found.oneOf ?? found.anyOf)?.find((option) => option.type !== "null");
  if (option) return beneath(api, option);
  if (typeof found.additionalProperties === "object") return beneath(api, found.additionalProperties);
  return found;
}

/** A schema as a list of its properties; what is beneath them is made when it is opened. */
function schemaList(api, schema) {
  const list = element("ul", { className: "schema" });
  for (const [name, of, required] of properties(api, schema)) {
    const own = api.follow((of.oneOf ?? of.anyOf)?.find((option) => option.type !== "null") ?? of);
    const words = [
      element("code", {}, name),
      " ",
      element("span", { className: "type" }, typeName(api, of) + (required ? "" : ", optional")),
      " ",
      ...(prose(of.description ?? own.description)[0]?.childNodes ?? []),
    ];
    const inner = beneath(api, of);
    if (properties(api, inner).length === 0) {
      list.append(element("li", {}, ...words));
      continue;
    }
    const details = element("details", {}, element("summary", {}, ...words));
    details.addEventListener("toggle", () => details.append(schemaList(api, inner)), { once: true });
    list.append(element("li", {}, details));
  }
  return list;
}

/** What belongs into a field, as text. */
function exampleOf(api, holder) {
  const schema = api.follow(holder.schema);
  const example = holder.example ?? schema.example ?? schema.examples?.[0];
  if (example === undefined) return "";
  return typeof example === "string" ? example : JSON.stringify(example, null, 2);
}

/** Rows to fill in, one a parameter. */
function parameterRows(api, operation) {
  return (operation.parameters ?? []).map((parameter) => {
    parameter = api.follow(parameter);
    const input = element("input", {
      name: parameter.name,
      required: Boolean(parameter.required),
      placeholder: exampleOf(api, parameter),
    });
    // What has to be there is there, so that trying is one click.
    if (parameter.required) input.value = exampleOf(api, parameter);
    const many = api.follow(parameter.schema).type?.includes?.("array");
    const words = `${parameter.description ?? ""}${many ? " (several separated by |)" : ""}`;
    const label = element("label", {}, element("code", {}, parameter.name), parameter.required ? " *" : "");
    const row = element("div", { className: "parameter" }, label, input, element("span", { className: "quiet" }, ...(prose(words)[0]?.childNodes ?? [])));
    return { parameter, input, many, row };
  });
}

/** The target of a request: path and query of what was filled in. */
function target(path, rows) {
  const query = new URLSearchParams();
  for (const { parameter, input, many } of rows) {
    if (parameter.in === "path") {
      path = path.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    } else if (parameter.in === "query" && input.value !== "") {
      const values = many ? input.value.split("|") : [input.value];
      values.forEach((value) => query.append(parameter.name, value.trim()));
    }
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/** The same request for a shell. */
function curl(method, url, body) {
  const quoted = (text) => `'${text.replace(/'/g, "'\\''")}'`;
  const words = ["curl"];
  if (method !== "get") words.push("-X", method.toUpperCase());
  if (byId("token").value) words.push("-H", '"Authorization: Bearer $LB_API_TOKEN"');
  if (body) words.push("-H", "'Content-Type: application/json'", "-d", quoted(body));
  words.push(quoted(new URL(url, location.href).href));
  return words.join(" ");
}

/** Sends a request and shows what comes back. */
async function send(method, url, body, answer) {
  const headers = {};
  if (byId("token").value) headers.Authorization = `Bearer ${byId("token").value}`;
  if (body) headers["Content-Type"] = "application/json";
  const parts = [element("p", {}, element("code", {}, curl(method, url, body)))];
  try {
    const started = performance.now();
    const response = await fetch(url, { method: method.toUpperCase(), headers, body, cache: "no-store", redirect: "error" });
    const text = await response.text();
    const took = Math.round(performance.now() - started);
    const isJson = response.headers.get("content-type")?.includes("json");
    parts.push(
      element("p", {},
        element("span", { className: `status ${response.ok ? "good" : "bad"}` }, `${response.status} ${response.statusText}`),
        element("span", { className: "quiet" }, ` ${response.headers.get("content-type") ?? ""}, ${took} ms`)),
      element("pre", {}, isJson ? JSON.stringify(JSON.parse(text), null, 2) : text));
  } catch (error) {
    parts.push(element("p", { className: "status bad" }, `No answer: ${error.message}`));
  }
  answer.replaceChildren(...parts);
}

/** What a request has, and the button that sends it. */
function trial(api, { path, method, operation }) {
  const rows = parameterRows(api, operation);
  const content = api.follow(operation.requestBody).content?.["application/json"];
  const body = content && element("textarea", { value: exampleOf(api, content), spellcheck: false, ariaLabel: "Body" });
  const answer = element("div", { className: "answer", ariaLive: "polite" });
  const button = element("button", { className: method }, `Send ${method.toUpperCase()}`);
  const form = element("form", {}, ...rows.map(({ row }) => row), body ? element("h3", {}, "Body") : null, body ?? null, button);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(method, target(path, rows), body?.value, answer);
  });
  return [form, answer];
}

/** Each answer that the document knows. */
function responses(api, operation) {
  return Object.entries(operation.responses).map(([status, response]) => {
    response = api.follow(response);
    const schema = Object.values(response.content ?? {})[0]?.schema;
    const words = [element("span", { className: status < 400 ? "good" : "bad" }, status), " ", response.description];
    if (!schema || properties(api, schema).length === 0) return element("div", {}, ...words);
    const details = element("details", {}, element("summary", {}, ...words));
    details.addEventListener("toggle", () => details.append(schemaList(api, schema)), { once: true });
    return details;
  });
}

/** An operation, closed; its inside is made when it is opened. */
function operationView(api, entry) {
  const { path, method, operation } = entry;
  const view = element("details", { className: "operation", id: operation.operationId });
  view.append(element("summary", {},
    element("span", { className: `method ${method}` }, method.toUpperCase()),
    element("span", { className: "path" }, path),
    element("span", { className: "quiet" }, operation.summary)));
  view.dataset.words = [path, method, operation.operationId, operation.summary, operation.description].join(" ").toLowerCase();
  view.addEventListener("toggle", () => {
    view.append(element("div", { className: "inner" },
      ...prose(operation.description),
      operation["x-role"] ? element("p", { className: "quiet" }, `Needs the role ${operation["x-role"]}.`) : null,
      ...trial(api, entry), element("h3", {}, "Answers"), ...responses(api, operation)));
  }, { once: true });
  return view;
}

/** The operation that the address names. */
function reveal() {
  const view = byId(decodeURIComponent(location.hash.slice(1)));
  if (view instanceof HTMLDetailsElement) {
    view.open = true;
    view.scrollIntoView();
  }
}

function filter() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const view of document.querySelectorAll(".operation")) {
    view.hidden = !words.every((word) => view.dataset.words.includes(word));
  }
  for (const section of document.querySelectorAll("section")) {
    section.hidden = !section.querySelector(".operation:not([hidden])");
  }
}

function show(api) {
  const { info } = api.document;
  byId("title").textContent = `${info.title} ${info.version}`;
  const about = element("details", { className: "about" }, element("summary", {}, "About this API"), ...prose(info.description));
  const sections = api.groups().map(({ tag, operations }) => {
    const id = `tag-${tag.name.toLowerCase().replace(/\W+/g, "-")}`;
    byId("contents").append(element("a", { href: `#${id}` }, tag.name));
    return element("section", {},
      element("h2", { id }, tag.name),
      element("div", { className: "quiet" }, tag.description),
      ...operations.map((entry) => operationView(api, entry)));
  });
  byId("operations").replaceChildren(about, ...sections);
  byId("filter").addEventListener("input", filter);
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", reveal);
  reveal();
}

try {
  const response = await fetch(DOCUMENT, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  show(new Api(await response.json()));
} catch (error) {
  byId("operations").replaceChildren(element("p", { className: "bad" }, `The document cannot be read: ${error.message}`));
}
byId("operations").ariaBusy = "false";
