#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Builds the plugins with cargo and copies them to where meson wants them.

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
    for package in [*packages, "dualstream-demo"]:
        command += ["--package", package]
    run = subprocess.run(command, cwd=source, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        return run.returncode
    libraries = {}
    for line in run.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") != "compiler-artifact":
            continue
        # Dependencies may make shared libraries as well.
        if Path(source) not in Path(message["manifest_path"]).parents:
            continue
        if "cdylib" not in message["target"]["crate_types"]:
            continue
        for name in map(Path, message["filenames"]):
            if name.suffix in (".so", ".dylib", ".dll"):
                libraries[message["target"]["name"]] = name
    if len(libraries) != len(packages):
        print(f"{len(packages)} packages gave {sorted(libraries)}", file=sys.stderr)
        return 1
    for library in libraries.values():
        shutil.copy2(library, Path(output) / library.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
