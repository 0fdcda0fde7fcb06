package main

import (
	"encoding/json"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
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

// expire FILE makes a credential file's access token look expired, so that the CLI
// refreshes it.
func cmdExpire(ts *testscript.TestScript, _ bool, args []string) {
	var file map[string]map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &file))
	file["claudeAiOauth"]["expiresAt"] = time.Now().Add(-time.Minute).UnixMilli()
	b, err := json.Marshal(file)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}
