"""Renews the Swagger UI that /docs serves: takes it out of npm's `swagger-ui-dist` and packs it small.

    python scripts/swagger_ui.py

Needs `npm`. To move to another version, change both constants; npm tells the second: `npm view swagger-ui-dist dist.integrity`.
"""

import base64
import gzip
import hashlib
import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "5.35.0"
INTEGRITY = "sha512-U06rpMtW9V3XPGOBeamTUSr0Z09jMX4IJuANpE/EZbAhw0G8CgwrzU4YmXkn/h0wCDNsXdGarTNNHC3sU8yVUQ=="
ASSETS = Path(__file__).parent.parent / "src/backtalk/http/docs_assets"
PACKED = ("swagger-ui-bundle.js", "swagger-ui.css")
PLAIN = ("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt", "favicon-32x32.png")


def download() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"swagger-ui-dist@{VERSION}"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return next(Path(folder).glob("*.tgz")).read_bytes()


def check(archive: bytes) -> None:
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if found != INTEGRITY:
        raise SystemExit(f"swagger-ui-dist {VERSION} is not what was expected: {found}")


def unpack(archive: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        for name in (*PACKED, *PLAIN):
            member = package.extractfile(f"package/{name}")
            if member is None:
                raise SystemExit(f"swagger-ui-dist {VERSION} has no {name}")
            if name in PACKED:
                (ASSETS / f"{name}.gz").write_bytes(gzip.compress(member.read(), 9, mtime=0))
            else:
                (ASSETS / name).write_bytes(member.read())


if __name__ == "__main__":
    archive = download()
    check(archive)
    unpack(archive)
