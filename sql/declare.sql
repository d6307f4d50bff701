-- What was declared at each epoch, one row for each declared thing that the epoch changed. It belongs to the epochs of
-- this database, which are not dumped either.

CREATE TABLE custodian.policy_record (
    kind     text NOT NULL,
    name     text NOT NULL,
    epoch    bigint NOT NULL,
    document jsonb,
    PRIMARY KEY (kind, name, epoch)
);
COMMENT ON TABLE custodian.policy_record IS 'declared things as they were from an epoch on, in the words and names of that time; without a document: gone';
ALTER TABLE custodian.policy_record ENABLE ROW LEVEL SECURITY;
