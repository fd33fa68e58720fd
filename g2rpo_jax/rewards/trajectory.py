"""Accuracy of paths in the image: distance of two lists of points in their order."""

import math
from collections.abc import Sequence

from g2rpo_jax.rewards import parse
from g2rpo_jax.rewards.parse import Unscorable

MAX_POINTS = 64  # 4,096 pairs of points take 10 ms
IMAGE = 1000.0  # coordinates are thousandths of the image
TURN, STEP = 0.25, 0.1  # weights of a difference in direction (radians) and in log length
MAX_LOG_RATIO = math.log(10.0)
LARGEST = math.sqrt(2.0) + TURN * math.pi + STEP * MAX_LOG_RATIO

Point = Sequence[float]


def trajectory(answer: str, truth: str, data_type: str = "image") -> float:
    """One less the distance of two paths `{"points": [[x, y], ..]}`, with regard to direction.

        R = 1 - F / (sqrt 2 + 0.25 pi + 0.1 log 10),  F: discrete Frechet distance under
        cost(i, j) = |p_i - q_j| / 1000 + 0.25 angle(i, j) + 0.1 min(|log(l_i / l_j)|, log 10)

    The angle is that between the two directions at the points, l the length of the step from a
    point (to the last one, for the last). Where a step has no length, angle and log ratio are 0 if
    both have none; else the log ratio is log 10.
    Raises:
      Unscorable: no_path; too_long: more than MAX_POINTS; bad_truth.
    Source: VLA-R1, "Enhancing Reasoning in Vision-Language-Action Models" (2025); its code caps
    the whole at 1, here every log ratio is capped as its divisor has it.
    """
    right = parse.of_the_row(path, truth)
    said = path(answer)
    if said == right:
        return 1.0  # angles of equal directions are 0 up to rounding alone
    return max(0.0, 1.0 - distance(said, right) / LARGEST)


def trajectory_structure(answer: str, truth: str, data_type: str = "image") -> float:
    """0.5 if the answer is a JSON object with points in the image under `points`, else 0."""
    return parse.shaped(lambda: path(answer))


def path(text: str) -> list[list[float]]:
    """The points under `points`, inside the image.

    Raises:
      Unscorable: no_json; no_path; too_long.
    """
    points = parse.json_object(text).get("points")
    if not isinstance(points, list) or not points:
        raise Unscorable("no_path")
    if len(points) > MAX_POINTS:
        raise Unscorable("too_long")
    found = [parse.numbers(point, 2, "no_path") for point in points]
    if not all(0.0 <= x <= IMAGE for point in found for x in point):
        raise Unscorable("no_path")
    return found


def distance(a: Sequence[Point], b: Sequence[Point]) -> float:
    """Discrete Frechet distance: the least that the largest cost can be, both walked in order."""
    ways_a, ways_b = _ways(a), _ways(b)
    above: list[float] = []
    for i, p in enumerate(a):
        row: list[float] = []
        for j, q in enumerate(b):
            before = above[max(0, j - 1) : j + 1] + row[-1:]
            here = math.dist(p, q) / IMAGE + _difference(ways_a[i], ways_b[j])
            row.append(max(here, min(before)) if before else here)
        above = row
    return above[-1]


def _ways(points: Sequence[Point]) -> list[tuple[float, float, float]]:
    """(x, y, length) at each point: the unit direction of the path (0, 0 if it has none), and the
    length of the step."""
    steps = [(q[0] - p[0], q[1] - p[1]) for p, q in zip(points, points[1:], strict=False)]
    units = [_unit(step) for step in steps]
    ways = []
    for i in range(len(points)):
        near = units[max(0, i - 1) : i + 1]
        x, y = sum(u[0] for u in near), sum(u[1] for u in near)
        # Straight back again: the direction of arrival.
        unit = _unit((x, y)) if math.hypot(x, y) > 1e-9 else (near[0] if near else (0.0, 0.0))
        step = steps[min(i, len(steps) - 1)] if steps else (0.0, 0.0)
        ways.append((*unit, math.hypot(*step)))
    return ways


def _unit(way: Point) -> tuple[float, float]:
    length = math.hypot(*way)
    return (way[0] / length, way[1] / length) if length else (0.0, 0.0)


def _difference(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    """What two directions and lengths of step add to the cost."""
    turn = 0.0
    if any(a[:2]) and any(b[:2]):
        turn = math.acos(max(-1.0, min(1.0, a[0] * b[0] + a[1] * b[1])))
    ratio = 0.0 if a[2] == b[2] else MAX_LOG_RATIO
    if a[2] and b[2]:
        ratio = min(abs(math.log(a[2] / b[2])), MAX_LOG_RATIO)
    return TURN * turn + STEP * ratio
