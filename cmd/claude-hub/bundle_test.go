package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// hubkeys PREFIX sets PREFIX_RECIPIENT and PREFIX_SENDER to what the current hub
// is known by.
func cmdHubKeys(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("claude-hub", "key", "show", "--json"))
	var keys struct{ Recipient, Sender string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &keys))
	ts.Setenv(args[0]+"_RECIPIENT", keys.Recipient)
	ts.Setenv(args[0]+"_SENDER", keys.Sender)
}

// trusts CONFIG SENDER names a trusted sender in the settings.
func cmdTrusts(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte("trusted_senders: ["+args[1]+"]\n"), 0o600))
}

// rotates FILE is another client, which refreshes the login in a credential file.
func cmdRotates(ts *testscript.TestScript, _ bool, args []string) {
	c, err := agent.ParseCredentials([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	grant, err := json.Marshal(map[string]string{
		"grant_type": "refresh_token", "refresh_token": c.RefreshToken.Reveal(), "client_id": "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
	})
	ts.Check(err)
	client := platformOf(ts).Client()
	defer client.CloseIdleConnections()
	resp, err := client.Post("https://platform.claude.com/v1/oauth/token", "application/json", bytes.NewReader(grant))
	ts.Check(err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		ts.Fatalf("the platform answers %s", resp.Status)
	}
}

func TestParseOwner(t *testing.T) {
	root := os.Geteuid() == 0
	for owner, want := range map[string][2]int{"": {-1, -1}, "root": {0, 0}, "0": {0, 0}, "0:0": {0, 0}, "root:root": {0, 0}, "54321:65432": {54321, 65432}, "root:65432": {0, 65432}} {
		uid, gid, err := parseOwner(owner)
		if ok := root || owner == ""; ok != (err == nil) || ok && [2]int{uid, gid} != want {
			t.Errorf("parseOwner(%q) = %d, %d, %v; want %v", owner, uid, gid, err, want)
		}
	}
	for _, bad := range []string{"no-such-user", "54321", "54321:", ":0", "root:no-such-group", "-1:-1", "0:4294967295", "0 :0"} {
		if _, _, err := parseOwner(bad); !errors.Is(err, hub.ErrInvalid) || hub.HintOf(err) == "" {
			t.Errorf("parseOwner(%q) = %v; want ErrInvalid with a hint", bad, err)
		}
	}
}
