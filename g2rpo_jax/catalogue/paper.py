"""One published method: the lines that train by it, or what it would need.

A method stands under "Not done" as long as none of its `ways` is in a table or in the
configuration; an entry that is added under one of these names moves it by itself.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Paper:
    """One published method.

    Attributes:
      name: as its authors call it.
      title: of the paper; of several that share a name, what tells them apart.
      ways: what one types after `--config.`: entries of tables, or fields.
      needs: what the loop would have to give it, where no way exists.
      always: what of it every run does, whatever is configured.
    """

    name: str
    title: str
    ways: tuple[str, ...] = ()
    needs: str = "its function alone: an entry of the table"
    always: str = ""

    def __post_init__(self):
        if not (self.ways or self.always or self.needs != Paper.needs):
            raise ValueError(f"{self.name}: say by which ways it is done, or what it needs")


def adv(*names: str) -> tuple[str, ...]:
    return tuple(f"advantage.name={name}" for name in names)


def loss(*names: str) -> tuple[str, ...]:
    return tuple(f"objective.name={name}" for name in names)


def reward(*names: str) -> tuple[str, ...]:
    return tuple(f"tasks.NAME.reward={name}" for name in names)
