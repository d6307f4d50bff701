-- Legal holds and the row guard: what may be placed, what is refused, and in which words.
CREATE EXTENSION pg_custodian;
CREATE ROLE regress_hold_owner;
CREATE ROLE regress_hold_counsel;
CREATE SCHEMA held AUTHORIZATION regress_hold_owner;
SET ROLE regress_hold_owner;
CREATE TABLE held."Odd ""name""" ("Key" text PRIMARY KEY, "select" numeric(8, 2), at timestamptz, j json);
INSERT INTO held."Odd ""name""" VALUES ('a', 1, '2024-01-01', '{}'), ('b"''', 2, NULL, NULL);
CREATE TABLE held.base (id int, v text);
CREATE TABLE held.child (extra text) INHERITS (held.base);
INSERT INTO held.base VALUES (1, 'base');
INSERT INTO held.child VALUES (2, 'child', 'x');
CREATE VIEW held.seen AS SELECT * FROM held.base;
RESET ROLE;

-- Who and what
\set who '''regress_hold_counsel'', current_date + 30, ''court order'''
SET ROLE regress_hold_owner;
SELECT custodian.place_hold('M1', :who, rel => 'held.base');
SELECT * FROM custodian.holds;
SELECT custodian.release_hold(1, 'regress_hold_counsel', 'r');
SELECT custodian.install_row_guard();
RESET ROLE;
SELECT custodian.place_hold('M1', 'regress_nobody', current_date + 30, 'r', rel => 'held.base');
SELECT custodian.place_hold('M1', current_user, current_date + 30, 'r', rel => 'held.base');
SELECT custodian.place_hold('M1', 'regress_hold_counsel', current_date, 'r', rel => 'held.base');
SELECT custodian.place_hold('M1', 'regress_hold_counsel', NULL, 'r', rel => 'held.base');
SELECT custodian.place_hold(' ', :who, rel => 'held.base');
SELECT custodian.place_hold('M1', 'regress_hold_counsel', current_date + 30, NULL, rel => 'held.base');
SELECT custodian.place_hold('M1', :who);
SELECT custodian.place_hold('M1', :who, rel => 'held.base', subject_kind => 'customer', subject_key => '{1}');
SELECT custodian.place_hold('M1', :who, subject_kind => 'customer');
SELECT custodian.place_hold('M1', :who, subject_kind => 'customer', subject_key => '{1}');
SELECT custodian.place_hold('M1', :who, rel => 'held.seen');
SELECT custodian.place_hold('M1', :who, rel => 'pg_class');
SELECT custodian.place_hold('M1', :who, rel => 'custodian.hold');
SELECT custodian.place_hold('M1', :who, rel => 'held.base', match => '[]');
SELECT custodian.place_hold('M1', :who, rel => 'held.base', match => '{"id":[]}');
SELECT custodian.place_hold('M1', :who, rel => 'held.base', match => '{"nothing":["1"]}');
SELECT custodian.place_hold('M1', :who, rel => 'held.base', match => '{"id":["x"]}');
SELECT custodian.place_hold('M1', :who, rel => 'held."Odd ""name"""', match => '{"j":["{}"]}');
SELECT count(*) FROM custodian.hold;
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'custodian.row_guard'::regproc;

-- Rows by value, in the form the column's type gives them
SELECT custodian.place_hold('M1', :who, rel => 'held."Odd ""name"""', match => '{"select":["1"]}') AS m1 \gset
SELECT custodian.place_hold('M2', :who, rel => 'held."Odd ""name"""', match => '{"Key":"b\"''", "select": 2}') AS m2 \gset
SELECT matter, scope, relation, match, approver, reason, released_at FROM custodian.holds ORDER BY hold;
SET ROLE regress_hold_owner;
DELETE FROM held."Odd ""name""" WHERE "Key" = 'a';
DELETE FROM held."Odd ""name""" WHERE "Key" <> 'a';
-- Nothing is tagged on the table: no column of a held row may change.
UPDATE held."Odd ""name""" SET at = now();
UPDATE held."Odd ""name""" SET at = at;
TRUNCATE held."Odd ""name""";
DROP TABLE held."Odd ""name""";
ALTER TABLE held."Odd ""name""" DROP COLUMN "select";
ALTER TABLE held."Odd ""name""" ALTER "select" TYPE text;
ALTER TABLE held."Odd ""name""" DISABLE TRIGGER USER;
ALTER TABLE held."Odd ""name""" ENABLE TRIGGER USER;
INSERT INTO held."Odd ""name""" VALUES ('c', 3, NULL, NULL);
DELETE FROM held."Odd ""name""" WHERE "Key" = 'c';
RESET ROLE;
ALTER TABLE held."Odd ""name""" DISABLE TRIGGER ALL;
-- A temporary table of the user's in the way of the search path is not looked at.
CREATE TEMP TABLE hold (hold bigint, released_at timestamptz);
SET search_path = pg_temp, pg_catalog;
DELETE FROM held."Odd ""name""" WHERE "Key" = 'a';
RESET search_path;

-- Inheritance: a hold on the parent lies on its children, one on a child on the child alone.
SELECT custodian.place_hold('M3', :who, rel => 'held.base') AS m3 \gset
DELETE FROM held.child;
ALTER TABLE held.child NO INHERIT held.base;
SELECT custodian.release_hold(:m3, 'regress_hold_counsel', 'settled');
SELECT custodian.place_hold('M4', :who, rel => 'held.child') AS m4 \gset
DELETE FROM held.base WHERE id = 2;
DELETE FROM ONLY held.base;
SELECT tableoid::regclass, * FROM held.base;

-- Reviews
SET custodian.clock_offset = '60d';
SELECT severity, code, object, remedy FROM custodian.check() WHERE code LIKE 'hold-%' OR code LIKE 'row-guard-%' ORDER BY object;
RESET custodian.clock_offset;

-- The end
DROP EXTENSION pg_custodian;
SELECT custodian.release_hold(:m1, 'regress_hold_counsel', ' ');
SELECT custodian.release_hold(:m1, current_user, 'settled');
SELECT custodian.release_hold(:m1, 'regress_hold_counsel', 'settled');
SELECT custodian.release_hold(:m1, 'regress_hold_counsel', 'settled');
SELECT custodian.release_hold(:m2, 'regress_hold_counsel', 'settled');
SELECT custodian.release_hold(:m4, 'regress_hold_counsel', 'settled');
SELECT matter, released_by = current_user AS by_me, release_approver, release_reason FROM custodian.holds ORDER BY hold;
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'custodian.row_guard'::regproc;
DELETE FROM held."Odd ""name""";
DROP TABLE held."Odd ""name""";
DROP EXTENSION pg_custodian;
DROP SCHEMA held CASCADE;
DROP ROLE regress_hold_owner, regress_hold_counsel;
