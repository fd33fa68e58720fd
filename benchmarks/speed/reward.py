"""The reward of the timed RL steps: the same few lines for every side."""


def even_words(response: str, *_: object) -> float:
    """Share of a response's words w<number> whose number is even."""
    numbers = [word[1:] for word in response.split() if word[1:].isdigit()]
    return sum(int(n) % 2 == 0 for n in numbers) / max(len(numbers), 1)
