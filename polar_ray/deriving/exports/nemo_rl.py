"""NeMo-RL's preference rows: ``{context, completions: [{rank: 0, completion}, {rank: 1, completion}]}``.

Exactly two completions; the lower rank is the better one.
"""

import numpy as np
import pyarrow as pa

from polar_ray.deriving.exports.rows import Columns, PairRows


def preference(rows: PairRows) -> Columns:
    """Columns of a preference dataset."""
    number = len(rows.pairs)
    both = pa.concat_arrays([rows.chosen, rows.rejected])
    # chosen 0, rejected 0, chosen 1, rejected 1, ...
    interleaved = both.take(pa.array(np.arange(2 * number).reshape(2, number).T.ravel()))
    ranks = pa.array(np.tile(np.array([0, 1], np.int32), number))
    completions = pa.StructArray.from_arrays([ranks, interleaved], names=["rank", "completion"])
    lists = pa.ListArray.from_arrays(pa.array(2 * np.arange(number + 1), pa.int32()), completions)
    return {"context": rows.prompt, "completions": lists}
