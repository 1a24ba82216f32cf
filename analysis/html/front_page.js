// Draws the front into `root`, a div that holds the table of the front's members: hover shows a trial, a click pins it.
// Every text becomes a text node, never markup.
function drawFront(root, data) {
  const WIDTH = 720, HEIGHT = 470, LEFT = 68, RIGHT = 18, TOP = 14, BOTTOM = 52;
  const hidden = new Set(), pinned = new Set();
  let shownAxes = [0, 1], all = false;

  function make(name, attributes = {}, ...children) {
    const svg = ["svg", "g", "line", "path", "text", "polyline"].includes(name);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  const text = value => typeof value === "number" ? String(+value.toPrecision(4)) : String(value);
  const label = point => String(point.number).padStart(3, "0") + " " + point.method;
  const tested = (point, i) => point.test[i] === null ? "" : ` → ${point.test[i].toFixed(3)} on test`;
  const claimed = (point, i) =>
    point.half[i] === null ? point.values[i].toFixed(4) : point.values[i].toFixed(3) + " ± " + point.half[i].toFixed(3);
  const chance = point => point.chance === null ? "–" : point.chance.toFixed(2);
  const visible = () => data.points.filter(point => !hidden.has(point.method));

  function limits(i) {
    if (!all) return data.axes[i].frame;
    const ends = visible().flatMap(({ values, half, front }) => [-1, 1].map(side => values[i] + side * front * half[i]))
      .concat(visible().map(point => point.test[i]).filter(value => value !== null));
    const low = Math.min(...ends), high = Math.max(...ends), margin = Math.max(0.06 * (high - low), 1e-3);
    return [low - margin, high + margin];
  }
  function ticks([low, high]) {
    const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find(factor => factor * power >= rough) * power, found = [];
    for (let n = 0, first = Math.ceil(low / step); n < 20 && (first + n) * step <= high; n++) {
      found.push(+((first + n) * step).toPrecision(12));
    }
    return found;
  }
  function shape(style, x, y, r) {
    return make("path", { d: style.path, fill: style.color, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${r})` });
  }

  const plot = make("div", { class: "plot" }), pins = make("div", { class: "pins" });
  const tip = make("div", { class: "tip", hidden: "" }), outsiders = make("span", { class: "hint" });

  function draw() {
    const [i, j] = shownAxes, xLimits = limits(i), yLimits = limits(j);
    const px = v => LEFT + (v - xLimits[0]) / (xLimits[1] - xLimits[0]) * (WIDTH - LEFT - RIGHT);
    const py = v => HEIGHT - BOTTOM - (v - yLimits[0]) / (yLimits[1] - yLimits[0]) * (HEIGHT - TOP - BOTTOM);
    const inside = p => [[i, xLimits], [j, yLimits]].every(([k, [a, b]]) => p.values[k] >= a && p.values[k] <= b);
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Pareto front" });
    for (const v of ticks(xLimits)) {
      svg.append(make("line", { class: "grid", x1: px(v), x2: px(v), y1: TOP, y2: HEIGHT - BOTTOM }));
      svg.append(make("text", { x: px(v), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, text(v)));
    }
    for (const v of ticks(yLimits)) {
      svg.append(make("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: py(v), y2: py(v) }));
      svg.append(make("text", { x: LEFT - 7, y: py(v) + 4, "text-anchor": "end" }, text(v)));
    }
    const middle = (TOP + HEIGHT - BOTTOM) / 2;
    svg.append(make("text", { class: "axis-label", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 12, "text-anchor": "middle" },
      data.axes[i].label));
    svg.append(make("text", { class: "axis-label", x: 16, y: middle, "text-anchor": "middle",
      transform: `rotate(-90 16 ${middle})` }, data.axes[j].label));

    const shown = visible().filter(inside), front = shown.filter(point => point.front);
    const two = data.axes.length === 2;  // with three objectives the front is a surface, which no line bounds
    for (const band of two ? data.bands.filter(each => each.length > 1) : []) {  // points that cannot be told apart
      const own = band.map(number => front.find(point => point.number === number)).filter(Boolean);
      const path = own.map(p => `${px(p.values[i]).toFixed(1)},${py(p.values[j]).toFixed(1)}`).join(" ");
      svg.append(make("polyline", { class: "band", points: path }));
    }
    if (two && data.bands.every(band => band.length === 1)) {
      const ordered = [...front].sort((p, q) => p.values[i] - q.values[i]), corners = [];
      ordered.forEach((point, k) => {
        const before = ordered[k - 1];  // the step turns so that it bounds what the front dominates
        if (before) corners.push(data.axes[i].up ? [before.values[i], point.values[j]] : [point.values[i], before.values[j]]);
        corners.push([point.values[i], point.values[j]]);
      });
      const path = corners.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ");
      svg.append(make("polyline", { class: "steps", points: path }));
    }
    for (const point of front) bars(svg, point, i, j, px, py);
    for (const point of shown) svg.append(dot(point, px(point.values[i]), py(point.values[j])));
    for (const point of front) arrow(svg, point, i, j, px, py);
    const [right, up] = [data.axes[i].up, data.axes[j].up];  // a number stands where no point can: it would dominate this one
    for (const point of front) {
      const place = { x: px(point.values[i]) + (right ? 8 : -8), y: py(point.values[j]) + (up ? -7 : 15) };
      svg.append(make("text", { class: "number", ...place, "text-anchor": right ? "start" : "end" }, String(point.number)));
    }
    const outside = visible().length - shown.length;
    outsiders.textContent = outside ? `outside the frame: ${outside}` : "";
    plot.replaceChildren(svg, tip);
  }
  function bars(svg, point, i, j, px, py) {
    const [x, y] = [point.values[i], point.values[j]], [dx, dy] = [point.half[i], point.half[j]];
    if (dx !== null) svg.append(make("line", { class: "bar", x1: px(x - dx), x2: px(x + dx), y1: py(y), y2: py(y) }));
    if (dy !== null) svg.append(make("line", { class: "bar", x1: px(x), x2: px(x), y1: py(y - dy), y2: py(y + dy) }));
  }
  function arrow(svg, point, i, j, px, py) {  // from what is claimed to the test split
    if (point.test[i] === null || point.test[j] === null) return;
    const from = [px(point.values[i]), py(point.values[j])], to = [px(point.test[i]), py(point.test[j])];
    const angle = Math.atan2(to[1] - from[1], to[0] - from[0]), color = data.methods[point.method].color;
    const wing = side => `${to[0] - 9 * Math.cos(angle + side * 0.45)},${to[1] - 9 * Math.sin(angle + side * 0.45)}`;
    const points = `${from} ${to} ${wing(1)} ${to} ${wing(-1)}`;
    svg.append(make("polyline", { class: "arrow", stroke: color, points }));
  }
  function dot(point, x, y) {
    const style = data.methods[point.method], node = shape(style, x, y, point.front ? 6.5 : 4.2);
    node.setAttribute("fill-opacity", point.front ? 1 : 0.4);
    node.setAttribute("class", "dot" + (point.front ? " member" : "") + (pinned.has(point) ? " pinned" : ""));
    node.setAttribute("tabindex", 0);
    node.setAttribute("role", "button");
    node.setAttribute("aria-label", `trial ${label(point)}` + (point.front ? ", on the front" : ""));
    const light = on => () => { node.classList.toggle("lit", on); on ? showTip(point, x, y) : tip.hidden = true; };
    for (const name of ["mouseenter", "focus"]) node.addEventListener(name, light(true));
    for (const name of ["mouseleave", "blur"]) node.addEventListener(name, light(false));
    node.addEventListener("click", () => pin(point));
    node.addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") pin(point); });
    return node;
  }
  function showTip(point, x, y) {
    const settings = Object.entries(point.settings).map(([name, value]) => `${name} ${text(value)}`);
    const values = data.axes.map((axis, i) => `${axis.name} ${claimed(point, i)}${tested(point, i)}`);
    const luck = point.chance === null ? "" : `, on the front with probability ${chance(point)}`;
    const heading = label(point) + (point.front ? "  (front)" : "");
    tip.textContent = [heading, ...values, `trained ${point.trainings}×${luck}`, ...settings].join("\n");
    tip.hidden = false;
    const share = plot.clientWidth / WIDTH, left = x * share + 14;
    tip.style.left = `${left + tip.offsetWidth > plot.clientWidth ? Math.max(0, left - tip.offsetWidth - 28) : left}px`;
    tip.style.top = `${Math.max(0, Math.min(y * share - 20, plot.clientHeight - tip.offsetHeight))}px`;
  }

  function pin(point) {
    pinned.has(point) ? pinned.delete(point) : pinned.add(point);
    draw();
    const rows = [...pinned], names = [...new Set(rows.flatMap(row => Object.keys(row.settings)))];
    const line = (head, cell) => make("tr", {}, make("th", {}, head), ...rows.map(row => make("td", {}, cell(row))));
    const heads = rows.map(row => {
      const close = make("button", { type: "button", "aria-label": `unpin ${label(row)}` }, "×");
      close.addEventListener("click", () => pin(row));
      return make("th", {}, label(row), close);
    });
    const body = [make("tr", {}, make("th", {}, "trial"), ...heads), line("front", row => row.front ? "yes" : "no")];
    data.axes.forEach((axis, i) => body.push(line(axis.name, row => claimed(row, i) + tested(row, i))));
    body.push(line("trainings", row => String(row.trainings)), line("on the front", chance));
    names.forEach(name => body.push(line(name, row => name in row.settings ? text(row.settings[name]) : "–")));
    pins.replaceChildren(...(rows.length ? [make("table", {}, make("tbody", {}, ...body))] : []));
  }

  function tick(caption, checked, change, ...before) {
    const box = make("input", { type: "checkbox" });
    box.checked = checked;
    box.addEventListener("change", () => { change(box.checked); draw(); });
    return make("label", {}, box, ...before, caption);
  }
  function legend() {
    const bar = make("div", { class: "legend" });
    for (const [method, style] of Object.entries(data.methods)) {
      const mark = shape(style, 7, 7, 5);
      const change = on => on ? hidden.delete(method) : hidden.add(method);
      bar.append(tick(method, true, change, make("svg", { viewBox: "0 0 14 14" }, mark)));
    }
    if (data.points.some(p => data.axes.some(({ frame: [low, high] }, i) => p.values[i] < low || p.values[i] > high))) {
      bar.append(tick("show outliers", false, on => { all = on; }));
    }
    bar.append(outsiders);
    if (data.axes.length > 2) [0, 1].forEach(side => bar.append(choice(side)));
    return bar;
  }
  function choice(side) {
    const select = make("select", { "aria-label": side ? "vertical axis" : "horizontal axis" });
    data.axes.forEach((axis, i) => select.append(make("option", { value: i }, axis.name)));
    select.value = shownAxes[side];
    select.addEventListener("change", () => { shownAxes[side] = +select.value; draw(); });
    return make("label", {}, side ? "up" : "across", select);
  }

  const members = data.points.filter(point => point.front).length;
  const what = "complete configurations";
  const table = make("div", { class: "wide" }, root.querySelector(".members"));
  root.append(make("h2", {}, `${data.name}: ${members} of ${data.points.length} ${what} on the Pareto front`));
  const joined = data.axes.length === 2 && data.bands.some(band => band.length > 1)
    ? "A grey band joins neighbours that cannot be told apart. " : "";
  root.append(make("p", { class: "hint" }, data.points.length
    ? `Larger marks are the front. ${data.bars}${joined}Hover shows a configuration, a click pins it for comparison.`
    : "No trial is complete yet."));
  if (data.verdict.length) root.append(make("p", {}, data.verdict.join(" ")));
  if (data.points.length) {
    root.append(legend(), make("div", { class: "stage" }, plot, pins));
    draw();
  }
  root.append(table);
}
