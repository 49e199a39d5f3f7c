// A picture with uPlot: layers of a curve, what lies over them, the read-out at the cursor, the axes.
const root = document.documentElement;
const COLOURS = 6, FAINT_GROUPS = 4, READ_ROWS = 14, NEAR = 26;
const DASHES = [[], [7, 4], [2, 3], [8, 3, 2, 3]];
const SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200,
  ...[1, 2, 5, 10, 20, 50, 100].map(days => 86400 * days)];
const TIME = "training time";

function element(tag, parent, name = "", text = "") {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

const colour = run => getComputedStyle(root).getPropertyValue("--c" + run % COLOURS).trim();
const ink = name => getComputedStyle(root).getPropertyValue("--" + name).trim();
const dash = run => DASHES[Math.floor(run / COLOURS) % DASHES.length];

function swatch(parent, curve) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const mark = document.createElementNS(svg.namespaceURI, curve.style === "points" ? "circle" : "line");
  const places = curve.style === "points" ? {cx: 11, cy: 6, r: 3.5} : {x1: 1, x2: 21, y1: 6, y2: 6};
  for (const [name, value] of Object.entries(places)) mark.setAttribute(name, value);
  mark.style.stroke = mark.style.fill = `var(--c${curve.run % COLOURS})`;
  mark.style.strokeWidth = curve.style === "points" ? 0 : 2.4;
  mark.style.strokeDasharray = dash(curve.run).join(" ");
  svg.setAttribute("viewBox", "0 0 22 12");
  svg.append(mark);
  parent.append(svg);
}

// uPlot draws lines and steps; points, bands and bars are paths of our own.
function dots(u, index, from, to) {
  const [x, y] = u.data[index], path = new Path2D(), r = (x.length > 40 ? 2.6 : 3.6) * devicePixelRatio;
  for (let i = from; i <= to; i++) {
    const left = u.valToPos(x[i], "x", true), top = u.valToPos(y[i], "y", true);
    path.moveTo(left + r, top);
    path.arc(left, top, r, 0, 2 * Math.PI);
  }
  return {stroke: path, fill: path, flags: 3};
}

function area(low, high) {
  return (u, index, from, to) => {
    const [x] = u.data[index], path = new Path2D();
    const place = (i, y) => [u.valToPos(x[i], "x", true), u.valToPos(y[i], "y", true)];
    if (from === to) {  // a single point, over which a band has no width
      const [left, top] = place(from, high), bottom = place(from, low)[1];
      path.rect(left - devicePixelRatio, top, 2 * devicePixelRatio, bottom - top);
    } else {
      for (let i = from; i <= to; i++) path.lineTo(...place(i, high));
      for (let i = to; i >= from; i--) path.lineTo(...place(i, low));
    }
    return {stroke: null, fill: path, flags: 3};
  };
}

const line = uPlot.paths.linear(), steps = uPlot.paths.stepped({align: 1});

// The uPlot series of a curve: a band below, then the curve, then its points.
function layers(curve) {
  const base = {
    facets: [{scale: "x", auto: true}, {scale: "y", auto: true}],
    points: {show: false}, stroke: colour(curve.run), pxAlign: 0,
  };
  const data = [curve.at, curve.value], made = [];
  const add = settings => made.push({settings: {...base, ...settings}, data});
  if (curve.low && curve.high) {
    const alpha = curve.at.length === 1 ? 0.9 : 0.16;
    add({depth: 0, stroke: null, fill: colour(curve.run), alpha, width: 0, paths: area(curve.low, curve.high)});
  }
  if (curve.style === "faint") add({depth: 1, width: 1, alpha: 0.24, paths: line});
  if (curve.style === "line" || curve.style === "line and points") add({depth: 2, width: 1.9, dash: dash(curve.run), paths: line});
  if (curve.style === "steps") add({depth: 2, width: 1.9, dash: dash(curve.run), paths: steps});
  if (curve.style === "bars") add({depth: 0, width: 1.4, fill: colour(curve.run) + "38", paths: steps});
  if (curve.style.endsWith("points")) add({depth: 3, width: 0, fill: colour(curve.run), paths: dots});
  return made;
}

// The points of a curve that a logarithmic axis can show.
function visible(curve, axis, log) {
  const x = curve.x[axis], y = curve.y, kept = [];
  for (let i = 0; i < y.length; i++) if ((!log[0] || x[i] > 0) && (!log[1] || y[i] > 0)) kept.push(i);
  const of = column => column && (kept.length === y.length ? column : kept.map(i => column[i]));
  let low = of(curve.low);
  if (low && log[1]) low = Array.from(low, (value, i) => value > 0 ? value : y[kept[i]] / 10);
  return {...curve, at: of(x), value: of(y), low, high: of(curve.high)};
}

// Drawn over the curves: the front, and the lines across with their labels, which give way to each other.
function marks(u, data, curves) {
  const {ctx, bbox} = u, unit = devicePixelRatio;
  const place = (x, y) => [u.valToPos(x, "x", true), u.valToPos(y, "y", true)];
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.strokeStyle = ctx.fillStyle = ink("faint");
  if (data.front) {
    ctx.lineWidth = 1.4 * unit;
    ctx.beginPath();
    let before = null;
    for (const [x, y] of front(curves)) {
      const [left, top] = place(x, y);
      if (before !== null) ctx.lineTo(left, before);
      ctx.lineTo(left, before = top);
    }
    if (before !== null) ctx.lineTo(bbox.left + bbox.width, before);
    ctx.stroke();
  }
  ctx.lineWidth = unit;
  ctx.font = `${11 * unit}px system-ui, sans-serif`;
  const right = bbox.left + bbox.width, lines = [...data.references].sort((a, b) => a[1] - b[1]);
  ctx.setLineDash([5 * unit, 4 * unit]);
  ctx.beginPath();
  for (const [, value] of lines) {
    ctx.moveTo(bbox.left, u.valToPos(value, "y", true));
    ctx.lineTo(right, u.valToPos(value, "y", true));
  }
  ctx.stroke();
  ctx.setLineDash([]);
  ctx.lineWidth = 4 * unit;
  ctx.lineJoin = "round";
  ctx.strokeStyle = ink("paper");
  let last = Infinity;
  for (const [label, value] of lines) {
    last = Math.min(u.valToPos(value, "y", true) - 4 * unit, last - 13 * unit);
    // At the end from which the curves keep away.
    const [begin, end] = [0, -1].map(i => Math.min(...curves.map(curve => Math.abs(curve.value.at(i) - value))));
    const at = begin > end ? bbox.left + 4 * unit : right - 4 * unit;
    ctx.textAlign = begin > end ? "left" : "right";
    ctx.strokeText(label, at, last);
    ctx.fillText(label, at, last);
  }
  ctx.restore();
}

// The values of all curves at the cursor.
function readOut(u, box, spot, curves, names, axis) {
  const {left, top} = u.cursor;
  box.hidden = spot.hidden = true;
  if (left == null || left < 0) return;
  const x = u.posToVal(left, "x");
  let rows = [];
  for (const curve of curves) {
    if (curve.style === "faint" || !names[curve.run] || !curve.at.length) continue;
    let i = nearest(curve.at, x);
    if ((curve.style === "steps" || curve.style === "bars") && curve.at[i] > x && i) i--;
    const away = u.valToPos(curve.at[i], "x") - left, within = x >= curve.at[0] && x <= curve.at.at(-1);
    if (curve.style.endsWith("points") || !within ? Math.abs(away) > NEAR : false) continue;
    const height = u.valToPos(curve.value[i], "y");
    rows.push({curve, i, left: left + away, top: height, far: Math.abs(height - top) + Math.abs(away) / 4});
  }
  if (!rows.length) return;
  const lines = rows.filter(({curve}) => curve.style !== "points");
  if (rows.length > READ_ROWS && lines.length) rows = lines;
  rows.sort((a, b) => a.far - b.far).splice(READ_ROWS);
  const near = rows[0];
  // From the top of the picture down, a group's rows together.
  const tops = {};
  for (const {curve, top} of rows) tops[curve.run] = Math.min(top, tops[curve.run] ?? Infinity);
  rows.sort((a, b) => tops[a.curve.run] - tops[b.curve.run] || a.curve.run - b.curve.run || a.curve.style.length - b.curve.style.length);
  box.replaceChildren();
  const write = axis === TIME ? duration : amount;
  element("div", box, "", `${axis} ${write(near.curve.at[near.i])}`);
  for (const {curve, i} of rows) {
    const row = element("div", box, curve === near.curve ? "near" : "");
    swatch(row, curve);
    element("span", row, "", names[curve.run]);
    const band = curve.low && curve.high ? ` (${amount(curve.low[i])} to ${amount(curve.high[i])})` : "";
    element("b", row, "", amount(curve.value[i]) + band);
  }
  box.hidden = spot.hidden = false;
  spot.style.background = `var(--c${near.curve.run % COLOURS})`;
  spot.style.left = near.left + "px";
  spot.style.top = near.top + "px";
  spot.hidden = near.top < 0 || near.top > u.over.clientHeight;
  const plot = box.parentElement.clientWidth, start = u.over.offsetLeft + left, wide = box.offsetWidth;
  const place = start + 18 + wide < plot ? start + 18 : start - 18 - wide;
  box.style.left = Math.max(0, Math.min(place, plot - wide)) + "px";
}

function axes(u, log, axis) {
  const common = {
    stroke: ink("faint"), font: "12px system-ui, sans-serif", ticks: {show: false},
    grid: {stroke: ink("rule"), width: 1},
  };
  const scaled = (on, count) => on ? {splits: (_, __, low, high) => logTicks(low, high, count), filter: (_, all) => all} : {};
  const apart = all => Math.min(...all.slice(1).map((each, i) => Math.abs(each - all[i]))) || Math.abs(all[0]) || 1;
  const write = (on, all) => all.map(each => each == null ? "" : amount(each, on ? Math.abs(each) / 10 : apart(all)));
  const narrow = u.width < 480;
  return [
    {...common, ...scaled(log[0], narrow ? 3 : 7), grid: {show: false}, space: narrow ? 64 : 84, size: 26, label: axis, labelSize: 20, labelGap: 0,
      labelFont: "12px system-ui, sans-serif", ...(axis === TIME && !log[0] ? {incrs: SECONDS} : {}),
      values: (_, all) => axis === TIME ? all.map(duration) : write(log[0], all)},
    {...common, ...scaled(log[1], 6), scale: "y", space: 44, values: (_, all) => write(log[1] && all.length < 2, all),
      size: (_, all) => 14 + 7 * Math.max(2, ...(all || []).map(each => each.length))},
  ];
}
