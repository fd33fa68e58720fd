"""Trainium without a Trainium: what its compiler would refuse, found in lowered programs.

table.py        what is allowed, row by row: why, what to write instead, who says so
checks.py       the conditions of the rows
walk.py         a StableHLO module, its source lines, and bounds of its integers
lint.py         lowers a program and holds it against the table
allowed.py      what cannot be avoided, with reasons
partitioned.py  a second look, after XLA has divided a program over a mesh
programs.py     the programs of a configuration
parity.py       at start-up: does the device compute what the CPU computes?
"""
