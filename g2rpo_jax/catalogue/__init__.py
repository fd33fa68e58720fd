"""What can be selected by one config line, read from the tables: `docs/methods.md`.

    python -m g2rpo_jax.catalogue            writes docs/methods.md
    python -m g2rpo_jax.catalogue --check    exits with 1 if it would write something else

A row comes from the docstring of the table's function: its first sentence, its indented equation,
and the lines that begin with `Cost:` and `Source:`. An entry without equation or source is an
error. `estimators.py`, `losses.py` and `around.py` have the published methods that entries stand
for, and what the others would need.
"""
