"""Where a loop's batches come from, and how it goes on inside an epoch, to the bit.

    source_for(loader) ─► Source ─┬─ begin(epoch)    batches, as `for batch in loader` gives them
                                  ├─ state()         the position behind the last one handed out
                                  └─ go_on(state)    the batches behind it

    contract        what a source is
    position        what all of them share: counting, generators, what may not have changed
    generators      random generators: the process's, and those that a loader has of its own
    torch_loader    `DataLoader`: its sampler goes ahead, nothing is loaded
    own_state       what has a state of its own: `StatefulDataLoader`, iterators of Grain
    plain           such a state as a tree that a store can save
    tf_dataset      `tf.data.Dataset`: its order is drawn again
    sequences       arrays, lists, ranges: by index
    iterables       all else: gone through again

No framework is imported here: whoever gives a loader of PyTorch's has imported PyTorch.
"""

from __future__ import annotations

from peakhold.run.sources.contract import Source
from peakhold.run.sources.finding import source_for

__all__ = ["Source", "source_for"]
