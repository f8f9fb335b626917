#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Owns target/vm/roots: the smallest root file system of each Debian release
# that is asked for, as a tar archive. Takes mirror and signatures from the apt
# state that tests/vm/kernels.sh keeps; starts nothing in them.
#
# Usage: tests/packages/roots.sh SUITE...
#
# Those that are there stay, for a month. Where this machine takes lists however old they are, so do they:
# that of sid is valid for a week.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly VM=$ROOT/target/vm
readonly OUT=$VM/roots MAX_AGE_DAYS=30

[[ -s $VM/apt/sources.list ]] || "$ROOT/tests/vm/kernels.sh" >/dev/null
mkdir -p "$OUT"
exec 9>"$OUT/lock"
flock 9
for suite; do
	[[ -z $(find "$OUT" -name "$suite.tar" -mtime "-$MAX_AGE_DAYS") ]] || continue
	echo "roots.sh: building a root of $suite, once" >&2
	grep -E " $suite(-security)? " "$VM/apt/sources.list" |
		mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Languages "none"' \
			--aptopt="$(apt-config dump Acquire::Check-Valid-Until)" \
			--format=tar "$suite" "$OUT/$suite.new" - >&2
	mv "$OUT/$suite.new" "$OUT/$suite.tar"
done
