"""A contact sheet of the embedded tasks: two pictures of each with question and answer."""

import textwrap

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from g2rpo_jax.data import embedded

SAMPLES = 2
ACROSS = 4  # pictures side by side


def contact_sheet(path: str, split: str = "test", seed: int = 0) -> None:
    """Write a PNG with two rows of every embedded task, questions above and answers below.

    Args:
      path: of the PNG.
      split: "train" or "test".
      seed: another seed gives other scenes.
    """
    tasks = list(embedded.TASKS)
    raws = embedded.rows(split, SAMPLES * len(tasks), seed, tasks)
    raws.sort(key=lambda raw: tasks.index(raw["task_type"]))  # stable: samples keep their order
    down = -(-len(raws) // ACROSS)
    figure = Figure(figsize=(2.6 * ACROSS, 3.9 * down), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, raw in zip(figure.subplots(down, ACROSS).flat, raws, strict=True):
        axes.imshow(raw["images"][0], interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        question = [raw["task_type"], *textwrap.wrap(raw["problem_reserved_text"], 30)]
        question.append("   ".join(raw["options"]))
        answer = raw["answer"].removeprefix("<answer>").removesuffix("</answer>")
        axes.set_title("\n".join(question), fontsize=9)
        axes.set_xlabel(f"{answer}\n({raw['problem_type']})", fontsize=9)
    figure.savefig(path, dpi=80)
