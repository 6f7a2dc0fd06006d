const board = document.getElementById("board");
const ANIMALS = ["Badger", "Crane", "Dolphin", "Fox", "Heron", "Lynx", "Otter", "Raven", "Seal", "Wren"];
const cursors = new Map();
let socket, me, next;

function connect() {
  socket = new WebSocket(`${location.origin.replace("http", "ws")}/cursors`);
  socket.onopen = () => show("open");
  socket.onmessage = ({ data }) => {
    const { you, who, x, y, gone } = JSON.parse(data);
    if (you) me = you;
    else if (gone) remove(who);
    else if (who !== me) place(who, x, y);
  };
  socket.onclose = () => {
    show("waiting");
    [...cursors.keys()].forEach(remove);
    setTimeout(connect, 1000 + 2000 * Math.random());
  };
}

function show(state) {
  const line = document.getElementById("state");
  line.textContent = line.dataset.state = state;
}

function place(who, x, y) {
  if (!cursors.has(who)) cursors.set(who, draw(who));
  Object.assign(cursors.get(who).style, { left: `${100 * x}%`, top: `${100 * y}%` });
}

function draw(who) {
  // A name and a colour that are the same for everybody, because they follow from the id.
  const number = [...who].reduce((sum, letter) => (31 * sum + letter.charCodeAt(0)) % 9973, 7);
  const colour = `oklch(50% 0.15 ${(number * 47) % 360})`;
  const cursor = document.createElement("div");
  cursor.className = "cursor";
  cursor.innerHTML = '<svg viewBox="0 0 16 16"><path d="M1 1l5 14 2.5-6.5L15 6z"/></svg><span></span>';
  cursor.querySelector("path").style.fill = cursor.querySelector("span").style.background = colour;
  cursor.querySelector("span").textContent = ANIMALS[number % ANIMALS.length];
  board.append(cursor);
  return cursor;
}

function remove(who) {
  cursors.get(who)?.remove();
  cursors.delete(who);
}

// At most one message for each picture that the screen shows, and none while the last ones have not left.
board.addEventListener("pointermove", ({ clientX, clientY }) => {
  const { left, top, width, height } = board.getBoundingClientRect();
  if (!next) requestAnimationFrame(send);
  next = { x: clamp((clientX - left) / width), y: clamp((clientY - top) / height) };
});

function clamp(part) {
  return Math.min(Math.max(part, 0), 1);
}

function send() {
  if (socket.readyState === WebSocket.OPEN && socket.bufferedAmount === 0) socket.send(JSON.stringify(next));
  next = undefined;
}

connect();
