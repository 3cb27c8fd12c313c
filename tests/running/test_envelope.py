"""An envelope carries a split through Ray as one row, and gives back what was put in."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.running.envelope import Envelope, Header

HEADER = Header(
    split_id="00001-00002", file="s3://bucket/ü.jsonl", file_index=1, split_index=2, last=True, rows=7, input_bytes=99
)
TABLE = pa.table({"ids": pa.array([[1, 2], None, []], pa.list_(pa.int32())), "text": ["a", "é", None]})


def there_and_back(*envelopes: Envelope) -> list[Envelope]:
    return list(Envelope.of_block(pa.concat_tables([envelope.to_block() for envelope in envelopes])))


def test_a_header_comes_back_whole() -> None:
    header = Header("0", "f", 0, 0, False, 3, 4, 2, {"blank_line": 1}, {"read": 0.25})
    assert [envelope.header for envelope in there_and_back(Envelope(HEADER), Envelope(header))] == [HEADER, header]


@given(st.dictionaries(st.text(min_size=1, max_size=5).filter(lambda name: name != "header"), st.binary(), max_size=4))
def test_bytes_come_back_as_they_were(parts: dict[str, bytes]) -> None:
    envelope = Envelope(HEADER)
    for name, data in parts.items():
        envelope = envelope.with_bytes(name, data)
    (back,) = there_and_back(envelope)
    assert {name: part.to_pybytes() for name, part in back.parts.items()} == parts


@pytest.mark.parametrize("table", [TABLE, TABLE.slice(1, 1), TABLE.slice(0, 0), pa.concat_tables([TABLE, TABLE])])
def test_a_table_comes_back_as_it_was(table: pa.Table) -> None:
    (back,) = there_and_back(Envelope(HEADER).with_table("groups", table))
    assert back.table("groups").equals(table)
    assert back.table("groups").schema == table.schema


def test_splits_with_different_parts_can_lie_in_one_block() -> None:
    first, second = Envelope(HEADER).with_bytes("raw", b"1"), Envelope(HEADER).with_table("groups", TABLE)
    blocks = [first.to_block(), second.to_block()]
    block = pa.concat_tables(blocks, promote_options="default")
    assert [set(envelope.parts) for envelope in Envelope.of_block(block)] == [{"raw"}, {"groups"}]


def test_a_table_is_read_without_copying_it() -> None:
    envelope = Envelope(HEADER).with_table("groups", TABLE)
    part = envelope.parts["groups"]
    (values,) = envelope.table("groups").column("text").chunks
    address = values.buffers()[2].address
    assert part.address <= address < part.address + part.size


def test_a_part_of_more_than_two_gigabytes_has_64_bit_offsets() -> None:
    block = Envelope(HEADER).with_bytes("raw", b"x").to_block()
    assert block.schema.field("raw").type == pa.large_binary()


def test_changes_make_a_new_envelope_and_leave_the_old_one() -> None:
    envelope = Envelope(HEADER).with_bytes("raw", b"1").with_bytes("more", b"2")
    changed = envelope.with_header(rows=8).without("raw").timed("read", 1 / 3).timed("parse", 2.0)
    assert set(changed.parts) == {"more"}
    assert changed.header.rows == 8
    assert changed.header.seconds == {"read": 0.333333, "parse": 2.0}
    assert envelope.header == HEADER
    assert set(envelope.parts) == {"raw", "more"}
