// One WebSocket, kept open: what arrives goes into the log, and a lost connection is reopened after a random wait.

import { Journal, copies, describe, element, show } from "/page.js";

const FIRST_WAIT = 1000; // milliseconds: the upper bound of the first wait; it doubles with each failure
const LONGEST_WAIT = 30000;

const state = element("state");
const log = new Journal(element("log"), element("empty"), element("clear"));
const message = element("message");
const address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${document.body.dataset.path}`;

let socket = null;
let failures = 0;
let timer = null;

// The countdown is separate from the status, because a screen reader reads the status out at each change.
function showState(name, text, countdown = "") {
  state.dataset.state = name;
  show("status", text);
  element("countdown").textContent = countdown;
  element("send").disabled = name !== "connected";
}

function connect() {
  clearTimeout(timer);
  showState("connecting", "connecting …");
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    failures = 0;
    showState("connected", "connected");
    log.add("note", "• opened", address);
  };
  socket.onmessage = (event) => log.add("received", "← received", describe(typeof event.data === "string" ? event.data : new Uint8Array(event.data)));
  socket.onclose = (event) => {
    const reason = `closed ${event.code}${event.reason ? ` ${event.reason}` : ""}`;
    // For a connection that never opened, the state line is enough.
    if (state.dataset.state === "connected") log.add("note", "• closed", reason.replace("closed", "code"));
    // Full jitter: when a server comes back, its clients do not all reconnect at the same moment.
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
  showState("closed", reason, `, reconnecting in ${Math.ceil(left / 1000)}\u00a0s`);
  timer = setTimeout(() => retry(reason, when), Math.min(left, 1000));
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket.readyState !== WebSocket.OPEN || message.value === "") return;
  socket.send(message.value);
  log.add("sent", "→ sent", message.value);
  message.value = "";
  message.focus();
});

element("clear").addEventListener("click", () => message.focus());

copies(element("copy"), element("curl"));

// No need to wait when the network comes back.
addEventListener("online", () => {
  if (socket.readyState === WebSocket.CLOSED) connect();
});

element("address").textContent = address;
connect();
