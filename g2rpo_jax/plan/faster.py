"""What would make a step faster, from exact counts; none of it is compiled."""

from g2rpo_jax.plan.cost import Plan

GIB = 2**30


def options(plan: Plan) -> list[tuple[str, str]]:
    """(change, what it gives) for a plan, in words with numbers."""
    found = [_generate_more(plan), _look(plan), _remat(plan)]
    return [option for option in found if option]


def _generate_more(plan: Plan) -> tuple[str, str] | None:
    """Twice the prompts in one call: weights are read half as often, caches stay what they are."""
    batch, decode = plan.config.batch, plan.phase("decode")
    size = batch.generate_prompts or batch.rollout_prompts
    if size * 2 > batch.rollout_prompts or decode.bound == "products":
        return None
    held = decode.bytes
    grown = held["temporaries"] + held.get("cache", 0) + held["results"] + held.get("rows", 0)
    weights = decode.program.arguments["parameters"] * plan.config.decode_chunk
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
