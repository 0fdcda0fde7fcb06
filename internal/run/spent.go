package run

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// What a run has used is in the memory of its process. So that the death of that
// process does not give the budget back, it is also noted in the run's directory.
const (
	spentPeriod     = 2 * time.Second // how much of it may be lost
	spentTimePeriod = time.Minute     // the same, of time in which nothing else was used
	maxSpent        = 64 << 10
)

// spent is what one attempt of a run has used so far.
type spent struct {
	Attempt int
	Usage   hub.Usage
	Took    time.Duration
}

// noteSpent notes what the attempt uses, until the returned function has returned.
func (x *execution) noteSpent(usage func() hub.Usage) (stop func()) {
	began, attempt := x.began, x.record.Attempts
	stopping, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(spentPeriod)
		defer tick.Stop()
		last := spent{Attempt: attempt}
		failed := false
		for {
			select {
			case <-stopping:
				return
			case <-tick.C:
			}
			now := spent{Attempt: attempt, Usage: usage(), Took: x.cfg.Now().Sub(began)}
			if !now.worth(last) {
				continue
			}
			if err := x.dir.note(now); err == nil {
				last = now
			} else if !failed { // once is enough
				failed = true
				x.log.Warn("what a run has used could not be noted", "err", err)
			}
		}
	}()
	return func() {
		close(stopping)
		<-stopped
	}
}

// worth reports whether s says enough more than what was noted last.
func (s spent) worth(last spent) bool {
	a, b := s.Usage, last.Usage
	return a.Requests != b.Requests || a.Tokens() != b.Tokens() || a.Cost != b.Cost || s.Took-last.Took >= spentTimePeriod
}

// note writes what was spent. A crash leaves the old note or the new one.
func (d *directory) note(s spent) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return renameio.WriteFile(d.in(spentFile), data, 0o600, renameio.WithStaticPermissions(0o600))
}

// spent returns what the attempt had used when that was noted last; zero if it was
// not, or if the note is of another attempt.
func (d *directory) spent(attempt int) (spent, error) {
	f, err := os.OpenFile(d.in(spentFile), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return spent{}, nil
	}
	if err != nil {
		return spent{}, err
	}
	defer f.Close()
	var s spent
	if err := json.NewDecoder(io.LimitReader(f, maxSpent)).Decode(&s); err != nil {
		return spent{}, err
	}
	if s.Attempt != attempt {
		return spent{}, nil
	}
	s.Took = max(s.Took, 0) // the clock was set back
	return s, nil
}

// forgetSpent removes the note, and what a crash left of one.
func (d *directory) forgetSpent() error {
	entries, err := os.ReadDir(d.path)
	errs := []error{err}
	for _, e := range entries {
		if e.Name() == spentFile || strings.HasPrefix(e.Name(), "."+spentFile) {
			errs = append(errs, removeIfThere(d.in(e.Name())))
		}
	}
	return errors.Join(errs...)
}
