-- The ledger, its verification, and the keys. The scheduler may seal at any moment, so numbers of blocks and entries
-- are compared and not shown.
CREATE EXTENSION pg_custodian;
CREATE ROLE regress_reader;

-- What has happened so far is in the ledger.
SELECT kind, epoch, actor = session_user AS mine, detail FROM custodian.ledger WHERE kind LIKE 'key.%' ORDER BY entry;

-- Keys exist from the beginning; making them again makes none.
SELECT use, length(fingerprint), octet_length(key) FROM custodian.key_ref JOIN custodian.secret USING (key_id) ORDER BY 1;
SELECT custodian.create_missing_keys();
SELECT armed FROM custodian.status;

-- A few more entries, in two blocks at least.
SELECT custodian.export_keys() AS keys \gset
SELECT custodian.export_keys() = :'keys' AS same;
SELECT custodian.seal_ledger() > 0 AS sealed;
SELECT custodian.export_keys() = :'keys' AS same;
SELECT custodian.seal_ledger() > 1 AS sealed;
SELECT custodian.ledger_head() AS head \gset
SELECT :'head' ~ '^v1:[0-9]+:[0-9a-f]{64}:[0-9]+:[0-9]+$' AS well_formed;
SELECT * FROM custodian.verify_ledger(:'head');
SELECT * FROM custodian.verify_ledger();
SELECT detail ->> 'problems' AS problems, detail ->> 'head' = :'head' AS against_the_head
FROM custodian.ledger WHERE kind = 'status.verified' ORDER BY entry;

-- A block to tamper with: the first one that has two entries. Everything below is found, and named.
SELECT block AS victim, min(entry) AS first, max(entry) AS last
FROM custodian.ledger_leaf GROUP BY block HAVING count(*) > 1 ORDER BY block LIMIT 1 \gset

-- (The lock keeps the scheduler's sealer out.)
-- edited
BEGIN;
LOCK custodian.ledger_block IN SHARE ROW EXCLUSIVE MODE;
UPDATE custodian.ledger_entry SET body = replace(body, '"epoch":0', '"epoch":7') WHERE entry = :first;
SELECT block = :victim AS block, entry = :first AS entry, problem FROM custodian.verify_ledger(:'head');
ROLLBACK;
-- edited, together with its hash
BEGIN;
LOCK custodian.ledger_block IN SHARE ROW EXCLUSIVE MODE;
UPDATE custodian.ledger_entry SET body = '{}' WHERE entry = :first;
UPDATE custodian.ledger_leaf SET hash = sha256('\x00' || int8send(entry) || '{}') WHERE entry = :first;
SELECT block = :victim AS block, entry, problem FROM custodian.verify_ledger();
ROLLBACK;
-- deleted
BEGIN;
LOCK custodian.ledger_block IN SHARE ROW EXCLUSIVE MODE;
DELETE FROM custodian.ledger_entry WHERE entry = :last;
SELECT block = :victim AS block, entry = :last AS entry, problem FROM custodian.verify_ledger();
ROLLBACK;
-- deleted, together with its place
BEGIN;
LOCK custodian.ledger_block IN SHARE ROW EXCLUSIVE MODE;
DELETE FROM custodian.ledger_entry WHERE entry = :first;
DELETE FROM custodian.ledger_leaf WHERE entry = :first;
SELECT block = :victim AS block, entry, problem FROM custodian.verify_ledger();
ROLLBACK;
-- inserted, into a sealed block and beside the blocks
BEGIN;
LOCK custodian.ledger_block IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO custodian.ledger_entry (entry, body) OVERRIDING SYSTEM VALUE VALUES (1000000, '{}'), (1000001, '{}');
INSERT INTO custodian.ledger_leaf SELECT 1000000, :victim, count(*), sha256('\x00' || int8send(1000000) || '{}')
FROM custodian.ledger_leaf WHERE block = :victim;
SELECT block = :victim AS block, entry, problem FROM custodian.verify_ledger();
ROLLBACK;
-- reordered
BEGIN;
LOCK custodian.ledger_block IN SHARE ROW EXCLUSIVE MODE;
UPDATE custodian.ledger_leaf SET position = position + 1000 WHERE block = :victim;
UPDATE custodian.ledger_leaf l SET position = r.position
FROM (SELECT entry, row_number() OVER (ORDER BY entry DESC) - 1 AS position FROM custodian.ledger_leaf WHERE block = :victim) r
WHERE l.entry = r.entry;
SELECT DISTINCT block = :victim AS block, problem FROM custodian.verify_ledger();
ROLLBACK;
-- the block itself edited
BEGIN;
LOCK custodian.ledger_block IN SHARE ROW EXCLUSIVE MODE;
UPDATE custodian.ledger_block SET sealed_at = sealed_at - interval '1 day' WHERE block = :victim;
SELECT block = :victim AS block, entry, problem FROM custodian.verify_ledger();
ROLLBACK;
-- truncated: only a head from elsewhere tells
BEGIN;
LOCK custodian.ledger_block IN SHARE ROW EXCLUSIVE MODE;
CREATE TEMPORARY TABLE cut AS SELECT entry FROM custodian.ledger_leaf WHERE block > :victim;
DELETE FROM custodian.ledger_leaf WHERE block > :victim;
DELETE FROM custodian.ledger_block WHERE block > :victim;
DELETE FROM custodian.ledger_entry WHERE entry IN (SELECT entry FROM cut);
DELETE FROM custodian.ledger_tail;
DELETE FROM custodian.ledger_entry e WHERE NOT EXISTS (SELECT FROM custodian.ledger_leaf l WHERE l.entry = e.entry);
SELECT * FROM custodian.verify_ledger();
SELECT block > :victim AS block, entry, problem ~ '^blocks? .* missing$' AS missing FROM custodian.verify_ledger(:'head');
ROLLBACK;
-- rewritten as a whole: likewise
BEGIN;
LOCK custodian.ledger_block IN SHARE ROW EXCLUSIVE MODE;
UPDATE custodian.ledger_entry SET body = replace(body, '"epoch":0', '"epoch":7') WHERE entry = :first;
INSERT INTO custodian.ledger_tail SELECT entry FROM custodian.ledger_leaf;
DELETE FROM custodian.ledger_leaf;
DELETE FROM custodian.ledger_block;
SELECT custodian.seal_ledger() AS rewritten \gset
SELECT * FROM custodian.verify_ledger();
SELECT count(*) > 0 AS found FROM custodian.verify_ledger(:'head');
ROLLBACK;
-- an entry that waited for its block, deleted
BEGIN;
LOCK custodian.ledger_block IN SHARE ROW EXCLUSIVE MODE;
SELECT custodian.export_keys() = :'keys' AS same;
DELETE FROM custodian.ledger_entry e USING custodian.ledger_tail t WHERE e.entry = t.entry;
SELECT DISTINCT block, problem FROM custodian.verify_ledger();
ROLLBACK;
-- and nothing of this is left
SELECT * FROM custodian.verify_ledger(:'head');

-- An edited entry does not hide the others.
BEGIN;
UPDATE custodian.ledger_entry SET body = 'no json' WHERE entry = :first;
SELECT kind IS NULL AS unreadable, count(*) > 1 AS several FROM custodian.ledger GROUP BY 1 ORDER BY 1;
ROLLBACK;

-- What is no head is refused.
SELECT * FROM custodian.verify_ledger('v1:1:00:1:0');
SELECT * FROM custodian.verify_ledger('v9' || substr(:'head', 3));
-- A read-only transaction can verify, and leaves no entry; one that keeps its snapshot cannot seal.
BEGIN READ ONLY;
SELECT * FROM custodian.verify_ledger(:'head');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT custodian.seal_ledger();
ROLLBACK;

-- Only stewards see any of it.
SET ROLE regress_reader;
SELECT * FROM custodian.ledger;
SELECT * FROM custodian.guard_events;
SELECT * FROM custodian.pending_events();
SELECT custodian.ledger_head();
SELECT * FROM custodian.verify_ledger();
SELECT custodian.seal_ledger();
SELECT body FROM custodian.ledger_entry;
SELECT key FROM custodian.secret;
SELECT custodian.export_keys();
SELECT custodian.import_keys('');
SELECT custodian.create_missing_keys();
SELECT * FROM custodian.check();
-- The status is for everybody.
SELECT preloaded, version = library_version AS versions_agree, armed FROM custodian.status;
RESET ROLE;
GRANT pg_monitor TO regress_reader;
SET ROLE regress_reader;
SELECT count(*) > 0 AS checked FROM custodian.check();
RESET ROLE;
REVOKE pg_monitor FROM regress_reader;

-- Keys that are missing, as after a restore, disarm the database until they are imported.
DELETE FROM custodian.secret WHERE key_id = (SELECT key_id FROM custodian.key_ref WHERE use = 'pseudonym');
SELECT armed FROM custodian.status;
SELECT severity, code, object = key_id::text AS names_it, problem, remedy
FROM custodian.check() JOIN custodian.key_ref ON use = 'pseudonym' WHERE code = 'keys-missing';
DO $$
BEGIN
    PERFORM custodian.export_keys();
EXCEPTION WHEN object_not_in_prerequisite_state THEN RAISE NOTICE '%', SQLERRM;
END $$;
SELECT custodian.import_keys(:'keys');
SELECT custodian.import_keys(:'keys');
SELECT armed FROM custodian.status;
SELECT custodian.export_keys() = :'keys' AS same;
-- A text that was changed, a key of another configuration, and another key by a known name are refused.
SELECT custodian.import_keys(replace(:'keys', 'version 1', 'version 2'));
SELECT custodian.import_keys(replace(:'keys', 'ledger', 'ledges'));
CREATE FUNCTION pg_temp.refused(keys text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN custodian.import_keys(keys);
EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE || ' ' || regexp_replace(SQLERRM, '[0-9a-f]{8}-[0-9a-f-]{27}', 'ID');
END $$;
BEGIN;
DELETE FROM custodian.key_ref WHERE use = 'ledger';
SELECT pg_temp.refused(:'keys');
ROLLBACK;
BEGIN;
UPDATE custodian.key_ref SET fingerprint = repeat('0', 32) WHERE use = 'ledger';
SELECT pg_temp.refused(:'keys');
ROLLBACK;

DROP ROLE regress_reader;
DROP EXTENSION pg_custodian;
