import { TwistedWS } from "/twisted-ws.mjs";

const SECONDS = 60;
const CHARTS = {
  load: { title: "Load", show: (value) => value.toFixed(2) },
  memory: { title: "Memory in use", show: (value) => `${value.toFixed(1)} %` },
  files: { title: "Open files", show: (value) => value },
  processor: { title: "Processor time", show: (value) => `${value.toFixed(2)} s` },
};

const charts = Object.fromEntries(Object.entries(CHARTS).map(([name, { title, show }]) => [name, makeChart(title, show)]));

function makeChart(title, show) {
  const card = document.createElement("section");
  card.className = "card";
  card.innerHTML = `<h2></h2><output>–</output>
    <svg viewBox="0 0 ${SECONDS - 1} 100" preserveAspectRatio="none" role="img"><path class="area"/><path class="line"/></svg>`;
  card.querySelector("h2").textContent = title;
  document.getElementById("charts").append(card);
  const values = [];
  return (value) => {
    values.push(value);
    values.splice(0, values.length - SECONDS);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const y = (each) => (high === low ? 50 : 92 - (84 * (each - low)) / (high - low));
    const points = values.map((each, index) => `${SECONDS - values.length + index},${y(each)}`);
    card.querySelector(".line").setAttribute("d", `M${points.join("L")}`);
    card.querySelector(".area").setAttribute("d", `M${SECONDS - values.length},100L${points.join("L")}L${SECONDS - 1},100Z`);
    card.querySelector("svg").setAttribute("aria-label", `${title}: now ${show(value)}, from ${show(low)} to ${show(high)}`);
    card.querySelector("output").textContent = show(value);
  };
}

const client = new TwistedWS("/dashboard");
const state = document.getElementById("state");
client.on("state", (name) => { state.textContent = state.dataset.state = name; });
client.subscribe("machine", ({ data }) => charts[data.name]?.(data.value), { after: "0" });
