import argparse

import pandas as pd
import pytest

from data_prep.cli import UserError
from data_prep.tables import options, sources


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Two folders of images with a table each; the working directory is above them."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes(b"")
        pd.DataFrame(
            {
                "image": ["0", "1", "2"],
                "patient": ["1", "2", "3"],
                "label": ["1", "0", ""],
                "found, all": ["Mass|Edema", "No Finding", "Edema"],
            }
        ).to_csv(tmp_path / f"{name}.csv", index=False)


def parse(*flags, dataset="table"):
    parser = argparse.ArgumentParser()
    parser.add_argument("--raw", action="append")
    options.add_options(parser)
    args = parser.parse_args(flags)
    args.dataset, args.mapping, args.split = dataset, None, None
    options.check_flags(args)
    return args


def read(*flags):
    return sources.table_sources(parse("--image=image", *flags))


ONE = ("--raw=a", "--table=a.csv", "--patient=patient")
TWO = ("--raw=a", "--raw=b", "--table=a.csv", "--table=b.csv", "--patient=patient")


def test_one_table(tables):
    (source,), findings, values = read(*ONE, "--label=label", "--where=patient=1|2")
    assert (source.name, source.namespace, source.labels) == ("a", "a", ("label",))
    assert source.where == (("patient", "1|2"),)
    assert (findings, values) == (["label"], [])
    _, findings, _ = read(*ONE, "--label=label", "--finding=pneumonia")
    assert findings == ["pneumonia"]
    (source,), findings, _ = read(*ONE, "--label=label", "--label=found, all")
    assert findings == ["label", "found, all"]


def test_a_table_in_the_folder_of_images(tables, tmp_path):
    (tmp_path / "a.csv").rename(tmp_path / "a" / "a.csv")
    assert len(read(*ONE, "--label=label")[0][0].rows) == 3


def test_values_of_a_column_are_findings(tables):
    _, findings, values = read(*ONE, "--label=found, all", "--values=all")
    assert findings == values == ["Edema", "Mass"]
    assert read(*ONE, "--label=found, all", "--values=Mass,Edema")[1] == ["Mass", "Edema"]


def test_several_tables_take_flags_once_or_once_each(tables):
    boxes = '--boxes=image,"found, all",label,patient'
    (a, b), _, _ = read(
        *TWO, "--label=label", "--patients_of=x", "--where=", "--where=image=0", boxes
    )
    assert (a.namespace, b.namespace) == ("x", "x")
    assert (a.where, b.where) == ((), (("image", "0"),))
    assert a.boxes == b.boxes == ("image", "found, all", "label", "patient")
    assert [str(one.folder.root) for one in (a, b)] == ["a", "b"]
    several = ("--patients_of=x", "--patients_of=y", "--label=label", '--label="found, all"')
    (a, b), findings, _ = read(*TWO, *several, "--finding=mass")
    assert (a.namespace, b.namespace) == ("x", "y")
    assert (b.labels, findings) == (("found, all",), ["mass"])


def test_tables_of_one_name_are_told_apart(tables):
    flags = ("--raw=a", "--table=a.csv", "--table=a.csv", "--table=a.csv", "--patient=patient")
    read_sources, _, _ = read(*flags, "--label=label", "--patients_of=x")
    assert [source.name for source in read_sources] == ["a", "a_2", "a_3"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((*ONE,), "needs --label"),
        (("--raw=a", "--table=a.csv", "--label=label"), "needs --patient.*--patient=unknown"),
        ((*TWO, "--label=label"), "several tables need --patients_of"),
        ((*TWO, "--label=label", "--patients_of=x", "--patient=unknown"), "only some tables"),
        ((*ONE, "--label=label", "--image=label"), "--image is given 2 times for 1 table"),
        ((*ONE, "--label=label", "--finding=a", "--finding=b"), "1 columns of labels and 2 names"),
        ((*ONE, "--label=label", "--where=patient"), "has no ="),
        ((*ONE, "--label=label", "--boxes=a,b"), "four columns"),
        ((*ONE, "--label=label", "--boxes=a,b,c,d", "--corners=a,b,c,d"), "two ways"),
        ((*ONE, "--label=label", "--name=RSNA 2"), "cannot be the name"),
        ((*ONE, "--label=label", "--name=rsna_pneumonia"), "cannot be the name"),
        ((*ONE, "--label=label", "--patients_of=a:b"), "--patients_of=a:b must be"),
        ((*ONE, "--label=found, all", "--values=Oedema"), "never has 'Oedema'; it has Edema, Mass"),
        ((*ONE, "--label=found, all", "--values=Mass", "--positive=1"), "leave --positive out"),
        ((*ONE, "--label=label", "--patient_from=x"), "--patient_from does nothing"),
    ],
)
def test_flags_that_do_not_go_together(tables, flags, message):
    with pytest.raises(UserError, match=message):
        read(*flags)


@pytest.mark.parametrize("dataset", ["rsna", "pneumonia_mnist"])
def test_the_flags_of_tables_are_for_tables(dataset):
    with pytest.raises(UserError, match=f"--label does nothing with --dataset={dataset}"):
        parse("--label=label", dataset=dataset)


def folder_of(*flags):
    return sources.folder_source(parse(*flags, dataset="folders"))


def test_records_are_no_class(tmp_path):
    for name in ("NORMAL/1.png", "TB/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    args = parse(f"--raw={tmp_path}", r"--patient_from=\d+", dataset="folders")
    args.data_dir = str(tmp_path / "data")
    with pytest.raises(UserError, match="whose folders are classes"):
        sources.folder_source(args)
    args.data_dir = f"{tmp_path}-records"
    assert sources.folder_source(args)[1] == ["TB"]


def test_a_folder_of_classes(tmp_path):
    for name in ("Lungs/train/NORMAL/p1.png", "Lungs/test/T.B./p2.png", "Lungs/test/T.B./x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    raw = f"--raw={tmp_path / 'Lungs'}"
    source, findings, values = folder_of(raw, r"--patient_from=p\d")
    assert (source.namespace, source.positive, source.split) == ("lungs", r"T\.B\.", "")
    assert (findings, values, source.detailed_class) == (["T.B."], [], "class")
    assert folder_of(raw, "--patient_from=unknown", "--splits=folder")[0].split == "split"
    assert folder_of(raw, "--patient_from=unknown")[0].patient == "unknown"
    assert folder_of(raw, "--patient_from=unknown", "--values=all")[1] == ["T.B."]
    with pytest.raises(UserError, match="--patient_from=unknown"):
        folder_of(raw)
    with pytest.raises(UserError, match="no folders train"):
        folder_of(f"{raw}/train", "--patient_from=unknown", "--splits=folder", "--positive=NORMAL")
