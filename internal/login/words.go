package login

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// controls matches what a terminal does not show: OSC strings (a hyperlink's
// target is one), CSI sequences, other escapes, and lone control characters
// except line ends and tabs.
var controls = regexp.MustCompile("\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|\x1b\\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-Z\\\\^-~]|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]")

// plain returns what a person would see of a line-oriented program's output. An
// escape sequence that has only half arrived hides what follows it.
func plain(output []byte) string {
	s := controls.ReplaceAllString(strings.ToValidUTF8(string(output), "\uFFFD"), "")
	if i := strings.IndexByte(s, '\x1b'); i >= 0 {
		s = s[:i]
	}
	return s
}

// maxCode bounds what is typed into the CLI: its terminal takes 4,095 bytes.
const maxCode = 2 << 10

// parseCode returns the "code#state" in what the owner pasted. White space
// (a narrow window breaks the line), quotes and the marks of a bracketed paste
// around it are dropped, and the address of the page that shows the code is
// taken too. state is the link's; a link without one takes any. Only characters
// that are safe to type into a terminal come through. The error never quotes the
// code.
func parseCode(pasted, state string) (string, error) {
	if len(pasted) > maxLine {
		return "", badCode("that is far too long for a code")
	}
	s := strings.NewReplacer("\x1b[200~", "", "\x1b[201~", "").Replace(pasted)
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == '\u200b' || r == '\ufeff' {
			return -1
		}
		return r
	}, s)
	s = strings.Trim(s, "\"'`<>“”‘’")
	if strings.HasPrefix(s, "https://") {
		s = codeOfAddress(s)
	}
	code, got, found := strings.Cut(s, "#")
	switch {
	case s == "":
		return "", badCode("nothing was pasted")
	case !found || code == "" || got == "":
		return "", badCode("that is not the whole code: it has a # in the middle")
	case len(s) > maxCode || strings.Trim(code+got, codeAlphabet) != "":
		return "", badCode("that holds characters which no code has")
	case got != state && state != "":
		return "", badCode("that code belongs to another sign-in: use the link that was shown last")
	}
	return s, nil
}

// codeAlphabet is what URLs leave unescaped, and what they escape with.
const codeAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=%"

// codeOfAddress turns …/callback?code=C&state=S into "C#S".
func codeOfAddress(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return s
	}
	q := u.Query()
	return q.Get("code") + "#" + q.Get("state")
}

func badCode(why string) error {
	return hub.Hint(fmt.Errorf("%w: %s", hub.ErrInvalid, why), "copy all of the code that the page shows, and paste it once")
}

// maxWords bounds how much of the CLI's own words goes into an error.
const maxWords = 300

// lastLine returns the last line with anything on it, for errors.
func lastLine(output []byte) string {
	text := strings.TrimSpace(plain(output))
	return shorten(text[strings.LastIndexByte(text, '\n')+1:])
}

func shorten(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(s) > maxWords {
		s = strings.ToValidUTF8(s[:maxWords], "") + "…"
	}
	return s
}
