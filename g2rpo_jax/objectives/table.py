"""Every policy loss by name, and the one way to call it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from g2rpo_jax.objectives import preference, regression, shared, surrogates
from g2rpo_jax.objectives.importance import IMPORTANCE, IMPORTANCE_LEVELS
from g2rpo_jax.objectives.options import Options
from g2rpo_jax.objectives.reduce import AGGREGATIONS, KL_ESTIMATORS
from g2rpo_jax.objectives.regression import REC_MASKS, REC_WEIGHTS
from g2rpo_jax.objectives.tokens import Losses, Tokens, held
from g2rpo_jax.tables import lookup


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(Options):
    """The policy loss: which, and its numbers (`Options`).

    Attributes:
      name: entry of OBJECTIVES.
      aggregation: entry of AGGREGATIONS. Paper: sequence_mean; the authors' release: token_mean.
      kl_coefficient: weight of the KL term to the reference policy; at 0 no reference copy is
        needed, unless the loss reads one.
      kl_estimator: entry of KL_ESTIMATORS.
      sampler_gap: nats; with several minibatches, the sampler's log-probs serve as those that the
        ratio is taken against while |trainer - sampler| of recent steps (rollout/gap_max) was at
        most this; else the trainer computes them. 0: always computed.
    """

    name: str = "clip"
    aggregation: str = "sequence_mean"
    kl_coefficient: float = 0.0
    kl_estimator: str = "k3"
    sampler_gap: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        objective = lookup(OBJECTIVES, self.name, kind="objective")
        lookup(AGGREGATIONS, self.aggregation, kind="aggregation")
        lookup(KL_ESTIMATORS, self.kl_estimator, kind="KL estimator")
        lookup(IMPORTANCE, self.importance, kind="objective.importance")
        lookup(IMPORTANCE_LEVELS, self.importance_level, kind="objective.importance_level")
        lookup(REC_MASKS, self.rec_mask, kind="objective.rec_mask")
        lookup(REC_WEIGHTS, self.rec_weight, kind="objective.rec_weight")
        if objective.groupwise and self.importance != "none":
            raise ValueError(
                f"objective.importance={self.importance} weighs single responses, and"
                f" objective.name={self.name} compares those of a group: use importance=none"
            )
        if not self.kl_coefficient >= 0:
            raise ValueError(
                f"objective.kl_coefficient={self.kl_coefficient}: a negative weight rewards leaving"
                " the reference; use a value >= 0"
            )
        if not self.sampler_gap >= 0:
            raise ValueError(
                f"objective.sampler_gap={self.sampler_gap}: a gap is never negative; use a value"
                " >= 0 (0: log-probs are always computed)"
            )

    @property
    def needs_reference(self) -> bool:
        """Whether log-probs under the reference policy are read."""
        return self.kl_coefficient > 0 or OBJECTIVES[self.name].reference

    @property
    def looks(self) -> bool:
        """Whether the loss needs sums of the whole minibatch before its gradient."""
        return OBJECTIVES[self.name].look is not None


@dataclasses.dataclass(frozen=True)
class Objective:
    """A policy loss.

    Attributes:
      function: (options, tokens) -> (loss_PGT, clipped_PGT): the loss of every token, to be
        weighed by `aggregation_weights`, and 1.0 where a bound of the loss has been reached. The
        loss of a whole response or group is written at each of its tokens.
      look: (options, tokens) -> sums over rows, which added up over the minibatch come back as
        `tokens.seen`; None: the loss needs nothing beyond its rows.
      groupwise: a response's loss depends on the others of its row.
      reference: it reads log-probs under the reference policy.
    """

    function: Callable[[Options, Tokens], Losses]
    look: Callable[[Options, Tokens], Any] | None = None
    groupwise: bool = False
    reference: bool = False


def token_losses(config: ObjectiveConfig, tokens: Tokens) -> Losses:
    """Loss of every token, to be minimised after weighting by `aggregation_weights`.

    Args:
      config: which objective, and its numbers.
      tokens: of whole rows; of losses with a look with `seen`, from `look` of the whole minibatch.
    Returns:
      (loss_PGT, clipped_PGT): the loss, and 1.0 where a bound of the loss has been reached, else
      0.0.
    """
    return OBJECTIVES[config.name].function(config, held(tokens))


def look(config: ObjectiveConfig, tokens: Tokens) -> Any:
    """Sums over these rows that the loss needs of the whole minibatch, without gradient; None for a
    loss that needs none. Sums of micro-batches add up."""
    found = OBJECTIVES[config.name].look
    if found is None:
        return None
    return jax.tree.map(jax.lax.stop_gradient, found(config, held(tokens)))


OBJECTIVES = {
    "clip": Objective(surrogates.clipped_surrogate),
    "gpg": Objective(surrogates.policy_gradient),
    "spo": Objective(surrogates.simple_policy_optimization),
    "dcpo": Objective(surrogates.dynamic_clip),
    "cispo": Objective(surrogates.clipped_weight),
    "sapo": Objective(surrogates.soft_gate),
    "gspo": Objective(surrogates.sequence_clip),
    "gspo_token": Objective(surrogates.sequence_clip_by_token),
    "gmpo": Objective(surrogates.geometric_mean),
    "topr": Objective(surrogates.tapered),
    "lambda_grpo": Objective(shared.shared_prefix),
    "gtpo": Objective(shared.conflict_aware),
    "opmd": Objective(regression.mirror_descent),
    "opmd_squared": Objective(regression.mirror_descent_squared),
    "rec": Objective(regression.clipped_reinforce),
    "gvpo": Objective(regression.group_variance, groupwise=True),
    "reg_grpo": Objective(regression.regressive, groupwise=True),
    "disco_logp": Objective(
        preference.discriminative_logp, look=preference.divergence_sums, groupwise=True
    ),
    "disco_ratio": Objective(
        preference.discriminative_ratio, look=preference.divergence_sums, groupwise=True
    ),
    "drpo": Objective(preference.decoupled, look=preference.divergence_sums, groupwise=True),
    "trpa": Objective(
        preference.preference, look=preference.pair_counts, groupwise=True, reference=True
    ),
}
