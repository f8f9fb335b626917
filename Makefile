# SPDX-License-Identifier: Apache-2.0
# Two commands matter: make run, make test. Each installs what it needs.

PREFIX ?= /usr/local
DESTDIR ?=
ARGS ?=
PART ?=
SECONDS ?= 60
# Where more is the rule: as many as given, else so many.
seconds_or = $(if $(filter file,$(origin SECONDS)),$(1),$(SECONDS))
# Of the model; without a seed the time gives one.
SEED ?=
SCENARIOS ?= 2000
CARGO ?= cargo
CARGO_TARGET_DIR ?= target

BIN := $(CARGO_TARGET_DIR)/release/tcpconnect
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# The engines that tests/join.rs and tests/fleet.rs ask, and with what tests/runtimes/cri.py does.
VENV := $(CARGO_TARGET_DIR)/venv
TOOLS := $(CARGO_TARGET_DIR)/tools
FUZZED := $(CARGO_TARGET_DIR)/fuzz
SBIN := $(DESTDIR)$(PREFIX)/sbin
MAN5 := $(DESTDIR)$(PREFIX)/share/man/man5
UNITS := $(DESTDIR)$(PREFIX)/lib/systemd/system
SYSUSERS := $(DESTDIR)$(PREFIX)/lib/sysusers.d
MAN8 := $(DESTDIR)$(PREFIX)/share/man/man8
SHARE := $(DESTDIR)$(PREFIX)/share
SQL := $(SHARE)/tcpconnect/sql

# Where Debian keeps ip and bpftool, which a user's PATH need not have.
export PATH := $(PATH):/usr/sbin:/sbin

# thing:package, where a thing is a command, or a file if it begins with /.
BUILD_NEEDS := cc:gcc cc:libc6-dev clang:clang pkg-config:pkg-config \
	/usr/include/libelf.h:libelf-dev /usr/include/zlib.h:zlib1g-dev
TEST_NEEDS := bpftool:bpftool ip:iproute2 unshare:util-linux curl:curl dnsmasq:dnsmasq-base dig:bind9-dnsutils musl-gcc:musl-tools man:man-db groff:groff-base \
	qemu-system-x86_64:qemu-system-x86 /usr/share/doc/busybox-static:busybox-static xz:xz-utils zstd:zstd \
	/usr/bin/python3:python3 /usr/share/doc/python3-venv:python3-venv

RUNTIME_NEEDS := dockerd:docker.io containerd:containerd runc:runc podman:podman conmon:conmon \
	crun:crun newuidmap:uidmap /lib/systemd/systemd:systemd /usr/lib/systemd/user/dbus.service:dbus-user-session \
	/usr/share/doc/busybox-static:busybox-static lxc-start:lxc
FLEET_NEEDS := java:default-jre-headless
BENCH_NEEDS := ss:iproute2 lsof:lsof
FUZZ_NEEDS := c++:g++
PACKAGE_NEEDS := dpkg-shlibdeps:dpkg-dev lintian:lintian /usr/bin/python3:python3
ROOTS_NEEDS := mmdebstrap:mmdebstrap unshare:util-linux /usr/share/doc/busybox-static:busybox-static
ARM64_NEEDS := mmdebstrap:mmdebstrap unshare:util-linux qemu-aarch64:qemu-user
ARM64_TEST_NEEDS := qemu-system-aarch64:qemu-system-arm /usr/share/doc/busybox-static:busybox-static readelf:binutils xz:xz-utils zstd:zstd
COMPARE_NEEDS := mmdebstrap:mmdebstrap /sbin/mke2fs:e2fsprogs

# Silent, and without network or root, when nothing is missing.
define install_missing
	@missing=; for need in $(1); do \
		case $$need in \
			/*) test -e "$${need%%:*}" ;; \
			*) command -v "$${need%%:*}" >/dev/null ;; \
		esac || missing="$$missing $${need#*:}"; \
	done; \
	test -z "$$missing" && exit; \
	echo "Installing:$$missing"; \
	if ! command -v apt-get >/dev/null; then \
		echo "There is no apt-get here. Install these by hand (Debian's names):$$missing" >&2; \
		exit 1; \
	fi; \
	$(SUDO) apt-get update -qq && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive \
		apt-get install -qq -y --no-install-recommends $$missing </dev/null >/dev/null
endef

# Runs test programs as root; cargo itself stays with the user.
TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
AS_ROOT = $(if $(SUDO),CARGO_TARGET_$(TRIPLE)_RUNNER='sudo -E')

# What is handed to others has no folder of this machine in it, and is the same whoever builds it;
# cargo test and the like keep their flags, and what they have compiled.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
DIST := target/dist
CARGO_HOME ?= $(HOME)/.cargo
RUST_SRC = $(shell rustc --print sysroot)/lib/rustlib/src/rust
RUST_COMMIT = $(shell rustc -vV | sed -n 's/^commit-hash: //p')
SAME_PATHS = --remap-path-prefix=$(CARGO_HOME)/registry/src=/crates --remap-path-prefix=$(RUST_SRC)=/rustc/$(RUST_COMMIT) \
	--remap-path-prefix=$(CURDIR)=/tcpconnect --remap-path-prefix=$(abspath $(CARGO_TARGET_DIR))=/target
# Addresses that a static program moves when it starts take a tenth of their room in this form, which
# the C library that is linked reads from 2.36 on: 165 KB.
PACKED = $(shell printf '%s\n' 2.36 "$$(getconf GNU_LIBC_VERSION | sed 's/.* //')" | sort -C -V && \
	echo -C link-arg=-Wl,-z,pack-relative-relocs)
COMMIT = $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null)
EPOCH = $(shell git log -1 --format=%ct 2>/dev/null || date -r CHANGELOG.md +%s)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# As $(DIST)/$(1), with options of cargo and rustc.
define build_dist
	RUSTFLAGS='$(SAME_PATHS) $(3)' TCPCONNECT_COMMIT='$(COMMIT)' LIBBPF_SYS_LIBRARY_PATH=/usr/lib/$(shell cc -print-multiarch) \
		$(CARGO) build --release --locked --bin tcpconnect --target $(HOST) $(2)
	install -D -m 755 $(CARGO_TARGET_DIR)/$(HOST)/release/tcpconnect $(DIST)/$(1)
endef
# The same for arm64, by a compiler in a root of its own, whose folders have the same names everywhere.
ARM64 := aarch64-unknown-linux-gnu
ARM64_PATHS = --remap-path-prefix=/cargo/registry/src=/crates --remap-path-prefix=/tcpconnect/target/arm64=/target
define in_arm64_root
	$(CARGO) fetch --locked --quiet
	$(SUDO) packaging/arm64.sh '$(CARGO_HOME)' env CARGO_TARGET_DIR=target/arm64 $(1)
endef
# tool@version: what of cargo's is only for packages.
define install_tool
	@test -x $(TOOLS)/bin/$(firstword $(subst @, ,$(1))) || $(CARGO) install --debug --quiet --locked --root $(TOOLS) $(1)
endef

.PHONY: help run build lint check check-units check-live check-machines client runtimes fleet test model soak fuzz bench size compare install deb static static-arm64 test-arm64 image sbom deny reproducible test-deb test-static test-kubernetes release-check deps deps-build deps-test deps-runtimes

help:
	@echo 'make run [ARGS="-t -L"]  build, then trace every connect of this machine until Ctrl-C'
	@echo 'make build               $(BIN)'
	@echo 'make check               formatting, lints, unit, CLI, documentation and live tests, and the model'
	@echo 'make test                make check, make runtimes, and the tests on other kernels in virtual machines'
	@echo 'make runtimes [CONTAINERS=110]  those of docker, podman, also of a user and in units, LXC, and containerd, which it installs'
	@echo 'make fleet               the SQL of sql/ in DuckDB, ClickHouse and Spark, which it installs'
	@echo 'make model [SEED=1] [SCENARIOS=2000]  random histories of sockets beside a model of them'
	@echo 'make fuzz [SECONDS=60]      any bytes as DNS messages, as records of the kernel, and as lines of --read'
	@echo 'make soak [SECONDS=3600]  such histories, storms of them and attacks, until the time is over'
	@echo 'make bench [PART=snapshot]  what tracing costs; PART=growth [SECONDS=600]: what attacks make it take'
	@echo 'make compare             the same connects beside BCC, libbpf-tools and bpftrace (long); PART=cost, bytes or loss'
	@echo 'make compare PART=kernels  what libbpf-tools and this cost on each kernel of the tests'
	@echo 'make size [ARGS=--no-default-features]  what the program is made of, in bytes'
	@echo 'make install             to PREFIX=$(PREFIX), below DESTDIR if set'
	@echo 'make deb                 a package for Debian and its like, in $(DIST)'
	@echo 'make static              one file that needs nothing where it runs: $(DIST)/tcpconnect-static'
	@echo 'make static-arm64, test-arm64  the same for arm64, which is compiled here; the live tests on kernels of arm64, emulated'
	@echo 'make image               the same as an image for docker, podman and Kubernetes'
	@echo 'make test-deb, test-static, reproducible  that these work in other releases, and are the same when built again'
	@echo 'make test-kubernetes     that packaging/kubernetes.yaml is as Kubernetes wants it'
	@echo 'make sbom, make deny     what is in the program; whether licences and sources of it are as they must be'
	@echo 'make release-check       all that RELEASING.md asks for'
	@echo 'make deps                install what build and tests need (deps-build, deps-test)'

run: build
	$(SUDO) $(BIN) $(ARGS)

build: deps-build
	$(CARGO) build --release --locked

lint: deps
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --locked --all-targets -- -D warnings

# All are compiled at once: one after the other, each leaves a CPU without work. So would the
# live tests, which wait for most of their time.
check: deps lint $(VENV)/installed
	$(CARGO) test --locked --no-run
	$(MAKE) --jobs=2 --output-sync=target check-units check-live
	$(AS_ROOT) $(CARGO) test --locked --test model -- --seed 1000000 --scenarios 2000 --storms 4
	$(AS_ROOT) $(CARGO) test --locked --test join

check-units:
	$(CARGO) test --locked --lib --bins --test cli --test docs --test fuzzed --test house --test parquet --test snapshots --test properties --test replay --test there_and_back --test wakeup

check-live:
	$(AS_ROOT) $(CARGO) test --locked --test live

# The release build ends with a minute on one CPU, and the engines come over the network:
# both go beside the lints. Containers are mostly waited for, so they go beside the machines.
test: deps
	$(MAKE) --jobs=3 --output-sync=target lint build $(VENV)/installed
	$(MAKE) check
	$(MAKE) --jobs=2 --output-sync=target runtimes check-machines

check-machines:
	$(CARGO) test --locked --test matrix
	$(CARGO) test --locked --test states

# No daemon is to start with its package: the tests start their own.
runtimes: client $(VENV)/installed
	@if ! test -e /usr/sbin/policy-rc.d; then \
		trap '$(SUDO) rm -f /usr/sbin/policy-rc.d' EXIT; \
		printf '#!/bin/sh\nexit 101\n' | $(SUDO) install -m 755 /dev/stdin /usr/sbin/policy-rc.d; \
	fi; \
	$(MAKE) --no-print-directory deps-runtimes
	$(AS_ROOT) $(if $(CONTAINERS),TEST_CONTAINERS=$(CONTAINERS)) $(CARGO) test --locked --test runtimes -- --test-threads=1

# Spark comes as a source package of 400 MB, and wants Java.
fleet: deps $(VENV)/installed
	$(call install_missing,$(FLEET_NEEDS))
	$(VENV)/bin/pip install --quiet -r tests/fleet/requirements.txt
	$(AS_ROOT) $(CARGO) test --locked --test fleet

deps-runtimes:
	$(call install_missing,$(RUNTIME_NEEDS))

# `cargo test --test NAME` does not build what the test runs.
client: deps
	$(CARGO) build --locked --example client

model: client
	$(AS_ROOT) $(CARGO) test --locked --test model -- $(if $(SEED),--seed $(SEED)) --scenarios $(SCENARIOS) $(ARGS)

soak: client
	$(AS_ROOT) $(CARGO) test --locked --test model -- $(if $(SEED),--seed $(SEED)) --soak $(call seconds_or,3600)

# Stable Rust has no sanitizers, and there is next to no unsafe code behind these.
fuzz: deps-build
	$(call install_missing,$(FUZZ_NEEDS))
	@test -x $(TOOLS)/bin/cargo-fuzz || $(CARGO) install --quiet --locked --root $(TOOLS) cargo-fuzz
	@mkdir -p $(FUZZED)/found/line $(FUZZED)/found/message $(FUZZED)/found/record
	for target in line message record; do \
		PATH="$(abspath $(TOOLS))/bin:$$PATH" $(CARGO) fuzz run --sanitizer none --target-dir $(FUZZED) $$target \
			$(FUZZED)/found/$$target tests/corpus/$$target -- \
			-max_total_time=$(SECONDS) -artifact_prefix=$(FUZZED)/ -verbosity=0 -print_final_stats=1 || exit; \
	done

bench: deps build
	$(call install_missing,$(BENCH_NEEDS))
	$(CARGO) build --release --locked --example client
	$(AS_ROOT) $(CARGO) bench --locked --bench bench -- $(PART) $(if $(filter growth,$(PART)),--seconds $(call seconds_or,600))

# Apart from the release, whose symbols are stripped.
size: deps-build
	$(call install_missing,/usr/bin/python3:python3 readelf:binutils)
	CARGO_PROFILE_RELEASE_STRIP=false $(CARGO) build --release --locked --bin tcpconnect --target-dir $(CARGO_TARGET_DIR)/size $(ARGS)
	packaging/size.py $(CARGO_TARGET_DIR)/size/release/tcpconnect

compare: deps
	$(call install_missing,$(COMPARE_NEEDS))
	$(CARGO) test --locked --test compare -- $(PART)

$(DIST)/tcpconnect: FORCE | deps-build
	$(call build_dist,tcpconnect)

$(DIST)/tcpconnect-static: FORCE | deps-build
	$(call build_dist,tcpconnect-static,--features static,-C target-feature=+crt-static $(PACKED))

# What its distributor owes is in RELEASING.md.
static: $(DIST)/tcpconnect-static
	$(call install_missing,/usr/bin/python3:python3)
	packaging/notices.py $< >$(DIST)/THIRD-PARTY-static
	dpkg-query -W -f '$${source:Package} $${source:Version}\n' libc6-dev libelf-dev zlib1g-dev >$(DIST)/static-sources

$(DIST)/tcpconnect-static-arm64: FORCE
	$(call install_missing,$(ARM64_NEEDS))
	$(call in_arm64_root,TCPCONNECT_COMMIT='$(COMMIT)' RUSTFLAGS='$(ARM64_PATHS) -C target-feature=+crt-static' \
		cargo build --release --locked --bin tcpconnect --target $(ARM64) --features static)
	install -D -m 755 target/arm64/$(ARM64)/release/tcpconnect $@

static-arm64: $(DIST)/tcpconnect-static-arm64
	$(call install_missing,/usr/bin/python3:python3)
	packaging/notices.py --root target/vm/arm64/cross qemu-aarch64 $< >$(DIST)/THIRD-PARTY-static-arm64
	dpkg-query --root target/vm/arm64/cross -W -f '$${source:Package} $${source:Version}\n' \
		libc6-dev:arm64 libelf-dev:arm64 zlib1g-dev:arm64 libzstd-dev:arm64 >$(DIST)/static-arm64-sources

# The tests themselves are linked as usual, and find the libraries of their root in the machines.
test-arm64: static-arm64
	$(call install_missing,$(ARM64_TEST_NEEDS))
	$(call in_arm64_root,cargo build --locked --example client --target $(ARM64))
	$(call in_arm64_root,cargo test --locked --no-run --test live --target $(ARM64))
	$(call in_arm64_root,aarch64-linux-gnu-gcc -specs /usr/lib/aarch64-linux-musl/musl-gcc.specs -static -o target/arm64/musl tests/musl.c)
	tests/vm/arm64.sh $(DIST)/tcpconnect-static-arm64

# Whoever builds a package for himself need have no address that the world can write to, and no
# archive asked for it.
NOT_FOR_AN_ARCHIVE := bogus-mail-host,bogus-mail-host-in-debian-changelog,initial-upload-closes-no-bugs
# cargo-deb has its assets in Cargo.toml. Whatever differs by prefix or date is made here.
deb: $(DIST)/tcpconnect
	$(call install_missing,$(PACKAGE_NEEDS))
	$(call install_tool,cargo-deb@3.8.0)
	packaging/deb.sh $(abspath $(TOOLS))/bin/cargo-deb $(VERSION) $(EPOCH)
	cd $(DIST) && lintian --allow-root --fail-on error,warning --suppress-tags $(NOT_FOR_AN_ARCHIVE) tcpconnect_$(VERSION)-1_*.deb

# Installs an earlier version first, which is the same but for its number.
test-deb: deb
	$(call install_missing,$(ROOTS_NEEDS))
	packaging/deb.sh $(abspath $(TOOLS))/bin/cargo-deb 0.0.1 $(EPOCH) target/deb-old
	$(SUDO) tests/packages/deb.sh target/deb-old/tcpconnect_0.0.1-1_*.deb $(DIST)/tcpconnect_$(VERSION)-1_*.deb

test-static: static
	$(call install_missing,$(ROOTS_NEEDS))
	$(SUDO) tests/packages/static.sh $(DIST)/tcpconnect-static

# By the schema of the newest version; a field that it does not have is an error.
test-kubernetes: $(VENV)/installed
	$(VENV)/bin/pip install --quiet --only-binary :all: -r tests/packages/requirements.txt
	$(VENV)/bin/kubernetes-validate --strict packaging/kubernetes.yaml

image: static
	packaging/image.sh $(DIST)/tcpconnect-static $(VERSION) $(EPOCH) $(DIST)/tcpconnect-image.tar

reproducible: deps-build
	$(call install_missing,$(PACKAGE_NEEDS))
	tests/packages/reproducible.sh $(CARGO_TARGET_DIR)

sbom:
	$(call install_tool,cargo-cyclonedx@0.5.9)
	@mkdir -p $(DIST)
	SOURCE_DATE_EPOCH=$(EPOCH) PATH="$(abspath $(TOOLS))/bin:$$PATH" $(CARGO) cyclonedx --quiet --format json --target $(HOST) --override-filename tcpconnect
	mv tcpconnect.json $(DIST)/tcpconnect.cdx.json

# Known vulnerabilities come over the network, and are asked for last.
deny:
	$(call install_tool,cargo-deny@0.20.2)
	PATH="$(abspath $(TOOLS))/bin:$$PATH" $(CARGO) deny --locked check licenses sources bans
	PATH="$(abspath $(TOOLS))/bin:$$PATH" $(CARGO) deny --locked check advisories || \
		echo 'Known vulnerabilities were not asked for, or there are some: see above.' >&2

release-check:
	packaging/release-check.sh

# Builds nothing, so that root needs no Rust: run make build first.
install:
	@test -x $(BIN) || { echo 'Run make build first: there is no $(BIN).' >&2; exit 1; }
	install -D -m 755 $(BIN) $(SBIN)/tcpconnect
	ln -sf tcpconnect $(SBIN)/tcpv4connect
	install -D -m 644 -t $(MAN8) man/tcpconnect.8 man/tcpv4connect.8
	install -D -m 644 -t $(MAN5) man/tcpconnect-json.5
	install -D -m 644 -t $(SQL) sql/*.sql
	install -D -m 644 -t $(SHARE)/bash-completion/completions completions/tcpconnect
	install -D -m 644 -t $(SHARE)/zsh/site-functions completions/_tcpconnect
	install -D -m 644 -t $(SHARE)/fish/vendor_completions.d completions/tcpconnect.fish
	install -d $(UNITS) $(SYSUSERS)
	sed 's|/usr/local/sbin/|$(PREFIX)/sbin/|' systemd/tcpconnect-record.service >$(UNITS)/tcpconnect-record.service
	install -m 644 systemd/tcpconnect.sysusers $(SYSUSERS)/tcpconnect.conf

deps: deps-build deps-test

deps-build:
	@command -v $(CARGO) >/dev/null || { echo 'Install Rust first: https://rustup.rs' >&2; exit 1; }
	$(call install_missing,$(BUILD_NEEDS))

deps-test:
	$(call install_missing,$(TEST_NEEDS))
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || \
		rustup component add rustfmt clippy

$(VENV)/installed: tests/join/requirements.txt tests/runtimes/requirements.txt | deps-test
	/usr/bin/python3 -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --only-binary :all: $(addprefix -r ,$^)
	@touch $@

FORCE:
