// The page: asks the server for its state again and again, and shows it.

import {
  describeMissing, element, foundClasses, sentence, setText, showAssessment, showChoices, showDownloads, showLegend,
} from "./details.js";
import { isActive, showList, showNetworks } from "./list.js";
import { readDrop, readInput, send } from "./uploading.js";
import { labelsKey, Viewer } from "./viewer.js";

const get = (id) => document.getElementById(id);
const BUSY_MS = 500;
const IDLE_MS = 2000;

let state = { model: null, scans: [], limits: null };
let chosen = null; // number of the scan that is shown
let sending = null; // AbortController of the transfer
let timer = 0;
let shownDetails = "";
let centred = null; // number of the scan whose slices were chosen by its labels
let figuresOf = ""; // key of the labels whose figures are in the legend
let which = "labels"; // key of the labels that are shown, or "reference"
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
  let problem = null;
  try {
    state = await ask("GET", "state");
  } catch (error) {
    problem = error;
  }
  const isBusy = problem || !state.model || state.scans.some(isActive);
  clearTimeout(timer);
  timer = setTimeout(follow, isBusy ? BUSY_MS : IDLE_MS);
  get("ended").hidden = !problem;
  if (!problem) return show();
  // A TypeError: nobody answers. Otherwise another mtseg-view does, at the same port.
  setText(get("ended"), problem instanceof TypeError
    ? "mtseg-view has ended. Start it again; scans that were dropped here are removed."
    : problem.message);
}

function show() {
  const { model, scans } = state;
  const networks = model?.networks;
  setText(get("model"), model
    ? `${networks ? "Experiments" : "Network"}: ${model.tasks.map((task) => task.title).join(" · ")}`
    : "Loading the network…");
  get("drop").hidden = Boolean(networks);
  get("networks").hidden = !networks;
  if (networks && !get("networks").tHead.rows.length) showNetworks(get("networks"), model);
  if (!scans.some((scan) => scan.id === chosen)) chosen = scans[0]?.id ?? null;
  showList(get("list"), state, chosen, choose, act);
  const scan = scans.find((one) => one.id === chosen);
  // A scan of experiments is read when it is first chosen.
  if (model && scan?.state === "stored") act("POST", `scans/${scan.id}/again`, {});
  showScan(scan);
  showDetails(scan);
}

function choose(id) {
  chosen = id;
  show();
}

/** Sends a request, then shows what came of it. */
function act(method, path, content) {
  return ask(method, path, content).then(follow, showProblem);
}

function showScan(scan) {
  const message = get("stage-message");
  const canvas = get("canvas");
  if (!viewer.isReady) return;
  if (!scan?.shown) {
    viewer.show(null, null, []);
    message.hidden = false;
    setText(message, !scan
      ? "The scan and its labels appear here."
      : scan.state === "failed" ? "This scan cannot be shown." : "The scan appears here when it is read.");
    canvas.setAttribute("aria-label", "No scan yet");
    hidePlace();
    return;
  }
  const key = labelsChoice(scan);
  const step = viewer.stepFor(scan.shown.shape);
  const address = (name) => new URL(`scans/${scan.id}/${name}.nii?step=${step}`, location).href;
  const labels = scan.result && {
    url: address(key),
    version: key === "reference" ? scan.reference.number : 0,
    // The first labels of a scan choose the slices; the others are shown in the same place.
    centre: centred === scan.id ? null : scan.result.centre,
  };
  const image = { url: address("scan"), ...scan.shown };
  const failure = viewer.errorOf(image, labels);
  message.hidden = !failure && viewer.shown.scan === image.url;
  if (failure) {
    setText(message, `The scan cannot be shown here (${failure.message}). Its results can be downloaded.`);
    canvas.setAttribute("aria-label", `${scan.name} cannot be shown`);
    if (viewer.shown.scan !== image.url) hidePlace();
    return;
  }
  if (!message.hidden) {
    setText(message, "Loading…");
    hidePlace();
  }
  canvas.setAttribute(
    "aria-label",
    `Three planes and a 3-D view of ${scan.name}${labels ? " with its labels" : ""}. ` +
      "The sliders below choose the slices.",
  );
  viewer.show(image, labels, state.model.classes).then(() => {
    if (labels && viewer.shown.labels === labelsKey(labels)) centred = scan.id;
    if (chosen !== scan.id) return;
    const error = viewer.errorOf(image, labels);
    message.hidden = !error && viewer.shown.scan === image.url;
    if (error) showScan(scan);
    else if (message.hidden) showSlices();
  });
}

/** Hides what is said of a place in a scan, while none is shown. */
function hidePlace() {
  get("sliders").hidden = true;
  get("place").textContent = "\u00a0";
}

/** The key of the labels of a scan that are shown; the first if it has not the chosen ones. */
function labelsChoice(scan) {
  const maps = scan.result?.label_maps ?? [];
  if (which === "reference" ? scan.reference : maps.some(({ key }) => key === which)) return which;
  return maps[0]?.key;
}

function showDetails(scan) {
  const result = scan?.result;
  get("details-empty").hidden = Boolean(result);
  get("details-body").hidden = !result;
  // Unchanged details stay as they are, with the focus in them.
  const key = scan && labelsChoice(scan);
  const now = JSON.stringify([scan?.id, key, result, scan?.reference, scan?.reference_message, scan?.reference_waits]);
  if (now === shownDetails) return;
  shownDetails = now;
  if (!result) return;
  const isSegmented = Boolean(result.verdict); // not of experiments
  for (const id of ["assessment", "reference-part", "downloads-part"]) get(id).hidden = !isSegmented;
  if (isSegmented) showAssessment(get("assessment"), result);
  // The figures beside a reference stay those of the labels that were shown before.
  if (key !== "reference") figuresOf = key;
  const rows = foundClasses(scan, state.model, figuresOf);
  showLegend(get("legend"), rows, hidden, Boolean(scan.reference), (labels) => viewer.setHidden(labels));
  get("not-found").textContent = isSegmented ? describeMissing(rows, scan, state.model) : "";
  showChoices(get("which"), scan, key, (value) => {
    which = value;
    show();
  });
  showDownloads(get("downloads"), scan);
  get("reference-text").textContent = scan.reference_waits
    ? "Comparing…"
    : scan.reference
      ? `${scan.reference.name}: ${scan.reference.numbering}. Dice is 1 where both agree; the other figures are the network's.`
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
  get("place").textContent = `${mm.join(", ")} mm · intensity ${inFull(scan.value)}${of}`;
  showSlices();
}

function inFull(value) {
  return Number.isInteger(value) ? value : Number(value.toPrecision(6));
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
  const problems = new Set();
  for (const group of groups) {
    if (signal.aborted) break;
    get("sending-text").textContent = `Sending ${group.name}…`;
    get("sending-progress").value = 0;
    const onShare = (share) => { get("sending-progress").value = share; };
    try {
      const id = await send(group, state.limits, ask, onShare, signal);
      get("sending-text").textContent = `Looking for scans in ${group.name}…`;
      await onSent(id);
      await follow();
    } catch (error) { // the other groups are sent all the same
      if (error.name !== "AbortError") problems.add(sentence(error.message));
    }
  }
  sending = null;
  get("sending").hidden = true;
  if (problems.size) showProblem(new Error([...problems].join(" ")));
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
  // Before the viewer's canvas, which would keep these events to itself.
  const first = { capture: true };
  for (const kind of ["dragenter", "dragover"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      root.classList.add("dragging");
    }, first);
  }
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) root.classList.remove("dragging");
  }, first);
  addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("dragging");
    readDrop(event.dataTransfer).then(sendScans, showProblem);
  }, first);
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
      for (const row of foundClasses(scan, state.model, figuresOf)) {
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
