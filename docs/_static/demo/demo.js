// The demo of the landing page: two browsers with the real client, and the server of server.js. No network.
"use strict";
(() => {
const CHANNEL = "orders.42";
const URL_ = "http://localhost:8080/channels"; // nothing is ever sent to it
const SHOWN = 40; // lines of a log
const NEXT = ["paid", "packed", "shipped", "delivered"];
const NAMES = { websocket: "WebSocket", sse: "event stream", poll: "polling" };

const $ = (id) => document.getElementById(id);
const server = new PageServer();
const frames = [];

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function browser(name) {
  const panel = $("demo-browser").content.cloneNode(true).firstElementChild;
  const [title, status, select, button, log] = [".demo-title", ".demo-status", "select", ".demo-cut", ".demo-log"].map((each) => panel.querySelector(each));
  const line = new Line(server);
  let client = null;
  let last = null; // the id of the last message
  let missed = 0; // messages of before the break that are still to come

  const write = (kind, text, id = "") => {
    const entry = element("li", `demo-${kind}`, "");
    entry.append(element("code", "", id), element("span", "demo-text", text));
    log.append(entry);
    while (log.childElementCount > SHOWN) log.firstElementChild.remove();
    log.scrollTop = log.scrollHeight;
  };
  const tell = (state, text) => {
    panel.dataset.state = state;
    if (status.textContent !== text) status.textContent = text;
  };

  function connect(transport) {
    if (client) write("note", `It goes on by ${NAMES[transport]}.`);
    client?.close();
    client = new TwistedWS(URL_, { transports: [transport], WebSocket: line.WebSocket, fetch: line.fetch, base: 400, cap: 1500 });
    client.on("open", () => tell("connected", `Connected by ${NAMES[transport]}`));
    client.on("close", ({ code }) => code !== "closed" && write("note", "The connection is lost."));
    // "offline" is what the browser says of the real network, which is not in play here.
    client.on("state", (state) => {
      if (["connecting", "waiting", "offline"].includes(state)) tell("waiting", line.isCut ? "Cut off; the client tries again by itself" : "Connecting");
    });
    const subscription = client.subscribe(CHANNEL, ({ id, data }) => {
      last = id;
      write(missed > 0 ? "late" : "live", String(data) + (missed > 0 ? " (was missed)" : ""), id);
      missed--;
    }, { after: last });
    subscription.on("subscribed", ({ count, id }) => {
      missed = count;
      last = id;
    });
    subscription.on("recovered", ({ count }) => write("note", count ? `Back: it gets what it missed (${count}).` : "Back: it has missed nothing."));
    subscription.on("lost", () => write("lost", "Back, and told that something may be gone: a page loads its state anew now."));
  }

  title.textContent = name;
  panel.setAttribute("aria-label", name);
  log.setAttribute("aria-label", `What ${name.toLowerCase()} got`);
  select.addEventListener("change", () => connect(select.value));
  button.addEventListener("click", () => {
    if (line.isCut) line.mend();
    else line.cut();
    button.setAttribute("aria-pressed", String(line.isCut));
    button.textContent = line.isCut ? "Mend the line" : "Cut the line";
  });
  line.onframe = (direction, text) => {
    frames.push(`${name} ${direction === "out" ? "\u2192" : "\u2190"} ${text.trim()}`);
    if (frames.length > SHOWN) frames.shift();
    $("demo-frames").textContent = frames.join("\n");
  };
  $("demo-browsers").append(panel);
  connect("websocket");
}

function show() {
  const { kept } = server.channel(CHANNEL);
  $("demo-kept").replaceChildren(...kept.map(({ id, data }) => {
    const entry = element("li", "", "");
    entry.append(element("code", "", id), element("span", "", ` ${data}`));
    return entry;
  }));
}

function publish() {
  const input = $("demo-text");
  const answer = server.publish(CHANNEL, input.value);
  $("demo-curl").textContent = `$ curl -d ${JSON.stringify(input.value)} localhost:8081/channels/${CHANNEL}\n${JSON.stringify(answer)}`;
  input.value = NEXT[(NEXT.indexOf(input.value) + 1) % NEXT.length];
}

server.onpublish = show;
$("demo-curl").textContent = `$ curl -d "${$("demo-text").value}" localhost:8081/channels/${CHANNEL}`;
$("demo-form").addEventListener("submit", (event) => {
  event.preventDefault();
  publish();
});
$("demo-restart").addEventListener("click", () => {
  server.restart();
  show();
});
let repeat = null;
$("demo-repeat").addEventListener("change", ({ target }) => {
  clearInterval(repeat);
  if (target.checked) repeat = setInterval(publish, 1000);
});
browser("Browser 1");
browser("Browser 2");
})();
