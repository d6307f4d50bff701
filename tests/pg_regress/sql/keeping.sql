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

DROP EXTENSION pg_custodian;
DROP SCHEMA keeping CASCADE;
DROP ROLE regress_keeping_counsel;
