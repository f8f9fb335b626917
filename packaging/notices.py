#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the licences of all that is linked into the program, as their packages have them: notices.py PROGRAM.

A static PROGRAM has the C library, libelf and zlib in it, too: their licences are those that Debian's
packages tell.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

NAMES = re.compile(r"(licen[cs]e|copying|notice|copyright|unlicense)([-._].*)?$", re.IGNORECASE)
# libbpf is in the package of its bindings.
VENDORED = {"libbpf-sys": ["libbpf"]}
STATIC = ["libc6-dev", "libelf-dev", "zlib1g-dev"]


def output(*words):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def linked(features):
    """The packages, but those that only make code while others are compiled."""
    host = re.search("host: (.*)", output("rustc", "-vV"))[1]
    words = ["--locked", "--format-version=1", f"--filter-platform={host}", f"--features={features}"]
    metadata = json.loads(output("cargo", "metadata", "--no-default-features", *words))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    found, todo = set(), [root]
    while todo:
        package = todo.pop()
        is_macro = any("proc-macro" in target["kind"] for target in packages[package]["targets"])
        if package in found or is_macro:
            continue
        found.add(package)
        for dependency in nodes[package]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                todo.append(dependency["pkg"])
    return sorted((packages[id] for id in found - {root}), key=lambda package: package["name"])


def texts(package):
    folder = Path(package["manifest_path"]).parent
    folders = [folder] + [folder / name for name in VENDORED.get(package["name"], [])]
    files = [file for folder in folders for file in sorted(folder.iterdir())]
    return [file.read_text().strip() for file in files if file.is_file() and NAMES.match(file.name)]


def main():
    said = dict(line.split(": ", 1) for line in output(sys.argv[1], "--version").splitlines() if ": " in line)
    print("tcpconnect contains the following software.\n")
    of_text = {}
    for package in linked(said["features"]):
        name = f"{package['name']} {package['version']}"
        print(f"{name}: {package['license']}")
        for text in texts(package):
            of_text.setdefault(text, []).append(name)
    print("The standard library of Rust, copyright The Rust Project contributors: MIT OR Apache-2.0")
    if said["target"].endswith("static"):
        for name in STATIC:
            print(f"{name} of Debian, see below")
            of_text.setdefault(Path(f"/usr/share/doc/{name}/copyright").read_text().strip(), []).append(name)
    for text, names in of_text.items():
        print(f"\n{'=' * 80}\n{', '.join(names)}\n\n{text}")


main()
