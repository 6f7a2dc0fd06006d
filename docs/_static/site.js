// What the theme leaves out.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  // What is wider than its place can be scrolled by keyboard.
  for (const each of document.querySelectorAll(".highlight pre, .table-wrapper")) each.tabIndex = 0;

  // A table that goes on to the right fades out there.
  for (const each of document.querySelectorAll(".table-wrapper")) {
    const look = () => each.classList.toggle("goes-on", each.scrollWidth - each.clientWidth - each.scrollLeft > 4);
    each.addEventListener("scroll", look, { passive: true });
    new ResizeObserver(look).observe(each);
  }

  // Both sides of a page are asides, which a screen reader has to tell apart.
  document.querySelector(".sidebar-drawer")?.setAttribute("aria-label", "All pages");
  document.querySelector(".toc-drawer")?.setAttribute("aria-label", "This page");

  // The corner of a table is not a heading of nothing.
  for (const each of document.querySelectorAll("thead th")) {
    if (each.textContent.trim()) continue;
    const corner = document.createElement("td");
    corner.className = each.className;
    each.replaceWith(corner);
  }

  // A wide table is cards on a phone (site.css). Its cells know the names of their columns, and stay a table for screen readers.
  for (const table of document.querySelectorAll(".table-wrapper table")) {
    const heads = [...table.querySelectorAll("thead th, thead td")].map((each) => each.textContent.trim());
    if (heads.length < 3) continue;
    // Figures are compared by column: they stay a table, which is scrolled beside its first column.
    const rows = [...table.querySelectorAll("tbody tr")];
    const figures = rows[0]?.querySelectorAll(".text-right").length ?? 0;
    if (figures > heads.length / 2 && rows.every((row) => row.cells[0].textContent.length < 40)) {
      table.classList.add("figures");
      continue;
    }
    table.classList.add("cards");
    table.setAttribute("role", "table");
    for (const part of table.querySelectorAll("thead, tbody")) part.setAttribute("role", "rowgroup");
    for (const row of table.querySelectorAll("tr")) row.setAttribute("role", "row");
    for (const corner of table.querySelectorAll("thead td")) corner.setAttribute("role", "cell");
    for (const head of table.querySelectorAll("thead th")) head.setAttribute("role", "columnheader");
    for (const row of rows) {
      [...row.cells].forEach((cell, column) => {
        cell.setAttribute("role", "cell");
        cell.dataset.label = heads[column];
        // A cell's parts are one thing beside its name.
        const whole = document.createElement("div");
        whole.append(...cell.childNodes);
        if (whole.textContent.trim()) cell.append(whole);
      });
    }
  }
});
