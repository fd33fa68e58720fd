"""Writes docs/methods.md from the tables."""

import argparse
import sys
from pathlib import Path

from g2rpo_jax.catalogue.page import page

DEFAULT = Path(__file__).parents[2] / "docs" / "methods.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT, help="the file to write")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it differs")
    options = parser.parse_args()
    try:
        text = page()
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    if options.check:
        same = options.out.is_file() and options.out.read_text() == text
        if not same:
            print(f"{options.out} is not what the tables say", file=sys.stderr)
        return int(not same)
    options.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
