"""What is trained for docs/evidence.md: five sweeps for launch/sweep.py, on the shipped tiny model.

One budget for all: 60 steps that sample 224 responses and train on 128 of them.
"""

CONFIG = "configs/onethinker.py:tiny"
SEEDS = (0, 1, 2, 3, 4)
BUDGET = {
    "steps": 60,
    "host_devices": 1,
    "batch.rollout_prompts": 28,
    "batch.prompts": 16,
    "shaping.entropy_weight": 0.0,
    "eval.every": 60,
    "eval.rows": 20,  # what is reached is judged on other rows, by judge.py
    "eval.final_count": 1,
    "checkpoint.every": 0,
    "checkpoint.keep_best": 0,
    "log.tensorboard": False,
}
# Response tokens per task, (minimum, low, high, maximum): short where the cold start's thinking is
# filler (reading), room for a line of thought elsewhere. Set by hand, once, before any run.
LENGTHS = {
    "tasks.ocr.length": [0, 2, 10, 20],
    "tasks.spatial_grounding.length": [4, 12, 24, 28],
    "tasks.math_reasoning.length": [4, 8, 20, 28],
    "tasks.chart_figure_qa.length": [4, 8, 20, 28],
    "tasks.general_vqa_science_stem.length": [4, 8, 20, 28],
    "tasks.spatial_reasoning.length": [4, 8, 20, 28],
}
LENGTH, ENTROPY = {"shaping.length_weight": 0.1}, {"shaping.entropy_weight": 0.05}
DR_GRPO = {
    "advantage.name": "dr_grpo",
    "objective.aggregation": "fixed_length",
    "objective.fixed_length": 12,
}
DAPO = {
    "advantage.name": "grpo",
    "objective.aggregation": "token_mean",
    "objective.clip_high": 0.28,
    "filter.criterion": "accuracy_spread",
}
# Custom rewards may be tiny: whatever differs within a group trains.
SPREAD = {"filter.criterion": "accuracy_spread"}
RIVALS = {
    "g2rpo": {"advantage.name": "g2rpo"},
    "grpo": {"advantage.name": "grpo"},
    "dr_grpo": DR_GRPO,
    "ema_grpo": {"advantage.name": "ema_grpo"},
}


def _sweep(common: dict, arms: dict, baseline: str | None, seeds=SEEDS) -> dict:
    parts = {"config": CONFIG, "set": BUDGET | common, "arms": arms, "seeds": list(seeds)}
    return parts | ({"baseline": baseline} if baseline else {})


SWEEPS = {
    # Rewards as the tasks give them: the paper's Table 4, and the estimators it is compared with.
    "as_scored": _sweep(
        LENGTHS,
        {
            "g2rpo": {"advantage.name": "g2rpo"},
            "g2rpo+entropy": ENTROPY,
            "g2rpo+length": LENGTH,
            "g2rpo+both": LENGTH | ENTROPY,
            "g2rpo+both_auto": LENGTH
            | ENTROPY
            | {"shaping.length": "auto", "shaping.entropy": "auto"},
            "g2rpo_release": {
                "advantage.name": "g2rpo_release",
                "objective.aggregation": "token_mean",
            },
            "grpo": {"advantage.name": "grpo"},
            "dr_grpo": DR_GRPO,
            "ema_grpo": {"advantage.name": "ema_grpo"},
            "gdpo": {"advantage.name": "gdpo"},
            "gpg": {
                "advantage.name": "gpg",
                "objective.name": "gpg",
                "objective.aggregation": "token_mean",
            },
            "dapo": DAPO,
        },
        "grpo",
    ),
    # Unlike scales and heavy tails, two updates of each rollout batch; the ledger along the way.
    "unlike": _sweep(
        SPREAD
        | {
            "batch.minibatches": 2,
            "reward.custom": "benchmarks.evidence.rewards:unlike",
            "log.ledger_every": 10,
        },
        RIVALS,
        "grpo",
    ),
    # One mark of five is wrong; four updates of each rollout batch.
    "noisy": _sweep(
        SPREAD | {"batch.minibatches": 4, "reward.custom": "benchmarks.evidence.rewards:noisy"},
        {name: RIVALS[name] for name in ("g2rpo", "grpo")},
        "grpo",
    ),
    # As many responses a step, in smaller and larger groups; 8 is g2rpo of as_scored.
    "groups": _sweep(
        LENGTHS,
        {
            f"G={G}": {
                "responses": G,
                "batch.rollout_prompts": 224 // G,
                "batch.prompts": 128 // G,
            }
            for G in (2, 4, 16)
        },
        None,
    ),
    # 600 rows with their answers, over and over: what supervised.py has as well.
    "answers": _sweep(
        {"data.train": "embedded:train?rows=600&seed=5"},
        {"g2rpo": {"advantage.name": "g2rpo"}},
        None,
    ),
}
