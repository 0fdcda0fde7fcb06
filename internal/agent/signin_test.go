package agent_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/claude-hub/claude-hub/internal/agent"
)

const signInLink = "https://claude.com/cai/oauth/authorize?code=true&client_id=fake&state=STATE&code_challenge=x"

// screen is what CLI 2.1.330 prints until it has the code.
const screen = "Opening browser to sign in\u2026\r\nIf the browser didn't open, visit:\r\n\x1b]8;;" + signInLink + "\x07\x1b[94m" + signInLink +
	"\x1b[39m\x1b]8;;\x07\r\nPaste code here if prompted > "

func feed(parts ...string) *agent.SignIn {
	s := new(agent.SignIn)
	for _, p := range parts {
		s.Write([]byte(p))
	}
	return s
}

func TestSignInReadsTheScreenAtAnyPace(t *testing.T) {
	for _, s := range []*agent.SignIn{feed(screen), feed(strings.Split(screen, "")...)} {
		if link, ok := s.Link(); !ok || link != signInLink || s.Prompts() != 1 || s.Done() || s.Failure() != "" {
			t.Errorf("link = %q, %v, prompts %d, done %v, failure %q", link, ok, s.Prompts(), s.Done(), s.Failure())
		}
		s.Write([]byte("rubbish\r\r\nThat doesn't look like the full code.\r\nPaste code here if prompted > "))
		if s.Prompts() != 2 {
			t.Errorf("prompts = %d after a code that was none; want 2", s.Prompts())
		}
		s.Write([]byte("code#STATE\r\r\nSigning in\u2026\r\nLogin successful.\r\n\x1b[?25h"))
		if !s.Done() || s.Failure() != "" {
			t.Errorf("done = %v, failure %q", s.Done(), s.Failure())
		}
	}
}

func TestSignInTellsWhyItFailed(t *testing.T) {
	s := feed(screen, "code#STATE\r\r\nSigning in\u2026\r\nCouldn't log in: That code wasn't accepted. It may be incomplete", ", expired.")
	if s.Failure() != "" {
		t.Errorf("failure = %q before its line has ended", s.Failure())
	}
	s.Write([]byte(" \x1b[1mSign in again.\x1b[0m\r\n"))
	if want := "That code wasn't accepted. It may be incomplete, expired. Sign in again."; s.Failure() != want || s.Done() {
		t.Errorf("failure = %q, done %v; want %q", s.Failure(), s.Done(), want)
	}
}

func TestSignInNeverTakesHalfALink(t *testing.T) {
	hyperlink := "\x1b]8;id=1;" + signInLink + "\x1b\\"
	for _, whole := range []string{signInLink + "\r\n", hyperlink} {
		for i := range len(whole) - 1 {
			if link, ok := feed(whole[:i]).Link(); ok {
				t.Errorf("link %q after %q", link, whole[:i])
			}
		}
		if link, ok := feed(whole).Link(); !ok || link != signInLink {
			t.Errorf("link = %q, %v", link, ok)
		}
	}
}

func TestSignInTakesTheProvidersHostsOnly(t *testing.T) {
	for _, link := range []string{
		"https://claude.ai/oauth/authorize?z-13xcg5", "https://claude.com/cai/oauth/authorize?x=1",
		"https://platform.claude.com/oauth/authorize?x=1", "https://console.anthropic.com/oauth/authorize?x=1",
	} {
		if got, ok := feed(link + "\r\n").Link(); !ok || got != link {
			t.Errorf("%s is not taken", link)
		}
	}
	for _, link := range []string{
		"https://claude.ai.example.org/oauth/authorize?x=1", "https://example.org/oauth/authorize?x=https://claude.ai/",
		"https://claude.ai@example.org/oauth/authorize?x=1", "https://user@claude.ai/oauth/authorize?x=1", "https://claude.ai:8443/oauth/authorize?x=1",
		"http://claude.ai/oauth/authorize?x=1", "https://CLAUDE.AI/oauth/authorize?x=1", "https://claude.ai./oauth/authorize?x=1",
		"https://xclaude.ai/oauth/authorize?x=1", "https://claude.ai/other?x=1", "https://claude.ai/oauth/authorize", "https://claude.ai/oauth/authorize?x=1#f",
		"https://claude.ai\\@example.org/oauth/authorize?x=1", "https://claude.ai%2eexample.org/oauth/authorize?x=1", "https://cl\u0430ude.ai/oauth/authorize?x=1",
		"https://claude.ai/oauth/authorize?" + strings.Repeat("x", 10<<10),
	} {
		if got, ok := feed(link + "\r\n\x1b]8;;" + link + "\x07").Link(); ok {
			t.Errorf("%s is taken", got)
		}
	}
}

func TestSignInIsBoundedInMemory(t *testing.T) {
	s := feed(screen)
	for range 100 {
		s.Write([]byte(strings.Repeat("x", 100<<10)))
	}
	if link, ok := s.Link(); !ok || link != signInLink {
		t.Errorf("link = %q; it was forgotten", link)
	}
}

func FuzzSignIn(f *testing.F) {
	f.Add([]byte(screen), 3)
	f.Add([]byte(screen+"x#y\r\nCouldn't log in: no\r\n"), 100)
	f.Add([]byte("\x1b]8;;https://claude.ai@x.org/oauth/authorize?a\x1b\\https://claude.com/oauth/authorize?\xff\n"), 1)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		step = step&0xfff + 1
		if len(b)/step > 1000 {
			return // every Write looks at all of the screen
		}
		s := new(agent.SignIn)
		for part := range slices.Chunk(b, step) {
			s.Write(part)
		}
		if strings.ContainsFunc(s.Failure(), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("failure %q", s.Failure())
		}
		link, ok := s.Link()
		if !ok {
			return
		}
		u, err := url.Parse(link)
		if err != nil || u.Scheme != "https" || u.User != nil || strings.ContainsFunc(link, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("link %q", link)
		}
		switch u.Host {
		case "claude.ai", "claude.com", "platform.claude.com", "console.anthropic.com":
		default:
			t.Fatalf("host %q", u.Host)
		}
	})
}
