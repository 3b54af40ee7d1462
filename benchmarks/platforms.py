"""Which Pythons and platforms have wheels for every requirement, asked of the package index.

    python -m benchmarks.platforms

pip resolves without installing, for wheels alone. Its --platform chooses the wheels, but it reads
markers such as `sys_platform` as of the machine that it runs on; `PIP` gives it the target's.
Prints a table in Markdown. Exit status: 0 all resolve, 1 some do not.
"""

import json
import re
import subprocess
import sys
import tempfile

PYTHONS = ("3.11", "3.12", "3.13")
# Platform tags from the newest that is asked for, and the values of the markers. manylinux_2_31 is
# Debian 11, Ubuntu 20.04, RHEL 9 and newer.
PLATFORMS = {
    "Linux x86-64": (
        [*(f"manylinux_2_{minor}_x86_64" for minor in range(31, 4, -1)), "manylinux2014_x86_64"],
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    ),
    "Linux aarch64": (
        [*(f"manylinux_2_{minor}_aarch64" for minor in range(31, 16, -1)), "manylinux2014_aarch64"],
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    ),
    "macOS arm64": (
        [
            f"macosx_{version}_{kind}"
            for version in ("14_0", "13_0", "12_0", "11_0", "10_9")
            for kind in ("arm64", "universal2")
        ],
        {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
    ),
    "Windows x86-64": (
        ["win_amd64"],
        {"sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64"},
    ),
}
SOURCE_ONLY = "promise==2.3"  # pure Python, of which the index has no wheel; it is built here
FILES = ("requirements.txt", "requirements-inference.txt")
PIP = """
import json, sys
from pip._vendor.packaging import markers
there = markers.default_environment() | json.loads(sys.argv.pop(1))
markers.default_environment = there.copy
from pip._internal.cli.main import main
sys.exit(main())
"""


def resolve(file: str, python: str, platform: str, built: str) -> str:
    """How many wheels pip would install, or why it would install none.

    Args:
        built: folder of wheels beside the index.
    """
    tags, environment = PLATFORMS[platform]
    environment = environment | {
        "os_name": "nt" if environment["sys_platform"] == "win32" else "posix",
        "python_version": python,
        "python_full_version": f"{python}.9",
    }
    command = [
        *(sys.executable, "-c", PIP, json.dumps(environment)),
        *("install", "--dry-run", "--ignore-installed", "--only-binary=:all:", "--quiet"),
        *("--python-version", python, "--implementation=cp", "--target=nowhere", "--report=-"),
        *(f"--platform={tag}" for tag in tags),
        f"--find-links={built}",
        *("--requirement", file),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        return f"{len(json.loads(result.stdout)['install'])} wheels"
    reasons = re.findall(
        r"No matching distribution found for .+|\S+ \S+ depends on .+", result.stderr
    )
    return "no: " + ("; ".join(dict.fromkeys(reasons)) or "pip failed; run it by hand")


def main() -> int:
    complete = True
    with tempfile.TemporaryDirectory() as built:
        wheel = (*("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"), built, SOURCE_ONLY)
        subprocess.run((sys.executable, *wheel), check=True)
        print(f"| platform | Python | {' | '.join(FILES)} |\n|---|---|{'---|' * len(FILES)}")
        for platform in PLATFORMS:
            for python in PYTHONS:
                found = [resolve(file, python, platform, built) for file in FILES]
                print(f"| {platform} | {python} | {' | '.join(found)} |", flush=True)
                complete &= not any(text.startswith("no") for text in found)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
