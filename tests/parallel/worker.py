"""`launch/train.py`, with notes of which rows this process encodes and what it scores.

python -m tests.parallel.worker NOTES FLAGS...: NOTES gets a line of JSON for every prompt encoded,
and for every batch of responses scored.
"""

import json
import runpy
import sys
import zlib

from g2rpo_jax.data.encoding import PromptEncoder
from g2rpo_jax.rewards import Scorer


def coin(response: str, answer: str, problem_type: str, data_type: str) -> float:
    """A reward for models that know nothing: 0 or 1 by the response's text."""
    return float(zlib.crc32(response.encode()) % 2)


def main() -> None:
    notes = open(sys.argv.pop(1), "a", buffering=1)  # noqa: SIM115 (closes with the process)
    encode, score = PromptEncoder.encode, Scorer.score_batch

    def noted_encode(self, example):
        notes.write(json.dumps({"row": example.where}) + "\n")
        return encode(self, example)

    def noted_score(self, batch):
        notes.write(json.dumps({"scored": len(batch)}) + "\n")
        return score(self, batch)

    PromptEncoder.encode, Scorer.score_batch = noted_encode, noted_score
    runpy.run_path("launch/train.py", run_name="__main__")


if __name__ == "__main__":
    main()
