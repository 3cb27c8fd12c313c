import pyarrow as pa

from polar_ray.data.arrays import groups_table
from polar_ray.data.explode import explode
from polar_ray.data.rows import CandidateRow, GroupRow

GROUPS = groups_table(
    [
        GroupRow(
            prompt_id=name,
            prompt=[("user", "q1"), ("assistant", "a1")],
            references=[[("assistant", "gold")], [("assistant", "silver")]],
            candidates=[CandidateRow(f"{name}{i}", [("assistant", f"text {i}")], "m", '{"i":1}') for i in range(size)],
            extra=None,
        )
        for name, size in (("a", 2), ("b", 2))
    ]
)


def test_each_candidate_has_a_row_with_its_scores() -> None:
    table = GROUPS.append_column("reward", pa.array([[0.5, None], [1.0, 2.0]], pa.list_(pa.float32())))
    table = table.append_column("status_x", pa.array([["ok", "error"], ["ok", "ok"]]))
    table = table.append_column("input_row", pa.array([7, 9]))
    rows = explode(table)
    assert rows.column_names == [
        "prompt_id",
        "prompt",
        "references",
        "candidate_id",
        "messages",
        "model",
        "candidate_extra",
        "extra",
        "reward",
        "status_x",
        "input_row",
    ]
    assert rows["prompt_id"].to_pylist() == ["a", "a", "b", "b"]
    assert rows["candidate_id"].to_pylist() == ["a0", "a1", "b0", "b1"]
    assert rows["reward"].to_pylist() == [0.5, None, 1.0, 2.0]
    assert rows["status_x"].to_pylist() == ["ok", "error", "ok", "ok"]
    assert rows["input_row"].to_pylist() == [7, 7, 9, 9]
    assert rows["messages"].to_pylist()[3] == [{"role": "assistant", "content": "text 1"}]
    assert rows["candidate_extra"].to_pylist() == ['{"i":1}'] * 4


def test_a_column_of_the_group_is_repeated_even_where_it_is_as_long_as_the_candidates() -> None:
    rows = explode(GROUPS)
    assert (
        rows["prompt"].to_pylist() == [[{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]] * 4
    )
    assert [len(references) for references in rows["references"].to_pylist()] == [2] * 4


def test_a_list_of_another_length_is_repeated() -> None:
    rows = explode(GROUPS.append_column("tags", pa.array([["x", "y"], ["z"]])))
    assert rows["tags"].to_pylist() == [["x", "y"], ["x", "y"], ["z"], ["z"]]


def test_slices_and_chunks_do_not_matter() -> None:
    table = GROUPS.append_column("reward", pa.array([[0.5, None], [1.0, 2.0]], pa.list_(pa.float32())))
    chunked = pa.concat_tables([table.slice(1), table.slice(0, 1)])
    assert explode(chunked)["reward"].to_pylist() == [1.0, 2.0, 0.5, None]
    assert explode(chunked)["candidate_id"].to_pylist() == ["b0", "b1", "a0", "a1"]


def test_an_empty_table_gives_an_empty_table() -> None:
    rows = explode(GROUPS.slice(0, 0))
    assert rows.num_rows == 0
    assert "candidate_id" in rows.column_names
