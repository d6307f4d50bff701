-- Published tables whose rows the server lets nobody change: left alone, and a finding, before a sweep fails.
CREATE EXTENSION pg_custodian;
ALTER SYSTEM SET custodian.max_disposal_fraction = 1;
SELECT pg_reload_conf();
\c -
SHOW custodian.max_disposal_fraction;
SET client_min_messages = error;
SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
CREATE TABLE visit (id int NOT NULL, ip inet, path text, at timestamptz NOT NULL);
INSERT INTO visit SELECT n, '10.1.2.3', '/', now() - interval '2 years' FROM generate_series(1, 3) n;
SELECT custodian.tag_table('visit', clock => 'at', on_expiry => 'delete');
SELECT custodian.tag_column('visit', 'ip', 'user.device.ip_address', '{shop.account}', on_expiry => 'network', residency => '{cn}');
SELECT custodian.tag_column('visit', 'path', 'user.behavior', '{shop.account}', residency => '{cn}');
CREATE VIEW found AS
SELECT severity, code, object, problem, remedy FROM custodian.check() WHERE object LIKE 'public.visit%' AND code IN ('tag-unresolved', 'rows-undeletable');

CREATE PUBLICATION p FOR TABLE visit;
DELETE FROM visit; -- the server itself
SELECT * FROM found ORDER BY object;
SELECT column_names, action, rows FROM custodian.preview('visit') ORDER BY 1;
SELECT * FROM custodian.sweep_now('visit');
SELECT count(*) FROM visit;

-- Only what is published counts.
ALTER PUBLICATION p SET (publish = 'insert, update');
SELECT code, object, problem FROM found ORDER BY object;
ALTER PUBLICATION p SET (publish = 'insert, delete');
SELECT code, object, problem FROM found ORDER BY object;
ALTER PUBLICATION p SET (publish = 'insert');
SELECT * FROM found ORDER BY object;

-- A row filter over columns outside of the replica identity
ALTER PUBLICATION p SET (publish = 'insert, update, delete');
ALTER TABLE visit ADD PRIMARY KEY (id);
SELECT * FROM found ORDER BY object;
ALTER PUBLICATION p SET TABLE visit WHERE (path <> '/private');
SELECT code, object, problem, remedy FROM found ORDER BY object;
-- A column list without the replica identity
ALTER PUBLICATION p SET TABLE visit (ip, at);
SELECT code, object, problem, remedy FROM found ORDER BY object;

-- By schema, and for all tables; nothing changes what is published for a partition's ancestor
DROP PUBLICATION p;
ALTER TABLE visit DROP CONSTRAINT visit_pkey;
CREATE PUBLICATION p FOR TABLES IN SCHEMA public;
SELECT code, object FROM found ORDER BY object;
DROP PUBLICATION p;
CREATE PUBLICATION p FOR ALL TABLES;
SELECT code, object FROM found ORDER BY object;
DROP PUBLICATION p;
CREATE TABLE visit_parted (id int, ip inet, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE visit_2020 PARTITION OF visit_parted FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
SELECT custodian.tag_column('visit_parted', 'ip', 'user.device.ip_address', '{shop.account}', on_expiry => 'set_null', clock => 'at', residency => '{cn}');
CREATE PUBLICATION p FOR TABLE visit_parted;
SELECT code, object, problem, remedy FROM found ORDER BY object;
ALTER TABLE visit_2020 REPLICA IDENTITY FULL;
SELECT code, object, problem FROM found ORDER BY object;

-- The remedy works.
ALTER PUBLICATION p ADD TABLE visit;
ALTER TABLE visit REPLICA IDENTITY FULL;
SELECT * FROM found;
SELECT relation, action, rows FROM custodian.sweep_now('visit');
SELECT count(*) FROM visit;
ALTER SYSTEM RESET custodian.max_disposal_fraction;
SELECT pg_reload_conf();
