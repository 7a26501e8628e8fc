// Sends what is dropped or chosen: each scan file on its own, a folder or loose DICOM files together.

const VOLUME = /\.(nii|nii\.gz|mgh|mgz|nrrd|nhdr|mha|mhd|zip)$/i;
const AT_ONCE = 4;

/** The files of a drop as [{name, files: [{path, file}]}], one entry per upload. */
export async function readDrop(transfer) {
  // The entries must be taken before the first await: the browser empties the list then.
  const entries = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const loose = [];
  const groups = [];
  for (const entry of entries) {
    if (entry instanceof File) loose.push({ path: entry.name, file: entry });
    else if (entry?.isFile) loose.push({ path: entry.name, file: await fileOf(entry) });
    else if (entry?.isDirectory) groups.push({ name: entry.name, files: await walk(entry) });
  }
  return [...groups, ...groupLoose(loose)];
}

/** The same for files of an input element. */
export function readInput(files) {
  const all = [...files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
  if (all.some(({ file }) => file.webkitRelativePath)) {
    return [{ name: all[0].path.split("/")[0], files: all.filter(isShown) }];
  }
  return groupLoose(all);
}

function groupLoose(files) {
  const shown = files.filter(isShown);
  const groups = shown
    .filter(({ path }) => VOLUME.test(path))
    .map((one) => ({ name: one.path, files: [one] }));
  const others = shown.filter(({ path }) => !VOLUME.test(path));
  if (others.length) {
    const name = others.length === 1 ? others[0].path : "DICOM files";
    groups.push({ name, files: others });
  }
  return groups;
}

function isShown({ path }) {
  return !path.split("/").some((part) => part.startsWith("."));
}

function fileOf(entry) {
  return new Promise((resolve, reject) => entry.file(resolve, reject));
}

async function walk(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) break; // a browser gives a hundred entries at a time
    for (const entry of part) {
      if (entry.name.startsWith(".")) continue;
      if (entry.isDirectory) found.push(...(await walk(entry)));
      else found.push({ path: entry.fullPath.replace(/^\//, ""), file: await fileOf(entry) });
    }
  }
  return found;
}

/**
 * Sends the files of one upload.
 * @param group from readDrop or readInput
 * @param limits of the server
 * @param ask sends a request with JSON and returns its answer
 * @param onShare is called with the share that was sent
 * @param signal of an AbortController
 * @returns the number of the upload
 */
export async function send(group, limits, ask, onShare, signal) {
  const total = group.files.reduce((sum, { file }) => sum + file.size, 0);
  if (!group.files.length) throw new Error(`${group.name}: is empty.`);
  if (total > limits.num_bytes) {
    throw new Error(`${group.name}: is larger than ${limits.num_bytes / 1e9} GB.`);
  }
  if (group.files.length > limits.num_files) {
    throw new Error(`${group.name}: has more than ${limits.num_files} files.`);
  }
  const { id } = await ask("POST", "uploads", { name: group.name });
  const sent = new Map();
  const queue = [...group.files];
  const stopped = new AbortController();
  signal.addEventListener("abort", () => stopped.abort());
  if (signal.aborted) stopped.abort(); // cancelled before there was anything to stop
  async function sendNext() {
    for (let next = queue.shift(); next; next = queue.shift()) {
      await put(id, next, stopped.signal, (bytes) => {
        sent.set(next, bytes);
        onShare([...sent.values()].reduce((a, b) => a + b, 0) / Math.max(total, 1));
      });
    }
  }
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, sendNext));
  } catch (error) {
    queue.length = 0;
    stopped.abort();
    await ask("DELETE", `uploads/${id}`).catch(() => {});
    throw error;
  }
  return id;
}

function put(id, { path, file }, signal, onBytes) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not say how much was sent
    request.open("PUT", `uploads/${id}?name=${encodeURIComponent(path)}`);
    request.upload.onprogress = (event) => onBytes(event.loaded);
    request.onload = () => {
      if (request.status === 200) {
        onBytes(file.size);
        resolve();
      } else {
        reject(new Error(errorOf(request.responseText, path)));
      }
    };
    request.onerror = () => reject(new Error(`${path}: could not be sent or read. Drop it again.`));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    if (signal.aborted) return request.onabort();
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

function errorOf(text, path) {
  try {
    return JSON.parse(text).error;
  } catch {
    return `${path}: was refused.`;
  }
}
