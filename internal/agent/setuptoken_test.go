package agent_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

const fakeSetup = "sk-ant-oat01-fake-setup-0123456789"

func TestSetupTokenRoundTrip(t *testing.T) {
	made := time.Date(2026, 11, 23, 12, 0, 0, 5, time.UTC)
	token, err := agent.NewSetupToken(secret.New("  sk-ant-oat01-fake-\r\n setup-0123456789\n"), made)
	if err != nil {
		t.Fatal(err)
	}
	b, err := token.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := agent.ParseSetupToken(b)
	if err != nil {
		t.Fatal(err)
	}
	if got.Token.Reveal() != fakeSetup || !got.Created.Equal(made.Truncate(time.Second)) || !got.Expires.Equal(got.Created.AddDate(1, 0, 0)) {
		t.Errorf("token %v from %v to %v", got.Token.Reveal(), got.Created, got.Expires)
	}
}

func TestNewSetupTokenRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"empty": " \n", "refresh token": fakeRefresh, "API key": "sk-ant-api03-fake-0123456789",
		"lease token": fakeLease, "begins with sk-ant-oat…": "fake-token-0123456789", "characters": "sk-ant-oat01-fake",
		"600 characters": "sk-ant-oat01-" + strings.Repeat("a", 587), "no token has": fakeSetup + "\x00", "that no token": fakeSetup + "#b",
	} {
		_, err := agent.NewSetupToken(secret.New(s), time.Now())
		if !errors.Is(err, hub.ErrInvalid) || !strings.Contains(err.Error(), name) || hub.HintOf(err) == "" {
			t.Errorf("%q: error = %v with hint %q; want it to say %q", s, err, hub.HintOf(err), name)
		}
		if err != nil && string(secret.Scrub([]byte(err.Error()))) != err.Error() {
			t.Errorf("%q: the output would hide a part of %q", s, err)
		}
	}
}

func TestParseSetupTokenRefuses(t *testing.T) {
	for _, s := range []string{
		"", "{}", "null", "[]", `{"setupToken":"` + fakeSetup + `"}`,
		`{"setupToken":"` + fakeSetup + `","created":"2026-11-23T00:00:00Z","expires":"2026-11-22T00:00:00Z"}`,
		`{"setupToken":"` + fakeSetup + `","created":"2026-11-23T00:00:00Z","expires":"2027-11-23T00:00:00Z"} x`,
		`{"setupToken":"` + fakeSetup + `","created":"2026-11-23T00:00:00Z","expires":"2027-11-23T00:00:00Z","x":1}`,
		strings.Repeat(" ", 5000),
	} {
		_, err := agent.ParseSetupToken([]byte(s))
		if !errors.Is(err, hub.ErrInvalid) || hub.HintOf(err) == "" || strings.Contains(err.Error(), "fake") {
			t.Errorf("ParseSetupToken(%.80q) error = %v", s, err)
		}
	}
}

func FuzzParseSetupToken(f *testing.F) {
	f.Add([]byte(`{"setupToken":"` + fakeSetup + `","created":"2026-11-23T00:00:00Z","expires":"2027-11-23T00:00:00Z"}`))
	f.Add([]byte(`{"setupToken":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		token, err := agent.ParseSetupToken(b)
		if err != nil {
			return
		}
		again, err := token.Encode()
		if err != nil {
			t.Fatalf("accepted what can't be encoded: %v", err)
		}
		if _, err := agent.ParseSetupToken(again); err != nil {
			t.Fatalf("the round trip is refused: %v", err)
		}
	})
}

func FuzzNewSetupToken(f *testing.F) {
	f.Add(fakeSetup)
	f.Add("sk-ant-oat01-\nfake")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := agent.NewSetupToken(secret.New(s), time.Unix(1_800_000_000, 0))
		if err == nil && strings.ContainsAny(token.Token.Reveal(), "\r\n \x00\"#") {
			t.Errorf("accepted %q", s)
		}
	})
}
