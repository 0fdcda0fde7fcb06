package agent_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

const (
	fakeAccess  = "sk-ant-oat01-fake-access-0123456789"
	fakeRefresh = "sk-ant-ort01-fake-refresh-0123456789"
	fakeLease   = "sk-ant-oat01-lease-fake0123456789"
)

const wholeFile = `{"claudeAiOauth":{"accessToken":"` + fakeAccess + `","refreshToken":"` + fakeRefresh + `","expiresAt":1795000000000,
"refreshTokenExpiresAt":1797000000000,"scopes":["user:inference","user:profile"],"subscriptionType":"max","rateLimitTier":"default_claude_max_20x",
"accountUuid":"11111111-fake","organizationUuid":"22222222-fake","future":{"a":[1.50,1e400,"<&>\u2028"],"n":null}},
"mcpOAuth":{"x":{"refreshToken":"mcp-fake"}},"big":12345678901234567890123}`

func parse(t *testing.T, s string) agent.Credentials {
	t.Helper()
	c, err := agent.ParseCredentials([]byte(s))
	if err != nil {
		t.Fatalf("ParseCredentials: %v", err)
	}
	return c
}

func encode(t *testing.T, c agent.Credentials) string {
	t.Helper()
	b, err := c.Encode()
	if err != nil {
		t.Fatalf("Encode: %v", err)
	}
	return string(b)
}

func TestParseCredentialsReadsEveryField(t *testing.T) {
	c := parse(t, wholeFile)
	if c.AccessToken.Reveal() != fakeAccess || c.RefreshToken.Reveal() != fakeRefresh {
		t.Error("a token is wrong")
	}
	if c.ExpiresAt.UnixMilli() != 1795000000000 || c.LoginExpiresAt.UnixMilli() != 1797000000000 {
		t.Errorf("times = %v, %v", c.ExpiresAt, c.LoginExpiresAt)
	}
	got := strings.Join([]string{strings.Join(c.Scopes, " "), c.Subscription, c.RateLimitTier, c.AccountUUID, c.OrganizationUUID}, "|")
	if want := "user:inference user:profile|max|default_claude_max_20x|11111111-fake|22222222-fake"; got != want {
		t.Errorf("fields = %s; want %s", got, want)
	}
}

func TestUnknownFieldsSurviveARoundTrip(t *testing.T) {
	out := encode(t, parse(t, wholeFile))
	for _, want := range []string{
		`"future":{"a":[1.50,1e400,"<&>\u2028"],"n":null}`,
		`"mcpOAuth":{"x":{"refreshToken":"mcp-fake"}}`,
		`"big":12345678901234567890123`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%s did not survive: %s", want, out)
		}
	}
	if again := encode(t, parse(t, out)); again != out {
		t.Errorf("the second round trip differs:\n%s\n%s", out, again)
	}
}

func TestParseCredentialsAcceptsANullPlan(t *testing.T) {
	c := parse(t, `{"claudeAiOauth":{"accessToken":"`+fakeAccess+`","refreshToken":"`+fakeRefresh+`","expiresAt":1795000000000,"scopes":["user:inference"],"subscriptionType":null,"rateLimitTier":null}}`)
	if c.Subscription != "" || c.RateLimitTier != "" || !c.LoginExpiresAt.IsZero() {
		t.Errorf("plan = %q, %q, login expiry %v; want all empty", c.Subscription, c.RateLimitTier, c.LoginExpiresAt)
	}
	if out := encode(t, c); !strings.Contains(out, `"subscriptionType":null`) || strings.Contains(out, "accountUuid") {
		t.Errorf("encoded as %s", out)
	}
}

// login returns a file whose login has the given members, after a valid access
// token, expiry and scopes unless they are replaced.
func login(members string) string {
	base := ""
	for key, value := range map[string]string{"accessToken": `"` + fakeAccess + `"`, "expiresAt": "1795000000000", "scopes": `["user:inference"]`} {
		if !strings.Contains(members, `"`+key+`"`) {
			base += `,"` + key + `":` + value
		}
	}
	return `{"claudeAiOauth":{` + strings.TrimPrefix(members+base, ",") + `}}`
}

func TestParseCredentialsRefuses(t *testing.T) {
	for _, c := range []struct{ name, file, message, hint string }{
		{"empty file", "", "empty", "not completed"},
		{"white space only", " \n\t", "empty", "not completed"},
		{"no login", `{}`, "holds no claudeAiOauth", "not completed"},
		{"login null", `{"claudeAiOauth":null}`, "holds no claudeAiOauth", "not completed"},
		{"login not an object", `{"claudeAiOauth":[1]}`, "not an object", "login"},
		{"blanked tokens", login(`"accessToken":"","refreshToken":"","expiresAt":0`), "blanked", "login was lost"},
		{"access token null", login(`"accessToken":null`), "blanked", "login was lost"},
		{"missing accessToken", `{"claudeAiOauth":{"expiresAt":1795000000000,"scopes":["user:inference"]}}`, "no accessToken", "not completed"},
		{"other spelling of accessToken", `{"claudeAiOauth":{"ACCESSTOKEN":"` + fakeAccess + `","expiresAt":1795000000000,"scopes":["user:inference"]}}`, "no accessToken", "not completed"},
		{"access token not a string", login(`"accessToken":5`), "not a string", "login"},
		{"token with a newline", login(`"accessToken":"sk-ant-oat01-fake\nX-Evil: 1"`), "no token has", "login"},
		{"token too long", login(`"refreshToken":"` + strings.Repeat("x", 9000) + `"`), "too long", "login"},
		{"not JSON", "hello " + fakeAccess, "not JSON", "login"},
		{"truncated", wholeFile[:200], "not JSON", "login"},
		{"an array", `[]`, "not a JSON object", "login"},
		{"null", `null`, "not a JSON object", "login"},
		{"10 MB", `{"a":"` + strings.Repeat("x", 10<<20) + `"}`, "more than 1048576", "login"},
		{"NUL bytes", "\x00\x00\x00\x00", "NUL", "login"},
		{"NUL after the text", wholeFile + "\x00", "NUL", "login"},
		{"not UTF-8", login(`"x":"` + "\xff" + `"`), "UTF-8", "login"},
		{"trailing garbage", wholeFile + "}", "goes on after", "login"},
		{"two texts", wholeFile + wholeFile, "goes on after", "login"},
		{"duplicate key", login(`"accessToken":"a","accessToken":"b"`), "twice", "login"},
		{"duplicate key in another spelling", login(`"accessToken":"a","access\u0054oken":"b"`), "twice", "login"},
		{"duplicate key deep inside", login(`"x":[{"a":1,"a":2}]`), "twice", "login"},
		{"deep nesting", login(`"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100)), "nested", "login"},
		{"very deep nesting", strings.Repeat("[", 1<<20), "not JSON", "login"},
		{"scopes null", login(`"scopes":null`), "null or missing", "scopes"},
		{"scopes missing", `{"claudeAiOauth":{"accessToken":"` + fakeAccess + `","expiresAt":1795000000000}}`, "null or missing", "scopes"},
		{"scopes empty", login(`"scopes":[]`), "0 entries", "scopes"},
		{"scopes a string", login(`"scopes":"user:inference"`), "not a list", "login"},
		{"scope null", login(`"scopes":[null]`), "no scope", "login"},
		{"scope with a space", login(`"scopes":["a b"]`), "no scope", "login"},
		{"expiry in seconds", login(`"expiresAt":1795000000`), "in seconds", "milliseconds"},
		{"login expiry in seconds", login(`"refreshTokenExpiresAt":1795000000`), "in seconds", "milliseconds"},
		{"expiry missing", `{"claudeAiOauth":{"accessToken":"` + fakeAccess + `","scopes":["user:inference"]}}`, "missing", "login"},
		{"expiry zero", login(`"expiresAt":0`), "out of range", "login"},
		{"expiry negative", login(`"expiresAt":-1795000000000`), "out of range", "login"},
		{"expiry after the year 9999", login(`"expiresAt":1e300`), "out of range", "login"},
		{"expiry beyond any number", login(`"expiresAt":1e999`), "not a number", "login"},
		{"expiry a string", login(`"expiresAt":"1795000000000"`), "not a number", "login"},
		{"plan not a string", login(`"subscriptionType":{}`), "not a string", "login"},
		{"plan with control characters", login(`"subscriptionType":"\u001b[2J"`), "control characters", "login"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := agent.ParseCredentials([]byte(c.file))
			if !errors.Is(err, hub.ErrInvalid) {
				t.Fatalf("error = %v; want hub.ErrInvalid", err)
			}
			if !strings.Contains(err.Error(), c.message) || !strings.Contains(hub.HintOf(err), c.hint) {
				t.Errorf("error = %q with hint %q; want %q and %q", err, hub.HintOf(err), c.message, c.hint)
			}
			if strings.Contains(err.Error()+hub.HintOf(err), "fake") {
				t.Errorf("the error quotes the file: %v", err)
			}
		})
	}
}

func TestAdoptFillsWhatARefreshLeavesOut(t *testing.T) {
	old := parse(t, wholeFile)
	fresh := parse(t, `{"claudeAiOauth":{"accessToken":"sk-ant-oat01-fake-next","expiresAt":1796000000000,"scopes":["user:inference"],"subscriptionType":null,"rateLimitTier":null,"future":null,"newer":1},"big":1}`)
	got := fresh.Adopt(old)
	if got.AccessToken.Reveal() != "sk-ant-oat01-fake-next" || got.RefreshToken.Reveal() != fakeRefresh {
		t.Error("a token is wrong")
	}
	if !got.LoginExpiresAt.Equal(old.LoginExpiresAt) || got.ExpiresAt.UnixMilli() != 1796000000000 {
		t.Errorf("times = %v, %v", got.ExpiresAt, got.LoginExpiresAt)
	}
	if got.Subscription != "max" || got.RateLimitTier != old.RateLimitTier || got.AccountUUID != old.AccountUUID || got.OrganizationUUID != old.OrganizationUUID {
		t.Errorf("plan = %q %q %q %q; want the old one's", got.Subscription, got.RateLimitTier, got.AccountUUID, got.OrganizationUUID)
	}
	out := encode(t, got)
	for _, want := range []string{`"future":{"a"`, `"newer":1`, `"mcpOAuth"`, `"big":1}`} {
		if !strings.Contains(out, want) && !strings.Contains(out, strings.Replace(want, "}", ",", 1)) {
			t.Errorf("%s is missing: %s", want, out)
		}
	}
	if out := encode(t, parse(t, wholeFile).Adopt(agent.Credentials{})); out != encode(t, old) {
		t.Errorf("adopting nothing changed the login: %s", out)
	}
}

func TestAdoptKeepsARotatedRefreshToken(t *testing.T) {
	got := parse(t, login(`"refreshToken":"sk-ant-ort01-fake-next","subscriptionType":"pro"`)).Adopt(parse(t, wholeFile))
	if got.RefreshToken.Reveal() != "sk-ant-ort01-fake-next" || got.Subscription != "pro" {
		t.Errorf("the old generation overwrote the new one: %s", encode(t, got))
	}
}

func TestAdoptDoesNotMixAccounts(t *testing.T) {
	got := parse(t, login(`"accountUuid":"other-fake"`)).Adopt(parse(t, wholeFile))
	if !got.RefreshToken.IsZero() || got.Subscription != "" {
		t.Errorf("another account's login was mixed in: %s", encode(t, got))
	}
}

func TestWithoutRefreshTokenHoldsNoOtherSecret(t *testing.T) {
	out := encode(t, parse(t, wholeFile).WithoutRefreshToken())
	for _, gone := range []string{"fake-refresh", "mcp-fake", "future", "refreshToken"} {
		if strings.Contains(out, gone) {
			t.Errorf("%s is still there: %s", gone, out)
		}
	}
	if !strings.Contains(out, fakeAccess) || !strings.Contains(out, `"max"`) {
		t.Errorf("the access token or the plan is gone: %s", out)
	}
}

func TestPlaceholderHoldsNothingOfTheLogin(t *testing.T) {
	until := time.UnixMilli(1799000000000)
	out := encode(t, agent.Placeholder(secret.New(fakeLease), parse(t, wholeFile), until))
	var got, want any
	json.Unmarshal([]byte(out), &got)
	json.Unmarshal([]byte(`{"claudeAiOauth":{"accessToken":"`+fakeLease+`","expiresAt":1799000000000,"scopes":["user:inference"],"subscriptionType":"max","rateLimitTier":"default_claude_max_20x"}}`), &want)
	if a, b := encodeAny(got), encodeAny(want); a != b {
		t.Errorf("placeholder = %s\nwant %s", a, b)
	}
	parse(t, encode(t, agent.Placeholder(secret.New(fakeLease), agent.Credentials{}, until))) // also for an API key's profile
}

func encodeAny(v any) string { b, _ := json.Marshal(v); return string(b) }

func TestEncodeRefusesWhatItCouldNotRead(t *testing.T) {
	c := parse(t, wholeFile)
	c.AccountUUID = strings.Repeat("x", 2<<20)
	if _, err := c.Encode(); !errors.Is(err, hub.ErrTooLarge) {
		t.Errorf("Encode error = %v; want ErrTooLarge", err)
	}
}

func FuzzParseCredentials(f *testing.F) {
	f.Add([]byte(wholeFile))
	f.Add([]byte(login(`"refreshToken":"x","refreshTokenExpiresAt":null`)))
	f.Add([]byte(login(`"accessToken":"","expiresAt":0`)))
	f.Add([]byte(`{"a":[{"b":1},{"b":1}]} {`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := agent.ParseCredentials(b)
		if err != nil {
			if !errors.Is(err, hub.ErrInvalid) || hub.HintOf(err) == "" {
				t.Fatalf("error %v is no ErrInvalid with a hint", err)
			}
			return
		}
		out, err := c.Encode()
		if errors.Is(err, hub.ErrTooLarge) {
			return // null became longer
		}
		again, err := agent.ParseCredentials(out)
		if err != nil {
			t.Fatalf("what was encoded is refused: %v\n%s", err, out)
		}
		if second, _ := again.Encode(); string(second) != string(out) {
			t.Fatalf("round trip differs:\n%s\n%s", out, second)
		}
	})
}
