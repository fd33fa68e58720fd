"""Published policy losses."""

from g2rpo_jax.catalogue.paper import Paper, adv, loss, reward

FOR_LOSSES = (
    Paper("PPO clip", "Proximal Policy Optimization Algorithms", loss("clip")),
    Paper(
        "DAPO",
        "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
        (
            "objective.clip_high=0.28",
            "objective.aggregation=token_mean",
            "filter.criterion=accuracy_spread",
            "filter.overlong=mask",
            "shaping.length_form=soft_overlong",
        ),
    ),
    Paper(
        "GPG",
        "GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning",
        (*loss("gpg"), *adv("gpg"), "filter.valid_share=0.6"),
    ),
    Paper("GSPO", "Group Sequence Policy Optimization", loss("gspo", "gspo_token")),
    Paper("CISPO", "MiniMax-M1: Scaling Test-Time Compute Efficiently", loss("cispo")),
    Paper("SAPO", "Soft Adaptive Policy Optimization", loss("sapo")),
    Paper("GMPO", "Geometric-Mean Policy Optimization", loss("gmpo")),
    Paper("Simple Policy Optimization", "Simple Policy Optimization", loss("spo")),
    Paper(
        "DCPO",
        "DCPO: Dynamic Clipping Policy Optimization",
        (*loss("dcpo"), *adv("dcpo_smooth")),
    ),
    Paper(
        "REC, RED, OPMD, AsymRE",
        "Group-Relative REINFORCE Is Secretly an Off-Policy Algorithm",
        (*loss("rec", "opmd", "opmd_squared"), *adv("asymre")),
    ),
    Paper("GVPO", "GVPO: Group Variance Policy Optimization", loss("gvpo")),
    Paper(
        "Reg-GRPO",
        "DeepVideo-R1: Video Reinforcement Fine-Tuning via Difficulty-aware Regressive GRPO",
        loss("reg_grpo"),
    ),
    Paper("lambda-GRPO", "GRPO is Secretly a Process Reward Model", loss("lambda_grpo")),
    Paper(
        "GTPO (trajectory)",
        "GTPO: Trajectory-Based Policy Optimization in Large Language Models",
        loss("gtpo"),
    ),
    Paper(
        "DisCO",
        "DisCO: Reinforcing Large Reasoning Models with Discriminative Constrained Optimization",
        loss("disco_logp", "disco_ratio"),
        "the batch's KL before the gradient, as weight of its penalty",
    ),
    Paper(
        "DRPO",
        "DRPO: Efficient Reasoning via Decoupled Reward Policy Optimization",
        loss("drpo"),
        "the batch's KL before the gradient, as weight of its penalty",
    ),
    Paper(
        "TRPA",
        "Trust Region Preference Approximation",
        loss("trpa"),
        "the level of each response (right, wrong, unparsed, badly formed) in the loss",
    ),
    Paper(
        "TIS",
        "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training",
        ("objective.importance=truncated",),
    ),
    Paper(
        "IcePop",
        "Small Leak Can Sink a Great Ship: Boost RL Training on MoE",
        ("objective.importance=masked",),
    ),
    Paper(
        "RS-GRPO",
        "VisRAG 2.0: Evidence-Guided Multi-Image Reasoning in Visual RAG",
        needs="which tokens each reward judges, and an advantage for each such span",
    ),
    Paper(
        "TW-GRPO",
        "Reinforcing Video Reasoning with Focused Thinking",
        reward("choice subset"),
    ),
    Paper(
        "TW-GRPO's token weights",
        "Reinforcing Video Reasoning with Focused Thinking",
        needs="the whole distribution at every position of a group at once",
    ),
    Paper(
        "Segment Policy Optimization",
        "Segment Policy Optimization: Effective Segment-Level Credit Assignment",
        needs="responses continued from points inside a response, and an advantage for each token",
    ),
    Paper(
        "AEPO",
        "Arbitrary Entropy Policy Optimization",
        needs="a temperature that changes from step to step, and a second sampling of a batch",
    ),
    Paper(
        "ROVER",
        "Random Policy Valuation is Enough for LLM Reasoning with Verifiable Rewards",
        needs="the mean over the vocabulary of each token's log-probs, then and now",
    ),
    Paper(
        "TRPO",
        "Trust Region Policy Optimization",
        needs="products with the Fisher matrix and a line search in place of the optimiser's step",
    ),
    Paper(
        "Scaling Up RL",
        "Scaling Up RL: Unlocking Diverse Reasoning via Prolonged Training",
        needs="a reference policy and an optimiser that are set anew during a run (likely)",
    ),
    Paper(
        "SFPO",
        "Slow-Fast Policy Optimization: Reposition-Before-Update for LLM Reasoning",
        needs="several updates on a batch and a step back between them (likely)",
    ),
    Paper(
        "GRPO-D",
        "OThink-MR1: Stimulating multimodal generalized reasoning via dynamic RL",
        needs="a KL coefficient that changes with the step (likely)",
    ),
    Paper(
        "S-GRPO (stochastic)",
        "Reinforcement Learning for LLM Reasoning Under Memory Constraints",
        needs="a random choice of each response's tokens in the update (likely)",
    ),
    Paper(
        "P3O",
        "Pairwise Proximal Policy Optimization: Harnessing Relative Feedback for LLM Alignment",
        needs="its clipping of pairs, which could not be established",
    ),
    Paper(
        "TOPR",
        "Tapered Off-Policy REINFORCE",
        loss("topr"),
    ),
    Paper(
        "Clip-Cov, KL-Cov",
        "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
        needs="a choice among all tokens of the batch before the gradient",
    ),
)
