// The scan with its labels in three planes and 3-D, by NiiVue.

const PLANES = { sagittal: 0, coronal: 1, axial: 2 }; // axis of the slices, left-right first

// A graphics card takes 4 bytes for each voxel of the scan and 4 for each of its labels. Without a
// card the processor draws, and each change of a large volume would take seconds.
const FAST_VOXELS = 120e6;
const SLOW_VOXELS = 12e6;

/** What tells labels from others, also from later ones at the same address. */
export function labelsKey(labels) {
  return labels ? `${labels.url} ${labels.version}` : null;
}

/** What tells a scan with its labels from others. */
function keyOf(scan, labels) {
  return JSON.stringify([scan?.url, labelsKey(labels)]);
}

export class Viewer {
  /**
   * @param canvas where to draw
   * @param onPlace is called with the place under the crosshair
   */
  constructor(canvas, onPlace) {
    this.canvas = canvas;
    this.onPlace = onPlace;
    this.shown = { scan: null, labels: null };
    this.hidden = new Set();
    this.classes = [];
    this.opacity = 0.5;
    this.isScanHidden = false;
    this.queue = Promise.resolve();
    this.calls = 0;
    this.wanted = undefined; // the scan of the last call
    this.failure = null; // key and error of what could not be shown last
  }

  /** Begins to draw; throws if the browser has no WebGL 2. */
  async begin() {
    const test = document.createElement("canvas");
    const gl = test.getContext("webgl2");
    if (!gl) throw new Error("no WebGL 2");
    const info = gl.getExtension("WEBGL_debug_renderer_info");
    const renderer = String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
    this.mostVoxels = /swiftshader|llvmpipe|software/i.test(renderer) ? SLOW_VOXELS : FAST_VOXELS;
    this.longestAxis = gl.getParameter(gl.MAX_3D_TEXTURE_SIZE);
    const { Niivue } = window.niivue;
    this.nv = new Niivue({
      logLevel: "error",
      loadingText: "",
      dragAndDropEnabled: false,
      // Keys that change the view: the page's buttons would not know.
      viewModeHotKey: "",
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
      show3Dcrosshair: true,
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      crosshairColor: [0.95, 0.95, 0.95, 0.75],
      crosshairGap: 6,
      fontColor: [0.75, 0.79, 0.84, 1],
      multiplanarShowRender: 1,
      multiplanarEqualSize: false,
      multiplanarPadPixels: 4,
      tileMargin: 2,
      scrollRequiresFocus: true,
    });
    // Further keys of NiiVue's, which change what the mouse does or need a volume.
    const keys = ["KeyM", "Slash", "ArrowLeft", "ArrowRight"];
    this.canvas.addEventListener("keydown", (event) => {
      if (keys.includes(event.code)) event.stopImmediatePropagation();
    }, { capture: true });
    await this.nv.attachToCanvas(this.canvas);
    this.nv.onLocationChange = (place) => this.onPlace(place);
  }

  get isReady() {
    return this.nv !== undefined;
  }

  /** Every how many voxels of a scan can be shown. */
  stepFor(shape) {
    let step = 1;
    const fits = () => {
      const sizes = shape.map((size) => Math.ceil(size / step));
      const voxels = sizes.reduce((a, b) => a * b, 1);
      return voxels <= this.mostVoxels && Math.max(...sizes) <= this.longestAxis;
    };
    while (!fits()) step += 1;
    return step;
  }

  /** Shows a scan and labels; either may be null. Of several calls that wait only the last is done. */
  show(scan, labels, classes) {
    this.calls += 1;
    this.wanted = scan?.url;
    const call = this.calls;
    const key = keyOf(scan, labels);
    if (this.failure?.key !== key) this.failure = null;
    const done = this.queue.then(() => (call === this.calls ? this.#show(scan, labels, classes) : undefined));
    this.queue = done.catch((error) => {
      this.failure = { key, error };
    }); // one that fails does not stop the next
    return this.queue;
  }

  /** Why a scan and labels could not be shown; null if they were not tried, or could. */
  errorOf(scan, labels) {
    return this.failure?.key === keyOf(scan, labels) ? this.failure.error : null;
  }

  async #show(scan, labels, classes) {
    this.classes = classes;
    if (!scan) {
      this.#clear();
      return;
    }
    if (this.shown.scan !== scan.url) {
      this.#clear(); // or the scan before would be seen while this one is loaded
      const { url, black, white } = scan;
      await this.nv.loadVolumes([{ url, name: "scan.nii", colormap: "gray", cal_min: black, cal_max: white }]);
      if (this.wanted !== url) return this.#clear(); // another was chosen meanwhile
      this.shown.scan = url;
      this.#showScan();
      this.moveTo([0.5, 0.5, 0.5]);
    }
    const wanted = labelsKey(labels);
    if (this.shown.labels !== wanted) {
      while (this.nv.volumes.length > 1) this.nv.removeVolumeByIndex(1);
      this.shown.labels = null;
      if (labels) {
        await this.nv.addVolumeFromUrl({ url: labels.url, name: "labels.nii", opacity: this.opacity });
        if (this.wanted !== scan.url) return this.#clear();
        this.shown.labels = wanted;
        this.paint();
      }
      this.moveTo(labels?.centre ?? this.nv.scene.crosshairPos);
    }
  }

  /** Removes what is shown, and NiiVue's memory of it. */
  #clear() {
    this.shown = { scan: null, labels: null };
    while (this.nv.volumes.length) this.nv.removeVolumeByIndex(this.nv.volumes.length - 1);
    this.nv.drawScene();
  }

  /** Colours the labels that are not hidden. */
  paint() {
    const volume = this.nv?.volumes[1];
    if (!volume) return;
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
    for (const { label, title, color } of this.classes) {
      table.R.push(parseInt(color.slice(1, 3), 16));
      table.G.push(parseInt(color.slice(3, 5), 16));
      table.B.push(parseInt(color.slice(5, 7), 16));
      table.A.push(this.hidden.has(label) ? 0 : 255);
      table.I.push(label);
      table.labels.push(title);
    }
    volume.setColormapLabel(table);
    this.nv.updateGLVolume();
  }

  setHidden(labels) {
    this.hidden = new Set(labels);
    this.paint();
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    if (this.nv?.volumes.length > 1) this.nv.setOpacity(1, opacity);
  }

  setScanHidden(isHidden) {
    this.isScanHidden = isHidden;
    this.#showScan();
  }

  #showScan() {
    if (this.nv?.volumes.length) this.nv.setOpacity(0, this.isScanHidden ? 0 : 1);
  }

  setView(view) {
    if (!this.isReady) return;
    const { AXIAL, CORONAL, SAGITTAL, RENDER, MULTIPLANAR } = window.niivue.SLICE_TYPE;
    const types = { all: MULTIPLANAR, axial: AXIAL, coronal: CORONAL, sagittal: SAGITTAL, render: RENDER };
    this.nv.setSliceType(types[view]);
  }

  /** Numbers of slices of each plane and the ones under the crosshair, counted from 1. */
  slices() {
    const volume = this.nv?.volumes[0];
    if (!volume) return null;
    const sizes = volume.dimsRAS.slice(1, 4);
    return Object.fromEntries(
      Object.entries(PLANES).map(([plane, axis]) => {
        const at = Math.floor(this.nv.scene.crosshairPos[axis] * sizes[axis]) + 1;
        return [plane, { count: sizes[axis], at: Math.min(Math.max(at, 1), sizes[axis]) }];
      }),
    );
  }

  setSlice(plane, at) {
    if (!this.nv?.volumes.length) return;
    const axis = PLANES[plane];
    const place = [...this.nv.scene.crosshairPos];
    place[axis] = (at - 0.5) / this.nv.volumes[0].dimsRAS[axis + 1];
    this.moveTo(place);
  }

  moveTo(place) {
    this.nv.scene.crosshairPos = [...place];
    this.nv.createOnLocationChange();
    this.nv.drawScene();
  }
}
