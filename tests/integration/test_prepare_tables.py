"""The real command on the table of a stranger."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

IMAGES = 120
BROKEN = {10: b"", 20: b"<html>not found</html>", 30: None}  # None: cut off in the middle
MISSING = (40, 50)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Other columns' names, semicolons, Windows line ends, blanks, "12" and "012", broken files."""
    folder = tmp_path_factory.mktemp("stranger")
    images = folder / "Thorax Bilder"
    images.mkdir()
    rng = np.random.default_rng(0)
    lines = ["Datei;Fall Nr;Befund;Alter, Jahre"]
    for number in range(IMAGES):
        name = f"Bild {number}.png"
        data = cv2.imencode(".png", rng.integers(0, 256, (40, 40), np.uint8))[1].tobytes()
        if number in BROKEN:
            data = data[: len(data) // 2] if BROKEN[number] is None else BROKEN[number]
        if number not in MISSING:
            (images / name).write_bytes(data)
        patient = "012" if number == 25 else str(number // 2)  # number 24 is of patient 12
        finding = "Pneumonie" if number % 3 == 0 else "o.B."
        lines.append(f"{name};{patient};{finding};{20 + number % 60}")
    (images / "Notizen.txt").write_text("not named by the table")
    table = folder / "Befunde 2024.csv"
    table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    return images, table


def prepare(stranger, *more):
    images, table = stranger
    arguments = ["--dataset=table", f"--raw={images}", f"--table={table}", "--image=Datei"]
    arguments += ["--label=Befund", "--positive=Pneumonie", "--finding=pneumonia"]
    arguments += ["--age=Alter, Jahre", "--image_size=32", "--workers=1", *more]
    command = [sys.executable, "-m", "data_prep.prepare", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_strangers_table(stranger, tmp_path):
    data_dir = f"--data_dir={tmp_path}"
    done = prepare(stranger, "--patient=Fall Nr", data_dir, "--max_rejected=0.05")
    assert done.returncode == 0, done.stderr
    assert "120 rows; 118 usable images, 40 positive" in done.stdout
    assert "that no row in use names: 1" in done.stdout  # Notizen.txt
    assert "'12' and '012'" in done.stderr
    manifest = json.loads((tmp_path / "befunde_2024/32px/1.0.0/manifest.json").read_text())
    assert manifest["counts"]["by_code"] == {"no_file": 2, "not_dicom": 2, "truncated": 1}
    assert manifest["counts"]["inputs"] == IMAGES
    assert manifest["findings"] == ["pneumonia"]
    assert manifest["patients_of"] == ["befunde_2024"]
    assert sum(one["patients"] for one in manifest["splits"].values()) == IMAGES // 2
    lines = {line["file"]: line for line in manifest["files"]}
    assert lines["Bild 24.png"]["split"] == lines["Bild 25.png"]["split"]
    found = lines["Bild 0.png"]
    assert (found["format"], found["rows"], found["columns"]) == ("png", 40, 40)
    assert found["source"] == "Befunde 2024"
    again = prepare(stranger, "--patient=Fall Nr", data_dir, "--max_rejected=0.05")
    assert "already prepared" in again.stdout


def test_without_patients_it_refuses_and_a_dry_run_writes_nothing(stranger, tmp_path):
    refused = prepare(stranger, f"--data_dir={tmp_path}")
    assert refused.returncode == 2
    assert "--patient=unknown" in refused.stderr
    assert "Traceback" not in refused.stderr
    flags = ("--patient=unknown", "--dry-run", "--max_rejected=0.05")
    dry = prepare(stranger, f"--data_dir={tmp_path}", *flags)
    assert dry.returncode == 0, dry.stderr
    assert "patients are unknown" in dry.stderr
    assert "finding 'pneumonia': 40 positive, 78 negative" in dry.stdout
    assert not list(tmp_path.iterdir())
