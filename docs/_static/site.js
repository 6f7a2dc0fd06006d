// Code that is wider than its place can be scrolled by keyboard.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  for (const each of document.querySelectorAll(".highlight pre, .table-wrapper")) each.tabIndex = 0;
});
