#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Owns target/deb, what Cargo.toml's list of assets takes from there, and the
# Debian package of target/dist/tcpconnect that cargo-deb makes of these.
# Compiles nothing.
#
# Usage: packaging/deb.sh CARGO_DEB VERSION EPOCH [OUT_DIR]
#
# Who answers for the package is in MAINTAINER, as "NAME <ADDRESS>"; by default it
# is whoever commits here.
set -euo pipefail

readonly CARGO_DEB=$1 VERSION=$2 EPOCH=$3 OUT=${4:-target/dist}
readonly MADE=target/deb
readonly MAINTAINER=${MAINTAINER:-$(git config user.name) <$(git config user.email)>}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
rm -rf "$MADE"
mkdir -p "$MADE" "$OUT"
ln -s tcpconnect "$MADE/tcpv4connect"
sed 's|/usr/local/sbin/|/usr/sbin/|' systemd/tcpconnect-record.service >"$MADE/tcpconnect-record.service"
packaging/notices.py target/dist/tcpconnect | gzip -9n >"$MADE/THIRD-PARTY.gz"
gzip -9n <CHANGELOG.md >"$MADE/changelog.gz"
cat >"$MADE/changelog" <<CHANGES
tcpconnect ($VERSION-1) unstable; urgency=medium

  * What is new is in changelog.gz.

 -- $MAINTAINER  $(date -u -R -d "@$EPOCH")
CHANGES
SOURCE_DATE_EPOCH=$EPOCH "$CARGO_DEB" deb --no-build --no-strip --quiet \
	--maintainer "$MAINTAINER" --deb-version "$VERSION-1" --output "$OUT/"
