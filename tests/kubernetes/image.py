"""Make container images without container tools: archives that ``ctr images import`` takes.

``image.py dask NAME ARCHIVE ROOTFS``
    Three layers: a Debian with Python, the distributions that hepdask-ml needs, in the versions
    that this interpreter has, and hepdask-ml itself.
``image.py key``
    Prints what changes when that image would.
``image.py pause NAME ARCHIVE ROOTFS``
    A folder with ``bin/sleep``, for the container that holds a pod together.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

import hepdask_ml

HOME = Path(hepdask_ml.__file__).parent.parent
PACKAGES = "usr/local/lib/python3.11/dist-packages"
PROGRAM = b"""#!/usr/bin/python3.11
import sys
from dask.__main__ import main
if __name__ == "__main__":
    sys.exit(main())
"""


def needed(requirements: Iterable[str]) -> dict[str, Distribution]:
    """Give all distributions that are needed for some, by their names."""
    found: dict[str, Distribution] = {}
    left: list[tuple[Requirement, tuple[str, ...]]] = [
        (Requirement(text), ("",)) for text in requirements
    ]
    while left:
        requirement, extras = left.pop()
        if requirement.marker and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras
        ):
            continue
        asked = ("", *requirement.extras)
        if requirement.name not in found or requirement.extras:
            found[requirement.name] = distribution(requirement.name)
            texts = found[requirement.name].requires or []
            left += [(Requirement(text), asked) for text in texts]
    return found


def dependencies() -> dict[str, Distribution]:
    project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return needed(project["dependencies"])


def package_files() -> Iterator[Path]:
    for file in sorted((HOME / "hepdask_ml").rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file


def key(distributions: dict[str, Distribution]) -> str:
    seen = hashlib.sha256()
    for name, each in sorted(distributions.items()):
        seen.update(f"{name} {each.version}\n".encode())
    for file in package_files():
        seen.update(str(file).encode() + file.read_bytes())
    return seen.hexdigest()


def libraries_layer(tar: tarfile.TarFile, distributions: dict[str, Distribution]) -> None:
    for _, each in sorted(distributions.items()):
        for file in each.files or []:
            place = Path(str(each.locate_file(file)))
            if ".." not in file.parts and file.suffix != ".pyc" and place.is_file():
                tar.add(place, f"{PACKAGES}/{file}")
    put(tar, "usr/local/bin/dask", PROGRAM, mode=0o755)


def package_layer(tar: tarfile.TarFile) -> None:
    for file in package_files():
        tar.add(file, f"{PACKAGES}/{file.relative_to(HOME)}")
    metadata = f"Metadata-Version: 2.1\nName: hepdask-ml\nVersion: {hepdask_ml.__version__}\n"
    folder = f"hepdask_ml-{hepdask_ml.__version__}.dist-info"
    put(tar, f"{PACKAGES}/{folder}/METADATA", metadata.encode())


def put(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def write(name: str, archive: Path, layers: list[Path], command: list[str]) -> None:
    """Put layers into one archive."""
    digests = []
    for layer in layers:
        with layer.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    config = blob(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": command},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each}" for each in digests]},
        }
    )
    media = "application/vnd.oci.image"
    manifest = blob(
        {
            "schemaVersion": 2,
            "mediaType": f"{media}.manifest.v1+json",
            "config": described(f"{media}.config.v1+json", *config),
            "layers": [
                {
                    "mediaType": f"{media}.layer.v1.tar",
                    "digest": f"sha256:{digest}",
                    "size": layer.stat().st_size,
                }
                for digest, layer in zip(digests, layers, strict=True)
            ],
        }
    )
    named = described(f"{media}.manifest.v1+json", *manifest)
    named["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name,
    }
    with tarfile.open(archive, "w") as tar:
        put(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        put(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [named]}).encode())
        for digest, content in (config, manifest):
            put(tar, f"blobs/sha256/{digest}", content)
        for digest, layer in zip(digests, layers, strict=True):
            tar.add(layer, f"blobs/sha256/{digest}")


def blob(document: Any) -> tuple[str, bytes]:
    content = json.dumps(document).encode()
    return hashlib.sha256(content).hexdigest(), content


def described(media: str, digest: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)}


def main(kind: str, name: str, archive: Path, rootfs: Path) -> None:
    def system(tar: tarfile.TarFile) -> None:
        tar.add(rootfs, ".")

    def libraries(tar: tarfile.TarFile) -> None:
        libraries_layer(tar, dependencies())

    fills = [system] if kind == "pause" else [system, libraries, package_layer]
    layers = [archive.with_suffix(f".layer{i}") for i in range(len(fills))]
    for layer, fill in zip(layers, fills, strict=True):
        with tarfile.open(layer, "w") as tar:
            fill(tar)
    write(
        name, archive, layers, ["/bin/sleep", "1000000000"] if kind == "pause" else ["python3.11"]
    )
    for layer in layers:
        layer.unlink()


if __name__ == "__main__":
    if sys.argv[1] == "key":
        print(key(dependencies()))
    else:
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
