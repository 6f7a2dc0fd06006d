// What is wrong, and six numbers with their last five minutes.

import { $, bytes, count, h, many, ms, say } from "./page.js";

const WINDOW = 300; // seconds, and the width of a line
const HEIGHT = 48;

const half = (pair) => pair ? `half within ${ms(pair[0])}` : "none in the last 10 s";
const TILES = [
  ["Callers", (now) => now.websocket + now.sse + now.poll, count, (now) => `${many(now.websocket, "WebSocket")}, ${many(now.sse, "event stream")}, ${many(now.poll, "poll")}; at most ${count(now.limit)}`],
  ["Published a second", (now) => now.published, count, (now) => `${many(now.channels, "channel")} known; ${count(now.received)} received from callers`],
  ["Delivered a second", (now) => now.delivered, count, (now) => `${count(now.dropped)} dropped`],
  ["Delivery: 99 of 100 within", (now) => now.delivery?.[1], ms, (now) => half(now.delivery)],
  ["Reactor late: 99 of 100 within", (now) => now.lag?.[1], ms, (now) => half(now.lag)],
  ["Waiting for callers", (now) => now.queue, bytes, (now) => `${many(now.slow, "slow caller")}; at most ${bytes(now.queueLimit)}`],
].map(([title, of, format, more]) => {
  const [svg, path] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  for (const [name, value] of Object.entries({ viewBox: `0 0 ${WINDOW} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": true })) svg.setAttribute(name, value);
  svg.append(path);
  const [value, detail, range] = [h("p.value", "–"), h("p.quiet"), h("p.quiet")];
  return { of, format, more, path, value, detail, range, past: [], card: h("article.card", h("h3", title), value, detail, svg, range) };
});
const problems = h("ul.problems", h("li", "Waiting …"));
let known;
$("now").append(problems, h("div.tiles", ...TILES.map(({ card }) => card)));

function line(past, now, most) {
  let before = 0;
  return past.map(([time, value]) => {
    const pen = time - before > 3 ? "M" : "L";
    before = time;
    return `${pen}${(WINDOW - now + time).toFixed(1)} ${(HEIGHT - 1 - value / (most || 1) * (HEIGHT - 2)).toFixed(1)}`;
  }).join("");
}

// Take a message of ~server.stats; return how much is wrong.
export function stats({ time, total, problems: wrong }) {
  for (const { of, format, more, path, value, detail, range, past } of TILES) {
    const now = of(total);
    if (now != null) past.push([time, now]);
    while (past[0]?.[0] < time - WINDOW) past.shift();
    const values = past.map(([, each]) => each);
    const most = Math.max(...values);
    value.textContent = format(now);
    detail.textContent = more(total);
    path.setAttribute("d", line(past, time, most));
    const [least, top] = [Math.min(...values), most].map(format);
    range.textContent = past.length ? `${least === top ? "always" : `${least} to`} ${top} in 5 minutes` : "none so far";
  }
  const texts = wrong.length ? wrong.map(({ text }) => text) : ["Nothing is wrong."];
  problems.className = `problems ${wrong.length ? "bad" : "good"}`;
  problems.replaceChildren(...texts.map((text) => h("li", text)));
  const codes = wrong.map(({ code }) => code).join(); // the numbers in the texts change all the time
  if ((known ?? codes) !== codes) say(texts.join(" "));
  known = codes;
  return wrong.length;
}
