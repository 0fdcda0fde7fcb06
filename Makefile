# `make demo` and `make test` do all their own set-up.

AGENT := .cache/agent
TOOLS := .cache/tools
CLAUDE := $(AGENT)/node_modules/.bin/claude

.PHONY: build parts setup test lint fuzz demo bench

build:
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o bin/claude-hub ./cmd/claude-hub

# What a run needs: the CLI and the sandbox.
parts: $(AGENT)/.installed
	@scripts/debian-packages bubblewrap:bwrap

# What the tests and benchmarks need besides: container engines with a base image, a browser.
setup: parts
	@scripts/engine

# npm now and then trips over its own directories in an empty place: hence twice.
NPM_CI := npm ci --no-audit --no-fund --no-update-notifier --loglevel=error

# The pinned claude CLI, for tests and the demo; a user's own comes with `claude-hub agent install`.
$(AGENT)/.installed: internal/agent/cli/package.json internal/agent/cli/package-lock.json
	@mkdir -p $(AGENT)
	cp internal/agent/cli/package.json internal/agent/cli/package-lock.json $(AGENT)/
	cd $(AGENT) && { $(NPM_CI) || $(NPM_CI); }
	@touch $@

demo: parts build
	PATH="$(CURDIR)/$(AGENT)/node_modules/.bin:$$PATH" bin/claude-hub demo $(DEMO)

# Many tests wait for engines and daemons: hence more of them at once than there are cores.
test: setup lint
	@scripts/debian-packages gcc libc6-dev:gcc git chromium
	go test -race -timeout 40m -parallel 4 ./...

# The linter is pinned in a module of its own, so that its dependencies are not ours. The database
# of known vulnerabilities is on the network: where it can't be reached, that is said, and no failure.
lint: $(TOOLS)/.built
	test -z "$$(gofmt -l cmd internal)" || { gofmt -l cmd internal; exit 1; }
	$(TOOLS)/golangci-lint run ./...
	@scripts/govulncheck $(TOOLS)/govulncheck

$(TOOLS)/.built: tools/go.mod tools/go.sum
	@mkdir -p $(TOOLS)
	go build -modfile=tools/go.mod -o $(TOOLS)/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint golang.org/x/vuln/cmd/govulncheck
	@touch $@

# Each fuzz target for a while; `make test` runs their seeds.
FUZZTIME ?= 30s
fuzz:
	@scripts/fuzz $(FUZZTIME)

# Every figure that the project claims, each with a baseline from the same run.
bench: setup build
	@scripts/debian-packages nginx-light:nginx caddy
	@scripts/bench $(BENCH)
