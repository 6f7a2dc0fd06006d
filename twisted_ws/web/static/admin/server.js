// Nodes, warnings and settings.

import { $, age, attempt, bytes, clock, count, date, field, get, h, known, many, region, repeat, search } from "./page.js";
import { table } from "./table.js";

const MOST = 200; // warnings

let rates = [];
const nodeRows = table($("nodes"), [
  ["Node", ({ id, worker }) => worker ? `${id}, worker ${worker}` : id], ["State", ({ answered, draining }) => answered ? draining ? "stopping" : "up" : "does not answer"],
  ["Callers", "connections", count], ["Up for", "started", age], ["CPU", ({ id }) => rates.find((each) => each.id === id)?.cpu, known((value) => `${Math.round(value * 100)} %`)],
  ["Memory", "memory", bytes], ["Open files", ({ files, filesLimit }) => files && `${count(files)} of ${count(filesLimit)}`],
  ["Version", ({ version, compiled }) => version + (compiled === undefined ? "" : compiled ? ", compiled" : ", pure Python")], ["Process", ({ host, pid }) => host && `${pid} on ${host}`],
]);

export const nodes = {
  ...repeat(async () => {
    const found = await get("/api/nodes");
    nodeRows(found.nodes, many(found.nodes.length, "node"));
  }),
  stats: ({ nodes: found }) => { rates = found; },
};

const log = h("ol");
const none = h("p", "None so far.");
const keys = field("keys", "use the keys 1 to 7, / and ?", { type: "checkbox", checked: localStorage.keys !== "off" });
keys.oninput = () => { localStorage.keys = $("keys").checked ? "on" : "off"; };
$("settings").append(keys, h("h3", "Warnings and errors"), region("Warnings and errors", none, log), h("h3", "Certificates"));
const certificateRows = table($("settings"), [["Names", ({ names }) => names.join(", ")], ["End", ({ expires }) => date(expires)]], { key: "names" });
const form = h("div.bar", search("contains", "Name or value contains"), field("own", "only what is not a default", { type: "checkbox" }));
$("settings").append(h("h3", "In force"), form);
const settingRows = table($("settings"), [
  ["Name", "name"], ["Value", ({ value }) => value || "none"], ["From", ({ source, line }) => source.replace("flag", "command line") + (line ? `, line ${line}` : "")],
], { key: "name" });
let all = { settings: [] };

function filter() {
  const found = all.settings.filter(({ name, value, source }) => `${name} ${value}`.includes($("contains").value) && !($("own").checked && source === "default"));
  settingRows(found, `${found.length} of ${many(all.settings.length, "setting")}; ${all.file ?? "no configuration file"}`);
}

form.oninput = filter;

export const settings = {
  show: () => attempt(async () => {
    all = await get("/api/settings");
    certificateRows(all.certificates, many(all.certificates.length, "certificate"));
    filter();
  }),
  // Take a message of ~server.log.
  log({ time, level, event, message }) {
    log.prepend(h("li", h("time", clock(time)), h("b", level), h("span", message, event && h("span.quiet", ` ${event}`))));
    log.children[MOST]?.remove();
    none.hidden = true;
  },
};
