-- Times are microseconds since 1970 in UTC; NULL is "not yet".
-- +goose Up
CREATE TABLE runs (
    id            TEXT    NOT NULL PRIMARY KEY,
    profile       TEXT    NOT NULL,
    dir           TEXT    NOT NULL,
    prompt        TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    delivery      TEXT    NOT NULL,
    started       INTEGER NOT NULL,
    ended         INTEGER,
    verdict       TEXT    NOT NULL DEFAULT '',
    reason        TEXT    NOT NULL DEFAULT '',
    until         INTEGER,
    result        TEXT    NOT NULL DEFAULT '',
    exit_code     INTEGER NOT NULL DEFAULT 0,
    usage         TEXT    NOT NULL DEFAULT '{}',
    agent_session TEXT    NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;

CREATE INDEX runs_by_profile ON runs (profile, id);
CREATE INDEX runs_running ON runs (id) WHERE verdict = '';

-- +goose Down
DROP TABLE runs;
