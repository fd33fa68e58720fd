"""Floating-point operations of a traced program, exactly: products, of all devices together.

The gradient's trace holds what `jax.checkpoint` computes again, and loops have their lengths, so
nothing is estimated. Elementwise work (norms, softmax, the optimiser) is left out: no machine's
peak is about it.
"""

import math
from collections import Counter

from jax.extend.core import ClosedJaxpr, Jaxpr


def product_flops(jaxpr: ClosedJaxpr) -> Counter[str]:
    """Two for each multiply-add of every product, by the operands' type ("float32", ...).

    Args:
      jaxpr: e.g. `jitted.trace(*args).jaxpr`.
    Raises:
      ValueError: a loop whose end depends on data: its length is unknown.
    """
    return _count(jaxpr.jaxpr)


def _count(jaxpr) -> Counter[str]:
    total: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            total[str(equation.invars[0].aval.dtype)] += _dot(equation)
        elif name == "conv_general_dilated":
            raise ValueError("a convolution: write it as a product (docs/plan.md)")
        elif name == "while":
            inside = sum((_count(j) for j in _inner(params)), Counter())
            if inside:
                raise ValueError("a loop whose end depends on data holds products")
        elif name == "cond":
            branches = [_count(branch.jaxpr) for branch in params["branches"]]
            total += max(branches, key=lambda b: b.total())
        else:
            times = params["length"] if name == "scan" else 1
            for inner in _inner(params):
                for kind, flops in _count(inner).items():
                    total[kind] += times * flops
    return total


def _inner(params):
    """Jaxprs among an equation's parameters. A custom rule's own functions are no jaxprs yet."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part


def _dot(equation) -> int:
    left = equation.invars[0].aval.shape
    (contracted, _), _ = equation.params["dimension_numbers"]
    length = math.prod(left[d] for d in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * length
