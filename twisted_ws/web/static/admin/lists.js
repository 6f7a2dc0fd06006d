// Callers and channels.

import { $, age, asking, button, bytes, count, date, facts, field, get, go, h, many, may, onSubmit, post, remove, repeat, search } from "./page.js";
import { table } from "./table.js";

const SHOWN = 100;
const BUTTONS = 10;
const TRANSPORTS = { websocket: "WebSocket", sse: "event stream", poll: "long polling" };

const names = (all, of = all.length) => all.slice(0, SHOWN).join(", ") + (of > SHOWN ? ` and ${of - SHOWN} more` : "");

// load: shows what is after a cursor, and returns the next one.
function list(name, fields, columns, options, load) {
  const form = h("form.bar", ...fields, h("button", "Search"));
  $(name).append(form);
  const rows = table($(name), columns, options);
  let cursors = [""];
  let next;
  const { show, hide } = repeat(async () => {
    next = await load(cursors.at(-1), rows);
    back.hidden = !cursors[1];
    on.hidden = !next;
  });
  const turn = (text, change) => button(text, async () => {
    change();
    await show();
    $(`${name}-title`).focus();
  });
  const back = turn("Previous", () => cursors.pop());
  const on = turn("Next", () => cursors.push(next));
  $(name).append(h("p.bar", back, on));
  const begin = () => {
    cursors = [""];
    return show();
  };
  onSubmit(form, begin);
  return { show: begin, hide };
}

const leave = (all, query, act) => may("unsubscribe") ? all.slice(0, BUTTONS).map((each) => asking(`Unsubscribe ${each}`, `Unsubscribe ${each}?`, async (reason) => {
  await post("/api/unsubscribe", { ...query(each), reason });
  await act();
})) : [];

export const callers = list("callers", [
  field("by", "Find by", { choices: { user: "User", peer: "Address", channel: "Channel" } }),
  search("begins", "that begins with"),
  field("transport", "Transport", { choices: { "": "All", ...TRANSPORTS } }),
  field("slow", "only slow ones", { type: "checkbox" }),
], [
  ["User", ({ user, id }) => user ?? `guest ${id}`], ["Transport", ({ transport }) => TRANSPORTS[transport]], ["Service", "service"],
  ["Address", ({ peer }) => peer || "Unix socket"], ["Connected", "since", age], ["Channels", "subscriptions", count], ["Waiting", "waiting", bytes],
], { open: openCaller }, async (cursor, rows) => {
  const query = Object.entries({ cursor, [$("by").value]: $("begins").value, transport: $("transport").value, slow: $("slow").checked || "" });
  const { callers: found, total, missing, next } = await get("/api/callers", query.filter(([, value]) => value));
  rows(found, (found.length < total ? `${found.length} of ` : "") + many(total, "caller") + (missing.length ? `; no answer from ${missing.join(", ")}` : ""));
  return next;
});

async function openCaller({ id }, again) {
  const found = await get(`/api/callers/${encodeURIComponent(id)}`);
  return h("div", facts({
    ...found, expires: date(found.expires), scopes: names(found.scopes), claims: names(found.claims), channels: names(found.channels, found.subscriptions), subprotocol: found.subProtocol,
  }, "id node path origin agent subprotocol authenticator expires scopes claims channels"), h("p.bar",
    may("admin") && button("Tail", () => go("tail", { of: "connection", named: id })),
    button("What may it do?", () => go("publish", { caller: id })),
    may("disconnect") && asking("Disconnect", `End the connection of ${found.user ?? "a guest"} (caller ${id}) for good?`, async (reason) => {
      await post("/api/disconnect", { connection: id, reason });
      await callers.show();
    }),
    ...leave(found.channels.filter((each) => !each.includes("*")), (channel) => ({ channel, connection: id }), again),
  ));
}

const before = new Map(); // by channel

// Messages a second since the last look: an id ends with the number of messages so far.
function rate({ channel, id }) {
  const now = performance.now();
  const number = id.split(":")[1];
  const [time, old] = before.get(channel) ?? [];
  before.set(channel, [now, number]);
  return time && Math.max(0, (number - old) * 1000 / (now - time));
}

export const channels = list("channels", [
  search("prefix", "Name begins with"), field("order", "In order of", { choices: { channel: "names", subscribers: "subscribers", messages: "kept messages" } }),
], [
  ["Channel", "channel"], ["Subscribers", "subscribers", count], ["Per second", rate, count], ["Kept", "messages", count], ["Size", "bytes", bytes], ["Last id", "id"],
], { key: "channel", open: openChannel }, async (cursor, rows) => {
  const order = $("order").value;
  const { channels: found, next } = await get("/api/channels", { prefix: $("prefix").value, order: order.replace("channel", "name"), cursor });
  rows(found, many(found.length, "channel") + (next ? " and more" : ""), order);
  return next;
});

async function openChannel({ channel }, again) {
  const path = `/api/channels/${encodeURIComponent(channel)}`;
  const { presence, history } = await get(path);
  const kept = h("ol");
  return h("div", facts({
    connections: presence.count, users: names(presence.members.map(({ user }) => user)), ...history,
  }, "connections users messages oldest"), h("p.bar",
    button("Show the last messages", async () => {
      const { messages } = await get(`${path}/history`, { last: 20 });
      kept.replaceChildren(...messages.map(({ id, key = "", data, base64 }) => h("li", `${id} ${key}`, h("pre", (base64 ?? JSON.stringify(data)).slice(0, 1000)))));
    }),
    button("Tail", () => go("tail", { of: "channel", named: channel })),
    may("publish") && button("Publish", () => go("publish", { channel })),
    may("delete") && asking("Delete the history", `Forget ${many(history.messages, "message")} of ${channel}?`, async () => {
      await remove(`${path}/history`);
      await again();
    }, false),
    ...leave(presence.members.map(({ user }) => user), (user) => ({ channel, user }), again),
  ), kept);
}
