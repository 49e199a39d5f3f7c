// The page: what the reader chose, and the pictures, made of the payloads of interactive.py.

// What the reader chose, for all pictures; a page that is being watched keeps it when it loads anew.
const chosen = {axis: "", hidden: {}, log: {}};
const KEY = "gptlab " + location.pathname;
try { if (root.dataset.reload) Object.assign(chosen, JSON.parse(sessionStorage.getItem(KEY) || "{}")); } catch { /* none */ }
const keep = () => { try { sessionStorage.setItem(KEY, JSON.stringify(chosen)); } catch { /* a browser may refuse */ } };

const pictures = new Map();  // figure -> its functions

function segmented(bar, label, names, pressed, press) {
  const group = element("div", bar, "choice");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", label);
  const buttons = names.map((name, i) => {
    const button = element("button", group, "", name);
    button.type = "button";
    button.onclick = () => press(i);
    return button;
  });
  return () => buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(pressed(i))));
}

function mount(figure) {
  const data = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
  for (const curve of data.curves) {
    curve.x = curve.x.map(floats);
    for (const name of ["y", "low", "high"]) if (curve[name]) curve[name] = floats(curve[name]);
  }
  const name = figure.querySelector("h3").textContent, names = {};
  const labelled = data.curves.filter(curve => curve.label);
  for (const curve of labelled) names[curve.run] = curve.label.split(": ")[0];
  const caption = figure.querySelector("figcaption");
  const put = className => { const made = element("div", null, className); caption.before(made); return made; };
  const bar = put("bar"), legend = put("legend"), plot = put("plot");
  const log = () => chosen.log[name] || data.log, axis = () => data.axes.includes(chosen.axis) ? chosen.axis : data.axes[0];
  let u = null, zoom = null, refresh = [];

  if (data.axes.length > 1) {
    refresh.push(segmented(bar, "x axis", data.axes.map(each => each.replace("training ", "")), i => data.axes[i] === axis(),
      i => { chosen.axis = data.axes[i]; keep(); all(); }));
  }
  ["x", "y"].forEach((which, side) => refresh.push(segmented(bar, which + " scale", [which + " linear", "log"], i => log()[side] === !!i, i => {
    chosen.log[name] = log().map((each, k) => k === side ? !!i : each);
    keep();
    draw();
  })));
  for (const curve of labelled) {
    const button = element("button", legend), [first, ...rest] = curve.label.split(": ");
    button.type = "button";
    button.title = "click: hide or show; double click: only this one";
    swatch(button, curve);
    const text = element("span", button, "", first);
    if (rest.length) element("small", text, "", "  " + rest.join(": "));
    button.onclick = () => { chosen.hidden[curve.run] = !chosen.hidden[curve.run]; keep(); all(); };
    button.ondblclick = () => {
      const alone = labelled.every(each => each.run === curve.run || chosen.hidden[each.run]);
      for (const each of labelled) chosen.hidden[each.run] = !alone && each.run !== curve.run;
      keep();
      all();
    };
    refresh.push(() => button.setAttribute("aria-pressed", String(!chosen.hidden[curve.run])));
  }

  function draw(resetZoom = true) {
    if (resetZoom) zoom = null;
    if (u) u.destroy();
    plot.replaceChildren();
    refresh.forEach(each => each());
    const scales = log(), number = data.axes.indexOf(axis());
    let curves = data.curves.filter(curve => !chosen.hidden[curve.run]);
    if (new Set(curves.map(curve => curve.run)).size > FAINT_GROUPS) curves = curves.filter(curve => curve.style !== "faint");
    curves = curves.map(curve => visible(curve, number, scales)).filter(curve => curve.at.length);
    const made = curves.flatMap(layers).sort((a, b) => a.settings.depth - b.settings.depth);
    const xs = spread(curves.map(curve => [curve.at, curve.at])) || [1, 10];
    if (!scales[0] && xs[0] > 0 && xs[0] < 0.3 * xs[1]) xs[0] = 0;
    const xRange = () => zoom || padded(xs, scales[0], 0.015);
    const yRange = () => {
      const columns = curves.flatMap(curve => [curve.value, curve.low, curve.high].filter(Boolean).map(each => [curve.at, each]));
      const lines = zoom ? [] : data.references.map(([, value]) => [[xs[0]], [value]]).filter(([, [value]]) => !scales[1] || value > 0);
      const found = spread([...columns, ...lines], ...xRange());
      const range = padded(found || [1, 10], scales[1], 0.06);
      const [low, high] = zoom ? [null, null] : data.frame;
      const framed = [low != null && (!scales[1] || low > 0) ? low : range[0], high ?? range[1]];
      return framed[0] < framed[1] ? framed : range;
    };
    const box = element("div", plot, "read"), spot = document.createElement("div");
    box.hidden = true;
    spot.className = "spot";
    const size = {width: plot.clientWidth, height: plot.clientHeight};
    u = new uPlot({
      mode: 2, ...size, legend: {show: false}, padding: [10, 12, 0, 0],
      scales: {
        x: {time: false, distr: scales[0] ? 3 : 1, range: xRange},
        y: {distr: scales[1] ? 3 : 1, range: yRange},
      },
      axes: axes(size, scales, axis()),
      series: [{}, ...made.map(each => each.settings)],
      cursor: {
        points: {show: false}, y: false, drag: {x: true, y: false, setScale: false}, dataIdx: () => null,
        bind: {dblclick: () => () => { zoom = null; u.setData(u.data); }},
      },
      hooks: {
        draw: [plotted => marks(plotted, data, curves)],
        setCursor: [plotted => readOut(plotted, box, spot, curves, names, axis())],
        setSelect: [plotted => {
          const {left, width} = plotted.select;
          if (width < 4) return;
          zoom = [plotted.posToVal(left, "x"), plotted.posToVal(left + width, "x")];
          plotted.setSelect({left: 0, top: 0, width: 0, height: 0}, false);
          plotted.setData(plotted.data);
        }],
      },
    }, [null, ...made.map(each => each.data)], plot);
    u.over.append(spot);
    spot.hidden = true;
    u.over.addEventListener("touchmove", event => {
      const over = u.over.getBoundingClientRect(), [touch] = event.touches;
      u.setCursor({left: touch.clientX - over.left, top: touch.clientY - over.top});
    }, {passive: true});
  }
  draw();
  let width = plot.clientWidth;
  new ResizeObserver(() => {
    if (plot.clientWidth !== width) { width = plot.clientWidth; draw(false); }
  }).observe(plot);
  pictures.set(figure, draw);
}

const all = () => pictures.forEach(draw => draw());

root.classList.add("js");
const figures = document.querySelectorAll("figure");
// A picture is made when it comes near the screen, so that a long page opens at once.
const near = new IntersectionObserver(seen => {
  for (const {target, isIntersecting} of seen) {
    if (isIntersecting && !pictures.has(target)) { near.unobserve(target); mount(target); }
  }
}, {rootMargin: "600px"});
figures.forEach(figure => near.observe(figure));
const whole = () => figures.forEach(figure => pictures.has(figure) || mount(figure));
addEventListener("beforeprint", whole);
// A link to something folded away opens it.
const unfold = () => { const target = document.getElementById(location.hash.slice(1)); if (target && target.tagName === "DETAILS") target.open = true; };
addEventListener("hashchange", unfold);
unfold();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
if (root.dataset.reload) setTimeout(() => location.reload(), 1000 * root.dataset.reload);
