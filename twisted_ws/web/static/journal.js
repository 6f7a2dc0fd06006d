// A list of what happened, with the time of each; the oldest entries go when there are too many.

const MOST_ENTRIES = 500;

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

export class Journal {
  #list;
  #empty;
  #clear;

  // list: an empty <ol>; empty: what is shown instead of it; clear: the button that empties it.
  constructor(list, empty, clear) {
    this.#list = list;
    this.#empty = empty;
    this.#clear = clear;
    clear.addEventListener("click", () => {
      list.replaceChildren();
      this.#show(false);
    });
  }

  // text is what a peer sent: it only ever becomes text, never markup.
  add(kind, label, text) {
    const list = this.#list;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const now = new Date();
    const entry = document.createElement("li");
    entry.className = kind;
    entry.append(part("time", "", clock.format(now)), part("span", "kind", label), part("span", "text", text));
    entry.firstElementChild.dateTime = now.toISOString();
    list.append(entry);
    while (list.childElementCount > MOST_ENTRIES) list.firstElementChild.remove();
    this.#show(true);
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  #show(any) {
    this.#list.hidden = this.#clear.hidden = !any;
    this.#empty.hidden = any;
  }
}

function part(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.textContent = text;
  return made;
}

// Say in one line what a message has in it.
export function describe(data) {
  if (typeof data === "string") return data;
  if (!(data instanceof Uint8Array)) return JSON.stringify(data);
  const shown = Array.from(data.subarray(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return `${data.length} bytes: ${shown}${data.length > 16 ? " …" : ""}`;
}

// Let a button copy the text of an element.
export function copies(button, source) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      // Browsers give the clipboard to secure pages only (and to localhost): elsewhere, mark the text for Ctrl-C.
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
