# nexec. `make help` lists what there is.

GO      ?= go
PREFIX  ?= /usr/local
DESTDIR ?=

bindir  = $(PREFIX)/bin
sbindir = $(PREFIX)/sbin
libdir  = $(PREFIX)/lib/nexec
mandir  = $(PREFIX)/share/man
docdir  = $(PREFIX)/share/doc/nexec

COMMANDS = nexec nexecd nexec-server fslave

# Static binaries without cgo; -trimpath keeps the builder's paths out of them.
# Without a readable repository (another owner's, a tarball) there is no version.
BUILDVCS := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo true || echo false)
# nexec starts at an entry of its own, which sees what the runtime would hide:
# see client/startup.
GOBUILD   = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=$(BUILDVCS) -ldflags '-s -w' \
            -ldflags 'github.com/SumiTomohiko/nexec/cmd/nexec=-s -w -E nexec_entry'

# Packages with unit tests: all but the end-to-end tests, which need the
# binaries and run twice, as root and as an ordinary user.
UNIT = $$($(GO) list ./... | grep -v '/test$$')

# Every fuzz target runs this long under `make fuzz`.
FUZZTIME ?= 60s

# The stress test does the same operations in every run; `make stress` takes
# new ones each time and prints the seed that repeats them.
STRESS ?= -stress.seed=20261122

.PHONY: all check test unit e2e e2e-user packages demo stress fuzz bench install clean help

all: ## build the four commands, static, into bin/
	mkdir -p bin
	$(GOBUILD) -o bin/ $(addprefix ./cmd/,$(COMMANDS))

check: ## gofmt, vet, staticcheck, manual pages
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' 2>/dev/null || find . -name '*.go')); \
	if [ -n "$$unformatted" ]; then echo "gofmt -w wants:" $$unformatted >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@if command -v mandoc >/dev/null; then \
	  lint=$$(mandoc -Tlint doc/*.1 doc/*.8 2>&1 | grep -v 'mandoc.db\|referenced manual not found'); \
	  if [ -n "$$lint" ]; then echo "$$lint" >&2; exit 1; fi; \
	elif [ -n "$$CI" ]; then echo "mandoc is not installed" >&2; exit 1; fi

packages: ## as root: install what the tests run
	@if [ "$$(id -u)" = 0 ]; then test/packages.sh; fi

test: packages all unit e2e ## everything; as root it also runs as an ordinary user

# The race detector needs cgo, the product does not.
unit: ## unit tests under the race detector
	CGO_ENABLED=1 $(GO) test -race $(UNIT)

# Root owns /dev/fuse with mode 0600 where nobody's udev ran, containers for
# one; Debian's udev makes it 0666, which is what a session of an ordinary user
# needs. As an ordinary user the tests run with an uid that has no account.
e2e: all ## end-to-end tests against bin/, as root and as an ordinary user
	@if [ "$$(id -u)" = 0 ] && [ -c /dev/fuse ]; then chmod 0666 /dev/fuse; fi
	NEXEC_BIN=$(CURDIR)/bin $(GO) test -count=1 -timeout 15m ./test $(STRESS)
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory e2e-user; fi

e2e-user:
	NEXEC_BIN=$(CURDIR)/bin $(GO) test -count=1 -timeout 15m -skip '^TestAsRoot' -exec $(CURDIR)/test/as-user.sh ./test $(STRESS)

demo: all ## start a throw-away nexecd on loopback and show what nexec does
	@NEXEC_BIN=$(CURDIR)/bin $(GO) run ./test/demo

stress: all ## twelve rounds of random operations from both sides, from a new seed
	NEXEC_BIN=$(CURDIR)/bin $(GO) test -count=1 -timeout 45m -run TestStress ./test -stress.rounds=12

fuzz: ## run every fuzz target for FUZZTIME
	test/fuzz.sh $(FUZZTIME)

bench: all ## measure against native, ssh, rsync and sshfs; writes doc/bench.md
	NEXEC_BIN=$(CURDIR)/bin $(GO) run ./bench $(BENCHFLAGS)

install: all ## PREFIX=/usr DESTDIR=: install commands and manual pages
	install -d $(DESTDIR)$(bindir) $(DESTDIR)$(sbindir) $(DESTDIR)$(libdir) \
	  $(DESTDIR)$(mandir)/man1 $(DESTDIR)$(mandir)/man8 $(DESTDIR)$(docdir)
	install -m 0755 bin/nexec $(DESTDIR)$(bindir)/nexec
	install -m 0755 bin/nexecd $(DESTDIR)$(sbindir)/nexecd
	install -m 0755 bin/nexec-server bin/fslave $(DESTDIR)$(libdir)/
	install -m 0644 doc/nexec.1 $(DESTDIR)$(mandir)/man1/
	install -m 0644 doc/nexecd.8 doc/nexec-server.8 doc/fslave.8 $(DESTDIR)$(mandir)/man8/
	install -m 0644 README.md LICENSE fsyscall/PROTOCOL.md $(DESTDIR)$(docdir)/

clean: ## remove what was built
	rm -rf bin test/.cache bench/out

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12
