// A table that is filled again and again: open rows stay open.

import { attempt, h } from "./page.js";

// columns: title, field or function of a row, and how numbers are shown. open: makes what is below a row.
export function table(section, columns, { key = "id", open } = {}) {
  const known = new Map();
  const caption = h("caption");
  const body = h("tbody");
  const cell = (tag, [, , format], ...inside) => h(`${tag}.${format ? "number" : ""}`, ...inside);
  const heads = columns.map((column) => cell("th", column, { scope: "col" }, column[0]));

  function add(row) {
    const cells = columns.map((column, index) => index ? cell("td", column, { "data-title": column[0] }) : h("th", { scope: "row" }));
    const made = { row, cells, lines: [h("tr", ...cells)] };
    if (!open) return made;
    const opener = h("button", { type: "button", "aria-expanded": false });
    cells[0].append(opener);
    cells[0] = opener;
    opener.addEventListener("click", async () => {
      const below = h("td", { colSpan: columns.length }, "…");
      const isOpen = made.lines.length > 1;
      opener.setAttribute("aria-expanded", !isOpen);
      if (isOpen) return made.lines.pop().remove();
      made.lines.push(h("tr.below", below));
      made.lines[0].after(made.lines[1]);
      const again = () => attempt(async () => below.replaceChildren(await open(made.row, again)));
      await again();
    });
    return made;
  }

  section.append(h("table", caption, h("thead", h("tr", ...heads)), body));
  // Show rows, what they are, and by which column the server has sorted them.
  return (rows, text, sorted) => {
    caption.textContent = text;
    heads.forEach((head, index) => head.setAttribute("aria-sort", columns[index][1] !== sorted ? "none" : index ? "descending" : "ascending"));
    const old = new Map(known);
    known.clear();
    const wanted = rows.flatMap((row) => {
      const each = old.get(row[key]) ?? add(row);
      known.set(row[key], each);
      each.row = row;
      columns.forEach(([, of, format = (value) => value ?? "–"], index) => {
        const shown = `${format(typeof of === "string" ? row[of] : of(row))}`;
        if (each.cells[index].textContent !== shown) each.cells[index].textContent = shown;
      });
      return each.lines;
    });
    if (wanted.length === body.children.length && wanted.every((each, index) => each === body.children[index])) return;
    const focused = document.activeElement;
    body.replaceChildren(...wanted);
    if (body.contains(focused)) focused.focus({ preventScroll: true });
  };
}
