// The results of a scan: the assessment, the legend of its labels, and files to download.

const STATES = {
  ok: ["ok", "Like the scans the network knows"],
  warning: ["warns", "Check these labels"],
  "not assessed": ["", "Not assessed"],
};

/** The classes that have voxels in one of a scan's label maps or its reference, with their figures. */
export function foundClasses(scan, model, key) {
  const maps = scan.result.label_maps;
  const { key: found, classes } = maps.find((map) => map.key === key) ?? maps[0];
  const dice = scan.reference?.dice[found] ?? {};
  return model.classes
    .map((entry) => ({
      ...entry,
      ...classes[entry.name],
      confidence: scan.result.verdict?.confidence[entry.name] ?? null,
      dice: dice[entry.name] ?? null,
    }))
    .filter((row) => row.num_voxels > 0 || row.dice !== null);
}

export function showAssessment(place, result) {
  const { verdict, headline } = result;
  const [kind, title] = STATES[verdict.status];
  place.className = `assessment ${kind}`;
  const reason = verdict.warning ?? verdict.not_assessed;
  place.replaceChildren(
    element("strong", title),
    element("span", sentence(headline)),
    ...(reason ? [element("p", sentence(reason))] : []),
  );
}

/** The label maps of a scan to choose from, with their mean Dice; none if there is only one. */
export function showChoices(fieldset, scan, chosen, onChange) {
  const maps = scan.result.label_maps;
  const choices = maps.map(({ key, title }) => {
    const known = Object.values(scan.reference?.dice[key] ?? {}).filter((value) => value !== null);
    const mean = known.reduce((a, b) => a + b, 0) / known.length;
    return [key, known.length && maps.length > 1 ? `${title}, Dice ${mean.toFixed(3)}` : title];
  });
  if (scan.reference) choices.push(["reference", "Reference"]);
  fieldset.hidden = choices.length < 2;
  // Many, or long, are a list.
  fieldset.classList.toggle("stacked", choices.map(([, text]) => text).join("").length > 32);
  const legend = fieldset.querySelector("legend");
  const labels = choices.map(([key, text]) => {
    const label = document.createElement("label");
    const radio = document.createElement("input");
    radio.type = "radio";
    radio.name = "which";
    radio.value = key;
    radio.checked = key === chosen;
    radio.addEventListener("change", () => onChange(key));
    label.append(radio, element("span", text));
    return label;
  });
  const hadFocus = fieldset.contains(document.activeElement);
  fieldset.replaceChildren(legend, ...labels);
  if (hadFocus) fieldset.querySelector("input:checked")?.focus();
}

/** The table of classes; onChange is called with the set of labels that are hidden. */
export function showLegend(table, rows, hidden, hasDice, onChange) {
  const hasConfidence = rows.some((row) => row.confidence !== null);
  const heads = ["Structure", "ml", ...(hasConfidence ? ["Confidence"] : []), ...(hasDice ? ["Dice"] : [])];
  const head = document.createElement("tr");
  for (const text of heads) {
    const cell = element("th", text);
    cell.scope = "col";
    head.append(cell);
  }
  table.tHead.replaceChildren(head);
  const body = rows.map((row) => {
    const line = document.createElement("tr");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !hidden.has(row.label);
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(row.label);
      else hidden.add(row.label);
      onChange(hidden);
    });
    const swatch = element("span", "");
    swatch.className = "swatch";
    swatch.style.background = row.color;
    const label = document.createElement("label");
    label.append(box, swatch, element("span", row.title));
    const first = document.createElement("td");
    first.append(label);
    line.append(first, element("td", inMl(row)));
    if (hasConfidence) line.append(element("td", inDigits(row.confidence)));
    if (hasDice) line.append(element("td", inDigits(row.dice)));
    return line;
  });
  table.tBodies[0].replaceChildren(...body);
}

export function describeMissing(rows, scan, model) {
  const task = scan.result.verdict.task;
  const found = new Set(rows.map((row) => row.name));
  const missing = model.classes.filter((one) => one.task === task && !found.has(one.name));
  if (!rows.length) return "No structure was found: every voxel is background.";
  return missing.length ? `Not found: ${missing.map((one) => one.title).join(", ")}.` : "";
}

/** Links to the files of a scan. */
export function showDownloads(list, scan) {
  const { files, labels } = scan.result;
  const words = (name) => {
    if (name === labels) return files.some(isUnprocessed) ? "Label map after post-processing (NIfTI)" : "Label map (NIfTI)";
    if (isUnprocessed(name)) return "Label map before post-processing (NIfTI)";
    if (name.endsWith("_preview.png")) return "Preview (PNG)";
    if (name.endsWith("_verdict.json")) return "Assessment (JSON)";
    if (name === "volumes.csv") return "Volumes (CSV)";
    if (name === "labels_itksnap.txt") return "Label names for ITK-SNAP";
    if (name === "labels_slicer.ctbl") return "Label names for 3D Slicer";
    if (name === "labels_freesurfer.txt") return "Label names for FreeSurfer";
    if (name === "labels_dseg.tsv") return "Label names (BIDS)";
    return name;
  };
  const order = [labels, ...files.filter((name) => name !== labels).sort(byUse)];
  list.replaceChildren(
    ...[["results.zip", "All of these (zip)"], ...order.map((name) => [name, words(name)])].map(
      ([name, text]) => {
        const link = element("a", text);
        link.href = `scans/${scan.id}/${encodeURIComponent(name)}`;
        link.download = "";
        const item = document.createElement("li");
        item.append(link);
        return item;
      },
    ),
  );
}

function isUnprocessed(name) {
  return name.endsWith("_labels_unprocessed.nii.gz");
}

function byUse(a, b) {
  const rank = (name) => (isUnprocessed(name) ? -1 : name === "volumes.csv" ? 0 : name.endsWith(".png") ? 1 : name.endsWith(".json") ? 2 : 3);
  return rank(a) - rank(b) || a.localeCompare(b);
}

export function element(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

export function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}

/** Writes a text that is read aloud where it changes, only if it does. */
export function setText(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

/** The volume of a class, which the server rounds to 0.001 ml. */
function inMl({ volume_ml: volume, num_voxels: voxels }) {
  if (volume >= 1) return volume.toFixed(1);
  if (volume === 0) return voxels > 0 ? "< 0.001" : "0.0";
  return String(Number(volume.toPrecision(2)));
}

/** With two digits, but nothing short of 1 as 1.00. */
function inDigits(value) {
  if (value === null) return "–";
  return value < 1 && value >= 0.995 ? "> 0.99" : value.toFixed(2);
}
