"""`python -m g2rpo_jax.data.embedded OUT.png` draws the contact sheet of docs/tasks.md."""

import sys

from g2rpo_jax.data.embedded.sheet import contact_sheet

if len(sys.argv) != 2:
    sys.exit("usage: python -m g2rpo_jax.data.embedded OUT.png")
contact_sheet(sys.argv[1])
