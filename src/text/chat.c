/*
 * Chat templates as data.
 *
 * Nearly every template of a model is the same program: something at the
 * start, then each message between an opening and a closing text that depend
 * on its role, then the opening of an answer. So a template is a row of such
 * texts, and one writer renders them all; what differs beyond texts is where a
 * system message goes, whether turns must alternate, and what is stripped.
 *
 * Recognition is by marks: parts of the Jinja source that have to be there, and
 * parts that must not, since they belong to a relative that renders otherwise.
 * It is meant to be strict. A template that is close but unknown is refused,
 * and the user names one; rendering it nearly right would cost quality without
 * anybody noticing. Quotes ' and " count as the same in marks; a mark holds no
 * line break, which sources write as "\n" or as itself.
 *
 * In the texts of the table \1 stands for the bos token and \2 for eos.
 */
#include "text/chat.h"

#include <string.h>

#include "base/str.h"

#define BOS       "\1"
#define EOS       "\2"
#define MARKS_MAX 10

/* Where a system message goes. */
typedef enum system_place {
    SYSTEM_TURN,       /* a turn of its own, anywhere */
    SYSTEM_FIRST_USER, /* only as the first message: into the first user turn */
    SYSTEM_LAST_USER,  /* the same, into the last message if that is the user's */
    SYSTEM_NOWHERE
} system_place;

/* What loses the white space at its ends. */
enum {
    TRIM_SYSTEM = 1,
    TRIM_USER = 2,
    TRIM_ASSISTANT = 4,
    TRIM_ALL = 7,
    TRIM_FOLDED = 8 /* a user's turn with a system message: the two together */
};

typedef struct turn {
    const char *open, *close; /* around the content */
} turn;

struct pr_chat_template {
    const char *name;
    const char *marks[MARKS_MAX]; /* all of them are in the source; none: never detected */
    const char *never[MARKS_MAX]; /* none of them is */
    const char *start;            /* before the first message */
    const char *no_system;        /* before the first message when that is no system message */
    turn first_system;            /* a system message that begins the chat; NULL texts: as any other */
    turn system, user, assistant; /* folded: system is what stands around it inside the user's turn */
    const char *generation;       /* opens the answer */
    const char *no_generation;    /* at the end otherwise */
    system_place place;
    bool alternate; /* after a system message: user, assistant, user, ... */
    unsigned trim;
};

#define CHATML_TURNS                                                                                                   \
    .system = {"<|im_start|>system\n", "<|im_end|>\n"}, .user = {"<|im_start|>user\n", "<|im_end|>\n"},                \
    .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"}, .generation = "<|im_start|>assistant\n"
#define SMOLLM2             "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
#define QWEN25              "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
#define CHATML_LINE         "message['content'] + '<|im_end|>'"
#define LLAMA3_HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define LLAMA3_TURNS                                                                                                   \
    .system = {LLAMA3_HEADER("system"), "<|eot_id|>"}, .user = {LLAMA3_HEADER("user"), "<|eot_id|>"},                  \
    .assistant = {LLAMA3_HEADER("assistant"), "<|eot_id|>"}, .generation = LLAMA3_HEADER("assistant"),                 \
    .trim = TRIM_ALL
#define LLAMA31_SYSTEM LLAMA3_HEADER("system") "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
#define ZEPHYR_TURNS                                                                                                   \
    .system = {"<|system|>\n", EOS "\n"}, .user = {"<|user|>\n", EOS "\n"},                                            \
    .assistant = {"<|assistant|>\n", EOS "\n"}, .generation = "<|assistant|>\n"
#define GEMMA_TURNS                                                                                                    \
    .start = BOS, .user = {"<start_of_turn>user\n", "<end_of_turn>\n"},                                                \
    .assistant = {"<start_of_turn>model\n", "<end_of_turn>\n"}, .generation = "<start_of_turn>model\n",                \
    .alternate = true, .trim = TRIM_USER | TRIM_ASSISTANT
#define ALTERNATE        "conversation roles must alternate"
#define ENDS(generation) "}}{% endfor %}{% if add_generation_prompt %}{{ '" generation

/* The first row whose marks fit is taken, so relatives stand before what they descend from. */
static const pr_chat_template templates[] = {
    {.name = "smollm2",
     .marks = {SMOLLM2 "<|im_end|>", CHATML_LINE, ENDS("<|im_start|>assistant")},
     .never = {"think", "strip", "| trim", "bos_token"},
     .no_system = "<|im_start|>system\n" SMOLLM2 "<|im_end|>\n",
     CHATML_TURNS},
    {.name = "qwen2.5",
     .marks = {QWEN25 "<|im_end|>", "message.content + '<|im_end|>'"},
     .never = {"think", "vision", "strip", "trim"},
     .no_system = "<|im_start|>system\n" QWEN25 "<|im_end|>\n",
     CHATML_TURNS},
    {.name = "qwen2",
     .marks = {"You are a helpful assistant.<|im_end|>", "messages[0]['role'] != 'system'", CHATML_LINE,
               ENDS("<|im_start|>assistant")},
     .never = {"think", "vision", "strip", "trim", "Qwen", "loop.last", "tool"},
     .no_system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
     CHATML_TURNS},
    {.name = "chatml",
     .marks = {"'<|im_start|>' + message['role'] + '", CHATML_LINE, ENDS("<|im_start|>assistant")},
     .never = {"think", "bos_token", "eos_token", "You are", "loop.", "trim", "strip", "raise_exception", "tool",
               "<|im_start|>system"},
     CHATML_TURNS},
    {.name = "chatml-bos",
     .marks = {"{{ bos_token }}{% for", "'<|im_start|>' + message['role'] + '", CHATML_LINE,
               ENDS("<|im_start|>assistant")},
     .never = {"think", "eos_token", "You are", "loop.", "trim", "strip", "raise_exception", "tool",
               "<|im_start|>system"},
     .start = BOS,
     CHATML_TURNS},
    {.name = "phi4",
     .marks = {"<|im_start|>user<|im_sep|>", "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '",
               "'<|im_end|>'}}", "'<|im_start|>assistant<|im_sep|>' }}"},
     .never = {"think", "bos_token", "You are", "trim", "strip"},
     .system = {"<|im_start|>system<|im_sep|>", "<|im_end|>"},
     .user = {"<|im_start|>user<|im_sep|>", "<|im_end|>"},
     .assistant = {"<|im_start|>assistant<|im_sep|>", "<|im_end|>"},
     .generation = "<|im_start|>assistant<|im_sep|>"},
    {.name = "llama3.1",
     .marks = {"<|start_header_id|>", "Cutting Knowledge Date: December 2023", "Today Date: ", "26 Jul 2024"},
     .start = BOS,
     .no_system = LLAMA31_SYSTEM "<|eot_id|>",
     .first_system = {LLAMA31_SYSTEM, "<|eot_id|>"},
     LLAMA3_TURNS},
    {.name = "llama3",
     .marks = {"'<|start_header_id|>' + message['role'] + '<|end_header_id|>",
               "message['content'] | trim + '<|eot_id|>'", "set content = bos_token + content",
               "{{ content }}{% endfor %}"},
     .never = {"Cutting Knowledge", "You are", "tool"},
     .start = BOS,
     LLAMA3_TURNS},
    {.name = "llama2",
     .marks = {"<<SYS>>", "bos_token + '[INST] '", "' [/INST]'", "+ ' ' + eos_token",
               "Conversation roles must alternate", "{% endif %}{% endfor %}"},
     .never = {"You are"},
     .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
     .user = {BOS "[INST] ", " [/INST]"},
     .assistant = {" ", " " EOS},
     .place = SYSTEM_FIRST_USER,
     .alternate = true,
     .trim = TRIM_USER | TRIM_ASSISTANT | TRIM_FOLDED},
    {.name = "mistral-v3-tekken",
     .marks = {"loop.last and system_message is defined", "'[INST]' + message['content'] + '[/INST]'",
               "message['content'] + eos_token", ALTERNATE},
     .never = {"[SYSTEM_PROMPT]", "' ' + message['content']", "message['content']|trim", "You are"},
     .start = BOS,
     .system = {"", "\n\n"},
     .user = {"[INST]", "[/INST]"},
     .assistant = {"", EOS},
     .place = SYSTEM_LAST_USER,
     .alternate = true},
    {.name = "mistral-v3",
     .marks = {"loop.last and system_message is defined", "'[INST] ' + message['content'] + '[/INST]'",
               "' ' + message['content']|trim + eos_token", ALTERNATE},
     .never = {"[SYSTEM_PROMPT]", "You are"},
     .start = BOS,
     .system = {"", "\n\n"},
     .user = {"[INST] ", "[/INST]"},
     .assistant = {" ", EOS},
     .place = SYSTEM_LAST_USER,
     .alternate = true,
     .trim = TRIM_ASSISTANT},
    {.name = "mistral-v1",
     .marks = {"loop.first and system_message is defined", "' [INST] ' + message['content'] + ' [/INST]'",
               "' ' + message['content'] + eos_token", ALTERNATE},
     .never = {"[SYSTEM_PROMPT]", "You are", "trim", "strip"},
     .start = BOS,
     .system = {"", "\n\n"},
     .user = {" [INST] ", " [/INST]"},
     .assistant = {" ", EOS},
     .place = SYSTEM_FIRST_USER,
     .alternate = true},
    {.name = "mistral-v0.2",
     .marks = {"{{ bos_token }}{% for", "'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token",
               "Conversation roles must alternate", "{% endif %}{% endfor %}"},
     .never = {"system_message", "eos_token + ' '", "' ' + message['content']", "trim", "strip", "You are"},
     .start = BOS,
     .system = {"", "\n\n"},
     .user = {"[INST] ", " [/INST]"},
     .assistant = {"", EOS},
     .place = SYSTEM_FIRST_USER,
     .alternate = true},
    {.name = "zephyr",
     .marks = {"'<|user|>", "'<|system|>", "'<|assistant|>", "message['content'] + eos_token",
               "loop.last and add_generation_prompt"},
     .never = {"}}{%", "bos_token", "<|end|>", "not loop.last", "trim", "strip", "raise_exception", "You are"},
     ZEPHYR_TURNS},
    {.name = "tinyllama", ZEPHYR_TURNS}, /* the same template; zephyr is what it is recognised as */
    {.name = "gemma3",
     .marks = {"<start_of_turn>", "first_user_prefix", "'model'", "| trim", "{%- endfor -%}", "roles must alternate"},
     .never = {"You are", "tool"},
     .system = {"", "\n\n"},
     .place = SYSTEM_FIRST_USER,
     GEMMA_TURNS},
    {.name = "gemma",
     .marks = {"<start_of_turn>", "System role not supported", "'model'", "| trim",
               "}}{% endfor %}{% if add_generation_prompt %}{{"},
     .never = {"You are", "tool"},
     .place = SYSTEM_NOWHERE,
     GEMMA_TURNS},
    {.name = "phi3",
     .marks = {"'<|system|>", "'<|user|>", "'<|assistant|>", "message['content'] + '<|end|>",
               "}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>", "{% else %}{{ eos_token }}"},
     .never = {"bos_token", "trim", "strip", "You are", "tool"},
     .system = {"<|system|>\n", "<|end|>\n"},
     .user = {"<|user|>\n", "<|end|>\n"},
     .assistant = {"<|assistant|>\n", "<|end|>\n"},
     .generation = "<|assistant|>\n",
     .no_generation = EOS},
    {.name = "phi3-first", /* the first release: the user's turn opens the answer */
     .marks = {"{{ bos_token }}{% for", "'<|user|>'", "message['content'] + '<|end|>'", "'<|assistant|>'",
               "}}{% endif %}{% endfor %}"},
     .never = {"add_generation_prompt", "system", "trim", "strip", "You are"},
     .start = BOS,
     .user = {"<|user|>\n", "<|end|>\n<|assistant|>\n"},
     .assistant = {"", "<|end|>\n"},
     .place = SYSTEM_NOWHERE},
};

#define N_TEMPLATES (sizeof templates / sizeof *templates)

/* ---- finding one ---- */

const pr_chat_template *pr_chat_by_name(const char *name) {
    if (!name) return NULL;
    if (strcmp(name, "mistral") == 0) name = "mistral-v3";
    for (size_t i = 0; i < N_TEMPLATES; i++)
        if (strcmp(templates[i].name, name) == 0) return &templates[i];
    return NULL;
}

static char same_quote(char c) { return c == '"' ? '\'' : c; }

static bool contains(const char *text, const char *mark) {
    for (; *text; text++) {
        size_t n = 0;
        while (mark[n] && same_quote(text[n]) == mark[n]) n++;
        if (!mark[n]) return true;
    }
    return false;
}

static bool fits(const pr_chat_template *t, const char *jinja) {
    if (!t->marks[0]) return false;
    for (size_t i = 0; i < MARKS_MAX && t->marks[i]; i++)
        if (!contains(jinja, t->marks[i])) return false;
    for (size_t i = 0; i < MARKS_MAX && t->never[i]; i++)
        if (contains(jinja, t->never[i])) return false;
    return true;
}

const pr_chat_template *pr_chat_detect(const char *jinja) {
    if (!jinja) return NULL;
    for (size_t i = 0; i < N_TEMPLATES; i++)
        if (fits(&templates[i], jinja)) return &templates[i];
    return NULL;
}

const char *pr_chat_name(const pr_chat_template *t) { return t->name; }

const char *pr_chat_names(void) {
    return "chatml, chatml-bos, smollm2, qwen2, qwen2.5, llama2, llama3, llama3.1, mistral (mistral-v3), mistral-v0.2, "
           "mistral-v1, mistral-v3-tekken, zephyr, tinyllama, gemma, gemma3, phi3, phi3-first, phi4";
}

/* ---- order ---- */

typedef enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_COUNT } role;

static const char *const role_names[ROLE_COUNT] = {"system", "user", "assistant"};

static role role_of(const char *name) {
    int r = 0;
    while (r < ROLE_COUNT && strcmp(role_names[r], name) != 0) r++;
    return (role)r;
}

static pr_status check_order(const pr_chat_template *t, const pr_message *messages, size_t n, pr_err *err) {
    if (n == 0) return pr_fail(err, PR_ERR_ARG, "chat: no messages");
    size_t turns = 0; /* those that alternate */
    for (size_t i = 0; i < n; i++) {
        if (!messages[i].role || !messages[i].content)
            return pr_fail(err, PR_ERR_ARG, "chat: message %zu lacks a role or a content", i + 1);
        role r = role_of(messages[i].role);
        if (r == ROLE_COUNT || (r == ROLE_SYSTEM && t->place == SYSTEM_NOWHERE))
            return pr_fail(err, PR_ERR_UNSUPPORTED,
                           "chat: message %zu: template \"%s\" has no place for the role \"%.40s\"", i + 1, t->name,
                           messages[i].role);
        if (r == ROLE_SYSTEM && t->place != SYSTEM_TURN && i > 0)
            return pr_fail(err, PR_ERR_ARG, "chat: message %zu: template \"%s\" takes a system message only first",
                           i + 1, t->name);
        if (r == ROLE_SYSTEM) continue;
        role want = turns++ % 2 ? ROLE_ASSISTANT : ROLE_USER;
        if (t->alternate && r != want)
            return pr_fail(err, PR_ERR_ARG, "chat: message %zu is the %s's, but template \"%s\" needs the %s's here",
                           i + 1, role_names[r], t->name, role_names[want]);
    }
    if (t->place != SYSTEM_TURN && turns == 0)
        return pr_fail(err, PR_ERR_ARG, "chat: template \"%s\" needs a message of the user's", t->name);
    if (t->place == SYSTEM_LAST_USER && turns < n && turns % 2 == 0) /* Jinja would leave the system message out */
        return pr_fail(err, PR_ERR_ARG,
                       "chat: message %zu: with a system message template \"%s\" needs the user's at the end", n,
                       t->name);
    return PR_OK;
}

/* ---- writing ---- */

typedef struct writer {
    pr_str out;
    const char *bos, *eos;
} writer;

/* A text of the table; NULL is empty. */
static void put(writer *w, const char *text) {
    for (; text && *text; text++) {
        if (*text == BOS[0]) pr_str_puts(&w->out, w->bos);
        else if (*text == EOS[0]) pr_str_puts(&w->out, w->eos);
        else pr_str_append(&w->out, text, 1);
    }
}

/* White space as Jinja's trim and strip() take it: U+001C to U+001F are among it. */
static bool is_space(int32_t cp) {
    return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
           cp == 0x3000;
}

static const char *skip_space(const char *text) {
    for (size_t len = strlen(text); len > 0;) {
        int32_t cp;
        size_t n = pr_utf8_decode(text, len, &cp);
        if (!is_space(cp)) break;
        text += n;
        len -= n;
    }
    return text;
}

/* Length of text without the white space at its end. */
static size_t length_trimmed(const char *text) {
    size_t end = 0, len = strlen(text);
    for (size_t i = 0; i < len;) {
        int32_t cp;
        i += pr_utf8_decode(text + i, len - i, &cp);
        if (!is_space(cp)) end = i;
    }
    return end;
}

static void put_content(writer *w, const char *content, bool trim) {
    if (trim) content = skip_space(content);
    pr_str_append(&w->out, content, trim ? length_trimmed(content) : strlen(content));
}

static void put_turn(writer *w, const pr_chat_template *t, role r, bool first, const char *content) {
    const turn *u = r == ROLE_USER ? &t->user : r == ROLE_ASSISTANT ? &t->assistant : &t->system;
    if (r == ROLE_SYSTEM && first && t->first_system.open) u = &t->first_system;
    bool trim = t->trim & (r == ROLE_USER ? TRIM_USER : r == ROLE_ASSISTANT ? TRIM_ASSISTANT : TRIM_SYSTEM);
    put(w, u->open);
    put_content(w, content, trim);
    put(w, u->close);
}

/* The user's turn with the system message inside. TRIM_FOLDED trims the two as one text: it begins with the system's
 * opening text, so there is nothing to trim but its end. */
static void put_folded(writer *w, const pr_chat_template *t, const char *system, const char *content) {
    put(w, t->user.open);
    size_t start = w->out.len;
    put(w, t->system.open);
    pr_str_puts(&w->out, system);
    put(w, t->system.close);
    put_content(w, content, (t->trim & TRIM_USER) && !(t->trim & TRIM_FOLDED));
    if ((t->trim & TRIM_FOLDED) && pr_str_ok(&w->out)) w->out.len = start + length_trimmed(w->out.data + start);
    put(w, t->user.close);
}

pr_status pr_chat_render(const pr_chat_template *t, const pr_message *messages, size_t n, bool add_generation,
                         const char *bos, const char *eos, char **out, pr_err *err) {
    *out = NULL;
    pr_status status = check_order(t, messages, n, err);
    if (status) return status;
    writer w = {.bos = bos ? bos : "", .eos = eos ? eos : ""};
    bool has_system = role_of(messages[0].role) == ROLE_SYSTEM;
    bool fold = has_system && t->place != SYSTEM_TURN;
    size_t fold_at = t->place == SYSTEM_LAST_USER ? n - 1 : 1;
    put(&w, t->start);
    if (!has_system) put(&w, t->no_system);
    for (size_t i = fold ? 1 : 0; i < n; i++) {
        role r = role_of(messages[i].role);
        if (fold && i == fold_at && r == ROLE_USER) put_folded(&w, t, messages[0].content, messages[i].content);
        else put_turn(&w, t, r, i == 0, messages[i].content);
    }
    put(&w, add_generation ? t->generation : t->no_generation);
    *out = pr_str_take(&w.out);
    return *out ? PR_OK : pr_fail_nomem(err, "a prompt", 0);
}
