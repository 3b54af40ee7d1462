import dataclasses

import pandas as pd
import pytest
from etils import epath

from data_prep.cli import UserError
from data_prep.records import assign_split
from data_prep.tables.files import ImageFolder
from data_prep.tables.plan import check_plan, plan_records
from data_prep.tables.source import Source

BOXES = ("x", "y", "w", "h")


@pytest.fixture
def folder(tmp_path):
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(b"")
    return ImageFolder(epath.Path(tmp_path))


@pytest.fixture
def source(folder):
    rows = pd.DataFrame(
        {
            "image": [f"{number}.png" for number in range(12)],
            "who": [str(number // 2) for number in range(12)],
            "label": ["1", "0", "0"] * 4,
        }
    )
    return Source("t", rows, folder, "image", "who", "clinic", ("label",))


def table(source, *rows, **options):
    """The source with other rows: dicts, of which missing cells are empty."""
    frame = pd.DataFrame(list(rows)).fillna("")
    return dataclasses.replace(source, rows=frame, **options)


def row(image, who="1", label="1", **more):
    return {"image": image, "who": who, "label": label, **more}


OTHERS = (row("8.png", "8", "1"), row("9.png", "9", "0"))  # so that both labels occur


def plan(*sources, findings=("pneumonia",), **options):
    planned = plan_records(sources, findings, **options)
    codes = {name: refusal.code for name, refusal in planned.refused.items()}
    return planned, {record.image_id: record for record in planned.records}, codes


def test_a_plain_table(source):
    planned, records, refused = plan(source)
    assert (len(records), refused, planned.scheme) == (12, {}, "patient")
    one = records["3.png"]
    assert (one.patient_id, one.label, one.file) == ("clinic:1", 1, "3.png")
    assert (one.split, one.source, one.view, one.age) == (assign_split("1"), "t", None, None)
    assert planned.detailed_classes == ("no pneumonia", "pneumonia")


def test_every_row_ends_as_a_record_or_a_refusal(source):
    _, records, refused = plan(
        table(
            source,
            *OTHERS,
            row("gone"),
            row("../0.png"),
            row("0", label="2"),
            row("1", who=""),
            row("2", label="1"),
            row("2.png", label="0"),
            row("3", who="1"),
            row("3", who="2"),
            row(""),
        )
    )
    assert sorted(records) == ["8.png", "9.png"]
    assert refused == {
        "gone": "no_file",
        "../0.png": "outside_folder",
        "0.png": "no_label",
        "1.png": "no_patient",
        "2.png": "conflicting_labels",
        "3.png": "conflicting_labels",
        "row 12 of t": "no_file",
    }


def test_rows_that_agree_are_one_record_with_their_boxes(source):
    boxes = [dict(zip(BOXES, ("1", "2", "3", "4"), strict=True)), {"x": "5", "y": "6", "w": "7"}]
    rows = [row("0", **boxes[0]), row("0.png", **boxes[1], h="8"), row("0"), row("1", **boxes[1])]
    planned, records, refused = plan(table(source, *OTHERS, *rows, boxes=BOXES))
    assert records["0.png"].boxes == ((2, 1, 6, 4), (6, 5, 14, 12))
    assert refused == {"1.png": "bad_box"}
    corners = table(source, *OTHERS, rows[0], corners=BOXES)
    assert plan(corners)[1]["0.png"].boxes == ((2, 1, 4, 3),)
    assert planned.unnamed == {"t": 8}


def test_what_the_table_says_of_an_image(source):
    said = {"view": "pa", "sex": "female", "age": "058Y", "px": r"0.14\0.14", "from": "A"}
    columns = {"view": "view", "sex": "sex", "age": "age", "spacing": "px", "origin": "from"}
    _, records, _ = plan(table(source, *OTHERS, row("0", **said), **columns))
    one = records["0.png"]
    assert (one.view, one.sex, one.age, one.spacing, one.source) == ("PA", "F", 58, 0.14, "A")
    assert records["8.png"].view is None  # the file's header decides
    assert records["8.png"].source == "t"


def test_a_patient_of_two_tables_is_one_where_their_namespace_is(source):
    first = table(source, row("2", "1", "1"), row("3", "2", "0"))
    second = table(source, row("0", "001", "1"), row("2.png", "7", "0"), name="u")
    planned, records, refused = plan(first, second)
    assert records["t/2.png"].patient_id == records["u/0.png"].patient_id == "clinic:001"
    assert records["t/2.png"].split == records["u/0.png"].split == assign_split("001")
    assert planned.merged_patients == ("'1' and '001'",)
    assert refused == {"u/2.png": "duplicate"}  # one file, two tables
    apart = plan(first, dataclasses.replace(second, namespace="other"))[1]
    assert apart["t/2.png"].patient_id == "clinic:1"
    assert apart["u/0.png"].patient_id == "other:001"


def test_unknown_patients(source):
    planned, records, _ = plan(dataclasses.replace(source, patient="unknown"))
    assert planned.scheme == "image"
    assert {record.patient_id for record in records.values()} == {""}
    assert records["3.png"].split == assign_split("3.png")


def test_own_splits_leak_is_told_and_validation_is_taken_from_train(source):
    rows = source.rows.assign(set=["TRAIN"] * 7 + ["test"] * 4 + ["oh"])
    own = dataclasses.replace(source, rows=rows, split="set")
    planned, records, refused = plan(own, own_splits="column")
    assert planned.scheme == "column"
    assert planned.patients_in_two_splits[-1] == "clinic:3"  # images 6 and 7
    assert refused == {"11.png": "no_split"}
    assert not planned.has_own_validation
    for record in records.values():
        patient = record.patient_id.partition(":")[2]
        in_train = int(record.image_id[:-4]) < 7
        taken = assign_split(patient) == "validation"
        assert record.split == ("test" if not in_train else "validation" if taken else "train")


def test_several_findings(source):
    rows = [row("0", label="1", b=""), row("1", label="0", b="1"), row("2", label="", b="")]
    several = table(source, *rows, row("3", label="0", b="0"), labels=("label", "b"))
    planned, records, refused = plan(several, findings=("one", "two"))
    assert [record.label for record in records.values()] == [(1, -1), (0, 1), (0, 0)]
    assert refused == {"2.png": "no_label"}
    assert planned.detailed_classes == ("several findings",)


def test_where_chooses_rows_by_the_whole_cell(source):
    one = dataclasses.replace(source, where=(("who", "[01]|55"),))
    assert sorted(plan(one)[1]) == ["0.png", "1.png", "2.png", "3.png"]
    with pytest.raises(UserError, match="no row of t has who=9"):
        plan(dataclasses.replace(source, where=(("who", "9"),)))
    with pytest.raises(UserError, match="not a regular expression"):
        plan(dataclasses.replace(source, where=(("who", "("),)))


def test_a_label_that_cannot_be_read(source):
    words = table(source, row("0", label="Normal"), row("1", label="Pneumonia"))
    with pytest.raises(UserError, match=r"'Normal' \(1\), 'Pneumonia' \(1\).*--positive"):
        plan(words)
    with pytest.raises(UserError, match="no image has 'pneumonia'"):
        plan(dataclasses.replace(words, positive="pneumonia"))
    with pytest.raises(UserError, match="no column 'dx'; it has 'image'"):
        plan(dataclasses.replace(words, labels=("dx",)))


def test_the_plan_changes_with_what_the_table_says(source):
    other = source.rows.assign(label=["1", "0", "1"] * 4)
    assert plan(source)[0].sha256 == plan(source)[0].sha256
    assert plan(source)[0].sha256 != plan(dataclasses.replace(source, rows=other))[0].sha256


def test_a_split_that_would_be_empty(source):
    few = plan(table(source, *OTHERS))[0]
    with pytest.raises(UserError, match="split would be empty: 2 images of 2 patients are usable"):
        check_plan(few, 0)


def test_two_findings_have_two_names(source):
    with pytest.raises(UserError, match="the findings Mass, mass have one name"):
        plan(source, findings=("Mass", "Edema", "mass"))


def test_rows_of_one_image_may_spell_its_patient_in_two_ways(source):
    rows = (row("0.png", "12"), row("0.png", "012"), row("1.png", "12"), row("1.png", "7"))
    _, records, codes = plan(table(source, *rows, *OTHERS))
    assert records["0.png"].patient_id == "clinic:012"
    assert codes == {"1.png": "conflicting_labels"}


def test_too_many_refusals_are_told_before_any_image_is_read(source):
    rows = [row(f"{i}", str(i), str(i % 2)) for i in range(12)]
    gone = plan(table(source, *rows, row("gone.png")))[0]
    check_plan(gone, 0.1)
    with pytest.raises(UserError, match=r"1 of 13 inputs .*'gone.png' \(no_file.*--max_rejected"):
        check_plan(gone, 0.05)
