"""The child of `math.MathWorker`: `python -m g2rpo_jax.rewards.worker MEMORY_MB TIMEOUT_S`.

JSON lines. First {"error": null} when it is ready, or why it cannot be; then for each
{"truth": str, "answer": str} one {"equal": bool, "kind": null or a kind of `parse.KINDS`}.
"""

import json
import math
import os
import re
import resource
import signal
import sys
from typing import Any


def main(memory_mb: int, timeout_s: float) -> None:
    """Answers questions until standard input ends."""
    # Replies go to the pipe alone: whatever a library prints must not look like one.
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    try:
        limit(memory_mb)
        import math_verify  # noqa: F401  (the slow part: before any deadline runs)

        equal("1/2", "$\\frac{1}{2}$")  # builds the parsers
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # nothing here writes files
        error = None
    except Exception as problem:  # the parent words it for the user
        error = f"{type(problem).__name__}: {problem}"
    print(json.dumps({"error": error}), file=out, flush=True)
    if error:
        return
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # The parent kills at the deadline. Should it die first, the alarm's default action ends
        # this process even inside a loop in C.
        signal.alarm(math.ceil(timeout_s) + 10)
        print(json.dumps(reply(request["truth"], request["answer"])), file=out, flush=True)
        signal.alarm(0)


def limit(memory_mb: int) -> None:
    """Bounds this process's address space and core file; a lower hard limit stays."""
    wanted = memory_mb << 20
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def reply(truth: str, answer: str) -> dict[str, Any]:
    """The reply to one question; never an exception."""
    try:
        return {"equal": equal(truth, answer), "kind": None}
    except MemoryError:
        return {"equal": False, "kind": "math_memory"}
    except Unreadable as problem:
        return {"equal": False, "kind": str(problem)}
    except Exception:
        return {"equal": False, "kind": "math_error"}


class Unreadable(Exception):
    """No expression on one side; its text is the kind."""


def equal(truth: str, answer: str) -> bool:
    """Whether math-verify finds the last expression of `answer` equal to that of `truth`.

    Raises:
      Unreadable: no_expression in the answer, or bad_truth: none in the truth.
    """
    import math_verify

    right = expressions(truth)
    if not right:
        raise Unreadable("bad_truth")
    said = expressions(answer)
    if not said:
        raise Unreadable("no_expression")
    # No time limits of its own: they are signals, and the parent keeps the clock.
    return bool(math_verify.verify(right, said, timeout_seconds=None, raise_on_error=True))


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


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
