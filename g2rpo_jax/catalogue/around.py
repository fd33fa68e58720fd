"""Published ways to sample, select and reward, and what makes training faster."""

from g2rpo_jax.catalogue.paper import Paper, reward

FOR_SAMPLING = (
    Paper(
        "GFPO",
        "Sample More to Think Less: Group Filtered Policy Optimization",
        ("selection.name=gfpo", "selection.name=gfpo_efficiency"),
    ),
    Paper("PODS", "Not All Rollouts are Useful: Down-Sampling Rollouts", ("selection.name=pods",)),
    Paper(
        "CPPO",
        "CPPO: Accelerating the Training of GRPO-Based Reasoning Models",
        ("selection.name=cppo",),
    ),
    Paper(
        "RCS",
        "Improving Generalization in Intent Detection: GRPO with Reward-Based Curriculum Sampling",
        ("curriculum.name=unsolved",),
        "a stream that passes over prompts by what their earlier responses earned",
    ),
    Paper(
        "GRESO",
        "Act Only When It Pays: Efficient RL for LLM Reasoning via Selective Rollouts",
        ("curriculum.name=greso",),
    ),
    Paper(
        "CurES",
        "CurES: From Gradient Analysis to Efficient Curriculum Learning for Reasoning LLMs",
        ("curriculum.name=cures",),
        "a stream that draws prompts by weight and can still be resumed at an exact place",
    ),
    Paper(
        "VAS",
        "MMR1: Enhancing Multimodal Reasoning with Variance-Aware Sampling",
        ("curriculum.name=vas",),
        "a stream that draws prompts by weight and can still be resumed at an exact place",
    ),
    Paper(
        "RePO",
        "RePO: Replay-Enhanced Policy Optimization",
        tuple(
            f"replay.name={name}" for name in ("random", "recent", "highest_reward", "max_variance")
        ),
        "stored responses of a prompt when it comes again, as further members of its group",
    ),
    Paper(
        "ExGRPO",
        "ExGRPO: Learning to Reason from Experience",
        ("replay.name=middle",),
        "stored responses of a prompt when it comes again, as further members of its group",
    ),
    Paper(
        "EFRame",
        "EFRame: Deeper Reasoning via Exploration-Filter-Replay",
        ("selection.name=eframe",),
        "more and hotter responses for prompts that failed, and replay of the strongest",
    ),
    Paper(
        "Knapsack RL",
        "Knapsack RL: Unlocking Exploration of LLMs via Optimizing Budget Allocation",
        needs="a number of responses that differs from prompt to prompt",
    ),
    Paper(
        "Train Long, Think Short",
        "Train Long, Think Short: Curriculum Learning for Efficient Reasoning",
        ("shaping.length_form=budget",),
    ),
    Paper(
        "PTST",
        "Vision-R1: Incentivizing Reasoning Capability in MLLMs",
        needs="nothing of a run: its stages are runs with another `max_tokens` and `responses`,"
        " each started from the last one's exported weights",
    ),
    Paper(
        "TON",
        "Think or Not? Selective Reasoning via Reinforcement Learning for VLMs",
        needs="nothing of the RL run: its warm-up empties thoughts at random",
    ),
    Paper(
        "GHPO",
        "GHPO: Adaptive Guidance for Stable and Efficient LLM Reinforcement Learning",
        needs="reference solutions in the data, and prompts sampled again with part of one shown",
    ),
)

FOR_REWARDS = (
    Paper(
        "Length trapezoid, entropy envelope",
        "OpenVLThinkerV2, equations 9 and 10",
        ("shaping.length_weight", "shaping.entropy_weight"),
    ),
    Paper(
        "Cosine length reward",
        "Reinforcement Learning for Reasoning in Small LLMs (Open-RS)",
        ("shaping.length_form=cosine",),
    ),
    Paper(
        "CrowdVLM-R1",
        "CrowdVLM-R1: Crowd Counting using Fuzzy Group Relative Policy Reward",
        reward("counting"),
    ),
    Paper(
        "Temporal-R1",
        "Reinforcement Learning Tuning for VideoLLMs: Reward Design and Data Efficiency",
        (*reward("temporal grounding"), "tasks.NAME.format_weight=0.5"),
    ),
    Paper(
        "VideoChat-R1",
        "VideoChat-R1: Enhancing Spatio-Temporal Perception via Reinforcement Fine-Tuning",
        reward("temporal grounding", "tracking"),
    ),
    Paper(
        "VLA-R1",
        "VLA-R1: Enhancing Reasoning in Vision-Language-Action Models",
        reward("giou", "trajectory"),
    ),
    Paper(
        "Visual-RFT",
        "Visual-RFT: Visual Reinforcement Fine-Tuning",
        reward("detection", "detection precision"),
    ),
    Paper(
        "MedTVT-R1",
        "MedTVT-R1: A Multimodal LLM Empowering Medical Reasoning and Diagnosis",
        reward("label set"),
    ),
    Paper(
        "BLEUBERI",
        "BLEUBERI: BLEU is a surprisingly effective reward for instruction following",
        reward("bleu", "bleu and rouge"),
    ),
    Paper("ToolRL", "ToolRL: Reward is All Tool Learning Needs", reward("tool calls")),
    Paper(
        "UI-R1",
        "UI-R1: Enhancing Action Prediction of GUI Agents by Reinforcement Learning",
        reward("GUI action"),
    ),
    Paper(
        "GUI-R1",
        "GUI-R1: A Generalist R1-Style Vision-Language Action Model For GUI Agents",
        (*reward("strict GUI action"), "tasks.NAME.format_weight=0.2"),
    ),
    Paper(
        "Reward ensembles",
        "Reward Model Ensembles Help Mitigate Overoptimization",
        reward("worst(A, B)", "mean_less_variance(L, A, B)"),
    ),
    Paper(
        "TimeMaster",
        "TimeMaster: Training Time-Series Multimodal LLMs to Reason via Reinforcement Learning",
        ("reward.format_weight=0.1",),
    ),
    Paper(
        "Intuitor",
        "Learning to Reason without External Rewards",
        needs="self-certainty of every token, from the whole vocabulary, when it is sampled",
    ),
    Paper(
        "GRPO-CARE",
        "GRPO-CARE: Consistency-Aware Reinforcement Learning for Multimodal Reasoning",
        needs="a reference that moves with the policy, and its log-probs of the answer's tokens"
        " before advantages are taken",
    ),
)

FOR_SYSTEMS = (
    Paper(
        "Prefix Grouper",
        "Prefix Grouper: Efficient GRPO Training through Shared-Prefix Forward",
        always="every run: a prompt passes through the model once for all its responses, in"
        " sampling and in the update",
    ),
)
