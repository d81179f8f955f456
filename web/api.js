// Asking the server: keys, errors in its own words, and streams of events.

import { announce } from "./dom.js";

const KEY = "precis.key";
let key = "";
try {
    key = sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "";
} catch { /* no storage */ }

export const hasKey = () => key !== "";

function keep(value, forever) {
    key = value;
    try {
        sessionStorage.setItem(KEY, value);
        if (forever && value) localStorage.setItem(KEY, value);
        else localStorage.removeItem(KEY);
    } catch { /* no storage: until the page is closed */ }
}

/** What the server refused, as it worded it. status 0: it did not answer. */
export class ApiError extends Error {
    constructor(status, message, code, retryAfter) {
        super(message);
        this.status = status;
        this.code = code;
        this.retryAfter = retryAfter;
    }
}

async function errorOf(response) {
    let said;
    try {
        said = (await response.json()).error;
    } catch { /* not the server's own words */ }
    const after = Number(response.headers.get("Retry-After"));
    return new ApiError(response.status, said?.message ?? `The server answered ${response.status}.`, said?.code,
        after > 0 ? after : undefined);
}

// ---- the key ----

let asking = null;

/** Ask for a key; false when there is none to be had. */
export function askKey(why) {
    asking ??= new Promise((resolve) => {
        const dialog = document.getElementById("key-dialog");
        const input = document.getElementById("key-input");
        const error = document.getElementById("key-error");
        const say = (text) => {
            error.textContent = text;
            error.hidden = !text;
        };
        let given = false;
        input.value = key;
        say(why ?? "");
        document.getElementById("key-cancel").onclick = () => dialog.close();
        dialog.querySelector("form").onsubmit = (e) => {
            const value = input.value.trim();
            if (value && !/^[\x21-\x7e]+$/.test(value)) {
                e.preventDefault();
                say("A key has no blanks and no letters beyond ASCII.");
                return;
            }
            given = true;
            keep(value, document.getElementById("key-keep").checked);
        };
        dialog.onclose = () => {
            asking = null;
            resolve(given);
            if (given) dispatchEvent(new Event("precis-key"));
        };
        dialog.showModal();
        input.focus();
    });
    return asking;
}

// ---- requests ----

/** The response, with a good status. Throws ApiError, or AbortError when `signal` was raised. */
export async function request(path, { method = "GET", body, signal, quiet, fresh } = {}) {
    for (;;) {
        const headers = {};
        if (key) headers.Authorization = `Bearer ${key}`;
        if (body !== undefined) headers["Content-Type"] = "application/json";
        if (fresh) headers["Cache-Control"] = "no-cache"; // an answer that was not given before
        let response;
        try {
            response = await fetch(path, { method, headers, signal,
                body: body === undefined ? undefined : JSON.stringify(body) });
        } catch (e) {
            if (signal?.aborted) throw e;
            throw new ApiError(0, "The server cannot be reached.");
        }
        if (response.ok) return response;
        const error = await errorOf(response);
        if (response.status !== 401 || quiet) throw error;
        announce("The server asks for a key");
        if (!await askKey(key ? error.message : "")) throw error;
    }
}

export const getJson = async (path, options) => (await request(path, options)).json();
export const postJson = async (path, body, options) => (await request(path, { method: "POST", body, ...options })).json();

/** Events of a stream: {event, data, id}, data as text. */
export async function* sse(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", event = {}, done = false, value;
    try {
        while (({ done, value } = await reader.read()), !done) {
            const lines = (rest + value).split("\n");
            rest = lines.pop();
            for (const raw of lines) {
                const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
                if (line === "") {
                    if (event.data !== undefined) yield event;
                    event = {};
                    continue;
                }
                const [, field, text] = /^([^:]*):? ?(.*)$/.exec(line);
                if (field === "data") event.data = event.data === undefined ? text : `${event.data}\n${text}`;
                else if (field === "event" || field === "id") event[field] = text;
            }
        }
    } catch (e) {
        if (e.name === "AbortError") throw e;
        throw new ApiError(0, "The connection to the server broke.");
    } finally {
        reader.cancel().catch(() => {});
    }
}
