-- The region guard in SQL: what the rules file says, and publications and subscriptions in mode warn. What needs a
-- reload, a network or certificates is tested on clusters of its own.
CREATE EXTENSION pg_custodian;
CREATE ROLE regress_guard_user;
SHOW custodian.enforce;

-- Without a file there are no rules, and nobody is known.
SELECT count(*) FROM custodian.region_rules;
SELECT * FROM custodian.check_peer('10.86.0.1');
SELECT verdict FROM custodian.check_peer();
SELECT code, severity FROM custodian.check() WHERE code LIKE 'region%';

-- A file is shown line by line, with its errors, before it is in force.
SELECT current_setting('data_directory') || '/custodian_regions.conf' AS file \gset
COPY (SELECT unnest(ARRAY[
    '# two regions',
    'region eu',
    'region de in eu',
    'network 10.33.0.0/16 de "Shop GmbH"',
    'network 10.33.0.1/16 de',
    'network 10.34.0.0/16 fr',
    'netwrk 10.35.0.0/16 eu',
    'local postgres # the superuser'])) TO :'file';
SELECT line_number, type, arguments, region, organisation, error, loaded FROM custodian.region_rules;
SET ROLE regress_guard_user;
SELECT count(*), bool_or(loaded) FROM custodian.region_rules;
SELECT verdict, remedy FROM custodian.check_peer('10.33.0.1');
RESET ROLE;
SELECT 'rm ' || :'file' AS remove \gset
COPY (SELECT 1) TO PROGRAM :'remove';
SELECT * FROM custodian.check_peer('10.0.0.0/8', role_name => 'nobody');

-- Publications: every column must be cleared, or permitted by a steward. In mode warn they pass, with a warning.
CREATE TABLE person (id int PRIMARY KEY, email text, plan text);
CREATE TABLE shape (id int PRIMARY KEY);
SECURITY LABEL FOR custodian ON COLUMN person.id IS '{"not_personal":true}';
SECURITY LABEL FOR custodian ON COLUMN shape.id IS '{"not_personal":true}';
SECURITY LABEL FOR custodian ON COLUMN person.email IS
    '{"category":"user.contact.email","sensitivity":"personal","purposes":["shop.account"],"residency":["cn","eu"]}';
CREATE PUBLICATION all_columns FOR TABLE person;
CREATE PUBLICATION cleared FOR TABLE person (id), shape;
ALTER PUBLICATION cleared ADD TABLE missing;
ALTER PUBLICATION cleared SET TABLE person (id, email);
ALTER PUBLICATION cleared DROP TABLE person;
ALTER PUBLICATION cleared SET (publish = 'insert');
CREATE SCHEMA sales;
CREATE TABLE sales.lead (phone text);
CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA sales;
SET search_path = sales, public;
CREATE PUBLICATION of_current FOR TABLES IN SCHEMA CURRENT_SCHEMA;
RESET search_path;

-- Partitions and children: tags of either side count.
CREATE TABLE visit (id int, ip inet) PARTITION BY RANGE (id);
CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM (0) TO (10);
SECURITY LABEL FOR custodian ON COLUMN visit.id IS '{"not_personal":true}';
SECURITY LABEL FOR custodian ON COLUMN visit.ip IS
    '{"category":"user.device.ip_address","sensitivity":"personal","purposes":["shop.log"]}';
CREATE PUBLICATION of_leaf FOR TABLE visit_1;
CREATE TABLE parent (id int);
CREATE TABLE child (note text) INHERITS (parent);
SECURITY LABEL FOR custodian ON COLUMN parent.id IS '{"not_personal":true}';
CREATE PUBLICATION of_children FOR TABLE parent;
CREATE PUBLICATION of_parent FOR TABLE ONLY parent;
CREATE PUBLICATION of_generated FOR TABLE shape;
ALTER TABLE shape ADD COLUMN twice int GENERATED ALWAYS AS (id * 2) STORED;
ALTER PUBLICATION of_generated SET TABLE shape;

-- A permit is good for regions that every carried column's residency includes, and for tagged columns only.
SELECT custodian.permit_publication('permitted', ARRAY['eu'], 'the new warehouse');
CREATE PUBLICATION permitted FOR TABLE person (id, email);
ALTER PUBLICATION permitted SET TABLE person;
SELECT custodian.permit_publication('too_far', ARRAY['eu', 'us'], 'the new warehouse');
CREATE PUBLICATION too_far FOR TABLE person (id, email);

-- Subscriptions lead to addresses that the rules know, and nowhere else.
CREATE SUBSCRIPTION by_name CONNECTION 'host=db.example password=secret' PUBLICATION p WITH (connect = false);
CREATE SUBSCRIPTION by_service CONNECTION 'service=prod' PUBLICATION p WITH (connect = false);
CREATE SUBSCRIPTION by_address CONNECTION 'postgresql://u:secret@10.33.0.1,[2001:db8::1]/x' PUBLICATION p WITH (connect = false);
ALTER SUBSCRIPTION by_address CONNECTION 'dbname=x';
ALTER SUBSCRIPTION by_name SET (slot_name = NONE);
ALTER SUBSCRIPTION by_service SET (slot_name = NONE);
ALTER SUBSCRIPTION by_address SET (slot_name = NONE);
DROP SUBSCRIPTION by_name;
DROP SUBSCRIPTION by_service;
DROP SUBSCRIPTION by_address;

-- All of it was recorded, without a password.
SELECT gate, outcome, object FROM custodian.guard_events ORDER BY 1, 2, 3;
SELECT count(*) FROM custodian.guard_events WHERE reason LIKE '%secret%';

-- Errors of the server pass through as they were, with position and context.
SELECT * FORM person;
CREATE PUBLICATION broken FOR TABLE person (nope);
INSERT INTO person VALUES (1), (1);
DO $$ BEGIN PERFORM 1/0; END $$;
CREATE FUNCTION inner_error() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'CREATE TABLE person (a int)'; END $$;
SELECT inner_error();

DROP OWNED BY regress_guard_user;
DROP ROLE regress_guard_user;
