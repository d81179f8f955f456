// Chat: conversations, and answers as they come.
//
// A conversation is {id, title, created, updated, named, settings, messages}; a message {role, content}, an answer also
// {state, levels, ...} (see newAnswer). Answers go on when another view is shown; `running` holds what can stop them.

import { h, icon, iconButton, levelMark, LEVELS, seconds, count, ago, announce, toast, copyButton, recall, remember } from "./dom.js";
import { ApiError, getJson, request, sse } from "./api.js";
import * as store from "./store.js";
import { renderer } from "./markdown.js";
import { settingsDialog, defaults, requestFields } from "./settings.js";

let conversations = null; // the newest first
let models = [];
let modelsError = null;
let current = null;
let ui = null;            // the view's elements, while it is shown
const running = new Map(); // conversation id -> AbortController

const newId = () => crypto.getRandomValues(new Uint32Array(2)).reduce((s, n) => s + n.toString(36), "");

function newConversation() {
    const now = Date.now();
    return { id: newId(), title: "New conversation", created: now, updated: now, named: false, messages: [],
        settings: { ...defaults, ...recall("settings", {}) } };
}

const newAnswer = (model) => ({ role: "assistant", content: "", model, state: "waiting", began: Date.now() });

// ---- keeping ----

let saving = new Map();

function save(conversation, soon = false) {
    if (soon && saving.has(conversation.id)) return;
    clearTimeout(saving.get(conversation.id));
    saving.set(conversation.id, setTimeout(() => {
        saving.delete(conversation.id);
        if (!conversations.includes(conversation)) return; // deleted meanwhile
        store.put(structuredClone(conversation)).catch(() => toast("This browser could not keep the conversation."));
    }, soon ? 700 : 0));
}

async function loadConversations() {
    if (conversations) return;
    await store.open();
    conversations = await store.all();
    for (const c of conversations) {
        for (const m of c.messages) {
            if (m.state === "waiting" || m.state === "answering") m.state = "stopped"; // the page was closed meanwhile
        }
    }
}

// ---- answering ----

async function answer(conversation, fresh = false) {
    const settings = conversation.settings;
    const message = newAnswer(settings.model || "");
    const body = {
        model: settings.model || undefined,
        messages: [
            ...(settings.system.trim() ? [{ role: "system", content: settings.system }] : []),
            ...conversation.messages.filter((m) => m.content && !m.error).map(({ role, content }) => ({ role, content })),
        ],
        ...requestFields(settings),
        stream: true,
        stream_options: { include_usage: true, include_events: true },
    };
    const control = new AbortController();
    conversation.messages.push(message);
    conversation.updated = Date.now();
    running.set(conversation.id, control);
    changed(conversation);
    announce("Waiting for the answer");
    try {
        await receive(conversation, message, body, { signal: control.signal, fresh });
        message.state = "done";
    } catch (e) {
        if (control.signal.aborted) {
            message.state = "stopped";
        } else {
            message.state = "failed";
            message.error = { message: e.message, code: e.code, status: e.status, retryAfter: e.retryAfter };
        }
    }
    running.delete(conversation.id);
    conversation.updated = Date.now();
    save(conversation);
    if (ui && current === conversation) paintMessage(message);
    paintList();
    paintComposer();
    announce(spoken(message));
}

const spoken = (m) => m.state === "failed" ? `Error: ${m.error.message}`
    : m.state === "stopped" ? "Stopped" : `Answer: ${m.content.slice(0, 2000)}`;

async function receive(conversation, message, body, options) {
    const asked = performance.now();
    let first = 0, last = 0, pieces = 0;
    const response = await request("/v1/chat/completions", { method: "POST", body, ...options });
    note(message, response.headers.get("X-Precis-Level"));
    message.cache = response.headers.get("X-Cache") === "HIT";
    for await (const event of sse(response)) {
        if (event.data === "[DONE]") break;
        const said = JSON.parse(event.data);
        if (said.error) throw new ApiError(200, said.error.message, said.error.code);
        if (event.event === "queue") message.queue = { position: said.position, estimate: said.estimate_seconds };
        if (event.event === "level") note(message, said.level);
        const choice = said.choices?.[0];
        const piece = choice?.delta?.content;
        if (piece) {
            last = performance.now();
            if (!first) {
                first = last;
                message.first = (first - asked) / 1000;
                message.state = "answering";
                delete message.queue;
                announce("Answering");
            }
            pieces++;
            message.content += piece;
            message.rate = last > first ? (pieces - 1) / ((last - first) / 1000) : 0;
            save(conversation, true);
        }
        if (choice?.finish_reason) message.finish = choice.finish_reason;
        if (said.model) message.model = said.model;
        if (said.precis) note(message, said.precis.level);
        if (said.usage) {
            message.tokens = said.usage.completion_tokens;
            message.prompt = said.usage.prompt_tokens;
            message.reused = said.usage.prompt_tokens_details?.cached_tokens ?? 0;
            if (last > first) message.rate = (message.tokens - 1) / ((last - first) / 1000);
        }
        if (ui && current === conversation) schedule(message);
    }
    if (!message.finish) throw new ApiError(0, "The answer ended before it was complete.");
}

/** The level an answer is computed at from now on. */
function note(message, level) {
    if (!LEVELS.includes(level)) return;
    message.levels ??= [];
    if (message.levels[message.levels.length - 1] !== level) message.levels.push(level);
}

function stop() {
    running.get(current?.id)?.abort();
}

function send() {
    const text = ui.input.value.trim();
    if (!text || running.has(current.id) || !models.length) return;
    ui.input.value = "";
    grow();
    say(text);
}

function say(text) {
    if (!conversations.includes(current)) conversations.unshift(current);
    current.messages.push({ role: "user", content: text });
    if (!current.named) {
        const line = current.messages[0].content.split("\n")[0].trim();
        current.title = line.length > 60 ? `${line.slice(0, 58)}…` : line;
    }
    conversations = [current, ...conversations.filter((c) => c !== current)];
    if (location.hash !== `#/chat/${current.id}`) history.replaceState(null, "", `#/chat/${current.id}`);
    ui.pinned = true;
    answer(current);
}

/** The last answer again: a new one in its place. */
function retry() {
    if (running.has(current.id)) return;
    while (current.messages.at(-1)?.role === "assistant") current.messages.pop();
    if (!current.messages.length) return;
    ui.pinned = true;
    answer(current, true);
}

// ---- the list of conversations ----

function paintList() {
    if (!ui) return;
    const items = conversations.map((c) => {
        const here = c === current;
        const link = h("a.conversation", { href: `#/chat/${c.id}`, "aria-current": here ? "true" : null },
            h("span.conversation-title", {}, c.title),
            h("span.conversation-when", {}, running.has(c.id) ? "answering" : ago(c.updated)));
        return h("li", {}, link, h("div.conversation-tools", {},
            iconButton("edit", `Rename: ${c.title}`, () => rename(c)),
            iconButton("download", `Export: ${c.title}`, () => exportOne(c)),
            iconButton("trash", `Delete: ${c.title}`, () => erase(c))));
    });
    ui.list.replaceChildren(...items);
    ui.listEmpty.hidden = items.length > 0;
}

function rename(c) {
    const item = [...ui.list.children][conversations.indexOf(c)];
    const input = h("input.rename", { type: "text", value: c.title, "aria-label": "Name of the conversation", maxlength: "120" });
    const end = (keep) => {
        if (!input.isConnected) return;
        const name = input.value.trim();
        if (keep && name) {
            c.title = name;
            c.named = true;
            save(c);
        }
        paintList();
    };
    input.onkeydown = (e) => {
        if (e.key === "Enter") end(true);
        if (e.key === "Escape") { e.stopPropagation(); end(false); }
    };
    input.onblur = () => end(true);
    item.replaceChildren(input);
    input.select();
}

async function erase(c) {
    if (!confirm(`Delete "${c.title}"? It is kept nowhere but in this browser.`)) return;
    running.get(c.id)?.abort();
    clearTimeout(saving.get(c.id));
    saving.delete(c.id);
    conversations = conversations.filter((x) => x !== c);
    await store.remove(c.id).catch(() => {});
    if (c === current) location.hash = "#/chat";
    paintList();
    announce("Deleted");
}

function exportOne(c) {
    const parts = [`# ${c.title}`, ...c.messages.filter((m) => m.content).map((m) =>
        `## ${m.role === "user" ? "You" : `${m.model}${m.levels?.length ? ` (${m.levels.join(", ")})` : ""}`}\n\n${m.content}`)];
    const url = URL.createObjectURL(new Blob([`${parts.join("\n\n")}\n`], { type: "text/markdown" }));
    const name = c.title.replace(/[^\p{L}\p{N} _-]+/gu, "").trim().slice(0, 60) || "conversation";
    h("a", { href: url, download: `${name}.md` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// ---- messages ----

const nodes = new Map(); // message -> {root, body, meta, render}

function paintMessages() {
    nodes.clear();
    ui.thread.replaceChildren();
    const empty = current.messages.length === 0;
    ui.empty.hidden = !empty;
    ui.thread.hidden = empty;
    for (const m of current.messages) paintMessage(m);
    scrollDown(true);
}

function paintMessage(m) {
    let node = nodes.get(m);
    if (!node) {
        node = m.role === "user" ? userNode(m) : answerNode();
        nodes.set(m, node);
        ui.thread.append(node.root);
    }
    if (m.role === "assistant") paintAnswer(m, node);
}

function userNode(m) {
    const text = h("div.said", {}, m.content);
    const tools = h("div.tools", {},
        iconButton("edit", "Edit and ask again", () => edit(m)),
        copyButton("Copy the message", () => m.content));
    return { root: h("article.message.user", { "aria-label": "You" }, text, tools) };
}

function edit(m) {
    if (running.has(current.id)) return;
    const { root } = nodes.get(m);
    const input = h("textarea.edit", { value: m.content, rows: "3", "aria-label": "The message" });
    const done = () => {
        const text = input.value.trim();
        if (!text) return;
        current.messages.length = current.messages.indexOf(m);
        paintMessages();
        say(text);
    };
    const cancel = () => {
        nodes.set(m, userNode(m));
        root.replaceWith(nodes.get(m).root);
        nodes.get(m).root.querySelector("button").focus();
    };
    input.onkeydown = (e) => {
        if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); done(); }
        if (e.key === "Escape") { e.stopPropagation(); cancel(); }
    };
    root.replaceChildren(h("div.editing", {}, input, h("div.row.end", {},
        h("button.button", { type: "button", onclick: cancel }, "Cancel"),
        h("button.button.primary", { type: "button", onclick: done }, "Ask again"))));
    input.focus();
}

function answerNode() {
    const body = h("div.markdown"), meta = h("div.meta");
    return { root: h("article.message.answer", { "aria-label": "Answer" }, body, meta), body, meta, render: renderer(body) };
}

function paintAnswer(m, node) {
    const busy = m.state === "waiting" || m.state === "answering";
    node.root.classList.toggle("busy", busy);
    node.root.setAttribute("aria-busy", String(busy));
    if (m.content) node.render(m.content);
    node.meta.replaceChildren(...metaOf(m, busy));
    if (ui.pinned) scrollDown();
}

function levelsOf(m) {
    if (!m.levels?.length) return [];
    return m.levels.map((l, i) => h("span.level", { title: i ? "The level changed while this was written" : "Computed at this level" },
        i ? h("span.arrow", { "aria-label": "then" }, "→") : null, levelMark(l), l));
}

function metaOf(m, busy) {
    if (m.state === "waiting") {
        return [h("span.dots", { "aria-hidden": "true" }, h("i"), h("i"), h("i")), h("span", {}, m.queue
            ? `number ${m.queue.position} in the queue${m.queue.estimate > 0 ? `, about ${seconds(m.queue.estimate)}` : ""}`
            : "waiting for the first token")];
    }
    const facts = [];
    if (m.cache) facts.push(h("span.badge", { title: "The same question was answered before" }, "cached"));
    if (m.rate > 0 && !m.cache) facts.push(h("span", {}, `${m.rate < 10 ? m.rate.toFixed(1) : Math.round(m.rate)} tokens/s`));
    if (m.tokens !== undefined) facts.push(h("span", {}, `${count(m.tokens)} tokens`));
    if (m.first !== undefined) facts.push(h("span", { title: "From sending to the first token" }, `first after ${seconds(m.first)}`));
    if (m.reused > 0) facts.push(h("span", { title: "Tokens of the prompt that were computed before" }, `${count(m.reused)} of ${count(m.prompt)} reused`));
    const notes = [];
    if (m.finish === "length" && !busy) notes.push(h("p.note", {}, "It reached the limit of tokens."));
    if (m.finish === "capacity") notes.push(h("p.note", {}, "It ended early: the level it asked for could not be held."));
    if (m.state === "stopped") facts.push(h("span", {}, "stopped"));
    if (m.error) notes.push(errorNote(m.error));
    const isLast = m === current?.messages.at(-1);
    const tools = busy ? [] : [h("div.tools", {},
        m.content ? copyButton("Copy the answer", () => m.content) : null,
        isLast && !m.error ? iconButton("retry", "Answer again", retry) : null)];
    return [...notes, h("div.facts", {}, levelsOf(m), facts), ...tools];
}

function errorNote(error) {
    return h("div.error", {},
        h("p", {}, error.message, error.retryAfter ? ` It may be tried again in ${seconds(error.retryAfter)}.` : null),
        h("button.button", { type: "button", onclick: retry }, icon("retry"), "Try again"));
}

let frame = 0;
const due = new Set();

/** Paint a message with the next frame: tokens come faster than frames. */
function schedule(m) {
    due.add(m);
    frame ||= requestAnimationFrame(() => {
        frame = 0;
        for (const x of due) if (ui && current?.messages.includes(x)) paintMessage(x);
        due.clear();
    });
}

/** Something beyond one message is different. */
function changed(conversation) {
    paintList();
    if (!ui || current !== conversation) return;
    paintMessages();
    paintComposer();
}

// ---- scrolling ----

const isAtEnd = (el) => el.scrollHeight - el.scrollTop - el.clientHeight < 60;

function scrollDown(always = false) {
    if (always) ui.pinned = true;
    ui.scroll.scrollTop = ui.scroll.scrollHeight;
    ui.latest.hidden = true;
}

function onScroll() {
    ui.pinned = isAtEnd(ui.scroll);
    ui.latest.hidden = ui.pinned;
}

// ---- the composer ----

function grow() {
    ui.input.style.height = "auto";
    ui.input.style.height = `${Math.min(ui.input.scrollHeight, innerHeight * 0.4)}px`;
}

function paintComposer() {
    if (!ui) return;
    const busy = running.has(current.id);
    ui.action.replaceChildren(icon(busy ? "stop" : "send"));
    ui.action.setAttribute("aria-label", busy ? "Stop the answer" : "Send");
    ui.action.title = busy ? "Stop (Esc)" : "Send (Enter)";
    ui.action.classList.toggle("stops", busy);
    ui.action.disabled = !busy && (!ui.input.value.trim() || !models.length);
    const names = models.map((m) => m.id);
    const chosen = current.settings.model;
    if (chosen && !names.includes(chosen)) names.push(chosen);
    ui.model.replaceChildren(...names.map((n) => h("option", { value: n }, n)));
    ui.model.value = chosen || names[0] || "";
    ui.model.hidden = names.length === 0;
    const off = Object.keys(defaults).filter((k) => k !== "model" && current.settings[k] !== defaults[k]).length;
    ui.tuned.textContent = off ? String(off) : "";
    ui.tuned.hidden = !off;
}

function onComposerKey(e) {
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) {
        e.preventDefault();
        if (running.has(current.id)) announce("An answer is being written. Stop it first.");
        else send();
    }
}

function changeSettings() {
    settingsDialog(current.settings, models, (settings) => {
        current.settings = settings;
        remember("settings", settings);
        if (conversations.includes(current)) save(current);
        paintComposer();
    });
}

// ---- models ----

async function loadModels() {
    modelsError = null;
    try {
        models = (await getJson("/v1/models")).data;
    } catch (e) {
        modelsError = e;
    }
    if (!ui) return;
    paintEmpty();
    paintComposer();
}

const SUGGESTIONS = ["Why is the sky blue?", "Write a short poem about rain.", "Make a table of three planets and their sizes."];

function paintEmpty() {
    if (modelsError) {
        ui.empty.replaceChildren(h("h2", {}, "The models could not be listed"), h("p.muted", {}, modelsError.message),
            h("button.button.primary", { type: "button", onclick: loadModels }, "Try again"));
        return;
    }
    if (!models.length) {
        ui.empty.replaceChildren(h("h2", {}, "There is no model yet"),
            h("p.muted", {}, "Fetch one on the machine that serves this page, then try again:"), h("p", {}, h("code", {}, "precis pull smollm2")),
            h("button.button.primary", { type: "button", onclick: loadModels }, "Try again"));
        return;
    }
    ui.empty.replaceChildren(h("h2", {}, "What would you like to know?"),
        h("p.muted", {}, "Answers are computed on this server, at the precision that fits its memory now."),
        h("div.suggestions", {}, SUGGESTIONS.map((s) => h("button.suggestion", { type: "button", onclick: () => say(s) }, s))));
}

// ---- the view ----

function build(main) {
    const list = h("ul.conversations");
    const listEmpty = h("p.muted.small", {}, "Conversations are kept in this browser only.");
    const side = h("aside.side", { id: "side", "aria-label": "Conversations" },
        h("button.button.new", { type: "button", onclick: () => { location.hash = "#/chat"; }, title: "New conversation (n)" },
            icon("plus"), "New conversation"), list, listEmpty);
    const empty = h("div.empty", {}, h("p.muted", {}, "Loading…"));
    const thread = h("div.thread");
    const latest = h("button.icon.latest", { type: "button", "aria-label": "To the end", title: "To the end",
        onclick: () => scrollDown(true), hidden: true }, icon("down"));
    const scroll = h("div.scroll", { onscroll: onScroll, tabindex: "0", role: "region", "aria-label": "Messages" }, empty, thread);
    const input = h("textarea.input", { rows: "1", placeholder: "Ask anything", "aria-label": "Message",
        onkeydown: onComposerKey, oninput: () => { grow(); paintComposer(); } });
    const model = h("select.model", { "aria-label": "Model", onchange: () => {
        current.settings.model = model.value;
        remember("settings", current.settings);
        if (conversations.includes(current)) save(current);
    } });
    const tuned = h("span.tuned", { hidden: true });
    const tune = h("button.icon.tune", { type: "button", "aria-label": "Parameters", title: "Parameters (p)", onclick: changeSettings }, icon("tune"), tuned);
    const action = h("button.action", { type: "button", onclick: () => running.has(current.id) ? stop() : send() });
    const composer = h("div.composer", {}, input, h("div.composer-row", {}, model, tune, h("span.grow"), action));
    main.append(h("div.chat", {}, side, h("div.shade", { onclick: () => drawer(false) }),
        h("section.talk", { "aria-label": "Conversation" }, h("h1.quiet", {}, "Chat"), scroll, latest,
            h("div.composer-place", {}, composer))));
    return { side, list, listEmpty, empty, thread, latest, scroll, input, model, tuned, action, pinned: true };
}

function drawer(open) {
    document.body.classList.toggle("drawer", open);
    document.getElementById("menu").setAttribute("aria-expanded", String(open));
    if (open) ui.side.querySelector("button").focus();
}

function go(id) {
    drawer(false);
    current = conversations.find((c) => c.id === id) ?? newConversation();
    if (current.id !== id && location.hash !== "#/chat") history.replaceState(null, "", "#/chat");
    paintList();
    paintMessages();
    paintComposer();
    if (matchMedia("(hover: hover)").matches) ui.input.focus();
}

const menu = document.getElementById("menu");

export async function enter(main, rest) {
    await loadConversations();
    ui = build(main);
    menu.onclick = () => drawer(!document.body.classList.contains("drawer"));
    go(rest || (current && conversations.includes(current) ? current.id : ""));
    if (!models.length) loadModels();
    else paintEmpty();
    addEventListener("precis-key", loadModels);
    return {
        go,
        leave: () => {
            removeEventListener("precis-key", loadModels);
            drawer(false);
            ui = null;
            nodes.clear();
        },
        keys: {
            Escape: () => document.body.classList.contains("drawer") ? drawer(false) : stop(),
            "/": () => ui.input.focus(),
            n: () => { location.hash = "#/chat"; ui.input.focus(); },
            p: changeSettings,
        },
    };
}
