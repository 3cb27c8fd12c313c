"""Fingerprints of two versions: a setting that one of them does not know yet is at its default there."""

from polar_ray.scorers.fingerprint import changed_keys, same_scorers

NOW = {"kind": "text_closeness", "scoring_code": "1", "setting:math": "True", "setting:timeout_s": "5.0"}
BEFORE = {key: value for key, value in NOW.items() if key != "setting:timeout_s"}


def test_a_setting_at_its_default_changes_no_scorer() -> None:
    assert changed_keys(BEFORE, NOW) == changed_keys(NOW, BEFORE) == []
    assert same_scorers({"a": BEFORE}, {"a": NOW})


def test_any_other_value_does() -> None:
    patient = {**NOW, "setting:timeout_s": "60.0"}
    assert changed_keys(BEFORE, patient) == changed_keys(patient, BEFORE) == ["setting:timeout_s"]
    assert not same_scorers({"a": BEFORE}, {"a": patient})


def test_what_is_no_setting_has_no_default() -> None:
    assert changed_keys({**BEFORE, "library:x": "1"}, {**NOW, "setting:unknown": "1"}) == [
        "library:x",
        "setting:unknown",
    ]


def test_another_kind_and_another_name_are_other_scorers() -> None:
    assert changed_keys({"kind": "length"}, {"kind": "polar"}) == ["kind"]
    assert not same_scorers({"a": NOW}, {"b": NOW})
