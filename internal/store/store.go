// Package store keeps the records of runs in a SQLite database that any number
// of processes use at once, with no daemon.
//
// Guarantees:
//
//  1. [Create] creates, [Open] only opens: a mistyped path is an error.
//  2. The database is readable by its owner alone, whatever the umask.
//  3. A run gets one verdict: once a row has one, it never changes again.
//  4. A database written by a newer version is refused, not guessed at.
//
// A row survives the death of any process as soon as the call returns. A loss
// of power may take the last rows with it (never the whole database): that is
// the price of not waiting for the disk twice in every run, and no login is
// kept here.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gofrs/flock"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/claude-hub/claude-hub/internal/hub"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is an open database. It is safe for concurrent use.
type Store struct {
	write *sql.DB // one connection, so that writers of this process queue here and not in SQLite's busy loop
	read  *sql.DB // reads go on while a write waits for another process
}

// Create makes the database file at path, in a directory that exists already,
// and opens it. It is [hub.ErrExists] if there is a file.
func Create(ctx context.Context, path string) (*Store, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: database %s", hub.ErrExists, path)
	}
	if err != nil {
		return nil, fmt.Errorf("creating the database: %w", err)
	}
	// SQLite gives its -wal and -shm files the mode of this one.
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return nil, fmt.Errorf("creating the database: %w", err)
	}
	return Open(ctx, path)
}

// Open opens the database at path and brings an older schema up to date. It
// never creates one: a missing file is [hub.ErrNotFound]. A file that is not
// ours, damaged, or of a newer version is [hub.ErrFormat].
func Open(ctx context.Context, path string) (*Store, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, hub.Hint(fmt.Errorf("%w: database %s", hub.ErrNotFound, path), "check the path, or make a new hub with `claude-hub init`")
	case err != nil:
		return nil, fmt.Errorf("opening the database: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: database %s is not a regular file", hub.ErrFormat, path)
	}
	if info.Mode().Perm() != 0o600 {
		if err := os.Chmod(path, 0o600); err != nil {
			return nil, fmt.Errorf("making the database private: %w", err)
		}
	}
	s, err := open(ctx, path, info.Size() == 0)
	if err != nil {
		return nil, fmt.Errorf("opening the database %s: %w", path, asFormat(err))
	}
	return s, nil
}

// open connects and migrates if need be. The lock keeps processes that find the
// same old schema from migrating it twice; an empty file is locked before the
// first connection, because that already writes (it switches the file to WAL).
func open(ctx context.Context, path string, empty bool) (_ *Store, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	s := &Store{write: connect(path, 1, ""), read: connect(path, 4, "&_pragma=query_only(1)")}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if !empty {
		current, err := s.isCurrent(ctx)
		if current || err != nil {
			return s, err
		}
	}
	lock := flock.New(path+".migrate", flock.SetPermissions(0o600))
	if err := lock.Lock(); err != nil {
		return nil, err
	}
	defer lock.Close()
	current, err := s.isCurrent(ctx) // another process may have done it meanwhile
	if current || err != nil {
		return s, err
	}
	return s, s.migrate(ctx)
}

func connect(path string, connections int, more string) *sql.DB {
	// The path goes percent-encoded: SQLite decodes it, and '?' or '%' in a
	// directory's name would end or change it otherwise.
	dsn := (&url.URL{Scheme: "file", Path: path}).String() +
		"?mode=rw&_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)" +
		"&_pragma=synchronous(NORMAL)&_pragma=foreign_keys(1)&_time_format=sqlite&_timezone=UTC" + more
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		panic(err) // only for an unknown driver
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db
}

// isCurrent reports whether the schema is the one this program was built for.
// It asks goose's own table, because goose itself takes longer than the rest of
// Open.
func (s *Store) isCurrent(ctx context.Context) (bool, error) {
	var ours, others int
	err := s.write.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE name = 'goose_db_version'),
		count(*) FILTER (WHERE name <> 'goose_db_version' AND name NOT LIKE 'sqlite_%')
		FROM sqlite_schema WHERE type = 'table'`).Scan(&ours, &others)
	switch {
	case err != nil:
		return false, err
	case ours == 0 && others > 0:
		return false, fmt.Errorf("%w: it is the database of another program", hub.ErrFormat)
	case ours == 0:
		return false, nil
	}
	var have int64
	if err := s.write.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version`).Scan(&have); err != nil {
		return false, err
	}
	want := schemaVersion()
	if have > want {
		return false, hub.Hint(fmt.Errorf("%w: its schema is version %d, and this program knows up to %d", hub.ErrFormat, have, want),
			"it was written by a newer claude-hub: update this one")
	}
	return have == want, nil
}

// schemaVersion is the number of the newest embedded migration.
func schemaVersion() int64 {
	names, _ := fs.Glob(migrations, "migrations/*.sql") // sorted; the pattern is good
	number, _, _ := strings.Cut(filepath.Base(names[len(names)-1]), "_")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		panic(err) // a test would have seen it
	}
	return n
}

func (s *Store) migrate(ctx context.Context) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.write, dir, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	return nil
}

// asFormat makes SQLite's "this is no database" our kind of error.
func asFormat(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_NOTADB || e.Code()&0xff == sqlite3.SQLITE_CORRUPT) {
		return hub.Hint(fmt.Errorf("%w: %w", hub.ErrFormat, err), "the file is damaged: move it away and run `claude-hub init`; logins are not kept in it")
	}
	return err
}

// Close closes the database. It may be called twice.
func (s *Store) Close() error { return errors.Join(s.read.Close(), s.write.Close()) }
