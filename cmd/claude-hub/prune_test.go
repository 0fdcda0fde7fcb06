package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

func TestParseAge(t *testing.T) {
	for s, want := range map[string]time.Duration{"30d": 30 * day, "0d": 0, "12h": 12 * time.Hour, "0s": 0, "forever": forever} {
		if got, err := parseAge(s); err != nil || got != want {
			t.Errorf("parseAge(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "d", "-1d", "-1h", "30", "1.5d", "60000d", "99999999999999999999d", "1e9h", "soon", "3 d"} {
		if got, err := parseAge(s); !errors.Is(err, hub.ErrInvalid) || hub.HintOf(err) == "" {
			t.Errorf("parseAge(%q) = %v, %v; want ErrInvalid with a hint", s, got, err)
		}
	}
}

func TestDailyIsDaily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		stop := daily(5*time.Minute, func(ctx context.Context) {
			at = append(at, time.Since(start))
			if len(at) == 3 {
				<-ctx.Done() // stop ends it, and waits for it
				at = append(at, time.Since(start))
			}
		})
		time.Sleep(2*day + time.Hour)
		stop()
		stop()
		if len(at) != 4 || at[0] != 5*time.Minute || at[1] != day+5*time.Minute || at[2] != 2*day+5*time.Minute || at[3] != 2*day+time.Hour {
			t.Errorf("it was done at %v", at)
		}
	})
}
