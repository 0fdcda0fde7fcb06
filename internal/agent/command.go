package agent

import (
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// Command is how to start the CLI for something other than a run: its arguments
// and what its environment needs. Printing it shows no secret.
type Command struct {
	Args []string // argv, the CLI's path first
	set  map[string]secret.Text
}

// Environ returns the command's whole environment: [Environ] of parent with what
// the command needs and more, which wins. It reveals the secrets in it.
func (c Command) Environ(parent []string, more map[string]string) []string {
	set := maps.Clone(quiet)
	for name, value := range c.set {
		set[name] = value.Reveal()
	}
	maps.Copy(set, more)
	return Environ(parent, set)
}

// RefreshCommand returns the command that rotates c: `claude auth login` with the
// refresh token in its environment. home is a private, empty directory; the CLI
// writes [CredentialPath] of it when the platform has answered.
//
// Seen with CLI 2.1.330: it sends exactly one token request, never a replay, and
// waits 30 s for the answer; it needs no terminal. Before it writes the file it
// asks the profile endpoint, so give it a proxy that refuses everything but the
// token endpoint. An answer without "scope" makes it write {} and lose the pair.
func RefreshCommand(bin, home string, c Credentials) (Command, error) {
	if c.RefreshToken.IsZero() {
		return Command{}, hub.Hint(fmt.Errorf("%w: the login has no refresh token", hub.ErrLoginRequired), hintLost)
	}
	if len(c.Scopes) == 0 {
		return Command{}, invalid(hintScopes, "the login has no scopes")
	}
	cmd := command(home, bin, "auth", "login")
	cmd.set["CLAUDE_CODE_OAUTH_REFRESH_TOKEN"] = c.RefreshToken
	cmd.set["CLAUDE_CODE_OAUTH_SCOPES"] = secret.New(strings.Join(c.Scopes, " "))
	return cmd, nil
}

// LoginCommand returns the command that signs a person in. It needs a terminal;
// [SignIn] reads what it prints. BROWSER keeps it from starting a browser (or a
// text browser on the same terminal) by itself: the person gets the link from us.
func LoginCommand(bin, home string) Command {
	cmd := command(home, bin, "auth", "login", "--claudeai")
	cmd.set["CLAUDE_CODE_FULL_SIGN_IN_LINK"] = secret.New("1") // else the link is a short one that hides state and challenge
	cmd.set["BROWSER"] = secret.New("true")
	return cmd
}

// SetupTokenCommand returns the command that makes a one-year token. It is a
// full-screen program that shows the token once: give it the person's own
// terminal, and let them paste the token for [NewSetupToken].
func SetupTokenCommand(bin, home string) Command {
	return command(home, bin, "setup-token")
}

// ShellCommand returns a command of the person's own, such as a shell, in which
// the CLI finds this home.
func ShellCommand(home string, args ...string) Command { return command(home, args...) }

// PlatformAddresses is where the CLI goes in a sign-in, and in all that it does
// with a login: the token endpoint (older CLIs: the console's) and the API. Seen
// with CLI 2.1.330; the pages of a sign-in are for the person's browser.
var PlatformAddresses = []string{"platform.claude.com:443", "api.anthropic.com:443", "console.anthropic.com:443"}

// CredentialPath is where a command with this home leaves the login.
func CredentialPath(home string) string { return filepath.Join(configDir(home), CredentialFile) }

func configDir(home string) string { return filepath.Join(home, ".claude") }

func command(home string, args ...string) Command {
	return Command{Args: args, set: map[string]secret.Text{
		"HOME":              secret.New(home),
		"CLAUDE_CONFIG_DIR": secret.New(configDir(home)),
	}}
}
