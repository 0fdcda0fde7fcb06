package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Check has SQLite go through the whole database at path and changes nothing of
// it. A missing file is [hub.ErrNotFound]; one that is damaged or of another
// program is [hub.ErrFormat]. It may run beside writers.
func Check(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: database %s", hub.ErrNotFound, path)
	case err != nil:
		return fmt.Errorf("checking the database: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: database %s is not a regular file", hub.ErrFormat, path)
	}
	db, err := look(path)
	if err != nil {
		return fmt.Errorf("checking the database: %w", err)
	}
	defer db.Close()
	var verdict string
	err = db.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&verdict)
	if err == nil && verdict != "ok" {
		err = fmt.Errorf("%w: %s", hub.ErrFormat, verdict)
	}
	if err == nil {
		_, err = (&Store{write: db, read: db}).isCurrent(ctx)
	}
	if err != nil {
		return fmt.Errorf("checking the database %s: %w", path, asFormat(err))
	}
	return nil
}

// CountParked counts the parked runs in the database at path, and changes nothing
// of it, not even an old schema.
func CountParked(ctx context.Context, path string) (int, error) {
	db, err := look(path)
	if err != nil {
		return 0, fmt.Errorf("counting parked runs: %w", err)
	}
	defer db.Close()
	n := 0
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM runs WHERE verdict = '' AND parked_cause <> ''`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting parked runs: %w", err)
	}
	return n, nil
}

// look connects to a database that is there, to read.
func look(path string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	return sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path}).String()+"?mode=ro&_pragma=busy_timeout(5000)&_pragma=query_only(1)")
}
