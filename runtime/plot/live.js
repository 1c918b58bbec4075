"use strict";
// A run while it goes on. The server sends facts of a run once, then what is new; it ends the stream when it is over.

const $ = id => document.getElementById(id);
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let run = null;  // facts and numbers of the run that is shown
let bars = [];   // [rank, worker, start, end, op, label]
let lanes = [];  // [rank, worker]
let past = [];   // [time, ready, flops per second]

function time(s) {
  for (const [name, scale] of [["min", 60], ["s", 1], ["ms", 1e-3], ["us", 1e-6]])
    if (s >= (name === "min" ? 120 : scale)) return (s / scale).toPrecision(3) + " " + name;
  return s ? (s / 1e-9).toPrecision(3) + " ns" : "0 s";
}

function rate(flops) { return (flops / 1e9).toPrecision(3) + " GFLOP/s"; }

function take(news) {
  if (news.again) bars = [];
  if (news.ops) { past = []; lanes = []; run = news; }
  const before = past.at(-1) ?? [0, 0, 0, 0];
  Object.assign(run, news);
  if (news.again) run.last = 0;
  for (const bar of news.bars) { bars.push(bar); run.last = Math.max(run.last, bar[3]); }
  const known = new Set(lanes.map(String));
  for (const [rank, worker] of news.bars)
    if (!known.has(`${rank},${worker}`)) { known.add(`${rank},${worker}`); lanes.push([rank, worker]); }
  lanes.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const passed = run.now - before[0], current = passed > 0 ? (run.flops - before[3]) / passed : 0;
  if (passed > 0) past.push([run.now, run.ready, current, run.flops]);
  if (past.length > 2000) past = past.filter((_, i) => i % 2 || i === past.length - 1);
  const total = run.total, share = total ? run.done / total : 1;
  document.title = `${Math.floor(100 * share)} % ${run.title}`;
  $("title").textContent = run.title;
  $("bar").max = Math.max(total, 1);
  $("bar").value = total ? run.done : 1;
  $("tasks").textContent = `${run.done.toLocaleString("en")} of ${total.toLocaleString("en")}, ${(100 * share).toFixed(1)} %`;
  const left = run.over || !run.done ? "" : `, about ${time(run.now / run.done * (total - run.done))} left`;
  $("time").textContent = time(run.now) + left;
  $("rate").textContent = run.flops
    ? `${rate(run.flops / run.now)} so far` + (run.over ? "" : `, ${rate(current)} now`)
    : `${(run.done / Math.max(run.now, 1e-9)).toPrecision(3)} tasks/s`;
  $("queue").textContent = `${run.ready.toLocaleString("en")} ready or running, on ${lanes.length} workers`;
  state(run.over === "done" ? "done" : run.over ? `failed: ${run.over}` : "running");
  legend();
  draw();
}

function state(said) {
  if ($("state").textContent !== said) $("state").textContent = said;  // or it would be read aloud again
}

function legend() {
  const box = $("ops");
  while (box.children.length > run.ops.length) box.lastChild.remove();
  run.ops.forEach((op, k) => {
    if (!box.children[k]) {
      const swatch = document.createElement("i");
      swatch.className = "swatch";
      const item = document.createElement("span");
      item.append(swatch, "");
      box.append(item);
    }
    box.children[k].firstChild.style.background = run.colours[k];
    box.children[k].lastChild.textContent = `${op} ${run.each[k].toLocaleString("en")} of ${run.of[k].toLocaleString("en")}`;
  });
}

function context(canvas) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  const g = canvas.getContext("2d");
  g.scale(ratio, ratio);
  g.font = "11px system-ui, sans-serif";
  g.textBaseline = "middle";
  return g;
}

const LEFT = 64, gantt = $("gantt"), times = $("times");
const rows = () => lanes.length > 8 ? 22 : 30;
// Times of bars are those of the run; those of a simulation are not the seconds that pass here.
const span = canvas => Math.max(canvas === gantt && run.virtual ? run.last : run.now, 1e-9);
const X = (canvas, at) => LEFT + (canvas.clientWidth - LEFT - 12) * at / span(canvas);

function draw() {
  if (!run) return;
  const tall = rows(), shown = Math.min(lanes.length, 64);
  gantt.style.height = Math.max(106, 40 + tall * shown) + "px";
  const g = context(gantt), row = new Map(lanes.slice(0, shown).map((lane, k) => [String(lane), k]));
  const ranks = new Set(lanes.map(lane => lane[0])).size > 1;
  for (const [rank, worker, start, end, op] of bars) {
    const y = row.get(`${rank},${worker}`);
    if (y === undefined) continue;
    g.fillStyle = run.colours[op];
    g.fillRect(X(gantt, start), 12 + y * tall, Math.max(X(gantt, end) - X(gantt, start), 0.6), tall * 0.86);
  }
  g.fillStyle = colour("--soft");
  g.textAlign = "left";
  lanes.slice(0, shown).forEach(([rank, worker], y) =>
    g.fillText(ranks ? `r${rank} w${worker}` : `worker ${worker}`, 4, 12 + (y + 0.43) * tall, 58));
  axis(g, gantt);
  const t = context(times), most = Math.max(1, ...past.map(p => p[1])), top = Math.max(1, ...past.map(p => p[2]));
  const line = (place, high, paint, dashes) => {
    t.strokeStyle = paint;
    t.lineWidth = 1.5;
    t.setLineDash(dashes);
    t.beginPath();
    past.forEach((p, i) => t[i ? "lineTo" : "moveTo"](X(times, p[0]), 84 - 66 * p[place] / high));
    t.stroke();
    t.setLineDash([]);
  };
  line(1, most, colour("--chain"), []);
  if (run.flops) line(2, top, colour("--bound"), [5, 3]);
  t.fillStyle = colour("--soft");
  t.textAlign = "left";
  t.fillText(`ready or running: up to ${most}` + (run.flops ? `; rate (dashed): up to ${rate(top)}` : ""), 4, 8, times.clientWidth - 8);
}

function axis(g, canvas) {
  g.textAlign = "center";
  const rough = span(canvas) * 110 / Math.max(canvas.clientWidth - LEFT, 1), power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find(m => m * power >= rough) ?? 10);
  for (let at = 0; at <= span(canvas) && step > 0; at += step)
    g.fillText(canvas === gantt && run.virtual ? Number(at.toPrecision(5)) : time(at), X(canvas, at), canvas.clientHeight - 12);
}

gantt.addEventListener("pointermove", e => {
  const box = gantt.getBoundingClientRect(), x = e.clientX - box.left - 1, y = e.clientY - box.top - 1;
  const lane = lanes[Math.floor((y - 12) / rows())];
  const found = run && lane && bars.findLast(([rank, worker, start, end]) =>
    rank === lane[0] && worker === lane[1] && X(gantt, start) - 1 <= x && x <= X(gantt, end) + 1);
  const tip = $("tip");
  tip.style.display = found ? "block" : "none";
  if (!found) return;
  tip.textContent = `${found[5]}\n${time(found[2])} to ${time(found[3])}`;
  tip.style.left = Math.min(e.clientX + 14, innerWidth - tip.offsetWidth - 4) + "px";
  tip.style.top = Math.min(e.clientY + 14, innerHeight - tip.offsetHeight - 4) + "px";
});
gantt.addEventListener("pointerleave", () => { $("tip").style.display = "none"; });
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

const events = new EventSource("events");
events.onmessage = e => {
  const news = JSON.parse(e.data);
  take(news);
  if (news.closed) events.close();
};
events.onerror = () => {  // the page is served as long as the run lasts, and no longer
  events.close();
  if (!run || !run.over) state("the run has gone");
};
