# What a contributor types. `make demo` and `make test` need nothing but git, make, curl and Rust on Debian or Ubuntu.

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get
# Headers of liblxc and the C compiler for SQLite; the program itself finds liblxc when it runs.
BUILD_PACKAGES := gcc libc6-dev libclang-dev lxc-dev pkg-config
# What tests use besides adt's own needs: real clients and servers.
TEST_PACKAGES := apache2 bind9 bind9-dnsutils bind9-utils bsdutils curl dnsmasq-base e2fsprogs iputils-ping iproute2 \
	libnss3-tools nghttp2-client nginx-light openssh-client openssl perl-base python3 python3-grpcio python3-websockets \
	qemu-system-x86 rsyslog systemd util-linux wrk xfsprogs \
	$(shell . /etc/os-release; [ "$$ID" = ubuntu ] || echo chromium chromium-driver) # Ubuntu's is a snap, which no test can put apart

.PHONY: help demo test test-hosts check audit fmt clippy bench build-packages test-packages nextest

help:
	@echo "make demo    install, build, and show environment 1161 of the example platform"
	@echo "make test    install what the tests need and run all of them"
	@echo "make test-hosts  usual hosts in virtual machines (Debian 12 and 13), all of it; make test has a short form"
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

demo: build-packages
	cargo build --release --quiet
	@$(SUDO) ./demo target/release/adt

test: build-packages test-packages nextest
	cargo build --quiet
	$(SUDO) target/debug/adt host:bootstrap --no-service
	$(SUDO) env "PATH=$$PATH" "CARGO_HOME=$${CARGO_HOME:-$$HOME/.cargo}" "RUSTUP_HOME=$${RUSTUP_HOME:-$$HOME/.rustup}" CI=$(CI) \
		cargo nextest run --no-fail-fast

# Emulated, so that it needs nothing of the processor; the disks are kept in /var/tmp/adt-test-hosts.
test-hosts: build-packages test-packages nextest
	cargo build --quiet
	$(SUDO) target/debug/adt host:bootstrap --no-service
	$(SUDO) env "PATH=$$PATH" "CARGO_HOME=$${CARGO_HOME:-$$HOME/.cargo}" "RUSTUP_HOME=$${RUSTUP_HOME:-$$HOME/.rustup}" CI=$(CI) \
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
	$(SUDO) env "PATH=$$PATH" "CARGO_HOME=$${CARGO_HOME:-$$HOME/.cargo}" "RUSTUP_HOME=$${RUSTUP_HOME:-$$HOME/.rustup}" \
		cargo bench --quiet --bench environments
