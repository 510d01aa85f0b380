#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Checks what gst-inspect-1.0 says of each element of the project.

Every expected element is there and no other; no text in it is empty; and it is
what docs/plugins/inspect has, so that a change to an element's interface is
seen in review.

    ci/check-elements.py <folder of the plugins> [--update]

The layout of gst-inspect-1.0's output differs between releases of GStreamer.
The pages are of the release in docs/plugins/inspect/RELEASE; with another one
they are not compared.
"""

import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PLUGINS = {
    "dualstream": ["dualh264dec", "dualh264enc", "rtphdrextdualstream", "rtptrickle"],
    "feedback": ["rtcpiframefeedback"],
    "flexfec": ["rtpflexfecdec", "rtpflexfecenc"],
    "gcc": ["rtpgcc", "rtpremb"],
    "jitterbuffer": ["rtpkalmanjitterbuffer"],
    "pacer": ["rtppacer"],
    "dualwebrtc": ["dualwebrtcsink", "dualwebrtcsrc", "rtphdrextabscapturetime"],
}

PAGES = Path(__file__).resolve().parent.parent / "docs" / "plugins" / "inspect"

# Of this machine, this build or this day.
VARIES = re.compile(r"^  (Filename|Version|Source release date) ")
# "name : " with nothing behind it. Values of structures are indented deeper.
EMPTY = re.compile(r"^  ([\w-][\w -]*?) *: *(\(null\))? *$")
METADATA = ("Long-name", "Klass", "Description", "Author")


def inspect(*args):
    run = subprocess.run(
        ["gst-inspect-1.0", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return run.returncode, run.stdout


def page_of(text):
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.rstrip() for line in text.splitlines() if not VARIES.match(line)]
    return "\n".join(lines).strip() + "\n"


def empty_texts(page):
    for line in page.splitlines():
        if EMPTY.match(line):
            yield line.strip()
    for key in METADATA:
        if not re.search(rf"^  {key} +\S", page, re.MULTILINE):
            yield key


def main():
    folder, update = sys.argv[1], "--update" in sys.argv[2:]
    problems = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(
            GST_PLUGIN_PATH=folder,
            GST_REGISTRY=str(Path(scratch) / "registry"),
            GST_INSPECT_NO_COLORS="1",
            LC_ALL="C.UTF-8",
        )
        release = re.search(r"GStreamer (\d+\.\d+)", inspect("--version")[1]).group(1)
        if update:
            PAGES.mkdir(parents=True, exist_ok=True)
            for old in PAGES.glob("*.txt"):
                old.unlink()
            (PAGES / "RELEASE").write_text(release + "\n")
        kept = (PAGES / "RELEASE").read_text().strip() if (PAGES / "RELEASE").exists() else None
        compare = kept == release
        for plugin, elements in PLUGINS.items():
            code, text = inspect(plugin)
            if code:
                problems.append(f"plugin {plugin} is missing in {folder}")
                continue
            registered = re.findall(r"^  (\w+): ", text.split("Plugin Details")[-1], re.MULTILINE)
            for extra in sorted(set(registered) - set(elements)):
                problems.append(f"plugin {plugin} has {extra}, which nobody expects: add it here")
            for element in elements:
                code, text = inspect(element)
                if code:
                    problems.append(f"element {element} is missing in plugin {plugin}")
                    continue
                page = page_of(text)
                problems += [f"{element}: no text for: {what}" for what in empty_texts(page)]
                file = PAGES / f"{element}.txt"
                if update:
                    file.write_text(page)
                elif compare:
                    old = file.read_text() if file.exists() else ""
                    diff = difflib.unified_diff(
                        old.splitlines(), page.splitlines(), str(file), "gst-inspect-1.0", "", "", 1, ""
                    )
                    if diff := list(diff):
                        problems.append(
                            "\n".join([f"{element}: the page has changed (./check --update-docs):", *diff])
                        )
    for problem in problems:
        print(problem)
    total = sum(map(len, PLUGINS.values()))
    how = "written" if update else "compared" if compare else f"not compared (of {kept}, here {release})"
    print(f"{total} elements expected, {len(problems)} problems, pages {how}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
