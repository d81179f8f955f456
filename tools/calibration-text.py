#!/usr/bin/env python3
"""Write src/compress/calibration.txt, the text that `precis pack` calibrates with.

usage: tools/calibration-text.py > src/compress/calibration.txt

What matters is variety: prose, talk with roles, code, lists, sums, tables, other languages. Some of it stands here as it
is, the rest grows from small grammars with a fixed seed, so the same script gives the same bytes. All of it was written
for this project; nothing is quoted.
"""
import random
import sys

sys.dont_write_bytecode = True
from calibration_parts import CODE, FOREIGN, PROSE, TALK  # noqa: E402

R = random.Random(20240607)

PEOPLE = "Mara Tom Ines Karim Lena Ravi Joan Felix Amina Otto Grace Pablo Yuki Nora Elias Ada Milan Ruth Samuel Chloe".split()
PLACES = ["the harbour", "the old mill", "a village near the border", "the library", "the market square", "Lisbon", "the lab",
          "the northern station", "the kitchen", "a small island", "the city archive", "the valley", "Oslo", "the workshop",
          "the school yard", "the second floor", "the museum", "an empty beach", "the train to Vienna", "the greenhouse"]
THINGS = ["a brass key", "the wooden boat", "an unopened letter", "the spare battery", "a basket of apples", "the report",
          "a blue notebook", "the broken clock", "some bread", "a map of the coast", "the telescope", "a bag of seeds",
          "the old radio", "three coins", "a pair of gloves", "the generator", "a jar of honey", "the camera", "a long rope"]
DID = ["found", "repaired", "sold", "carried", "forgot", "painted", "borrowed", "measured", "hid", "described", "lost",
       "cleaned", "photographed", "returned", "packed", "inspected", "promised", "replaced", "weighed", "traded"]
TIMES = ["On Monday morning", "Late in the evening", "After the storm", "Two years later", "Before breakfast",
         "During the long winter", "At exactly half past nine", "Once the rain had stopped", "In the summer of 1987",
         "When the lights went out", "A week before the election", "Shortly after midnight", "Every other Sunday"]
BECAUSE = ["because nobody else was willing to do it", "although the price had doubled since spring",
           "so that the children would have something to talk about", "while the others were still asleep",
           "which turned out to be a mistake", "without telling anyone", "as quietly as possible",
           "since the road had been closed for repairs", "in spite of the doctor's advice",
           "and nobody asked any questions about it", "until the money ran out", "just as the letter had said"]
FELT = ["relieved", "curious", "tired but content", "angry at first", "strangely calm", "proud", "a little ashamed",
        "hungry", "suspicious", "grateful", "lonely", "amused", "nervous", "certain", "doubtful"]
ADJ = ["quiet", "narrow", "expensive", "cold", "remarkable", "dusty", "bright", "ordinary", "enormous", "fragile", "green",
       "reliable", "ancient", "clever", "slow", "bitter", "transparent", "famous", "hollow", "gentle"]
NOUNS = ["river", "engine", "lamp", "idea", "bridge", "song", "window", "question", "garden", "stone", "horse", "signal",
         "winter", "machine", "teacher", "shadow", "market", "letter", "forest", "number"]
SUBJECTS = [("Photosynthesis", "the process by which plants turn light, water and carbon dioxide into sugar and oxygen"),
            ("A compiler", "a program that translates source code into machine code before it runs"),
            ("Inflation", "a general rise in prices over time, which means that money buys less than before"),
            ("A glacier", "a slow river of ice, formed where more snow falls than melts"),
            ("The heart", "a muscle that pumps blood through the body, about seventy times a minute at rest"),
            ("A sonnet", "a poem of fourteen lines, usually with a turn of thought near the end"),
            ("A prime number", "a whole number greater than one that only one and itself divide"),
            ("An embargo", "an order that forbids trade with a country or in certain goods"),
            ("Yeast", "a tiny fungus that eats sugar and makes the bubbles in bread and beer"),
            ("A firewall", "a filter that decides which network traffic may pass and which may not"),
            ("Gravity", "the attraction between masses, which holds planets in their orbits"),
            ("A mortgage", "a loan secured by the house that it pays for"),
            ("The moon", "the only natural satellite of the Earth, about 384,000 kilometres away"),
            ("Erosion", "the wearing away of rock and soil by wind, water and ice"),
            ("A hash table", "a structure that finds a value by its key in nearly constant time"),
            ("Migration", "the regular journey of animals between the places where they feed and breed")]
COUNTRIES = [("France", "Paris"), ("Japan", "Tokyo"), ("Kenya", "Nairobi"), ("Peru", "Lima"), ("Canada", "Ottawa"),
             ("Egypt", "Cairo"), ("Norway", "Oslo"), ("India", "New Delhi"), ("Brazil", "Brasilia"), ("Poland", "Warsaw")]


def one(xs):
    return R.choice(xs)


def cap(text):
    return text[0].upper() + text[1:]


def sentence():
    kind = R.randrange(8)
    who, other = R.sample(PEOPLE, 2)
    if kind == 0:
        return "%s, %s %s %s in %s, %s." % (one(TIMES), who, one(DID), one(THINGS), one(PLACES).replace("the train to", "a train to"), one(BECAUSE))
    if kind == 1:
        return "%s felt %s, and %s knew why: the %s %s had not been seen since %d." % (who, one(FELT), other, one(ADJ), one(NOUNS), R.randint(1890, 2022))
    if kind == 2:
        return '"Have you ever been to %s?" asked %s. "Only once," said %s, "and I %s %s there."' % (one(PLACES), who, other, one(DID), one(THINGS))
    if kind == 3:
        return "It was a %s, %s %s, %s than anything they had known in %s." % (one(ADJ), one(ADJ), one(NOUNS), one(["larger", "stranger", "older", "lovelier", "heavier"]), one(PLACES))
    if kind == 4:
        return "Of the %d people who came to %s, only %d had brought %s; the rest depended on %s." % (R.randint(12, 400), one(PLACES), R.randint(2, 11), one(THINGS), who)
    if kind == 5:
        return "%s would have %s the %s, but %s had %s it already." % (who, one(DID), one(NOUNS), other, one(DID))
    if kind == 6:
        return "If the %s is %s, then the %s must be %s as well; that, at least, is what %s believed." % (one(NOUNS), one(ADJ), one(NOUNS), one(ADJ), who)
    return "There was no %s in %s, no %s, and not a single %s." % (one(NOUNS), one(PLACES), one(NOUNS), one(NOUNS))


def story():
    return " ".join(sentence() for _ in range(R.randint(3, 6)))


def encyclopedia():
    name, what = one(SUBJECTS)
    other, what_other = one(SUBJECTS)
    text = "%s is %s. " % (name, what)
    text += one(["It was first described in %d and has been studied ever since." % R.randint(1650, 1960),
                 "The word itself is much older than the explanation.",
                 "About %d percent of the textbooks explain it with the same picture." % R.randint(20, 90),
                 "In everyday speech the term is used more loosely."])
    return text + " It should not be confused with %s, which is %s." % (other[0].lower() + other[1:], what_other)


def arithmetic():
    lines = []
    for _ in range(R.randint(3, 6)):
        a, b, kind = R.randint(2, 99), R.randint(2, 99), R.randrange(5)
        if kind == 0:
            lines.append("%d + %d = %d" % (a, b, a + b))
        elif kind == 1:
            lines.append("%d - %d = %d" % (a + b, b, a))
        elif kind == 2:
            lines.append("%d * %d = %d" % (a, b, a * b))
        elif kind == 3:
            lines.append("%d / %d = %d" % (a * b, b, a))
        else:
            lines.append("%d%% of %d is %g" % (b, a * 10, a * b / 10))
    return "\n".join(lines)


def word_problem():
    who, n, price = one(PEOPLE), R.randint(3, 12), R.randint(2, 9)
    paid = n * price + R.randint(1, 20)
    return ("Question: %s buys %d notebooks for %d euros each and pays with %d euros. How much change is there?\n"
            "Answer: The notebooks cost %d * %d = %d euros. %d - %d = %d, so the change is %d euros."
            % (who, n, price, paid, n, price, n * price, paid, n * price, paid - n * price, paid - n * price))


def listing():
    head = one(["Things to bring:", "Shopping list", "## Open questions", "What we learned this week", "Ingredients", "Agenda:"])
    items = R.sample(THINGS, R.randint(3, 5))
    mark = one(["- %s", "* %s", "%d. %s"])
    return head + "\n" + "\n".join(mark % ((i + 1, x) if "%d" in mark else x) for i, x in enumerate(items))


def table():
    rows = ["| Country | Capital | Visitors in %d |" % R.randint(1995, 2023), "|---|---|---|"]
    for country, capital in R.sample(COUNTRIES, 4):
        rows.append("| %s | %s | %s |" % (country, capital, "{:,}".format(R.randint(10000, 9000000))))
    return "\n".join(rows)


ASK = [("What is %s?", lambda: one(SUBJECTS)),
       ("Explain %s to a child.", lambda: one(SUBJECTS)),
       ("Give me a definition of %s in one sentence.", lambda: one(SUBJECTS))]


def chat():
    style, turns = R.randrange(3), []
    for _ in range(R.randint(1, 3)):
        kind = R.randrange(4)
        if kind == 0:
            q, f = one(ASK)
            name, what = f()
            turns.append((q % (name[0].lower() + name[1:] if name[1] != " " else name.lower()), "%s is %s." % (name, what)))
        elif kind == 1:
            country, capital = one(COUNTRIES)
            turns.append(("What is the capital of %s?" % country, "The capital of %s is %s." % (country, capital)))
        elif kind == 2:
            turns.append(("Write two sentences about a %s %s." % (one(ADJ), one(NOUNS)), sentence() + " " + sentence()))
        else:
            a, b = R.randint(3, 60), R.randint(3, 60)
            turns.append(("How much is %d plus %d?" % (a, b), "%d plus %d is %d." % (a, b, a + b)))
    out = []
    for q, a in turns:
        if style == 0:
            out.append("<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n%s<|im_end|>" % (q, a))
        elif style == 1:
            out.append("User: %s\nAssistant: %s" % (q, a))
        else:
            out.append("### Instruction:\n%s\n\n### Response:\n%s" % (q, a))
    return "\n".join(out)


FIELDS = ["id", "name", "price", "user", "count", "total", "path", "width", "height", "status", "created_at", "email", "key"]


def code():
    kind, f = R.randrange(6), R.sample(FIELDS, 4)
    n = R.randint(2, 900)
    if kind == 0:
        return "def %s_of(%s, %s):\n    \"\"\"Return the %s.\"\"\"\n    if not %s:\n        return None\n    return [x for x in %s if x > %d]" % (f[0], f[1], f[2], f[0], f[1], f[1], n)
    if kind == 1:
        return "static int %s_%s(const struct %s *p, size_t n) {\n    int sum = 0;\n    for (size_t i = 0; i < n; i++) {\n        if (p[i].%s != %d) sum += p[i].%s;\n    }\n    return sum;\n}" % (f[0], f[1], f[2], f[3], n, f[3])
    if kind == 2:
        return "SELECT %s, COUNT(*) AS %s\nFROM orders\nWHERE %s > %d\nGROUP BY %s\nORDER BY %s DESC;" % (f[0], f[1], f[2], n, f[0], f[1])
    if kind == 3:
        return '{"%s": %d, "%s": "%s", "%s": [%d, %d, %d], "%s": %s}' % (f[0], n, f[1], one(NOUNS), f[2], n, n + 1, n * 2, f[3], one(["true", "false", "null"]))
    if kind == 4:
        return "const %s = items\n  .filter((item) => item.%s !== %d)\n  .map((item) => ({ %s: item.%s, %s: `${item.%s}` }));" % (f[0], f[1], n, f[2], f[2], f[3], f[1])
    return "for file in *.%s; do\n    mv \"$file\" \"%s-${file}\"\ndone\necho \"moved $(ls | wc -l) files\"" % (one(["txt", "log", "csv"]), one(NOUNS))


def letter():
    a, b = R.sample(PEOPLE, 2)
    return ("Dear %s,\n\nthank you for your message of %d %s. %s %s\n\nWith kind regards,\n%s"
            % (a, R.randint(1, 28), one(["March", "May", "August", "November"]), sentence(), sentence(), b))


GROWN = [(story, 60), (encyclopedia, 30), (arithmetic, 12), (word_problem, 14), (listing, 12), (table, 5), (chat, 40),
         (code, 40), (letter, 8)]


def main():
    pieces = [f() for f, n in GROWN for _ in range(n)]
    for part in (PROSE, TALK, CODE, FOREIGN):
        pieces += [p for p in part.strip().split("\n\n\n")]
    R.shuffle(pieces)
    sys.stdout.write("\n\n".join(pieces) + "\n")


main()
