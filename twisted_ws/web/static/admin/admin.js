// Who is logged in, what is shown, and whether it is live.

import { TwistedWS } from "./twisted-ws.mjs";
import { $, ask, clock, complain, get, go, h, onSubmit, post, say, session, show } from "./page.js";

const NAMES = ["now", "callers", "channels", "publish", "tail", "nodes", "settings"];
const LATE = 5000; // ms without numbers

for (const name of NAMES) {
  $("nav").append(h("a", { href: `#${name}` }, name));
  $("main").append(h("section", { id: name, hidden: true }, h("h2", { id: `${name}-title`, tabIndex: -1 }, name)));
}
const [{ stats }, { callers, channels }, { publish }, { tail }, { nodes, settings }] =
  await Promise.all(["now", "lists", "publish", "tail", "server"].map((name) => import(`./${name}.js`)));
const SECTIONS = { now: {}, callers, channels, publish, tail, nodes, settings };

let client;
let shown = null;
let heard = 0; // when numbers came last
let wrong = 0; // problems

function title() {
  document.title = `${wrong ? `(${wrong}) ` : ""}${shown ?? "login"} · ${session.name}`;
}

function route(event, given) {
  if (session.user === null) return;
  if (shown) {
    SECTIONS[shown].hide?.();
    $(shown).hidden = true;
  }
  shown = NAMES.find((name) => `#${name}` === location.hash) ?? shown ?? "now";
  complain();
  $(shown).hidden = false;
  for (const link of $("nav").children) link.setAttribute("aria-current", link.hash === `#${shown}` && "page");
  title();
  if (event) $(`${shown}-title`).focus();
  SECTIONS[shown].show?.(given);
}

function look() {
  const isOpen = client?.state === "open";
  const isLive = isOpen && Date.now() - heard < LATE;
  const text = isLive ? "live" : heard ? `${isOpen ? "no numbers" : "not connected"} since ${clock(heard / 1000)}` : "connecting …";
  const kind = isLive ? "good" : heard ? "bad" : "";
  if (heard && $("state").className !== `chip ${kind}`) say(`The page is ${text}.`);
  show("state", text);
  $("state").className = `chip ${kind}`;
}

async function enter() {
  try {
    Object.assign(session, await get("/admin/session"));
    complain();
  } catch (error) {
    complain(`${error.message} Trying again …`);
    setTimeout(enter, 2000);
    return;
  }
  const isIn = session.user !== null;
  show("host", session.name);
  show("user", session.user ?? "");
  title();
  for (const id of ["nav", "state", "help"]) $(id).hidden = !isIn;
  $("who").hidden = !session.user;
  $("login").hidden = isIn;
  if (!isIn) {
    const hasPassword = session.login.includes("password");
    show("secret-label", session.login.join(" or ").replace("key", "API key"));
    $("name-row").hidden = !hasPassword;
    $("or").hidden = !session.login.includes("key");
    $(hasPassword ? "name" : "secret").focus();
    return;
  }
  client = session.client = new TwistedWS("/api/events", { transports: ["sse"], cap: 5000 });
  client.subscribe("~server.stats", ({ data }) => {
    heard = Date.now();
    wrong = stats(data);
    nodes.stats(data);
    title();
    look();
  });
  client.subscribe("~server.log", ({ data }) => settings.log(data), { last: 200 });
  client.on("state", look);
  client.on("close", ({ final }) => final && get("/api/nodes").catch(look));
  route();
}

onSubmit($("login"), async () => {
  const [user, secret] = [$("name").value, $("secret").value];
  $("secret").select();
  await post("/admin/login", user ? { user, password: secret } : { key: secret });
  await enter();
  $(`${shown}-title`).focus();
}, "refused");
const leave = () => location.reload();
$("logout").onclick = () => post("/admin/logout", {}).then(leave, leave);
addEventListener("ended", () => shown && leave());
addEventListener("hashchange", route);
addEventListener("go", ({ detail: [section, given] }) => {
  history.pushState(null, "", `#${section}`);
  route(true, given);
});

const help = () => ask("1 to 7: the sections. /: search. ?: this help. Settings turns them off.");
$("help").onclick = help;
addEventListener("keydown", (event) => {
  if (event.target.matches("input:not([type=checkbox]), textarea, select, dialog[open] *") || event.ctrlKey || event.altKey || event.metaKey || !$("keys").checked || !shown) return;
  const name = NAMES[event.key - 1];
  const search = () => $(shown).querySelector("[type=search]");
  if (name) location.hash = name;
  else if (event.key === "?") help();
  else if (event.key === "/") {
    if (!search()) go("callers");
    search().focus();
  } else return;
  event.preventDefault();
});
setInterval(look, 1000);
enter();
