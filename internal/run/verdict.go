package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// ending is all that is known of how a run ended.
type ending struct {
	err     error            // why it could not be started, or its end not be known
	cause   error            // why it was ended from outside; nil if it was not
	exit    sandbox.Exit     // Code is -1 if it never ran
	refusal *Refusal         // of its last request
	result  *agent.Result    // what the CLI said at its end; nil if nothing
	limit   *agent.RateLimit // the last that it said of the plan's windows
	stderr  string           // the end of it
	usage   hub.Usage
}

// verdict says what an ending means. The first that applies, counts: work that
// was done is done, even if somebody wanted to stop it at the last moment; who
// stopped it comes before what it said while it was dying; a limit of the
// sandbox before what the CLI made of it.
func (e ending) verdict() (v hub.Verdict, reason string, until time.Time) {
	if e.err == nil && e.exit.Code == 0 && e.exit.Reason == sandbox.ReasonNone && e.result != nil && !e.result.IsError {
		return hub.VerdictDone, "", time.Time{}
	}
	if e.cause != nil {
		v, reason = stopped(e.cause)
		return v, reason, time.Time{}
	}
	if e.err != nil {
		return unstarted(e.err)
	}
	if reason := e.overLimit(); reason != "" {
		if e.exit.Reason == sandbox.ReasonTime {
			return hub.VerdictTimedOut, reason, time.Time{}
		}
		return hub.VerdictFailed, reason, time.Time{}
	}
	if e.refusal != nil {
		return e.refusal.Verdict, line(e.refusal.Reason), e.refusal.Until
	}
	if e.result != nil && e.result.APIStatus == http.StatusTooManyRequests && e.limit != nil && e.limit.Status == "rejected" {
		return hub.VerdictParked, line(e.complaint()), e.limit.Resets
	}
	return hub.VerdictFailed, line(e.complaint()), time.Time{}
}

// stopped is for a run that was ended from outside.
func stopped(cause error) (hub.Verdict, string) {
	switch {
	case errors.Is(cause, errTimedOut), errors.Is(cause, context.DeadlineExceeded):
		return hub.VerdictTimedOut, "the run took longer than it may"
	case errors.Is(cause, ErrStopping):
		return hub.VerdictCancelled, "cancelled: the hub stopped"
	case errors.Is(cause, errSinkPanicked):
		return hub.VerdictFailed, cause.Error()
	case errors.Is(cause, errCancelled), errors.Is(cause, context.Canceled):
		return hub.VerdictCancelled, errCancelled.Error()
	}
	return hub.VerdictCancelled, line("cancelled: " + cause.Error())
}

// unstarted is for a run that did not get to the CLI, or whose end is not known.
func unstarted(err error) (hub.Verdict, string, time.Time) {
	var refusal *RefusedError
	switch {
	case errors.As(err, &refusal):
		return refusal.Verdict, line(refusal.Reason), refusal.Until
	case errors.Is(err, hub.ErrLoginRequired):
		return hub.VerdictLoginRequired, line(err.Error()), time.Time{}
	case errors.Is(err, hub.ErrParked):
		return hub.VerdictParked, line(err.Error()), time.Time{}
	}
	reason := err.Error()
	if hint := hub.HintOf(err); hint != "" {
		reason += ": " + hint
	}
	if errors.Is(err, hub.ErrRefused) {
		return hub.VerdictRefused, line(reason), time.Time{}
	}
	return hub.VerdictFailed, line(reason), time.Time{}
}

// overLimit says which limit of the sandbox ended the run, or nothing.
func (e ending) overLimit() string {
	switch e.exit.Reason {
	case sandbox.ReasonNone:
		return ""
	case sandbox.ReasonTime:
		return "the run took longer than it may"
	case sandbox.ReasonMemory:
		return "the sandbox used more memory than it may"
	case sandbox.ReasonProcesses:
		return "the sandbox had more processes than it may"
	case sandbox.ReasonOutput:
		return "the CLI printed more than it may"
	case sandbox.ReasonDisk:
		return "a file grew larger than it may, or the disk was nearly full"
	}
	return "the sandbox was ended: " + line(e.exit.Reason)
}

// complaint is what the CLI said of its failure, the best source first.
func (e ending) complaint() string {
	switch {
	case e.result != nil && e.result.IsError:
		return cmp.Or(e.result.Text, strings.Join(e.result.Errors, "; "), e.result.Reason, "the CLI reported an error")
	case e.exit.Signal != "":
		return "the CLI was ended by " + e.exit.Signal
	case e.stderr != "":
		return fmt.Sprintf("the CLI exited with %d: %s", e.exit.Code, lastLine(e.stderr))
	case e.exit.Code == 0:
		return "the CLI ended without a result"
	}
	return fmt.Sprintf("the CLI exited with %d and no reason", e.exit.Code)
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// reported is the usage as the CLI tells it, where nobody of ours could meter it.
func reported(r *agent.Result) hub.Usage {
	if r == nil {
		return hub.Usage{}
	}
	u := r.Usage
	u.Cost = r.Cost
	for _, n := range []*int64{&u.InputTokens, &u.OutputTokens, &u.CacheReadTokens, &u.CacheWriteTokens} {
		*n = max(0, *n)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Models)) {
		if len(u.Models) < maxModels {
			u.Models = append(u.Models, cut(line(name), maxModel))
		}
	}
	return u
}

// merged is the models of two attempts, in order of first use.
func merged(a, b []string) []string {
	all := slices.Clone(a)
	for _, name := range b {
		if len(all) < maxModels && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}
