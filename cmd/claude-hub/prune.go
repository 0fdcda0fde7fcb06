package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/hub"
)

const (
	day = 24 * time.Hour

	// defaultKeep is how long runs are kept where the settings say nothing.
	defaultKeep = 90 * day
	// forever is the age that no run has.
	forever = 100 * 365 * day

	prunePeriod = day
	pruneJitter = 10 * time.Minute // before the first time
)

// parseAge accepts "forever", a number of days such as "30d", or a duration.
func parseAge(s string) (time.Duration, error) {
	if s == "forever" {
		return forever, nil
	}
	days, isDays := strings.CutSuffix(s, "d")
	n, err := strconv.ParseUint(days, 10, 16)
	if isDays && err == nil && time.Duration(n)*day <= forever {
		return time.Duration(n) * day, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > forever {
		return 0, hub.Hint(fmt.Errorf("%w: %.40q is no age", hub.ErrInvalid, s), `give days, such as 30d, hours, such as 12h, or "forever"`)
	}
	return d, nil
}

// keepRuns returns how long runs are kept.
func (c config) keepRuns() (time.Duration, error) {
	if c.KeepRuns == "" {
		return defaultKeep, nil
	}
	d, err := parseAge(c.KeepRuns)
	if err != nil {
		return 0, fmt.Errorf("the setting keep_runs: %w", err)
	}
	return d, nil
}

func (a *app) runsPruneCommand() *cobra.Command {
	var age string
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove the records, logs and sessions of runs that ended long ago",
		Long: `Removes the runs that ended longer ago than --older-than, or than keep_runs in
config.yaml says (90d without that). The daemon does it daily. Runs that have not
ended stay, parked ones too.`,
		Args: args(cobra.NoArgs),
	}
	c.Flags().StringVar(&age, "older-than", "", "how long ago they ended at least: 30d, 12h (default: keep_runs)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		runs, err := a.openRuns(c.Context())
		if err != nil {
			return err
		}
		defer runs.Close()
		keep, err := runs.home.config.keepRuns()
		if c.Flags().Changed("older-than") {
			keep, err = parseAge(age)
		}
		if err != nil {
			return err
		}
		pruned, err := runs.runner.Prune(c.Context(), runs.store, now().Add(-keep))
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(pruned)
		}
		_, err = fmt.Fprintf(a.stdout, "%s %d runs are removed.\n", a.style(a.stdout, green, "✓"), pruned.Runs)
		return err
	}
	return c
}

// pruneDaily removes old runs, soon and then once a day, until stop is called,
// which may be done twice.
func (e *local) pruneDaily(log *slog.Logger) (stop func(), err error) {
	keep, err := e.home.config.keepRuns()
	if err != nil {
		return nil, err
	}
	return daily(rand.N(pruneJitter), func(ctx context.Context) {
		pruned, err := e.runner.Prune(ctx, e.store, now().Add(-keep))
		if err != nil && ctx.Err() == nil {
			log.Warn("old runs could not be removed", "err", err)
		}
		if pruned.Runs > 0 {
			log.Info("old runs were removed", "runs", pruned.Runs)
		}
	}), nil
}

// daily calls do after the time first, and then once a day, until stop is called.
// stop ends the context of a call that is under way, and waits for it.
func daily(first time.Duration, do func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		timer := time.NewTimer(first)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
				do(ctx)
				timer.Reset(prunePeriod)
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}
