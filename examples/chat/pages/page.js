import { TwistedWS } from "/twisted-ws.mjs";

const $ = (id) => document.getElementById(id);
const ROOMS = ["lobby", "kitchen", "garden"];
let client, room, me;
const here = new Map();

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  me = $("name").value.trim();
  $("enter").hidden = true;
  $("chat").hidden = false;
  client = new TwistedWS(`/chat?name=${encodeURIComponent(me)}`);
  client.on("state", (state) => { $("state").textContent = $("state").dataset.state = state; });
  enter(ROOMS[0]);
});

function enter(name) {
  room?.unsubscribe();
  here.clear();
  $("messages").replaceChildren();
  // The last fifty messages, then what comes; after a reconnect, what was missed.
  room = client.subscribe(`rooms.${name}`, ({ data }) => add(data.from, data.text), { last: 50, presence: true });
  room.on("presence", ({ members }) => { here.clear(); members.forEach(({ user }) => here.set(user)); showMembers(); });
  room.on("join", ({ user }) => { here.set(user); showMembers(); });
  room.on("leave", ({ user }) => { here.delete(user); showMembers(); });
  room.on("lost", () => note("(something may be missing here)"));
  room.on("error", ({ message }) => complain(message));
  $("rooms").replaceChildren(...ROOMS.map((each) => {
    const button = document.createElement("button");
    button.textContent = `# ${each}`;
    button.setAttribute("aria-pressed", each === name);
    button.onclick = () => enter(each);
    return button;
  }));
  $("text").focus();
}

function add(from, text) {
  const [item, who, what] = ["li", "b", "span"].map((tag) => document.createElement(tag));
  who.textContent = from; // never innerHTML: it came from somebody else
  what.textContent = text;
  item.classList.toggle("mine", from === me);
  item.append(who, what);
  $("messages").append(item);
  item.scrollIntoView({ block: "nearest" });
}

function note(text) {
  const item = document.createElement("li");
  item.className = "note";
  item.textContent = text;
  $("messages").append(item);
}

function showMembers() {
  $("members").replaceChildren(...[...here.keys()].sort().map((user) => {
    const item = document.createElement("li");
    item.textContent = user;
    return item;
  }));
}

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

$("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value;
  $("text").value = "";
  complain("");
  try {
    await client.publish(room.channel, text);
  } catch (error) {
    $("text").value ||= text;
    complain(error.message);
  }
});
