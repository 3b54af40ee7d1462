import numpy as np
import pytest

from cbam_flax import folds, input_pipeline
from cbam_flax.input_pipeline import load_split, open_splits
from data_prep.cli import UserError

SPLITS = ("train", "validation", "test")


def an_example(n=400, patients=120, seed=0):
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.25).astype(np.int32)
    return label, np.array([f"p{i:03}" for i in rng.integers(patients, size=n)])


def test_every_image_is_tested_once_and_no_patient_is_in_two_splits():
    label, group = an_example()
    tested = np.zeros(len(label), int)
    for fold in range(5):
        divided = folds.divide(label, group, 5, fold)
        assert sorted(np.concatenate(list(divided.values()))) == list(range(len(label)))
        members = [set(group[divided[name]]) for name in SPLITS]
        assert not members[0] & members[1] | members[0] & members[2] | members[1] & members[2]
        tested[divided["test"]] += 1
        for chosen in divided.values():
            assert label[chosen].mean() == pytest.approx(label.mean(), abs=0.05)
        assert 55 < len(divided["train"]) / 4 < 75
    assert np.all(tested == 1)


def test_the_division_is_always_the_same_one():
    """On the disk of users there are runs of it: another division needs another config key."""
    label, group = an_example(90, 60)
    assert folds.divide(label, group, 3, 0)["test"].tolist() == [
        *(
            2,
            4,
            5,
            6,
            7,
            12,
            20,
            23,
            25,
            29,
            33,
            38,
            40,
            42,
            47,
            51,
            57,
            61,
            62,
            64,
            69,
            74,
            75,
            76,
        ),
        *(77, 78, 80, 82, 85, 88),
    ]


def test_several_findings_are_divided_by_any_of_them():
    label, group = an_example()
    pair = np.stack([np.full(len(label), -1, np.int32), label], axis=1)
    for name, chosen in folds.divide(pair, group, 4, 1).items():
        np.testing.assert_array_equal(chosen, folds.divide(label, group, 4, 1)[name])


def test_too_few_patients_are_refused():
    label, group = an_example(60, 4)
    with pytest.raises(UserError, match=r"3 patients.* a positive image .* 5 parts"):
        folds.divide(label, group, 5, 0)


def test_rows_of_several_arrays_index_like_one():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(256, size=(n, 4, 4), dtype=np.uint8) for n in (3, 5, 2)]
    order = rng.permutation(10)[:8]
    rows, whole = folds.Rows(arrays, order), np.concatenate(arrays)[order]
    assert (rows.shape, rows.dtype, len(rows)) == (whole.shape, whole.dtype, len(whole))
    picked = np.array([5, 0, 5, 7])
    for index in (
        *(0, -1, slice(2, 6), slice(8, 9), picked, whole[:, 0, 0] > 100, [1, 2]),
        (picked, slice(1, 3), slice(None)),
        (slice(None), slice(0, 2)),
    ):
        np.testing.assert_array_equal(rows[index], whole[index])


def test_folds_of_a_prepared_data_set_hold_its_images(prepared):
    where = (str(prepared), "pneumonia_mnist", 28)
    before = {}
    for name in SPLITS:
        split = load_split(*where, name)
        before |= dict(zip(split.columns["image_id"], split.images, strict=True))
    tested, prints = set(), set()
    for fold in range(3):
        load = open_splits(*where, 3, fold)
        parts = {name: load(name) for name in SPLITS}
        assert parts["test"].fingerprint == load_split(*where, "test", 3, fold).fingerprint
        ids = [one for part in parts.values() for one in part.columns["image_id"]]
        assert sorted(ids) == sorted(before)
        for name, part in parts.items():
            assert list(part.columns["image_id"]) == sorted(part.columns["image_id"])
            assert len(part.columns["boxes"]) == len(part) == len(part.labels)
            assert part.manifest["splits"][name]["images"] == len(part)
            assert part.manifest["splits"][name]["positive"] == part.labels.sum()
            for image_id, image in zip(part.columns["image_id"], part.images[:], strict=True):
                np.testing.assert_array_equal(image, before[image_id])
            prints.add(part.fingerprint)
        tested |= set(parts["test"].columns["image_id"])
    assert tested == set(before)
    assert len(prints) == 9


def test_splits_are_checked_and_divided_once_until_they_are_opened_anew(prepared, monkeypatch):
    where = (str(prepared), "pneumonia_mnist", 28)
    calls = []

    def counted(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: calls.append(name) or function(*args))

    counted(input_pipeline, "decoded")
    counted(folds, "divide")
    load = open_splits(*where, 3, 1)
    assert calls == []
    for name in (*SPLITS, *SPLITS):
        load(name)
    assert calls == ["decoded", "decoded", "decoded", "divide"]
    open_splits(*where, 3, 1)("test")
    assert len(calls) == 8
    whole = open_splits(*where)
    assert whole("train") is whole("train")
    assert calls[8:] == ["decoded"]


def test_the_fingerprint_of_a_fold_holds_that_of_the_data_and_the_ids(prepared):
    split = load_split(str(prepared), "pneumonia_mnist", 28, "train")

    def fingerprint(columns=split.columns, fold=0, **validation):
        splits = {**split.manifest["splits"]}
        splits["validation"] = splits["validation"] | validation
        everything = {"train": np.arange(len(split))}
        manifest = split.manifest | {"splits": splits}
        made = folds.manifest_of_fold(manifest, columns, everything, 3, fold)
        return made["splits"]["train"]["content_sha256"]

    assert fingerprint() == fingerprint(images=0)
    other = split.columns | {"image_id": split.columns["image_id"][::-1]}
    hashes = {
        fingerprint(),
        fingerprint(content_sha256="0" * 64),
        fingerprint(fold=1),
        fingerprint(other),
    }
    assert len(hashes) == 4
