import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from processes import as_nobody

from polar_ray.data.glob import compile_glob
from polar_ray.data.listing import list_input
from polar_ray.data.storage import Storage
from polar_ray.errors import InputError, NoFiles, NoFolder, StorageDenied, StorageError
from polar_ray.recipe.input import Input
from polar_ray.recipe.overrides import apply_overrides

if TYPE_CHECKING:
    from s3_server import Bucket


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(folder: Path | str, config: Input) -> list[str]:
    return [file.path.removeprefix(f"{folder}/") for file in list_input(config)]


def test_a_folder_stands_for_the_data_files_below_it(tmp_path: Path) -> None:
    touch(tmp_path, "b.jsonl", "a/c.parquet", "_SUCCESS", ".hidden.jsonl", "_temporary/x.jsonl", "a/.tmp-1")
    assert names(tmp_path, Input(path=str(tmp_path))) == ["a/c.parquet", "b.jsonl"]


def test_the_name_tells_format_and_compression(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet", "b.jsonl", "c.json", "d.jsonl.gz", "e.json.zst")
    listed = [(file.format, file.compression) for file in list_input(Input(path=str(tmp_path)))]
    assert listed == [
        ("parquet", None),
        ("jsonl", None),
        ("jsonl", None),
        ("jsonl", "gzip"),
        ("jsonl", "zstd"),
    ]


def test_a_list_of_paths_is_sorted_and_has_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "b.jsonl", "a.jsonl")
    paths = [str(tmp_path / "b.jsonl"), f"{tmp_path}/*.jsonl", str(tmp_path)]
    assert names(tmp_path, Input(path=paths)) == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "b.jsonl", "x/c.jsonl", "x/y/d.jsonl"]),
        ("x/**", ["x/c.jsonl", "x/y/d.jsonl"]),
        ("*/?.jsonl", ["x/c.jsonl"]),
        ("[!a].jsonl", ["b.jsonl"]),
        ("[a-b].jsonl", ["a.jsonl", "b.jsonl"]),
    ],
)
def test_globs(tmp_path: Path, pattern: str, matches: list[str]) -> None:
    touch(tmp_path, "a.jsonl", "b.jsonl", "x/c.jsonl", "x/y/d.jsonl", "x/_skip/e.jsonl")
    assert names(tmp_path, Input(path=f"{tmp_path}/{pattern}")) == matches


def test_a_name_with_brackets_is_found_as_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "run[1].jsonl")
    assert names(tmp_path, Input(path=f"{tmp_path}/run[1].jsonl")) == ["run[1].jsonl"]


def test_what_is_named_in_full_is_read_whatever_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "_x/_a.jsonl")
    assert names(tmp_path, Input(path=f"{tmp_path}/_x/_a.jsonl")) == ["_x/_a.jsonl"]
    assert names(tmp_path, Input(path=f"{tmp_path}/_x/_?.jsonl")) == ["_x/_a.jsonl"]


def test_a_wildcard_does_not_cross_folders() -> None:
    assert compile_glob("a/*").matches("a/b")
    assert not compile_glob("a/*").matches("a/b/c")
    assert compile_glob("a.b").matches("a.b")
    assert not compile_glob("a.b").matches("axb")


@pytest.mark.parametrize(
    ("path", "kind"),
    [("none", NoFolder), ("none/*.jsonl", NoFolder), ("data/*.parquet", NoFiles), ("data/*/*.jsonl", NoFiles)],
)
def test_a_path_that_matches_nothing_is_an_error_that_says_what_was_looked_for(
    tmp_path: Path, path: str, kind: type[InputError]
) -> None:
    touch(tmp_path, "data/a.jsonl")
    with pytest.raises(kind, match="No files") as error:
        list_input(Input(path=[f"{tmp_path}/data", f"{tmp_path}/{path}"]))
    assert f"{tmp_path}/{path}" in str(error.value)
    assert (f"there is no {tmp_path}/none." in str(error.value)) == (kind is NoFolder)


def test_in_an_object_store_there_is_no_folder_before_a_file_is_in_it(s3: "Bucket") -> None:
    with pytest.raises(NoFiles, match="No files are in"):
        list_input(Input(path="s3://bucket/none", storage_options=s3.options))


def test_a_folder_of_hidden_files_only_says_that_they_were_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "_a.jsonl", ".b.jsonl")
    with pytest.raises(InputError, match="2 were passed over"):
        list_input(Input(path=str(tmp_path)))


def test_all_files_of_unknown_formats_are_counted_and_a_list_of_globs_leaves_them_out(tmp_path: Path) -> None:
    for name in ("a.csv", "b.txt", "c.jsonl", "d.parquet"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError) as refused:
        list_input(Input(path=str(tmp_path)))
    told = f"The format of {tmp_path}/a.csv, and of 1 more of the 4 files, is not known by its name. "
    assert str(refused.value).startswith(told)
    assert """such as input.path='["folder/*.jsonl", "folder/*.parquet"]'""" in str(refused.value)
    globs = f'["{tmp_path}/*.jsonl", "{tmp_path}/*.parquet"]'
    listed = list_input(Input.model_validate(apply_overrides({}, [f"path={globs}"])))
    assert [file.path[-7:] for file in listed] == ["c.jsonl", "parquet"]


def test_an_unknown_suffix_is_an_error_unless_the_format_is_given(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl", "notes.txt")
    with pytest.raises(InputError, match=r"notes\.txt"):
        list_input(Input(path=str(tmp_path)))
    listed = list_input(Input(path=f"{tmp_path}/notes.txt", format="jsonl"))
    assert [(file.format, file.compression) for file in listed] == [("jsonl", None)]


def test_a_compressed_parquet_file_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet.gz")
    with pytest.raises(InputError, match="compressed Parquet"):
        list_input(Input(path=str(tmp_path)))


def test_objects_are_listed_like_files(bucket: str) -> None:
    storage = Storage.of(f"s3://{bucket}")
    for name in ("in/b.jsonl", "in/a/c.parquet", "in/_SUCCESS", "other/d.jsonl"):
        storage.write_atomic(storage.join(name), b"x")
    root = f"s3://{bucket}"
    assert names(root, Input(path=f"{root}/in")) == ["in/a/c.parquet", "in/b.jsonl"]
    assert names(root, Input(path=f"{root}/*/*.jsonl")) == ["in/b.jsonl", "other/d.jsonl"]
    assert names(root, Input(path=f"{root}/in/b.jsonl")) == ["in/b.jsonl"]
    with pytest.raises(InputError, match=r"cannot be listed|No files"):
        list_input(Input(path="s3://no-such-bucket-here/x"))


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("a/**", "a/b", True),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("a/**/c", "a/c", True),
        ("a/**/c", "a/b/b/c", True),
        ("a/**.x", "a/b/c.x", True),
        ("a/p**q.x", "a/pq.x", True),
        ("a/p**q.x", "a/p1/2/3q.x", True),
        ("a/p**q.x", "a/1p/q.x", False),
        ("**/b/**/d", "a/b/c/b/c/d", True),
        ("**/b/**/d", "a/b/c/b/c/e", False),
        ("*a*b*c", "xaxbxc", True),
        ("*a*b*c", "xaxcxb", False),
        ("[^a]", "b", True),
        ("[^a]", "a", False),
        ("[]", "[]", True),
    ],
)
def test_a_pattern_matches_what_it_says(pattern: str, path: str, matches: bool) -> None:
    assert compile_glob(pattern).matches(path) is matches


def test_patterns_with_many_wildcards_are_matched_in_a_moment() -> None:
    # By backtracking each of these would take longer than a test may.
    assert not compile_glob("**/" * 8 + "x").matches("a/" * 200 + "b")
    assert not compile_glob("**/a/" * 12 + "x").matches("a/" * 400 + "b")
    assert not compile_glob("*a" * 30 + "x").matches("a" * 2000 + "b")


def test_a_range_that_is_upside_down_matches_nothing_and_is_said_so(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl")
    with pytest.raises(InputError, match=r"No files match .*\[z-a\]\.jsonl"):
        list_input(Input(path=f"{tmp_path}/[z-a].jsonl"))


def test_a_folder_whose_name_looks_like_a_pattern_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "in [1]/a.jsonl", "in [1]/x/b.jsonl", "in 1/c.jsonl", "what?.jsonl")
    assert names(tmp_path, Input(path=f"{tmp_path}/in [1]")) == ["in [1]/a.jsonl", "in [1]/x/b.jsonl"]
    assert names(tmp_path, Input(path=f"{tmp_path}/in [1]/**/*.jsonl")) == ["in [1]/a.jsonl", "in [1]/x/b.jsonl"]
    assert names(tmp_path, Input(path=f"{tmp_path}/in [0-9]/*.jsonl")) == ["in 1/c.jsonl"]
    assert names(tmp_path, Input(path=f"{tmp_path}/what?.jsonl")) == ["what?.jsonl"]


def test_a_loop_of_links_is_listed_once(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jsonl", "other/b.jsonl")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/x").mkdir()
    (tmp_path / "in/x/up").symlink_to("..")
    (tmp_path / "in/linked").symlink_to(tmp_path / "other")
    (tmp_path / "in/nowhere").symlink_to("not-there")
    (tmp_path / "in/itself").symlink_to("itself")
    assert names(tmp_path, Input(path=str(tmp_path / "in"))) == ["in/a.jsonl", "in/linked/b.jsonl"]


@pytest.mark.skipif(os.geteuid() != 0, reason="somebody else is needed, as whom only root can look")
def test_a_file_that_cannot_be_looked_at_is_not_left_out(open_path: Path) -> None:
    touch(open_path, "in/a.jsonl", "in/b.jsonl")
    # Its names may be read, and nothing else.
    (open_path / "in").chmod(0o744)
    with as_nobody(), pytest.raises(StorageDenied, match=r"/in cannot be read: .*Permission denied"):
        list_input(Input(path=str(open_path / "in")))


def test_a_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with open(bytes(tmp_path / "in") + b"/\xff.jsonl", "wb") as file:
        file.write(b"{}\n")
    with pytest.raises(StorageError, match=r"in/\\udcff\.jsonl' has a name that is not UTF-8, .*; rename it"):
        list_input(Input(path=str(tmp_path / "in")))


def test_what_describes_a_dataset_is_passed_over_in_its_folder_and_read_when_named(tmp_path: Path) -> None:
    touch(tmp_path, "README.md", "LICENSE", "dataset_infos.json", "data/train.jsonl", "data/NOTICE.txt", "notes.jsonl")
    assert names(tmp_path, Input(path=str(tmp_path))) == ["data/train.jsonl", "notes.jsonl"]
    assert names(tmp_path, Input(path=f"{tmp_path}/*", format="jsonl")) == ["notes.jsonl"]
    assert names(tmp_path, Input(path=f"{tmp_path}/README.md", format="jsonl")) == ["README.md"]
    touch(tmp_path, "data/table.csv")
    with pytest.raises(InputError, match=r"table\.csv is not known by its name"):
        list_input(Input(path=str(tmp_path)))


def test_folders_of_the_outputs_are_no_input_whatever_they_hold(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl", "out/derived/pairs/README.md", "out/derived/pairs/card.txt", "out/scores/x.parquet")
    found = list_input(Input(path=str(tmp_path)), without=[f"{tmp_path}/out/"])
    assert [file.path for file in found] == [f"{tmp_path}/a.jsonl"]


def test_one_bucket_by_two_names_of_its_scheme_is_one(bucket: str) -> None:
    storage = Storage.of(f"s3://{bucket}")
    for name in ("in/a.jsonl", "in/out/dead_letters/part-00000-00000.parquet"):
        storage.write_atomic(storage.join(name), b"x")
    config = Input(path=f"s3a://{bucket}/in")
    assert [file.path for file in list_input(config, without=[f"s3://{bucket}/in/out"])] == [
        f"s3a://{bucket}/in/a.jsonl"
    ]
