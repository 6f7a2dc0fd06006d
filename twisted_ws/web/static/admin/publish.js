// Publish, the same as commands, and why somebody may.

import { $, attempt, field, get, h, many, may, onSubmit, post, show } from "./page.js";

const error = (id) => h("p.error", { id, role: "alert", hidden: true });
const code = (id, title) => [h("h3", `The same ${title}`), h("pre", { id })];
const form = h("form",
  field("to", "To", { choices: { channel: "a channel", all: "everybody with a WebSocket" } }), field("channel", "Channel"),
  field("data", "Message", { tag: "textarea", rows: 3, required: true }), field("json", "it is JSON", { type: "checkbox" }),
  field("key", "Key", { hint: "optional; slow subscribers may get only its newest message" }),
  error("unpublished"), h("p", h("button", "Publish")), h("p", { id: "published", role: "status" }));
const question = h("form",
  field("connection", "Caller", { hint: "its id, in place of a user" }), field("asked", "User", { name: "user", hint: "empty: a guest" }),
  field("grants", "Channels that their credentials grant", { hint: "with spaces between" }), field("scopes", "Their scopes"),
  field("action", "May", { choices: { subscribe: "subscribe to", publish: "publish to", presence: "see who is on" } }),
  field("about", "Channel", { name: "channel", required: true }),
  error("unexplained"), h("p", h("button", "Explain")));
const answer = h("div", { role: "status" });
const card = h("div.card", h("h3", "Send a message"), form, ...code("curl", "with curl"), ...code("python", "in Python"));
$("publish").append(h("div.tiles", card, h("div.card", h("h3", "Is it allowed, and why?"), question, answer)));

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const python = (value) => Array.isArray(value) ? `[${value.map(python).join(", ")}]`
  : value && typeof value === "object" ? `{${Object.entries(value).map((pair) => pair.map(python).join(": ")).join(", ")}}`
  : typeof value === "string" ? JSON.stringify(value) : { null: "None", true: "True", false: "False" }[value] ?? `${value}`;

function filled() {
  const isAll = $("to").value === "all";
  const isJSON = $("json").checked && !isAll;
  const text = $("data").value;
  return { isAll, isJSON, text, data: isJSON && text ? JSON.parse(text) : text, channel: $("channel").value || "CHANNEL", key: isAll ? "" : $("key").value };
}

const look = () => attempt(() => {
  const isChannel = $("to").value === "channel";
  for (const id of ["channel", "json", "key"]) $(id).parentElement.hidden = !isChannel;
  $("channel").required = isChannel;
  const { isAll, isJSON, text, data, channel, key } = filled();
  const path = isAll ? "/broadcaster/broadcast" : `/channels/${channel}${key && `?key=${encodeURIComponent(key)}`}`;
  show("curl", `curl -H "Authorization: Bearer $KEY" \\\n  -H "Content-Type: ${isJSON ? "application/json" : "text/plain"}" \\\n  --data-binary ${quote(text)} ${quote(location.origin + path)}`);
  const sent = isAll ? `broadcast(${python(data)})` : `publish(${python(channel)}, ${python(data)}${key && `, key=${python(key)}`})`;
  show("python", `from twisted_ws_publisher import Publisher\n\npush = Publisher(${python(location.origin)}, key_file="push.key")\npush.${sent}`);
}, "unpublished");

form.oninput = look;
onSubmit(form, async () => {
  show("published", "");
  const { isAll, data, text, channel, key } = filled();
  const { id, recipients } = await (isAll ? post("/broadcaster/broadcast", text) : post("/api/publish", { channel, data, ...(key && { key }) }));
  show("published", isAll ? "Sent to everybody." : `Published as ${id} to ${many(recipients, "connection")}.`);
}, "unpublished");
onSubmit(question, async () => {
  answer.replaceChildren();
  const { allowed, steps, note } = await get("/api/explain", new FormData(question));
  answer.append(h("p.value", allowed === null ? "The application decides" : allowed ? "Yes" : "No"),
    h("ol.steps", ...steps.map(({ text, file, line }) => h("li", text, file && h("span.quiet", ` ${file}, line ${line}`)))), note ?? "");
}, "unexplained");

export const publish = {
  show({ channel, caller } = {}) {
    card.hidden = !may("publish");
    $("to").options[1].disabled = !may("broadcast");
    if (channel) $("channel").value = channel;
    if (caller) {
      $("connection").value = caller;
      $("about").focus();
    }
    look();
  },
};
