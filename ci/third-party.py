#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Writes the licences of the crates that are linked into what we ship.

    ci/third-party.py <package>... >file

Each crate is named with its version and licence; each text that came with them
is printed once.
"""

import json
import subprocess
import sys
from pathlib import Path

NAMES = ("license", "licence", "copying", "copyright", "notice", "unlicense")


def linked(metadata, packages):
    """Ids of all that the packages link, themselves excepted."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    ours = set(metadata["workspace_members"])
    todo = [p["id"] for p in metadata["packages"] if p["id"] in ours and p["name"] in packages]
    if len(todo) != len(packages):
        sys.exit(f"not all of {packages} are in the workspace")
    seen = set()
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        for dep in nodes[at]["deps"]:
            # Those of the build and of tests are not in the result.
            if any(kind["kind"] is None for kind in dep["dep_kinds"]):
                todo.append(dep["pkg"])
    return seen - ours


def texts(folder):
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name.lower().startswith(NAMES):
            yield file.read_text(errors="replace").strip()


def main():
    host = subprocess.check_output(["rustc", "-vV"], text=True).split("host: ")[1].split()[0]
    metadata = json.loads(
        subprocess.check_output(
            ["cargo", "metadata", "--locked", "--format-version=1", "--filter-platform", host]
        )
    )
    wanted = linked(metadata, set(sys.argv[1:]))
    crates = sorted(
        (p for p in metadata["packages"] if p["id"] in wanted), key=lambda p: (p["name"], p["version"])
    )
    print("Crates of others that are linked into gst-dualstream\n")
    users = {}
    for crate in crates:
        print(f"{crate['name']} {crate['version']}: {crate['license'] or crate['license_file']}")
        for text in texts(Path(crate["manifest_path"]).parent):
            users.setdefault(text, []).append(f"{crate['name']} {crate['version']}")
    for text, names in users.items():
        print("\n" + "=" * 72 + f"\nOf {', '.join(names)}:\n\n{text}")


if __name__ == "__main__":
    main()
