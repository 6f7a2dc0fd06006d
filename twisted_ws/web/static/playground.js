// One channel at a time, over a transport of your choice: its messages, who is present, and what was missed while away.

import { Journal, complain, copies, describe, element, show } from "/page.js";

const PRESENCE_EVERY = 2000; // milliseconds: a visitor without a name is counted, but its joins and leaves are not announced
const NAMES = { websocket: "WebSocket", sse: "server-sent events", poll: "long polling" };
const STATES = {
  idle: "not subscribed", connecting: "connecting …", open: "connected", waiting: "trying again …",
  offline: "no network", paused: "disconnected", closed: "not subscribed",
};

const log = new Journal(element("channel-log"), element("channel-empty"), element("channel-clear"));
const channel = element("channel");
const transport = element("transport");

let TwistedWS;
let client = null;
let subscription = null;
let via = ""; // the transport that the client was told to use
let begun = false; // whether the server has accepted the subscription
let since = null;

function connect() {
  client?.close();
  via = transport.value;
  const mine = client = new TwistedWS(document.body.dataset.channels, via ? { transports: [via] } : {});
  client.on("state", (state) => {
    if (mine !== client) return;
    show("by", state === "open" ? NAMES[client.transport] : "–");
    if (state !== "open") show("here", "–");
    showState();
  });
  client.on("transport", (by) => mine === client && show("by", NAMES[by]));
  client.on("close", ({ message, code }) => {
    since = Date.now();
    if (code !== "closed") log.add("note", "• closed", message);
  });
  client.on("broadcast", (text) => log.add("received", "← to all", describe(text)));
  for (const id of ["by", "position", "here", "recovered"]) show(id, "–");
}

// Whether what is in the fields is what is subscribed to.
function isSame() {
  return Boolean(subscription?.active) && channel.value.trim() === subscription.channel && transport.value === via;
}

// The buttons say what a click does now, and the state what is there.
function showState() {
  const { state } = client;
  const active = subscription?.active;
  element("channel-state").dataset.state = state !== "open" ? state : active && begun ? "connected" : "waiting";
  show("channel-status", state !== "open" ? STATES[state] : !active ? "connected, not subscribed" : begun ? `subscribed to ${subscription.channel}` : "subscribing …");
  show("toggle", isSame() ? "Unsubscribe" : "Subscribe");
  element("toggle").classList.toggle("second", isSame());
  show("network", state === "paused" ? "Connect" : "Disconnect");
  element("network").disabled = !active && state !== "open";
}

// Show the command that publishes to a channel; "" hides it.
function offer(name) {
  element("channel-command").hidden = !name;
  show("channel-curl", element("curl").textContent.replace(/\/broadcaster\/broadcast\b/, `/channels/${name}`));
}

function subscribe(name, presence = true) {
  const mine = client;
  show("target", name);
  show("published", "");
  complain("publish-error", "", element("publication"));
  complain("channel-error", "", channel);
  offer("");
  begun = false;
  subscription = client.subscribe(name, (message) => {
    log.add("received", "← received", message.channel === name ? describe(message.data) : `${message.channel}: ${describe(message.data)}`);
    show("position", subscription.id ?? "–");
  }, { presence });
  subscription.on("subscribed", ({ id, count, recovered, after }) => {
    begun = true;
    show("position", id ?? "–");
    if (!name.endsWith("*")) offer(name);
    if (after === null) log.add("note", "• joined", name);
    else tell(count, recovered);
    showState();
  });
  for (const type of ["join", "leave"]) {
    subscription.on(type, ({ user }) => {
      log.add("note", `• ${type}`, user);
      look();
    });
  }
  subscription.on("presence", who);
  subscription.on("error", ({ code, message, final }) => {
    if (mine !== client) return;
    if (presence && code === "forbidden") { // perhaps only presence is
      subscribe(name, false);
      show("here", "not shown for this channel");
    } else {
      log.add("error", "✕ refused", message);
      complain("channel-error", `${final ? "Not subscribed" : "Not subscribed yet"} to “${name}”: ${message}`, channel);
      showState();
    }
  });
  showState();
}

function unsubscribe() {
  log.add("note", "• left", subscription.channel);
  client.close();
  subscription = null;
  offer("");
  showState();
}

function tell(count, recovered) {
  const away = since === null ? "" : `, ${Math.round((Date.now() - since) / 1000)} s away`;
  const messages = `${count} ${count === 1 ? "message" : "messages"}`;
  const text = recovered ? `${messages} recovered, nothing lost${away}` : `${messages} still there, others may be lost${away}`;
  log.add(recovered ? "note" : "error", recovered ? "• recovered" : "✕ lost", text);
  show("recovered", text);
}

function who({ count, members }) {
  const names = members.map(({ user }) => user);
  show("here", `${count}${names.length ? ` (${names.join(", ")})` : ""}`);
}

function look() {
  const asked = subscription;
  if (client?.state !== "open" || document.hidden || !asked?.active) return;
  client.presence(asked.channel).then((found) => asked === subscription && who(found), () => {});
}

// Publish a text that parses as a JSON object or array as JSON.
function read(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null ? value : text;
  } catch {
    return text;
  }
}

async function publish() {
  const field = element("publication");
  const text = field.value;
  if (text === "") return;
  if (client.state === "closed") connect();
  field.value = "";
  complain("publish-error", "", field);
  show("published", client.state === "paused" ? "waiting for you to connect …" : client.state === "open" ? "publishing …" : "waiting for a connection …");
  try {
    const { id, recipients } = await client.publish(element("target").textContent, read(text));
    show("published", `published as ${id}, to ${recipients} ${recipients === 1 ? "connection" : "connections"}`);
    look();
  } catch (error) {
    show("published", "");
    complain("publish-error", `Not published: ${error.message}`, field);
    field.value ||= text; // unless a new text was typed meanwhile
  }
}

if (document.body.dataset.channels) {
  ({ TwistedWS } = await import("/twisted-ws.mjs"));
  element("subscribe").addEventListener("submit", (event) => {
    event.preventDefault();
    if (isSame()) {
      unsubscribe();
    } else {
      connect();
      subscribe(channel.value.trim());
    }
  });
  for (const field of [channel, transport]) field.addEventListener("input", showState);
  element("network").addEventListener("click", () => client.state === "paused" ? client.resume() : client.pause());
  element("publish").addEventListener("submit", (event) => {
    event.preventDefault();
    publish();
  });
  copies(element("channel-copy"), element("channel-curl"));
  setInterval(look, PRESENCE_EVERY);
  connect();
  subscribe(channel.value);
}
