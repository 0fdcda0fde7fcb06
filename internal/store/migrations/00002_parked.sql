-- A run that is put aside has a cause and no verdict.
-- +goose Up
ALTER TABLE runs ADD COLUMN parked_cause TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN parked_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN parked_since INTEGER;
ALTER TABLE runs ADD COLUMN parked_until INTEGER;
ALTER TABLE runs ADD COLUMN attempts INTEGER NOT NULL DEFAULT 1;
ALTER TABLE runs ADD COLUMN interruptions INTEGER NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE runs DROP COLUMN parked_cause;
ALTER TABLE runs DROP COLUMN parked_reason;
ALTER TABLE runs DROP COLUMN parked_since;
ALTER TABLE runs DROP COLUMN parked_until;
ALTER TABLE runs DROP COLUMN attempts;
ALTER TABLE runs DROP COLUMN interruptions;
