// Markdown to elements, for text that nobody has checked.
//
// There is no way from the text to markup: every character ends in a text node, elements are made from the short list in
// this file, and the only attribute with text in it is the href of a link, which must be http or https. HTML is shown as it
// was written. Scanning is linear but for nesting, which is bounded.

import { h, copyButton } from "./dom.js";

const DEPTH_MAX = 8, OPEN_MAX = 50; // nesting; brackets of a text that are never closed

// ---- blocks ----

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}>[ ]?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])([ \t]+|$)/;
const DELIMITERS = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const BLANK = /^[ \t]*$/;

const isTable = (lines, i) =>
    i + 1 < lines.length && lines[i].includes("|") && lines[i + 1].includes("-") && DELIMITERS.test(lines[i + 1]) &&
    cells(lines[i]).length === cells(lines[i + 1]).length;

function startsBlock(lines, i) {
    const line = lines[i];
    return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line) ||
        isTable(lines, i);
}

/** Where the block that begins at line i ends (the line after it). */
function blockEnd(lines, i) {
    const n = lines.length, first = lines[i], fence = FENCE.exec(first);
    let j = i + 1;
    if (fence) {
        while (j < n && !isClosing(lines[j], fence[1])) j++;
        return Math.min(j + 1, n);
    }
    if (HEADING.test(first) || RULE.test(first)) return j;
    if (QUOTE.test(first)) {
        while (j < n && QUOTE.test(lines[j])) j++;
        return j;
    }
    if (ITEM.test(first)) return listEnd(lines, i);
    if (isTable(lines, i)) {
        while (j < n && lines[j].includes("|")) j++;
        return j;
    }
    while (j < n && !BLANK.test(lines[j]) && !startsBlock(lines, j)) j++;
    return j;
}

function isClosing(line, fence) {
    const text = line.trim();
    return text.length >= fence.length && text[0] === fence[0] && text === fence[0].repeat(text.length);
}

const indentOf = (line) => line.length - line.trimStart().length;
const isOrdered = (marker) => marker.length > 1;

/** A list goes on over its items, what is indented under them, and blank lines between. */
function listEnd(lines, i) {
    const kind = isOrdered(ITEM.exec(lines[i])[2]);
    let j = i + 1, end = j;
    while (j < lines.length) {
        const line = lines[j], item = ITEM.exec(line);
        if (BLANK.test(line)) { j++; continue; }
        const afterBlank = BLANK.test(lines[j - 1]);
        const same = item && isOrdered(item[2]) === kind && !RULE.test(line);
        if (!same && indentOf(line) < 2 && (afterBlank || startsBlock(lines, j))) break;
        end = ++j;
    }
    return end;
}

/** The sources of the top-level blocks. */
export function split(text) {
    const lines = text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n");
    return blocksOf(lines).map((b) => b.join("\n"));
}

function blocksOf(lines) {
    const out = [];
    for (let i = 0; i < lines.length;) {
        if (BLANK.test(lines[i])) { i++; continue; }
        const end = blockEnd(lines, i);
        out.push(lines.slice(i, end));
        i = end;
    }
    return out;
}

function renderLines(lines, depth) {
    return blocksOf(lines).map((b) => renderBlock(b, depth));
}

function renderBlock(lines, depth) {
    const first = lines[0], fence = FENCE.exec(first), heading = HEADING.exec(first);
    if (depth >= DEPTH_MAX) return h("p", {}, lines.join("\n"));
    if (fence) return code(lines, fence);
    if (heading) return h(`h${Math.min(heading[1].length + 2, 6)}`, {}, inline(heading[2].trimEnd().replace(/(^|[ \t])#+$/, "").trim()));
    if (RULE.test(first)) return h("hr");
    if (QUOTE.test(first)) return h("blockquote", {}, renderLines(lines.map((l) => l.replace(QUOTE, "")), depth + 1));
    if (ITEM.test(first)) return list(lines, depth);
    if (isTable(lines, 0)) return table(lines);
    return h("p", {}, inline(lines.map((l) => l.trimStart()).join("\n")));
}

function code(lines, fence) {
    const closed = lines.length > 1 && isClosing(lines[lines.length - 1], fence[1]);
    const text = lines.slice(1, closed ? -1 : undefined).join("\n");
    const name = fence[2].trim().split(/\s/)[0];
    return h("div.code", {},
        h("div.code-head", {}, h("span", {}, name || "text"), copyButton("Copy code", () => text)),
        h("pre", { tabindex: "0", role: "region", "aria-label": `Code${name ? `, ${name}` : ""}` }, h("code", {}, text)));
}

function list(lines, depth) {
    const first = ITEM.exec(lines[0]), ordered = isOrdered(first[2]);
    const items = [];
    let loose = false;
    for (const line of lines) {
        const m = ITEM.exec(line), item = items[items.length - 1];
        if (m && isOrdered(m[2]) === ordered && (!item || indentOf(line) < item.offset)) {
            items.push({ offset: Math.min(m[0].length || 2, m[1].length + m[2].length + 4), lines: [line.slice(m[0].length)] });
        } else {
            const indent = Math.min(indentOf(line), item.offset);
            item.lines.push(line.slice(indent));
        }
    }
    for (const item of items) {
        while (item.lines.length > 1 && BLANK.test(item.lines[item.lines.length - 1])) { item.lines.pop(); }
        loose ||= item.lines.some((l, i) => BLANK.test(l) && i > 0);
    }
    const made = items.map((item) => {
        const parts = renderLines(item.lines, depth + 1);
        const tight = parts.flatMap((p, i) => p.tagName === "P" && !loose && i === 0 ? [...p.childNodes] : [p]);
        return h("li", {}, tight);
    });
    const start = ordered ? parseInt(first[2], 10) : 1;
    return h(ordered ? "ol" : "ul", { start: ordered && start !== 1 ? String(start) : null }, made);
}

function cells(line) {
    const out = [];
    let cell = "";
    const text = line.trim().replace(/^\|/, "");
    for (let i = 0; i < text.length; i++) {
        if (text[i] === "\\" && text[i + 1] === "|") { cell += "|"; i++; }
        else if (text[i] === "|") { out.push(cell.trim()); cell = ""; }
        else cell += text[i];
    }
    if (cell.trim() || !text.endsWith("|")) out.push(cell.trim());
    return out;
}

function table(lines) {
    const head = cells(lines[0]);
    const sides = cells(lines[1]).map((c) => c.endsWith(":") ? (c.startsWith(":") ? "center" : "right") : "left");
    const row = (line, tag) => {
        const texts = typeof line === "string" ? cells(line) : line;
        return h("tr", {}, head.map((_, i) => h(`${tag}.${sides[i] ?? "left"}`, tag === "th" ? { scope: "col" } : {},
            inline(texts[i] ?? ""))));
    };
    return h("div.table", { tabindex: "0", role: "region", "aria-label": "Table" },
        h("table", {}, h("thead", {}, row(head, "th")), h("tbody", {}, lines.slice(2).map((l) => row(l, "td")))));
}

// ---- text ----

const URL_AT = /https?:\/\/[^\s<>"'`\\^{}|]+/y;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}]/u;
const MARKS = ["***", "**", "__", "~~", "*", "_"];
const MADE = { "**": "strong", "__": "strong", "~~": "s", "*": "em", "_": "em" };

export function safeUrl(text) {
    try {
        const url = new URL(text);
        return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
    } catch {
        return null;
    }
}

function link(href, kids) {
    return h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, kids);
}

/** Text with code, emphasis, links: a list of nodes. */
export function inline(text, depth = 0) {
    const out = [];
    const dead = new Set(); // marks without an end in the rest of this text
    let plain = "", i = 0;
    const flush = () => {
        if (plain) out.push(plain);
        plain = "";
    };
    while (i < text.length) {
        const c = text[i];
        const [node, end] = depth < DEPTH_MAX ? special(text, i, depth, dead) : [null, 0];
        if (node !== null && node !== undefined) {
            flush();
            out.push(node);
            i = end;
        } else if (c === "\\" && PUNCTUATION.test(text[i + 1] ?? "")) {
            plain += text[i + 1];
            i += 2;
        } else if (c === "\n") {
            flush();
            out.push(h("br"));
            i++;
        } else if (c === "`" || c === "*" || c === "_" || c === "~") { // a run that opens nothing
            const run = runAt(text, i);
            plain += text.slice(i, i + run);
            i += run;
        } else {
            plain += c;
            i++;
        }
    }
    flush();
    return out;
}

function runAt(text, i) {
    let n = 1;
    while (text[i + n] === text[i]) n++;
    return n;
}

/** [node, where it ends] for what begins at i; [null] for nothing. */
function special(text, i, depth, dead) {
    switch (text[i]) {
        case "`": return codeSpan(text, i, dead);
        case "*": case "_": case "~": return emphasis(text, i, depth, dead);
        case "[": return bracket(text, i, depth, dead);
        case "!": return text[i + 1] === "[" ? bracket(text, i + 1, depth, dead) : [null];
        case "<": return angle(text, i);
        case "h": return bareUrl(text, i);
        default: return [null];
    }
}

function codeSpan(text, i, dead) {
    const n = runAt(text, i);
    if (dead.has(`\`${n}`)) return [null];
    for (let j = i + n; (j = text.indexOf("`", j)) >= 0;) {
        const m = runAt(text, j);
        if (m === n) return [h("code", {}, text.slice(i + n, j).replace(/\n/g, " ").replace(/^ (.+) $/, "$1")), j + n];
        j += m;
    }
    dead.add(`\`${n}`);
    return [null];
}

function emphasis(text, i, depth, dead) {
    const mark = MARKS.find((m) => text.startsWith(m, i));
    if (!mark || dead.has(mark)) return [null];
    const n = mark.length, before = text[i - 1] ?? " ", after = text[i + n] ?? " ";
    if (/\s/.test(after) || (mark[0] === "_" && WORD.test(before))) return [null];
    for (let j = i + n; (j = text.indexOf(mark, j)) >= 0; j++) {
        const run = runAt(text, j);
        const closes = run === n && !/\s/.test(text[j - 1]) && text[j - 1] !== "\\" &&
            !(mark[0] === "_" && WORD.test(text[j + n] ?? " "));
        if (closes) {
            const kids = inline(text.slice(i + n, j), depth + 1);
            return [mark === "***" ? h("strong", {}, h("em", {}, kids)) : h(MADE[mark], {}, kids), j + n];
        }
        j += run - 1;
    }
    dead.add(mark);
    return [null];
}

/** [text](url) or ![text](url), which is a link, too: no picture is fetched. */
function bracket(text, i, depth, dead) {
    if (dead.has("[")) return [null];
    let open = 0, j = i;
    const most = Math.min(text.length, i + 1000);
    for (; j < most; j++) {
        if (text[j] === "\\") j++;
        else if (text[j] === "[") open++;
        else if (text[j] === "]" && --open === 0) break;
    }
    if (open !== 0 || text[j] !== "]") {
        dead.open = (dead.open ?? 0) + 1;
        if (most === text.length || dead.open > OPEN_MAX) dead.add("[");
        return [null];
    }
    const target = /^\(\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/.exec(text.slice(j + 1, j + 3000));
    const href = target && safeUrl(target[1]);
    if (!href) return [null];
    return [link(href, inline(text.slice(i + 1, j), DEPTH_MAX)), j + 1 + target[0].length];
}

function angle(text, i) {
    const br = /^<br\s*\/?>/i.exec(text.slice(i, i + 8));
    if (br) return [h("br"), i + br[0].length];
    const end = text.indexOf(">", i + 1);
    const href = end > 0 && end - i < 2000 && /^https?:\/\/\S+$/.test(text.slice(i + 1, end)) && safeUrl(text.slice(i + 1, end));
    return href ? [link(href, text.slice(i + 1, end)), end + 1] : [null];
}

function bareUrl(text, i) {
    if (WORD.test(text[i - 1] ?? " ")) return [null];
    URL_AT.lastIndex = i;
    const found = URL_AT.exec(text);
    if (!found) return [null];
    let url = found[0].replace(/[.,;:!?*_~]+$/, "");
    while (url.endsWith(")") && url.split("(").length < url.split(")").length) url = url.slice(0, -1);
    const href = safeUrl(url);
    return href ? [link(href, url), i + url.length] : [null];
}

// ---- streams ----

/** Keeps an element in step with a text that grows: only blocks that have changed are made again. */
export function renderer(into) {
    let done = [];
    return (text) => {
        const sources = split(text);
        let same = 0;
        while (same < done.length && same < sources.length && done[same] === sources[same]) same++;
        while (into.childNodes.length > same) into.lastChild.remove();
        for (const source of sources.slice(same)) into.append(renderBlock(source.split("\n"), 0));
        done = sources;
    };
}
