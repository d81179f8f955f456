// Making elements, and how numbers are written. Text becomes text nodes only: nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(el, props, kids) {
    for (const [name, value] of Object.entries(props ?? {})) {
        if (value === null || value === undefined || value === false) continue;
        if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
        else if (name === "value" || name === "checked") el[name] = value;
        else el.setAttribute(name, value === true ? "" : value);
    }
    el.append(...kids.flat(Infinity).filter((k) => k !== null && k !== undefined && k !== false));
    return el;
}

/** h("p.note", {title: "x", onclick: f}, "text", child): an element. */
export function h(tag, props, ...kids) {
    const [name, ...classes] = tag.split(".");
    const el = document.createElement(name);
    if (classes.length) el.className = classes.join(" ");
    return fill(el, props, kids);
}

export function svg(tag, props, ...kids) {
    const [name, ...classes] = tag.split(".");
    const el = document.createElementNS(SVG, name);
    if (classes.length) el.setAttribute("class", classes.join(" "));
    return fill(el, props, kids);
}

const ICONS = {
    plus: "M12 5v14M5 12h14",
    send: "M12 19V5M6 11l6-6 6 6",
    stop: "M7 7h10v10H7z",
    copy: "M9 9h10v11H9zM5 15V4h10",
    retry: "M19 12a7 7 0 1 1-2-5l2 2M19 4v5h-5",
    edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
    trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10 11v5M14 11v5",
    download: "M12 4v11M7 11l5 5 5-5M5 20h14",
    tune: "M4 8h8M18 8h2M4 16h2M12 16h8M12 8a3 3 0 1 0 6 0 3 3 0 1 0-6 0M6 16a3 3 0 1 0 6 0 3 3 0 1 0-6 0",
    down: "M12 5v14M6 13l6 6 6-6",
    close: "M6 6l12 12M18 6 6 18",
    check: "M5 12l5 5L19 7",
};

export function icon(name) {
    return svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));
}

export function iconButton(name, label, onclick, props) {
    return h("button.icon", { type: "button", "aria-label": label, title: label, onclick, ...props }, icon(name));
}

export const LEVELS = ["int2", "int4", "int8", "fp16"];

/** Four bars, as many of them full as the level has planes. */
export function levelMark(level) {
    const n = LEVELS.indexOf(level);
    return svg("svg.level-mark", { viewBox: "0 0 20 14", "aria-hidden": "true" },
        [0, 1, 2, 3].map((i) => svg("rect", { x: i * 5 + 1, y: 9 - i * 3, width: 3, height: 4 + i * 3, rx: 1,
            class: i <= n ? "on" : "off" })));
}

export function bytes(n) {
    if (!Number.isFinite(n)) return "–";
    const units = ["B", "kB", "MB", "GB", "TB"];
    let i = 0;
    while (Math.abs(n) >= 999.5 && i < 4) { n /= 1000; i++; }
    return `${i === 0 || Math.abs(n) >= 99.95 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

export function seconds(s) {
    if (!Number.isFinite(s)) return "–";
    if (s < 0.001) return `${Math.round(s * 1e6)} µs`;
    if (s < 0.9995) return `${s < 0.01 ? (s * 1000).toFixed(1) : Math.round(s * 1000)} ms`;
    if (s < 60) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    return s < 86400 ? `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min` : `${Math.floor(s / 86400)} d`;
}

export const count = (n) => Number.isFinite(n) ? n.toLocaleString("en") : "–";
export const percent = (part) => Number.isFinite(part) ? `${(part * 100).toFixed(part > 0 && part < 0.1 ? 1 : 0)}%` : "–";

export function ago(ms) {
    const s = (Date.now() - ms) / 1000;
    if (s < 60) return "just now";
    if (s < 3600) return `${Math.floor(s / 60)} min ago`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
    return new Date(ms).toLocaleDateString(undefined, { day: "numeric", month: "short" });
}

/** For screen readers: said once, politely. */
export function announce(text) {
    document.getElementById("status").textContent = text;
}

/** A short note that goes by itself. */
export function toast(text) {
    const note = h("p.toast", {}, text);
    const box = document.getElementById("toasts");
    box.replaceChildren(note);
    setTimeout(() => note.remove(), 5000);
}

export async function copyText(text) {
    try {
        await navigator.clipboard.writeText(text);
    } catch { // not allowed outside a secure context
        const box = h("textarea.quiet", { value: text });
        document.body.append(box);
        box.select();
        document.execCommand("copy");
        box.remove();
    }
}

/** A button that copies, and says that it has. */
export function copyButton(label, textOf) {
    const b = iconButton("copy", label, async () => {
        await copyText(textOf());
        b.replaceChildren(icon("check"));
        announce("Copied");
        setTimeout(() => b.replaceChildren(icon("copy")), 1200);
    });
    return b;
}

/** Settings of this page in the browser; what cannot be kept is forgotten with the page. */
const kept = new Map();
export function recall(name, otherwise) {
    try {
        const text = localStorage.getItem(`precis.${name}`);
        if (text !== null) return JSON.parse(text);
    } catch { /* no storage, or not ours */ }
    return kept.has(name) ? kept.get(name) : otherwise;
}
export function remember(name, value) {
    kept.set(name, value);
    try {
        localStorage.setItem(`precis.${name}`, JSON.stringify(value));
    } catch { /* no storage */ }
}
