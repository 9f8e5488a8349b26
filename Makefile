# What a contributor types. `make demo` and `make test` need nothing but git, make, curl and Rust on Debian or Ubuntu.

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get
# The C compiler for SQLite, zstd and ring; the program finds liblxc when it runs.
BUILD_PACKAGES := gcc libc6-dev
DEB_PACKAGES := dpkg-dev
# What tests use besides adt's own needs: real clients and servers.
TEST_PACKAGES := apache2 bind9 bind9-dnsutils bind9-utils bsdutils curl dnsmasq-base e2fsprogs iputils-ping iproute2 knot \
	libnss3-tools lxc-dev nghttp2-client nginx-light openssh-client openssl pebble perl-base python3 python3-grpcio python3-websockets \
	qemu-system-x86 rsyslog systemd util-linux wrk xfsprogs zsh fish $(DEB_PACKAGES) \
	$(shell . /etc/os-release; [ "$$ID" = ubuntu ] || echo chromium chromium-driver) # Ubuntu's is a snap, which no test can put apart

# What is installed and packaged: the optimised build, which takes its minutes. `PROFILE=demo` is the one of `make demo`.
PROFILE := release
BUILT := target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
# Made by the program that they are about, for `make install` and the package.
PAGES := target/pages
PREFIX := /usr/local
# The quick build may use the host's zstd, which saves 48 s of compiling. Its SQLite may be too old.
ifeq ($(PROFILE),demo)
BUILD_PACKAGES += libzstd-dev pkg-config
export ZSTD_SYS_USE_PKG_CONFIG := 1
endif
# Where servers are; on Debian only root looks there.
SBIN := /usr/local/sbin:/usr/sbin:/sbin
# A folder for somebody's own package needs no rights.
AS_ROOT := $(if $(DESTDIR),,$(SUDO))

.PHONY: help demo demo-build build install put uninstall deb package pages test test-fresh test-hosts check audit fmt clippy bench build-packages \
	test-packages nextest cargo-deb

help:
	@echo "make demo    install, build, and show environment 1161 of the example platform"
	@echo "make install build, and put adt, its man pages and completions under $(PREFIX); \`uninstall\` takes them away"
	@echo "make deb     the same as a Debian package"
	@echo "make test    install what the tests need and run all of them; TESTS='test(name)' chooses some"
	@echo "make test-fresh  the demo and some tests on bare Debian 12 and 13, in machines; an hour"
	@echo "make test-hosts  adt on usual Debian 12 and 13, in virtual machines; an hour"
	@echo "make check   what CI runs: format, lints, tests, and what the crates are (deny.toml)"
	@echo "make audit   known flaws of the crates; fetches cargo-deny once and the advisories each time"
	@echo "make bench   measure against peers; prints the tables of docs/measured.md"

# Installs only what is missing, so that a second run needs neither network nor time.
define install
	@missing=$$(for package in $(1); do dpkg -s $$package >/dev/null 2>&1 || echo $$package; done); \
	if [ -n "$$missing" ]; then $(APT) update -qq && $(APT) install -y -qq --no-install-recommends $$missing; fi
endef

build-packages:
	$(call install,$(BUILD_PACKAGES))

test-packages:
	$(call install,$(TEST_PACKAGES))

nextest:
	@command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest

cargo-deb:
	@command -v cargo-deb >/dev/null || cargo install --locked cargo-deb

# `make demo ADT=PATH` shows one that is built already.
demo: $(if $(ADT),,demo-build)
	@./demo $(or $(ADT),target/demo/adt)

demo-build:
	@$(MAKE) --no-print-directory build PROFILE=demo

build: build-packages
	cargo build --profile $(PROFILE) --quiet

install: build
	@$(MAKE) --no-print-directory put

# Of what is built already.
put: pages
	$(AS_ROOT) install -D $(BUILT)/adt $(DESTDIR)$(PREFIX)/bin/adt
	$(AS_ROOT) install -D --mode 644 --target-directory $(DESTDIR)$(PREFIX)/share/man/man1 $(PAGES)/man1/*
	$(AS_ROOT) install -D --mode 644 $(PAGES)/adt.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/adt
	$(AS_ROOT) install -D --mode 644 $(PAGES)/_adt $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_adt
	$(AS_ROOT) install -D --mode 644 $(PAGES)/adt.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/adt.fish

# Units of `host:bootstrap` name the program; without it they would fail at every start.
uninstall:
	@if [ -z "$(DESTDIR)" ] && grep -qs '"$(PREFIX)/bin/adt"' /etc/systemd/system/adt*.service; then \
		echo "the host's services still run $(PREFIX)/bin/adt; first: sudo adt host:bootstrap --remove (--keep-data)" >&2; exit 1; fi
	$(AS_ROOT) rm -f $(DESTDIR)$(PREFIX)/bin/adt \
		$(DESTDIR)$(PREFIX)/share/man/man1/adt.1 $(DESTDIR)$(PREFIX)/share/man/man1/adt-*.1 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/adt \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_adt \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/adt.fish

deb: build cargo-deb
	$(call install,$(DEB_PACKAGES))
	@$(MAKE) --no-print-directory package

# Of what is built already, too. A package says when it was made, and two of one commit say the same.
package: pages
	@printf 'adt (%s-1) unstable; urgency=medium\n\n  * /usr/share/doc/adt/CHANGELOG.md has what users notice.\n\n -- %s  %s\n' \
		"$$($(BUILT)/adt --version | cut -d ' ' -f 2)" "The authors of adt <adt@example.test>" \
		"$$(git log -1 --format=%cD 2>/dev/null || date -R)" >$(PAGES)/changelog
	cargo deb --no-build --profile $(PROFILE) $(DEB_FLAGS)

pages:
	@rm -rf $(PAGES) && mkdir -p $(PAGES)
	@$(BUILT)/adt man --output $(PAGES)/man1
	@$(BUILT)/adt completions bash >$(PAGES)/adt.bash
	@$(BUILT)/adt completions zsh >$(PAGES)/_adt
	@$(BUILT)/adt completions fish >$(PAGES)/adt.fish

test: build-packages test-packages nextest cargo-deb
	cargo build --quiet
	$(SUDO) target/debug/adt host:bootstrap --no-service
	$(SUDO) env "PATH=$$PATH:$(SBIN)" "CARGO_HOME=$${CARGO_HOME:-$$HOME/.cargo}" "RUSTUP_HOME=$${RUSTUP_HOME:-$$HOME/.rustup}" CI=$(CI) \
		cargo nextest run --no-fail-fast $(if $(TESTS),-E '$(TESTS)')

# Needs an hour on two cores, and the network.
test-fresh: build-packages test-packages nextest
	cargo build --quiet
	$(SUDO) target/debug/adt host:bootstrap --no-service
	$(SUDO) env "PATH=$$PATH:$(SBIN)" "CARGO_HOME=$${CARGO_HOME:-$$HOME/.cargo}" "RUSTUP_HOME=$${RUSTUP_HOME:-$$HOME/.rustup}" CI=$(CI) \
		cargo nextest run --no-fail-fast --run-ignored only -E 'test(/^real_fresh::/)'

# Emulated, so that it needs nothing of the processor; the disks are kept in /var/tmp/adt-test-hosts.
test-hosts: build-packages test-packages nextest
	cargo build --quiet
	$(SUDO) target/debug/adt host:bootstrap --no-service
	$(SUDO) env "PATH=$$PATH:$(SBIN)" "CARGO_HOME=$${CARGO_HOME:-$$HOME/.cargo}" "RUSTUP_HOME=$${RUSTUP_HOME:-$$HOME/.rustup}" CI=$(CI) \
		cargo nextest run --no-fail-fast --run-ignored all -E 'test(/^usual_host::/)'

fmt:
	cargo fmt --check

clippy: build-packages
	cargo clippy --quiet --all-targets -- -D warnings

check: fmt clippy test

# The only check that takes network: advisories are no part of a package that could be installed. All else of deny.toml is in
# `make test`.
audit:
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check

bench: build-packages
	cargo build --release --quiet
	$(SUDO) env "PATH=$$PATH:$(SBIN)" "CARGO_HOME=$${CARGO_HOME:-$$HOME/.cargo}" "RUSTUP_HOME=$${RUSTUP_HOME:-$$HOME/.rustup}" \
		cargo bench --quiet --bench environments
