"""What is not on the safe side of the table and cannot be avoided: each with its reason.

An entry speaks of one rule at one place of our code, in all programs or those whose name matches.
An entry that matches nothing any more is an error in the tests.
"""

import dataclasses
import fnmatch


@dataclasses.dataclass(frozen=True)
class Allowed:
    """One exception.

    Attributes:
      rule: a row's name (`table`).
      site: "file:function" of the innermost frame inside the package; "*" for any.
      reason: why it stays.
      programs: pattern of program names.
    """

    rule: str
    site: str
    reason: str
    programs: str = "*"

    def covers(self, rule: str, site: str, program: str) -> bool:
        """Whether a finding is this exception."""
        here = self.rule == rule and self.site in ("*", site)
        return here and fnmatch.fnmatch(program, self.programs)


ALLOWED: tuple[Allowed, ...] = (
    Allowed(
        "gather",
        "g2rpo_jax/models/qwen3_vl/embedding.py:_embed",
        "whole rows of a table, at indices that are clamped, along an axis that no device divides "
        "(both checked by rules of their own); the gradient is a one-hot product",
    ),
    Allowed(
        "gather",
        "g2rpo_jax/models/qwen3_vl/packing.py:_take",
        "whole tokens of a pack, at indices that are clamped, each pack on its own device; without "
        "batch.packed_shares there is none",
        programs="*_packed",
    ),
    Allowed(
        "gather",
        "g2rpo_jax/models/qwen3_vl/packing.py:_move",
        "the gradient of such a gather is one as well",
        programs="*_packed",
    ),
    Allowed(
        "erfc",
        "g2rpo_jax/models/qwen3_vl/vision.py:_merge",
        "the patch merger's GELU is the exact one; XLA expands erfc to polynomials before any "
        "compiler for a device sees it, and no erf is left (a test looks)",
    ),
    Allowed(
        "constant",
        "g2rpo_jax/ranks.py:quantiles",
        "jax.scipy's ndtri selects infinity for probabilities 0 and 1, which ranks never are; "
        "a select does not multiply",
        programs="advantage*",
    ),
    Allowed(
        "kept for the backward pass",
        "*",
        "a no-op wherever remat keeps something; AXLearn trains on trn2 with such policies; "
        "model.remat=full has none",
    ),
)
