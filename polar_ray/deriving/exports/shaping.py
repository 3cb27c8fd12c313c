"""From rows to the columns of each format: the one table of what is exported how."""

import pyarrow as pa

from polar_ray.deriving.exports import axolotl, llama_factory, nemo_rl, openrlhf, polar, trl, verl
from polar_ray.deriving.exports.rows import Columns, PairRows, PickRows, joined
from polar_ray.recipe.exports import (
    Axolotl,
    Classifier,
    Export,
    Ids,
    LlamaFactory,
    NemoRL,
    OpenRLHF,
    Polar,
    TrlPreference,
    TrlSft,
    TrlUnpaired,
    Verl,
)


def shape_pairs(rows: PairRows, export: Export, *, provenance: bool) -> pa.Table:
    """Returns pairs in a format, one row per pair."""
    columns: Columns
    match export:
        case Ids():
            return pa.table({**rows.provenance(), "margin": rows.margin})
        case TrlPreference():
            columns = trl.preference(rows, export)
        case Polar():
            columns = polar.preference(rows)
        case OpenRLHF():
            columns = openrlhf.preference(rows, export)
        case LlamaFactory():
            columns = llama_factory.preference(rows)
        case NemoRL():
            columns = nemo_rl.preference(rows)
        case Verl():
            columns = verl.preference(rows)
        case Axolotl():
            columns = axolotl.preference(rows)
        case _:
            raise AssertionError(export)
    return pa.table({**columns, **(rows.provenance() if provenance else {})})


def shape_picks(rows: PickRows, export: Export, *, provenance: bool) -> pa.Table:
    """Returns selected or labelled candidates in a format, one row per candidate."""
    columns: Columns
    match export:
        case Ids():
            return pa.table(rows.provenance())
        case TrlUnpaired():
            columns = trl.unpaired(rows, export)
        case TrlSft():
            columns = trl.sft(rows, export)
        case Classifier():
            columns = {"messages": joined(rows.prompt, rows.completion), "label": rows.label}
        case OpenRLHF():
            columns = openrlhf.sft(rows)
        case LlamaFactory():
            columns = llama_factory.sft(rows) if rows.picks.label is None else llama_factory.kto(rows)
        case Verl():
            columns = verl.sft(rows)
        case Axolotl():
            columns = axolotl.sft(rows)
        case _:
            raise AssertionError(export)
    return pa.table({**columns, **(rows.provenance() if provenance else {})})
