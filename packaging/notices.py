#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the licences of all that is linked into the program, as their packages have them:
notices.py [--root ROOT] PROGRAM...

A static PROGRAM has the C library, libelf and zlib in it, too: their licences are those that Debian's
packages tell, which are below ROOT. PROGRAM may be words: an emulator and what it runs.
"""

import argparse
import json
import re
import subprocess
from pathlib import Path

NAMES = re.compile(r"(licen[cs]e|copying|notice|copyright|unlicense)([-._].*)?$", re.IGNORECASE)
# libbpf is in the package of its bindings.
VENDORED = {"libbpf-sys": ["libbpf"]}
STATIC = ["libc6-dev", "libelf-dev", "zlib1g-dev"]
# Is in libelf from 0.189 on, and its package says so.
OF_LIBELF = "libzstd-dev"


def output(*words):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def linked(features, target):
    """The packages, but those that only make code while others are compiled."""
    words = ["--locked", "--format-version=1", f"--filter-platform={target}", f"--features={features}"]
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
    options = argparse.ArgumentParser()
    options.add_argument("--root", type=Path, default=Path("/"))
    options.add_argument("program", nargs="+")
    given = options.parse_args()
    said = dict(line.split(": ", 1) for line in output(*given.program, "--version").splitlines() if ": " in line)
    target, linkage = said["target"].split(", ")
    print("tcpconnect contains the following software.\n")
    of_text = {}
    for package in linked(said["features"], target):
        name = f"{package['name']} {package['version']}"
        print(f"{name}: {package['license']}")
        for text in texts(package):
            of_text.setdefault(text, []).append(name)
    print("The standard library of Rust, copyright The Rust Project contributors: MIT OR Apache-2.0")
    if linkage == "static":
        needs = output("dpkg-query", f"--root={given.root}", "-W", "-f", "${Depends}", "libelf-dev")
        for name in STATIC + [OF_LIBELF] * (OF_LIBELF in needs):
            print(f"{name} of Debian, see below")
            text = (given.root / "usr/share/doc" / name / "copyright").read_text().strip()
            of_text.setdefault(text, []).append(name)
    for text, names in of_text.items():
        print(f"\n{'=' * 80}\n{', '.join(names)}\n\n{text}")


main()
