// Draws the slices of each viewer of the report. A sheet has all slices of a layer in rows.

async function load(address) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  return picture;
}

async function begin(viewer) {
  const { slices, columns, width, height, sheets } = JSON.parse(viewer.querySelector("script").textContent);
  const [scan, ...labels] = await Promise.all(sheets.map(load));
  const canvases = [...viewer.querySelectorAll("canvas")];
  const slider = viewer.querySelector(".slice");
  const opacity = viewer.querySelector(".opacity");

  const draw = () => {
    const at = Number(slider.value);
    const place = [(at % columns) * width, Math.floor(at / columns) * height, width, height];
    canvases.forEach((canvas, panel) => {
      const pen = canvas.getContext("2d");
      pen.globalAlpha = 1;
      pen.drawImage(scan, ...place, 0, 0, width, height);
      if (!panel) return;
      pen.globalAlpha = opacity.value / 100;
      pen.drawImage(labels[panel - 1], ...place, 0, 0, width, height);
    });
    slider.previousElementSibling.textContent = slices[at];
    slider.setAttribute("aria-valuetext", `slice ${slices[at]}`);
    opacity.previousElementSibling.textContent = `${opacity.value} %`;
  };
  slider.addEventListener("input", draw);
  opacity.addEventListener("input", draw);
  viewer.querySelector(".panels").addEventListener("wheel", (event) => {
    const before = slider.value;
    slider.value = Number(before) + Math.sign(event.deltaY);
    if (slider.value === before) return; // at the first and last slice the page scrolls on
    event.preventDefault();
    draw();
  }, { passive: false });
  draw();
}

for (const viewer of document.querySelectorAll(".slices")) begin(viewer);
