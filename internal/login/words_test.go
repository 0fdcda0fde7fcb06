package login_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"rsc.io/qr"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/login"
)

const link = "https://claude.com/cai/oauth/authorize?code=true&client_id=fake&scope=org%3Acreate_api_key+user%3Aprofile&code_challenge=fakechallenge&code_challenge_method=S256&state=fakestate"

func TestParseCode(t *testing.T) {
	const want = "fake_code-1#fakestate"
	for _, good := range []string{
		want, want + "\r\n", "  fake_code-1\n#fake state ", `"` + want + `"`, "`" + want + "`", "“" + want + "”", "<" + want + ">",
		"\x1b[200~" + want + "\x1b[201~", "\ufeff" + want,
		"https://platform.claude.com/oauth/code/callback?code=fake_code-1&state=fakestate",
	} {
		if got, err := login.ParseCode(good, "fakestate"); err != nil || got != want {
			t.Errorf("ParseCode(%q) = %q, %v", good, got, err)
		}
	}
	for bad, message := range map[string]string{
		"": "nothing was pasted", " \n": "nothing was pasted", "fakecode": "whole code", "fakecode#": "whole code", "#fakestate": "whole code",
		"fakecode#otherstate": "another sign-in", "fake\x03code#fakestate": "no code has", "fake'code#fakestate": "no code has",
		"fake\x1b[Acode#fakestate": "no code has", "fake#code#fakestate": "no code has", "fäke#fakestate": "no code has",
		strings.Repeat("x", 3000) + "#fakestate": "no code has", strings.Repeat("x", 10<<20): "far too long",
		"https://platform.claude.com/oauth/code/callback?error=access_denied&state=fakestate": "whole code",
	} {
		_, err := login.ParseCode(bad, "fakestate")
		if !errors.Is(err, hub.ErrInvalid) || !strings.Contains(err.Error(), message) || hub.HintOf(err) == "" {
			t.Errorf("ParseCode(%.50q) error = %v; want %q and a hint", bad, err, message)
		}
		if bad != "" && len(err.Error()) > 200 {
			t.Errorf("the error quotes what was pasted: %v", err)
		}
	}
}

func TestLastLine(t *testing.T) {
	if got := login.LastLine([]byte("a\r\n\x1b[1mlast \x07line\x1b[0m\r\n\r\n")); got != "last line" {
		t.Errorf("last line = %q", got)
	}
	if got := login.LastLine(bytes.Repeat([]byte("x"), 1<<20)); len(got) > 400 {
		t.Errorf("the last line has %d bytes", len(got))
	}
}

func TestQRIsTheCode(t *testing.T) {
	code, err := qr.Encode(link, qr.L)
	if err != nil {
		t.Fatal(err)
	}
	got, columns, height := login.DrawQR(link, login.QuietZone)
	if got != login.QR(link) {
		t.Error("QR draws something else")
	}
	rows := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	for i, row := range rows {
		row = strings.TrimSuffix(strings.TrimPrefix(row, "\x1b[30;107m"), "\x1b[0m")
		cells := []rune(row)
		if len(cells) != columns || len(cells) != code.Size+2*login.QuietZone {
			t.Fatalf("row %d has %d columns; want %d", i, len(cells), columns)
		}
		for j, cell := range cells {
			x, y := j-login.QuietZone, 2*i-login.QuietZone
			upper, lower := cell == '█' || cell == '▀', cell == '█' || cell == '▄'
			if upper != code.Black(x, y) || lower != code.Black(x, y+1) {
				t.Fatalf("module %d,%d is drawn as %q", x, y, cell)
			}
		}
	}
	if len(rows) != height || 2*len(rows) < code.Size+2*login.QuietZone {
		t.Errorf("%d rows for %d modules, and %d said", len(rows), code.Size, height)
	}
	if login.QR(strings.Repeat("x", 10_000)) != "" {
		t.Error("a text too long for any code gives one")
	}
}

func FuzzLastLine(f *testing.F) {
	f.Add([]byte("a\r\n\x1b]8;;https://x\ab\x1b[0m"))
	f.Fuzz(func(t *testing.T, output []byte) {
		if s := login.LastLine(output); strings.ContainsAny(s, "\x1b\x00\x07\x7f\r\n") {
			t.Errorf("control characters come through: %q", s)
		}
	})
}

func FuzzParseCode(f *testing.F) {
	f.Add("fake#fakestate", "fakestate")
	f.Add("https://x?code=\x03&state=s", "s")
	f.Fuzz(func(t *testing.T, pasted, state string) {
		code, err := login.ParseCode(pasted, state)
		if err != nil {
			return
		}
		if strings.ContainsFunc(code, func(r rune) bool { return r <= ' ' || r > '~' }) || strings.Count(code, "#") != 1 || state != "" && !strings.HasSuffix(code, "#"+state) {
			t.Errorf("typed into a terminal: %q", code)
		}
	})
}
