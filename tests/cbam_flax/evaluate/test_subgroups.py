import numpy as np

from cbam_flax.evaluate import statistics, subgroups


def test_members_cover_the_images_once(make_predictions):
    columns = make_predictions(150)
    seen = {}
    for group, member, mask in subgroups.subgroups(columns):
        seen.setdefault(group, {})[member] = mask
    for group in ("view", "sex", "age"):
        assert (np.sum(list(seen[group].values()), axis=0) == 1).all(), group
    assert set(seen["sex"]) == {"F", "M", "missing"}
    assert seen["age"]["missing"].sum() == np.isnan(columns["age"]).sum()
    assert seen["age"]["40-59"][columns["age"] == 40].all()
    assert not seen["age"]["40-59"][columns["age"] == 60].any()


def test_each_kind_of_negative_meets_all_positives(make_predictions):
    columns = make_predictions(150)
    kinds = {m: mask for g, m, mask in subgroups.subgroups(columns) if g == "negatives"}
    assert set(kinds) == {"Normal", "No Lung Opacity / Not Normal"}
    for kind, mask in kinds.items():
        assert set(columns["detailed_class"][mask]) == {kind, "Lung Opacity"}
        assert columns["label"][mask].sum() == columns["label"].sum()


def test_one_kind_of_negative_is_no_subgroup(make_predictions):
    columns = make_predictions(60)
    columns["detailed_class"] = np.where(columns["label"], "pneumonia", "normal")
    assert "negatives" not in {group for group, _, _ in subgroups.subgroups(columns)}


def test_rows_hold_the_subgroups_own_figures(make_predictions):
    columns = make_predictions(150)
    rows = subgroups.subgroup_figures(columns, 0.4, resamples=50)
    row = next(row for row in rows if row["member"] == "AP")
    mask = columns["view"] == "AP"
    expected = statistics.figures(columns["label"][mask], columns["probability"][mask], 0.4)
    for name in subgroups.FIGURES:
        assert row[name]["value"] == round(expected[name], 5)
    assert row["n"] == mask.sum()
    assert row["n_positive"] == columns["label"][mask].sum()


def test_few_patients_are_small_however_many_images(make_predictions):
    columns = make_predictions(150)
    columns["sex"] = np.where(columns["label"] == 1, "F", "M")
    columns["view"] = np.full(150, "AP")
    columns["patient_id"] = np.where(columns["label"] == 1, "one patient", columns["patient_id"])
    rows = subgroups.subgroup_figures(columns, 0.4, resamples=50)
    assert all(row["small"] for row in rows)
    columns["patient_id"] = columns["image_id"]
    rows = subgroups.subgroup_figures(columns, 0.4, resamples=50)
    assert {row["member"]: row["small"] for row in rows if row["group"] == "sex"} == {
        "F": True,
        "M": True,
    }
    assert {row["member"]: row["small"] for row in rows if row["group"] == "negatives"} == {
        "Normal": False,
        "No Lung Opacity / Not Normal": False,
    }
