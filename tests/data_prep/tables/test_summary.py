import pandas as pd
import pytest
from etils import epath

from data_prep.tables.files import ImageFolder
from data_prep.tables.plan import plan_records
from data_prep.tables.source import Source
from data_prep.tables.summary import print_summary, print_warnings


@pytest.fixture
def told(tmp_path, capsys):
    """patients, one per image -> what is said of them."""

    def told(patients):
        names = [f"{number}.png" for number in range(len(patients))]
        for name in names:
            (tmp_path / name).write_bytes(b"")
        labels = [str(number % 2) for number in range(len(patients))]
        rows = pd.DataFrame({"image": names, "who": patients, "label": labels})
        folder = ImageFolder(epath.Path(tmp_path))
        source = Source("t", rows, folder, "image", "who", "clinic", ("label",))
        plan = plan_records([source], ["pneumonia"])
        print_summary(plan, [source], samples=True)
        print_warnings(plan, [source])
        return capsys.readouterr()

    return told


def test_patients_that_may_be_images(told):
    assert "note: every image is of another patient" in told(["a", "b", "c"]).err
    assert told(["a", "b", "b"]).err == ""


def test_no_cell_steers_the_terminal(told):
    out = told(["7\x1b[2J", "\u202e8"]).out
    assert r"clinic:7\x1b[2J" in out
    assert r"clinic:\u202e8" in out
