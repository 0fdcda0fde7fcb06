package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/run"
)

type runOptions struct {
	profile  *string
	dir      string
	model    string
	resume   string
	timeout  time.Duration
	delivery string
	tools    []string
	limits   limitOptions
	wait     bool
	noPark   bool
}

func (a *app) runCommand() *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run [flags] PROMPT",
		Short: "Run the claude CLI in a sandbox, on the current directory",
		Long: `Runs the claude CLI on PROMPT ("-" reads it from standard input) in a sandbox that
has no token and no network but the gateway. The current directory, or --dir, is
its workspace: it can change everything in there, and nothing else.

Shows what happens as it happens, and ends with the verdict, the usage, and what
it would have cost at list price. With --json, each line is an event of the CLI,
and the last line is the run's record.

Where claude-hub serve runs, a run that needs a sign-in or the plan's next window
is parked: the command says what it waits for and exits with 8, and the daemon goes
on with the run by itself, in the same conversation; so it does with runs that its
own end has interrupted. claude-hub logs -f follows such a run, and claude-hub
cancel ends it. With --wait the command stays until the verdict: Ctrl-C then ends
the waiting once the run is parked, and not the run. With --no-park, and without
a daemon, the run ends there instead, with 4 or 8.`,
		Example: `  claude-hub run "make the failing test pass"
  git diff main | claude-hub run --max-cost 0.50 - `,
		Args:              args(want("PROMPT")),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(c *cobra.Command, args []string) error { return a.run(c.Context(), o, args[0]) },
	}
	o.profile = a.profileFlag(c)
	f := c.Flags()
	f.StringVarP(&o.dir, "dir", "d", "", "the workspace (default: the current directory)")
	f.StringVarP(&o.model, "model", "m", "", "the model (default: the profile's, or the CLI's choice)")
	f.StringVar(&o.resume, "resume", "", "go on with the conversation of an earlier run, by its ID")
	f.DurationVar(&o.timeout, "timeout", 0, "how long the run may take (default: the profile's, or 30m)")
	f.StringVar(&o.delivery, "delivery", "", "gateway: no token in the sandbox (the default, if the profile has no other); copy: a working copy of the captured state, with the access token")
	f.StringSliceVar(&o.tools, "allowed-tools", nil, "the CLI's tools to allow (default: all)")
	f.BoolVar(&o.wait, "wait", false, "stay until the run has its verdict, also while it is parked")
	f.BoolVar(&o.noPark, "no-park", false, "end the run where the daemon would park it")
	c.MarkFlagsMutuallyExclusive("wait", "no-park")
	o.limits.flags(f)
	c.MarkFlagDirname("dir")                                         //nolint:errcheck // it fails only for a flag that isn't there
	c.RegisterFlagCompletionFunc("resume", a.completeRuns)           //nolint:errcheck // likewise
	c.RegisterFlagCompletionFunc("delivery", cobra.FixedCompletions( //nolint:errcheck // likewise
		[]cobra.Completion{string(hub.DeliveryGateway), string(hub.DeliveryCopy)}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) run(ctx context.Context, o runOptions, prompt string) error {
	req, err := a.runRequest(o, prompt)
	if err != nil {
		return err
	}
	if a.delivery(ctx, req) == hub.DeliveryCopy {
		fmt.Fprintln(a.stderr, a.style(a.stderr, yellow, "warning:")+" the delivery \"copy\" puts a real access token into the sandbox")
	}
	e, err := a.openEngine(ctx)
	if err != nil {
		return err
	}
	defer e.Close()
	show := newProgress(a)
	ctx, stop := show.untilUnread(ctx)
	defer stop()
	w := &waiting{}
	r, err := e.Run(ctx, req, func(line []byte) {
		w.event(line)
		show.event(line)
	})
	if o.wait && ctx.Err() == nil && (r.Parked != nil || r.ID == "" && w.id != "") { // parked, or the daemon is gone
		if r.Parked != nil && !a.json {
			show.parked(r)
		}
		r, err = a.wait(ctx, show, w)
	}
	if r.ID == "" {
		return err
	}
	if err := show.end(r); err != nil && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	return verdictError(r)
}

// delivery returns what the run will be given, as far as can be told before.
func (a *app) delivery(ctx context.Context, req api.RunRequest) hub.Delivery {
	if req.Delivery != "" {
		return req.Delivery
	}
	h, err := a.openHome()
	if err != nil {
		return ""
	}
	p, err := h.profile(ctx, string(req.Profile))
	if err != nil {
		return ""
	}
	return p.Policy.Delivery
}

func (a *app) runRequest(o runOptions, prompt string) (api.RunRequest, error) {
	text, err := a.readPrompt(prompt)
	if err != nil {
		return api.RunRequest{}, err
	}
	name, err := hub.ParseProfileName(*o.profile)
	if err != nil {
		return api.RunRequest{}, err
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return api.RunRequest{}, fmt.Errorf("finding the workspace: %w", err)
	}
	resume := hub.RunID("")
	if o.resume != "" {
		if resume, err = hub.ParseRunID(o.resume); err != nil {
			return api.RunRequest{}, err
		}
	}
	delivery, err := hub.ParseDelivery(o.delivery)
	if err != nil {
		return api.RunRequest{}, err
	}
	limits, err := o.limits.limits()
	return api.RunRequest{
		Profile: name, Dir: dir, Prompt: text, Model: o.model, Resume: resume, Timeout: o.timeout,
		Limits: limits, Delivery: delivery, AllowedTools: o.tools, NoPark: o.noPark,
	}, err
}

func (a *app) readPrompt(arg string) (string, error) {
	if arg != "-" {
		return arg, nil
	}
	data, err := io.ReadAll(io.LimitReader(a.stdin, run.MaxPrompt+1))
	if err != nil {
		return "", fmt.Errorf("reading the prompt from standard input: %w", err)
	}
	if len(data) > run.MaxPrompt {
		return "", hub.Hint(fmt.Errorf("%w: the prompt has more than %d bytes", hub.ErrInvalid, run.MaxPrompt), "put the text into a file of the workspace and name it in the prompt")
	}
	return string(data), nil
}

// verdictError turns a run's verdict into the exit code. What happened has been
// shown by then.
func verdictError(r hub.Run) error {
	if r.Parked != nil {
		return exitStatus(exitParked)
	}
	switch r.Verdict {
	case "": // somebody no longer waits for it
		return exitStatus(exitUsage)
	case hub.VerdictDone:
		return nil
	case hub.VerdictLoginRequired:
		return exitStatus(exitLoginRequired)
	case hub.VerdictParked:
		return exitStatus(exitParked)
	case hub.VerdictCancelled:
		return exitStatus(exitUsage)
	}
	return exitStatus(exitError)
}

func (a *app) runsCommand() *cobra.Command {
	var profile string
	var limit int
	var running bool
	c := &cobra.Command{
		Use:   "runs [ID]",
		Short: "List the runs, newest first, or show one",
		Args: args(func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return want("ID")(c, args)
			}
			return nil
		}),
		ValidArgsFunction: firstArg(a.completeRuns),
		RunE: func(c *cobra.Command, args []string) error {
			if limit < 1 {
				return fmt.Errorf("%w: --limit %d shows nothing: give 1 or more", hub.ErrInvalid, limit)
			}
			runs, err := a.openRuns(c.Context())
			if err != nil {
				return err
			}
			defer runs.Close()
			if len(args) == 1 {
				return a.showRun(c.Context(), runs, args[0])
			}
			return a.listRuns(c.Context(), runs, profile, limit, running)
		},
	}
	a.profileFlagVar(c, &profile, "", "only this profile's runs")
	c.Flags().IntVarP(&limit, "limit", "n", 20, "how many, at most")
	c.Flags().BoolVar(&running, "running", false, "only those that have not ended")
	c.AddCommand(a.runsPruneCommand())
	return c
}

func (a *app) showRun(ctx context.Context, runs *runBook, arg string) error {
	id, err := hub.ParseRunID(arg)
	if err != nil {
		return err
	}
	r, err := runs.store.Run(ctx, id)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(r)
	}
	rows := [][]string{
		{"run", string(r.ID)}, {"profile", string(r.Profile)}, {"dir", r.Dir}, {"prompt", printable(r.Prompt, 200)},
		{"started", r.Started.Format(time.RFC3339)}, {"verdict", verdictText(r)}, {"took", span(ended(r).Sub(r.Started))},
		{"usage", usageText(r.Usage)},
	}
	if r.Attempts > 1 {
		rows = append(rows, []string{"attempts", fmt.Sprint(r.Attempts)})
	}
	if r.Parked != nil {
		rows = append(rows, []string{"parked", ago(now(), r.Parked.Since) + ": " + printable(r.Parked.Reason, 200)}, []string{"", a.parkedHint(r)})
	}
	if r.AgentSession != "" {
		rows = append(rows, []string{"session", r.AgentSession})
	}
	if err := a.table(rows); err != nil || r.Result == "" {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "\n%s\n", printable(r.Result, 4000))
	return err
}

func (a *app) listRuns(ctx context.Context, runs *runBook, profile string, limit int, running bool) error {
	list, err := runs.list(ctx, profile, limit, running)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(list)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(a.stderr, "There are no such runs.")
		return err
	}
	rows := [][]string{{"RUN", "STARTED", "TOOK", "VERDICT", "TOKENS", "USD", "PROMPT"}}
	for _, r := range list {
		rows = append(rows, []string{
			string(r.ID), ago(now(), r.Started), span(ended(r).Sub(r.Started)), verdictText(r),
			grouped(r.Usage.Tokens()), fmt.Sprintf("%.2f", r.Usage.Cost.USD()), printable(r.Prompt, 40),
		})
	}
	return a.table(rows)
}

func ended(r hub.Run) time.Time {
	if r.Ended.IsZero() {
		return now()
	}
	return r.Ended
}

func verdictText(r hub.Run) string {
	switch {
	case r.Parked != nil:
		return parkedText(r)
	case r.Verdict == "":
		return "running"
	case r.Verdict == hub.VerdictParked && !r.Until.IsZero():
		return "parked until " + r.Until.Local().Format("15:04")
	case r.Reason != "":
		return string(r.Verdict) + ": " + printable(r.Reason, 60)
	}
	return string(r.Verdict)
}

func usageText(u hub.Usage) string {
	requests := fmt.Sprintf("%d requests · ", u.Requests)
	switch {
	case u.Requests == 1:
		requests = "1 request · "
	case u.Requests == 0 && u.Tokens() > 0: // it talked to the platform itself, and nobody counted
		requests = ""
	}
	return fmt.Sprintf("%s%s tokens · $%.2f at list price", requests, grouped(u.Tokens()), u.Cost.USD())
}

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:               "logs [-f] ID",
		Short:             "Show what a run's CLI said; with -f, until the run ends",
		Args:              args(want("ID")),
		ValidArgsFunction: firstArg(a.completeRuns),
		RunE: a.onRun(func(ctx context.Context, runs *runBook, id hub.RunID) error {
			show := newProgress(a)
			if err := runs.logs(ctx, id, follow, show.event); err != nil {
				return err
			}
			r, err := runs.store.Run(ctx, id)
			if err != nil || r.Verdict == "" && r.Parked == nil {
				return err
			}
			return show.end(r)
		}),
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the run ends")
	return c
}

func (a *app) cancelCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "cancel ID",
		Short:             "End a run",
		Args:              args(want("ID")),
		ValidArgsFunction: firstArg(a.completeRuns),
		RunE: a.onRun(func(ctx context.Context, runs *runBook, id hub.RunID) error {
			if err := runs.runner.Cancel(ctx, id); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]hub.RunID{"cancelled": id})
			}
			_, err := fmt.Fprintf(a.stdout, "%s %s is told to end.\n", a.style(a.stdout, green, "✓"), id)
			return err
		}),
	}
}

// onRun is what a command does that takes the ID of one run.
func (a *app) onRun(do func(context.Context, *runBook, hub.RunID) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		id, err := hub.ParseRunID(args[0])
		if err != nil {
			return err
		}
		runs, err := a.openRuns(c.Context())
		if err != nil {
			return err
		}
		defer runs.Close()
		return do(c.Context(), runs, id)
	}
}

// limitOptions are the flags that bound a lease.
type limitOptions struct {
	requests int
	tokens   int64
	cost     float64
	models   []string
	parallel int
}

// flagSet is what limitOptions needs of a command's flags.
type flagSet interface {
	IntVar(p *int, name string, value int, usage string)
	Int64Var(p *int64, name string, value int64, usage string)
	Float64Var(p *float64, name string, value float64, usage string)
	StringSliceVar(p *[]string, name string, value []string, usage string)
}

func (o *limitOptions) flags(f flagSet) {
	f.IntVar(&o.requests, "max-requests", 0, "how many inference requests it may make (0: no limit)")
	f.Int64Var(&o.tokens, "max-tokens", 0, "how many tokens it may use (0: no limit)")
	f.Float64Var(&o.cost, "max-cost", 0, "how many US dollars it may use up, at list price (0: no limit)")
	f.StringSliceVar(&o.models, "allowed-models", nil, "the models that it may use, a trailing * matches any ending (default: all)")
	f.IntVar(&o.parallel, "max-parallel", 0, "how many requests may be in flight at once (0: no limit)")
}

func (o limitOptions) limits() (hub.Limits, error) {
	if o.requests < 0 || o.tokens < 0 || !(o.cost >= 0 && o.cost <= 1e6) || o.parallel < 0 {
		return hub.Limits{}, fmt.Errorf("%w: a limit is negative or absurd", hub.ErrInvalid)
	}
	return hub.Limits{Requests: o.requests, Tokens: o.tokens, Cost: hub.MicroUSD(o.cost * 1e6), Models: o.models, Parallel: o.parallel}, nil
}
