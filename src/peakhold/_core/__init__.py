"""The pure core: no I/O, clock, threads, logging, NumPy or framework (the import linter proves it).

Values come in, decisions with reasons go out. A policy is a frozen, final dataclass; `init()` gives
its state, `step(state, …)` gives the next state and what to do. A state holds plain numbers only,
so it is its own JSON: resuming is not a feature but a consequence.
"""
