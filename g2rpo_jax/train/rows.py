"""A sampled row on the host: one prompt, its G responses and their scores."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from g2rpo_jax.data.example import Example
from g2rpo_jax.rewards import Score
from g2rpo_jax.train.feed import Drawn

COMPONENTS = ("accuracy", "format", "structure")


@dataclasses.dataclass(frozen=True)
class Row:
    """One prompt with its responses.

    Attributes:
      drawn: the prompt.
      token_GT, mask_GT, logp_GT, ended_G: see rollout.Rollout.
      texts: decoded responses.
      scores: their rewards.
      length_reward_G, length_weight: length reward (eq. 9) and its share of accuracy's weight.
      born: the step whose parameters sampled it.
    """

    drawn: Drawn
    token_GT: np.ndarray
    mask_GT: np.ndarray
    logp_GT: np.ndarray
    ended_G: np.ndarray
    texts: list[str]
    scores: list[Score]
    length_reward_G: np.ndarray
    length_weight: float
    born: int

    @property
    def example(self) -> Example:
        """The data row."""
        return self.drawn.example

    @property
    def length_G(self) -> np.ndarray:
        """Response lengths, tokens."""
        return self.mask_GT.sum(-1)

    @property
    def logp_G(self) -> np.ndarray:
        """Log-likelihood of each response when it was sampled, nats, float32 [G]."""
        return np.where(self.mask_GT, self.logp_GT, 0.0).sum(-1).astype(np.float32)

    @property
    def surprise_G(self) -> np.ndarray:
        """Mean of -log p over each response's tokens when sampled, nats, float32 [G]; 0 for none.

        Unbiased for the mean entropy of the distributions that its tokens were drawn from.
        """
        return (-self.logp_G / np.maximum(self.length_G, 1)).astype(np.float32)

    @property
    def reward_G(self) -> np.ndarray:
        """What advantages are computed from: the total with the length term, float32 [G]."""
        shift_G = self.length_reward_G - self.part("accuracy")
        return self.part("total") + np.float32(self.length_weight) * shift_G

    def part(self, name: str) -> np.ndarray:
        """One reward part of every response, float32 [G]: accuracy, format, structure or total."""
        return np.array([getattr(score, name) for score in self.scores], np.float32)

    def to_log(self, fate: str, adv_G: np.ndarray | None, media: list[dict]) -> dict:
        """The row for people: question, truth, pictures, each response with its reward parts.

        Args:
          fate: a key of samples.FATES.
          adv_G: advantages, where the row was trained on.
          media: what `report.SampleLog` kept of the row's pictures and clips.
        """
        columns = {
            "tokens": self.length_G,
            "reward": self.reward_G,
            **{name: self.part(name) for name in (*COMPONENTS, "total")},
            "length_reward": self.length_reward_G,
            "truncated": ~self.ended_G,
            **({} if adv_G is None else {"advantage": adv_G}),
        }
        lists = {name: np.asarray(value_G).tolist() for name, value_G in columns.items()}
        responses = [
            {
                "text": text,
                "advantage": None,
                "failure": score.failure,
                **{name: values[g] for name, values in lists.items()},
            }
            for g, (text, score) in enumerate(zip(self.texts, self.scores, strict=True))
        ]
        return {
            "prompt_id": self.drawn.prompt_id,
            "id": self.example.id,
            "where": self.example.where,
            "task": self.example.task,
            "problem_type": self.example.problem_type,
            "data_type": self.example.data_type,
            "problem": self.example.problem,
            "options": list(self.example.options),
            "answer": self.example.answer,
            "prompt_tokens": self.drawn.tokens,
            "born": self.born,
            "fate": fate,
            "length_weight": self.length_weight,
            "media": media,
            "responses": responses,
        }

    def to_json(self) -> dict:
        """What a resumed run needs, with exact numbers; the prompt is drawn again by its id."""
        return {
            "prompt_id": self.drawn.prompt_id,
            "tokens": self.token_GT.tolist(),
            "lengths": self.length_G.tolist(),
            "logps": self.logp_GT.astype(float).tolist(),
            "ended": self.ended_G.tolist(),
            "texts": self.texts,
            "scores": [dataclasses.asdict(score) for score in self.scores],
            "length_rewards": self.length_reward_G.astype(float).tolist(),
            "length_weight": self.length_weight,
            "born": self.born,
        }

    def sent(self) -> dict:
        """What the other processes need of it: all but the prompt, without unused tokens."""
        used = int(self.length_G.max(initial=0))
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["drawn"]
        cut = {name: fields[name][:, :used] for name in ("token_GT", "mask_GT", "logp_GT")}
        return fields | cut | {"tokens": self.token_GT.shape[1]}

    @staticmethod
    def received(sent: dict, drawn: Drawn, pad: int) -> "Row":
        """The row that `sent` describes; `pad` is the token after a response's end."""
        T = sent.pop("tokens")
        more = ((0, 0), (0, T - sent["mask_GT"].shape[1]))
        fills = {"token_GT": pad, "mask_GT": False, "logp_GT": 0}
        whole = {
            name: np.pad(sent[name], more, constant_values=fill) for name, fill in fills.items()
        }
        return Row(drawn=drawn, **sent | whole)

    @staticmethod
    def from_json(saved: dict, drawn: Drawn) -> "Row":
        """The row that `to_json` wrote; `drawn` is its prompt."""
        token_GT = np.array(saved["tokens"], np.int32)
        T = token_GT.shape[-1]
        return Row(
            drawn,
            token_GT,
            np.arange(T)[None] < np.array(saved["lengths"])[:, None],
            np.array(saved["logps"], np.float32),
            np.array(saved["ended"], bool),
            saved["texts"],
            [Score(**score) for score in saved["scores"]],
            np.array(saved["length_rewards"], np.float32),
            saved["length_weight"],
            saved["born"],
        )


def stack(rows: Sequence[Row | None], name: str, total: int, like: Row | None = None) -> np.ndarray:
    """One array of the rows, [total, ...]; filler rows (None, and those at the end) are zero.

    Args:
      like: any row, where all of `rows` may be filler.
    """
    first = np.asarray(getattr(like or rows[0], name))
    out = np.zeros((total, *first.shape), first.dtype)
    for i, row in enumerate(rows):
        if row is not None:
            out[i] = getattr(row, name)
    return out


def stack_part(rows: list[Row], name: str, total: int) -> np.ndarray:
    """One reward part of the rows, float32 [total, G]; filler rows are zero."""
    out = np.zeros((total, len(rows[0].scores)), np.float32)
    for i, row in enumerate(rows):
        out[i] = row.part(name)
    return out


def assign(homes: Sequence[int], places: int, count: int) -> list[list[int | None]]:
    """Which process trains on which rows: those that it has, as far as all get the same number.

    Args:
      homes: the process that has each row.
      places: rows of all processes together, fillers included; divides over them.
      count: processes.
    Returns:
      for every process its rows' places in `homes`, rising; None for filler at the end.
    """
    each = places // count
    chosen: list[list[int]] = [[] for _ in range(count)]
    over = []
    for row, home in enumerate(homes):
        (chosen[home] if len(chosen[home]) < each else over).append(row)
    for row in over:
        min(chosen, key=len).append(row)
    return [sorted(rows) + [None] * (each - len(rows)) for rows in chosen]
