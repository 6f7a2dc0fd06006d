// Follow a channel, a caller or a user. Contents are shown only if they are asked for.

import { $, attempt, button, clock, complain, field, h, many, may, onSubmit, post, region, search, session, show } from "./page.js";

const MOST = 500; // lines

let now; // what is followed
let lines = [];
let skipped = 0;
let isPaused = false;

const start = h("button");
const pause = button("", () => {
  isPaused = !isPaused;
  fill();
});
const copy = button("Copy as JSON lines", async () => {
  await navigator.clipboard.writeText(lines.map((line) => JSON.stringify(line)).join("\n"));
  show("tail-state", `Copied ${many(lines.length, "line")}.`);
});
const list = h("ol");
const box = region("What has happened", list);
const form = h("form.bar", field("of", "Follow", { choices: { channel: "a channel or pattern", connection: "a caller, by its id", user: "a user" } }), search("named", "Name or id"),
  start, pause, copy, field("contents", "show contents", { type: "checkbox" }));
$("tail").append(form, h("p.quiet", { id: "tail-state" }), box);

const row = ({ time, what, connection, user, channel, id, kind, bytes, note, data, cut }) => h("li", h("time", clock(time)), h("b", what),
  h("span", [user, connection && `caller ${connection}`, channel, id, kind, bytes >= 0 && many(bytes, "byte"), note].filter(Boolean).join(", ")),
  $("contents").checked && data != null && h("pre", data + (cut ? " …" : "")));

function fill(more) {
  const isAtEnd = !more || box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  if (!more) list.replaceChildren(...lines.map(row));
  else if (!isPaused) list.append(...more.map(row));
  while (list.children.length > MOST) list.firstElementChild.remove();
  start.textContent = now ? "Stop" : "Start";
  pause.textContent = isPaused ? "Go on" : "Pause";
  pause.hidden = !now;
  copy.hidden = box.hidden = !lines.length;
  show("tail-state", (now ? `Following ${now.named}.` : "Nothing is followed.") + (isPaused ? " Paused." : "") + (skipped ? ` ${many(skipped, "line")} left out: there were too many.` : ""));
  if (isAtEnd) box.scrollTop = box.scrollHeight;
}

function stop(why = "") {
  now?.subscription.unsubscribe();
  now = null;
  isPaused = false;
  fill();
  complain(why);
}

async function begin() {
  stop();
  const named = $("named").value;
  const { channel } = await post("/api/tails", { [$("of").value]: named });
  lines = [];
  skipped = 0;
  const subscription = session.client.subscribe(channel, ({ data }) => {
    lines = [...lines, ...data.lines].slice(-MOST);
    skipped += data.skipped;
    fill(data.lines);
    if (data.ended && now === mine) stop(`The tail has ended: ${data.ended}`);
  });
  const mine = now = { named, subscription };
  subscription.on("error", ({ final, message }) => final && now === mine && stop(message));
  fill();
}

onSubmit(form, () => {
  if (!now) return begin();
  stop();
});
$("contents").oninput = () => fill();

export const tail = {
  show({ of, named } = {}) {
    for (const option of [...$("of")].slice(1)) option.disabled = !may("admin");
    if (!of) return fill();
    $("of").value = of;
    $("named").value = named;
    attempt(begin);
  },
};
