"""What a run needs and costs, worked out from its compiled programs, without weights or hardware.

`hlo` reads a compiled program; `memory`, `collectives` and `work` count in it; `flops` counts in
the traced one; `hardware` holds the numbers of machines; `cost` puts a run together; `advice` says
what to change; `report` writes it down.
"""
