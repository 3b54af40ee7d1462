import pytest

from data_prep.audit.__main__ import check_out, write
from data_prep.cli import UserError


def test_only_an_earlier_result_is_replaced(tmp_path):
    check_out(tmp_path / "new.json")
    write(tmp_path / "earlier.json", {"leakage": {}})
    check_out(tmp_path / "earlier.json")
    (tmp_path / "table.csv").write_text("patientId\n")
    (tmp_path / "mapping.json").write_text("[]")
    (tmp_path / "link.json").symlink_to("/dev/null")
    for path in ("table.csv", "mapping.json", "link.json", "table.csv/audit.json", "."):
        with pytest.raises(UserError, match=r"is no audit's result|is a file"):
            check_out(tmp_path / path)
