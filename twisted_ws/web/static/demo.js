"use strict";

// One WebSocket, kept open: what arrives goes into the log, and a lost connection is made again after a random wait.

const MOST_ENTRIES = 500;
const FIRST_WAIT = 1000; // milliseconds: the bound of the first wait; it doubles with each failure
const LONGEST_WAIT = 30000;

const element = (id) => document.getElementById(id);
const state = element("state");
const log = element("log");
const message = element("message");
const address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${document.body.dataset.path}`;
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

let socket = null;
let failures = 0;
let timer = null;

// The countdown stands apart from the status, which a screen reader reads out at each change.
function show(name, text, countdown = "") {
  state.dataset.state = name;
  if (element("status").textContent !== text) element("status").textContent = text;
  element("countdown").textContent = countdown;
  element("send").disabled = name !== "connected";
}

// text is what a peer sent: it only ever becomes text, never markup.
function add(kind, label, text) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const entry = document.createElement("li");
  entry.className = kind;
  const now = new Date();
  const time = document.createElement("time");
  time.dateTime = now.toISOString();
  time.textContent = clock.format(now);
  const what = document.createElement("span");
  what.className = "kind";
  what.textContent = label;
  const body = document.createElement("span");
  body.className = "text";
  body.textContent = text;
  entry.append(time, what, body);
  log.append(entry);
  while (log.childElementCount > MOST_ENTRIES) log.firstElementChild.remove();
  log.hidden = element("clear").hidden = false;
  element("empty").hidden = true;
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function describe(data) {
  if (typeof data === "string") return data;
  const bytes = new Uint8Array(data);
  const shown = Array.from(bytes.subarray(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return `${bytes.length} bytes: ${shown}${bytes.length > 16 ? " …" : ""}`;
}

function connect() {
  clearTimeout(timer);
  show("connecting", "connecting …");
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    failures = 0;
    show("connected", "connected");
    add("note", "• opened", address);
  };
  socket.onmessage = (event) => add("received", "← received", describe(event.data));
  socket.onclose = (event) => {
    const reason = `closed ${event.code}${event.reason ? ` ${event.reason}` : ""}`;
    // A connection that never opened says nothing new: the state line is enough.
    if (state.dataset.state === "connected") add("note", "• closed", reason.replace("closed", "code"));
    // Full jitter: when a server comes back, its clients do not all come in the same moment.
    retry(reason, Date.now() + Math.random() * Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** failures));
    failures += 1;
  };
}

function retry(reason, when) {
  const left = when - Date.now();
  if (left <= 0) {
    connect();
    return;
  }
  show("closed", reason, `, reconnecting in ${Math.ceil(left / 1000)}\u00a0s`);
  timer = setTimeout(() => retry(reason, when), Math.min(left, 1000));
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket.readyState !== WebSocket.OPEN || message.value === "") return;
  socket.send(message.value);
  add("sent", "→ sent", message.value);
  message.value = "";
  message.focus();
});

element("clear").addEventListener("click", () => {
  log.replaceChildren();
  log.hidden = element("clear").hidden = true;
  element("empty").hidden = false;
  message.focus();
});

element("copy").addEventListener("click", async () => {
  const button = element("copy");
  try {
    await navigator.clipboard.writeText(element("curl").textContent);
    button.textContent = "Copied";
  } catch {
    // Browsers give the clipboard to secure pages only (and to localhost): elsewhere, mark the text for Ctrl-C.
    getSelection().selectAllChildren(element("curl"));
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});

// No need to wait when the network comes back.
addEventListener("online", () => {
  if (socket.readyState === WebSocket.CLOSED) connect();
});

element("address").textContent = address;
connect();
