"""Untrusted response text -> option letter, number, box or points. Bounded, and nothing raises.

What cannot be read is None or an empty list, which every metric scores 0. Long answers are read at
their end: that is where the answer stands, and it bounds the work.
"""

import functools
import math
import re
from collections.abc import Mapping

from g2rpo_jax.rewards import parse

MAX_CHARS = 20_000  # of an answer, from its end
MAX_POINTS = 100  # of an answer
MAX_CORNERS = 5000  # of a truth
BOX_KEYS = ("boxes", "bbox_2d", "bbox", "box")

_THINK_END = re.compile(r"</\s*+think(?:ing)?\s*+>")
_WRAPPERS = (
    ("\\boxed{", "}"),
    ("\\text{", "}"),
    ("\\textbf{", "}"),
    ("\\mathrm{", "}"),
    ("\\(", "\\)"),
    ("(", ")"),
    ("[", "]"),
    ("**", "**"),
)
_NUMBER = re.compile(
    r"[-+]?(?:\d{1,3}(?:,\d{3})++|\d++)(?:\.\d++)?(?:[eE][-+]?\d{1,3})?|[-+]?\.\d++"
)


def answer_of(response: str) -> str:
    """What a response answers: the text inside its answer tags; else the text after its thinking;
    else all of it. At most the last MAX_CHARS characters, stripped."""
    parts = parse.response(response)
    if parts.tagged:
        return parts.answer[-MAX_CHARS:].strip()
    end = 0
    for match in _THINK_END.finditer(response):
        end = match.end()
    return response[end:][-MAX_CHARS:].strip()


def boxed(text: str) -> str | None:
    """The content of the last `\\boxed{...}`, braces inside it balanced; None without one."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, first = 1, start + len("\\boxed{")
    for i in range(first, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if not depth:
            return text[first:i]
    return None


def bare(text: str) -> str:
    """The text without white space, quotes, final stops, markdown and LaTeX wrapped around it."""
    for _ in range(4):  # \boxed{\text{(B)}}
        before = text
        text = text.strip(" \t\r\n*$`\"'")
        text = text.rstrip(".").rstrip() if len(text) > 1 else text
        for start, end in _WRAPPERS:
            inner = text[len(start) : -len(end)]
            if text.startswith(start) and text.endswith(end) and start[-1] not in inner:
                text = inner
        if text == before:
            break
    return text


def words(text: str) -> str:
    """Lower case, punctuation and white space as single blanks: for comparing short texts."""
    kept = "".join(c if c.isalnum() or c in ".-+%/" else " " for c in text.casefold())
    return " ".join(word.strip(".") or word for word in kept.split())


# "answer is (B)", "Answer: **B**", "option B is correct". The letter is upper case, or in brackets.
_SAYS = re.compile(
    r"(?:answer|choice|option)s?\b(?:\s++(?:is|are|would\s+be|should\s+be|=))?[\s:*\"'`$]{0,8}"
    r"(?:(?:the|option|choice|letter)\s++){0,3}[*\"'`$]{0,4}"
    r"(?:\\boxed\{|\\text\{|\(|\[){0,2}([A-Z]|(?<=[(\[{])[a-z])(?![\w'])",
    re.ASCII,
)
_SAYS_ANY_CASE = re.compile(r"answer|choice|option", re.IGNORECASE)
_MARKED = re.compile(r"(?:\(([A-Za-z])\)|\*\*([A-Z])[.:)]?\*\*|\[([A-Z])\])", re.ASCII)
_HEAD = re.compile(r"\s*+\(?([A-Z])(?:[.):](?=\s|$)|\)(?=\s|$))", re.ASCII)
_LONE = re.compile(r"(?<![\w'’.\\-])([A-Z])(?![\w'’-])", re.ASCII)
# "A" and "I" are words of English: alone they are a choice only where no word follows.
_WORDS = frozenset("AI")
_OR = re.compile(r"\s++(?:or|and)\s++\W?[A-Z]\b", re.ASCII)


def choice(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter of the option that an answer names, or None where it names none or several.

    In this order: a lone letter (`B`, `(b)`, `**B**`, `\\boxed{B}`); an option's whole text; the
    last "answer is B" and its kin; a letter that opens the answer ("B. a dog"); one marked letter
    ("(B)", "**B**"); the one option whose text occurs in the answer; the one capital letter that
    stands alone and is no English word ("A dog" names no A, but "A" and "A." do).
    Args:
      answer: from `answer_of`.
      choices: option letter -> its text ("" where the picture holds it).
    """
    if not choices or not answer:
        return None
    last_box = boxed(answer)
    for text in (answer, last_box):
        if text is None:
            continue
        found = _whole(bare(text), choices)
        if found:
            return found
    said = _said(answer, choices)
    if said:
        return said
    marked = {next(filter(None, m.groups())).upper() for m in _MARKED.finditer(answer)}
    marked &= choices.keys()
    opening = _HEAD.match(answer)
    if opening and opening[1] in choices and (opening[0][-1] != ")" or len(marked) < 2):
        return opening[1]
    if len(marked) == 1:
        return marked.pop()
    named = _named(answer, choices)
    if named or len(marked) > 1:
        return named
    alone = {
        m[1]
        for m in _LONE.finditer(answer)
        if m[1] not in _WORDS or _no_word(answer, m.end()) or _OR.match(answer, m.end())
    }
    alone &= choices.keys()
    return alone.pop() if len(alone) == 1 else None


def _whole(text: str, choices: Mapping[str, str]) -> str | None:
    if len(text) == 1 and text.upper() in choices:
        return text.upper()
    # "B. its text", "(B) its text", "B: its text"
    match = re.match(r"\(?([A-Za-z])[.):]\s*+(.*)", text, re.DOTALL)
    letter = match[1].upper() if match else None
    if letter in choices and words(match[2]) == words(choices[letter]):
        return letter
    spoken = words(text)
    same = [key for key, value in choices.items() if value and words(value) == spoken]
    return same[0] if len(same) == 1 and spoken else None


def _said(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter of the last "answer is B"."""
    lowered = _SAYS_ANY_CASE.sub(lambda m: m[0].lower(), answer)
    for match in reversed(list(_SAYS.finditer(lowered))):
        letter = match[1].upper()
        if letter not in choices:
            continue
        if letter in _WORDS and not _no_word(lowered, match.end()):
            rest = words(lowered[match.end() : match.end() + 200])
            if not choices[letter] or not rest.startswith(words(choices[letter])):
                continue
        return letter
    return None


def _no_word(text: str, at: int) -> bool:
    """Whether no word follows on the same line: punctuation, a line's or the text's end."""
    rest = text[at : at + 3].lstrip(" ")
    return not rest or not rest[0].isalnum()


def _named(answer: str, choices: Mapping[str, str]) -> str | None:
    """The one option whose text occurs in the answer as words; texts inside longer ones that also
    occur do not count. Not in answers longer than all options twice over: they retell the options.
    """
    texts = {key: words(value) for key, value in choices.items() if words(value)}
    spoken = f" {words(answer)} "
    if len(spoken) > 2 * sum(map(len, texts.values())) + 40:
        return None
    found = [key for key, text in texts.items() if f" {text} " in spoken]
    found = [
        key
        for key in found
        if not any(key != o and texts[key] != texts[o] and texts[key] in texts[o] for o in found)
    ]
    return found[0] if len(found) == 1 else None


def numbers(text: str) -> list[float]:
    """All finite numbers in a text, thousands separators read; at most the last 1000."""
    found = []
    for match in _NUMBER.finditer(text[-MAX_CHARS:]):
        if match.end() - match.start() > parse.MAX_NUMBER_CHARS:
            continue
        value = float(match[0].replace(",", ""))
        if math.isfinite(value):
            found.append(value)
    return found[-1000:]


def number(answer: str) -> float | None:
    """The number that an answer gives: all of it, the last boxed one, or the last in the text."""
    for text in (answer, boxed(answer)):
        if text is None:
            continue
        try:
            return float(parse.number(bare(text).rstrip("%")))
        except parse.Unscorable:
            continue
    found = numbers(answer)
    return found[-1] if found else None


# A coordinate list in brackets; nested brackets and blanks inside. No nested quantifiers.
_TUPLE = re.compile(r"[(\[]\s*+([-+0-9.eE]{1,30})\s*+,\s*+([-+0-9.eE]{1,30})\s*+([,)\]])")
_FOUR = re.compile(
    r"([-+]?[0-9]{1,9}(?:\.[0-9]{0,20})?)[\s,;()\[\]]{1,12}"
    r"([-+]?[0-9]{1,9}(?:\.[0-9]{0,20})?)[\s,;()\[\]]{1,12}"
    r"([-+]?[0-9]{1,9}(?:\.[0-9]{0,20})?)[\s,;()\[\]]{1,12}"
    r"([-+]?[0-9]{1,9}(?:\.[0-9]{0,20})?)"
)
_ATTRIBUTES = re.compile(r'\bx\d{0,3}="([0-9.]{1,20})"\s{1,3}y\d{0,3}="([0-9.]{1,20})"')


def box(answer: str) -> list[float] | None:
    """Four coordinates of the first box in an answer: JSON (`boxes`, `bbox_2d`, `bbox`, `box`, a
    list), `(x1, y1), (x2, y2)`, `[x1, y1, x2, y2]`, with or without text around it."""
    value = _json(answer)
    while isinstance(value, dict | list):
        if isinstance(value, dict):
            value = next(
                (value[k] for k in ("boxes", "bbox_2d", "bbox", "box") if k in value), None
            )
        elif len(value) == 4 and all(_coordinate(v) for v in value):
            return [float(v) for v in value]
        elif len(value) == 2 and all(isinstance(v, list) and len(v) == 2 for v in value):
            value = [*value[0], *value[1]]
        else:
            value = value[0] if value else None
    match = _FOUR.search(answer)
    return [float(v) for v in match.groups()] if match else None


def points(answer: str, limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """(x, y) of every point in an answer: JSON (`point_2d`, `point`, pairs), `(x, y)` in text, or
    `<point x=".." y="..">` (Molmo's, read as percent); the first `limit`.

    A plain `point` key is x, y as well (Gemini writes y, x; say so in the prompt).
    """
    value = _json(answer)
    found: list[tuple[float, float]] = []
    stack = [value]
    while stack and len(found) < limit:
        value = stack.pop()
        if isinstance(value, dict):
            stack += [value[k] for k in ("points", "point", "point_2d") if k in value]
        elif isinstance(value, list):
            if len(value) == 2 and all(_coordinate(v) for v in value):
                found.append((float(value[0]), float(value[1])))
            else:
                stack += reversed(value[:limit])
    if found:
        return found
    for match in _TUPLE.finditer(answer):
        pair = _float(match[1]), _float(match[2])
        if match[3] != "," and None not in pair:
            found.append(pair)
    for match in _ATTRIBUTES.finditer(answer):
        pair = _float(match[1]), _float(match[2])
        if None not in pair:
            found.append((pair[0] / 100, pair[1] / 100))
    return found[:limit]


def _json(text: str):
    """The JSON value that a text is, or that stands in its code block; None where there is none."""
    fence = text.find("```")
    if fence >= 0:
        stop = text.find("```", fence + 3)
        text = text[fence + 3 : stop if stop >= 0 else None].removeprefix("json")
    text = text.strip()
    if not text.startswith(("{", "[")):
        return None
    try:  # json_object bounds length, depth and numbers, but takes objects alone
        return parse.json_object(f'{{"value": {text}}}')["value"]
    except (parse.Unscorable, KeyError):
        return None


def _coordinate(value) -> bool:
    return type(value) is float and abs(value) <= parse.MAX_COORDINATE


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= parse.MAX_COORDINATE else None


@functools.lru_cache(maxsize=4096)
def region(text: str) -> tuple[tuple[float, float], ...] | None:
    """The corners of a polygon `[(x, y), ...]`, at least three; None if the text is none."""
    corners = points(text.replace("(", "[").replace(")", "]"), MAX_CORNERS)
    return tuple(corners) if len(corners) >= 3 else None
