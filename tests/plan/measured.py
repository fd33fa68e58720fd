"""Runs one program of a run on one CPU device and prints its peak of resident memory.

    python -m tests.plan.measured update '{"batch.microbatches": 2}'

Its own process, as the peak must be its own: after compiling, freed memory goes back to the system
(malloc_trim), the kernel's high-water mark is reset, arguments are made and the program is called
once. Prints JSON: "measured" bytes over the process before the arguments, and the plan's "planned".
"""

import ctypes
import functools
import json
import os
import sys

# Large blocks by mmap, which returns them at once; few arenas: what is resident is in use.
MALLOC = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "1048576",
    "MALLOC_TRIM_THRESHOLD_": "0",
}


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) * 1024


def main(name: str, fields: dict) -> None:
    """See above."""
    import jax
    import jax.numpy as jnp

    from g2rpo_jax.parallel import mesh as meshes
    from g2rpo_jax.plan import advice, program
    from g2rpo_jax.platform import BACKENDS
    from g2rpo_jax.train.programs import abstract
    from tests.plan.small import BUCKET, CONFIG, SHAPE

    config = advice.with_fields(CONFIG, fields)
    mesh = meshes.make(config.mesh)
    made = abstract(config, SHAPE, mesh, BACKENDS["cpu"])
    call = {c.name: c for c in made.calls(*BUCKET)}[name]
    traced = call.trace()
    run = traced.lower().compile(program.CHEAP)
    planned = program.account(call, traced, run, mesh, 0.0)
    # Ones: pages of zeros need not be there.
    ones = functools.partial(jax.tree.map, lambda x: jnp.ones(x.shape, x.dtype), call.args)
    fill = jax.jit(ones).lower().compile()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    base = resident("VmRSS")
    args = fill()
    jax.block_until_ready(args)
    with open("/proc/self/clear_refs", "w") as mark:
        mark.write("5")
    jax.block_until_ready(run(*args))
    measured = resident("VmHWM") - base
    print(
        json.dumps(
            {
                "measured": measured,
                "planned": planned.bytes,
                "xla": planned.xla_temporaries,
                "arguments": planned.arguments,
                "temporaries": planned.temporaries,
            }
        )
    )


if __name__ == "__main__":
    if any(key not in os.environ for key in MALLOC):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | MALLOC)
    main(sys.argv[1], json.loads(sys.argv[2]))
