const $ = (id) => document.getElementById(id);
const PART = 64 * 1024;
const AHEAD = 8; // parts that may be on their way: enough to keep the line busy

let queue = Promise.resolve();

function add(file) {
  const item = document.createElement("li");
  const [name, state, bar] = ["span", "span", "progress"].map((tag) => document.createElement(tag));
  name.textContent = file.name;
  state.className = "quiet";
  state.textContent = "waiting";
  bar.max = file.size;
  bar.value = 0;
  bar.setAttribute("aria-label", file.name);
  item.append(name, state, bar);
  $("files").prepend(item);
  const progress = (received) => {
    bar.value = received;
    state.textContent = `${Math.floor((100 * received) / file.size)} %`;
  };
  queue = queue.then(() => upload(file, progress)).then(
    ({ sha256 }) => { state.textContent = `done, SHA-256 ${sha256.slice(0, 12)}…`; },
    (error) => { state.textContent = error.message; state.classList.add("failed"); },
  );
}

function upload(file, progress) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`${location.origin.replace("http", "ws")}/upload`);
    let sent = 0;

    // The answers are the progress: they say what is on the disk, not what is in some buffer.
    const fill = async (received) => {
      while (sent < file.size && sent < received + AHEAD * PART) {
        const part = file.slice(sent, (sent += PART));
        socket.send(await part.arrayBuffer());
      }
    };

    socket.onopen = () => { show("open"); socket.send(JSON.stringify({ type: "start", name: file.name, size: file.size })); };
    socket.onmessage = ({ data }) => {
      const { error, received, sha256 } = JSON.parse(data);
      if (error) return reject(new Error(error)), socket.close();
      progress(received);
      if (sha256) return resolve({ sha256 }), socket.close();
      filling = filling.then(() => fill(received));
    };
    socket.onclose = ({ reason }) => { show("idle"); reject(new Error(reason || "the connection was lost")); };
    let filling = Promise.resolve();
  });
}

function show(state) {
  $("state").textContent = $("state").dataset.state = state;
}

$("file").onchange = () => { [...$("file").files].forEach(add); $("file").value = ""; };
$("drop").ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
$("drop").ondragleave = () => $("drop").classList.remove("over");
$("drop").ondrop = (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  [...event.dataTransfer.files].forEach(add);
};
show("idle");
