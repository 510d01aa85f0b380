#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Makes docs/plugins/<element>.md of the documentation section in each element's
imp.rs, or checks that they are the same.

    ci/element-docs.py [--update]
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "plugins"
SECTION = re.compile(r"/\*\*\n \* SECTION:element-(\w+)\n(.*?)\n \*/", re.DOTALL)
HEADER = "<!-- SPDX-License-Identifier: MPL-2.0. Made by ci/element-docs.py from {}. -->\n"


def sections():
    """Element to short description, text and source."""
    found = {}

    def described(name):
        file = OUT / "inspect" / f"{name}.txt"
        text = file.read_text() if file.exists() else ""
        line = re.search(r"^  Description +(.*)$", text, re.MULTILINE)
        return line and line.group(1)

    for file in sorted((ROOT / "plugins").glob("*/src/*/imp.rs")):
        for name, body in SECTION.findall(file.read_text()):
            lines = [re.sub(r"^ \* ?", "", line) for line in body.split("\n")]
            tags = dict(re.findall(r"^@(\w+): (.*)$", "\n".join(lines), re.MULTILINE))
            text = "\n".join(line for line in lines if not re.match(r"@\w+:", line)).strip()
            found[name] = (described(name) or tags.get("short_description"), text, file.relative_to(ROOT))
    return found


def linked(text, own, names):
    """gtk-doc's references as links and code; code itself stays as it is."""

    def refer(match):
        element, member = match.group(1), match.group(2)
        if element not in names:
            return match.group(0)
        if member:
            return f"`{member}`" if element == own else f"`{member}` of [{element}]({element}.md)"
        return f"`{element}`" if element == own else f"[{element}]({element}.md)"

    parts = re.split(r"\|\[\n(.*?)\n?\]\|", text, flags=re.DOTALL)
    out = []
    for index, part in enumerate(parts):
        if index % 2:
            out.append(f"```sh\n{part}\n```\n\n")
        else:
            part = re.sub(r"#(\w+)(?::{1,2}([\w-]+))?", refer, part)
            out.append(part if index == 0 else part.lstrip(" \n"))
    return re.sub(r"\n{3,}", "\n\n", "".join(out)).strip() + "\n"


def page(name, section, names):
    short, text, source = section
    title = f"# {name}\n\n" + (f"{short[0].upper()}{short[1:]}.\n\n" if short else "")
    pads = f"\nProperties, signals and pads: [what gst-inspect-1.0 says](inspect/{name}.txt).\n"
    return HEADER.format(source) + title + linked(text, name, names) + pads


def index(found):
    lines = [
        HEADER.format("the elements' documentation"),
        "# Elements\n",
        "What each is for, how it is used and what its statistics mean; and all of its",
        "properties, signals and pads as gst-inspect-1.0 lists them. `./check elements`",
        "compares both with the code.\n",
        "| element | | properties |",
        "|---|---|---|",
    ]
    for name, (short, _, _) in sorted(found.items()):
        lines.append(f"| [{name}]({name}.md) | {short or ''} | [list](inspect/{name}.txt) |")
    return "\n".join(lines) + "\n"


def main():
    found = sections()
    pages = {f"{name}.md": page(name, section, found) for name, section in found.items()}
    pages["README.md"] = index(found)
    problems = []
    inspected = {file.stem for file in (OUT / "inspect").glob("*.txt")}
    for name in sorted(inspected ^ set(found)):
        problems.append(f"{name}: has no documentation section, or no page of gst-inspect-1.0")
    if "--update" in sys.argv[1:]:
        for old in OUT.glob("*.md"):
            old.unlink()
        for name, text in pages.items():
            (OUT / name).write_text(text)
    else:
        kept = {file.name: file.read_text() for file in OUT.glob("*.md")}
        for name in sorted(set(kept) | set(pages)):
            if kept.get(name) != pages.get(name):
                problems.append(f"docs/plugins/{name} is not as the code says (./check --update-docs elements)")
    for problem in problems:
        print(problem)
    print(f"{len(pages)} pages of documentation, {len(problems)} problems")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
