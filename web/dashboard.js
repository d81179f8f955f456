// The dashboard: one snapshot a second while it can be seen, and changes of level as they are made.

import { h, svg, icon, levelMark, LEVELS, bytes, seconds, count, percent, announce, toast, recall, remember } from "./dom.js";
import { getJson, postJson, request, sse } from "./api.js";
import { ladder, headline, effect, clock } from "./ladder.js";

const PERIOD = 1000, RETRY = 3000, KEPT = 3600, CHANGES_MAX = 512;
const WINDOWS = [["5 min", 300], ["15 min", 900], ["1 hour", 3600]];

let ui = null, snapshot = null, chart = null;
let changes = [], moments = []; // the timeline's entries, by number; how memory and load were, by time
let timer = 0, listening = null, polling = false;

// ---- what comes from the server ----

function take(s) {
    snapshot = s;
    for (const e of s.timeline) addChange(e);
    for (const [time, used, running, queued, rate] of s.history) moments.push({ time, used, running, queued, rate });
    moments.push({ time: s.time, used: s.memory.used, running: s.requests.running, queued: s.requests.queued,
        rate: s.requests.tokens_per_second });
    moments.sort((a, b) => a.time - b.time);
    while (moments.length && moments[0].time < s.time - KEPT) moments.shift();
}

function addChange(e) {
    const last = changes.at(-1)?.seq ?? 0;
    if (e.seq <= last) return false;
    changes.push(e);
    if (changes.length > CHANGES_MAX) changes.shift();
    return true;
}

async function poll() {
    const mine = ui;
    if (polling || !ui) return;
    polling = true;
    clearTimeout(timer);
    let wait = PERIOD;
    try {
        const after = changes.at(-1)?.seq ?? 0, since = moments.at(-1)?.time ?? 0;
        const s = await getJson(`/api/v1/dashboard?after=${after}&since=${since}`, { signal: mine.ends.signal });
        if (snapshot && s.uptime_seconds < snapshot.uptime_seconds) {
            changes = []; // it was started anew, and counts anew
            moments = [];
            take(await getJson("/api/v1/dashboard", { signal: mine.ends.signal }));
        } else {
            take(s);
        }
        if (ui === mine) {
            showError(null);
            paint();
            listen();
        }
    } catch (e) {
        if (ui === mine) showError(e);
        wait = e.status === 401 ? Infinity : RETRY; // who has no key is not asked again and again
    }
    polling = false;
    if (ui === mine) schedule(wait);
    else poll(); // the view was left, and perhaps entered again
}

function schedule(wait) {
    clearTimeout(timer);
    if (ui && document.visibilityState === "visible" && wait < Infinity) timer = setTimeout(poll, wait);
}

async function listen() {
    if (listening || !ui) return;
    const control = listening = new AbortController();
    try {
        const response = await request(`/api/v1/quantization/events?after=${changes.at(-1)?.seq ?? 0}`, { signal: control.signal, quiet: true });
        for await (const event of sse(response)) {
            if (event.event === "alert" || (event.event === "decision" && addChange(JSON.parse(event.data)))) poll();
        }
    } catch { /* the next poll begins again */ }
    if (listening === control) listening = null;
}

function onVisible() {
    if (document.visibilityState === "visible") poll();
    else hush();
}

function hush() {
    clearTimeout(timer);
    listening?.abort();
    listening = null;
}

// ---- painting ----

function showError(e) {
    ui.error.hidden = !e;
    ui.page.classList.toggle("stale", Boolean(e));
    if (!e) return;
    ui.error.replaceChildren(h("p", {}, e.status === 401 ? e.message : `${e.message} Trying again in ${RETRY / 1000} s.`),
        h("button.button", { type: "button", onclick: poll }, icon("retry"), "Try now"));
    if (!snapshot) ui.page.removeAttribute("aria-busy");
}

function paint() {
    const s = snapshot;
    ui.page.removeAttribute("aria-busy");
    ui.body.hidden = false;
    ui.loading.hidden = true;
    paintFigures(s);
    paintLadder(s);
    paintModels(s);
    paintMemory(s);
    paintRequests(s);
    paintLatency(s);
    paintCaches(s);
    paintAlerts(s);
}

function figure(name, value, note, bad) {
    return h(`div.figure${bad ? ".bad" : ""}`, {}, h("dt", {}, name), h("dd", {}, value, note ? h("span.figure-note", {}, note) : null));
}

/** Tokens a second over the last two minutes, as a line. */
function spark(now) {
    const points = moments.filter((m) => m.time > now - 120 && m.rate !== undefined);
    const most = Math.max(1, ...points.map((m) => m.rate));
    const line = points.map((m) => `${(100 - (now - m.time) / 1.2).toFixed(1)} ${(23 - 22 * m.rate / most).toFixed(1)}`).join("L");
    return svg("svg.spark", { viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" }, points.some((m) => m.rate > 0) ? svg("path", { d: `M${line}` }) : null);
}

function paintFigures(s) {
    const first = s.recent.latency_seconds.first_token, r = s.requests;
    ui.figures.replaceChildren(
        figure("Memory", percent(s.memory.used), s.memory.guard === "ok" ? s.memory.status : `guard: ${s.memory.guard}`, s.memory.guard !== "ok"),
        figure("Tokens a second", [r.tokens_per_second >= 10 ? String(Math.round(r.tokens_per_second)) : r.tokens_per_second.toFixed(1), spark(s.time)]),
        figure("Running", count(r.running), `${count(r.queued)} queued${r.parked ? `, ${r.parked} parked` : ""}`),
        figure("First token, p95", first.p95 === null ? "–" : seconds(first.p95), "of the last 5 minutes"),
        figure("Up", seconds(s.uptime_seconds), `version ${s.version}`));
}

function paintLadder(s) {
    const names = [...new Set([...s.models.map((m) => m.name), ...changes.map((e) => e.model)])];
    const begin = s.time - ui.window;
    const lanes = names.map((name) => {
        const model = s.models.find((m) => m.name === name);
        const own = changes.filter((e) => e.model === name);
        const most = own.reduce((l, e) => Math.max(l, LEVELS.indexOf(e.from), LEVELS.indexOf(e.to)), 0);
        return { name, model, changes: own, top: model?.top_level ?? (model && !model.elastic ? "fp16" : LEVELS[most]) };
    }).filter((l) => l.model || l.changes.some((e) => e.time >= begin));
    ui.ladderEmpty.hidden = lanes.length > 0;
    chart.draw({ lanes, moments, bands: s.bands, now: s.time, window: ui.window });
    paintChanges();
}

function paintChanges() {
    const newest = changes.at(-1)?.seq ?? 0;
    if (ui.changesUpTo === newest) return;
    const fresh = ui.changesUpTo > 0;
    ui.changesUpTo = newest;
    const items = changes.slice(-100).reverse().map((e) => {
        const fell = LEVELS.indexOf(e.to) < LEVELS.indexOf(e.from);
        return h("li.change", { onmouseenter: () => chart.select(e.seq, true), onmouseleave: () => chart.select(null, true) },
            h("div.change-head", {}, h("span.change-what", {}, e.kind === "close" ? null : levelMark(e.to), headline(e)),
                h("time.muted", { datetime: new Date(e.time * 1000).toISOString() }, clock(e.time))),
            e.reason === "loaded" ? null : h("p", {}, e.reason), h("p.muted", {}, [e.model, effect(e)].filter(Boolean).join(" · ")), fell ? h("span.quiet", {}, "The level fell.") : null);
    });
    ui.changes.replaceChildren(...items);
    ui.changesEmpty.hidden = items.length > 0;
    const last = changes.at(-1);
    if (fresh && last) announce(`${last.model}: ${headline(last)}. ${last.reason}`);
}

// ---- models ----

const cards = new Map(); // name -> elements

function paintModels(s) {
    const names = new Set(s.models.map((m) => m.name));
    for (const [name, card] of cards) {
        if (names.has(name)) continue;
        card.root.remove();
        cards.delete(name);
    }
    for (const m of s.models) {
        if (cards.has(m.name) && cards.get(m.name).elastic !== m.elastic) {
            cards.get(m.name).root.remove();
            cards.delete(m.name);
        }
        if (!cards.has(m.name)) {
            cards.set(m.name, m.elastic ? elasticCard(m) : plainCard(m));
            ui.models.append(cards.get(m.name).root);
        }
        cards.get(m.name).paint(m);
    }
    ui.modelsEmpty.hidden = s.models.length > 0;
}

function plainCard(m) {
    const facts = h("p.muted.small");
    return { elastic: false, root: h("article.model-card", { "aria-label": m.name }, h("h3", {}, m.name), facts), paint: (now) => {
        facts.textContent = now.status === "ready" ? `${bytes(now.weight_bytes)} of weights in one precision. precis pack makes an elastic model of it.` : `${now.status}…`;
    } };
}

function elasticCard(m) {
    const name = m.name, top = LEVELS.indexOf(m.top_level ?? "fp16");
    const level = h("span.level.big"), facts = h("p.muted.small"), trouble = h("p.error-text", { hidden: true, role: "alert" });
    const planes = h("div.planes"), marks = h("div.plane-marks", { "aria-hidden": "true" });
    const slider = h("input.budget", { type: "range", min: m.bytes_min, max: m.bytes_max, step: "any", "aria-label": `Budget of weights of ${name}` });
    const shown = h("output.budget-out");
    const legend = h("dl.legend");
    const card = { elastic: true, dragging: false };
    const ask = async (body, said) => {
        trouble.hidden = true;
        try {
            await postJson("/api/v1/quantization/level", { model: name, ...body });
            announce(said);
            poll();
        } catch (e) {
            trouble.textContent = e.message;
            trouble.hidden = false;
        }
    };
    const button = (value, label) => h("button", { type: "button", "aria-pressed": "false", "data-level": value,
        onclick: () => ask({ level: value }, `${name}: ${label}`) }, value === "auto" ? null : levelMark(value), label);
    const buttons = ["auto", ...LEVELS.slice(0, top + 1)].map((l) => button(l, l));
    slider.oninput = () => {
        card.dragging = true;
        shown.textContent = `at most ${bytes(Number(slider.value))}`;
    };
    slider.onchange = () => {
        card.dragging = false;
        ask({ weights_budget_mb: Number(slider.value) / 1e6 }, `${name}: a budget of ${bytes(Number(slider.value))}`);
    };
    const paintPlanes = (now) => {
        const part = (n) => `${100 * n / now.bytes_max}%`;
        const rest = Math.max(0, now.weight_bytes - Object.values(now.plane_bytes).reduce((a, b) => a + b, 0));
        const kinds = [...Object.entries(now.plane_bytes).filter(([, n]) => n > 0), ...(rest > now.bytes_max / 200 ? [["rest", rest]] : [])];
        planes.replaceChildren(...kinds.map(([k, n]) => sized(h(`span.plane.${k}`, { title: `${k}: ${bytes(n)}` }), part(n))));
        marks.replaceChildren(...LEVELS.slice(0, top + 1).map((l) => placed(h("span", {}, l), part(now.level_bytes[l]))));
        legend.replaceChildren(...["p2", "p4", "p8", "p16"].filter((k) => LEVELS[["p2", "p4", "p8", "p16"].indexOf(k)] && ["p2", "p4", "p8", "p16"].indexOf(k) <= top)
            .map((k) => h("div", {}, h("dt", {}, h(`i.swatch.${k}`), k), h("dd", {}, now.plane_bytes[k] ? bytes(now.plane_bytes[k]) : "absent"))));
    };
    card.paint = (now) => {
        if (now.status !== "ready") { facts.textContent = `${now.status}…`; return; }
        level.replaceChildren(levelMark(now.level), now.level);
        facts.textContent = [`${bytes(now.weight_bytes)} of weights`, `${now.bits_per_weight.toFixed(1)} bits a weight`,
            `step ${count(now.cursor)} of ${count(now.increments)}${now.target !== now.cursor ? `, going to ${count(now.target)}` : ""}`,
            Number.isFinite(now.kl_expected) ? `expected KL ${now.kl_expected.toPrecision(2)}${now.kl_measured === false ? ", not measured" : ""}` : "",
            now.int2_usable === false && now.level === "int2" && !(now.kl_measured && now.kl_expected <= 2.5) ? "expect nonsense here: its int2 is poor" : "",
            now.requests ? `${now.requests} requests` : "idle"].filter(Boolean).join(" · ");
        paintPlanes(now);
        const budget = now.weights_budget, set = now.by_hand ?? (budget ? "budget" : "auto");
        for (const b of buttons) b.setAttribute("aria-pressed", String(b.dataset.level === set));
        if (!card.dragging) {
            slider.value = String(budget ?? now.bytes_max);
            shown.textContent = budget ? `at most ${bytes(budget)}` : "no budget";
            slider.setAttribute("aria-valuetext", shown.textContent);
        }
        planes.parentElement.style.setProperty("--least", `${100 * now.bytes_min / now.bytes_max}%`);
    };
    card.root = h("article.model-card", { "aria-label": name },
        h("div.card-head", {}, h("h3", {}, name), level), facts,
        h("div.plane-box", {}, planes, slider, marks), legend,
        h("div.controls", {}, h("div.segments", { role: "group", "aria-label": `Level of ${name}` }, buttons), shown), trouble);
    return card;
}

/* Lengths are set by script: the page allows no style in markup. */
function sized(el, width) {
    el.style.width = width;
    return el;
}
function placed(el, left) {
    el.style.left = left;
    return el;
}

// ---- memory ----

const TAGS = [["weights", "weights"], ["kv", "keys and values"], ["cache", "answers kept"], ["scratch", "scratch"]];

function paintMemory(s) {
    const m = s.memory, ledger = m.ledger_bytes, part = (n) => `${Math.min(100, 100 * n / m.limit_bytes)}%`;
    const named = TAGS.map(([tag, label]) => [tag, label, ledger[tag] ?? 0]);
    const rest = Object.entries(ledger).filter(([t]) => !TAGS.some(([n]) => n === t)).reduce((sum, [, n]) => sum + n, 0);
    const own = named.reduce((sum, [, , n]) => sum + n, rest);
    const others = Math.max(0, m.used_bytes - own);
    const all = [...named, ["misc", "the rest of precis", rest], ["others", "everybody else", others]];
    ui.gauge.replaceChildren(...all.filter(([, , n]) => n > m.limit_bytes / 400).map(([tag, label, n]) => sized(h(`span.tag.${tag}`, { title: `${label}: ${bytes(n)}` }), part(n))));
    ui.gaugeMarks.replaceChildren(
        ...Object.entries(s.bands).map(([name, x]) => placed(h("span.band-mark", { title: `${name}: ${x}` }, x.toFixed(2).replace(/^0/, "").replace(/0$/, "")), `${x * 100}%`)));
    ui.guardMarks.replaceChildren(...Object.values(s.guard).map((x) => placed(h("i"), `${x * 100}%`)));
    ui.guardText.replaceChildren(h("i.guard-sign", { "aria-hidden": "true" }), `Memory guard: alert at ${percent(s.guard.alert)}, caches cleared at ${percent(s.guard.clear)}, emergency at ${percent(s.guard.emergency)}.`);
    ui.gaugeText.textContent = `${bytes(m.used_bytes)} of ${bytes(m.limit_bytes)} used, ${percent(m.used)}: ${m.status}${m.scripted ? " (from a script)" : ""}. The process holds ${bytes(m.rss_bytes)}.`;
    ui.gaugeLegend.replaceChildren(...all.map(([tag, label, n]) => h("div", {}, h("dt", {}, h(`i.swatch.${tag}`), label), h("dd", {}, bytes(n)))),
        h("div", {}, h("dt", {}, h("i.swatch.free"), "free"), h("dd", {}, bytes(Math.max(0, m.limit_bytes - m.used_bytes)))));
}

// ---- tables ----

function rows(list) {
    return list.map(([name, ...values]) => h("tr", {}, h("th", { scope: "row" }, name), values.map((v) => h("td.right", {}, v))));
}

function paintRequests(s) {
    const r = s.requests, t = s.tokens;
    ui.requests.replaceChildren(...rows([["Running", count(r.running)], ["Queued", count(r.queued)], ["Parked", count(r.parked)],
        ["Done", count(r.done)], ["Failed", count(r.failed)], ["Cancelled", count(r.cancelled)],
        ["Tokens read", count(t.prompt)], ["of them reused", count(t.cached)], ["Tokens written", count(t.generated)],
        ["Keys and values", `${bytes(s.kv.bytes)} of ${bytes(s.kv.bytes_max)}`]]));
}

const LATENCIES = [["first_token", "First token"], ["next_token", "Next token"], ["end_to_end", "Whole answer"], ["queue", "In the queue"]];

function paintLatency(s) {
    const now = s.recent.latency_seconds, known = LATENCIES.some(([k]) => now[k].count > 0);
    ui.latencyEmpty.hidden = Boolean(known);
    ui.latencyTable.hidden = !known;
    if (!known) return;
    const time = (x) => x === null ? "–" : seconds(x);
    ui.latency.replaceChildren(...rows(LATENCIES.map(([k, label]) => {
        const q = now[k];
        return [label, time(q.p50), time(q.p95), time(q.p99)];
    })));
}

function paintCaches(s) {
    ui.caches.replaceChildren(...rows(s.caches.map((c) => [c.name, count(c.entries), bytes(c.bytes), c.hit_rate])));
}

function paintAlerts(s) {
    const units = { bytes, seconds, ratio: percent };
    const said = (a, x) => x === null ? "–" : typeof x === "string" ? x : (units[a.unit] ?? count)(x);
    ui.alertsEmpty.hidden = s.alerts.length > 0;
    ui.alerts.replaceChildren(...s.alerts.map((a) => h(`li${a.state === "firing" ? ".firing" : ""}`, {},
        h("span", {}, h("strong", {}, a.rule), h("span.muted", {}, ` ${a.state} for ${seconds(a.state_seconds)}`)),
        h("span.alert-value", {}, said(a, a.value)))));
    const firing = s.alerts.filter((a) => a.state === "firing").map((a) => a.name).join(", ");
    if (firing !== ui.firing && firing) announce(`Alert: ${firing}`);
    ui.firing = firing;
}

async function clearCaches() {
    ui.clear.disabled = true;
    try {
        const said = await postJson("/api/v1/quantization/cache/clear", {});
        toast(said.message);
        poll();
    } catch (e) {
        toast(e.message);
    }
    if (ui) ui.clear.disabled = false;
}

// ---- the view ----

function table(label, heads, body) {
    return h("table", { "aria-label": label }, heads ? h("thead", {}, h("tr", {}, heads.map((x, i) =>
        h(i ? "th.right" : "th", { scope: "col" }, x || h("span.quiet", {}, "What"))))) : null, body);
}

function card(title, classes, ...kids) {
    return h(`section.card${classes}`, { "aria-label": title }, kids);
}

function build(main) {
    const u = { window: recall("window", 300), changesUpTo: 0, ends: new AbortController() };
    const windows = h("div.segments", { role: "group", "aria-label": "How far back" }, WINDOWS.map(([label, length]) =>
        h("button", { type: "button", "aria-pressed": String(length === u.window), onclick: (e) => {
            u.window = length;
            remember("window", length);
            for (const b of windows.children) b.setAttribute("aria-pressed", String(b === e.currentTarget));
            paintLadder(snapshot);
        } }, label)));
    u.error = h("div.error.dashboard-error", { hidden: true, role: "alert" });
    u.loading = h("div.skeleton", { "aria-label": "Loading" }, h("i"), h("i"), h("i"));
    u.figures = h("dl.figures");
    u.ladderEmpty = h("div.none", { hidden: true }, h("p", {}, "No model is in memory. One is loaded when it is first asked for."),
        h("a.button", { href: "#/chat" }, "Ask something"));
    u.ladderPlace = h("div.ladder-place", {}, u.ladderEmpty);
    u.changes = h("ol.changes", { tabindex: "0", "aria-label": "Changes, the newest first" });
    u.changesEmpty = h("p.muted.small", {}, "Nothing has changed yet.");
    u.models = h("div.models");
    u.modelsEmpty = h("p.muted.small", {}, "None is in memory.");
    u.gauge = h("div.gauge");
    u.gaugeMarks = h("div.gauge-marks");
    u.guardMarks = h("div.guard-marks");
    u.gaugeText = h("p.small");
    u.guardText = h("p.muted.guard-text");
    u.gaugeLegend = h("dl.legend.wide");
    u.requests = h("tbody");
    u.latency = h("tbody");
    u.latencyTable = table("Latency", ["", "p50", "p95", "p99"], u.latency);
    u.latencyEmpty = h("p.muted.small", {}, "No answer in the last five minutes.");
    u.caches = h("tbody");
    u.clear = h("button.button", { type: "button", onclick: clearCaches }, icon("trash"), "Clear");
    u.alerts = h("ul.alerts");
    u.alertsEmpty = h("p.muted.small", {}, "No rule is set: precis serve --alerts.");
    u.alertsCard = card("Alerts", "", h("h2", {}, "Alerts"), u.alerts, u.alertsEmpty);
    u.body = h("div.cards", { hidden: true },
        u.figures,
        card("Levels", ".hero", h("div.card-head", {}, h("h2", {}, "Levels"), windows),
            h("div.hero-body", {}, u.ladderPlace, h("div.changes-box", {}, h("h3", {}, "What changed, and why"), u.changesEmpty, u.changes))),
        card("Models in memory", ".half", h("h2", {}, "Models in memory"), u.modelsEmpty, u.models),
        card("Memory", ".half", h("h2", {}, "Memory"), u.gaugeText, h("div.gauge-box", { "aria-hidden": "true" }, u.gaugeMarks, u.gauge, u.guardMarks), u.guardText, u.gaugeLegend),
        h("div.third.stack", {}, card("Latency", "", h("h2", {}, "Latency"), u.latencyTable, u.latencyEmpty), u.alertsCard),
        card("Requests", ".third", h("h2", {}, "Requests"), table("Requests", null, u.requests)),
        card("Caches", ".third", h("div.card-head", {}, h("h2", {}, "Caches"), u.clear), table("Caches", ["", "entries", "bytes", "hits"], u.caches)));
    u.page = h("div.dashboard", { tabindex: "-1", "aria-busy": "true" }, h("h1.quiet", {}, "Dashboard"), u.error, u.loading, u.body);
    main.append(u.page);
    return u;
}

/** The dashboard's own style sheet, once. */
function styled() {
    if (document.querySelector("link[data-dashboard]")) return Promise.resolve();
    return new Promise((resolve, reject) => {
        document.head.append(h("link", { rel: "stylesheet", href: "/web/dashboard.css", "data-dashboard": "", onload: resolve,
            onerror: () => reject(new Error("its style sheet is missing")) }));
    });
}

export async function enter(main) {
    await styled();
    ui = build(main);
    chart = ladder(ui.ladderPlace, { onSelect: (e) => e && announce(`${clock(e.time)}, ${e.model}: ${headline(e)}. ${e.reason}. ${effect(e)}`) });
    cards.clear();
    document.addEventListener("visibilitychange", onVisible);
    if (snapshot) paint();
    poll();
    return {
        leave: () => {
            document.removeEventListener("visibilitychange", onVisible);
            hush();
            ui.ends.abort();
            chart.close();
            ui = null;
        },
        keys: {},
    };
}
