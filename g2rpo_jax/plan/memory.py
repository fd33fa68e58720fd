"""Peak of a compiled program's temporary memory, from which values are live at the same time.

XLA's own figure (`compiled.memory_analysis()`) is right for what was compiled, but programs are
compiled here for a CPU, which multiplies in float32 only: 16-bit operands are copied into 32 bits
first. A machine with 16-bit matrix units makes no such copies, so they must not be counted. Hence
this second count: values live from the instruction that makes them to their last use; those that
share memory (loop carries, updates in place) are one; a copy that only widens 16 bits counts
nothing, or 16 bits where it also moves data; a product that is narrowed by all who use it, 16.
"""

import collections
import dataclasses

from g2rpo_jax.plan.hlo import BITS, HALF, Computation, Instruction, Module

Leaf = tuple[str, str, int]  # computation, instruction, place in its flattened result

ALIASES = ("bitcast", "get-tuple-element", "tuple", "optimization-barrier", "parameter")
# Move or repeat data without changing it: 16-bit values that were widened stay 16-bit values.
MOVES = ("bitcast", "copy", "transpose", "reshape", "slice", "dynamic-slice", "broadcast")
MOVES += ("all-gather", "all-to-all", "collective-permute", "get-tuple-element")
ELEMENTWISE = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "select", "negate")
ELEMENTWISE += ("exponential", "log", "rsqrt", "sqrt", "tanh", "compare", "and", "or", "fusion")


@dataclasses.dataclass(frozen=True)
class Value:
    """Memory of a value, or of several that share it.

    Attributes:
      bytes: as a machine with 16-bit matrix units would hold it.
      where: the instruction that makes it.
      shape: of the largest array in it, as compiled.
      source: the operation of the program that asked for it.
      start, end: instants of its life.
    """

    bytes: int
    where: str
    shape: str
    source: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Peak:
    """The instant at which most memory is taken, by temporaries alone."""

    bytes: int
    values: tuple[Value, ...]  # live then, largest first


def peak(module: Module) -> Peak:
    """Peak of temporaries: no arguments, no results, no constants."""
    return _Liveness(module).peak()


class _Liveness:
    """Union-find over all leaves, then a sweep over their lives."""

    def __init__(self, module: Module):
        self.module = module
        self.parent: dict[Leaf, Leaf] = {}
        self.kept: set[Leaf] = set()  # leaves that are no temporaries
        self.made: list[tuple[Leaf, Instruction, Computation, int]] = []
        self.used: dict[Leaf, int] = {}
        self.reused: dict[Leaf, list[tuple[Leaf, int]]] = collections.defaultdict(list)
        self.clock = 0
        self._walk(module.entry)
        for parameter in module.entry.parameters:
            self.kept |= self._leaves(module.entry, parameter)
        self.kept |= self._leaves(module.entry, module.entry.by_name[module.entry.root])

    def _find(self, leaf: Leaf) -> Leaf:
        self.parent.setdefault(leaf, leaf)
        while self.parent[leaf] != leaf:
            self.parent[leaf] = self.parent[self.parent[leaf]]
            leaf = self.parent[leaf]
        return leaf

    def _join(self, a: Leaf, b: Leaf) -> None:
        self.parent[self._find(a)] = self._find(b)

    def _leaves(self, computation: Computation, i: Instruction) -> set[Leaf]:
        return {(computation.name, i.name, k) for k in range(len(i.arrays))}

    def _walk(self, computation: Computation) -> None:
        for i in computation.instructions:
            operands = [computation.by_name[name] for name in i.operands]
            for name in ("body", "condition"):
                if i.opcode == "while":
                    inner = self.module.computations[i.called(name)]
                    self._share_carry(computation, i, operands[0], inner, name == "body")
                    self._walk(inner)
            called = [i.called("to_apply")] if i.opcode == "call" else list(i.branches)
            for name in called:
                inner = self.module.computations[name]
                given = operands if i.opcode == "call" else operands[1 + called.index(name) :]
                for outer, parameter in zip(given, inner.parameters, strict=False):
                    self._share(computation, outer, inner, parameter)
                self._share(computation, i, inner, inner.by_name[inner.root])
                self._walk(inner)
            self.clock += 1
            for operand in operands:
                for leaf in self._leaves(computation, operand):
                    self.used[leaf] = self.clock
            if i.opcode in ALIASES:
                self._alias(computation, i, operands)
            elif i.opcode not in ("while", "call", "conditional", "constant", "iota"):
                self._make(computation, i, operands)

    def _share(self, a: Computation, x: Instruction, b: Computation, y: Instruction) -> None:
        for k in range(min(len(x.arrays), len(y.arrays))):
            self._join((a.name, x.name, k), (b.name, y.name, k))

    def _share_carry(self, outer, loop, start, inner, is_body: bool) -> None:
        self._share(outer, loop, outer, start)
        for parameter in inner.parameters:
            self._share(outer, loop, inner, parameter)
        if is_body:
            self._share(outer, loop, inner, inner.by_name[inner.root])

    def _alias(self, computation: Computation, i: Instruction, operands) -> None:
        if i.opcode == "get-tuple-element":
            source = operands[0]
            first = sum(source.widths[: i.index])
            pairs = [(source.name, first + k) for k in range(len(i.arrays))]
        else:
            pairs = [(o.name, k) for o in operands for k in range(len(o.arrays))]
        for k, (name, place) in enumerate(pairs):
            self._join((computation.name, i.name, k), (computation.name, name, place))

    def _make(self, computation: Computation, i: Instruction, operands) -> None:
        target = self._updated(i, operands)
        if target is not None:
            self._share(computation, i, computation, target)
            return
        if _only_widens(self.module, i, operands):
            self._share(computation, i, computation, operands[0])
            return
        for k in range(len(i.arrays)):
            leaf = (computation.name, i.name, k)
            self.made.append((leaf, i, computation, self.clock))
            if i.opcode in ELEMENTWISE:
                for operand in operands:
                    for other in self._leaves(computation, operand):
                        self.reused[leaf].append((other, self.clock))

    def _updated(self, i: Instruction, operands) -> Instruction | None:
        """The operand that an update in place writes into."""
        if i.opcode in ("dynamic-update-slice", "scatter"):
            return operands[0]
        if i.opcode != "fusion":
            return None
        inner = self.module.computations[i.called("calls")]
        root = inner.by_name[inner.root]
        while root.opcode in ("bitcast", "copy") and root.operands:
            root = inner.by_name[root.operands[0]]
        if root.opcode not in ("dynamic-update-slice", "scatter"):
            return None
        source = inner.by_name[root.operands[0]]
        while source.opcode in ("bitcast", "copy", "convert") and source.operands:
            source = inner.by_name[source.operands[0]]
        if source.opcode != "parameter":
            return None
        target = operands[int(source.literal)]
        return target if target.bytes == i.bytes else None

    def peak(self) -> Peak:
        values = self._values()
        events = sorted(
            [(v.start, 0, v.bytes) for v in values] + [(v.end, 1, -v.bytes) for v in values]
        )
        live = most = when = 0
        for instant, _, change in events:
            live += change
            if live > most:
                most, when = live, instant
        at_peak = [v for v in values if v.start <= when <= v.end]
        return Peak(most, tuple(sorted(at_peak, key=lambda v: -v.bytes)))

    def _values(self) -> list[Value]:
        kept = {self._find(leaf) for leaf in self.kept}
        ends: dict[Leaf, int] = collections.defaultdict(int)
        for leaf, instant in self.used.items():
            root = self._find(leaf)
            ends[root] = max(ends[root], instant)
        starts: dict[Leaf, int] = {}
        size: dict[Leaf, int] = collections.defaultdict(int)
        maker: dict[Leaf, Instruction] = {}
        shape: dict[Leaf, str] = {}
        narrow = _Narrow(self.module)
        for leaf, i, computation, instant in self.made:
            root = self._find(leaf)
            if root in kept:
                continue
            array = i.arrays[leaf[2]]
            counted = array.bytes
            if array.dtype == "f32" and narrow(computation, i):
                counted //= 2
            if counted > size[root] or root not in maker:
                maker[root] = i
                shape[root] = f"{array.dtype}[{','.join(map(str, array.dims))}]"
            size[root] = max(size[root], counted)
            starts[root] = min(starts.get(root, instant), instant)
            ends[root] = max(ends[root], instant)
        taken: set[Leaf] = set()
        for leaf, others in self.reused.items():
            root = self._find(leaf)
            for other, instant in others:
                old = self._find(other)
                dies = ends[old] == instant and old in starts and old != root
                if dies and old not in taken and size[old] == size[root]:
                    # An elementwise operation may write where its operand stood.
                    ends[old] = max(starts[old], ends[old] - 1)
                    taken.add(old)
                    break
        return [
            Value(size[r], maker[r].name, shape[r], _source(maker[r]), starts[r], ends[r])
            for r in starts
        ]


def _source(i: Instruction) -> str:
    _, _, rest = i.attributes.partition('op_name="')
    return rest.partition('"')[0]


def _only_widens(module: Module, i: Instruction, operands) -> bool:
    """Whether an instruction gives its one operand's very elements, 16 bits made 32."""
    if i.opcode == "convert":
        return operands[0].arrays[0].dtype in HALF and i.arrays[0].dtype == "f32"
    if i.opcode != "fusion" or len(operands) != 1 or operands[0].arrays[0].dtype not in HALF:
        return False
    inner = module.computations[i.called("calls")]
    kinds = {x.opcode for x in inner.instructions}
    return i.arrays[0].dtype == "f32" and kinds <= {"parameter", "convert", "bitcast"}


class _Narrow:
    """Whether a float32 value needs 16 bits only: it was just widened, or is always narrowed."""

    def __init__(self, module: Module):
        self.module = module
        self.known: dict[tuple[str, str], bool] = {}

    def __call__(self, computation: Computation, i: Instruction) -> bool:
        key = (computation.name, i.name)
        if key not in self.known:
            self.known[key] = False  # while it is being found out
            self.known[key] = self._widened(computation, i) or self._narrowed(computation, i)
        return self.known[key]

    def _widened(self, computation: Computation, i: Instruction) -> bool:
        if i.opcode == "fusion" and len(i.arrays) == 1:
            inner = self.module.computations[i.called("calls")]
            at = inner.by_name[inner.root]
            while at.opcode in MOVES and at.operands:
                at = inner.by_name[at.operands[0]]
            if at.opcode == "convert":
                return inner.by_name[at.operands[0]].arrays[0].dtype in HALF
            if at.opcode == "parameter":
                return self(computation, computation.by_name[i.operands[int(at.literal)]])
            return False
        if i.opcode == "convert":
            return computation.by_name[i.operands[0]].arrays[0].dtype in HALF
        if i.opcode in MOVES and i.operands and len(i.arrays) == 1:
            source = computation.by_name[i.operands[0]]
            return len(source.arrays) == 1 and self(computation, source)
        return False

    def _narrowed(self, computation: Computation, i: Instruction) -> bool:
        if i.opcode != "dot" and not (i.opcode == "fusion" and "ynn" in i.name):
            return False
        users = computation.users[i.name]
        return bool(users) and all(self._narrows(computation, i.name, u) for u in users)

    def _narrows(self, computation: Computation, name: str, user: Instruction) -> bool:
        if user.opcode == "convert":
            return user.arrays[0].dtype in HALF
        if user.opcode in ("bitcast", "copy", "transpose", "reshape"):
            users = computation.users[user.name]
            return bool(users) and all(self._narrows(computation, user.name, u) for u in users)
        if user.opcode != "fusion":
            return False
        inner = self.module.computations[user.called("calls")]
        places = [k for k, operand in enumerate(user.operands) if operand == name]
        starts = [inner.parameters[k].name for k in places]
        return all(
            bool(inner.users[p]) and all(self._narrows(inner, p, u) for u in inner.users[p])
            for p in starts
        )


def held_bytes(i: Instruction, narrow: bool) -> int:
    """Bytes of an instruction's result; float32 counts 16 bits where it is `narrow`."""
    return sum(
        a.size * (16 if narrow and a.dtype == "f32" else BITS[a.dtype]) // 8 for a in i.arrays
    )


narrow_of = _Narrow
