"""Published advantage estimators."""

from g2rpo_jax.catalogue.paper import Paper, adv

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
    Paper("MaxRL", "Maximum Likelihood Reinforcement Learning", adv("maxrl")),
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
