package agent_test

import (
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

const globalFile = `{"numStartups":1,"oauthAccount":{"accountUuid":"u-1","emailAddress":"owner@example.com",` +
	`"organizationUuid":"o-1","displayName":"Zoë","organizationName":"Example","seatTier":null},"projects":{}}`

func TestParseAccountFindsWhoIsSignedIn(t *testing.T) {
	want := agent.Account{UUID: "u-1", Email: "owner@example.com", Name: "Zoë", Organization: "Example"}
	got, err := agent.ParseAccount([]byte(globalFile))
	if err != nil || got != want {
		t.Fatalf("account %+v, %v", got, err)
	}
	record, err := got.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := agent.ParseAccount(record); err != nil || again != want {
		t.Errorf("after the round trip %+v, %v", again, err)
	}
	if strings.Contains(string(record), "numStartups") {
		t.Errorf("the record holds more than the account: %s", record)
	}
}

func TestParseAccountDropsWhatATerminalActsOn(t *testing.T) {
	got, err := agent.ParseAccount([]byte(`{"oauthAccount":{"emailAddress":"\u001b[31mowner\u202e@example.com\r\n\u009b\u0000","displayName":null}}`))
	if err != nil || got != (agent.Account{Email: "[31mowner@example.com"}) {
		t.Errorf("account %+q, %v", got, err)
	}
}

func TestParseAccountRefuses(t *testing.T) {
	for _, s := range []string{
		"", "null", "[]", "{}", "{", `{"oauthAccount":null}`, `{"oauthAccount":[]}`, `{"oauthaccount":{"emailAddress":"a@example.com"}}`,
		`{"oauthAccount":{"emailAddress":1}}`, `{"oauthAccount":{"emailAddress":"a@example.com","displayName":{}}}`,
		`{"oauthAccount":{"emailAddress":"` + strings.Repeat("a", 321) + `"}}`, `{"oauthAccount":{"emailAddress":"a@example.com"}} x`,
		strings.Repeat(" ", agent.MaxGlobalFile) + "{}",
	} {
		got, err := agent.ParseAccount([]byte(s))
		if !errors.Is(err, hub.ErrInvalid) || hub.HintOf(err) == "" || got != (agent.Account{}) {
			t.Errorf("ParseAccount(%.80q) = %+v, %v", s, got, err)
		}
	}
}

func FuzzParseAccount(f *testing.F) {
	f.Add([]byte(globalFile))
	f.Add([]byte(`{"oauthAccount":{"emailAddress":"\u001b]0;x\u0007\ud800"}}`))
	f.Add([]byte(`{"oauthAccount":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := agent.ParseAccount(b)
		if err != nil {
			if a != (agent.Account{}) {
				t.Fatalf("an error with %+q", a)
			}
			return
		}
		if strings.ContainsFunc(a.UUID+a.Email+a.Name+a.Organization, unicode.IsControl) {
			t.Fatalf("control characters in %+q", a)
		}
		record, err := a.Encode()
		if err != nil || len(record) > 64<<10 {
			t.Fatalf("%d bytes, %v", len(record), err)
		}
		if again, err := agent.ParseAccount(record); err != nil || again != a {
			t.Fatalf("%+q became %+q, %v", a, again, err)
		}
	})
}
