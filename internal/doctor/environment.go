package doctor

import (
	"context"
	"fmt"
	"strings"
)

var environmentCheck = check{
	name: "environment", group: groupLogin,
	looks: []Entry{{ID: "api-key", Level: LevelWarning, Meaning: "the environment holds a key or an address that outranks the login in every claude that is started from it"}},
	run:   lookAtEnvironment,
}

// outrank are the CLI's variables that win over a login. The hub's own runs do not
// see them.
var outrank = []string{
	"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_UNIX_SOCKET",
	"CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY",
}

func lookAtEnvironment(_ context.Context, p *patient) []Finding {
	var there []string
	for _, name := range outrank {
		if p.getenv(name) != "" { // its value is nobody's business
			there = append(there, name)
		}
	}
	if len(there) == 0 {
		return nil
	}
	return []Finding{{
		ID: "api-key", Level: LevelWarning,
		Symptom: fmt.Sprintf("%s is set here", strings.Join(there, ", ")),
		Cause:   "a key, a token or another address in the environment outranks the login in every claude that you start from it, and is paid for apart; the hub's own runs do not see it",
		Fix:     "unset " + strings.Join(there, " ") + ", and take it out of your shell's start-up files, unless you want it so",
	}}
}
