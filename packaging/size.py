#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a program is made of, in bytes of its file: rooms of src/, crates, C, objects.

Usage: size.py PROGRAM

PROGRAM is a release that kept its symbols; what strip takes is not counted.
"""

import collections
import re
import subprocess
import sys

# What has no symbols, by section.
SECTIONS = {
    ".rela.dyn": "addresses to set at the start",
    ".data.rel.ro": "tables of addresses",
    ".rodata": "texts, constants and compressed objects",
}


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def sections(program):
    """Name, address and size of those that strip leaves in the file."""
    for line in run("readelf", "-SW", program).splitlines():
        fields = line[line.find("]") + 1 :].split()
        if len(fields) > 6 and fields[1] != "NOBITS" and "A" in fields[6]:
            yield fields[0], int(fields[2], 16), int(fields[4], 16)


def is_code(section):
    return section.startswith(".text")


def owner(name):
    """Of a function or constant, by its name."""
    room = re.match(r"<?(?:&?(?:mut )?)?tcpconnect::([a-z_]+)", name)
    room = room or re.search(r"(?:as|for) tcpconnect::([a-z_]+)|<tcpconnect::([a-z_]+)", name)
    if room:
        return "src/" + next(group for group in room.groups() if group)
    crate = re.match(r"<*(?:&?(?:mut )?)?([a-z_][a-z_0-9]*)(?:\[[0-9a-f]+\])?::", name)
    crate = crate or re.search(r"[< ]([a-z_][a-z_0-9]*)(?:\[[0-9a-f]+\])?::", name)
    return crate[1] if crate else "C: libbpf and what it is linked with"


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: size.py PROGRAM, a release with its symbols")
    program = sys.argv[1]
    parts = collections.Counter()
    named = collections.Counter()
    places = list(sections(program))
    for line in run("nm", "-C", "-S", program).splitlines():
        fields = line.split(None, 3)
        if len(fields) < 4 or fields[2] not in "tTwWrRdD":
            continue
        at, size, name = int(fields[0], 16), int(fields[1], 16), fields[3]
        section = next((n for n, start, len_ in places if start <= at < start + len_), None)
        if section is None:
            continue
        if is_code(section):
            parts[owner(name)] += size
        elif name.startswith("tcpconnect::kernel::part::TABLE"):
            parts["the object of most runs"] += size
        else:
            continue
        named[section] += size
    if not any(is_code(section) for section in named):
        sys.exit(f"size.py: {program} has no symbols; make size builds one that has")
    for section, _, size in places:
        rest = "between functions" if is_code(section) else SECTIONS.get(section, "the rest")
        parts[rest] += max(0, size - named[section])
    for part, size in parts.most_common():
        if size >= 4096:
            print(f"{size:>9} {part}")
    print(f"{sum(size for size in parts.values() if size < 4096):>9} less than 4,096 each")
    print(f"{sum(parts.values()):>9} in all")


main()
