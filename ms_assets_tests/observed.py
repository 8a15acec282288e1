"""A workplace of a user without settings, in which it is written down whom any Python process asks for elsewhere."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import matplotlib as mpl

from ms_assets_tests.workplace import PROGRAMS, ROOT, Workplace

OBSERVER = """
import os, sys

HERE = ("127.0.0.1", "localhost", "::1", "", None)

def observe(event, arguments):
    address = arguments[1] if event == "socket.connect" else arguments
    if event in ("socket.connect", "socket.getaddrinfo") and isinstance(address, tuple) and address[0] not in HERE:
        with open(os.environ["OBSERVED"], "a") as log:
            log.write(f"{address[0]} is asked for by {sys.argv}\\n")

sys.addaudithook(observe)
"""
"""Writes down whom any Python process asks for or talks to beyond this machine."""
ANNOUNCEMENTS = ("telemetry", "usage statistics", "betawarning")


def observed_workplace(folder: Path) -> Workplace:
    """A workplace with the programs of an environment finished by `make`, a user without settings, and an observer."""
    place = Workplace(folder, programs=folder / ".venv/bin")
    if not (folder / "user").exists():  # otherwise another process made the place
        _make_environment(place)
        (folder / "sitecustomize.py").write_text(OBSERVER)
        (folder / "user").mkdir()
    # Under a name of pytest's or of continuous integration MLflow is silent of itself.
    place.environment = {
        "PATH": f"{place.programs}:{os.environ['PATH']}", "HOME": str(folder / "user"), "PYTHONPATH": str(folder),
        "MS_ASSETS_HOME": str(place.home), "MPLCONFIGDIR": mpl.get_cachedir(), "OMP_NUM_THREADS": "1",
        "VIRTUAL_ENV": str(folder / ".venv"), "OBSERVED": str(folder / "observed"),
    }  # fmt: skip
    return place


def _make_environment(place: Workplace) -> None:
    for name in ("Makefile", "constraints.txt", "quiet.pth"):
        shutil.copy(ROOT / name, place.folder)
    venv.create(place.folder / ".venv")
    [packages] = place.folder.glob(".venv/lib/*/site-packages")
    (packages / "packages.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    for name in ("dg", "dagster"):
        script = (PROGRAMS / name).read_text().split("\n", 1)[1]
        (place.programs / name).write_text(f"#!{place.programs}/python\n{script}")
        (place.programs / name).chmod(0o755)
    (place.folder / ".venv/.installed").touch()
    subprocess.run(["make", ".venv/.quiet"], cwd=place.folder, check=True)


def asked_for(place: Workplace) -> str:
    """Whom processes asked for or talked to beyond this machine, one a line."""
    file = place.folder / "observed"
    return file.read_text() if file.exists() else ""


def left(place: Workplace) -> set[str]:
    """What lies in the user's home."""
    return {str(path.relative_to(place.folder / "user")) for path in (place.folder / "user").rglob("*")}


def announced(said: str) -> list[str]:
    """Words of announcements that a program has printed."""
    return [word for word in ANNOUNCEMENTS if word in said.lower()]
