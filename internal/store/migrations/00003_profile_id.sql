-- The name of a profile may change, its ID never does. Empty in older rows.
-- +goose Up
ALTER TABLE runs ADD COLUMN profile_id TEXT NOT NULL DEFAULT '';
CREATE INDEX runs_by_profile_id ON runs (profile_id, id);

-- +goose Down
DROP INDEX runs_by_profile_id;
ALTER TABLE runs DROP COLUMN profile_id;
