// A plain WebSocket: with nothing to catch up on, reconnecting takes one line.
const $ = (id) => document.getElementById(id);
let socket;

function connect() {
  socket = new WebSocket(`${location.origin.replace("http", "ws")}/broadcaster`);
  socket.onopen = () => show("open");
  socket.onmessage = ({ data }) => {
    const { announcement, reached } = JSON.parse(data);
    if (announcement !== undefined) $("announcement").textContent = announcement;
    if (reached !== undefined) $("reached").textContent = `${reached} ${reached === 1 ? "page" : "pages"} reached.`;
  };
  socket.onclose = () => { show("waiting"); setTimeout(connect, 1000 + 2000 * Math.random()); };
}

function show(state) {
  $("state").textContent = $("state").dataset.state = state;
}

$("announce").addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket.readyState !== WebSocket.OPEN) return;
  socket.send($("text").value);
  $("text").value = "";
});

connect();
