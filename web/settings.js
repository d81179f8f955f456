// What goes with each request: model and parameters, and the dialog that sets them.

import { h, LEVELS } from "./dom.js";

/** The server's own defaults. */
export const defaults = { model: "", system: "", temperature: 0.7, top_p: 0.9, top_k: 50, max_tokens: 256, seed: "",
    task_priority: "balanced", min_quantization: "" };

const NUMBERS = [
    { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, help: "0: always the most likely token" },
    { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.01, help: "the most likely tokens up to this sum" },
    { name: "top_k", label: "Top k", min: 0, max: 1000, step: 1, help: "of so many tokens; 0: all" },
    { name: "max_tokens", label: "Max tokens", min: 1, max: 32768, step: 1, help: "of an answer" },
];

/** The fields of a request. */
export function requestFields(s) {
    const out = {};
    for (const { name } of NUMBERS) out[name] = Number(s[name]);
    if (s.seed !== "") out.seed = Number(s.seed);
    if (s.task_priority !== defaults.task_priority) out.task_priority = s.task_priority;
    if (s.min_quantization) out.min_quantization = s.min_quantization;
    return out;
}

const field = (id, label, help, control) => h("div.field", {}, h("label", { for: id }, label), control,
    help ? h("p.muted.small", { id: `${id}-help` }, help) : null);

function numberField(f, value) {
    const id = `set-${f.name}`;
    return field(id, f.label, f.help, h("input", { id, type: "number", min: f.min, max: f.max, step: f.step, required: true,
        value: String(value), inputmode: "decimal", "aria-describedby": `${id}-help` }));
}

function choice(id, label, help, options, value) {
    return field(id, label, help, h("select", { id, "aria-describedby": help ? `${id}-help` : null },
        options.map(([v, text]) => h("option", { value: v, selected: v === value }, text))));
}

/** Shows the dialog; `done` gets new settings when they are taken. */
export function settingsDialog(settings, models, done) {
    const at = (id) => dialog.querySelector(`#set-${id}`);
    const names = models.map((m) => m.id);
    if (settings.model && !names.includes(settings.model)) names.push(settings.model);
    const form = (s) => [
        choice("set-model", "Model", "", [["", names.length ? `The default (${names[0]})` : "The default"], ...names.map((n) => [n, n])], s.model),
        field("set-system", "System prompt", "", h("textarea", { id: "set-system", rows: "3", value: s.system,
            placeholder: "You are a careful assistant." })),
        h("div.fields", {}, NUMBERS.map((f) => numberField(f, s[f.name])),
            field("set-seed", "Seed", "same seed, same text", h("input", { id: "set-seed", type: "number", min: 0, step: 1,
                value: s.seed, placeholder: "random", "aria-describedby": "set-seed-help" })),
            choice("set-priority", "Priority", "one level up or down, where memory allows",
                [["quality", "Quality"], ["balanced", "Balanced"], ["speed", "Speed"]], s.task_priority),
            choice("set-floor", "Least level", "refused where it cannot be held",
                [["", "None"], ...[...LEVELS].reverse().map((l) => [l, l])], s.min_quantization)),
    ];
    const body = h("div", {}, form(settings));
    const dialog = h("dialog.sheet", { "aria-labelledby": "settings-title" },
        h("form", { method: "dialog", onsubmit: () => done({
            ...settings,
            model: at("model").value,
            system: at("system").value,
            ...Object.fromEntries(NUMBERS.map(({ name }) => [name, Number(at(name).value)])),
            seed: at("seed").value,
            task_priority: at("priority").value,
            min_quantization: at("floor").value,
        }) },
        h("h2", { id: "settings-title" }, "Parameters"), body,
        h("div.row.end", {},
            h("button.button", { type: "button", onclick: () => body.replaceChildren(...form({ ...defaults, model: at("model").value })) }, "Defaults"),
            h("span.grow"),
            h("button.button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
            h("button.button.primary", { type: "submit" }, "Use these"))));
    dialog.addEventListener("click", (e) => { if (e.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
}
