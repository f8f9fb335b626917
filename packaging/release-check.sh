#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Walks through the list of RELEASING.md, and stops at the first point that is
# not met. Publishes nothing.
#
# Usage: packaging/release-check.sh [--first N]
#
#	--first N	begin with this point of the list
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
first=1
case ${1:-} in
'') ;;
--first) first=$2 ;;
*)
	echo "usage: release-check.sh [--first N]" >&2
	exit 2
	;;
esac
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

die() {
	echo "release-check.sh: $*" >&2
	exit 1
}

is_clean() {
	[[ -z $(git status --porcelain) ]] || die "the work tree is not clean: $(git status --short | head -n 5)"
}

versions_agree() {
	local page unreleased

	for page in man/*; do
		grep -q "^\.TH .*\"tcpconnect $version\"" "$page" || grep -q '^\.so ' "$page" ||
			die "$page is not of version $version"
	done
	grep -q -E "^## \[$version\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md ||
		die "CHANGELOG.md has no section [$version] with a date"
	unreleased=$(sed -n '/^## \[Unreleased\]/,/^## \['"$version"'\]/p' CHANGELOG.md | grep -c '^- ' || true)
	[[ $unreleased == 0 ]] || die "$unreleased changes of CHANGELOG.md are not of a version yet"
}

# It is handed on without a registry, and has no page that its manifest could name.
packs() {
	local said

	said=$(cargo package --locked --quiet --no-metadata 2>&1) || die "$said"
	[[ -z $said ]] || die "cargo package says: $said"
}

checksums() {
	(cd target/dist && rm -f SHA256SUMS && sha256sum -- * >"$work" && mv "$work" SHA256SUMS && cat SHA256SUMS)
}

work=$(mktemp)
trap 'rm -f "$work"' EXIT
point=0
for step in is_clean versions_agree 'make deny' packs 'make test' 'make deb static image sbom' \
	'make test-deb test-static test-kubernetes' 'make reproducible' checksums; do
	point=$((point + 1))
	((point >= first)) || continue
	echo "== $point. $step"
	$step
done
echo "release-check.sh: $version can be released"
