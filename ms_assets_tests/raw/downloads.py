"""Downloads as the tests make them: in processes of their own, for the hub client reads its settings on import."""

import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ms_assets_tests.loopback_hub import COMMIT, Hub

DATASET = "somebody/yambda"
FILE = "artist_item_mapping.parquet"
MB = 1_000_000
SIZE = 6 * MB + 12_345
DOWNLOAD = """
import logging, resource, sys
from pathlib import Path
from huggingface_hub import constants, hf_hub_download
from ms_assets.raw import hub, transfer
logging.basicConfig(level=logging.INFO, format="%(message)s")
transfer.FIRST_WAIT_SECONDS = 0.001
dataset, commit, file, verified = sys.argv[1:]
{first}
print(hub.download(dataset, commit, file, Path(verified)))
"""


@dataclass(frozen=True)
class Place:
    """A folder with what the hub offers, a client's cache, and its notes of what has been verified."""

    folder: Path

    @property
    def offered(self) -> Path:
        return self.folder / "hub"

    @property
    def cache(self) -> Path:
        return self.folder / "hf"

    def offer(self, name: str = FILE, size: int = SIZE) -> bytes:
        """Put random bytes on the hub; gives them."""
        content = random.Random(name).randbytes(size)
        (self.offered / name).parent.mkdir(parents=True, exist_ok=True)
        (self.offered / name).write_bytes(content)
        return content

    def start(
        self, hub: Hub, *, file: str = FILE, commit: str = COMMIT, first: str = "", **environment: str
    ) -> subprocess.Popen:
        """A process that downloads; `first` is done before, in Python."""
        program = DOWNLOAD.replace("{first}", first)
        return self.run_python(program, hub, DATASET, commit, file, str(self.folder / "verified"), **environment)

    def download(self, hub: Hub, **how: str) -> "Outcome":
        """A download from beginning to end."""
        return outcome(self.start(hub, **how))

    def run_python(self, program: str, hub: Hub, *arguments: str, **environment: str) -> subprocess.Popen:
        """A process that knows the hub's address and this place's cache."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        given = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(self.cache), "HF_HUB_DISABLE_XET": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env=inherited | given | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def blobs(self) -> dict[str, int]:
        """The files of the cache, unfinished ones included, with their sizes."""
        return {blob.name: blob.stat().st_size for blob in self.cache.glob("hub/*/blobs/*")}

    def finished(self) -> list[Path]:
        """Whatever has a final name, of content or of link."""
        blobs = self.cache.glob("hub/*/blobs/*[!e]")
        return sorted([*blobs, *(path for path in self.cache.glob("hub/*/snapshots/**/*") if not path.is_dir())])

    def partial(self) -> Path:
        """The one unfinished file."""
        [partial] = self.cache.glob("hub/*/blobs/*.incomplete")
        return partial


@dataclass(frozen=True)
class Outcome:
    """How a download's process ended."""

    code: int
    printed: str
    log: str

    @property
    def path(self) -> Path:
        assert self.code == 0, self.log
        return Path(self.printed.strip())

    @property
    def error(self) -> str:
        """The last line of the traceback."""
        assert self.code == 1, self.log
        return self.log.strip().splitlines()[-1].removeprefix("ms_assets.raw.transfer.")


def outcome(process: subprocess.Popen) -> Outcome:
    printed, log = process.communicate(timeout=600)
    return Outcome(process.returncode, printed, log)
