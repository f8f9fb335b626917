#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds a commit twice, from clean clones in two folders whose names differ in
# length, too, and compares every byte of what is handed to others.
#
# Usage: tests/packages/reproducible.sh CARGO_TARGET_DIR [TARGET...]
#
# The targets are those of the Makefile, by default all of them. Cargo's tools are
# taken from the folder, and installed there.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly ROOT
tools=$(realpath -m "$1/tools")
shift
(($#)) || set -- deb static image sbom

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset CARGO_TARGET_DIR MAKEFLAGS
for clone in "$work/one" "$work/another/folder"; do
	git clone --quiet --no-local "$ROOT" "$clone"
	make --no-print-directory -C "$clone" TOOLS="$tools" "$@" >&2
	(cd "$clone/target/dist" && sha256sum -- *) >"$clone.sums"
done
cat "$work/one.sums"
diff "$work/one.sums" "$work/another/folder.sums"
echo "reproducible.sh: both are the same"
