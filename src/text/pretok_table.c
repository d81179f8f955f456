/*
 * Which patterns the names of tokenizer.ggml.pre stand for.
 *
 * A GGUF file names its pre-tokenizer; what the name means is common knowledge
 * of its readers: the patterns of the tokenizer.json that the name was made
 * for. They are given here as published there (so (?i:...) and the letter
 * classes are the originals), with these liberties, none of which changes a
 * cut: \p{N} for the Digits step, GPT-2's pattern for ByteLevel's own,
 * look-behinds and possessive repeats where the plain form would take quadratic
 * time on a hostile text, and PR__THREES for look-aheads that count digits.
 * Non-ASCII characters are written as \x{...}.
 */
#include <string.h>

#include "text/pretok.h"

/* ---- patterns ---- */

static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD        "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define OTHER       " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
#define SPACES      "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const char cl100k[] = CONTRACTION "|" WORD "|\\p{N}{1,3}|" OTHER "|" SPACES;
static const char cl100k_digit[] = CONTRACTION "|" WORD "|\\p{N}|" OTHER "|" SPACES;
static const char cl100k_digits[] = CONTRACTION "|" WORD "|\\p{N}+|" OTHER "|" SPACES;
static const char cl100k_marks[] = CONTRACTION
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES;
static const char bailing[] = "'(?i:[sdmt]|ll|ve|re)|" WORD
                              "|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+";
static const char seed[] = CONTRACTION "|" WORD "|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" SPACES;
/* Published as (?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+, which is the same set of texts. */
static const char exaone_moe[] = CONTRACTION
    "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}(?: ?\\p{L}|\\p{M})*+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?"
    "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+";
static const char jais2[] = CONTRACTION
    "|" WORD "|\\p{N}{1,3}|" OTHER "|(?<![^\\S\\r\\n])\\s*[\\r\\n]+"
    "|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)"
    "|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s{1}";

/* Words that break where lower case is followed by upper case. */
#define UPPER         "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER         "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define PREFIX        "[^\\r\\n\\p{L}\\p{N}]?"
#define CASED(suffix) PREFIX "[" UPPER "]*[" LOWER "]+" suffix "|" PREFIX "[" UPPER "]+[" LOWER "]*" suffix
#define O200K_REST    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES

static const char tekken[] = CASED("") "|\\p{N}|" O200K_REST;
static const char o200k[] = CASED(CONTRACTION "?") "|\\p{N}{1,3}|" O200K_REST;
static const char o200k_digit[] = CASED(CONTRACTION "?") "|\\p{N}|" O200K_REST;

/* The same without Han: intersections as complements, since the categories cover everything once. */
#define NOT_LETTER "\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}\\p{Han}"
static const char kimi[] = "[\\p{Han}]+"
                           "|" PREFIX "[^\\p{Ll}" NOT_LETTER "]*[^\\p{Lu}\\p{Lt}" NOT_LETTER "]+" CONTRACTION "?"
                           "|" PREFIX "[^\\p{Ll}" NOT_LETTER "]+[^\\p{Lu}\\p{Lt}" NOT_LETTER "]*" CONTRACTION "?"
                           "|\\p{N}{1,3}|" OTHER "|" SPACES;

static const char deepseek_v3[] =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES;
static const char spark[] =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+|[\\r\\n]|\\s+(?!\\S)|\\s+";
static const char cjk_kana[] = "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+";
static const char cjk_hangul[] = "[\\x{4E00}-\\x{9FA5}\\x{0800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+";

/* Letters with case, as DeepSeek lists them. */
static const char deepseek_letters[] =
    "\\s?[A-Za-z\\xB5\\xC0-\\xD6\\xD8-\\xF6\\xF8-\\x{1BA}\\x{1BC}-\\x{1BF}"
    "\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}"
    "\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}"
    "\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}"
    "\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}"
    "\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}"
    "\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}"
    "\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}"
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}"
    "\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}"
    "\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}"
    "\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}"
    "\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}"
    "\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}"
    "\\x{1E900}-\\x{1E943}]+";
static const char deepseek_marks[] =
    "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+";

/* Everything but white space, brackets, bars and the marks . , ! ? of several scripts. */
static const char bloom[] = " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{964}\\x{6D4}\\x{60C})]+";

static const char youtu_scripts[] =
    "[\\x{AC00}-\\x{D7A3}\\x{3131}-\\x{318E}]+"
    "|[\\x{FF01}\\x{2026}\\x{201C}\\x{201D}\\x{2018}\\x{2019}\\x{2014}\\x{FF1A}\\x{FF1B}\\x{FF0C}\\x{3001}-\\x{303F}"
    "\\x{FE30}-\\x{FE4F}]+|[\\x{3105}-\\x{312F}]+|[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+";
static const char afmoe_scripts[] =
    "[\\x{4E00}-\\x{9FFF}\\x{3400}-\\x{4DBF}\\x{F900}-\\x{FAFF}\\x{3040}-\\x{309F}"
    "\\x{30A0}-\\x{30FF}\\x{FF65}-\\x{FF9F}\\x{2F00}-\\x{2FDF}\\x{E40}-\\x{E7F}\\x{E80}-\\x{EFF}\\x{1780}-\\x{17FF}"
    "\\x{1000}-\\x{109F}\\x{AA60}-\\x{AA7F}\\x{A9E0}-\\x{A9FF}\\x{AC00}-\\x{D7AF}\\x{1100}-\\x{11FF}]+";

/* ---- pre-tokenizers ---- */

static const pr__pre_step gpt2_steps[] = {{gpt2, PR__MATCH}, {0}};
static const pr__pre_step digit_gpt2_steps[] = {{"\\p{N}", PR__MATCH}, {gpt2, PR__MATCH}, {0}};
static const pr__pre_step default_steps[] = {
    {"[\\p{P}$+<=>^~|]+", PR__MATCH}, {gpt2, PR__MATCH}, {"\\p{N}+", PR__MATCH}, {"[0-9][0-9][0-9]", PR__MATCH}, {0},
};
static const pr__pre_step falcon_steps[] = {
    {"[\\p{P}$+<=>^~|`]+", PR__MATCH},
    {gpt2, PR__MATCH},
    {"[0-9][0-9][0-9]", PR__MATCH},
    {0},
};
static const pr__pre_step chameleon_steps[] = {
    {"<sentinel:[0-9]+>", PR__MATCH},
    {"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", PR__MATCH},
    {"([\\t\\n]|    |  )", PR__MATCH},
    {"\\p{N}", PR__MATCH},
    {"[\\p{P}!-/:-@\\[-`{-~]", PR__MATCH},
    {gpt2, PR__MATCH},
    {0},
};

static const pr__pre_step cl100k_steps[] = {{cl100k, PR__MATCH}, {0}};
static const pr__pre_step cl100k_digit_steps[] = {{cl100k_digit, PR__MATCH}, {0}};
static const pr__pre_step cl100k_marks_steps[] = {{cl100k_marks, PR__MATCH}, {0}};
static const pr__pre_step lines_cl100k_steps[] = {
    {"[^\\n]+|[\\n]+", PR__MATCH},
    {cl100k_digit, PR__MATCH},
    {0},
};
static const pr__pre_step minicpm_steps[] = {{"\\p{N}{1,3}", PR__MATCH}, {cl100k_digits, PR__MATCH}, {0}};
static const pr__pre_step jais2_steps[] = {{jais2, PR__MATCH}, {0}};
static const pr__pre_step bailing_steps[] = {{bailing, PR__MATCH}, {0}};
static const pr__pre_step seed_steps[] = {{seed, PR__MATCH}, {0}};
static const pr__pre_step exaone_moe_steps[] = {{exaone_moe, PR__MATCH}, {0}};

static const pr__pre_step tekken_steps[] = {{tekken, PR__MATCH}, {0}};
static const pr__pre_step o200k_steps[] = {{o200k, PR__MATCH}, {0}};
static const pr__pre_step kimi_steps[] = {{kimi, PR__MATCH}, {0}};
static const pr__pre_step youtu_steps[] = {{youtu_scripts, PR__MATCH}, {o200k_digit, PR__MATCH}, {0}};
/* Published as \d{1,3}(?=(?:\d{3})*\b): threes from the right, unless a letter follows. */
static const pr__pre_step tiny_aya_steps[] = {{"(?<!\\d)\\d++(?!\\w)", PR__THREES}, {o200k, PR__MATCH}, {0}};

static const pr__pre_step deepseek_llm_steps[] = {
    {"[\\r\\n]", PR__MATCH},
    {deepseek_letters, PR__MATCH},
    {deepseek_marks, PR__MATCH},
    {"(?<!\\s)\\s++$", PR__MATCH},
    {cjk_hangul, PR__MATCH},
    {"\\p{N}", PR__MATCH},
    {0},
};
static const pr__pre_step deepseek_coder_steps[] = {
    {"[\\r\\n]", PR__MATCH}, {"\\s?\\p{L}+", PR__MATCH}, {"\\s?\\p{P}+", PR__MATCH},
    {cjk_hangul, PR__MATCH}, {"\\p{N}", PR__MATCH},      {0},
};
static const pr__pre_step deepseek_v3_steps[] = {
    {"\\p{N}{1,3}", PR__MATCH},
    {cjk_kana, PR__MATCH},
    {deepseek_v3, PR__MATCH},
    {0},
};
static const pr__pre_step spark_steps[] = {
    {"\\p{N}{1,3}", PR__MATCH}, {cjk_kana, PR__MATCH}, {spark, PR__MATCH}, {"\\p{N}", PR__MATCH}, {0},
};
static const pr__pre_step afmoe_steps[] = {
    {"\\d+", PR__THREES},
    {afmoe_scripts, PR__MATCH},
    {deepseek_v3, PR__MATCH},
    {0},
};

static const pr__pre_step bloom_steps[] = {{bloom, PR__MATCH}, {0}};
static const pr__pre_step viking_steps[] = {{bloom, PR__MATCH}, {"\\p{N}", PR__MATCH}, {0}};
/* The second is published as (?=(\d{3})+(?!\d)). */
static const pr__pre_step superbpe_steps[] = {{"\\p{N}+", PR__MATCH}, {"\\d+", PR__BEFORE_THREES}, {0}};

/* ---- names ---- */

static const pr__pre_entry entries[] = {
    /* name, steps, ignore_merges, add_bos */
    {"default", default_steps, false, false},
    {"gpt-2", gpt2_steps, false, false},
    {"phi-2", gpt2_steps, false, false},
    {"mpt", gpt2_steps, false, false},
    {"olmo", gpt2_steps, false, false},
    {"jais", gpt2_steps, false, false},
    {"trillion", gpt2_steps, false, false},
    {"granite-docling", gpt2_steps, false, false},
    {"exaone4", gpt2_steps, false, false},
    {"gigachat", gpt2_steps, false, false},
    {"mellum", gpt2_steps, false, false},
    {"modern-bert", gpt2_steps, false, false},
    {"a.x-4.0", gpt2_steps, false, false},
    {"roberta-bpe", gpt2_steps, false, false},
    {"jina-es", gpt2_steps, false, false},
    {"jina-de", gpt2_steps, false, false},
    {"jina-v1-en", gpt2_steps, false, false},
    {"jina-v2-es", gpt2_steps, false, false},
    {"jina-v2-de", gpt2_steps, false, false},
    {"jina-v2-code", gpt2_steps, false, false},
    {"starcoder", digit_gpt2_steps, false, false},
    {"refact", digit_gpt2_steps, false, false},
    {"command-r", digit_gpt2_steps, false, false},
    {"smollm", digit_gpt2_steps, false, false},
    {"codeshell", digit_gpt2_steps, false, false},
    {"exaone", digit_gpt2_steps, false, false},
    {"minerva-7b", digit_gpt2_steps, false, false},
    {"mellum2", digit_gpt2_steps, false, false},
    {"falcon", falcon_steps, false, false},
    {"llama-bpe", cl100k_steps, true, true},
    {"llama3", cl100k_steps, true, true},
    {"llama-v3", cl100k_steps, true, true},
    {"falcon3", cl100k_steps, true, true},
    {"falcon-h1", cl100k_steps, true, true},
    {"pixtral", cl100k_steps, true, true},
    {"midm-2.0", cl100k_steps, true, true},
    {"lfm2", cl100k_steps, true, true},
    {"jina-v5-nano", cl100k_steps, true, true},
    {"dbrx", cl100k_steps, false, false},
    {"smaug-bpe", cl100k_steps, false, false},
    {"chatglm-bpe", cl100k_steps, false, false},
    {"glm4", cl100k_steps, false, false},
    {"qwen2", cl100k_digit_steps, false, false},
    {"deepseek-r1-qwen", cl100k_digit_steps, false, false},
    {"kormo", cl100k_digit_steps, false, false},
    {"f2llmv2", cl100k_digit_steps, false, false},
    {"megrez", cl100k_digit_steps, false, false},
    {"stablelm2", cl100k_digit_steps, false, false},
    {"hunyuan", cl100k_digit_steps, false, false},
    {"solar-open", cl100k_digit_steps, false, false},
    {"grok-2", cl100k_digit_steps, false, false},
    {"qwen35", cl100k_marks_steps, false, false},
    {"laguna", lines_cl100k_steps, false, false},
    {"minicpm5", minicpm_steps, true, false},
    {"jais-2", jais2_steps, false, false},
    {"bailingmoe", bailing_steps, false, false},
    {"bailingmoe2", bailing_steps, false, false},
    {"llada-moe", bailing_steps, false, false},
    {"seed-coder", seed_steps, false, false},
    {"exaone-moe", exaone_moe_steps, false, false},
    {"tekken", tekken_steps, true, true},
    {"gpt-4o", o200k_steps, false, false},
    {"llama4", o200k_steps, false, false},
    {"kanana2", o200k_steps, false, false},
    {"talkie", o200k_steps, false, false},
    {"minimax-m2", o200k_steps, false, false},
    {"granite-embed-multi-97m", o200k_steps, true, false},
    {"tiny_aya", tiny_aya_steps, false, false},
    {"cohere2moe", tiny_aya_steps, false, false},
    {"youtu", youtu_steps, true, false},
    {"kimi-k2", kimi_steps, false, false},
    {"deepseek-llm", deepseek_llm_steps, false, false},
    {"deepseek-coder", deepseek_coder_steps, false, false},
    {"deepseek-v3", deepseek_v3_steps, false, false},
    {"hunyuan-dense", deepseek_v3_steps, false, false},
    {"joyai-llm", deepseek_v3_steps, false, false},
    {"spark2_5", spark_steps, false, false},
    {"afmoe", afmoe_steps, false, false},
    {"poro-chat", bloom_steps, false, false},
    {"bloom", bloom_steps, false, false},
    {"gpt3-finnish", bloom_steps, false, false},
    {"viking", viking_steps, false, false},
    {"superbpe", superbpe_steps, false, false},
    {"chameleon", chameleon_steps, false, true},
};

const pr__pre_entry *pr__pre_find(const char *name) {
    if (!name || !*name) name = "default";
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        if (strcmp(entries[i].name, name) == 0) return &entries[i];
    return NULL;
}

const pr__pre_entry *pr__pre_all(size_t *n) {
    *n = sizeof entries / sizeof *entries;
    return entries;
}
