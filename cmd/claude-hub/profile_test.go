package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// hubOf returns what runs command lines on a new hub in this process, where an
// argument may hold what no other process could be given.
func hubOf(t *testing.T, more ...string) func(args ...string) (code int, said string) {
	t.Helper()
	environ := append([]string{"HOME=" + t.TempDir(), "CLAUDE_HUB_DIR=" + t.TempDir() + "/hub", "PATH=/usr/bin:/bin"}, more...)
	run := func(args ...string) (int, string) {
		var out bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &out, environ: environ}
		code := a.main(context.Background(), args)
		return code, out.String()
	}
	if code, said := run("init"); code != exitOK {
		t.Fatalf("init: %d: %s", code, said)
	}
	return run
}

// badNames are no profile names, each for a reason of its own.
var badNames = []string{
	"", ".", "..", "../default", "a/b", "-rf", "_x", "Default", "a b", "a\nb", "a\x00b", "default\x00", "%2f", "a.b", "\xff",
	"d\u0435fault", "defau\u217ct", "ali\u200dce", "\u202etluafed", strings.Repeat("x", 41), strings.Repeat("x", 300),
}

func TestBadProfileNamesAreRefusedEverywhere(t *testing.T) {
	run := hubOf(t)
	for _, name := range badNames {
		for _, args := range [][]string{
			{"profile", "show", "--", name}, {"profile", "default", "--", name}, {"profile", "remove", "--yes", "--", name},
			{"profile", "rename", "--", "default", name}, {"profile", "rename", "--", name, "other"},
			{"profile", "set", "--owner", "alice", "--", name},
			{"check", "--profile=" + name}, {"run", "--profile=" + name, "hello"}, {"exec", "--profile=" + name, "--", "true"},
			{"login", "--profile=" + name}, {"refresh", "--profile=" + name},
		} {
			code, said := run(args...)
			if code != exitUsage || strings.ContainsAny(strings.ReplaceAll(said, "\n", ""), "\x00\x1b\u202e") {
				t.Errorf("%q: exit code %d, %q; want %d", args, code, said, exitUsage)
			}
		}
		if name == "" || strings.Contains(name, "\x00") {
			continue // no variable can be that
		}
		code, said := hubOf(t, profileVariable+"="+name)("check")
		if code != exitUsage || !strings.Contains(said, profileVariable) {
			t.Errorf("%s=%q: exit code %d, %q; want %d, and the variable named", profileVariable, name, code, said, exitUsage)
		}
	}
}

func TestWhoNamesNoProfileGetsTheDefault(t *testing.T) {
	a := &app{environ: []string{"HOME=" + t.TempDir(), "CLAUDE_HUB_DIR=" + t.TempDir() + "/hub"}, stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}
	if code := a.main(t.Context(), []string{"init"}); code != exitOK {
		t.Fatalf("init: %d", code)
	}
	h, err := a.openHome()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.signedIn(t.Context(), ""); !errors.Is(err, hub.ErrLoginRequired) {
		t.Errorf("without any profile: %v; want ErrLoginRequired", err)
	}
	p := hub.Profile{ID: hub.NewProfileID(), Name: "staging", Created: now()}
	if err := errors.Join(h.vault.CreateProfile(t.Context(), p), h.setDefault(p.ID)); err != nil {
		t.Fatal(err)
	}
	if got, err := h.signedIn(t.Context(), ""); err != nil || got.ID != p.ID {
		t.Errorf("signedIn = %v, %v; want %s", got, err, p.ID)
	}
}

// twice A... -- B... runs two command lines at once, and demands that one of them
// succeeds.
func cmdTwice(ts *testscript.TestScript, neg bool, args []string) {
	at := slices.Index(args, "--")
	if neg || at < 0 {
		ts.Fatalf("usage: twice ARG... -- ARG...")
	}
	var wg sync.WaitGroup
	var said [2]bytes.Buffer
	var failed [2]error
	for i, line := range [][]string{args[:at], args[at+1:]} {
		wg.Go(func() {
			cmd := exec.Command("claude-hub", line...)
			cmd.Env, cmd.Stderr = environOf(ts), &said[i]
			failed[i] = cmd.Run()
		})
	}
	wg.Wait()
	if (failed[0] == nil) == (failed[1] == nil) {
		ts.Fatalf("%v, %v; want one of them to succeed\n%s%s", failed[0], failed[1], &said[0], &said[1])
	}
	var exit *exec.ExitError
	if err := errors.Join(failed[:]...); !errors.As(err, &exit) || exit.ExitCode() != exitError {
		ts.Fatalf("the one that lost: %v; want exit code %d", err, exitError)
	}
}
