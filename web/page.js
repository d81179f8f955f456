// The frame: which view is shown, theme, key, shortcuts. A view's script is loaded when it is opened.

import { announce, recall, remember } from "./dom.js";
import { askKey } from "./api.js";

const main = document.getElementById("main");
const views = {
    chat: { title: "Chat", load: () => import("./chat.js") },
    dashboard: { title: "Dashboard", load: () => import("./dashboard.js") },
};
let shown = null; // {name, leave, keys}

// ---- views ----

function place() {
    const [, name, rest] = /^#\/(\w+)(?:\/(.*))?$/.exec(location.hash) ?? [null, "chat", ""];
    return { name: Object.hasOwn(views, name) ? name : "chat", rest: rest ?? "" };
}

async function show() {
    const { name, rest } = place();
    if (shown?.name === name) {
        shown.go?.(rest);
        return;
    }
    shown?.leave?.();
    const mine = shown = { name };
    main.setAttribute("aria-busy", "true");
    for (const a of document.querySelectorAll(".tabs a")) {
        if (a.dataset.view === name) a.setAttribute("aria-current", "page");
        else a.removeAttribute("aria-current");
    }
    document.title = `${views[name].title} – precis`;
    document.body.dataset.view = name;
    document.getElementById("menu").hidden = name !== "chat";
    try {
        const view = await views[name].load();
        if (shown !== mine) return;
        main.replaceChildren();
        Object.assign(mine, await view.enter(main, rest));
    } catch (e) {
        if (shown !== mine) return;
        shown = null;
        main.replaceChildren(failed(e));
    }
    main.removeAttribute("aria-busy");
}

function failed(e) {
    const box = document.createElement("div");
    box.className = "state";
    const text = document.createElement("p");
    text.textContent = `This view could not be loaded: ${e.message}`;
    const again = document.createElement("button");
    again.className = "button primary";
    again.textContent = "Try again";
    again.onclick = () => location.reload();
    box.append(text, again);
    return box;
}

// ---- theme ----

const THEMES = ["system", "light", "dark"];
const themeButton = document.getElementById("theme");

function theme() {
    return document.documentElement.dataset.theme ?? "system";
}

function setTheme(name) {
    if (name === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    try {
        localStorage.setItem("precis.theme", name); // plain text: theme.js reads it
    } catch { /* no storage */ }
    themeButton.setAttribute("aria-label", `Theme: ${name}`);
    themeButton.title = `Theme: ${name} (t)`;
}

function nextTheme() {
    setTheme(THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
    announce(`Theme: ${theme()}`);
}

// ---- keys ----

const helpDialog = document.getElementById("help-dialog");
const shortcuts = document.getElementById("shortcuts");

function isWriting(el) {
    return el instanceof HTMLElement && (el.isContentEditable || /^(TEXTAREA|SELECT)$/.test(el.tagName) ||
        (el.tagName === "INPUT" && !/^(checkbox|range|button|radio)$/.test(el.type)));
}

function onKey(e) {
    if (e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key === "Escape") {
        if (!document.querySelector("dialog[open]")) shown?.keys?.Escape?.(e);
        return;
    }
    if (!shortcuts.checked || isWriting(e.target) || document.querySelector("dialog[open]")) return;
    const own = {
        "?": () => helpDialog.showModal(),
        t: nextTheme,
        c: () => { location.hash = "#/chat"; },
        d: () => { location.hash = "#/dashboard"; },
    };
    const act = own[e.key] ?? shown?.keys?.[e.key];
    if (!act) return;
    e.preventDefault();
    act(e);
}

// ---- beginning ----

shortcuts.checked = recall("shortcuts", true);
shortcuts.onchange = () => remember("shortcuts", shortcuts.checked);
document.getElementById("help").onclick = () => helpDialog.showModal();
document.getElementById("key").onclick = () => askKey();
document.getElementById("skip").onclick = (e) => {
    e.preventDefault();
    main.focus();
};
for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (e) => { if (e.target === dialog) dialog.close(); });
}
themeButton.onclick = nextTheme;
setTheme(theme());
addEventListener("keydown", onKey);
addEventListener("hashchange", show);
show();
