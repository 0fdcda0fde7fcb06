package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// app is the program with its surroundings. One value serves one command line.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string

	json    bool   // --json was given
	profile string // the profile that the command is about, if any
}

// The exit codes, which are an interface.
const (
	exitOK            = 0
	exitError         = 1
	exitUsage         = 2 // bad input, or cancelled by the user
	exitLoginRequired = 4
	exitParked        = 8
)

// main runs one command line and returns its exit code.
func (a *app) main(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	var code exitStatus
	if err != nil && !errors.As(err, &code) {
		a.printError(err)
	}
	return exitCode(err)
}

// exitStatus is an error that has been shown already, or that is not one: a
// command's exit code to pass on.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func exitCode(err error) int {
	var status exitStatus
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		return int(status)
	case errors.Is(err, hub.ErrLoginRequired):
		return exitLoginRequired
	case errors.Is(err, hub.ErrParked):
		return exitParked
	case errors.Is(err, hub.ErrInvalid), errors.Is(err, hub.ErrCancelled), errors.Is(err, context.Canceled), isUsage(err):
		return exitUsage
	}
	return exitError
}

// usageError is what cobra found wrong with the command line.
type usageError struct{ error }

func isUsage(err error) bool {
	var u usageError
	return errors.As(err, &u)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "claude-hub",
		Short: "Sign in once; your automation keeps that login, and no job ever holds it",
		Long: `claude-hub keeps your own Claude login encrypted and fresh, and lets unattended
runs of the claude CLI use it without ever holding it.

  claude-hub init                  make the hub's directory, its key and its vault
  claude-hub login                 sign in through the browser, once
  claude-hub run "fix the tests"   run the claude CLI in a sandbox, here
  claude-hub status                who is signed in, and until when

The hub lives in $CLAUDE_HUB_DIR (default ~/.claude-hub).
Exit codes: 0 ok, 1 error, 2 usage or cancelled, 4 login required, 8 parked.`,
		Args:          args(cobra.NoArgs), // what is no command is a usage error
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version(),
	}
	root.SetVersionTemplate("claude-hub {{.Version}}\n")
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		if err := c.ValidateFlagGroups(); err != nil { // cobra would do it later, and not call it usage
			return hub.Hint(usageError{err}, fmt.Sprintf("see `%s --help`", c.CommandPath()))
		}
		return a.chooseProfile(c)
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return hub.Hint(usageError{err}, fmt.Sprintf("see `%s --help`", c.CommandPath()))
	})
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON instead of text")
	root.AddCommand(
		a.initCommand(), a.loginCommand(), a.importCommand(), a.profileCommand(), a.recoverCommand(),
		a.exportCommand(), a.restoreCommand(), a.keyCommand(),
		a.statusCommand(), a.checkCommand(), a.doctorCommand(), a.refreshCommand(), a.refreshHelperCommand(),
		a.runCommand(), a.runsCommand(), a.logsCommand(), a.cancelCommand(), a.execCommand(),
		a.serveCommand(), a.notifyCommand(), a.installCommand(), a.operatorCommand(), a.agentCommand(), a.imageCommand(), a.demoCommand(), a.versionCommand(),
	)
	root.InitDefaultCompletionCmd()
	root.SetHelpCommand(helpCommand(root))
	refuseUnknown(root)
	return root
}

// helpCommand is cobra's, but for a topic that is none being an error.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show the help of a command",
		RunE: func(_ *cobra.Command, words []string) error {
			c, rest, err := root.Find(words)
			if err != nil || len(rest) > 0 && c.HasSubCommands() {
				return hub.Hint(usageError{fmt.Errorf("there is no command %q", strings.Join(words, " "))}, "see `claude-hub --help`")
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

// refuseUnknown makes the groups of commands fail on a word that is none of
// theirs: cobra shows the help and calls that a success.
func refuseUnknown(c *cobra.Command) {
	for _, sub := range c.Commands() {
		refuseUnknown(sub)
		if sub.HasSubCommands() && !sub.Runnable() {
			sub.Args = args(cobra.NoArgs)
			sub.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	}
}

// want demands as many arguments as there are names, and names those that it
// wants.
func want(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fmt.Errorf("%s: %s is missing", c.Name(), names[len(args)])
		case len(args) > len(names) && names[len(names)-1] == "PROMPT":
			return fmt.Errorf("%s: the prompt must be one argument: put it into quotes", c.Name())
		case len(args) > len(names):
			return fmt.Errorf("%s: %q is one argument too many", c.Name(), args[len(names)])
		}
		return nil
	}
}

// wantAtLeast demands an argument, and names it where it is missing.
func wantAtLeast(name string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error { return want(name)(c, args[:min(len(args), 1)]) }
}

// args wraps cobra's check of positional arguments, so that what it refuses
// exits as a usage error and names the help.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return hub.Hint(usageError{err}, fmt.Sprintf("see `%s --help`", c.CommandPath()))
		}
		return nil
	}
}

// getenv returns the last value of name in the program's environment.
func (a *app) getenv(name string) string {
	value := ""
	for _, kv := range a.environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			value = v
		}
	}
	return value
}

// log returns a logger for people that cannot print a token.
func (a *app) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(secret.NewWriter(a.stderr), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// hubDir returns the hub's directory, absolute, whether it exists or not.
func (a *app) hubDir() (string, error) {
	if dir := a.getenv("CLAUDE_HUB_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	home := a.getenv("HOME")
	if home == "" {
		return "", hub.Hint(errors.New("neither CLAUDE_HUB_DIR nor HOME is set"), "set CLAUDE_HUB_DIR to the hub's directory")
	}
	return filepath.Join(home, ".claude-hub"), nil
}

func (a *app) printError(err error) {
	fmt.Fprintf(secret.NewWriter(a.stderr), "%s %s\n", a.style(a.stderr, red, "claude-hub:"), err)
	a.printHint(a.forProfile(hub.HintOf(err), a.profile))
}

func (a *app) printHint(hint string) {
	if hint != "" {
		fmt.Fprintf(secret.NewWriter(a.stderr), "  %s %s\n", a.style(a.stderr, dim, "→"), hint)
	}
}

// forProfile has the commands that a hint tells to type name the profile that it
// is about, where without that they would be about another login.
func (a *app) forProfile(hint, profile string) string {
	name, err := hub.ParseProfileName(profile)
	if err != nil || !strings.Contains(hint, "`claude-hub ") {
		return hint
	}
	if unsaid, err := a.unsaidProfile(context.Background()); err == nil && name == unsaid {
		return hint
	}
	for _, command := range []string{"`claude-hub login", "`claude-hub refresh", "`claude-hub run"} {
		hint = strings.ReplaceAll(hint, command, fmt.Sprintf("%s --profile %s", command, name))
	}
	return hint
}

// profileFlag adds --profile to c and returns where its value goes. By the time
// that c runs it is what [app.chooseProfile] says.
func (a *app) profileFlag(c *cobra.Command) *string {
	var name string
	a.profileFlagVar(c, &name, string(hub.DefaultProfile), "the login to use; first come this, $"+profileVariable+" and what 'profile default' has set")
	return &name
}

func (a *app) profileFlagVar(c *cobra.Command, name *string, value, usage string) {
	c.Flags().StringVarP(name, "profile", "p", value, usage)
	c.RegisterFlagCompletionFunc("profile", a.completeProfiles) //nolint:errcheck // it fails only for a flag that isn't there
}

// isTerminal reports whether v is a terminal.
func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && isTerminalFile(f)
}
