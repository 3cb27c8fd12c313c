// Charts: inline SVG, drawn to the width that there is, each with a table of the same figures behind a summary.

const SVG = "http://www.w3.org/2000/svg";
const tip = document.getElementById("tip");

function draw(parent, tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function canvas(host, width, height) {
  host.querySelector("svg")?.remove();
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", host.dataset.label);
  host.prepend(svg);
  return svg;
}

/** Round numbers between two values, about as many as asked for. */
function ticks(low, high, many) {
  if (!(high > low)) return [low];
  const rough = (high - low) / many;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const found = [];
  for (let number = first; number * step <= high + step * 1e-9; number += 1) found.push(Number((number * step).toPrecision(12)));
  return found;
}

const short = (number) =>
  Math.abs(number) >= 10000 ? number.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 }) : compact(number, 3);

/** Axes and a linear scale for y; x positions come from the caller. */
function frame(svg, width, height, left, yLow, yHigh, xTicks) {
  const top = 8, bottom = height - 24, right = width - 8;
  const y = (value) => bottom - ((value - yLow) / (yHigh - yLow || 1)) * (bottom - top);
  for (const value of ticks(yLow, yHigh, 4)) {
    draw(svg, "line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) });
    draw(svg, "text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, short(value));
  }
  draw(svg, "line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom });
  for (const [place, label] of xTicks) {
    const anchor = place > right - 14 ? "end" : place < left + 8 ? "start" : "middle";
    draw(svg, "text", { x: place, y: bottom + 17, "text-anchor": anchor }, label);
  }
  return { y, top, bottom, right };
}

/** Shows a tip where the pointer is; `about` gives the text and the rectangle to mark for an x position. */
function follow(svg, width, area, about) {
  const hot = draw(svg, "rect", { class: "hot", y: area.top, height: area.bottom - area.top, width: 0, visibility: "hidden" });
  const hide = () => { tip.hidden = true; hot.setAttribute("visibility", "hidden"); };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const scale = width / box.width;
    const found = about((event.clientX - box.left) * scale, (event.clientY - box.top) * scale);
    if (!found) return hide();
    hot.setAttribute("x", found.x);
    hot.setAttribute("width", found.width);
    hot.setAttribute("visibility", "visible");
    tip.textContent = found.text;
    tip.hidden = false;
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`;
  });
  svg.addEventListener("pointerleave", hide);
}

/** The same figures as a table, made when it is first opened. */
function asTable(host, head, rows) {
  if (host.querySelector("details")) return;
  const details = make("details", {}, make("summary", {}, "Show as table"));
  details.addEventListener("toggle", () => {
    if (details.querySelector("table")) return;
    const table = make("table", { class: "figures" });
    table.append(make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))));
    table.append(
      make("tbody", {}, ...rows().map((row) =>
        make("tr", {}, ...row.map((value, place) => (place ? make("td", {}, value) : make("th", { scope: "row" }, value)))))),
    );
    details.append(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": host.dataset.label }, table));
  });
  host.append(details);
}

function histogram(host, width, data, marks = []) {
  const { edges, counts } = data;
  const height = Math.min(260, Math.max(170, width * 0.36)), left = 48;
  const svg = canvas(host, width, height);
  const low = edges[0], high = edges[edges.length - 1];
  const x = (value) => left + ((value - low) / (high - low)) * (width - 8 - left);
  const total = sum(counts) + data.below + data.above;
  const area = frame(svg, width, height, left, 0, Math.max(...counts, 1), ticks(low, high, width / 90).map((value) => [x(value), short(value)]));
  counts.forEach((count, bin) => {
    if (!count) return;
    const from = x(edges[bin]), to = x(edges[bin + 1]);
    const bar = Math.max(1, area.bottom - area.y(count));
    draw(svg, "rect", { class: "fill", x: from + 0.5, y: area.bottom - bar, width: Math.max(0.5, to - from - 1), height: bar });
  });
  for (const [value, label] of marks) {
    if (value === null || value < low || value > high) continue;
    draw(svg, "line", { class: "rule", x1: x(value), x2: x(value), y1: area.top, y2: area.bottom });
    const end = x(value) > width - 80;
    draw(svg, "text", { class: "named", x: x(value) + (end ? -5 : 5), y: area.top + 8, "text-anchor": end ? "end" : "start" }, label);
  }
  const range = (bin) => `${compact(edges[bin])} to ${compact(edges[bin + 1])}`;
  follow(svg, width, area, (place) => {
    const bin = Math.floor(((place - left) / (width - 8 - left)) * counts.length);
    if (bin < 0 || bin >= counts.length) return null;
    return { x: x(edges[bin]), width: x(edges[bin + 1]) - x(edges[bin]), text: `${range(bin)}\n${whole(counts[bin])} (${percent(counts[bin], total)})` };
  });
  asTable(host, ["From – to", "Count", "Share"], () => [
    ...(data.below ? [["below", whole(data.below), percent(data.below, total)]] : []),
    ...counts.map((count, bin) => [range(bin), whole(count), percent(count, total)]),
    ...(data.above ? [["above", whole(data.above), percent(data.above, total)]] : []),
  ]);
}

function spark(host, width, scorer) {
  const { counts, mean } = scorer.models[Number(host.dataset.model)];
  const { edges } = scorer.reward.histogram;
  const height = 30;
  const svg = canvas(host, width, height);
  const most = Math.max(...counts, 1), step = width / counts.length;
  const points = counts.map((count, bin) => `${(bin + 0.5) * step},${height - 1 - (count / most) * (height - 3)}`);
  draw(svg, "polygon", { class: "area", points: `0,${height - 1} ${points.join(" ")} ${width},${height - 1}` });
  draw(svg, "polyline", { class: "line", points: points.join(" ") });
  if (mean !== null && mean >= edges[0] && mean <= edges[edges.length - 1]) {
    const place = ((mean - edges[0]) / (edges[edges.length - 1] - edges[0])) * width;
    draw(svg, "line", { class: "rule", x1: place, x2: place, y1: 1, y2: height - 1 });
  }
}

function curve(host, width, points) {
  const height = Math.min(260, Math.max(170, width * 0.5)), left = 48;
  const svg = canvas(host, width, height);
  const most = points[points.length - 1].n;
  const log = most > 24;
  const scale = (n) => (log ? Math.log2(n) / Math.log2(most) : most > 1 ? (n - 1) / (most - 1) : 0);
  const x = (n) => left + 6 + scale(n) * (width - 18 - left);
  const values = points.map((point) => point.expected_best);
  const low = Math.min(...values), high = Math.max(...values);
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  const shownTicks = log ? [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].filter((n) => n <= most) : ticks(1, most, Math.min(most - 1, width / 60)).filter(Number.isInteger);
  const area = frame(svg, width, height, left, low - room, high + room, shownTicks.map((n) => [x(n), whole(n)]));
  const all = points[0].prompts;
  // Means over different prompts are not joined: the step between them would say nothing about n.
  for (const prompts of new Set(points.map((point) => point.prompts))) {
    const same = points.filter((point) => point.prompts === prompts).map((point) => `${x(point.n)},${area.y(point.expected_best)}`);
    draw(svg, "polyline", { class: prompts === all ? "line" : "line dashed", points: same.join(" ") });
  }
  if (points.length <= 40) for (const point of points) draw(svg, "circle", { class: "dot", cx: x(point.n), cy: area.y(point.expected_best), r: 3 });
  follow(svg, width, area, (place) => {
    const near = points.reduce((best, point) => (Math.abs(x(point.n) - place) < Math.abs(x(best.n) - place) ? point : best));
    return { x: x(near.n) - 2, width: 4, text: `best of ${near.n}: ${compact(near.expected_best)}\n${whole(near.prompts)} prompts` };
  });
  asTable(host, ["n", "Expected best reward", "Prompts"], () => points.map((point) => [whole(point.n), compact(point.expected_best), whole(point.prompts)]));
}

function density(host, width, length, bins) {
  const { edges, counts, mean_reward: means } = length.density;
  const height = Math.min(340, Math.max(220, width * 0.5)), left = 48;
  const svg = canvas(host, width, height);
  const low = bins.edges[0], high = bins.edges[bins.edges.length - 1];
  const step = (width - 8 - left) / counts.length;
  const x = (column) => left + column * step;
  const labelEvery = Math.max(1, Math.ceil(44 / step));
  const area = frame(svg, width, height, left, low, high,
    edges.slice(0, -1).map((edge, column) => [x(column), short(edge)]).filter((_, column) => column % labelEvery === 0));
  // Few candidates make few rows, else there is nothing but specks.
  const rows = sum(counts.flat()) < 2000 ? 4 : 2;
  const cells = counts.map((column) => {
    const merged = [];
    column.slice(1, -1).forEach((count, row) => { merged[Math.floor(row / rows)] = (merged[Math.floor(row / rows)] ?? 0) + count; });
    return merged;
  });
  const most = Math.max(...cells.flat(), 1);
  cells.forEach((column, place) => {
    column.forEach((count, row) => {
      if (!count) return;
      const top = area.y(bins.edges[Math.min((row + 1) * rows, bins.edges.length - 1)]);
      // The logarithm keeps single candidates visible beside crowded cells.
      const opacity = 0.1 + 0.9 * (Math.log1p(count) / Math.log1p(most));
      draw(svg, "rect", { class: "fill", "fill-opacity": opacity.toFixed(3), x: x(place), y: top, width: Math.max(1, step - 1), height: Math.max(1, area.y(bins.edges[row * rows]) - top - 1) });
    });
  });
  const line = means
    .map((mean, column) => [mean, x(column + 0.5), sum(counts[column])])
    .filter(([mean, , count]) => mean !== null && count >= 5 && mean >= low && mean <= high)
    .map(([mean, place]) => `${place},${area.y(mean)}`)
    .join(" ");
  draw(svg, "polyline", { class: "under", points: line });
  draw(svg, "polyline", { class: "over", points: line });
  const range = (column) => (edges[column + 1] === null ? `${whole(edges[column])} or more` : edges[column + 1] - edges[column] === 1 ? whole(edges[column]) : `${whole(edges[column])} to ${whole(edges[column + 1] - 1)}`);
  follow(svg, width, area, (place) => {
    const column = Math.floor((place - left) / step);
    if (column < 0 || column >= counts.length) return null;
    return { x: x(column), width: step, text: `${range(column)} ${length.unit}\n${whole(sum(counts[column]))} candidates\nmean reward ${compact(means[column])}` };
  });
  asTable(host, [`Length in ${length.unit}`, "Candidates", "Mean reward"], () => counts.map((column, place) => [range(place), whole(sum(column)), compact(means[place])]));
}

function drawChart(host) {
  const width = Math.floor(host.clientWidth);
  if (!width || Number(host.dataset.drawn) === width) return;
  host.dataset.drawn = width;
  const scorer = report.scorers[Number(host.dataset.scorer)];
  const kinds = {
    rewards: () => histogram(host, width, scorer.reward.histogram, [[scorer.reward.quantiles[2].value, "median"]]),
    "margin-second": () => histogram(host, width, scorer.margins.second.histogram),
    "margin-worst": () => histogram(host, width, scorer.margins.worst.histogram),
    curve: () => curve(host, width, scorer.curve),
    density: () => density(host, width, scorer.lengths.find((length) => length.unit === host.dataset.unit), scorer.reward.histogram),
    spark: () => spark(host, width, scorer),
  };
  kinds[host.dataset.chart]();
}

{
  const watcher = new ResizeObserver((entries) => entries.forEach((entry) => drawChart(entry.target)));
  for (const host of document.querySelectorAll(".chart")) watcher.observe(host);
}
