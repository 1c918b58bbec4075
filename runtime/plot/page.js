"use strict";
// The pictures of one page. Data is in #data, one entry per run or graph; arrays are indexed by item, which is a
// task, or a group of tasks in an aggregated graph.

const DATA = JSON.parse(document.getElementById("data").textContent);
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

// A canvas with a world that one can move and magnify: by wheel, drag, and keys.
class View {
  constructor(canvas, world, {vertical, draw, pick, choose, hover, key}) {
    Object.assign(this, {canvas, world, vertical, drawWorld: draw, pick, choose, hover, key});
    this.home();
    canvas.addEventListener("wheel", e => {
      e.preventDefault();
      const [x, y] = this.at(e);
      this.zoom(Math.exp(-e.deltaY / 400), x, y);
    }, {passive: false});
    canvas.addEventListener("pointerdown", e => {
      canvas.setPointerCapture(e.pointerId);
      this.drag = [...this.at(e), false];
    });
    canvas.addEventListener("pointermove", e => {
      const [x, y] = this.at(e);
      if (this.drag) {
        const [x0, y0, moved] = this.drag;
        if (moved || Math.hypot(x - x0, y - y0) > 4) {
          this.ox += x - x0;
          if (this.vertical) this.oy += y - y0;
          this.drag = [x, y, true];
          this.draw();
        }
      } else {
        const item = this.pick(x, y);
        tip.style.display = item < 0 ? "none" : "block";
        if (item >= 0) {
          tip.textContent = this.hover(item);
          tip.style.left = Math.min(e.clientX + 14, innerWidth - tip.offsetWidth - 4) + "px";
          tip.style.top = Math.min(e.clientY + 14, innerHeight - tip.offsetHeight - 4) + "px";
        }
      }
    });
    canvas.addEventListener("pointerup", e => {
      if (this.drag && !this.drag[2]) this.choose(this.pick(...this.at(e)));
      this.drag = null;
    });
    canvas.addEventListener("pointerleave", () => { tip.style.display = "none"; });
    canvas.addEventListener("keydown", e => {
      const middle = [this.width / 2, this.height / 2];
      if (e.key === "+" || e.key === "=") this.zoom(1.3, ...middle);
      else if (e.key === "-") this.zoom(1 / 1.3, ...middle);
      else if (e.key === "0") { this.home(); this.draw(); }
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
  home() {  // all of the world, with a margin
    const [x0, y0, x1, y1] = this.world, left = this.vertical ? 12 : 64;
    this.sx = (this.width - left - 12) / Math.max(x1 - x0, 1e-300);
    this.sy = (this.height - 24) / Math.max(y1 - y0, 1e-300);
    this.ox = left - x0 * this.sx;
    this.oy = 12 - y0 * this.sy;
  }
  zoom(factor, x, y) {
    this.ox = x - (x - this.ox) * factor;
    this.sx *= factor;
    if (this.vertical) {
      this.oy = y - (y - this.oy) * factor;
      this.sy *= factor;
    }
    this.draw();
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

class Panel {
  constructor(root, d) {
    Object.assign(this, {root, d, selected: -1, matches: null});
    const n = d.label.length;
    this.successors = Array.from({length: n}, () => []);
    d.predecessors.forEach((list, t) => { for (const p of list) this.successors[p].push(t); });
    this.critical = new Set(d.critical);
    const handlers = {
      choose: item => this.select(item), hover: item => this.describe(item), key: key => this.key(key),
    };
    const dag = root.querySelector("canvas.dag");
    this.views = [this.dag = new View(dag, d.world, {
      ...handlers, vertical: true, draw: g => this.drawDag(g), pick: (x, y) => this.pickDag(x, y),
    })];
    const gantt = root.querySelector("canvas.gantt");
    if (gantt) {
      this.lanes = d.lanes.length;
      gantt.style.height = Math.max(90, Math.min(560, 24 + (this.lanes > 8 ? 22 : 30) * this.lanes)) + "px";
      this.views.push(this.gantt = new View(gantt, [0, 0, d.makespan, this.lanes], {
        ...handlers, vertical: false, draw: g => this.drawGantt(g), pick: (x, y) => this.pickGantt(x, y),
        hover: bar => this.describeBar(bar), choose: bar => this.select(bar < 0 ? -1 : d.bars.item[bar]),
      }));
    }
    const search = root.querySelector("input.search");
    search.addEventListener("input", () => this.find(search.value));
    search.addEventListener("keydown", e => {
      if (e.key === "Enter" && this.matches?.size) {
        const list = [...this.matches].sort((a, b) => a - b);
        this.select(list[(list.indexOf(this.selected) + 1) % list.length]);
      }
    });
    root.querySelector(".home").addEventListener("click", () => this.views.forEach(v => { v.home(); v.draw(); }));
    this.details = root.querySelector(".details");
    this.details.addEventListener("click", e => {
      if (e.target.dataset.item) this.select(+e.target.dataset.item);
    });
    this.select(-1, false);
  }

  redraw() { this.views.forEach(view => view.draw()); }

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

  describeBar(bar) {
    const {item, start, end, label} = this.d.bars, unit = this.d.unit;
    return item[bar] >= 0 ? this.describe(item[bar])
      : `${label[bar]}\n${time(start[bar], unit)} to ${time(end[bar], unit)}`;
  }

  story(t) {  // paragraphs
    const d = this.d, unit = d.unit;
    const link = p => p < 0 ? "" : node("button", {"data-item": p}, d.label[p]);
    const some = list => list.length ? [...list.slice(0, 12).map(link),
      list.length > 12 ? ` and ${list.length - 12} more` : ""] : ["none"];
    const facts = [`cost ${time(d.cost[t], unit)}, slack ${time(d.slack[t], unit)}`];
    if (this.critical.has(t)) facts.push(", ", node("strong", {}, "on the critical path"));
    const parts = [[node("strong", {}, d.label[t]), " " + d.info[t]], facts];
    if (d.start) {
      facts.push(`; ran ${time(d.start[t], unit)} to ${time(d.end[t], unit)} on ${d.lanes[d.lane[t]]}`);
      const [reason, on, until] = d.waits[t], late = d.start[t] - until;
      const why = {
        start: ["nothing, it was ready when the run began"],
        dependency: ["its last predecessor ", link(on)],
        worker: ["its worker, busy with ", link(on)],
        message: [`a message: ${on >= 0 && reason === "message" ? d.messages[on] : ""}`],
      }[reason];
      if (reason !== "start") why.push(`, until ${time(until, unit)}`);
      if (late > 1e-12 * d.makespan) why.push(`; then ${time(late, unit)} passed until the engine started it`);
      parts.push(["Why not sooner? It waited for ", ...why, "."]);
    }
    parts.push(["waits for: ", ...some(d.predecessors[t])], ["waited for by: ", ...some(this.successors[t])]);
    return parts.map(part => node("p", {}, ...part));
  }

  fill(g, t) {
    g.globalAlpha = this.matches && !this.matches.has(t) ? 0.15 : 1;
    g.fillStyle = this.d.colours[this.d.op[t]];
  }

  drawDag(g) {
    const d = this.d, v = this.dag, n = d.label.length, W = v.width, H = v.height;
    const w = Math.max(2.5, Math.min(0.82 * v.sx, 96)), h = Math.max(2.5, Math.min(0.6 * v.sy, 24));
    const line = (p, t) => { g.moveTo(v.X(d.x[p]), v.Y(d.y[p]) + h / 2); g.lineTo(v.X(d.x[t]), v.Y(d.y[t]) - h / 2); };
    g.strokeStyle = colour("--edge");
    g.lineWidth = 0.8;
    g.globalAlpha = Math.max(0.15, Math.min(1, Math.sqrt(2000 / n) * Math.max(1, v.sx / 20)));
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
    const s = this.selected;
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
      g.fillRect(x - w / 2, y - h / 2, w, h);
      if (this.critical.has(t) || t === s) {
        g.strokeStyle = colour(t === s ? "--mark" : "--path");
        g.lineWidth = t === s ? 3 : h > 6 ? 1.6 : 0.5;
        g.strokeRect(x - w / 2, y - h / 2, w, h);
      }
      if (h > 11) this.text(g, d.label[t], x, y, w, d.op[t]);
    }
    g.globalAlpha = 1;
  }

  text(g, label, x, y, room, op) {
    if (room < 24 || g.measureText(label).width > room - 4) return;
    g.fillStyle = this.d.inks[op];
    g.fillText(label, x, y);
  }

  pickDag(x, y) {
    const d = this.d, v = this.dag;
    const w = Math.max(8, Math.min(0.82 * v.sx, 96)) / 2, h = Math.max(8, Math.min(0.6 * v.sy, 24)) / 2;
    let best = -1, nearest = Infinity;
    for (let t = 0; t < d.label.length; t++) {
      const dx = Math.abs(v.X(d.x[t]) - x), dy = Math.abs(v.Y(d.y[t]) - y);
      if (dx <= w && dy <= h && dx + dy < nearest) { nearest = dx + dy; best = t; }
    }
    return best;
  }

  drawGantt(g) {
    const d = this.d, v = this.gantt, b = d.bars, W = v.width, h = Math.max(1, v.sy * 0.86);
    g.textAlign = "center";
    const selectedBars = [];
    for (let i = 0; i < b.start.length; i++) {
      const x0 = v.X(b.start[i]), x1 = v.X(b.end[i]);
      if (x1 < 64 || x0 > W) continue;
      const t = b.item[i], y = v.Y(b.lane[i]), w = Math.max(x1 - x0, 0.6);
      if (t >= 0) this.fill(g, t); else { g.globalAlpha = 1; g.fillStyle = d.colours[b.op[i]]; }
      g.fillRect(x0, y, w, h);
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
    g.strokeStyle = colour("--mark");
    g.lineWidth = 2.5;
    for (const [x, y, w] of selectedBars) g.strokeRect(x, y, Math.max(w, 2), h);
    g.fillStyle = colour("--paper");
    g.fillRect(0, 0, 64, v.height);
    g.fillStyle = colour("--soft");
    g.textAlign = "left";
    const every = Math.max(1, Math.ceil(13 / v.sy));
    for (let lane = 0; lane < this.lanes; lane += every) g.fillText(d.lanes[lane], 4, v.Y(lane) + h / 2, 58);
    g.textAlign = "center";
    const rough = 110 / v.sx, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find(m => m * power >= rough);
    for (let at = Math.max(0, Math.ceil((64 - v.ox) / v.sx / step) * step); v.X(at) < W - 20; at += step)
      g.fillText(time(at, d.unit), v.X(at), v.height - 6);
  }

  pickGantt(x, y) {
    const d = this.d, v = this.gantt, b = d.bars, lane = Math.floor((y - v.oy) / v.sy), at = (x - v.ox) / v.sx;
    const slop = 1.5 / v.sx;
    for (let i = 0; i < b.start.length; i++)
      if (b.lane[i] === lane && b.start[i] - slop <= at && at <= b.end[i] + slop) return i;
    return -1;
  }
}

const panels = DATA.map((d, i) => new Panel(document.getElementById("panel-" + i), d));
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
