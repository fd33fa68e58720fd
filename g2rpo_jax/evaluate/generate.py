"""Encoded prompts to decoded responses: the one place where evaluation calls the engine."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from g2rpo_jax.rollout.engine import Engine


@dataclasses.dataclass(frozen=True)
class Response:
    """One generated response.

    Attributes:
      text: without special tokens.
      tokens: how many were generated, the end token included.
      ended: False where the token limit came first.
    """

    text: str
    tokens: int
    ended: bool


def respond(
    engine: Engine,
    params,
    prompts: Sequence,
    rows: int,
    pack: Callable,
    decode: Callable,
    *,
    ids: Sequence[int] | None = None,
    seed: int = 0,
    step: int = 0,
    limits: Sequence[int] | None = None,
) -> list[list[Response]]:
    """G responses to each prompt, decoded together.

    Args:
      engine: gives G responses per prompt.
      params: model parameters.
      prompts: at most `rows` encoded prompts.
      rows: P of the compiled program; what is missing is filled up.
      pack: (prompts, rows) -> RowInputs.
      decode: token ids -> text.
      ids: what determines, with seed and step, each prompt's samples; default 0, 1, ...
      limits: tokens that each prompt's responses may have; default the engine's.
    Returns:
      for every prompt its G responses.
    """
    n = len(prompts)
    id_P = np.zeros(rows, np.int64)
    id_P[:n] = np.arange(n) if ids is None else ids
    limit_P = np.zeros(rows, np.int64)
    limit_P[:n] = engine.max_tokens if limits is None else limits
    out = engine.generate(
        params, pack(list(prompts), rows), id_P, seed=seed, step=step, limit_P=limit_P
    )
    return [
        [
            Response(decode(tokens[mask]), int(mask.sum()), bool(ended))
            for tokens, mask, ended in zip(
                out.token_PGT[p], out.mask_PGT[p], out.ended_PG[p], strict=True
            )
        ]
        for p in range(n)
    ]
