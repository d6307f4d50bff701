-- Methods on the columns that say whom a row is about, and what claim defences leave to users.
SET TimeZone = 'UTC';
SET client_min_messages = warning;
CREATE EXTENSION pg_custodian;
CREATE SCHEMA keeping;
CREATE TABLE keeping.person (id int PRIMARY KEY, ref text, email text, at timestamptz);
CREATE TABLE keeping.visit (id int PRIMARY KEY, person int REFERENCES keeping.person, page text, at timestamptz);
SELECT custodian.define_purpose('k.account', 'contract', '1 year');
SELECT custodian.tag_table('keeping.person', clock => 'at', subject_kind => 'person', subject_key => '{ref}');
SELECT custodian.tag_table('keeping.visit', clock => 'at', subject_kind => 'person', subject_via => '{person}');

-- Making one of several subjects is refused, in either order.
SELECT custodian.tag_column('keeping.person', 'ref', 'user.id', '{k.account}', on_expiry => '{"prefix":1}');
SELECT custodian.tag_column('keeping.person', 'email', 'user.contact.email', '{k.account}', on_expiry => '{"constant":"x"}');
SELECT custodian.tag_table('keeping.person', subject_kind => 'person', subject_key => '{email}');
-- Losing the subject is a finding: an hmac, or a foreign key that is emptied.
SELECT custodian.tag_column('keeping.person', 'ref', 'user.id', '{k.account}', on_expiry => 'hmac');
SELECT custodian.tag_column('keeping.visit', 'person', 'user.id', '{k.account}', on_expiry => 'set_null');
SELECT severity, object, problem, remedy FROM custodian.check() WHERE code = 'subject-disposed' ORDER BY object;
-- None where it goes with the row.
SELECT custodian.untag_column('keeping.visit', 'person');
SELECT custodian.tag_column('keeping.visit', 'person', 'user.id', '{k.account}');
SELECT object FROM custodian.check() WHERE code = 'subject-disposed';

-- A claim defence lets the worker keep, and forbids nobody anything.
INSERT INTO keeping.person VALUES (1, 'r1', 'e', '2020-01-01'), (2, 'r2', 'e', '2020-01-01');
SELECT custodian.declare_defence('k.claim', 'keeping.person', '{email}', '100 years', 'Civil Code art. 188');
UPDATE keeping.person SET email = NULL WHERE id = 1;
DELETE FROM keeping.person WHERE id = 1;
SELECT count(*) FROM keeping.person;
-- Who must keep for a claim places a hold.
CREATE ROLE regress_keeping_counsel;
SELECT custodian.place_hold('claim', 'regress_keeping_counsel', current_date + 1, 'a claim', subject_kind => 'person', subject_key => '{r2}');
DELETE FROM keeping.person WHERE id = 2;
SELECT custodian.release_hold(1, 'regress_keeping_counsel', 'settled');

-- A minimum refuses what would destroy kept values, until a steward chooses to be warned only.
CREATE TABLE keeping.bill (id int PRIMARY KEY, payer text, amount text, at timestamptz);
SELECT custodian.tag_table('keeping.bill', clock => 'at', on_expiry => 'delete');
SELECT custodian.tag_column('keeping.bill', 'payer', 'user.name', '{k.account}', on_expiry => 'set_null');
SELECT custodian.tag_column('keeping.bill', 'amount', 'user.financial', '{k.account}', on_expiry => 'set_null');
-- The one that warns comes first by name, in what is read and in what is asked.
SELECT custodian.require_minimum('k.a', 'keeping.bill', '{payer}', '100 years', 'Act A');
SELECT custodian.require_minimum('k.b', 'keeping.bill', '{amount}', '10 years', 'Act B');
INSERT INTO keeping.bill SELECT id, 'p', 'a', at FROM (VALUES (1, now()), (2, '2010-01-01'), (3, '2010-01-01'), (4, '2010-01-01')) v(id, at);
-- The fuse counts what is due against all rows.
INSERT INTO keeping.bill SELECT id, 'p', 'a', now() FROM generate_series(101, 130) id;
DELETE FROM keeping.bill WHERE id = 2;
SELECT name, enforcement FROM custodian.minimums ORDER BY name;
-- Only a steward chooses, and only what there is.
CREATE ROLE regress_keeping_owner;
ALTER TABLE keeping.bill OWNER TO regress_keeping_owner;
GRANT USAGE ON SCHEMA keeping TO regress_keeping_owner;
SET ROLE regress_keeping_owner;
SELECT custodian.enforce_minimum('k.a', 'warn');
SELECT custodian.apply_policy('{"minimums":{"k.a":{"enforcement":"warn"}}}', dry_run => false);
RESET ROLE;
SELECT custodian.enforce_minimum('k.none', 'warn');
SELECT custodian.enforce_minimum('k.claim', 'warn');
SELECT custodian.enforce_minimum('k.a', 'off');
SELECT custodian.apply_policy('{"defences":{"k.claim":{"enforcement":"warn"}}}');
SELECT custodian.apply_policy('{"minimums":{"k.a":{"enforcement":"on"}}}');
SELECT object, change, before, after, loosens FROM custodian.apply_policy('{"minimums":{"k.a":{"enforcement":"warn"}}}', dry_run => true);
SELECT custodian.enforce_minimum('k.a', 'warn');
SELECT name, enforcement FROM custodian.minimums ORDER BY name;
SELECT custodian.export_policy() #> '{minimums,k.a}';
-- It is one change of the policy, on record, and the same again is none.
SELECT kind, detail FROM custodian.ledger WHERE kind = 'policy.minimum_enforcement';
SET client_min_messages = notice;
SELECT custodian.enforce_minimum('k.a', 'warn');
SET client_min_messages = warning;
SELECT count(*) FROM custodian.apply_policy(custodian.export_policy(), dry_run => false);
-- The law's period and words change without it.
SELECT custodian.require_minimum('k.a', 'keeping.bill', '{payer}', '101 years', 'Act A as amended');
SELECT name, period, enforcement FROM custodian.minimums WHERE name = 'k.a';
-- Users' statements are warned, without a value and once in a transaction; the other minimum refuses as before.
SET ROLE regress_keeping_owner;
DELETE FROM keeping.bill WHERE id = 1;
UPDATE keeping.bill SET payer = NULL WHERE id = 1;
UPDATE keeping.bill SET amount = NULL WHERE id = 1;
DELETE FROM keeping.bill WHERE id IN (2, 3);
TRUNCATE keeping.bill;
ALTER TABLE keeping.bill DROP COLUMN amount;
SELECT id, payer, amount FROM keeping.bill WHERE id < 100 ORDER BY id;
RESET ROLE;
-- The worker keeps what the law keeps, whatever users may.
SELECT column_name, state, decided_by, citation FROM custodian.explain_row('keeping.bill', '{"id": 4}') ORDER BY column_name;
SELECT * FROM custodian.sweep_now('keeping.bill');
SELECT id, payer, amount FROM keeping.bill WHERE id < 100 ORDER BY id;
-- Without the one that refuses, the table may go. Its clock is moved back where a steward lets users be warned only.
SELECT custodian.enforce_minimum('k.b', 'warn');
UPDATE keeping.bill SET at = '2010-01-01';
SELECT custodian.enforce_minimum('k.b', 'refuse');
TRUNCATE keeping.bill;
-- And back: that is no loosening.
INSERT INTO keeping.bill VALUES (5, 'p', 'a', '2010-01-01');
SELECT object, change, loosens FROM custodian.apply_policy('{"minimums":{"k.a":{"enforcement":"refuse"}}}', dry_run => false);
DELETE FROM keeping.bill WHERE id = 5;
SELECT custodian.enforce_minimum('k.a', 'warn');
-- Under one that warns a table may be dropped, and a key over which its clock is found, by CASCADE as well.
CREATE TABLE keeping.item (id int PRIMARY KEY, bill int CONSTRAINT item_bill REFERENCES keeping.bill, what text);
SELECT custodian.tag_table('keeping.item', clock => 'item_bill.at');
SELECT custodian.tag_column('keeping.item', 'what', 'user.financial', '{k.account}', on_expiry => 'set_null');
SELECT custodian.require_minimum('k.c', 'keeping.item', '{what}', '100 years', 'Act C', clock => 'item_bill.at');
SELECT custodian.enforce_minimum('k.c', 'warn');
INSERT INTO keeping.bill VALUES (6, 'p', 'a', '2010-01-01');
INSERT INTO keeping.item VALUES (1, 6, 'w');
ALTER TABLE keeping.bill DROP CONSTRAINT bill_pkey CASCADE;
DROP TABLE keeping.bill CASCADE;
DROP TABLE keeping.item;

DROP EXTENSION pg_custodian;
DROP SCHEMA keeping CASCADE;
DROP ROLE regress_keeping_counsel, regress_keeping_owner;
