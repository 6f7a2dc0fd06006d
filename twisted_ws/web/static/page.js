// What both parts of the page use: its elements, and a list of what happened.

const MOST_ENTRIES = 500;

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

export const element = (id) => document.getElementById(id);

export function show(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text; // so that a screen reader reads it once
}

// Show an error, and mark the field that it is about; without a text, there is none any more.
export function complain(id, text = "", field = null) {
  show(id, text);
  element(id).hidden = !text;
  if (text) field?.setAttribute("aria-invalid", "true");
  else field?.removeAttribute("aria-invalid");
}

// A list of events with their times; when there are too many, the oldest are removed.
export class Journal {
  #list;
  #empty;
  #clear;

  // list: what scrolls, with an empty <ol> in it; empty: the element shown while it is empty; clear: the button that empties it.
  constructor(list, empty, clear) {
    this.#list = list;
    this.#empty = empty;
    this.#clear = clear;
    clear.addEventListener("click", () => {
      list.firstElementChild.replaceChildren();
      this.#show(false);
    });
  }

  // text comes from a peer: it becomes text only, never markup.
  add(kind, label, text) {
    const list = this.#list;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const now = new Date();
    const entry = document.createElement("li");
    entry.className = kind;
    entry.append(part("time", "", clock.format(now)), part("span", "kind", label), part("span", "text", text));
    entry.firstElementChild.dateTime = now.toISOString();
    const entries = list.firstElementChild;
    entries.append(entry);
    while (entries.childElementCount > MOST_ENTRIES) entries.firstElementChild.remove();
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

// Describe the content of a message in one line.
export function describe(data) {
  if (typeof data === "string") return data;
  if (!(data instanceof Uint8Array)) return JSON.stringify(data);
  const shown = Array.from(data.subarray(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return `${data.length} bytes: ${shown}${data.length > 16 ? " …" : ""}`;
}

// Make a button copy the text of an element.
export function copies(button, source) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      // Browsers allow the clipboard on secure pages (and localhost) only: elsewhere, select the text for Ctrl-C.
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
