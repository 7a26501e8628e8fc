// The list of scans: their states, progress and buttons.

import { element, sentence } from "./details.js";

const IN_WORK = ["waiting", "reading", "computing", "writing"];

export function isActive(scan) {
  return IN_WORK.includes(scan.state) || scan.reference_waits;
}

/** Networks of experiments, with their mean Dice by task. */
export function showNetworks(table, model) {
  const names = model.tasks.map((task) => task.name);
  const head = document.createElement("tr");
  for (const text of ["Network", ...names]) {
    const cell = element("th", text);
    cell.scope = "col";
    head.append(cell);
  }
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(
    ...model.networks.map(({ title, dice }) => {
      const line = document.createElement("tr");
      const values = names.map((name) => element("td", dice[name] == null ? "–" : dice[name].toFixed(3)));
      line.append(element("td", title), ...values);
      return line;
    }),
  );
}

function describeState(scan, isLoaded) {
  switch (scan.state) {
    case "waiting":
      if (!isLoaded) return "Waiting until the network is loaded";
      return scan.place > 1 ? `Waiting, number ${scan.place} in the queue` : "Waiting, next";
    case "stored":
      return inMeanDice(scan);
    case "reading":
      return scan.dice === null ? "Reading it and recognising its task…" : "Reading it…";
    case "computing":
      return `${Math.floor(100 * scan.progress)} %, ${inWords(scan.seconds_left)} left`;
    case "writing":
      return "Writing the labels…";
    case "done":
      if (!scan.result.verdict) return inMeanDice(scan);
      return { ok: "Done", warning: "Done, with a warning", "not assessed": "Done, not assessed" }[
        scan.result.verdict.status
      ];
    case "cancelled":
      return "Cancelled";
    default:
      return sentence(scan.message);
  }
}

function inWords(seconds) {
  if (seconds < 90) return `about ${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `about ${Math.round(seconds / 60)} min`;
  return `about ${(seconds / 3600).toFixed(1)} h`;
}

function inMeanDice(scan) {
  return scan.dice === null ? "Dice is undefined" : `Mean Dice ${scan.dice.toFixed(3)}`;
}

/**
 * Updates the list in place, so that the focus stays where it is.
 *
 * @param list element
 * @param state of the server
 * @param chosen number of the scan that is shown
 * @param onChoose is called with the number of a scan
 * @param act sends a request: method, path, content
 */
export function showList(list, state, chosen, onChoose, act) {
  const items = new Map([...list.children].map((item) => [Number(item.dataset.id), item]));
  for (const scan of state.scans) {
    const item = items.get(scan.id) ?? list.appendChild(makeItem(scan, onChoose, act));
    items.delete(scan.id);
    item.classList.toggle("chosen", scan.id === chosen);
    const choose = item.querySelector(".choose");
    if (scan.id === chosen) choose.setAttribute("aria-current", "true");
    else choose.removeAttribute("aria-current");
    const text = describeState(scan, Boolean(state.model));
    const line = item.querySelector(".state");
    if (line.textContent !== text) line.textContent = text;
    line.classList.toggle("failed", scan.state === "failed");
    const bar = item.querySelector("progress");
    bar.hidden = !["reading", "computing", "writing"].includes(scan.state);
    if (scan.progress === null) bar.removeAttribute("value");
    else bar.value = scan.progress;
    item.querySelector(".cancel").hidden = !IN_WORK.includes(scan.state);
    item.querySelector(".again").hidden = !["cancelled", "failed"].includes(scan.state);
    item.querySelector(".remove").hidden = IN_WORK.includes(scan.state) || Boolean(state.model?.networks);
  }
  for (const item of items.values()) item.remove();
}

function makeItem(scan, onChoose, act) {
  const item = document.createElement("li");
  item.className = "scan";
  item.dataset.id = scan.id;
  const choose = document.createElement("button");
  choose.type = "button";
  choose.className = "choose";
  const name = element("span", scan.name);
  name.className = "name";
  const line = element("span", "");
  line.className = "state";
  choose.append(name, line);
  choose.addEventListener("click", () => onChoose(scan.id));
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.setAttribute("aria-label", `Progress of ${scan.name}`);
  const buttons = document.createElement("div");
  buttons.className = "buttons small";
  buttons.append(
    makeButton("cancel", "Cancel", scan, () => act("POST", `scans/${scan.id}/cancel`, {})),
    makeButton("again", "Try again", scan, () => act("POST", `scans/${scan.id}/again`, {})),
    makeButton("remove", "Remove", scan, () => act("DELETE", `scans/${scan.id}`)),
  );
  item.append(choose, bar, buttons);
  return item;
}

function makeButton(kind, text, scan, onClick) {
  const button = element("button", text);
  button.type = "button";
  button.className = kind;
  button.setAttribute("aria-label", `${text}: ${scan.name}`);
  button.addEventListener("click", onClick);
  return button;
}
