"""Evaluation: held-out rows inside training (`evaluate`), and benchmarks (`run.run`)."""

from g2rpo_jax.evaluate.tasks import TaskScore, evaluate, mean_accuracy, score_together

__all__ = ["TaskScore", "evaluate", "mean_accuracy", "score_together"]
