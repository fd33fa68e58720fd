"""Supervised warm-up: the policy step with every advantage at one is maximum likelihood.

Makes the tiny model from nothing on the embedded tasks: first captions of the image grid, then all
tasks, drawn less once they are good enough, until the mean held-out accuracy leaves RL its room.
"""

import functools
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from g2rpo_jax import models, platform
from g2rpo_jax.config import DataConfig, SftConfig, ShapeConfig
from g2rpo_jax.data import prompts, tokenizer
from g2rpo_jax.data.batches import PromptStream
from g2rpo_jax.data.processor import Processor
from g2rpo_jax.data.rows import RowSet
from g2rpo_jax.evaluate import TaskScore, evaluate, mean_accuracy
from g2rpo_jax.models.qwen3_vl import Qwen3VL, Qwen3VLConfig, TextConfig, VisionConfig
from g2rpo_jax.objectives import ObjectiveConfig
from g2rpo_jax.parallel import mesh as meshes
from g2rpo_jax.parallel import rules
from g2rpo_jax.rewards import TASKS, Scorer
from g2rpo_jax.rollout.encoder import Encoder
from g2rpo_jax.rollout.engine import Engine
from g2rpo_jax.rollout.sampler import SamplingConfig
from g2rpo_jax.train import state
from g2rpo_jax.train.policy_step import StepBatch, StepConfig, compile_step

CAPTIONS = "captions"
# Every response weighs the same: the one letter of a choice counts as much as a whole box.
NLL = ObjectiveConfig(name="gpg", aggregation="sequence_mean")


def model_config(shape: ShapeConfig, processor: Processor) -> Qwen3VLConfig:
    """The architecture of `shape` with the vocabulary of `processor`."""
    token = processor.token_id
    third = shape.head_dim // 2 // 4
    return Qwen3VLConfig(
        text=TextConfig(
            vocab_size=processor.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            head_dim=shape.head_dim,
            max_position_embeddings=4096,
            rope_theta=10000.0,
            mrope_section=(shape.head_dim // 2 - 2 * third, third, third),
            initializer_range=shape.initializer_range,
        ),
        vision=VisionConfig(
            depth=shape.vision_layers,
            hidden_size=shape.vision_hidden_size,
            intermediate_size=shape.vision_intermediate_size,
            num_heads=shape.vision_heads,
            patch_size=shape.patch_size,
            out_hidden_size=shape.hidden_size,
            num_position_embeddings=shape.grid_side**2,
            deepstack_visual_indexes=shape.deepstack_layers,
            initializer_range=shape.initializer_range,
        ),
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


class Teacher:
    """Batches of right responses, drawn by task weights."""

    def __init__(self, config: SftConfig, processor: Processor, model_config: Qwen3VLConfig):
        self.config, self.processor, self.model_config = config, processor, model_config
        data = DataConfig(
            template="plain", prompt_tokens=(config.prompt_tokens,), patches=(config.patches,)
        )
        self.encoder = Encoder(data, processor)
        self.rng = np.random.Generator(np.random.Philox(key=config.seed))
        sources = {task: f"tasks={task}" for task in TASKS} | {CAPTIONS: "tasks=&captions=1"}
        self.streams = {
            name: PromptStream(
                RowSet(f"embedded:train?rows={config.rows}&seed={config.seed}&{query}", data),
                seed=config.seed,
            )
            for name, query in sources.items()
        }
        test = RowSet(f"embedded:test?rows={config.eval_rows}&seed=12345", data)
        examples = [test[row] for row in range(len(test))]
        self.test = [(example, self.encoder.encode(example)) for example in examples]

    def draw(self, weights: dict[str, float]) -> StepBatch:
        """One batch of [prompts, 1, max_tokens] right responses."""
        config = self.config
        P, T = config.prompts, config.max_tokens
        names = sorted(weights)
        share = np.array([weights[name] for name in names])
        picked = self.rng.choice(len(names), size=P, p=share / share.sum())
        token_P1T = np.full((P, 1, T), self.processor.pad_id, np.int32)
        mask_P1T = np.zeros((P, 1, T), bool)
        encoded = []
        for p, which in enumerate(picked):
            ((_, example),) = self.streams[names[which]].take(1)
            encoded.append(self.encoder.encode(example))
            think = self.rng.random() < config.think_share
            ids = self.processor.encode_text(prompts.response(example, think))
            ids.append(self.processor.eos_ids[0])
            if len(ids) > T:
                raise ValueError(f"{example.where}: the response has {len(ids)} tokens, over {T=}")
            token_P1T[p, 0, : len(ids)], mask_P1T[p, 0, : len(ids)] = ids, True
        zeros = np.zeros((P, 1, T), np.float32)
        return StepBatch(
            inputs=self.encoder.pack(encoded, P, self.model_config),
            response_PGT=token_P1T,
            mask_PGT=mask_P1T,
            adv_PG=np.ones((P, 1), np.float32),
            old_logp_PGT=zeros,
            on_policy_P=np.ones(P, bool),
            sampler_logp_PGT=zeros,
            ref_logp_PGT=None,
            task_P=np.zeros(P, np.int32),
        )


def task_weights(config: SftConfig, scores: dict[str, TaskScore] | None) -> dict[str, float]:
    """How often each task is drawn: less once its accuracy is above the ceiling."""
    tasks = {
        task: config.cooled if scores and scores[task].accuracy > config.ceiling else 1.0
        for task in TASKS
    }
    rest = config.caption_share / (1 - config.caption_share) * sum(tasks.values())
    return tasks | {CAPTIONS: rest}


def run(config: SftConfig) -> dict:
    """Trains from `config.model`, or from nothing, and writes the Hugging Face directory; returns
    time and accuracies."""
    started = time.perf_counter()
    directory = Path(config.directory)
    if config.model:
        if Path(config.model).resolve() == directory.resolve():
            raise ValueError(
                f"directory={config.directory} is what model goes on from: name another"
            )
        processor, model = Processor(config.model), models.load(config.model, "float32")
        shape = model.config
    else:
        tokenizer.build(str(directory))
        processor = Processor(str(directory))
        shape = model_config(config.shape, processor)
        model = Qwen3VL(shape, nnx.Rngs(config.seed))
    models.suit(model, platform.current())
    graphdef, params = nnx.split(model)
    frozen = nnx.State({})
    mesh = meshes.make(meshes.MeshConfig())
    meshes.check_rows("prompts", config.prompts, mesh)
    teacher = Teacher(config, processor, shape)
    tx = state.optimizer(config.optim, config.steps)
    make = functools.partial(state.create, tx=tx)
    places = rules.shardings(jax.eval_shape(make, params), mesh)
    train = jax.jit(make, out_shardings=places)(params)  # every array one of its own: donated
    step_config = StepConfig(
        objective=NLL,
        microbatches=config.microbatches,
    )
    update = compile_step(graphdef, tx, step_config, mesh, train, frozen, donate=True)
    greedy = Engine(
        graphdef,
        mesh,
        responses=1,
        max_tokens=config.max_tokens,
        chunk=config.max_tokens,
        sampling=SamplingConfig(temperature=0.0),
        eos=processor.eos_ids,
        pad=processor.pad_id,
    )
    scorer, scores, history = Scorer(), None, []
    look = functools.partial(
        evaluate,
        greedy,
        items=teacher.test,
        pack=lambda chosen, n: teacher.encoder.pack(chosen, n, shape),
        decode=processor.decode,
        scorer=scorer,
        prompts=min(config.eval_rows, 200),
    )
    for step in (bar := tqdm(range(1, config.steps + 1), desc="sft", dynamic_ncols=True)):
        captions_only = step <= config.caption_steps
        batch = teacher.draw({CAPTIONS: 1.0} if captions_only else task_weights(config, scores))
        train, sums = update(train, frozen, jax.device_put(batch, meshes.row_sharding(mesh)))
        if step == config.caption_steps:
            tqdm.write(f"captions: {float(sums['loss']):.3f} nats per token")
        due = step % config.eval_every == 0 or step == config.steps
        if due and not captions_only:
            jax.block_until_ready(sums)
            looked = time.perf_counter()
            scores = look(params=train.params)
            mean = mean_accuracy(scores)
            now = time.perf_counter()
            history.append({"step": step, "seconds": round(now - started, 1)})
            history[-1]["evaluation_s"] = round(now - looked, 1)
            history[-1] |= {t: round(s.accuracy, 3) for t, s in scores.items()} | {"mean": mean}
            history[-1]["nll"] = round(float(sums["loss"]), 4)
            bar.set_postfix(nll=float(sums["loss"]), accuracy=mean)
            tqdm.write(" ".join(f"{k}={v:.3g}" for k, v in history[-1].items()))
            nnx.update(model, train.params)
            models.save(model, directory, dtype="float16")
            if mean >= config.stop:
                break
    scorer.close()
    return {"steps": step, "seconds": round(time.perf_counter() - started, 1), "history": history}
