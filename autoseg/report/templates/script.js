"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const content = JSON.parse(find("data").textContent);
  const state = { viewer: null, case: -1, hidden: null, view: "all" };
  const root = document.documentElement;

  function changeTheme() {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
  }
  find("theme").addEventListener("click", changeTheme);

  // Tables: sorting by a column, finding rows.
  const read = (row, index) => {
    const cell = row.cells[index];
    if (cell.dataset.value === undefined) return cell.textContent;
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  function compare(a, b) {
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1; // what is undefined stays below
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  }
  function sortTable(heading) {
    const table = heading.closest("table"), index = heading.cellIndex;
    const isAscending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map((row) => [read(row, index), row]);
    const isNull = ([value]) => value === null;
    rows.sort((a, b) => (isNull(a) || isNull(b) || isAscending ? compare(a[0], b[0]) : compare(b[0], a[0])));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }
  for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => sortTable(button.parentElement));
  for (const input of document.querySelectorAll(".filter")) {
    input.addEventListener("input", () => {
      const text = input.value.toLowerCase(), tools = input.closest(".tools");
      const rows = [...tools.nextElementSibling.querySelectorAll("tbody tr")];
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(text);
      tools.querySelector(".count").textContent = `${rows.filter((row) => !row.hidden).length} rows`;
    });
  }

  // Navigation: the section in view.
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  if (links.size && "IntersectionObserver" in window) {
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) {
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    }, { rootMargin: "-10% 0px -80% 0px" });
    for (const section of document.querySelectorAll("main > section")) observer.observe(section);
  }
  addEventListener("beforeprint", () => { for (const entry of document.querySelectorAll("details")) entry.open = true; });

  const panel = find("panel");
  if (!panel) return;
  const isInline = panel.classList.contains("inline");

  // The viewer is unpacked when a case is shown for the first time.
  async function unpack() {
    const packed = find("viewer-code");
    if (!packed) return null;
    const bytes = Uint8Array.from(atob(packed.textContent), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    const viewer = new niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [1, 1, 1, 0.55], crosshairWidth: 0.25, crosshairWidthUnit: "voxels", isRadiologicalConvention: true,
      show3Dcrosshair: false, multiplanarForceRender: true, isNearestInterpolation: true, dragAndDropEnabled: false, logLevel: "error", loadingText: "",
    });
    await viewer.attachToCanvas(find("canvas"));
    return viewer;
  }
  function buildColours(entries) {
    const pick = (channel) => [0, ...entries.map((entry) => entry.colour[channel])];
    return { R: pick(0), G: pick(1), B: pick(2), A: [0, ...entries.map(() => 255)], I: [0, ...entries.map((_, index) => index + 1)], labels: ["", ...entries.map((entry) => entry.name)] };
  }
  const findOpacity = (name) => (state.hidden.has(name) ? 0 : Number(find("opacity").value) / 100);
  async function loadCase(number) {
    state.viewer ??= await unpack();
    const viewer = state.viewer, shown = content.cases[number];
    if (!viewer) return false;
    viewer.setSliceType(viewer.sliceTypeAxial); // drawing in 3D after every volume takes seconds without a GPU
    for (const volume of [...viewer.volumes].reverse()) viewer.removeVolume(volume);
    const texts = [...document.querySelectorAll(`script[id^="volume-${number}-"]`)].map((tag) => [tag.dataset.name, tag.textContent]);
    if (!texts.length) return false;
    for (const [name, text] of texts) {
      const isImage = name === "image";
      const volume = await niivue.NVImage.loadFromBase64({ base64: text, name: `${name}.nii.gz`, opacity: isImage ? 1 : findOpacity(name), cal_min: 0, cal_max: 255 });
      if (!isImage) volume.setColormapLabel(buildColours(shown.layers.find((layer) => layer.name === name).isError ? content.errors : content.labels));
      viewer.addVolume(volume);
    }
    return true;
  }
  function showLayers() {
    const viewer = state.viewer;
    if (!viewer) return;
    const shown = content.cases[state.case];
    const first = shown.hasImage ? 1 : 0;
    shown.layers.forEach((layer, index) => {
      const volume = viewer.volumes[index + first], opacity = findOpacity(layer.name);
      if (volume && volume.opacity !== opacity) viewer.setOpacity(index + first, opacity);
    });
  }
  function setView(view) {
    state.view = view;
    for (const button of panel.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", String(button.dataset.view === view));
    const viewer = state.viewer;
    if (!viewer || !viewer.volumes.length) return;
    const isFlat = viewer.volumes[0].hdr.dims[3] === 1;
    if (content.cases[state.case].hasImage && content.cases[state.case].layers.length) viewer.setOpacity(0, view === "3d" ? 0.12 : 1); // labels are seen through the image
    viewer.setSliceType(view === "3d" ? viewer.sliceTypeRender : view === "axial" || isFlat ? viewer.sliceTypeAxial : viewer.sliceTypeMultiplanar);
  }
  function listLayers(shown) {
    const box = find("layers");
    box.replaceChildren(box.firstElementChild);
    shown.layers.forEach((layer, index) => {
      const label = document.createElement("label"), input = document.createElement("input");
      input.type = "checkbox";
      input.checked = !state.hidden.has(layer.name);
      input.addEventListener("change", () => toggleLayer(index));
      label.append(input, ` ${layer.name} `);
      const key = document.createElement("kbd");
      key.textContent = String(index + 1);
      label.append(key);
      box.append(label);
    });
    box.hidden = shown.layers.length === 0;
  }
  function toggleLayer(index) {
    const layer = content.cases[state.case]?.layers[index];
    if (!layer) return;
    if (!state.hidden.delete(layer.name)) state.hidden.add(layer.name);
    listLayers(content.cases[state.case]);
    showLayers();
  }
  function describe(shown) {
    find("panel-name").textContent = shown.note ? `${shown.name} (${shown.note})` : shown.name;
    find("panel-details").replaceChildren(...shown.details.map(([name, value]) => {
      const row = document.createElement("div"), term = document.createElement("dt"), text = document.createElement("dd");
      term.textContent = name;
      text.textContent = value;
      row.append(term, text);
      return row;
    }));
    find("panel-command").textContent = shown.command;
  }
  async function show(number) {
    const shown = content.cases[number];
    if (!shown) return;
    state.case = number;
    if (!panel.open) isInline ? panel.show() : panel.showModal();
    panel.dataset.state = "loading";
    for (const row of document.querySelectorAll("tr[data-case]")) row.setAttribute("aria-selected", String(Number(row.dataset.case) === number));
    state.hidden ??= new Set(shown.layers.map((layer) => layer.name).filter((name) => name !== (shown.layers.some((layer) => layer.name === "prediction") ? "prediction" : shown.layers[0].name)));
    describe(shown);
    listLayers(shown);
    const isShown = await loadCase(number).catch((error) => { console.error(error); return false; });
    find("canvas").style.visibility = isShown ? "visible" : "hidden";
    find("stage-note").textContent = isShown ? "" : find("viewer-code") ? "The volumes of this case are not in this file, which has a limited size; the command shows them." : "The 3D viewer is not in this file.";
    setView(state.view);
    panel.dataset.state = isShown ? "shown" : "described";
    panel.dataset.case = shown.name;
  }
  const order = () => [...new Set([...document.querySelectorAll("tr[data-case]:not([hidden])")].map((row) => Number(row.dataset.case)))];
  function step(by) {
    const numbers = order().length ? order() : content.cases.map((_, index) => index);
    show(numbers[(numbers.indexOf(state.case) + by + numbers.length) % numbers.length]);
  }
  for (const target of document.querySelectorAll("tr[data-case], .card[data-case]")) {
    target.addEventListener("click", () => show(Number(target.dataset.case)));
    target.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); show(Number(target.dataset.case)); }
      const next = event.key === "ArrowDown" ? target.nextElementSibling : event.key === "ArrowUp" ? target.previousElementSibling : null;
      if (next && target.tagName === "TR") { event.preventDefault(); next.focus(); }
    });
  }
  find("close").addEventListener("click", () => panel.close());
  panel.addEventListener("click", (event) => { if (event.target === panel && !isInline) panel.close(); });
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("opacity").addEventListener("input", showLayers);
  for (const button of panel.querySelectorAll("[data-view]")) button.addEventListener("click", () => setView(button.dataset.view));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea")) return;
    if (event.key === "t") changeTheme();
    else if (event.key === "n") step(1);
    else if (event.key === "p") step(-1);
    else if (event.key === "v") setView(state.view === "all" ? "3d" : "all");
    else if (/^[1-9]$/.test(event.key)) toggleLayer(Number(event.key) - 1);
  });
  globalThis.autosegReport = { show, state };
  if (isInline) show(0);
})();
