"""The numbers that losses read, with the defaults of their papers."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
    """Numbers of the losses; each names who reads it.

    Attributes:
      clip_low, clip_high: clip, lambda_grpo, gtpo: the ratio is clipped to [1 - clip_low, 1 +
        clip_high].
      dual_clip: clip, lambda_grpo, gtpo, dcpo: bound c > 1 on the loss of a negative advantage, -c
        * A; 0 switches it off.
      fixed_length: the constant token count that the aggregation `fixed_length` divides by.
      gspo_low, gspo_high: gspo, gspo_token: bounds of the sequence ratio, as clip_low, clip_high.
      gmpo_low, gmpo_high: gmpo: bounds of a token's log-ratio, nats.
      cispo_low, cispo_high: cispo: bounds of the weight, as clip_low, clip_high; low 1: no bound.
      sapo_positive, sapo_negative: sapo: tau for advantages > 0, and for others.
      spo_epsilon: spo: ratio 1 +- epsilon is where the loss of a token is lowest.
      dcpo_low, dcpo_high: dcpo: bounds at probability 1; wider for tokens that were less likely.
      opmd_tau: opmd, opmd_squared: strength of staying near the policy that sampled.
      rec_mask: rec: entry of REC_MASKS: which tokens have a gradient.
      rec_weight: rec: entry of REC_WEIGHTS: what they weigh.
      rec_low, rec_high: rec: bounds of the ratio, as clip_low, clip_high.
      rec_far_low, rec_far_high: rec with the mask `ring`: how far out the gradient comes back.
      rec_temperature: rec with the weight `advantage`: T of exp(A / T).
      rec_squared, rec_forward: rec: weights of the penalties d^2 and -logp.
      gvpo_beta: gvpo: scale of the log-ratios.
      reg_grpo_floor: reg_grpo: nats added to the standard deviation of the group's log-ratios.
      gtpo_boost: gtpo: weight of a shared token in a good response.
      gtpo_entropy_cut: gtpo: responses of more mean entropy (nats) have no loss.
      gtpo_entropy_weight: gtpo: what an advantage loses for each nat of mean entropy.
      disco_logp_tau, disco_ratio_tau: disco_logp and drpo; disco_ratio: temperature of the soft
        maximum over wrong responses.
      disco_delta, disco_beta: disco_logp, disco_ratio, drpo: KL (nats) that is free, and the weight
        of what goes beyond.
      drpo_lambda: drpo: temperature of the weight of short right responses.
      trpa_beta, trpa_right: trpa: scale of the log-ratios; factor where the better one is right.
      importance: entry of IMPORTANCE: correction for the gap between sampler and trainer.
      importance_level: entry of IMPORTANCE_LEVELS: what the correction is of. A loss of whole
        responses is multiplied by the mean of its tokens' weights.
      importance_cap: importance=truncated: the largest weight.
      importance_low, importance_high: importance=masked: ratios outside have weight 0.
    """

    clip_low: float = 0.2
    clip_high: float = 0.3
    dual_clip: float = 3.0
    fixed_length: int = 1024
    gspo_low: float = 3e-4
    gspo_high: float = 4e-4
    gmpo_low: float = 0.4
    gmpo_high: float = 0.4
    cispo_low: float = 1.0
    cispo_high: float = 4.0
    sapo_positive: float = 1.0
    sapo_negative: float = 1.05
    spo_epsilon: float = 0.2
    dcpo_low: float = 0.16
    dcpo_high: float = 0.2
    opmd_tau: float = 1.0
    rec_mask: str = "one_side"
    rec_weight: str = "one"
    rec_low: float = 0.2
    rec_high: float = 0.2
    rec_far_low: float = 0.6
    rec_far_high: float = 2.0
    rec_temperature: float = 1.0
    rec_squared: float = 0.0
    rec_forward: float = 0.0
    gvpo_beta: float = 0.1
    reg_grpo_floor: float = 0.1
    gtpo_boost: float = 2.0
    gtpo_entropy_cut: float = 0.7
    gtpo_entropy_weight: float = 0.1
    disco_logp_tau: float = 10.0
    disco_ratio_tau: float = 1.0
    disco_delta: float = 1e-4
    disco_beta: float = 1e3
    drpo_lambda: float = 0.1
    trpa_beta: float = 0.1
    trpa_right: float = 2.5
    importance: str = "none"
    importance_level: str = "token"
    importance_cap: float = 2.0
    importance_low: float = 0.5
    importance_high: float = 5.0

    def __post_init__(self):
        for name in ("clip_low", "gspo_low", "cispo_low", "rec_low", "rec_far_low"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(
                    f"objective.{name}={value}: the ratio's lower bound is 1 - {name} and a ratio"
                    " is never negative; use a value in [0, 1]"
                )
        for name in ("clip_high", "gspo_high", "cispo_high", "rec_high", "rec_far_high"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(
                    f"objective.{name}={value}: the upper bound 1 + {name} must not lie below 1;"
                    " use a value >= 0"
                )
        if self.dual_clip != 0 and not self.dual_clip > 1:
            raise ValueError(
                f"objective.dual_clip={self.dual_clip}: at 1 or below it would cut the first update"
                " too; use a value above 1, or 0 to switch it off"
            )
        if not self.fixed_length > 0:
            raise ValueError(
                f"objective.fixed_length={self.fixed_length}: losses are divided by it; use a"
                " positive token count"
            )
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"objective.{name}={getattr(self, name)}: a scale or a divisor; use a value"
                    " above 0"
                )
        for name in NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"objective.{name}={getattr(self, name)}: a weight or the width of a bound; use"
                    " a value >= 0"
                )
        if self.rec_far_low < self.rec_low or self.rec_far_high < self.rec_high:
            raise ValueError(
                f"objective.rec_far_low={self.rec_far_low}, rec_far_high={self.rec_far_high}: the"
                f" outer bounds of the ring must not lie inside rec_low={self.rec_low},"
                f" rec_high={self.rec_high}"
            )
        if not self.importance_low <= 1 <= self.importance_high or self.importance_cap < 1:
            raise ValueError(
                f"objective.importance_low={self.importance_low},"
                f" importance_high={self.importance_high}, importance_cap={self.importance_cap}:"
                " where sampler and trainer agree the ratio is 1, which must be inside"
            )


POSITIVE = (
    "sapo_positive",
    "sapo_negative",
    "spo_epsilon",
    "rec_temperature",
    "gvpo_beta",
    "reg_grpo_floor",
    "disco_logp_tau",
    "disco_ratio_tau",
    "drpo_lambda",
    "trpa_beta",
)
NOT_NEGATIVE = (
    "gmpo_low",
    "gmpo_high",
    "dcpo_low",
    "dcpo_high",
    "opmd_tau",
    "rec_squared",
    "rec_forward",
    "gtpo_boost",
    "gtpo_entropy_weight",
    "disco_delta",
    "disco_beta",
    "trpa_right",
    "importance_low",
)
