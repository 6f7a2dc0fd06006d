// One channel at a time, over a transport of your choice: its messages, who is present, and what was missed while offline.

import { Journal, copies, describe, element, show } from "/page.js";

const PRESENCE_EVERY = 2000; // milliseconds: a visitor without a name is counted, but its joins and leaves are not announced
const NAMES = { websocket: "WebSocket", sse: "server-sent events", poll: "long polling" };
const STATES = {
  idle: "not connected", connecting: "connecting …", open: "connected", waiting: "trying again …",
  offline: "no network", paused: "offline", closed: "closed",
};

const log = new Journal(element("channel-log"), element("channel-empty"), element("channel-clear"));

let TwistedWS;
let client = null;
let subscription = null;
let since = null;

function connect() {
  client?.close();
  const transport = element("transport").value;
  client = new TwistedWS(document.body.dataset.channels, transport ? { transports: [transport] } : {});
  client.on("state", (state) => {
    element("channel-state").dataset.state = state === "open" ? "connected" : state;
    show("channel-status", STATES[state]);
    show("network", state === "paused" ? "Go online" : "Go offline");
    show("by", state === "open" ? NAMES[client.transport] : "–");
    if (state !== "open") show("here", "–");
  });
  client.on("transport", (by) => show("by", NAMES[by]));
  client.on("close", ({ message, code }) => {
    since = Date.now();
    if (code !== "closed") log.add("note", "• cut", message);
  });
  client.on("broadcast", (text) => log.add("received", "← to all", describe(text)));
  for (const id of ["by", "position", "here", "recovered"]) show(id, "–");
}

// Show the command that publishes to a channel; "" hides it.
function offer(channel) {
  element("channel-command").hidden = !channel;
  show("channel-curl", element("curl").textContent.replace(/\/broadcaster\/broadcast\b/, `/channels/${channel}`));
}

function subscribe(channel, presence = true) {
  const mine = client;
  show("target", channel);
  show("published", "");
  offer("");
  subscription = client.subscribe(channel, (message) => {
    log.add("received", "← received", message.channel === channel ? describe(message.data) : `${message.channel}: ${describe(message.data)}`);
    show("position", subscription.id ?? "–");
  }, { presence });
  subscription.on("subscribed", ({ id, count, recovered, after }) => {
    show("position", id ?? "–");
    if (!channel.endsWith("*")) offer(channel);
    if (after === null) log.add("note", "• joined", channel);
    else tell(count, recovered);
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
      subscribe(channel, false);
      show("here", "not shown for this channel");
    } else {
      log.add("note", "• refused", message);
      if (final && client.state === "open") show("channel-status", "connected, but not to this channel");
    }
  });
}

function tell(count, recovered) {
  const away = since === null ? "" : `, ${Math.round((Date.now() - since) / 1000)} s away`;
  const messages = `${count} ${count === 1 ? "message" : "messages"}`;
  const text = recovered ? `${messages} recovered, nothing lost${away}` : `${messages} still there, others may be lost${away}`;
  log.add("note", recovered ? "• recovered" : "• lost", text);
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

if (document.body.dataset.channels) {
  ({ TwistedWS } = await import("/twisted-ws.mjs"));
  element("subscribe").addEventListener("submit", (event) => {
    event.preventDefault();
    connect();
    subscribe(element("channel").value.trim());
  });
  element("network").addEventListener("click", () => client.state === "paused" ? client.resume() : client.pause());
  element("publish").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = element("publication").value;
    if (text === "") return;
    element("publication").value = "";
    show("published", client.state === "open" ? "publishing …" : "waiting for a connection …");
    try {
      const { id, recipients } = await client.publish(subscription.channel, read(text));
      show("published", `published as ${id}, to ${recipients} ${recipients === 1 ? "connection" : "connections"}`);
      look();
    } catch (error) {
      show("published", `not published: ${error.message}`);
      element("publication").value ||= text; // unless a new text was typed meanwhile
    }
  });
  copies(element("channel-copy"), element("channel-curl"));
  setInterval(look, PRESENCE_EVERY);
  connect();
  subscribe(element("channel").value);
}
