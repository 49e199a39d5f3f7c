// Numbers of pictures: decoding, writing, ranges, ticks, the front.
const UNITS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];

function floats(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return new Float32Array(bytes.buffer);
}

// Numbers for people: 1.24M, 3.2812, 2.4e18; with the distance of two ticks, as many decimals as tell them apart.
function amount(value, apart = 0) {
  const size = Math.abs(value);
  if (size >= 1e15) return value.toPrecision(4).replace(/\.?0*e\+/, "e");
  const [factor, unit] = UNITS.find(([each]) => size >= each) || [1, ""];
  const scaled = value / factor;
  if (!apart) return +scaled.toPrecision(5) + unit;
  if (size && size < 1e-3) return value.toExponential(1).replace(".0", "");
  let decimals = 0;
  for (let step = apart / factor; decimals < 8 && Math.abs(step / Math.round(step) - 1) > 1e-3; step *= 10) decimals++;
  return scaled.toFixed(decimals).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "") + unit;
}

function duration(value) {
  if (value < 60) return +value.toPrecision(3) + " s";
  const minutes = Math.round(value / 60), hours = Math.round(value / 3600);
  if (value < 3600) return value % 60 < 1 ? minutes + " min" : `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  if (value < 172800) return `${Math.floor(minutes / 60)} h` + (minutes % 60 ? ` ${minutes % 60} min` : "");
  return `${Math.floor(hours / 24)} d` + (hours % 24 ? ` ${hours % 24} h` : "");
}

function spread(columns, from = -Infinity, to = Infinity) {
  let low = Infinity, high = -Infinity;
  for (const [at, value] of columns) {
    for (let i = 0; i < value.length; i++) {
      if (at[i] < from || at[i] > to) continue;
      if (value[i] < low) low = value[i];
      if (value[i] > high) high = value[i];
    }
  }
  return low <= high ? [low, high] : null;
}

function padded([low, high], log, share) {
  if (log) {
    const factor = (high / low) ** share || 1;
    return low === high ? [low / 2, high * 2] : [low / factor, high * factor];
  }
  const room = (high - low) * share || Math.abs(high) * 0.05 || 1;
  return [low - room, high + room];
}

// Ticks of a logarithmic axis; one of less than a decade gets round numbers at equal distances.
function logTicks(low, high, count) {
  if (high / low < 10) {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(each => each * power).find(each => each >= raw);
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(+(i * step).toPrecision(10));
    return found;
  }
  const decades = Math.log10(high / low), found = [];
  const every = Math.max(1, Math.ceil(decades / count)), of = decades < count / 3 ? [1, 2, 5] : [1];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    if (((power % every) + every) % every) continue;
    for (const each of of) if (each * 10 ** power >= low && each * 10 ** power <= high) found.push(+(each + "e" + power));
  }
  return found;
}

function front(curves) {
  const points = curves.flatMap(curve => Array.from(curve.at, (x, i) => [x, curve.value[i]]));
  let best = Infinity;
  return points.sort((a, b) => a[0] - b[0] || a[1] - b[1]).filter(([, y]) => y < best && ((best = y), true));
}

function nearest(at, x) {
  let low = 0, high = at.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (at[middle] < x) low = middle; else high = middle;
  }
  return Math.abs(at[high] - x) < Math.abs(at[low] - x) ? high : low;
}
