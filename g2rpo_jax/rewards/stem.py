"""Porter's stemmer with the departures that NLTK's has by default (rouge-score stems with that).

Source: M. F. Porter, An algorithm for suffix stripping, 1980; the departures are marked.
"""

import functools
from collections.abc import Callable

_CONSONANT, _VOWEL = "c", "v"
_IRREGULAR = {  # a departure
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "innings": "inning",
    "outings": "outing",
    "cannings": "canning",
} | dict.fromkeys("sky news inning outing canning howe proceed exceed succeed".split())


@functools.lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """The stem of a lower-case word; time is linear in the word."""
    if word in _IRREGULAR:
        return _IRREGULAR[word] or word
    if len(word) <= 2:  # a departure
        return word
    for step in (_plural, _past, _final_y, _double_suffix, _suffix, _last_suffix, _final_e, _ll):
        word = step(word)
    return word


def _kinds(word: str) -> str:
    """ "c" or "v" for each letter; y is a vowel after a consonant; a digit is a consonant."""
    kinds = []
    for letter in word:
        if letter in "aeiou" or (letter == "y" and kinds and kinds[-1] == _CONSONANT):
            kinds.append(_VOWEL)
        else:
            kinds.append(_CONSONANT)
    return "".join(kinds)


def _measure(word: str) -> int:
    """How many times a vowel is followed by a consonant."""
    return _kinds(word).count("vc")


def _short_ending(word: str) -> bool:
    """Porter's *o; also (a departure) a word of a vowel and a consonant alone."""
    kinds = _kinds(word)
    return kinds == "vc" or (kinds.endswith("cvc") and word[-1] not in "wxy")


def _replaced(word: str, table: dict[str, str], allowed: Callable[[str], bool]) -> str:
    """The first suffix of `table` that the word ends in decides, whether it may be replaced or
    not."""
    for suffix, new in table.items():
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            return rest + new if allowed(rest) else word
    return word


def _plural(word: str) -> str:
    if word.endswith("ies") and len(word) == 4:  # a departure: dies -> die
        return word[:-1]
    return _replaced(word, {"sses": "ss", "ies": "i", "ss": "ss", "s": ""}, lambda rest: True)


def _past(word: str) -> str:
    if word.endswith("ied"):  # a departure: died -> die, cried -> cri
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) else word
    for suffix in ("ed", "ing"):
        rest = word.removesuffix(suffix)
        if rest != word and _VOWEL in _kinds(rest):
            break
    else:
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if len(rest) > 1 and rest[-1] == rest[-2] and _kinds(rest)[-1] == _CONSONANT:
        return rest if rest[-1] in "lsz" else rest[:-1]
    return rest + "e" if _measure(rest) == 1 and _short_ending(rest) else rest


def _final_y(word: str) -> str:
    # A departure: Porter asks for a vowel in the rest; this, for a consonant before the y.
    rest = word[:-1]
    if word.endswith("y") and len(rest) > 1 and _kinds(rest)[-1] == _CONSONANT:
        return rest + "i"
    return word


def _double_suffix(word: str) -> str:
    if word.endswith("alli") and _measure(word[:-4]):  # a departure: the step is done again
        return _double_suffix(word[:-2])
    if word.endswith("logi"):  # a departure
        return word[:-1] if _measure(word[:-3]) else word
    return _replaced(word, _DOUBLE, lambda rest: _measure(rest) > 0)


def _suffix(word: str) -> str:
    return _replaced(word, _SINGLE, lambda rest: _measure(rest) > 0)


def _last_suffix(word: str) -> str:
    for suffix in _LAST:
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            whole = _measure(rest) > 1 and (suffix != "ion" or rest[-1] in "st")
            return rest if whole else word
    return word


def _final_e(word: str) -> str:
    rest = word.removesuffix("e")
    if rest == word:
        return word
    measure = _measure(rest)
    return rest if measure > 1 or (measure == 1 and not _short_ending(rest)) else word


def _ll(word: str) -> str:
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


_DOUBLE = {
    "ational": "ate",
    "tional": "tion",
    "enci": "ence",
    "anci": "ance",
    "izer": "ize",
    "bli": "ble",  # a departure: Porter has abli
    "alli": "al",
    "entli": "ent",
    "eli": "e",
    "ousli": "ous",
    "ization": "ize",
    "ation": "ate",
    "ator": "ate",
    "alism": "al",
    "iveness": "ive",
    "fulness": "ful",
    "ousness": "ous",
    "aliti": "al",
    "iviti": "ive",
    "biliti": "ble",
    "fulli": "ful",  # a departure
}
_SINGLE = {
    "icate": "ic",
    "ative": "",
    "alize": "al",
    "iciti": "ic",
    "ical": "ic",
    "ful": "",
    "ness": "",
}
_LAST = "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize".split()
