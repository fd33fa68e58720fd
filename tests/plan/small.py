"""A model and a run that are small to compile and large enough to measure."""

from g2rpo_jax.config import RunConfig
from g2rpo_jax.models.qwen3_vl import Qwen3VLConfig
from g2rpo_jax.models.qwen3_vl.config import TextConfig, VisionConfig
from g2rpo_jax.parallel.mesh import MeshConfig
from g2rpo_jax.settings import BatchConfig, EvalConfig, ModelConfig
from g2rpo_jax.shaping import ShapingConfig

SHAPE = Qwen3VLConfig(
    text=TextConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        mrope_section=(8, 4, 4),
    ),
    vision=VisionConfig(
        depth=2,
        hidden_size=64,
        intermediate_size=128,
        num_heads=4,
        patch_size=8,
        out_hidden_size=256,
        num_position_embeddings=64,
        deepstack_visual_indexes=(0,),
    ),
    tie_word_embeddings=True,
)
CONFIG = RunConfig(
    steps=1,
    responses=4,
    max_tokens=64,
    decode_chunk=16,
    model=ModelConfig(remat="none", logprob_chunk=64),
    batch=BatchConfig(rollout_prompts=16, prompts=4, minibatches=1, microbatches=1),
    shaping=ShapingConfig(entropy_weight=0.0),
    mesh=MeshConfig(1, 1, 1),
    eval=EvalConfig(every=0, prompts=16),
)
BUCKET = (256, 0)  # prompt tokens, patches
