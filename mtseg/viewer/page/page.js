// The page: asks the server for its state again and again, and shows it.

import { describeMissing, element, foundClasses, sentence, showAssessment, showDownloads, showLegend } from "./details.js";
import { readDrop, readInput, send } from "./uploading.js";
import { Viewer } from "./viewer.js";

const get = (id) => document.getElementById(id);
const BUSY_MS = 500;
const IDLE_MS = 2000;
const IN_WORK = ["waiting", "reading", "computing", "writing"];

let state = { model: null, scans: [], limits: null };
let chosen = null; // number of the scan that is shown
let sending = null; // AbortController of the transfer
let timer = 0;
let shownDetails = "";
const hidden = new Set();
const viewer = new Viewer(get("canvas"), showPlace);

async function ask(method, path, content) {
  const answer = await fetch(path, {
    method,
    headers: content === undefined ? {} : { "Content-Type": "application/json" },
    body: content === undefined ? undefined : JSON.stringify(content),
  });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

async function follow() {
  clearTimeout(timer);
  let isBusy = true;
  try {
    state = await ask("GET", "state");
    get("ended").hidden = true;
    isBusy = !state.model || state.scans.some(isActive);
    show();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    get("ended").textContent =
      "mtseg-view has ended. Start it again; scans that were dropped here are removed.";
    get("ended").hidden = false;
  }
  clearTimeout(timer);
  timer = setTimeout(follow, isBusy ? BUSY_MS : IDLE_MS);
}

function isActive(scan) {
  return IN_WORK.includes(scan.state) || scan.reference_waits;
}

function show() {
  const { model, scans } = state;
  get("model").textContent = model
    ? `Network: ${model.tasks.map((task) => task.title).join(" · ")}`
    : "Loading the network…";
  if (!scans.some((scan) => scan.id === chosen)) chosen = scans[0]?.id ?? null;
  showList();
  const scan = scans.find((one) => one.id === chosen);
  showScan(scan);
  showDetails(scan);
}

function describeState(scan) {
  switch (scan.state) {
    case "waiting":
      if (!state.model) return "Waiting until the network is loaded";
      return scan.place > 1 ? `Waiting, number ${scan.place} in the queue` : "Waiting, next";
    case "reading":
      return "Reading it and recognising its task…";
    case "computing":
      return `${Math.floor(100 * scan.progress)} %, ${inWords(scan.seconds_left)} left`;
    case "writing":
      return "Writing the labels…";
    case "done":
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

/** Updates the list in place, so that the focus stays where it is. */
function showList() {
  const list = get("list");
  const items = new Map([...list.children].map((item) => [Number(item.dataset.id), item]));
  for (const scan of state.scans) {
    const item = items.get(scan.id) ?? list.appendChild(makeItem(scan));
    items.delete(scan.id);
    item.classList.toggle("chosen", scan.id === chosen);
    const choose = item.querySelector(".choose");
    if (scan.id === chosen) choose.setAttribute("aria-current", "true");
    else choose.removeAttribute("aria-current");
    const text = describeState(scan);
    const line = item.querySelector(".state");
    if (line.textContent !== text) line.textContent = text;
    line.classList.toggle("failed", scan.state === "failed");
    const bar = item.querySelector("progress");
    bar.hidden = !["reading", "computing", "writing"].includes(scan.state);
    if (scan.progress === null) bar.removeAttribute("value");
    else bar.value = scan.progress;
    item.querySelector(".cancel").hidden = !IN_WORK.includes(scan.state);
    item.querySelector(".again").hidden = !["cancelled", "failed"].includes(scan.state);
    item.querySelector(".remove").hidden = IN_WORK.includes(scan.state);
  }
  for (const item of items.values()) item.remove();
}

function makeItem(scan) {
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
  choose.addEventListener("click", () => {
    chosen = scan.id;
    show();
  });
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.setAttribute("aria-label", `Progress of ${scan.name}`);
  const buttons = document.createElement("div");
  buttons.className = "buttons small";
  buttons.append(
    makeButton("cancel", "Cancel", scan, () => ask("POST", `scans/${scan.id}/cancel`, {})),
    makeButton("again", "Try again", scan, () => ask("POST", `scans/${scan.id}/again`, {})),
    makeButton("remove", "Remove", scan, () => ask("DELETE", `scans/${scan.id}`)),
  );
  item.append(choose, bar, buttons);
  return item;
}

function makeButton(kind, text, scan, act) {
  const button = element("button", text);
  button.type = "button";
  button.className = kind;
  button.setAttribute("aria-label", `${text}: ${scan.name}`);
  button.addEventListener("click", () => act().then(follow, showProblem));
  return button;
}

function showScan(scan) {
  const message = get("stage-message");
  const canvas = get("canvas");
  if (!viewer.isReady) return;
  if (!scan?.shown) {
    viewer.show(null, null, []);
    message.hidden = false;
    message.textContent = !scan
      ? "The scan and its labels appear here."
      : scan.state === "failed" ? "This scan cannot be shown." : "The scan appears here when it is read.";
    canvas.setAttribute("aria-label", "No scan yet");
    get("sliders").hidden = true;
    get("place").textContent = "\u00a0";
    return;
  }
  const which = labelsChoice(scan);
  const step = viewer.stepFor(scan.shown.shape);
  const address = (name) => new URL(`scans/${scan.id}/${name}.nii?step=${step}`, location).href;
  const labels = scan.result && {
    url: address(which),
    version: which === "reference" ? scan.reference.number : 0,
    centre: which === "labels" ? scan.result.centre : null,
  };
  message.hidden = true;
  canvas.setAttribute(
    "aria-label",
    `Three planes and a 3-D view of ${scan.name}${labels ? " with its labels" : ""}. ` +
      "The sliders below choose the slices.",
  );
  viewer
    .show({ url: address("scan"), ...scan.shown }, labels, state.model.classes)
    .then(showSlices)
    .catch((error) => {
      message.hidden = false;
      message.textContent = `The scan cannot be shown here (${error.message}). Its results can be downloaded.`;
    });
}

function labelsChoice(scan) {
  const which = document.querySelector("input[name=which]:checked").value;
  return scan.reference ? which : "labels";
}

function showDetails(scan) {
  const result = scan?.result;
  get("details-empty").hidden = Boolean(result);
  get("details-body").hidden = !result;
  // Unchanged details stay as they are, with the focus in them.
  const now = JSON.stringify([scan?.id, result, scan?.reference, scan?.reference_message, scan?.reference_waits]);
  if (now === shownDetails) return;
  shownDetails = now;
  if (!result) return;
  showAssessment(get("assessment"), result);
  const rows = foundClasses(scan, state.model);
  showLegend(get("legend"), rows, hidden, Boolean(scan.reference), (labels) => viewer.setHidden(labels));
  get("not-found").textContent = describeMissing(rows, scan, state.model);
  get("which").hidden = !scan.reference;
  get("which").querySelector(`[value=${labelsChoice(scan)}]`).checked = true;
  showDownloads(get("downloads"), scan);
  get("reference-text").textContent = scan.reference_waits
    ? "Comparing…"
    : scan.reference
      ? `${scan.reference.name}: ${scan.reference.numbering}. Dice is 1 where both agree.`
      : "Compare with a label map of the same scan.";
  get("reference-problem").hidden = !scan.reference_message;
  get("reference-problem").textContent = sentence(scan.reference_message || " ");
  const notes = [...result.notes];
  const step = viewer.isReady ? viewer.stepFor(scan.shown.shape) : 1;
  if (step > 1) notes.push(`it is large and shown with one of ${step} voxels along each axis; the files have all`);
  if (state.model.check) notes.push(state.model.check);
  get("notes").querySelector("ul").replaceChildren(...notes.map((note) => element("li", sentence(note))));
}

function showPlace(place) {
  const [scan] = place.values ?? [];
  if (!scan) return;
  const mm = [...place.mm].slice(0, 3).map((value) => value.toFixed(1));
  const number = Math.round(place.values[1]?.value ?? 0);
  const found = state.model?.classes.find((one) => one.label === number);
  const of = found ? ` · ${found.title}` : "";
  get("place").textContent = `${mm.join(", ")} mm · intensity ${Number(scan.value.toPrecision(4))}${of}`;
  showSlices();
}

function showSlices() {
  const slices = viewer.slices();
  get("sliders").hidden = !slices;
  for (const [plane, { at, count }] of Object.entries(slices ?? {})) {
    const slider = get(`slice-${plane}`);
    slider.max = count;
    slider.value = at;
    slider.setAttribute("aria-valuetext", `slice ${at} of ${count}`);
    slider.nextElementSibling.textContent = `${at} / ${count}`;
  }
}

async function sendAll(groups, onSent) {
  showProblem(null);
  if (sending) return showProblem(new Error("Another transfer is under way. Wait until it is done."));
  sending = new AbortController();
  const signal = sending.signal;
  get("sending").hidden = false;
  try {
    for (const group of groups) {
      get("sending-text").textContent = `Sending ${group.name}…`;
      get("sending-progress").value = 0;
      const onShare = (share) => { get("sending-progress").value = share; };
      const id = await send(group, state.limits, ask, onShare, signal);
      get("sending-text").textContent = `Looking for scans in ${group.name}…`;
      await onSent(id);
      await follow();
    }
  } catch (error) {
    if (error.name !== "AbortError") showProblem(error);
  } finally {
    sending = null;
    get("sending").hidden = true;
  }
}

function sendScans(groups) {
  if (!groups.length) return showProblem(new Error("There is no file in it."));
  return sendAll(groups, async (id) => {
    const { scans } = await ask("POST", `uploads/${id}`, {});
    chosen = scans[0];
  });
}

function showProblem(error) {
  get("problem").hidden = !error;
  get("problem").textContent = error ? sentence(error.message) : "";
}

function connect() {
  const root = document.documentElement;
  addEventListener("dragover", (event) => {
    event.preventDefault();
    root.classList.add("dragging");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) root.classList.remove("dragging");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("dragging");
    readDrop(event.dataTransfer).then(sendScans, showProblem);
  });
  for (const kind of ["files", "folder"]) {
    get(`choose-${kind}`).addEventListener("click", () => get(kind).click());
    get(kind).addEventListener("change", () => {
      const groups = readInput(get(kind).files);
      get(kind).value = "";
      sendScans(groups);
    });
  }
  get("sending-cancel").addEventListener("click", () => sending?.abort());
  get("choose-reference").addEventListener("click", () => get("reference-file").click());
  get("reference-file").addEventListener("change", () => {
    const groups = readInput(get("reference-file").files);
    get("reference-file").value = "";
    const scan = chosen;
    sendAll(groups, (id) => ask("POST", `scans/${scan}/reference`, { upload: id }));
  });
  for (const radio of document.querySelectorAll("input[name=view]")) {
    radio.addEventListener("change", () => viewer.setView(radio.value));
  }
  for (const radio of document.querySelectorAll("input[name=which]")) radio.addEventListener("change", show);
  for (const plane of ["axial", "coronal", "sagittal"]) {
    const slider = get(`slice-${plane}`);
    slider.addEventListener("input", () => viewer.setSlice(plane, Number(slider.value)));
  }
  get("hide-scan").addEventListener("change", (event) => viewer.setScanHidden(event.target.checked));
  get("opacity").addEventListener("input", (event) => {
    event.target.nextElementSibling.textContent = `${event.target.value} %`;
    viewer.setOpacity(event.target.value / 100);
  });
  for (const [id, isHidden] of [["all-on", false], ["all-off", true]]) {
    get(id).addEventListener("click", () => {
      const scan = state.scans.find((one) => one.id === chosen);
      for (const row of foundClasses(scan, state.model)) {
        if (isHidden) hidden.add(row.label);
        else hidden.delete(row.label);
      }
      for (const box of get("legend").querySelectorAll("input")) box.checked = !isHidden;
      viewer.setHidden(hidden);
    });
  }
}

connect();
viewer.begin().catch(() => {
  get("stage-message").textContent =
    "This browser cannot show scans: it has no WebGL 2, or hardware acceleration is turned off. " +
    "Scans are segmented all the same, and their results can be downloaded.";
}).then(follow);
