package agent_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

func TestParseRefreshWords(t *testing.T) {
	const failed = "Couldn't log in: "
	for _, c := range []struct {
		name   string
		run    agent.RefreshRun
		want   agent.RefreshKind
		status int
		replay bool // MayHaveRotated
	}{
		{"written", agent.RefreshRun{Exit: 0, Output: []byte("Login successful.\n"), Wrote: true, Connected: true}, agent.RefreshRotated, 0, false},
		{"written, then killed", agent.RefreshRun{Exit: -1, Wrote: true, Connected: true}, agent.RefreshRotated, 0, false},
		{"written, then failed elsewhere", agent.RefreshRun{Exit: 1, Output: []byte(failed + "Request failed with status code 500"), Wrote: true, Connected: true}, agent.RefreshRotated, 0, false},
		{"door never used", agent.RefreshRun{Exit: 1, Output: []byte(failed + "proxy refused the connection\n")}, agent.RefreshNotSent, 0, false},
		{"killed before it connected", agent.RefreshRun{Exit: -1}, agent.RefreshNotSent, 0, false},
		{"proxy's status is not the platform's", agent.RefreshRun{Exit: 1, Output: []byte(failed + "Request failed with status code 400\n")}, agent.RefreshNotSent, 0, false},
		{"refused", agent.RefreshRun{Exit: 1, Output: []byte(failed + "Request failed with status code 400\n"), Connected: true}, agent.RefreshRefused, 400, false},
		{"rate limit", agent.RefreshRun{Exit: 1, Output: []byte(failed + "Request failed with status code 429\n"), Connected: true}, agent.RefreshTrouble, 429, false},
		{"forbidden, as a company's filter says", agent.RefreshRun{Exit: 1, Output: []byte(failed + "Request failed with status code 403\n"), Connected: true}, agent.RefreshTrouble, 403, false},
		{"server error", agent.RefreshRun{Exit: 1, Output: []byte(failed + "Request failed with status code 500\n"), Connected: true}, agent.RefreshTrouble, 500, true},
		{"overloaded", agent.RefreshRun{Exit: 1, Output: []byte(failed + "Request failed with status code 529\n"), Connected: true}, agent.RefreshTrouble, 529, true},
		{"redirect", agent.RefreshRun{Exit: 1, Output: []byte(failed + "Request failed with status code 302\n"), Connected: true}, agent.RefreshUnknown, 302, true},
		{"lost answer", agent.RefreshRun{Exit: 1, Output: []byte(failed + "socket hang up\n"), Connected: true}, agent.RefreshUnknown, 0, true},
		{"half an answer", agent.RefreshRun{Exit: 1, Output: []byte(failed + "stream has been aborted\n"), Connected: true}, agent.RefreshUnknown, 0, true},
		{"silence", agent.RefreshRun{Exit: 1, Output: []byte(failed + "timeout of 30000ms exceeded\n"), Connected: true}, agent.RefreshUnknown, 0, true},
		{"broken answer, then the door", agent.RefreshRun{Exit: 1, Output: []byte(failed + "proxy refused the connection\n"), Connected: true}, agent.RefreshUnknown, 0, true},
		{"connection refused, but not the first", agent.RefreshRun{Exit: 1, Output: []byte(failed + "connect ECONNREFUSED 127.0.0.1:1\n"), Connected: true}, agent.RefreshUnknown, 0, true},
		{"success without a file", agent.RefreshRun{Exit: 0, Output: []byte("Login successful.\n"), Connected: true}, agent.RefreshUnknown, 0, true},
		{"killed after it connected", agent.RefreshRun{Exit: -1, Connected: true}, agent.RefreshUnknown, 0, true},
		{"unknown words", agent.RefreshRun{Exit: 1, Output: []byte("Segmentation fault"), Connected: true}, agent.RefreshUnknown, 0, true},
		{"certificate not trusted", agent.RefreshRun{Exit: 1, Output: []byte(failed + "unable to verify the first certificate\nSSL certificate error (UNABLE_TO_VERIFY_LEAF_SIGNATURE)."), Connected: true}, agent.RefreshNotSent, 0, false},
		{"a status beyond the bound of output", agent.RefreshRun{Exit: 1, Output: []byte(strings.Repeat(" ", 1<<20) + "Request failed with status code 400"), Connected: true}, agent.RefreshUnknown, 0, true},
		{"four digits are no status", agent.RefreshRun{Exit: 1, Output: []byte("Request failed with status code 4000"), Connected: true}, agent.RefreshUnknown, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := agent.ParseRefreshWords(c.run)
			if got.Kind != c.want || got.Status != c.status || got.MayHaveRotated() != c.replay {
				t.Errorf("answer = %+v, may have rotated %v; want %s, %d, %v", got, got.MayHaveRotated(), c.want, c.status, c.replay)
			}
		})
	}
}

func TestRefreshReasonIsSafeToShow(t *testing.T) {
	out := "\n\x1b]0;title\x07\x1b[31mCouldn't log in: " + fakeRefresh + "\x1b[0m \x01\u202e\r\nmore"
	got := agent.ParseRefreshWords(agent.RefreshRun{Exit: 1, Output: []byte(out), Connected: true}).Reason
	if want := "Couldn't log in: [secret]"; got != want {
		t.Errorf("Reason = %q; want %q", got, want)
	}
}

func FuzzParseRefreshWords(f *testing.F) {
	f.Add(1, []byte("Couldn't log in: Request failed with status code 400\n"), false, true)
	f.Add(1, []byte("Couldn't log in: unable to verify the first certificate\n"), false, true)
	f.Add(0, []byte("\x1b[31mLogin successful.\n"), true, true)
	f.Fuzz(func(t *testing.T, exit int, out []byte, wrote, connected bool) {
		a := agent.ParseRefreshWords(agent.RefreshRun{Exit: exit, Output: out, Wrote: wrote, Connected: connected})
		if wrote != (a.Kind == agent.RefreshRotated) {
			t.Errorf("wrote %v gives %s", wrote, a.Kind)
		}
		if !wrote && !connected && a.Kind != agent.RefreshNotSent {
			t.Errorf("never connected gives %s", a.Kind)
		}
		if a.Kind == agent.RefreshRefused && a.Status != 400 {
			t.Errorf("status %d gives %s", a.Status, a.Kind)
		}
		if len(a.Reason) > 310 || strings.ContainsFunc(a.Reason, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("reason %q", a.Reason)
		}
	})
}

func TestRefreshCommandHidesItsToken(t *testing.T) {
	cmd, err := agent.RefreshCommand("/bin/claude", "/private", parse(t, wholeFile))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cmd.Args, []string{"/bin/claude", "auth", "login"}) {
		t.Errorf("args = %q", cmd.Args)
	}
	if s := fmt.Sprintf("%v %+v %#v", cmd, cmd, &cmd); strings.Contains(s, "fake") {
		t.Errorf("printed as %s", s)
	}
	got := cmd.Environ([]string{"ANTHROPIC_API_KEY=canary", "HTTPS_PROXY=http://corp:1", "no_proxy=*", "PATH=/bin"}, map[string]string{"HTTPS_PROXY": "http://door:1"})
	want := []string{
		"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "CLAUDE_CODE_OAUTH_REFRESH_TOKEN=" + fakeRefresh, "CLAUDE_CODE_OAUTH_SCOPES=user:inference user:profile",
		"CLAUDE_CONFIG_DIR=/private/.claude", "DISABLE_AUTOUPDATER=1", "HOME=/private", "HTTPS_PROXY=http://door:1", "PATH=/bin",
	}
	if !slices.Equal(got, want) {
		t.Errorf("Environ =\n%v\nwant\n%v", got, want)
	}
	if got := agent.CredentialPath("/private"); got != "/private/.claude/.credentials.json" {
		t.Errorf("CredentialPath = %s", got)
	}
}

func TestRefreshCommandNeedsSomethingToRefresh(t *testing.T) {
	if _, err := agent.RefreshCommand("c", "/h", agent.Credentials{Scopes: []string{"user:inference"}}); !errors.Is(err, hub.ErrLoginRequired) {
		t.Errorf("without a refresh token: %v; want ErrLoginRequired", err)
	}
	if _, err := agent.RefreshCommand("c", "/h", agent.Credentials{RefreshToken: secret.New("x")}); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("without scopes: %v; want ErrInvalid", err)
	}
}
