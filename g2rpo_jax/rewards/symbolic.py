"""Whether two mathematical expressions are equal, by math-verify. In child processes alone: the
comparison can take forever, all memory, or the whole interpreter."""

import re
from typing import Any

from g2rpo_jax.rewards.parse import Unscorable


def load() -> None:
    """Imports math-verify (seconds) and builds its parsers, before any deadline runs."""
    equal("$\\frac{1}{2}$", "1/2")


def equal(answer: str, truth: str) -> float:
    """1 if math-verify finds the last expression of `answer` equal to that of `truth`, else 0.

    Raises:
      Unscorable: no_expression in the answer, or bad_truth: none in the truth.
    """
    right = expressions(truth)
    if not right:
        raise Unscorable("bad_truth")
    said = expressions(answer)
    if not said:
        raise Unscorable("no_expression")
    return _verify(right, said, raise_on_error=True)


def release_equal(answer: str, truth: str) -> float:
    """As `equal`, the texts handed to math-verify as they stand, with its fallbacks.

    The release's second opinion (mathruler), asked only where math-verify raises an exception, is
    not: it evaluates the answer as Python.
    """
    import math_verify

    right, said = (math_verify.parse(text, parsing_timeout=None) for text in (truth, answer))
    return _verify(right, said)


def _verify(right: list[Any], said: list[Any], **options) -> float:
    import math_verify

    # No time limits of its own: they are signals, and the parent keeps the clock.
    return float(math_verify.verify(right, said, timeout_seconds=None, **options))


def expressions(text: str) -> list[Any]:
    """What math-verify reads in a text; a bare formula is read as LaTeX.

    math-verify looks for LaTeX between delimiters only, elsewhere for a number: of a bare `2^{10}`
    or `2x` it would read 2, of `2, 3` and `x > 3` 3, of `2\\pi` 2. The release passes answers as
    they are. A text with words (`The answer is 2`, `5 cm^2`) is still read so.
    """
    if any(mark in text for mark in ("$", "\\(", "\\[", "\\boxed", "\\begin")):
        return _parsed(text)
    formula = text
    for pattern, latex in _LATEX:
        formula = pattern.sub(latex, formula)
    formula = f"${formula.translate(_SYMBOLS)}$"
    if "\\" not in text and (_WORD.search(formula) or _GROUPED.search(text)):
        # Prose without any operator (`yes`) is not the product of its letters.
        operators = any(mark in text for mark in "^_={}()+*/")
        return _parsed(text) or (_parsed(formula) if operators else [])
    return _parsed(formula) or _parsed(text)


def _parsed(text: str) -> list[Any]:
    import math_verify

    try:
        # Without a fallback, so that what cannot be read is not compared letter by letter: equal
        # texts have been found by the parent.
        return math_verify.parse(
            text, parsing_timeout=None, fallback_mode="no_fallback", raise_on_error=True
        )
    except MemoryError:
        raise
    except Exception:  # a text that its parser chokes on holds no expression
        return []


# Plain notation -> LaTeX. Linear each: fixed alternatives and single runs of one class.
_LATEX = (
    (re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|ln|log|exp|pi)(?![A-Za-z])"), r"\\\1"),
    (re.compile(r"(?<=[0-9])[eE]([+-]?[0-9]{1,3})(?![0-9])"), r"*10^{\1}"),
    (re.compile(r"\A([0-9]{1,20}) ([0-9]{1,20})/([0-9]{1,20})\Z"), r"\1\\frac{\2}{\3}"),
    (re.compile(r"\*\*"), r"^"),
    (re.compile(r"\u221a([0-9]{1,20}|[A-Za-z])"), r"\\sqrt{\1}"),
)
_SYMBOLS = str.maketrans(
    {"\u2212": "-", "\u03c0": "\\pi ", "\u00d7": "\\times ", "\u2264": "\\le ", "\u2265": "\\ge "}
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2}")
_GROUPED = re.compile(r"[0-9] [0-9]{3}(?![0-9/])")  # 10 000
EQUAL = {"sound": equal, "release": release_equal}
