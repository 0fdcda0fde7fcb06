.PHONY: setup test demo build bench fmt

AGENT := .cache/agent

build:
	CGO_ENABLED=0 go build -trimpath -o bin/claude-hub ./cmd/claude-hub

setup: $(AGENT)/.installed
	@command -v bwrap >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq bubblewrap; } || \
		{ echo "bubblewrap is missing. Type: sudo apt-get install bubblewrap" >&2; exit 1; }

$(AGENT)/.installed: internal/agent/cli/package.json internal/agent/cli/package-lock.json
	mkdir -p $(AGENT)
	cp internal/agent/cli/package.json internal/agent/cli/package-lock.json $(AGENT)/
	cd $(AGENT) && npm ci --no-audit --no-fund --loglevel=error
	touch $@

test: setup
	go vet ./...
	go test -race ./...
