#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Builds the plugins and the doctor with cargo and copies them to where meson wants
them.

    ci/meson-cargo.py <cargo> <source folder> <output folder> <package>...
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path


def main():
    cargo, source, output, *packages = sys.argv[1:]
    command = [cargo, "build", "--release", "--locked", "--message-format=json-render-diagnostics"]
    # The demo, too: ./demo and ./check build the same packages, so cargo
    # resolves the same features and builds nothing twice.
    for package in [*packages, "dualstream-demo", "dualstream-doctor"]:
        command += ["--package", package]
    run = subprocess.run(command, cwd=source, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        return run.returncode
    libraries = {}
    doctor = None
    for line in run.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") != "compiler-artifact":
            continue
        # Dependencies may make shared libraries as well.
        if Path(source) not in Path(message["manifest_path"]).parents:
            continue
        if message["target"]["name"] == "dualstream-doctor" and message["executable"]:
            doctor = Path(message["executable"])
        if "cdylib" not in message["target"]["crate_types"]:
            continue
        for name in map(Path, message["filenames"]):
            if name.suffix in (".so", ".dylib", ".dll"):
                libraries[message["target"]["name"]] = name
    if len(libraries) != len(packages) or doctor is None:
        print(f"{len(packages)} packages gave {sorted(libraries)}", file=sys.stderr)
        return 1
    for file in [*libraries.values(), doctor]:
        shutil.copy2(file, Path(output) / file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
