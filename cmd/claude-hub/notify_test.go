package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/notify"
	"github.com/claude-hub/claude-hub/internal/refresh"
)

// webhook FILE starts a service that appends what it is told to FILE, and sets
// HOOK to its host.
func cmdWebhook(ts *testscript.TestScript, _ bool, args []string) {
	file := ts.MkAbs(args[0])
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.HasSuffix(r.URL.Path, "refuses") {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, "no "+r.URL.String())
			return
		}
		f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		defer f.Close()
		f.WriteString(string(body) + "\n---\n")
	}))
	ts.Defer(s.Close)
	ts.Setenv("HOOK", strings.TrimPrefix(s.URL, "http://"))
}

// told FILE PATTERN waits until the service has been told that.
func cmdTold(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile(args[1])
	var text []byte
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		text, _ = os.ReadFile(ts.MkAbs(args[0]))
		if pattern.Match(text) {
			return
		}
	}
	ts.Fatalf("nobody was told %q, but:\n%s", args[1], text)
}

func TestSettingsThatNameServices(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	for text, want := range map[string]int{
		"notify: ntfy://canary@ntfy.sh/canary\n":          1,
		"notify: [file:/x, env:CANARY]\n":                 2,
		"notify:\n- ntfy://ntfy.sh/a\n- ntfy://ntfy.sh/b": 2,
		"notify: []\n": 0,
		"notify:\n":    0,
		"notify: {ntfy://canary: ntfy://canary}\n":      -1,
		"notify: [[ntfy://canary]]\n":                   -1,
		"notify: ntfy://canary\nnotify: canary://b\n":   -1,
		"notify: [ntfy://canary\nlisten: ntfy://canary": -1,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := readConfig(path)
		switch {
		case want < 0 && (err == nil || strings.Contains(err.Error(), "canary")):
			t.Errorf("%q: %v; want an error without the text", text, err)
		case want >= 0 && (err != nil || len(c.Notify) != want):
			t.Errorf("%q: %v, %v; want %d services", text, c.Notify, err, want)
		}
	}
}

func TestConditionOfAProfile(t *testing.T) {
	p := hub.Profile{ID: "p-1", Name: "staging"}
	ends := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	s := refresh.Status{
		Health: hub.HealthLoginRequired, Reason: "why", Generation: 5, LoginExpires: ends, ServedBySpare: true, SecondWriter: true,
		Spare: &refresh.SpareStatus{Generation: 2, Expires: ends},
	}
	want := notify.Condition{
		Profile: "p-1", Name: "staging", Login: 5, Spare: 2, Health: hub.HealthLoginRequired, Reason: "why", LoginExpires: ends,
		SpareInUse: true, SpareExpires: ends, SecondWriter: true, Parked: 3,
	}
	if got := condition(p, s, 3); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
	// What was moved to another hub needs nobody here.
	s.HandedOver = &hub.Handover{}
	if got := condition(p, s, 3); got.Health != hub.HealthOK || !got.LoginExpires.IsZero() || got.SecondWriter {
		t.Errorf("after a move: %+v", got)
	}
}
