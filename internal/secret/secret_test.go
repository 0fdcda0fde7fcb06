package secret_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/secret"
)

const canary = "sk-ant-oat01-fake-canary-0123456789"

func TestTextDoesNotPrintItself(t *testing.T) {
	type nested struct {
		Token secret.Text
		List  []secret.Text
		Map   map[string]secret.Text
		inner *secret.Text
		value secret.Text
	}
	s := secret.New(canary)
	n := nested{s, []secret.Text{s}, map[string]secret.Text{"k": s}, &s, s}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "% x", "%10s"} {
		fmt.Fprintf(&out, verb+verb+verb+verb, s, &s, n, &n)
	}
	fmt.Fprint(&out, s, n, errors.Join(fmt.Errorf("wrapped: %v", s)))
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("m", "token", s, "nested", n, "pointer", &s)
	}
	if _, err := json.Marshal(n); err == nil {
		t.Error("a struct with a secret was marshalled as JSON")
	}
	if strings.Contains(out.String(), "canary") || strings.Contains(out.String(), fmt.Sprintf("%x", "canary")) {
		t.Errorf("the canary is in the output:\n%s", out.String())
	}
}

func TestEqual(t *testing.T) {
	a := secret.New("a")
	if !a.Equal(secret.New("a")) || a.Equal(secret.New("b")) || a.Equal(secret.Text{}) || !(secret.Text{}).IsZero() || a.IsZero() {
		t.Error("Equal or IsZero is wrong")
	}
}

func TestWriterScrubs(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(secret.NewWriter(&out), nil))
	header := map[string][]string{"Authorization": {"Bearer " + canary}}
	log.Error("upstream said "+canary, "err", fmt.Errorf("get: %s", canary), "header", header, "v", fmt.Sprintf("%+v", struct{ T string }{canary}))
	if strings.Contains(out.String(), "canary") {
		t.Errorf("the canary is in the log: %s", out.String())
	}
	if got := strings.Count(out.String(), "[secret]"); got != 4 {
		t.Errorf("%d replacements in %s; want 4", got, out.String())
	}
	if n, err := secret.NewWriter(&out).Write([]byte(canary)); n != len(canary) || err != nil {
		t.Errorf("Write = %d, %v; want the length of what was given", n, err)
	}
}
