"""Evaluation: held-out rows inside training (`evaluate`), and benchmarks (`run.run`)."""

from g2rpo_jax.evaluate.beside import Beside, Finished
from g2rpo_jax.evaluate.tasks import TaskScore, evaluate, mean_accuracy

__all__ = ["Beside", "Finished", "TaskScore", "evaluate", "mean_accuracy"]
