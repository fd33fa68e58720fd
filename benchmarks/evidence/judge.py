"""What trained models reach on held-out rows: greedy accuracy per task, and pass@k where asked.

    python benchmarks/evidence/judge.py --out=judged.json FOLDER ...  [--sampled FOLDER ...]

Folders are run folders or model directories of the embedded tasks. All answer the same rows and are
scored by the built-in rewards, whatever they were trained with. Programs are compiled once; what
--out holds already is not judged again.
"""

import argparse
import functools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from g2rpo_jax import platform  # noqa: E402

platform.prepare(host_devices=2)

import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402

from g2rpo_jax import models  # noqa: E402
from g2rpo_jax.config import DataConfig  # noqa: E402
from g2rpo_jax.data.processor import Processor  # noqa: E402
from g2rpo_jax.data.rows import RowSet  # noqa: E402
from g2rpo_jax.evaluate import evaluate, mean_accuracy, policy  # noqa: E402
from g2rpo_jax.evaluate.generate import respond  # noqa: E402
from g2rpo_jax.evaluate.statistics import pass_at  # noqa: E402
from g2rpo_jax.parallel import mesh as meshes  # noqa: E402
from g2rpo_jax.parallel import rules  # noqa: E402
from g2rpo_jax.rewards import Scorer  # noqa: E402
from g2rpo_jax.rollout.encoder import Encoder  # noqa: E402
from g2rpo_jax.rollout.engine import Engine  # noqa: E402
from g2rpo_jax.rollout.sampler import SamplingConfig  # noqa: E402

ROWS, SAMPLED_ROWS = 1080, 360
TOKENS, PROMPTS, SAMPLES = 28, 180, 16
KS = (1, 2, 4, 8, 16)
RIGHT = 0.5  # a sample counts as right from this accuracy on: graded answers are never exact


class Judge:
    """Held-out rows, and the programs that answer them; models of one architecture come and go."""

    def __init__(self, model: Path):
        data = DataConfig(template="plain", prompt_tokens=(48,), patches=(64,))
        self.processor = Processor(str(model))
        self.encoder, self.scorer = Encoder(data, self.processor), Scorer()
        self.mesh = meshes.make(meshes.MeshConfig())
        test = RowSet(f"embedded:test?rows={ROWS}&seed=0", data)
        examples = [test[i] for i in range(ROWS)]
        self.items = [(example, self.encoder.encode(example)) for example in examples]
        first, _ = policy.load(model)
        models.suit(first, platform.current())
        self.graphdef = nnx.graphdef(first)
        self.config = first.config
        self.greedy = self._engine(1, 0.0)
        self.sampler = self._engine(SAMPLES, 1.0)

    def _engine(self, responses: int, temperature: float) -> Engine:
        return Engine(
            self.graphdef,
            self.mesh,
            responses=responses,
            max_tokens=TOKENS,
            chunk=TOKENS,
            sampling=SamplingConfig(temperature=temperature),
            eos=self.processor.eos_ids,
            pad=self.processor.pad_id,
        )

    def _pack(self, prompts, rows):
        return self.encoder.pack(prompts, rows, self.config)

    def parameters(self, folder: Path):
        """The parameters of a run's newest checkpoint, or of a model directory."""
        place = functools.partial(rules.sharding_of, self.mesh)
        return nnx.state(policy.load(folder, shardings=place)[0])

    def accuracy(self, params) -> dict[str, float]:
        """Greedy accuracy per task, "mean" over tasks, and "length/TASK" in tokens."""
        decode = self.processor.decode
        scores = evaluate(self.greedy, params, self.items, self._pack, decode, self.scorer, PROMPTS)
        found = {task: score.accuracy for task, score in scores.items()}
        found |= {f"length/{task}": score.length_tokens for task, score in scores.items()}
        return found | {"mean": mean_accuracy(scores)}

    def pass_at(self, params) -> dict[str, float]:
        """pass@k over all sampled rows, "1", "2", ... -> share."""
        right = []
        for start in range(0, SAMPLED_ROWS, PROMPTS):
            part = self.items[start : start + PROMPTS]
            groups = respond(
                self.sampler,
                params,
                [prompt for _, prompt in part],
                PROMPTS,
                self._pack,
                self.processor.decode,
                ids=range(start, start + len(part)),
            )
            asked = [e.item(r.text) for (e, _), its in zip(part, groups, strict=True) for r in its]
            scores = np.array([score.accuracy for score in self.scorer.score_batch(asked)])
            right += list((scores.reshape(-1, SAMPLES) >= RIGHT).sum(1))
        return {str(k): float(np.mean([pass_at(k, SAMPLES, int(c)) for c in right])) for k in KS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--sampled", type=Path, nargs="*", default=[], help="also pass@k of these")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    known = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    wanted = list(dict.fromkeys([*asked.folders, *asked.sampled]))
    judge = Judge(wanted[0] if not policy.is_run(wanted[0]) else policy.directory_of(wanted[0]))
    parts = [("greedy", wanted, judge.accuracy), ("pass", asked.sampled, judge.pass_at)]
    for part, folders, measure in parts:
        for folder in folders:
            if part in known.get(str(folder), {}):
                continue
            known.setdefault(str(folder), {})[part] = measure(judge.parameters(folder))
            asked.out.write_text(json.dumps(known, indent=1) + "\n")
            print(f"{part} {folder}: {summary(known[str(folder)][part])}", flush=True)
    judge.scorer.close()


def summary(found: dict[str, float]) -> str:
    """One line."""
    return f"{found['mean']:.3f}" if "mean" in found else f"pass@16 {found['16']:.3f}"


if __name__ == "__main__":
    main()
