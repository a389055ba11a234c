"""A run of a loop that somebody wrote: one folder, and the same bits after any kill.

`means.py` puts together what its batches log; `batch_size.py` says how much each of them counts.
"""
