package agent

import (
	"bytes"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// SignIn reads what `claude auth login` prints on its terminal. It is a Writer
// for the raw bytes; the questions may be asked after every Write. It is for one
// goroutine. It keeps the last 256 KiB and the link.
type SignIn struct {
	screen  []byte
	link    string
	prompts int
	done    bool
	failure string
}

const (
	maxScreen = 256 << 10
	maxLink   = 8 << 10
)

// Words of CLI 2.1.330.
const (
	wordsPrompt  = "Paste code here if prompted"
	wordsDone    = "Login successful."
	wordsFailure = "Couldn't log in: "
)

// Write takes the next bytes of the terminal. It never fails.
func (s *SignIn) Write(p []byte) (int, error) {
	s.screen = append(s.screen, p...)
	if extra := len(s.screen) - maxScreen; extra > 0 {
		s.screen = slices.Delete(s.screen, 0, extra)
	}
	text := stripANSI(s.screen)
	if s.link == "" {
		s.link = findLink(s.screen, text)
	}
	s.prompts = bytes.Count(text, []byte(wordsPrompt))
	s.done = s.done || bytes.Contains(text, []byte(wordsDone))
	if _, rest, ok := bytes.Cut(text, []byte(wordsFailure)); ok && bytes.ContainsAny(rest, "\r\n") {
		s.failure = firstLine(rest)
	}
	return len(p), nil
}

// Link returns the link that the person is to open, and whether there is one
// yet. It is https, at one of the provider's own hosts, and complete.
func (s *SignIn) Link() (string, bool) { return s.link, s.link != "" }

// Prompts counts how often the CLI has asked for the code so far: a second time
// when the first was not the full code.
func (s *SignIn) Prompts() int { return s.prompts }

// Done reports whether the CLI has said that the login was successful. The
// credential file is the proof.
func (s *SignIn) Done() bool { return s.done }

// Failure returns why the CLI could not log in, in its own words, or "".
func (s *SignIn) Failure() string { return s.failure }

// signInHosts are the hosts of sign-in links: claude.com in the full link of
// 2.1.330, claude.ai in the short one; the other two in older and console ones.
var signInHosts = []string{"claude.ai", "claude.com", "platform.claude.com", "console.anthropic.com"}

var (
	// The target of an OSC 8 hyperlink is whole however narrow the terminal is.
	hyperlinkPattern = regexp.MustCompile("\x1b\\]8;[^;\x07\x1b]*;(https://[!-~]+)(?:\x07|\x1b\\\\)")
	// A link in the text counts once something follows it: it may still grow.
	plainPattern = regexp.MustCompile(`(https://[!-~]+)[\s]`)
)

func findLink(screen, text []byte) string {
	for _, m := range append(hyperlinkPattern.FindAllSubmatch(screen, -1), plainPattern.FindAllSubmatch(text, -1)...) {
		if link := string(m[1]); isSignInLink(link) {
			return link
		}
	}
	return ""
}

// isSignInLink compares the host exactly: a prefix or suffix match would take
// claude.ai.example.org.
func isSignInLink(link string) bool {
	u, err := url.Parse(link)
	return err == nil && len(link) <= maxLink &&
		u.Scheme == "https" && u.User == nil && u.Opaque == "" && slices.Contains(signInHosts, u.Host) &&
		strings.HasSuffix(u.Path, "/oauth/authorize") && u.RawQuery != "" && u.Fragment == ""
}
