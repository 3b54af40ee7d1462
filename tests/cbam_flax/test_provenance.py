import subprocess

import numpy as np

from cbam_flax import __version__, provenance


def test_variables_are_told_apart_by_value_name_and_shape():
    base = {"params": {"a": np.arange(4.0)}}
    same = {"params": {"a": np.arange(4.0)}}
    assert provenance.variables_sha256(base) == provenance.variables_sha256(same)
    others = [
        {"params": {"a": np.arange(4.0) + 1e-12}},
        {"params": {"b": np.arange(4.0)}},
        {"params": {"a": np.arange(4.0).reshape(2, 2)}},
        {"params": {"a": np.arange(4.0).astype(np.float32)}},
    ]
    hashes = {provenance.variables_sha256(variables) for variables in [base, *others]}
    assert len(hashes) == 5


def test_the_code_fingerprint_names_packages_and_survives_without_git(monkeypatch):
    found = provenance.code_fingerprint()
    assert len(found["sha256"]) == 64
    for package in ("cbam_flax", "data_prep"):
        assert (provenance.ROOT / package / "__init__.py").is_file()
    assert found["version"] == __version__
    assert found["packages"]["jax"]
    monkeypatch.setenv("PATH", "")
    without = provenance.code_fingerprint()
    assert without["commit"] is None
    assert without["sha256"] == found["sha256"]


def test_the_commit_of_a_repository_around_an_installed_package_is_not_taken(monkeypatch, tmp_path):
    for arguments in (["init"], ["commit", "--allow-empty", "--message=theirs"]):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True)
    installed = tmp_path / "site-packages"
    installed.mkdir()
    monkeypatch.setattr(provenance, "ROOT", installed)
    assert provenance.code_fingerprint()["commit"] is None
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.code_fingerprint()["commit"]
