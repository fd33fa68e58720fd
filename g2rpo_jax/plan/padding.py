"""How much of a bucket is padding: from a data set's own prompts, where they can be read."""

import dataclasses

from g2rpo_jax.config import RunConfig
from g2rpo_jax.data.encoding import patches
from g2rpo_jax.data.processor import Processor
from g2rpo_jax.data.rows import BadRow, RowSet
from g2rpo_jax.plan.cost import Bucket
from g2rpo_jax.rollout.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class Padding:
    """Of some rows of a data set, spread evenly over it.

    Attributes:
      rows: encoded; of `total` in the data set.
      tokens, patches: means of a prompt.
      buckets: how many of the rows each bucket is the smallest for.
      token_share, patch_share: padding in those buckets, a row at a time: a batch takes the bucket
        of its largest row and pads more.
    """

    rows: int
    total: int
    tokens: float
    patches: float
    buckets: dict[Bucket, int]
    token_share: float
    patch_share: float


def measure(config: RunConfig, rows: int = 64) -> Padding:
    """Encodes rows of `data.train` as training would.

    Raises:
      ValueError: no data, or no tokenizer and processor files, are where the config says.
    """
    processor = Processor(config.model.directory, **config.data.media_options)
    encoder = Encoder(config.data, processor)
    source = RowSet(config.data.train, config.data, tuple(config.tasks))
    step = max(1, len(source.usable) // rows)
    sizes = []
    for row in source.usable[::step][:rows]:
        try:
            prompt = encoder.encode(source[int(row)])
        except BadRow:
            continue
        sizes.append((len(prompt.input_ids), patches(prompt)))
    if not sizes:
        raise ValueError(f"data.train={config.data.train}: none of {rows} rows could be used")
    found: dict[Bucket, int] = {}
    for tokens, count in sizes:
        bucket = Bucket(
            _least(config.data.prompt_tokens, tokens), _least(config.data.patches, count)
        )
        found[bucket] = found.get(bucket, 0) + 1
    slots = sum(b.tokens * n for b, n in found.items())
    patch_slots = sum(b.patches * n for b, n in found.items())
    tokens, counted = (sum(column) for column in zip(*sizes, strict=True))
    return Padding(
        rows=len(sizes),
        total=len(source),
        tokens=tokens / len(sizes),
        patches=counted / len(sizes),
        buckets=found,
        token_share=1 - tokens / slots,
        patch_share=1 - counted / patch_slots if patch_slots else 0.0,
    )


def _least(sizes: tuple[int, ...], needed: int) -> int:
    return next(size for size in sizes if size >= needed)
