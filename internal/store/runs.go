package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Filter chooses runs. The zero value chooses the newest 1,000.
type Filter struct {
	Profile hub.ProfileName // those under this name at the time; "" means all
	// Of is the profile whose runs are chosen, under whatever name; those of older
	// hubs, which noted no ID, by its name. The zero value means all.
	Of      hub.Profile
	Running bool      // only runs that have no verdict; parked ones have none
	Parked  bool      // only runs that are parked
	Limit   int       // 0 means 1,000
	Before  hub.RunID // only runs made before this one, for paging; "" means from the newest
}

const (
	defaultLimit = 1000
	runColumns   = `id, profile, dir, prompt, model, delivery, started, ended, verdict, reason, until, result, exit_code, usage, agent_session,
		parked_cause, parked_reason, parked_since, parked_until, attempts, interruptions, profile_id`
)

// CreateRun records a new run. A run of the same ID is [hub.ErrExists]. Times
// are kept to the microsecond.
func (s *Store) CreateRun(ctx context.Context, r hub.Run) error {
	usage, err := json.Marshal(r.Usage)
	if err != nil {
		return fmt.Errorf("recording run %s: %w", r.ID, err)
	}
	p := parking(r)
	_, err = s.write.ExecContext(ctx, `INSERT INTO runs (`+runColumns+`) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
		r.ID, r.Profile, r.Dir, r.Prompt, r.Model, r.Delivery, micros(r.Started), micros(r.Ended),
		r.Verdict, r.Reason, micros(r.Until), r.Result, r.ExitCode, string(usage), r.AgentSession,
		p.Cause, p.Reason, micros(p.Since), micros(p.Until), r.Attempts, r.Interruptions, r.ProfileID)
	var e *sqlite.Error
	if errors.As(err, &e) && e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY {
		return fmt.Errorf("%w: run %s", hub.ErrExists, r.ID)
	}
	if err != nil {
		return fmt.Errorf("recording run %s: %w", r.ID, err)
	}
	return nil
}

// UpdateRun replaces what may change of a run: everything from Ended on. A run
// that has its verdict already is [hub.ErrConflict] and stays as it is; an
// unknown one is [hub.ErrNotFound].
func (s *Store) UpdateRun(ctx context.Context, r hub.Run) error {
	usage, err := json.Marshal(r.Usage)
	if err != nil {
		return fmt.Errorf("updating run %s: %w", r.ID, err)
	}
	p := parking(r)
	result, err := s.write.ExecContext(ctx, `UPDATE runs SET ended = ?, verdict = ?, reason = ?, until = ?, result = ?,
		exit_code = ?, usage = ?, agent_session = ?, parked_cause = ?, parked_reason = ?, parked_since = ?, parked_until = ?,
		attempts = ?, interruptions = ? WHERE id = ? AND verdict = ''`,
		micros(r.Ended), r.Verdict, r.Reason, micros(r.Until), r.Result, r.ExitCode, string(usage), r.AgentSession,
		p.Cause, p.Reason, micros(p.Since), micros(p.Until), r.Attempts, r.Interruptions, r.ID)
	if err != nil {
		return fmt.Errorf("updating run %s: %w", r.ID, err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		return fmt.Errorf("updating run %s: %w", r.ID, err)
	}
	if n == 1 {
		return nil
	}
	had, err := s.Run(ctx, r.ID)
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: run %s has its verdict already: %s", hub.ErrConflict, r.ID, had.Verdict)
}

// Forget removes the record of a run that has its verdict. One that is not there
// is fine; one that has none yet is [hub.ErrConflict].
func (s *Store) Forget(ctx context.Context, id hub.RunID) error {
	result, err := s.write.ExecContext(ctx, `DELETE FROM runs WHERE id = ? AND verdict <> ''`, id)
	if err != nil {
		return fmt.Errorf("forgetting run %s: %w", id, err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return err
	}
	_, err = s.Run(ctx, id)
	if errors.Is(err, hub.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%w: run %s has no verdict yet", hub.ErrConflict, id)
	}
	return err
}

// Run returns the run of that ID, or [hub.ErrNotFound].
func (s *Store) Run(ctx context.Context, id hub.RunID) (hub.Run, error) {
	r, err := scanRun(s.read.QueryRowContext(ctx, `SELECT `+runColumns+` FROM runs WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return hub.Run{}, hub.Hint(fmt.Errorf("%w: run %s", hub.ErrNotFound, id), "list them with `claude-hub runs`")
	}
	if err != nil {
		return hub.Run{}, fmt.Errorf("reading run %s: %w", id, err)
	}
	return r, nil
}

// Runs returns the runs that f chooses, newest first.
func (s *Store) Runs(ctx context.Context, f Filter) ([]hub.Run, error) {
	query, args := `SELECT `+runColumns+` FROM runs WHERE true`, []any(nil)
	if f.Profile != "" {
		query, args = query+` AND profile = ?`, append(args, f.Profile)
	}
	if f.Of.ID != "" {
		query, args = query+` AND (profile_id = ? OR profile_id = '' AND profile = ?)`, append(args, f.Of.ID, f.Of.Name)
	}
	if f.Running {
		query += ` AND verdict = ''`
	}
	if f.Parked {
		query += ` AND verdict = '' AND parked_cause <> ''`
	}
	if f.Before != "" {
		query, args = query+` AND id < ?`, append(args, f.Before)
	}
	if f.Limit <= 0 {
		f.Limit = defaultLimit
	}
	rows, err := s.read.QueryContext(ctx, query+` ORDER BY id DESC LIMIT ?`, append(args, f.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("listing runs: %w", err)
	}
	defer rows.Close()
	runs := []hub.Run{} // never nil, so that it is [] and not null as JSON
	for rows.Next() {
		r, err := scanRun(rows)
		if err != nil {
			return nil, fmt.Errorf("listing runs: %w", err)
		}
		runs = append(runs, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("listing runs: %w", err)
	}
	return runs, nil
}

func scanRun(row interface{ Scan(...any) error }) (hub.Run, error) {
	var (
		r            hub.Run
		started      int64
		ended, until sql.NullInt64
		usage        []byte
		p            hub.Parking
		since, again sql.NullInt64
	)
	err := row.Scan(&r.ID, &r.Profile, &r.Dir, &r.Prompt, &r.Model, &r.Delivery, &started, &ended,
		&r.Verdict, &r.Reason, &until, &r.Result, &r.ExitCode, &usage, &r.AgentSession,
		&p.Cause, &p.Reason, &since, &again, &r.Attempts, &r.Interruptions, &r.ProfileID)
	if err != nil {
		return hub.Run{}, err
	}
	r.Started = time.UnixMicro(started).UTC()
	r.Ended, r.Until = timeOf(ended), timeOf(until)
	if p.Cause != "" {
		p.Since, p.Until = timeOf(since), timeOf(again)
		r.Parked = &p
	}
	if err := json.Unmarshal(usage, &r.Usage); err != nil {
		return hub.Run{}, fmt.Errorf("%w: usage of run %s: %w", hub.ErrFormat, r.ID, err)
	}
	return r, nil
}

// parking is what a run that is not parked has, too.
func parking(r hub.Run) hub.Parking {
	if r.Parked == nil {
		return hub.Parking{}
	}
	return *r.Parked
}

func timeOf(micros sql.NullInt64) time.Time {
	if !micros.Valid {
		return time.Time{}
	}
	return time.UnixMicro(micros.Int64).UTC()
}

// micros returns t as a column's value: NULL for the zero time.
func micros(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMicro(), Valid: !t.IsZero()}
}
