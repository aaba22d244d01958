"use strict";
// Draws the map of networks and the training curves with Plotly, whose code lies compressed in the page.
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const map = data.map;
const LISTED = 200; // rows shown; all are copied
const MANY = 500; // edges that are no longer drawn as arrows
const SIZES = [6, 11]; // of a dot, and of one found by searching
// Cividis (Nunez et al. 2018): readable in grey and under colour vision deficiencies. In dark mode its dark end is lighter.
const SCALES = { light: "Cividis", dark: [[0, "#3f6fb0"], [0.5, "#9a9a94"], [1, "#fee838"]] };
const DARK = matchMedia("(prefers-color-scheme: dark)");
const NARROW = matchMedia("(max-width: 48rem)");
const HUES = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C7A00", "#7F7F7F"]; // Okabe and Ito
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star"];
const QUIET = ["no finding", ""]; // labels of nothing special
let chosen = [];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const cell = (column, index) => (column.codes ? column.labels[column.codes[index]] : (column.numbers[index] ?? ""));

async function loadPlotly() {
  const text = atob(element("library").textContent);
  const bytes = new Uint8Array(text.length);
  for (let place = 0; place < text.length; place += 1) bytes[place] = text.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function layout(extra) {
  const axis = { gridcolor: css("--line"), zeroline: false, linecolor: css("--line"), automargin: true };
  return {
    paper_bgcolor: css("--back"), plot_bgcolor: css("--back"), margin: { l: 40, r: 10, t: 10, b: 40 },
    font: { color: css("--text"), family: "system-ui, sans-serif", size: 12 },
    legend: { orientation: "h", y: -0.12 }, hoverlabel: { align: "left" },
    ...extra, xaxis: { ...axis, ...extra.xaxis }, yaxis: { ...axis, ...extra.yaxis },
  };
}

const BUTTONS = [["zoom2d", "pan2d", "select2d", "lasso2d"], ["resetScale2d", "toImage"]];
const config = { responsive: true, displaylogo: false, modeBarButtons: BUTTONS };

function hasWebGL() {
  const canvas = document.createElement("canvas");
  return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
}

function dots(indices, marker, more) {
  return {
    type: map.kind, mode: "markers", x: indices.map((i) => map.x[i]), y: indices.map((i) => map.y[i]), customdata: indices,
    text: indices.map((i) => escaped(map.names[i])), hovertemplate: "%{text}<extra></extra>",
    marker: { size: SIZES[0], opacity: 0.8, ...marker }, showlegend: false, ...more,
  };
}

function colouredDots() {
  const column = map.columns[element("colour").selectedIndex];
  const everyone = map.names.map((_, index) => index);
  if (!column) return [dots(everyone, { color: css("--accent") })];
  if (!column.codes) {
    const unknown = everyone.filter((i) => column.numbers[i] === null);
    const known = everyone.filter((i) => column.numbers[i] !== null);
    const place = NARROW.matches ? { orientation: "h", y: -0.3 } : { title: { text: escaped(column.name), side: "right" } };
    const bar = { thickness: 12, outlinewidth: 0, ...place };
    const scale = DARK.matches ? SCALES.dark : SCALES.light;
    const colours = { color: known.map((i) => column.numbers[i]), colorscale: scale, showscale: true, colorbar: bar };
    const rest = dots(unknown, { color: css("--faint"), symbol: "x" }, { name: "unknown", showlegend: true });
    return [dots(known, colours), ...(unknown.length ? [rest] : [])];
  }
  const groups = column.labels.map(() => []);
  for (const index of everyone) groups[column.codes[index]].push(index);
  const size = column.labels.some((label) => QUIET.includes(label)) ? 9 : SIZES[0];
  const drawn = groups.map((group, number) => {
    const hue = { size, color: HUES[number % HUES.length], symbol: SYMBOLS[(number + Math.floor(number / 8)) % SYMBOLS.length] };
    const style = QUIET.includes(column.labels[number]) ? { color: css("--faint"), opacity: 0.4 } : hue;
    return dots(group, style, { name: escaped(column.labels[number] || "unknown"), showlegend: true, legendrank: number });
  });
  return drawn.sort((one, other) => other.x.length - one.x.length); // small groups lie above large ones
}

function lines(paths, style) {
  const points = paths.flatMap((path) => [...path, null]);
  const at = (values) => points.map((index) => (index === null ? null : values[index]));
  return { x: at(map.x), y: at(map.y), hoverinfo: "skip", showlegend: false, mode: "lines", ...style };
}

// Arrows of descent: faint lines where there are many, and arrows of the networks found by a search alone.
function descent(found) {
  const edges = found.size && map.edges.length > MANY ? map.edges.filter((edge) => edge.some((end) => found.has(end))) : map.edges;
  if (edges.length > MANY) return lines(edges, { type: map.kind, line: { color: css("--faint"), width: 0.6 }, opacity: 0.3 });
  const arrows = { symbol: "arrow", angleref: "previous", size: edges.flatMap(() => [0, 9, 0]), color: css("--text") };
  return lines(edges, { type: "scatter", mode: "lines+markers", line: { color: css("--text"), width: 1 }, marker: arrows });
}

function traces() {
  const under = [];
  if (element("runs")?.checked) {
    under.push(lines(map.runs, { type: map.kind, line: { color: css("--faint"), width: 0.6 }, opacity: 0.5 }));
  }
  const found = element("search").value ? chosen : [];
  if (element("edges")?.checked) under.push(descent(new Set(found)));
  const ring = { color: "rgba(0,0,0,0)", size: SIZES[1], line: { color: css("--text"), width: 2 } };
  return [...under, ...colouredDots(), dots(found, ring)];
}

function extent(values) {
  const known = values.filter(Number.isFinite);
  const [low, high] = known.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
  const room = (high - low) / 20 || 1;
  return [low - room, high + room];
}

function drawMap() {
  const [xaxis, yaxis] = [map.x, map.y].map((values) => ({ showticklabels: false, range: extent(values) }));
  return Plotly.react("plot", traces(), layout({ xaxis, yaxis, dragmode: "select", uirevision: "kept" }), config);
}

// Shows the dots while the library is unpacked, which takes longer than all the rest.
function sketch() {
  const canvas = element("plot").appendChild(document.createElement("canvas"));
  const { clientWidth: width, clientHeight: height } = element("plot");
  Object.assign(canvas, { width, height });
  const brush = canvas.getContext("2d");
  brush.fillStyle = css("--accent");
  const [[left, right], [bottom, top]] = [map.x, map.y].map(extent);
  map.x.forEach((x, index) => {
    const across = (x - left) / (right - left);
    const down = (top - map.y[index]) / (top - bottom);
    brush.fillRect(40 + across * (width - 50) - 2, 10 + down * (height - 50) - 2, 4, 4);
  });
  return new Promise((painted) => requestAnimationFrame(() => setTimeout(() => painted(canvas))));
}

function describe(index) {
  const title = document.createElement("h3");
  const list = document.createElement("dl");
  title.textContent = map.names[index];
  for (const column of map.columns) {
    const [name, value] = ["dt", "dd"].map((tag) => document.createElement(tag));
    name.textContent = column.name;
    value.textContent = cell(column, index);
    list.append(name, value);
  }
  element("details").replaceChildren(title, ...tile(index), list);
}

function tile(index) {
  if (!map.tiles?.known[index]) return [];
  const { uri, width, height, across } = map.tiles;
  const zoom = Math.max(1, Math.floor(260 / width));
  const figure = document.createElement("div");
  const note = document.createElement("p");
  figure.className = "tile";
  figure.style.cssText = `width:${width * zoom}px;height:${height * zoom}px`;
  figure.style.backgroundImage = `url(${uri})`;
  figure.style.backgroundSize = `${width * zoom * across}px auto`;
  figure.style.backgroundPosition = `${-(index % across) * width * zoom}px ${-Math.floor(index / across) * height * zoom}px`;
  note.textContent = "First layer, dark negative, light positive";
  return [figure, note];
}

function choose(indices) {
  chosen = indices;
  const rows = chosen.slice(0, LISTED).map((index) => [map.names[index], ...map.columns.map((column) => cell(column, index))]);
  const head = document.createElement("thead");
  const body = document.createElement("tbody");
  const titles = addRow(head, ["name", ...map.columns.map((column) => column.name)], "th");
  for (const [number, column] of map.columns.entries()) titles.cells[number + 1].className = column.codes ? "" : "number";
  for (const [number, values] of rows.entries()) {
    const row = addRow(body, values, "td");
    row.tabIndex = 0;
    row.addEventListener("focus", () => describe(indices[number]));
  }
  element("chosen").replaceChildren(...(rows.length ? [head, body] : []));
  element("copy").hidden = !rows.length;
  const shown = chosen.length > LISTED ? `, the first ${LISTED} listed` : "";
  element("count").textContent = `${chosen.length.toLocaleString("en")} networks selected${shown}`;
}

function addRow(parent, values, tag) {
  const row = parent.appendChild(document.createElement("tr"));
  for (const value of values) {
    const item = row.appendChild(document.createElement(tag));
    item.textContent = value;
    if (typeof value === "number") item.className = "number";
  }
  return row;
}

async function copy() {
  const column = (text) => String(text).replace(/[\t\r\n]/g, " ");
  const rows = chosen.map((index) => [map.names[index], ...map.columns.map((one) => cell(one, index))]);
  const text = [["name", ...map.columns.map((one) => one.name)], ...rows].map((row) => row.map(column).join("\t")).join("\n");
  try {
    await navigator.clipboard.writeText(text);
    element("count").textContent = `${chosen.length} rows copied`;
  } catch {
    getSelection().selectAllChildren(element("chosen"));
    element("count").textContent = "The browser refused to copy; the listed rows are marked: press Ctrl-C.";
  }
}

function search() {
  const wanted = element("search").value.trim().toLowerCase();
  choose(wanted ? map.names.flatMap((name, index) => (name.toLowerCase().includes(wanted) ? [index] : [])) : []);
  if (chosen.length) describe(chosen[0]);
  return drawMap();
}

async function startMap() {
  map.kind = hasWebGL() ? "scattergl" : "scatter";
  element("plot").replaceChildren();
  await drawMap();
  const plot = element("plot");
  plot.on("plotly_hover", (event) => describe(event.points[0].customdata));
  plot.on("plotly_click", (event) => describe(event.points[0].customdata));
  plot.on("plotly_selected", (event) => {
    const points = (event?.points ?? []).map((point) => point.customdata).filter(Number.isInteger);
    if (event) choose([...new Set(points)]);
  });
  for (const id of ["colour", "runs", "edges"]) element(id)?.addEventListener("change", drawMap);
  element("search").addEventListener("input", search);
  element("controls").addEventListener("submit", (event) => event.preventDefault());
  element("copy").addEventListener("click", copy);
}

function drawCurves(chart, curves) {
  const drawn = curves.lines.map((line, number) => ({
    type: "scatter", mode: "lines", name: escaped(line.name), x: line.x, y: line.y,
    line: { color: HUES[number % HUES.length], dash: ["solid", "dash", "dot"][number % 3] },
  }));
  const values = curves.lines.flatMap((line) => line.y).filter((value) => value !== null);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const ticks = low > 0 ? { type: "log", dtick: high < 5 * low ? "D1" : "D2", tickformat: "~g" } : {};
  const yaxis = { title: { text: escaped(curves.y) }, ...ticks };
  Plotly.react(chart, drawn, layout({ xaxis: { title: { text: escaped(curves.x) } }, yaxis, legend: { orientation: "h", y: 1.15 } }),
    { responsive: true, displayModeBar: false });
}

const charts = [...document.querySelectorAll(".chart")];

function drawCurvesInView() {
  const seen = new IntersectionObserver((entries) => {
    for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
      seen.unobserve(target);
      drawCurves(target, data.curves[charts.indexOf(target)]);
    }
  }, { rootMargin: "50%" });
  charts.forEach((chart) => seen.observe(chart));
}

async function start() {
  if (map) await sketch();
  performance.mark("dots");
  await loadPlotly();
  if (map) await startMap();
  performance.mark("map");
  drawCurvesInView();
  DARK.addEventListener("change", () => {
    if (map) drawMap();
    drawCurvesInView();
  });
}

start();
