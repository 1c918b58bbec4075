"use strict";
// The pictures of one page. Data is in #data, one entry per run or graph; arrays are indexed by item, which is a
// task, or a group of tasks in an aggregated graph.

const DATA = JSON.parse(document.getElementById("data").textContent);
for (const d of DATA) {  // what another one says as well, and what bars of single tasks are called
  for (const [key, i] of Object.entries(d.same ?? {})) d[key] = DATA[i][key];
  if (d.bars && !d.bars.label) Object.assign(d.bars, {label: d.bars.item.map(t => d.label[t]), op: d.bars.item.map(t => d.op[t])});
}
const tip = document.getElementById("tip");
// An element with children; texts become text, whatever is in them.
function node(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
const styles = () => getComputedStyle(document.documentElement);
const colour = name => styles().getPropertyValue(name).trim();

function time(s, unit) {
  if (s === 0) return "0";
  if (unit !== "s") return Number(s.toPrecision(5)).toString();
  for (const [name, scale] of [["s", 1], ["ms", 1e-3], ["us", 1e-6]])
    if (Math.abs(s) >= scale) return (s / scale).toPrecision(3) + " " + name;
  return (s / 1e-9).toPrecision(3) + " ns";
}

function ticked(at, step, last, unit) {  // a time on an axis: as many digits as tell it from the next one
  const [name, scale] = unit !== "s" ? ["", 1]
    : [["s", 1], ["ms", 1e-3], ["us", 1e-6]].find(([, size]) => last >= size) ?? ["ns", 1e-9];
  const digits = Math.min(12, Math.max(0, -Math.floor(Math.log10(step / scale) + 1e-9)));
  return at === 0 ? "0" : (at / scale).toFixed(digits) + (name && " " + name);
}

const STRIP = 48;  // pixels of one timeline

function size(bytes) {  // as in the tables
  for (const [name, scale] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]])
    if (bytes >= scale) return Number((bytes / scale).toPrecision(4)) + " " + name;
  return Math.round(bytes) + " bytes";
}

// A canvas with a world that one can move and magnify: by wheel, drag, two fingers and keys. What is under the pointer
// is a pair of a kind and a number, or null.
class View {
  constructor(canvas, world, {begin, vertical, draw, pick, choose, hover, key, moved, range}) {
    Object.assign(this, {canvas, world, begin, vertical, drawWorld: draw, pick, choose, hover, key, moved, range});
    this.fingers = new Map();
    this.home();
    canvas.addEventListener("wheel", e => {
      e.preventDefault();
      const [x, y] = this.at(e);
      this.zoom(Math.exp(-e.deltaY / 400), x, y);
    }, {passive: false});
    canvas.addEventListener("pointerdown", e => {
      canvas.setPointerCapture(e.pointerId);
      this.fingers.set(e.pointerId, this.at(e));
      this.drag = [...this.at(e), false];
      this.from = e.shiftKey && this.range ? this.x(this.drag[0]) : null;
    });
    canvas.addEventListener("pointermove", e => {
      const [x, y] = this.at(e);
      if (this.drag && this.fingers.size === 2) this.pinch(e.pointerId, x, y);
      else if (this.drag && this.from !== null) {
        this.drag[2] = true;
        this.range([Math.min(this.from, this.x(x)), Math.max(this.from, this.x(x))]);
      } else if (this.drag) {
        const [x0, y0, moved] = this.drag;
        if (moved || Math.hypot(x - x0, y - y0) > 4) {
          this.ox += x - x0;
          if (this.vertical) this.oy += y - y0;
          this.drag = [x, y, true];
          this.fingers.set(e.pointerId, [x, y]);
          this.changed();
        }
      } else {
        const item = this.pick(x, y);
        tip.style.display = item ? "block" : "none";
        if (item) {
          tip.textContent = this.hover(item);
          tip.style.left = Math.min(e.clientX + 14, innerWidth - tip.offsetWidth - 4) + "px";
          tip.style.top = Math.min(e.clientY + 14, innerHeight - tip.offsetHeight - 4) + "px";
        }
      }
    });
    const up = e => {
      if (e.type === "pointerup" && this.drag && !this.drag[2] && this.fingers.size < 2) this.choose(this.pick(...this.at(e)));
      this.fingers.delete(e.pointerId);
      this.drag = null;
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => { tip.style.display = "none"; });
    canvas.addEventListener("keydown", e => {
      const middle = [this.width / 2, this.height / 2];
      if (e.key === "+" || e.key === "=") this.zoom(1.3, ...middle);
      else if (e.key === "-") this.zoom(1 / 1.3, ...middle);
      else if (e.key === "0") { this.home(true); this.changed(); }
      else if (!this.key(e.key)) return;
      e.preventDefault();
    });
    new ResizeObserver(() => { this.home(); this.draw(); }).observe(canvas);
  }
  get width() { return this.canvas.clientWidth; }
  get height() { return this.canvas.clientHeight; }
  at(e) {
    const box = this.canvas.getBoundingClientRect();
    return [e.clientX - box.left - this.canvas.clientLeft, e.clientY - box.top - this.canvas.clientTop];
  }
  home(all = this.all) {  // all of the world, with a margin; of a training what comes after its warm-up
    this.all = all;
    const [first, y0, x1, y1] = this.world, x0 = all ? first : Math.max(first, this.begin ?? first), left = this.vertical ? 12 : 64;
    this.sx = (this.width - left - 12) / Math.max(x1 - x0, 1e-300);
    this.sy = (this.height - (this.vertical ? 24 : 40)) / Math.max(y1 - y0, 1e-300);
    this.ox = left - x0 * this.sx;
    this.oy = 12 - y0 * this.sy;
  }
  changed() {
    this.draw();
    if (this.moved) this.moved(this);
  }
  pinch(id, x, y) {  // two fingers: magnify around the middle of them
    const other = [...this.fingers].find(([key]) => key !== id)[1], old = this.fingers.get(id);
    const spread = p => Math.max(Math.abs(p[0] - other[0]), 8);
    this.fingers.set(id, [x, y]);
    this.drag[2] = true;
    this.zoom(spread([x, y]) / spread(old), (x + other[0]) / 2, (y + other[1]) / 2);
  }
  x(px) { return (px - this.ox) / this.sx; }
  zoom(factor, x, y) {
    this.ox = x - (x - this.ox) * factor;
    this.sx *= factor;
    if (this.vertical) {
      this.oy = y - (y - this.oy) * factor;
      this.sy *= factor;
    }
    this.changed();
  }
  reveal(x, y) {  // move a point of the world into sight
    const px = this.X(x), py = this.Y(y);
    if (px < 30 || px > this.width - 30) this.ox += this.width / 2 - px;
    if (this.vertical && (py < 20 || py > this.height - 20)) this.oy += this.height / 2 - py;
  }
  X(x) { return x * this.sx + this.ox; }
  Y(y) { return y * this.sy + this.oy; }
  draw() {
    const ratio = devicePixelRatio || 1, c = this.canvas;
    c.width = Math.round(this.width * ratio);
    c.height = Math.round(this.height * ratio);
    const g = c.getContext("2d");
    g.scale(ratio, ratio);
    g.font = "11px system-ui, sans-serif";
    g.textBaseline = "middle";
    this.drawWorld(g);
  }
}

function near(x, y, lines) {  // which of the lines from (x0, y0) to (x1, y1) is within four pixels
  let best = -1, nearest = 4;
  lines.forEach(([x0, y0, x1, y1], i) => {
    const dx = x1 - x0, dy = y1 - y0;
    const along = Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / Math.max(dx * dx + dy * dy, 1e-9)));
    const far = Math.hypot(x - x0 - along * dx, y - y0 - along * dy);
    if (far < nearest) { nearest = far; best = i; }
  });
  return best;
}

class Panel {
  constructor(root, d) {
    Object.assign(this, {root, d, selected: -1, matches: null});
    const n = d.label.length;
    this.hidden = new Set();  // ops that are dimmed
    this.range = null;        // [from, to] of times that were marked
    this.idle = -1;           // the idle time that is selected
    this.successors = Array.from({length: n}, () => []);
    d.predecessors.forEach((list, t) => { for (const p of list) this.successors[p].push(t); });
    this.critical = new Set(d.critical);
    this.chain = new Set(d.chain ?? []);
    const key = key => this.key(key);
    const dag = root.querySelector("canvas.dag");
    this.views = [this.dag = new View(dag, d.world, {
      key, vertical: true, draw: g => this.drawDag(g), pick: (x, y) => this.pickDag(x, y),
      choose: found => found?.[0] === "edge" ? this.choose(found) : this.select(found ? found[1] : -1),
      hover: found => found[0] === "edge" ? this.describeThere(found) : this.describe(found[1]),
    })];
    const gantt = root.querySelector("canvas.gantt");
    if (gantt) {
      this.lanes = d.lanes.length;
      gantt.style.height = Math.max(106, Math.min(560, 40 + (this.lanes > 8 ? 22 : 30) * this.lanes)) + "px";
      const end = this.end = Math.max(d.makespan, ...d.bounds.map(bound => bound[1]), d.failed ? d.failed.end * 1.02 : 0);
      this.views.push(this.gantt = new View(gantt, [0, 0, end, this.lanes], {
        key, begin: d.from, vertical: false, draw: g => this.drawGantt(g), pick: (x, y) => this.pickGantt(x, y),
        hover: found => this.describeThere(found), choose: found => this.choose(found),
        moved: view => this.follow(view), range: range => this.mark(range),
      }));
      const times = root.querySelector("canvas.times");
      if (times) {
        this.strips = [["tasks ready and waiting", d.ready, "--chain", String],
          ["bytes under way", d.flight, "--bound", size],
          [d.fullest >= 0 ? `memory of rank ${d.fullest}, the fullest` : "memory", d.memory, "--path", size]]
          .filter(([, line], k) => line && (k === 0 || line[0].length));
        times.style.height = STRIP * this.strips.length + "px";
        this.views.push(this.times = new View(times, [0, 0, end, 1], {
          key, begin: d.from, vertical: false, draw: g => this.drawTimes(g), pick: () => null, choose: () => {}, hover: () => "",
          moved: view => this.follow(view), range: range => this.mark(range),
        }));
      }
    }
    const legend = root.querySelector(".ops");
    legend.addEventListener("click", e => {
      const button = e.target.closest("button");
      if (!button) return;
      const op = +button.dataset.op, shown = this.hidden.has(op);
      if (shown) this.hidden.delete(op); else this.hidden.add(op);
      button.setAttribute("aria-pressed", shown);
      this.redraw();
    });
    this.ops = {ops: d.ops, op: d.op, colours: d.colours, inks: d.inks};
    root.querySelector("select.by")?.addEventListener("change", e => this.colourBy(d.by[e.target.value] ?? this.ops));
    const search = root.querySelector("input.search");
    search.addEventListener("input", () => this.find(search.value));
    search.addEventListener("keydown", e => {
      if (e.key === "Enter" && this.matches?.size) {
        const list = [...this.matches].sort((a, b) => a - b);
        this.select(list[(list.indexOf(this.selected) + 1) % list.length]);
      }
    });
    root.querySelector(".home").addEventListener("click", () => {
      this.mark(null);
      this.views.forEach(v => { v.home(true); v.changed(); });
    });
    this.details = root.querySelector(".details");
    this.details.addEventListener("click", e => {
      if (e.target.dataset.item) this.select(+e.target.dataset.item);
    });
    this.select(-1, false);
  }

  colourBy(chosen) {  // colours, legend and the table of a range by op, rank, precision, step
    const d = this.d;
    Object.assign(d, {ops: chosen.ops, op: chosen.op, colours: chosen.colours, inks: chosen.inks});
    if (d.bars) d.bars.op = d.bars.item.map(t => d.op[t]);
    this.hidden.clear();
    this.root.querySelector(".ops").replaceChildren(...d.ops.map((name, k) => {
      const swatch = node("i", {class: "swatch"});
      swatch.style.background = d.colours[k];
      return node("button", {type: "button", "aria-pressed": "true", "data-op": k}, swatch, name);
    }));
    this.tell();
    this.redraw();
  }

  redraw() { this.views.forEach(view => view.draw()); }

  follow(view) {  // the same time everywhere on the page
    for (const panel of panels)
      for (const other of [panel.gantt, panel.times])
        if (other && other !== view && other.width && panel.d.unit === this.d.unit) {
          const left = view.x(64), width = (view.width - 76) / view.sx;
          other.sx = (other.width - 76) / width;
          other.ox = 64 - left * other.sx;
          other.draw();
        }
  }

  mark(range) {  // a range of times, in all runs of the page that have this unit
    for (const panel of panels)
      if (panel.gantt && panel.d.unit === this.d.unit) {
        panel.range = range;
        panel.tell();
        panel.redraw();
      }
  }

  tell() {  // what happened in the range
    const place = this.root.querySelector(".range"), d = this.d;
    place.replaceChildren();
    this.kept ??= [".shares", ".kernels"].map(name => this.root.querySelector(name)).filter(Boolean)
      .map(table => [table, [...table.childNodes]]);
    if (!this.range) {
      for (const [table, children] of this.kept) table.replaceChildren(...children);
      return;
    }
    const [from, to] = this.range, lanes = this.lanes, rows = new Map();
    const inside = (start, end) => Math.max(0, Math.min(end, to) - Math.max(start, from));
    const add = (name, time_) => {
      const [count, total] = rows.get(name) ?? [0, 0];
      if (time_ > 0) rows.set(name, [count + 1, total + time_]);
    };
    d.bars.start.forEach((start, i) => add(d.ops[d.bars.op[i]], inside(start, d.bars.end[i])));
    d.idle.start.forEach((start, i) => add("idle: " + d.causes[d.idle.cause[i]], inside(start, d.idle.end[i])));
    const cell = (tag, text) => node(tag, {}, text), all = (to - from) * lanes;
    const body = [...rows].map(([name, [count, total]]) => node("tr", {}, cell("td", name), cell("td", String(count)),
      cell("td", time(total, d.unit)), cell("td", (100 * total / all).toFixed(1) + "%")));
    place.append(node("h3", {}, `From ${time(from, d.unit)} to ${time(to, d.unit)}`),
      node("table", {}, node("thead", {}, node("tr", {}, ...["", "number", "time", "share"].map(t => cell("th", t)))),
        node("tbody", {}, ...body)));
    const [shares, kernels] = [".shares", ".kernels"].map(name => this.root.querySelector(name));
    if (shares) shares.replaceChildren(...this.sharesIn(inside, all));
    if (kernels) kernels.replaceChildren(this.kernelsIn(inside));
  }

  sharesIn(inside, all) {  // where the workers' time went, of the range
    const d = this.d, idle = d.causes.map(() => 0);
    d.idle.start.forEach((start, i) => { idle[d.idle.cause[i]] += inside(start, d.idle.end[i]); });
    const parts = [["in tasks", "", "#5B8F7B", all - idle.reduce((a, b) => a + b, 0)],
      ...d.causes.map((name, k) => [name, " hatched", d.causeColours[k], idle[k]])].filter(part => part[3] > 1e-9 * all);
    const made = (tag, kind, paint, ...children) => {
      const found = node(tag, {class: kind}, ...children);
      found.style.setProperty("--c", paint);
      return found;
    };
    const bars = parts.map(([, hatched, paint, value]) => {
      const bar = made("span", "part" + hatched, paint);
      bar.style.width = 100 * value / all + "%";
      return bar;
    });
    const legend = parts.map(([name, hatched, paint, value]) =>
      node("span", {}, made("i", "swatch part" + hatched, paint), `${name} ${(100 * value / all).toFixed(1)}%`));
    return [node("div", {class: "split"}, ...bars), node("div", {class: "legend"}, ...legend)];
  }

  kernelsIn(inside) {  // by op, of the bars that are in the range in part at least
    const d = this.d, rows = new Map();
    d.bars.start.forEach((start, i) => {
      const within = inside(start, d.bars.end[i]), length = d.bars.end[i] - start;
      if (!(within > 0)) return;
      const name = this.ops.ops[d.bars.item[i] >= 0 ? this.ops.op[d.bars.item[i]] : d.bars.op[i]];
      const row = rows.get(name) ?? {count: 0, total: 0, all: [], flops: 0};
      row.count += 1;
      row.total += within;
      row.all.push(length);
      if (d.flop && d.bars.item[i] >= 0) row.flops += d.flops[d.flop[d.bars.item[i]]] * within / length;
      rows.set(name, row);
    });
    const cell = (tag, text) => node(tag, {}, text), head = ["op", "tasks", "total", "fastest", "mean", "slowest"];
    const body = [...rows].sort((a, b) => b[1].total - a[1].total).map(([name, row]) => {
      const cells = [name, row.count.toLocaleString("en"), time(row.total, d.unit), time(Math.min(...row.all), d.unit),
        time(row.all.reduce((a, b) => a + b) / row.count, d.unit), time(Math.max(...row.all), d.unit)];
      if (d.flop) cells.push(row.flops ? Number((row.flops / row.total / 1e9).toPrecision(4)).toString() : "-");
      return node("tr", {}, ...cells.map(text => cell("td", text)));
    });
    if (d.flop) head.push("GFLOP/s");
    return node("div", {class: "scroll"}, node("table", {},
      node("thead", {}, node("tr", {}, ...head.map(text => cell("th", text)))), node("tbody", {}, ...body)));
  }

  choose(found) {
    const d = this.d;
    if (found && found[0] === "idle") {
      this.select(-1);
      this.idle = found[1];
      this.details.replaceChildren(...this.idleStory(found[1]));
      this.redraw();
    } else if (found && (found[0] === "message" || found[0] === "edge")) {
      this.select(-1);
      this.details.replaceChildren(node("p", {}, this.describeThere(found)));
    } else if (found && found[0] === "failed") this.select(d.failed.item);
    else this.select(found ? d.bars.item[found[1]] : -1);
  }

  idleStory(i) {
    const {lane, start, end, cause} = this.d.idle, d = this.d, length = end[i] - start[i];
    const parts = [[node("strong", {}, `${d.lanes[lane[i]]} idle: ${d.causes[cause[i]]}`),
      `, ${time(start[i], d.unit)} to ${time(end[i], d.unit)}, ${(100 * length / d.makespan).toPrecision(2)} % of the makespan`],
      [d.reasons[cause[i]]]];
    const next = d.order ? (d.order[lane[i]] ?? []).find(t => d.start[t] >= end[i] - 1e-12 * d.makespan) : undefined;
    if (next !== undefined)
      parts.push(["Its next task: ", this.link(next), ` at ${time(d.start[next], d.unit)}, which waited for `,
        ...this.why(next), "."]);
    else if (d.order) parts.push(["It had no task after that."]);
    return parts.map(part => node("p", {}, ...part));
  }

  link(p) { return p < 0 ? "" : node("button", {"data-item": p}, this.d.label[p]); }

  why(t) {  // what a task waited for
    const d = this.d, [reason, on, until] = d.waits[t], late = d.start[t] - until;
    const found = {
      start: ["nothing, it was ready when the run began"],
      dependency: ["its last predecessor ", this.link(on)],
      worker: ["its worker, busy with ", this.link(on)],
      message: [`a message: ${on >= 0 && reason === "message" ? d.messages[on] : ""}`],
    }[reason];
    if (reason !== "start") found.push(`, until ${time(until, d.unit)}`);
    if (late > 1e-12 * d.makespan) found.push(`; then ${time(late, d.unit)} passed until the engine started it`);
    return found;
  }

  find(text) {
    const wanted = text.replaceAll(" ", "").toLowerCase();
    this.matches = wanted ? new Set() : null;
    if (wanted) this.d.label.forEach((l, t) => { if (l.toLowerCase().includes(wanted)) this.matches.add(t); });
    this.root.querySelector(".found").textContent = wanted ? this.matches.size + " found" : "";
    this.redraw();
  }

  key(key) {  // along the graph, and along a worker
    const d = this.d, t = this.selected;
    if (key === "Escape") return this.select(-1), true;
    if (key === "Enter") return this.magnify(t), true;
    if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(key)) return false;
    if (t < 0) return this.select(0), true;
    let next = t;
    if (key === "ArrowUp") next = this.latest(d.predecessors[t]);
    else if (key === "ArrowDown") next = this.successors[t][0] ?? t;
    else {
      const step = key === "ArrowLeft" ? -1 : 1;
      const order = d.order ? d.order[d.lane[t]] : null;
      next = order ? order[order.indexOf(t) + step] ?? t : Math.min(Math.max(t + step, 0), d.label.length - 1);
    }
    this.select(next < 0 ? t : next);
    return true;
  }

  latest(list) {
    const end = this.d.end;
    return list.length ? list.reduce((a, b) => (end ? end[b] > end[a] : b > a) ? b : a) : -1;
  }

  magnify(t) {  // bring the selected task into the middle, large enough to read
    if (t < 0) return this.select(0);
    for (const [view, x, size] of [[this.dag, this.d.x[t], 120], [this.gantt, this.middle(t), 100]]) {
      if (!view || x === undefined) continue;
      const wide = view === this.dag ? 1 : this.d.end[t] - this.d.start[t];
      view.zoom(Math.max(1, size / Math.max(wide * view.sx, 1e-9)), view.width / 2, view.height / 2);
      view.ox += view.width / 2 - view.X(x);
      if (view.vertical) view.oy += view.height / 2 - view.Y(this.d.y[t]);
      view.draw();
    }
  }

  middle(t) { return this.d.start ? (this.d.start[t] + this.d.end[t]) / 2 : undefined; }

  // The same task of another run on this page: in the same place, or else of the same name.
  twin(other, t) {
    const label = this.d.label[t];
    return t < 0 ? -1 : other.d.label[t] === label ? t : other.d.label.indexOf(label);
  }

  select(t, everywhere = true) {
    this.selected = t;
    this.idle = -1;
    if (everywhere)
      for (const other of panels)
        if (other !== this && this.d.start && other.d.start) other.select(this.twin(other, t), false);
    this.details.replaceChildren(...t >= 0 ? this.story(t)
      : [node("p", {class: "soft hint"}, "Click a task, or focus a picture and use the arrow keys.")]);
    if (t >= 0) {
      this.dag.reveal(this.d.x[t], this.d.y[t]);
      if (this.gantt && this.d.start) this.gantt.reveal(this.middle(t), 0);
    }
    this.redraw();
  }

  describe(t) {
    const d = this.d, lines = [d.label[t], d.info[t]];
    if (d.start) lines.push(`${time(d.start[t], d.unit)} to ${time(d.end[t], d.unit)} on ${d.lanes[d.lane[t]]}`);
    lines.push(`cost ${time(d.cost[t], d.unit)}, slack ${time(d.slack[t], d.unit)}`);
    return lines.filter(Boolean).join("\n");
  }

  describeThere([kind, i]) {
    const d = this.d, unit = d.unit;
    if (kind === "edge") {
      const [p, t, words] = d.remote[i];
      return `message ${words}\n${d.label[p]} to ${d.label[t]}`;
    }
    const {item, start, end, label} = d.bars;
    const when = (from, to) => `${time(from, unit)} to ${time(to, unit)}`;
    if (kind === "idle") return `idle: ${d.causes[d.idle.cause[i]]}\n${when(d.idle.start[i], d.idle.end[i])}`;
    if (kind === "message") return `message ${d.arrows[i][4]}\n${when(d.arrows[i][2], d.arrows[i][3])}`;
    if (kind === "failed") return `${d.failed.label} failed\n${when(d.failed.start, d.failed.end)}`;
    return item[i] >= 0 ? this.describe(item[i]) : `${label[i]}\n${when(start[i], end[i])}`;
  }

  story(t) {  // paragraphs
    const d = this.d, unit = d.unit;
    const some = list => list.length ? [...list.slice(0, 12).map(p => this.link(p)),
      list.length > 12 ? ` and ${list.length - 12} more` : ""] : ["none"];
    const facts = [`cost ${time(d.cost[t], unit)}, slack ${time(d.slack[t], unit)}`];
    if (this.critical.has(t)) facts.push(", ", node("strong", {}, "on the critical path"));
    const parts = [[node("strong", {}, d.label[t]), " " + d.info[t]], facts];
    if (d.start) {
      if (d.ran && !d.ran[t]) facts.push(d.failed && d.failed.item === t ? "; it failed" : "; it did not run");
      else {
        facts.push(`; ran ${time(d.start[t], unit)} to ${time(d.end[t], unit)} on ${d.lanes[d.lane[t]]}`);
        if (d.chain && d.chain.includes(t)) facts.push(", ", node("strong", {}, "on the chain that set the makespan"));
        parts.push(["Why not sooner? It waited for ", ...this.why(t), "."]);
      }
    }
    parts.push(["waits for: ", ...some(d.predecessors[t])], ["waited for by: ", ...some(this.successors[t])]);
    return parts.map(part => node("p", {}, ...part));
  }

  fill(g, t) {
    g.globalAlpha = (this.matches && !this.matches.has(t)) || this.hidden.has(this.d.op[t]) ? 0.15 : 1;
    g.fillStyle = this.d.colours[this.d.op[t]];
  }

  drawDag(g) {
    const d = this.d, v = this.dag, n = d.label.length, W = v.width, H = v.height;
    const w = Math.max(2.5, Math.min(0.82 * v.sx, 96)), h = Math.max(2.5, Math.min(0.6 * v.sy, 24));
    const line = (p, t) => { g.moveTo(v.X(d.x[p]), v.Y(d.y[p]) + h / 2); g.lineTo(v.X(d.x[t]), v.Y(d.y[t]) - h / 2); };
    g.strokeStyle = colour("--edge");
    g.lineWidth = 0.8;
    g.globalAlpha = Math.max(0.05, Math.min(0.9, Math.sqrt(100 / n) * Math.max(1, v.sx / 20)));  // many edges are no wall
    g.beginPath();
    for (let t = 0; t < n; t++) {
      const y = v.Y(d.y[t]);
      for (const p of d.predecessors[t])
        if (y > -H && v.Y(d.y[p]) < 2 * H && (y > 0 || v.Y(d.y[p]) > 0) && v.Y(d.y[p]) < H) line(p, t);
    }
    g.stroke();
    g.globalAlpha = 1;
    g.strokeStyle = colour("--path");
    g.lineWidth = h > 6 ? 2.2 : 0.8;
    g.beginPath();
    for (let i = 1; i < d.critical.length; i++) line(d.critical[i - 1], d.critical[i]);
    g.stroke();
    const s = this.selected, remote = d.remote ?? [];
    if (remote.length) {
      g.strokeStyle = colour("--bound");
      g.lineWidth = h > 6 ? 1.4 : 0.6;
      g.setLineDash([5, 3]);
      g.beginPath();
      for (const [p, t] of remote) line(p, t);
      g.stroke();
      g.setLineDash([]);
    }
    if (s >= 0) {
      g.strokeStyle = colour("--mark");
      g.lineWidth = 1.6;
      g.beginPath();
      for (const p of d.predecessors[s]) line(p, s);
      for (const t of this.successors[s]) line(s, t);
      g.stroke();
    }
    g.textAlign = "center";
    for (let t = 0; t < n; t++) {
      const x = v.X(d.x[t]), y = v.Y(d.y[t]);
      if (x < -w || x > W + w || y < -h || y > H + h) continue;
      this.fill(g, t);
      if (d.ran && !d.ran[t]) {  // hollow: it did not run
        g.strokeStyle = g.fillStyle;
        g.lineWidth = 1;
        g.setLineDash([3, 2]);
        g.strokeRect(x - w / 2, y - h / 2, w, h);
        g.setLineDash([]);
      } else g.fillRect(x - w / 2, y - h / 2, w, h);
      if (d.failed && d.failed.item === t) this.cross(g, x - w / 2, y - h / 2, w, h);
      if (this.critical.has(t) || t === s) {
        g.strokeStyle = colour(t === s ? "--mark" : "--path");
        g.lineWidth = t === s ? 3 : h > 6 ? 1.6 : 0.5;
        g.strokeRect(x - w / 2, y - h / 2, w, h);
      }
      if (h > 11) this.text(g, d.label[t], x, y, w, d.ran && !d.ran[t] ? -1 : d.op[t]);
    }
    g.globalAlpha = 1;
    for (const [p, t, words] of remote.length > 40 ? remote.filter(([p, t]) => p === s || t === s) : remote) {
      const x = (v.X(d.x[p]) + v.X(d.x[t])) / 2, y = (v.Y(d.y[p]) + v.Y(d.y[t])) / 2, short = words.split(", rank")[0];
      if (h < 11 || x < 0 || x > W || y < 0 || y > H) continue;
      const room = g.measureText(short).width + 6;
      g.fillStyle = colour("--paper");
      g.globalAlpha = 0.8;
      g.fillRect(x - room / 2, y - 7, room, 14);
      g.globalAlpha = 1;
      g.fillStyle = colour("--bound");
      g.fillText(short, x, y);
    }
  }

  text(g, label, x, y, room, op) {  // the label, or what fits of it: its colour says the op
    if (room < 14) return;
    const indices = label.match(/\(([^()]+)\)$/)?.[1];
    const fitting = [label, indices].find(said => said && g.measureText(said).width <= room - 4);
    if (!fitting) return;
    g.fillStyle = op < 0 ? colour("--ink") : this.d.inks[op];
    g.fillText(fitting, x, y);
  }

  pickDag(x, y) {
    const d = this.d, v = this.dag;
    const w = Math.max(8, Math.min(0.82 * v.sx, 96)) / 2, h = Math.max(8, Math.min(0.6 * v.sy, 24)) / 2;
    let best = -1, nearest = Infinity;
    for (let t = 0; t < d.label.length; t++) {
      const dx = Math.abs(v.X(d.x[t]) - x), dy = Math.abs(v.Y(d.y[t]) - y);
      if (dx <= w && dy <= h && dx + dy < nearest) { nearest = dx + dy; best = t; }
    }
    if (best >= 0) return ["task", best];
    const edge = near(x, y, (d.remote ?? []).map(([p, t]) => [v.X(d.x[p]), v.Y(d.y[p]), v.X(d.x[t]), v.Y(d.y[t])]));
    return edge < 0 ? null : ["edge", edge];
  }

  // Hatched in the colour of a cause, so that no idle time looks like a task.
  hatch(g, cause) {
    const tile = node("canvas", {width: 8, height: 8}), c = tile.getContext("2d");
    c.strokeStyle = this.d.causeColours[cause];
    c.lineWidth = 2;
    c.beginPath();
    for (const shift of [-8, 0, 8]) { c.moveTo(shift - 1, 9); c.lineTo(shift + 9, -1); }
    c.stroke();
    return g.createPattern(tile, "repeat");
  }

  drawGantt(g) {
    const d = this.d, v = this.gantt, b = d.bars, W = v.width, h = Math.max(1, v.sy * 0.86);
    g.textAlign = "center";
    const selectedBars = [], idle = d.idle, hatches = d.causes.map((_, cause) => this.hatch(g, cause));
    for (let i = 0; i < idle.start.length; i++) {
      const x0 = v.X(idle.start[i]), x1 = v.X(idle.end[i]);
      if (x1 < 64 || x0 > W || x1 - x0 < 0.4) continue;
      g.fillStyle = hatches[idle.cause[i]];
      g.fillRect(x0, v.Y(idle.lane[i]), x1 - x0, h);
      if (i === this.idle) selectedBars.push([x0, v.Y(idle.lane[i]), x1 - x0]);
    }
    for (let i = 0; i < b.start.length; i++) {
      const x0 = v.X(b.start[i]), x1 = v.X(b.end[i]);
      if (x1 < 64 || x0 > W) continue;
      const t = b.item[i], y = v.Y(b.lane[i]), w = Math.max(x1 - x0, 0.6);
      if (t >= 0) this.fill(g, t);
      else { g.globalAlpha = this.hidden.has(b.op[i]) ? 0.15 : 1; g.fillStyle = d.colours[b.op[i]]; }
      g.fillRect(x0, y, w, h);
      if (t >= 0 && this.chain.has(t)) { g.fillStyle = colour("--chain"); g.fillRect(x0, y, w, 2); }
      if (this.critical.has(t)) { g.fillStyle = colour("--path"); g.fillRect(x0, y + h - 2, w, 2); }
      if (t >= 0 && t === this.selected) selectedBars.push([x0, y, w]);
      if (h > 10) this.text(g, b.label[i], (Math.max(x0, 64) + Math.min(x1, W)) / 2, y + h / 2,
        Math.min(x1, W) - Math.max(x0, 64), b.op[i]);
    }
    g.globalAlpha = 1;
    if (d.arrows.length <= 4000) {
      g.strokeStyle = colour("--mark");
      g.globalAlpha = d.arrows.length > 300 ? 0.15 : 0.45;
      g.lineWidth = 1;
      g.beginPath();
      for (const [from, to, start, end] of d.arrows) {
        g.moveTo(v.X(start), v.Y(from) + h / 2);
        g.lineTo(v.X(end), v.Y(to) + h / 2);
      }
      g.stroke();
      g.globalAlpha = 1;
    }
    if (d.failed) this.drawFailed(g, h);
    const floor = v.Y(this.lanes);
    const near = d.bounds.length > 1 && Math.abs(v.X(d.bounds[0][1]) - v.X(d.bounds[1][1])) < 34;
    for (const [place, [name, at, dashes]] of d.bounds.entries()) {
      g.strokeStyle = g.fillStyle = colour("--bound");
      g.lineWidth = 2;
      g.setLineDash(dashes);
      g.beginPath();
      g.moveTo(v.X(at), 0);
      g.lineTo(v.X(at), floor);
      g.stroke();
      g.setLineDash([]);
      g.textAlign = v.X(at) > W - 60 ? "right" : "left";
      const said = near ? (place ? d.bounds.map(bound => bound[0]).join(", ") : "") : name;
      g.fillText(said, v.X(at) + (v.X(at) > W - 60 ? -4 : 4), 6);
    }
    this.shade(g, v, floor);
    g.strokeStyle = colour("--mark");
    g.lineWidth = 2.5;
    for (const [x, y, w] of selectedBars) g.strokeRect(x, y, Math.max(w, 2), h);
    g.fillStyle = colour("--paper");
    g.fillRect(0, 0, 64, v.height);
    g.fillStyle = colour("--soft");
    g.textAlign = "left";
    const every = Math.max(1, Math.ceil(13 / v.sy));
    for (let lane = 0; lane < this.lanes; lane += every) g.fillText(d.lanes[lane], 4, v.Y(lane) + h / 2, 58);
    this.axis(g, v);
    g.textAlign = "right";
    g.fillText(d.unit === "s" ? "time since the run began" : `time in ${d.unitName}`, W - 6, v.height - 6);
  }

  axis(g, v) {
    g.textAlign = "center";
    const rough = 110 / v.sx, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find(m => m * power >= rough);
    const first = Math.max(0, Math.ceil((64 - v.ox) / v.sx / step)), last = Math.floor(v.x(v.width - 20) / step);
    for (let k = first; k <= last; k++) g.fillText(ticked(k * step, step, last * step, this.d.unit), v.X(k * step), v.height - 20);
  }

  drawFailed(g, h) {  // a cross over the task that failed
    const v = this.gantt, {lane, start, end} = this.d.failed, y = v.Y(lane);
    const x0 = v.X(start), x1 = Math.max(v.X(end), x0 + 8);
    g.fillStyle = colour("--paper");
    g.fillRect(x0, y, x1 - x0, h);
    this.cross(g, x0, y, x1 - x0, h);
  }

  cross(g, x, y, w, h) {
    g.strokeStyle = colour("--path");
    g.lineWidth = 2;
    g.strokeRect(x, y, w, h);
    g.beginPath();
    g.moveTo(x, y); g.lineTo(x + w, y + h); g.moveTo(x, y + h); g.lineTo(x + w, y);
    g.stroke();
  }

  drawTimes(g) {  // ready tasks that wait for a worker, bytes that are under way, and memory, one above the other
    const d = this.d, v = this.times, W = v.width;
    this.strips.forEach(([name, [at, value], paint, said], k) => {
      const bottom = STRIP * (k + 1) - 3, most = Math.max(0, ...value), end = Math.min(v.X(d.makespan), W);
      g.strokeStyle = g.fillStyle = colour(paint);
      g.lineWidth = 1.5;
      g.beginPath();
      g.moveTo(64, bottom);
      let last = bottom;
      for (let i = 0; i < at.length; i++) {
        const x = Math.min(Math.max(v.X(at[i]), 64), W);
        g.lineTo(x, last);
        last = bottom - (STRIP - 20) * value[i] / Math.max(most, 1e-300);
        g.lineTo(x, last);
      }
      g.lineTo(Math.max(end, 64), last);
      g.stroke();
      g.lineTo(Math.max(end, 64), bottom);
      g.globalAlpha = 0.25;
      g.fill();
      g.globalAlpha = 1;
      g.textAlign = "left";
      g.fillStyle = colour("--soft");
      g.fillText(`${name}: up to ${said(most)}`, 68, STRIP * k + 9);
    });
    this.shade(g, v, v.height);
  }

  shade(g, v, floor) {  // the range that was marked
    if (!this.range) return;
    g.fillStyle = colour("--mark");
    g.globalAlpha = 0.12;
    g.fillRect(v.X(this.range[0]), 0, v.X(this.range[1]) - v.X(this.range[0]), floor);
    g.globalAlpha = 1;
  }

  pickGantt(x, y) {
    const d = this.d, v = this.gantt, b = d.bars, lane = Math.floor((y - v.oy) / v.sy), at = (x - v.ox) / v.sx;
    const slop = 1.5 / v.sx;
    const f = d.failed;
    if (f && f.lane === lane && f.start - slop <= at && v.x(v.X(f.start) + 8) + f.end - f.start >= at) return ["failed", 0];
    const between = (y - v.oy) / v.sy - lane > 0.86;  // rows: there messages can be reached
    for (let i = 0; !between && i < b.start.length; i++)
      if (b.lane[i] === lane && b.start[i] - slop <= at && at <= b.end[i] + slop) return ["bar", i];
    const arrow = d.arrows.length <= 4000 ? this.nearArrow(x, y) : -1;
    if (arrow >= 0) return ["message", arrow];
    for (let i = 0; i < d.idle.start.length; i++)
      if (d.idle.lane[i] === lane && d.idle.start[i] <= at && at <= d.idle.end[i]) return ["idle", i];
    return null;
  }

  nearArrow(x, y) {  // a message within four pixels
    const d = this.d, v = this.gantt, h = Math.max(1, v.sy * 0.86) / 2;
    return near(x, y, d.arrows.map(([from, to, start, end]) => [v.X(start), v.Y(from) + h, v.X(end), v.Y(to) + h]));
  }
}

const panels = DATA.map((d, i) => new Panel(document.getElementById("panel-" + i), d));
function rescale(seen) {  // one scale for the runs that are seen side by side
  for (const panel of seen.filter(panel => panel.gantt)) {
    const end = Math.max(...seen.filter(other => other.gantt && other.d.unit === panel.d.unit).map(other => other.end));
    for (const view of [panel.gantt, panel.times].filter(Boolean)) {
      view.world[2] = end;
      view.home();
      view.draw();
    }
  }
}
rescale(panels);

// The two runs of a comparison that are on the page; a number of the map brings another one, a graph its own map.
const comparisons = [...document.querySelectorAll(".comparison")], which = document.getElementById("which");
const map = [...document.querySelectorAll(".heat button")], first = k => comparisons[k].dataset.first.split(",").map(Number);
let shown = map.length ? first(0) : [];
which?.addEventListener("change", () => {
  comparisons.forEach((comparison, k) => { comparison.hidden = k !== +which.value; });
  shown = first(+which.value);
  show();
});
function show() {
  panels.forEach((panel, i) => {
    const was = panel.root.hidden;
    panel.root.hidden = !shown.includes(i);
    panel.root.style.order = shown.indexOf(i);
    if (was && !panel.root.hidden) panel.views.forEach(view => { view.home(); view.draw(); });  // it has a width now
  });
  rescale(shown.map(i => panels[i]));
  for (const button of map) button.setAttribute("aria-pressed", shown.includes(+button.dataset.panel));
  document.getElementById("parting").textContent = shown.length === 2 ? parting(...shown.map(i => panels[i])) : "";
}
function parting(a, b) {  // the first decision in which two runs differ, and what came of it
  const d = a.d, name = panel => panel.root.querySelector("h2").textContent.replace(/^\w+: /, "");
  if (!a.d.start || !b.d.start) return "";
  const order = p => p.d.start.map((start, t) => [start, t]).sort((x, y) => x[0] - y[0] || x[1] - y[1]);
  const one = order(a), other = order(b), close = 1e-9 * d.makespan;
  const k = one.findIndex(([start, t], i) => !other[i] || other[i][1] !== t || Math.abs(other[i][0] - start) > close);
  if (k < 0) return "These two run every task at the same time.";
  const cost = b.d.makespan - d.makespan, at = ([start, t], p) => `${p.d.label[t]} at ${time(start, d.unit)}`;
  const more = `${time(Math.abs(cost), d.unit)} (${(100 * Math.abs(cost) / d.makespan).toFixed(1)} %)`;
  return `These two part after ${k} tasks: ${name(a)} begins ${at(one[k], a)}, ${name(b)} ${at(other[k], b)}. `
    + (Math.abs(cost) <= close ? "They end at the same time." : `In the end ${name(b)} takes ${more} ${cost > 0 ? "more" : "less"}.`);
}
for (const button of map)
  button.addEventListener("click", () => {
    const i = +button.dataset.panel;
    if (!shown.includes(i)) shown = [...shown, i].slice(-2);
    show();
  });
if (map.length) show();
// page.html#gemm(3,1,0) opens with that task selected.
function selectHash() {
  const label = decodeURIComponent(location.hash.slice(1));
  if (label) for (const panel of panels) panel.select(panel.d.label.indexOf(label), false);
}
addEventListener("hashchange", selectHash);
selectHash();
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = (root.dataset.theme ?? (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
  panels.forEach(panel => panel.redraw());
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => panels.forEach(p => p.redraw()));
// Paper is white, and of another width.
const page = document.documentElement;
let theme;
addEventListener("beforeprint", () => {
  theme = page.dataset.theme;
  page.dataset.theme = "light";
  panels.forEach(panel => panel.redraw());
});
addEventListener("afterprint", () => {
  if (theme) page.dataset.theme = theme; else delete page.dataset.theme;
  panels.forEach(panel => panel.redraw());
});
page.dataset.ready = Math.round(performance.now());
