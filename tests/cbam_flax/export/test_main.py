import os
import sys

from cbam_flax.export import __main__ as command
from cbam_flax.export import run


def test_the_warnings_of_the_bundle_are_told(monkeypatch, capsys):
    description = {
        "verification": {"max_difference": {}},
        "files": {},
        "fingerprints": {"checkpoint": {"step": 7}},
        "warnings": ["UNCALIBRATED: the run was not evaluated."],
    }
    monkeypatch.setattr(run, "export_workdir", lambda *_: description)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # which the command changes
    monkeypatch.setattr(sys, "argv", ["export", "--workdir=run", "--out=bundle"])
    command.main()
    told = capsys.readouterr()
    assert told.err == "warning: UNCALIBRATED: the run was not evaluated.\n"
    assert told.out == "bundle of the checkpoint of step 7: bundle\n"
