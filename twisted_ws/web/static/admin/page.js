// What all sections use. What comes from the server is written as text, never as markup.

export const $ = (id) => document.getElementById(id);

// Make an element: h("p.quiet", { id: "x" }, "text", another, …).
export function h(tag, ...inside) {
  const [name, kind = ""] = tag.split(".");
  const made = document.createElement(name);
  const attributes = inside[0]?.constructor === Object ? inside.shift() : {};
  for (const [key, value] of Object.entries({ className: kind, ...attributes })) key in made ? made[key] = value : made.setAttribute(key, value);
  made.append(...inside.filter(Boolean));
  return made;
}

// A labelled field; choices are texts by value.
export function field(id, label, { choices = {}, tag = "input", hint, kind = "", ...rest } = {}) {
  const options = Object.entries(choices).map(([value, text]) => h("option", { value }, text));
  const made = h(options.length ? "select" : tag, { id, name: id, autocapitalize: "none", spellcheck: false, ...rest }, ...options);
  const text = h("label", { htmlFor: id }, label, hint && h("span.quiet", ` (${hint})`));
  return rest.type === "checkbox" ? h("p.check", made, text) : h(`p.${kind}`, text, made);
}

export const search = (id, label) => field(id, label, { type: "search", kind: "wide" });

export function show(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

export function complain(text = "", id = "failed") {
  show(id, text);
  $(id).hidden = !text;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const few = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
export const known = (shown) => (value) => value == null ? "–" : shown(value);
const format = (style) => known((seconds) => new Intl.DateTimeFormat("en-GB", { ...style, timeStyle: "medium" }).format(seconds * 1000));

export const count = known((value) => (value < 10 ? few : whole).format(value));
export const many = (value, one) => `${count(value)} ${one}${value === 1 ? "" : "s"}`;
export const ms = known((value) => value < 1000 ? `${few.format(value)} ms` : `${few.format(value / 1000)} s`);
export const clock = format({});
export const date = format({ dateStyle: "medium" });
export const bytes = known((value) => {
  const unit = Math.min(3, Math.floor(Math.log10(value || 1) / 3));
  return `${few.format(value / 1e3 ** unit)} ${["B", "kB", "MB", "GB"][unit]}`;
});
export const age = (since) => {
  const past = Math.max(0, Date.now() / 1000 - since);
  const [one, unit] = [[86400, "days"], [3600, "h"], [60, "min"]].find(([each]) => past >= 2 * each) ?? [1, "s"];
  return `${Math.floor(past / one)} ${unit}`;
};

async function call(method, path, body, type = "application/json") {
  const headers = { "X-Twisted-WS": "admin", ...(body && { "Content-Type": type }) };
  const answer = await fetch(path, { method, body, headers, cache: "no-store" }).catch(() => { throw new Error("The server cannot be reached."); });
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  if (answer.status === 401) dispatchEvent(new Event("ended"));
  throw new Error(found.message ?? `The server answers ${answer.status}.`);
}

export const get = (path, query = {}) => call("GET", `${path}?${new URLSearchParams(query)}`.replace(/\?$/, ""));
export const post = (path, body) => typeof body === "string" ? call("POST", path, body, "text/plain") : call("POST", path, JSON.stringify(body));
export const remove = (path) => call("DELETE", path);

export const session = { user: null, may: [] };
export const may = (word) => session.may.includes(word);

export const go = (section, given) => dispatchEvent(new CustomEvent("go", { detail: [section, given] }));

export async function attempt(act, where) {
  complain("", where);
  try {
    await act();
  } catch (error) {
    complain(error.message, where);
  }
}

const once = (type, of, act, where, button = of) => of.addEventListener(type, async (event) => {
  event.preventDefault();
  button.disabled = true;
  await attempt(act, where);
  button.disabled = false;
});

export const onSubmit = (form, act, where) => once("submit", form, act, where, form.querySelector("button"));

export function button(text, act, kind = "second") {
  const made = h(`button.${kind}`, { type: "button" }, text);
  once("click", made, act);
  return made;
}

// Ask, or tell where there is no text for yes; whether it is yes.
export async function ask(question, yes = "", hasReason = false) {
  const dialog = $("ask");
  show("question", question);
  show("yes", yes);
  $("yes").hidden = !yes;
  $("reason-row").hidden = !hasReason;
  $("reason").value = dialog.returnValue = "";
  dialog.showModal();
  $(hasReason ? "reason" : "no").focus();
  await new Promise((done) => { dialog.onclose = done; });
  return dialog.returnValue;
}

// A button that asks first; `act` gets the reason.
export const asking = (text, question, act, hasReason = true) => button(text, async () => {
  if (await ask(question, text, hasReason)) await act($("reason").value);
}, "bad");

let spoken = -1e4;
let speech;

// Have a screen reader say something, at most every 10 s.
export function say(text) {
  clearTimeout(speech);
  speech = setTimeout(() => {
    spoken = performance.now();
    show("said", text);
  }, spoken + 1e4 - performance.now());
}

// Do something every 5 s while somebody looks.
export function repeat(act) {
  let turn = 0;
  const show = async (mine = ++turn) => {
    if (!document.hidden) await attempt(act);
    setTimeout(() => mine === turn && show(mine), 5000);
  };
  return { show: () => show(), hide: () => { turn += 1; } };
}

export const facts = (all, names) => h("dl", ...names.split(" ").map((name) => h("div", h("dt", name), h("dd", `${all[name] ?? ""}` || "–"))));
export const region = (label, ...inside) => h("div.lines", { tabIndex: 0, role: "region", "aria-label": label }, ...inside);
