"""Published methods, the lines that train by them, and what those that have none would need.

A method stands under "Not done" as long as none of its `ways` is in a table or in the
configuration; an entry that is added under one of these names moves it by itself.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Paper:
    """One published method.

    Attributes:
      name: as its authors call it.
      title: of the paper; of several that share a name, what tells them apart.
      ways: what one types after `--config.`: entries of tables, or fields.
      needs: what the loop would have to give it, where no way exists.
      always: what of it every run does, whatever is configured.
    """

    name: str
    title: str
    ways: tuple[str, ...] = ()
    needs: str = "its function alone: an entry of the table"
    always: str = ""

    def __post_init__(self):
        if not (self.ways or self.always or self.needs != Paper.needs):
            raise ValueError(f"{self.name}: say by which ways it is done, or what it needs")


def adv(*names: str) -> tuple[str, ...]:
    return tuple(f"advantage.name={name}" for name in names)


def loss(*names: str) -> tuple[str, ...]:
    return tuple(f"objective.name={name}" for name in names)


def reward(*names: str) -> tuple[str, ...]:
    return tuple(f"tasks.NAME.reward={name}" for name in names)


FOR_ESTIMATORS = (
    Paper(
        "G2RPO",
        "OpenVLThinkerV2",
        (*adv("g2rpo", "g2rpo_task", "g2rpo_release", "gaussian_gdpo"), "shaping.length_weight")
        + ("shaping.entropy_weight",),
    ),
    Paper("GRPO", "DeepSeekMath: Pushing the Limits of Mathematical Reasoning", adv("grpo")),
    Paper(
        "Dr.GRPO",
        "Understanding R1-Zero-Like Training: A Critical Perspective",
        (*adv("dr_grpo"), "objective.aggregation=fixed_length"),
    ),
    Paper("EMA-GRPO", "OneThinker", adv("ema_grpo", "ema_grpo_onethinker")),
    Paper("GDPO", "Group reward-Decoupled Normalization Policy Optimization", adv("gdpo")),
    Paper("RLOO", "Back to Basics: Revisiting REINFORCE Style Optimization", adv("rloo")),
    Paper("Lite PPO", "Tricks or Traps? A Deep Dive into RL for LLM Reasoning", adv("lite_ppo")),
    Paper(
        "REINFORCE++ with baseline",
        "REINFORCE++: A Simple and Efficient Approach for Aligning LLMs",
        adv("reinforce_pp_baseline"),
    ),
    Paper("OPO", "On-Policy RL with Optimal Reward Baseline", adv("opo")),
    Paper("Pass@k", "Best response of a group alone, as verl has it", adv("grpo_passk")),
    Paper(
        "ReMax",
        "ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method",
        needs="a greedy response beside the sampled ones of every prompt",
    ),
    Paper(
        "KRPO",
        "Kalman Filter Enhanced Group Relative Policy Optimization",
        adv("krpo"),
        "the gains of its filter, which could not be established",
    ),
    Paper("NGRPO", "NGRPO: Negative-enhanced Group Relative Policy Optimization", adv("ngrpo")),
    Paper("MAPO", "MAPO: Mixed Advantage Policy Optimization", adv("mapo")),
    Paper("BNPO", "BNPO: Beta Normalization Policy Optimization", adv("bnpo")),
    Paper("GRPO-LEAD", "GRPO-LEAD: A Difficulty-Aware RL Approach", adv("grpo_lead")),
    Paper(
        "S-GRPO, noise-aware",
        "Mitigating Think-Answer Mismatch Through Noise-Aware Advantage Reweighting",
        adv("noise_aware"),
    ),
    Paper(
        "Corrections for imperfect verifiers",
        "Reinforcement Learning with Verifiable yet Noisy Rewards under Imperfect Verifiers",
        adv("verifier_backward", "verifier_forward"),
    ),
    Paper(
        "RAFT, Reinforce-Rej",
        "A Minimalist Approach to LLM Reasoning: from Rejection Sampling to Reinforce",
        (*adv("raft", "reinforce_rej"), "filter.criterion=mean_accuracy"),
    ),
    Paper(
        "Pref-GRPO's win rate",
        "Pref-GRPO: Pairwise Preference Reward-based GRPO (for flow models; carried over)",
        adv("win_rate"),
    ),
    Paper(
        "2-GRPO",
        "It Takes Two: Your GRPO Is Secretly DPO",
        always="GRPO with `responses=2` and `advantage.ddof=0`",
    ),
    Paper("EDGE-GRPO", "EDGE-GRPO: Entropy-Driven GRPO (its scaling)", adv("edge_grpo")),
    Paper(
        "Unlikeliness reward",
        "Rewarding the Unlikely: Lifting GRPO Beyond Distribution Sharpening",
        adv("unlikeliness"),
    ),
    Paper(
        "GRPO-S",
        "GTPO and GRPO-S: Token and Sequence-Level Reward Shaping with Policy Entropy",
        adv("grpo_s"),
    ),
    Paper(
        "GTPO (policy entropy)",
        "GTPO and GRPO-S: Token and Sequence-Level Reward Shaping with Policy Entropy",
        needs="an advantage for each token: the loop carries one a response",
    ),
    Paper(
        "Single-stream SPO",
        "Single-stream Policy Optimization",
        adv("single_stream"),
    ),
    Paper(
        "RiskPO",
        "RiskPO: Risk-based Policy Optimization via Verifiable Reward",
        adv("risk_po"),
        "bundles of five prompts that stay together, and quantiles carried from step to step",
    ),
    Paper(
        "DRA-GRPO",
        "DRA-GRPO: Exploring Diversity-Aware Reward Adjustment",
        needs="an embedding of every response, by a second model",
    ),
    Paper(
        "AAPO",
        "AAPO: Enhance the Reasoning Capabilities of LLMs with Advantage Momentum",
        needs="a response of the reference model beside each response",
    ),
    Paper(
        "PVPO",
        "PVPO: Pre-Estimated Value-Based Policy Optimization for Agentic Reasoning",
        needs="rewards of the reference policy's responses to every prompt, made beforehand",
    ),
    Paper(
        "Rank-GRPO",
        "Rank-GRPO: Training LLM-based Conversational Recommender Systems",
        needs="a reward for each item of a list answer, and which tokens belong to which item",
    ),
    Paper(
        "Ada-GRPO",
        "ARM: Adaptive Reasoning Model",
        needs="a label of the reasoning format of each response, and prompts that ask for formats",
    ),
    Paper(
        "Share-GRPO",
        "R1-ShareVL: Incentivizing Reasoning Capability of MLLMs via Share-GRPO",
        needs="reworded variants of every question in the data, kept together in a step",
    ),
    Paper(
        "SEED-GRPO, COPO",
        "SEED-GRPO: Semantic Entropy Enhanced GRPO; COPO: Consistency-Aware Policy Optimization",
        needs="clusters of the answers of a group by meaning",
    ),
    Paper(
        "LENS",
        "Don't Waste Mistakes: Leveraging Negative RL-Groups via Confidence Reweighting",
        adv("lens"),
        "its difficulty bound D(q), which the paper's text leaves open",
    ),
    Paper(
        "EGSW",
        "Entropy-guided sequence weighting for efficient exploration",
        adv("egsw"),
        "its function alone, an entry of the estimators; the formula is likely",
    ),
    Paper(
        "TEMPO",
        "Exploiting Tree Structure for Credit Assignment in RL Training of LLMs",
        needs="an advantage for each token: the loop carries one a response",
    ),
)

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

PAPERS = FOR_ESTIMATORS + FOR_LOSSES + FOR_SAMPLING + FOR_REWARDS + FOR_SYSTEMS
