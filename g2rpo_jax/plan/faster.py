"""What would make a step faster, from exact counts; none of it is compiled."""

from g2rpo_jax.plan.cost import Plan
from g2rpo_jax.platform import BACKENDS
from g2rpo_jax.rollout.engine import chunk_tokens

GIB = 2**30


def options(plan: Plan) -> list[tuple[str, str]]:
    """(change, what it gives) for a plan, in words with numbers."""
    found = [_rollout_copy(plan), _generate_more(plan), _look(plan), _remat(plan)]
    return [option for option in found if option]


def _rollout_copy(plan: Plan) -> tuple[str, str] | None:
    """A copy of the weights to sample from, instead of gathering them for every token."""
    if plan.config.model.rollout_copy or plan.mesh["fsdp"] == 1:
        return None
    decode, likely = plan.phase("decode"), plan.device.shares[0]
    gathered = sum(c.bytes for c in decode.program.collectives if c.axes == ("fsdp",))
    width = 4 if plan.compute_dtype == "float32" else 2
    held = width * plan.parameters // plan.mesh["tensor"]
    verdict = "fits" if decode.total + held <= plan.device.usable_bytes else "does not fit"
    return (
        "`--config.model.rollout_copy=True`",
        f"decode need not gather {gathered / 1e9:,.0f} GB a chunk over fsdp (its links: "
        f"{decode.calls * decode.link_s / likely.traffic:,.0f} s likely); "
        f"{(decode.total + held) / GIB:.1f} GiB in decode: {verdict}",
    )


def _generate_more(plan: Plan) -> tuple[str, str] | None:
    """Twice the prompts in one call: weights are read half as often, caches stay what they are."""
    batch, decode = plan.config.batch, plan.phase("decode")
    size = batch.generate_prompts or batch.rollout_prompts
    if size * 2 > batch.rollout_prompts or decode.bound(plan.device.shares[0]) == "products":
        return None
    held = decode.bytes
    grown = held["temporaries"] + held.get("cache", 0) + held["results"] + held.get("rows", 0)
    longest = BACKENDS[plan.device.backend].decode_chunk
    chunk = chunk_tokens(plan.config.decode_chunk, plan.config.max_tokens, longest)
    weights = decode.program.arguments["parameters"] * chunk
    share = min(1.0, weights / max(1.0, decode.program.work.bytes))
    verdict = "fits" if decode.total + grown <= plan.device.usable_bytes else "does not fit"
    return (
        f"`--config.batch.generate_prompts={size * 2}`",
        f"of decode's memory traffic {share:.0%} is weights, then read half as often; "
        f"{(decode.total + grown) / GIB:.1f} GiB in decode: {verdict}",
    )


def _look(plan: Plan) -> tuple[str, str] | None:
    config = plan.config
    if not config.shaping.entropy_weight or config.batch.microbatches == 1:
        return None
    if config.objective.looks:  # the pass is made for the loss as well
        return None
    passes = {"none": 3, "products": 3.3, "full": 4}[config.model.remat]
    return (
        "`--config.shaping.entropy_weight=0`",
        f"update saves the forward pass that finds each task's entropy before the gradient: about "
        f"{1 / (passes + 1):.0%} of its products",
    )


def _remat(plan: Plan) -> tuple[str, str] | None:
    if plan.config.model.remat != "full":
        return None
    return (
        "`--config.model.remat=products`",
        "layers' products are not computed again: about a quarter of update's products less, for "
        "more memory (plan it)",
    )
