// One WebSocket, kept open: what arrives goes into the log, and a lost connection is reopened after a random wait.

import { Journal, complain, copies, describe, element, show } from "/page.js";

const FIRST_WAIT = 1000; // milliseconds: the upper bound of the first wait; it doubles with each failure
const LONGEST_WAIT = 30000;
// What close codes without a reason mean to whoever looks at the page.
const MEANINGS = {
  1000: "the server has ended the connection", 1001: "the server is stopping", 1006: "the connection was lost",
  1008: "the server refuses it", 1011: "an error in the service", 1012: "the server restarts", 1013: "the server is busy",
};

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
  show("connection", name === "off" ? "Connect" : "Disconnect");
}

function connect() {
  clearTimeout(timer);
  showState("connecting", "connecting …");
  const mine = socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    failures = 0;
    complain("connect-error");
    showState("connected", "connected");
    log.add("note", "• opened", address);
  };
  socket.onmessage = (event) => log.add("received", "← received", describe(typeof event.data === "string" ? event.data : new Uint8Array(event.data)));
  socket.onclose = (event) => {
    if (mine !== socket) return; // disconnected by hand
    const opened = state.dataset.state === "connected";
    const meaning = event.reason || MEANINGS[event.code] || "the connection has ended";
    if (opened) log.add("note", "• closed", `${meaning} (code ${event.code})`);
    // Of a connection that never opened, a browser does not tell pages more.
    complain("connect-error", `Not connected: ${opened ? `${meaning} (code ${event.code})` : "the server does not answer, or refuses this page"}.`);
    // Full jitter: when a server comes back, its clients do not all reconnect at the same moment.
    retry(Date.now() + Math.random() * Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** failures));
    failures += 1;
  };
}

function disconnect() {
  clearTimeout(timer);
  if (socket.readyState === WebSocket.OPEN) log.add("note", "• closed", "by you");
  socket.close();
  socket = null;
  complain("connect-error");
  showState("off", "disconnected");
}

function retry(when) {
  const left = when - Date.now();
  if (left <= 0) {
    connect();
    return;
  }
  showState("closed", "not connected", `, again in ${Math.ceil(left / 1000)}\u00a0s`);
  timer = setTimeout(() => retry(when), Math.min(left, 1000));
}

element("connection").addEventListener("click", () => socket ? disconnect() : connect());

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket?.readyState !== WebSocket.OPEN || message.value === "") return;
  socket.send(message.value);
  log.add("sent", "→ sent", message.value);
  message.value = "";
  message.focus();
});

element("clear").addEventListener("click", () => message.focus());

copies(element("copy"), element("curl"));

// No need to wait when the network comes back.
addEventListener("online", () => {
  if (socket?.readyState === WebSocket.CLOSED) connect();
});

element("address").textContent = address;
connect();
