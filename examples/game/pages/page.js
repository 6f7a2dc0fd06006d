const $ = (id) => document.getElementById(id);
const cells = Array.from({ length: 9 }, (_, cell) => {
  const button = document.createElement("button");
  button.onclick = () => socket.send(JSON.stringify({ type: "move", cell }));
  $("board").append(button);
  return button;
});
let socket;

function connect() {
  socket = new WebSocket(`${location.origin.replace("http", "ws")}/game`);
  socket.onopen = () => { show("open"); rest(); };
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    handlers[message.type](message);
  };
  socket.onclose = () => { show("waiting"); rest(); setTimeout(connect, 1000 + 2000 * Math.random()); };
}

// By their type, as the service does it.
const handlers = {
  waiting() {
    say("Waiting for somebody else …");
    draw(Array(9).fill(""), false);
  },
  board({ you, cells, turn, winner }) {
    draw(cells, turn === you);
    if (!winner) return say(turn === you ? `Your turn: you are ${you}.` : "Their turn.");
    say(winner === you ? "You have won!" : winner === "nobody" ? "Nobody has won." : "You have lost.");
    rest();
  },
  error({ error }) {
    say(error);
  },
};

function draw(marks, isMyTurn) {
  marks.forEach((mark, index) => {
    cells[index].textContent = cells[index].dataset.mark = mark;
    cells[index].setAttribute("aria-label", `Row ${Math.floor(index / 3) + 1}, column ${index % 3 + 1}: ${mark || "free"}`);
    cells[index].disabled = !isMyTurn || mark !== "";
  });
}

function rest() {
  $("join").hidden = false;
  $("join").disabled = socket.readyState !== WebSocket.OPEN;
  cells.forEach((each) => { each.disabled = true; });
}

function say(text) {
  $("said").textContent = text;
}

function show(state) {
  $("state").textContent = $("state").dataset.state = state;
}

$("join").onclick = () => {
  $("join").hidden = true;
  socket.send(JSON.stringify({ type: "join" }));
};

draw(Array(9).fill(""), false);
connect();
