"""Reading JSONL: bytes are cut into splits at line ends; no line is parsed, save where a prompt could be cut in two."""

from collections.abc import Collection, Iterator

from polar_ray.data.dead_letters import BadRow
from polar_ray.data.decompress import DamagedFile, read_chunks
from polar_ray.data.lines import BLANKS_COUNT, OLD_LINE_BYTES, KeyOf, Lines
from polar_ray.data.raw_split import RawSplit
from polar_ray.data.rows import RowReader
from polar_ray.data.sources import Source, split_id
from polar_ray.data.storage import Storage
from polar_ray.data.strict_json import decode_object, encode_sorted
from polar_ray.recipe.input import Input


def read_jsonl(source: Source, config: Input, skip: Collection[str]) -> Iterator[RawSplit]:
    """Yields the splits of a JSONL file; see ``read_source``."""
    storage = Storage.of(source.file.path, config.storage_options, source.wait_s)
    key_of = prompt_key(config) if config.layout == "candidates" else None
    old = source.reading == BLANKS_COUNT
    line_bytes = max(OLD_LINE_BYTES, config.max_line_bytes) if old else config.max_line_bytes
    lines = Lines(config.split_rows, config.split_bytes, key_of, line_bytes=line_bytes, reading=source.reading)
    row = index = 0

    def split(count: int, *, last: bool, error: str | None = None) -> RawSplit | None:
        nonlocal row, index
        name = split_id(source.file_index, index)
        taken = lines.take(count, copy=name not in skip, last=last)
        start, row, index = row, row + taken.rows, index + 1
        if name in skip:
            return None
        return RawSplit(
            split_id=name,
            file=source.file.path,
            file_index=source.file_index,
            split_index=index - 1,
            row_start=start,
            rows=taken.rows,
            last=last,
            kind="jsonl",
            payload=taken.payload,
            offsets=taken.offsets,
            error=error,
            tail=lines.rest() if error is not None else b"",
            numbers=taken.numbers,
            too_long=taken.too_long,
            left_out_bytes=taken.input_bytes - len(taken.payload),
        )

    damage: str | None = None
    try:
        for chunk in read_chunks(storage, source.file.path, source.file.compression):
            lines.add(chunk)
            while (count := lines.next_split()) is not None:
                if (made := split(count, last=False)) is not None:
                    yield made
    except DamagedFile as error:
        damage = str(error)
    if damage is None:
        lines.finish()
    while (count := lines.next_split(ended=True)) is not None:
        if (made := split(count, last=False)) is not None:
            yield made
    if (made := split(lines.complete, last=True, error=damage)) is not None:
        yield made


def prompt_key(config: Input) -> KeyOf:
    """Returns a function that tells the prompt of a line: its id, else its messages; None if it is no candidate."""
    reader = RowReader(config)

    def key_of(line: bytes) -> str | None:
        try:
            row = reader.candidate(decode_object(line))
        except BadRow:
            return None
        return f"id:{row.prompt_id}" if row.prompt_id is not None else f"prompt:{encode_sorted(row.prompt)}"

    return key_of
