// The ladder timeline: at which level each model stood, when and why it changed, above memory and requests on the same axis.

import { svg, h, LEVELS, bytes, seconds, percent } from "./dom.js";

// In pixels at 16 to a rem; the whole chart grows with the type.
const LEFT = 44, RIGHT = 34, ROW = 34, TITLE = 26, LANE_GAP = 18, STRIP = 104, TICK = 14, BARS = 34, AXIS = 24;
const SPAN_MIN = 60; // seconds
const STEPS = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800];

export const clock = (time, withSeconds = true) => new Date(time * 1000).toLocaleTimeString([], { hour: "2-digit",
    minute: "2-digit", second: withSeconds ? "2-digit" : undefined, hourCycle: "h23" });

/** "int8 → int4", "loaded at int8": what a change did. */
export function headline(e) {
    if (e.kind === "load") return `loaded at ${e.to}`;
    if (e.kind === "close") return "closed";
    return e.from === e.to ? `within ${e.to}` : `${e.from} → ${e.to}`;
}

export function effect(e) {
    const parts = [];
    if (e.bytes < 0) parts.push(`${bytes(-e.bytes)} freed`);
    if (e.bytes > 0) parts.push(`${bytes(e.bytes)} taken`);
    if (e.kind === "move" && e.seconds > 0) parts.push(`in ${seconds(e.seconds)}`);
    return parts.join(" ");
}

/** What one model did: pieces {from, to, level}, from its changes and where it stands now. */
function lifeOf(changes, now, model) {
    const pieces = [];
    let level = null, since = 0;
    for (const e of changes) {
        if (level === null && e.kind !== "load") { level = e.from; since = -Infinity; }
        if (level !== null && e.time > since) pieces.push({ from: since, to: e.time, level });
        level = e.kind === "close" ? null : e.to;
        since = e.time;
    }
    if (model?.status === "ready") {
        if (level === null) since = changes.length ? changes.at(-1).time : -Infinity;
        pieces.push({ from: since, to: now, level: model.level ?? level });
    }
    return pieces;
}

/** A chart in `place`; draw() paints it, select() shows a change. */
export function ladder(place, { onSelect }) {
    const canvas = svg("svg.ladder-chart", { "aria-hidden": "true", focusable: "false" });
    const tip = h("div.tip", { hidden: true });
    const box = h("div.ladder", { tabindex: "0", role: "group", "aria-label": "Levels over time: arrow keys go from change to change, the list has all of them" }, canvas, tip);
    let data = null, marks = [], chosen = null;
    place.append(box);

    function scale() {
        const unit = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
        const first = Math.min(data.moments[0]?.time ?? Infinity, data.lanes.length ? Math.min(...data.lanes.map((l) => l.changes[0]?.time ?? Infinity)) : Infinity);
        const width = box.clientWidth / unit, end = data.now;
        const span = Math.min(data.window, Math.max(SPAN_MIN, (end - first) * 1.05)); // not more than there is
        const inner = Math.max(40, width - LEFT - RIGHT);
        return { unit, width, end, span, begin: end - span, x: (t) => LEFT + Math.min(1, Math.max(0, (t - end + span) / span)) * inner };
    }

    function draw(next) {
        data = next ?? data;
        if (!data || !box.isConnected) return;
        const s = scale();
        marks = [];
        const parts = [];
        let y = 4;
        for (const lane of data.lanes) y = drawLane(parts, s, lane, y) + LANE_GAP;
        const plotBottom = drawBars(parts, s, drawStrip(parts, s, y + TITLE) + 8);
        drawAxis(parts, s, plotBottom);
        const height = plotBottom + AXIS;
        canvas.setAttribute("viewBox", `0 0 ${s.width} ${height}`);
        canvas.setAttribute("width", s.width * s.unit);
        canvas.setAttribute("height", height * s.unit);
        const guide = svg("line.guide", { y1: 0, y2: plotBottom, visibility: "hidden" });
        canvas.replaceChildren(...parts, guide);
        paintChosen();
    }

    function drawLane(parts, s, lane, top) {
        const levels = LEVELS.slice(0, LEVELS.indexOf(lane.top) + 1 || 4);
        const first = top + TITLE, rows = levels.length;
        const yOf = (level) => first + (rows - 1 - Math.min(rows - 1, levels.indexOf(level))) * ROW + ROW / 2;
        const bottom = first + rows * ROW;
        parts.push(svg("text.lane-name", { x: LEFT, y: top + 14 }, lane.name));
        for (const l of levels) {
            parts.push(svg("line.grid", { x1: LEFT, x2: s.width - RIGHT, y1: yOf(l), y2: yOf(l) }),
                svg("text.tick.tick-left", { x: LEFT - 8, y: yOf(l) + 4 }, l));
        }
        const pieces = lifeOf(lane.changes, s.end, lane.model).filter((p) => p.to >= s.begin && p.level);
        let path = "", last = null;
        for (const p of pieces) {
            const x1 = s.x(p.from), x2 = s.x(p.to), y = yOf(p.level);
            parts.push(svg(`rect.held.held-${p.level}`, { x: x1, y, width: Math.max(0, x2 - x1), height: bottom - y }));
            path += last && last.to === p.from ? `V${y}H${x2}` : `M${x1} ${y}H${x2}`;
            last = p;
        }
        parts.push(svg("path.step", { d: path }));
        if (last && lane.model) parts.push(svg("circle.now", { cx: s.x(s.end), cy: yOf(last.level), r: 4 }));
        for (const e of lane.changes) {
            if (e.time < s.begin) continue;
            const x = s.x(e.time), y = yOf(e.kind === "close" ? e.from : e.to);
            const mark = svg("g.mark", { "data-seq": e.seq },
                svg("circle", { cx: x, cy: y, r: 4.5, class: e.kind === "close" ? "end" : LEVELS.indexOf(e.to) < LEVELS.indexOf(e.from) ? "down" : "up" }));
            parts.push(mark);
            marks.push({ x: x * s.unit, y: y * s.unit, at: x, e, mark });
        }
        return bottom;
    }

    function drawStrip(parts, s, top) {
        const yOf = (used) => top + STRIP * (1 - Math.min(1, Math.max(0, used)));
        parts.push(svg("text.lane-name", { x: LEFT, y: top - 10 }, "Memory used"));
        for (const used of [0, 1]) parts.push(svg("line.grid", { x1: LEFT, x2: s.width - RIGHT, y1: yOf(used), y2: yOf(used) }),
            svg("text.tick.tick-left", { x: LEFT - 8, y: yOf(used) + 4 }, percent(used)));
        let label = -Infinity; // labels stand at their lines, but one under the other
        for (const used of Object.values(data.bands).sort((a, b) => b - a)) {
            label = Math.max(yOf(used), label + TICK);
            parts.push(svg("line.band", { x1: LEFT, x2: s.width - RIGHT, y1: yOf(used), y2: yOf(used) }),
                svg("text.tick", { x: s.width - RIGHT + 6, y: label + 4 }, used.toFixed(2).replace(/^0/, "").replace(/0$/, "")));
        }
        const points = data.moments.filter((m) => m.time >= s.begin - 10);
        if (points.length) {
            const line = points.map((m) => `${s.x(m.time).toFixed(1)} ${yOf(m.used).toFixed(1)}`).join("L");
            const end = s.x(points.at(-1).time);
            parts.push(svg("path.memory-area", { d: `M${s.x(points[0].time)} ${yOf(0)}L${line}L${end} ${yOf(0)}Z` }),
                svg("path.memory-line", { d: `M${line}` }));
        }
        return top + STRIP;
    }

    function drawBars(parts, s, top) {
        const points = data.moments.filter((m) => m.time >= s.begin);
        const most = Math.max(2, ...points.map((m) => m.running + m.queued));
        const yOf = (n) => top + BARS * (1 - n / most);
        parts.push(svg("line.grid", { x1: LEFT, x2: s.width - RIGHT, y1: yOf(0), y2: yOf(0) }),
            svg("text.tick.tick-left", { x: LEFT - 8, y: yOf(0) + 2 }, "req."),
            svg("text.tick", { x: s.width - RIGHT + 6, y: yOf(most) + 8 }, String(most)));
        let path = "", before = null;
        for (const m of points) {
            const y = yOf(m.running + m.queued).toFixed(1), x = s.x(m.time).toFixed(1);
            path += before === null ? `M${x} ${yOf(0)}V${y}` : `H${x}V${y}`;
            before = m;
        }
        if (before) parts.push(svg("path.requests-area", { d: `${path}V${yOf(0)}Z` }));
        return top + BARS;
    }

    function drawAxis(parts, s, bottom) {
        const room = Math.max(1, Math.floor((s.width - LEFT - RIGHT) / 90));
        const step = STEPS.find((x) => s.span / x <= room) ?? 3600;
        for (let t = Math.ceil(s.begin / step) * step; t <= s.end; t += step) {
            const x = s.x(t);
            if (x < LEFT + 16 || x > s.width - RIGHT - 58) continue; // "now" stands there
            parts.push(svg("line.grid", { x1: x, x2: x, y1: bottom, y2: bottom + 4 }),
                svg("text.tick.tick-mid", { x, y: bottom + 17 }, clock(t, step < 60)));
        }
        parts.push(svg("text.tick.tick-end", { x: s.width - RIGHT, y: bottom + 17 }, "now"));
    }

    // ---- choosing a change ----

    function paintChosen() {
        const found = marks.find((m) => m.e.seq === chosen);
        for (const m of marks) m.mark.classList.toggle("chosen", m === found);
        const guide = canvas.querySelector(".guide");
        tip.hidden = !found;
        guide?.setAttribute("visibility", found ? "visible" : "hidden");
        if (!found) return;
        guide.setAttribute("x1", found.at);
        guide.setAttribute("x2", found.at);
        tip.replaceChildren(h("strong", {}, headline(found.e)), h("span.muted", {}, ` ${clock(found.e.time)}`),
            h("p", {}, found.e.reason), h("p.muted", {}, effect(found.e)));
        const half = tip.offsetWidth / 2, edge = box.clientWidth - 4;
        tip.style.left = `${Math.min(edge - half, Math.max(4 + half, found.x))}px`;
        const above = found.y - tip.offsetHeight - 14;
        tip.style.top = `${above >= 0 ? above : found.y + 16}px`;
    }

    function select(seq, silent = false) {
        chosen = seq;
        paintChosen();
        if (!silent) onSelect(marks.find((m) => m.e.seq === seq)?.e ?? null);
    }

    canvas.addEventListener("pointermove", (e) => {
        const r = canvas.getBoundingClientRect(), px = e.clientX - r.left, py = e.clientY - r.top;
        let best = null, near = 20;
        for (const m of marks) {
            const d = Math.abs(m.x - px) + Math.max(0, Math.abs(m.y - py) - 60) / 4;
            if (d < near) { best = m; near = d; }
        }
        const seq = best?.e.seq ?? null;
        if (seq !== chosen) select(seq, true);
    });
    canvas.addEventListener("pointerleave", () => select(null, true));
    box.addEventListener("blur", () => select(null, true));
    box.addEventListener("keydown", (e) => {
        const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[e.key];
        if (e.key === "Escape" && chosen !== null) { e.stopPropagation(); select(null); }
        if (step === undefined || !marks.length) return;
        e.preventDefault();
        const order = [...marks].sort((a, b) => a.e.seq - b.e.seq);
        const at = order.findIndex((m) => m.e.seq === chosen);
        const from = at < 0 ? (step < 0 ? order.length : -1) : at;
        select(order[Math.max(0, Math.min(order.length - 1, from + step))].e.seq);
    });
    const watch = new ResizeObserver(() => draw());
    watch.observe(box);
    return { draw, select, close: () => watch.disconnect() };
}
