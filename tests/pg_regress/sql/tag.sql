-- Tags: who may write them, what they must say, and what becomes of them when tables change.
CREATE EXTENSION pg_custodian;
CREATE ROLE regress_tag_owner;
CREATE ROLE regress_tag_stranger;
CREATE ROLE regress_tag_steward;
ALTER SYSTEM SET custodian.steward_role = 'regress_tag_steward';
SELECT pg_reload_conf();
\c -
SHOW custodian.steward_role;
CREATE SCHEMA app AUTHORIZATION regress_tag_owner;
GRANT USAGE ON SCHEMA app TO PUBLIC;
SET ROLE regress_tag_owner;
CREATE TABLE app.customer (id int PRIMARY KEY, email text, phone text, country text,
                           seen timestamptz, created timestamptz);
CREATE TABLE app.invoice (id int PRIMARY KEY, customer_id int CONSTRAINT customer_fk REFERENCES app.customer,
                          address text, issued date);

--
-- Purposes
--
SELECT custodian.define_purpose('shop.account', 'contract', '3 years'); -- not by an owner
SET ROLE regress_tag_steward;
SELECT custodian.define_purpose('shop.account', 'contract', '3 years');
SELECT custodian.define_purpose('shop.account', 'contract', '36 months'); -- the same
SELECT custodian.define_purpose('shop.account', 'contract', '2 years');
SELECT custodian.define_purpose('shop.account', 'consent', '2 years');
SELECT custodian.define_purpose('shop.marketing', 'consent', '1 year', required => false, description => 'newsletters');
SELECT custodian.define_purpose('shop.analytics', 'legitimate_interests', '90 days');
SELECT custodian.define_purpose('shop.analytics', 'legitimate_interests', '90 days', 'eu');
SELECT custodian.define_purpose('shop.other', 'contract', '1 year', 'atlantis');
SELECT custodian.define_purpose('account', 'contract', '1 year');
SELECT custodian.define_purpose('shop.x"; DROP TABLE custodian.purpose; --', 'contract', '1 year');
SELECT custodian.define_purpose('shop.x', 'contract', '-1 year');
SELECT custodian.define_purpose('shop.x', 'contract', '1 year -1 day');
SELECT custodian.define_purpose('shop.x', 'contract', NULL);
SELECT custodian.define_purpose(NULL, 'contract', '1 year');
SELECT name, basis, jurisdiction, required, period, periods, ended_at, description FROM custodian.purposes ORDER BY 1;

--
-- Columns: owner, steward, stranger
--
SET ROLE regress_tag_stranger;
SELECT custodian.tag_column('app.customer', 'email', 'user.contact.email', '{shop.account}');
SELECT custodian.tag_table('app.customer', clock => 'seen');
SET ROLE regress_tag_owner;
SELECT custodian.tag_column('app.customer', 'email', 'user.contact.email', '{shop.marketing,shop.account}',
                            residency => '{de,cn}', on_expiry => 'set_null');
SELECT custodian.tag_column('app.customer', 'email', 'user.contact.email', '{shop.account,shop.marketing}',
                            residency => '{cn,de}', on_expiry => 'set_null'); -- the same
SELECT custodian.tag_column('app.customer', 'email', 'user.contact.email', '{shop.account}',
                            sensitivity => 'sensitive', residency => '{cn}', on_expiry => 'set_null');
-- each of these loosens
SELECT custodian.tag_column('app.customer', 'email', 'user.contact.email', '{shop.account,shop.marketing}',
                            sensitivity => 'sensitive', residency => '{cn}', on_expiry => 'set_null');
SELECT custodian.tag_column('app.customer', 'email', 'user.contact.email', '{shop.account}',
                            residency => '{us}', on_expiry => 'hmac', clock => 'created');
SELECT custodian.clear_column('app.customer', 'country');
SELECT custodian.untag_column('app.customer', 'email');
SECURITY LABEL FOR custodian ON COLUMN app.customer.country IS '{"not_personal":true}';
SECURITY LABEL FOR custodian ON COLUMN app.customer.email IS NULL;
SECURITY LABEL FOR custodian ON COLUMN app.customer.email IS
    '{"category":"user.contact.email","sensitivity":"personal","purposes":["shop.account"]}';
-- an owner may add and tighten with the server's own command, too
SECURITY LABEL FOR custodian ON COLUMN app.customer.phone IS
    '{"category":"user.contact.phone_number","sensitivity":"personal","purposes":["shop.account","shop.marketing"]}';
SECURITY LABEL FOR custodian ON COLUMN app.customer.phone IS
    '{"category":"user.contact.phone_number","sensitivity":"personal","purposes":["shop.account"]}';
SET ROLE regress_tag_stranger;
SELECT custodian.tag_column('app.customer', 'email', 'user.contact.email', '{shop.account}');
SELECT custodian.untag_column('app.customer', 'email');
SECURITY LABEL FOR custodian ON COLUMN app.customer.email IS NULL;
SELECT relation, column_name, kind, sensitivity, purposes, residency, on_expiry FROM custodian.tags ORDER BY 1, 2;
-- a steward need not own the table
SET ROLE regress_tag_steward;
SELECT custodian.clear_column('app.customer', 'country');
SELECT custodian.tag_column('app.customer', 'email', 'user.contact.email', '{shop.account,shop.marketing}',
                            residency => '{cn}', on_expiry => 'hmac', clock => 'seen');
SELECT custodian.untag_column('app.customer', 'phone');
SELECT custodian.untag_column('app.customer', 'phone');
SELECT relation, column_name, kind, sensitivity, purposes, residency, on_expiry, clock FROM custodian.tags ORDER BY 1, 2;

--
-- What a tag refers to must exist
--
SET ROLE regress_tag_owner;
SELECT custodian.tag_column('app.customer', 'fax', 'user.contact', '{shop.account}');
SELECT custodian.tag_column('app.customer', 'EMAIL', 'user.contact', '{shop.account}');
SELECT custodian.tag_column('app.customer', 'xmin', 'user.contact', '{shop.account}');
SELECT custodian.tag_column('app.customer', 'phone', 'user.contact', '{shop.accounts}');
SELECT custodian.tag_column('app.customer', 'phone', 'user.contact', '{}');
SELECT custodian.tag_column('app.customer', 'phone', 'user.contact', '{shop.account,NULL}');
SELECT custodian.tag_column('app.customer', 'phone', 'user.contact', '{shop.account}', sensitivity => 'secret');
SELECT custodian.tag_column('app.customer', 'phone', 'user.contact', '{shop.account}', on_expiry => 'shred');
SELECT custodian.tag_column('app.customer', 'phone', 'user.contact', '{shop.account}', on_expiry => '{"mask":');
SELECT custodian.tag_column('app.customer', 'phone', 'user.contact', '{shop.account}', on_expiry => '{"mask":"two"}');
SELECT custodian.tag_column('app.customer', 'phone', 'user.contact', '{shop.account}', clock => 'email');
SELECT custodian.tag_column('app.customer', 'phone', 'user.contact', '{shop.account}', clock => 'never');
SELECT custodian.tag_column('app.invoice', 'address', 'user.contact', '{shop.account}', clock => 'no_fk.seen');
SELECT custodian.tag_column('app.invoice', 'address', 'user.contact', '{shop.account}', clock => 'customer_fk.email');
SELECT custodian.tag_column('app.invoice', 'address', 'user.contact', '{shop.account}', clock => 'customer_fk.seen');
SELECT custodian.tag_table('app.invoice', clock => 'issued', subject_kind => 'customer', subject_via => '{customer}');
SELECT custodian.tag_table('app.invoice', clock => 'issued', subject_kind => 'customer');
SELECT custodian.tag_table('app.invoice', clock => 'issued', subject_via => '{customer_id}');
SELECT custodian.tag_table('app.invoice', clock => 'issued', on_expiry => 'drop');
SELECT custodian.tag_table('app.invoice', clock => 'issued', collected => 'address');
SELECT custodian.tag_table('app.invoice', clock => 'issued', residency_column => 'land');
SELECT custodian.tag_table('app.invoice');
SELECT custodian.tag_table('app.invoice', clock => 'issued', subject_kind => 'customer', subject_via => '{customer_id}');
SELECT custodian.tag_table('app.customer', clock => 'seen', collected => 'created', subject_kind => 'customer',
                           subject_key => '{id}', on_expiry => 'delete', null_clock => 'not_started', disposal => 'observe');
SELECT custodian.tag_table('app.customer', clock => 'created', on_expiry => 'keep');
SELECT relation, kind, clock, subject_kind, subject_key, subject_via, collected, on_expiry, null_clock, disposal
FROM custodian.tags WHERE kind = 'table' ORDER BY 1;

--
-- Labels written by hand: strict, and a bad one changes nothing
--
RESET ROLE;
SECURITY LABEL FOR custodian ON COLUMN app.customer.email IS 'user.contact.email';
SECURITY LABEL FOR custodian ON COLUMN app.customer.email IS '{"category":"user.contact.email","purpose":["shop.account"]}';
SECURITY LABEL FOR custodian ON COLUMN app.customer.email IS
    '{"category":"user.contact.email","sensitivity":"personal","purposes":["shop.account","shop.account"]}';
SECURITY LABEL FOR custodian ON COLUMN app.customer.email IS
    '{"category":"user.contact.email","sensitivity":"personal","purposes":["shop.account"],"residency":["CN"]}';
SECURITY LABEL FOR custodian ON COLUMN app.customer.email IS '{"not_personal":true,"category":"user"}';
SECURITY LABEL FOR custodian ON COLUMN app.customer.email IS '{"not_personal":false}';
SECURITY LABEL FOR custodian ON TABLE app.customer IS '{"subject":{"kind":"customer","keys":["id"]}}';
SECURITY LABEL FOR custodian ON TABLE app.customer IS '{}';
\set SHOW_CONTEXT never
DO $$ BEGIN
    EXECUTE format('SECURITY LABEL FOR custodian ON COLUMN app.customer.email IS %L',
        '{"category":"user.name","sensitivity":"personal","purposes":["a.b"],"on_expiry":{"constant":"' || repeat('x', 9000) || '"}}');
END $$;
\set SHOW_CONTEXT errors
CREATE VIEW app.v AS SELECT email FROM app.customer;
SECURITY LABEL FOR custodian ON COLUMN app.v.email IS '{"not_personal":true}';
SECURITY LABEL FOR custodian ON ROLE regress_tag_owner IS '{"not_personal":true}';
SECURITY LABEL FOR custodian ON SCHEMA app IS '{"not_personal":true}';
SELECT custodian.tag_table('app.v', clock => 'seen');
SELECT custodian.tag_table('app.customer_pkey', clock => 'seen');
DROP VIEW app.v;
SELECT relation, column_name, kind, sensitivity, purposes, residency, on_expiry, clock FROM custodian.tags ORDER BY 1, 2;

--
-- Minimums
--
SET ROLE regress_tag_owner;
SELECT custodian.require_minimum('cn.tax.invoice', 'app.invoice', '{address}', '5 years', 'Law A, article 1');
SET ROLE regress_tag_steward;
SELECT custodian.require_minimum('cn.tax.invoice', 'app.invoice', '{address}', '5 years', 'Law A, article 1', clock => 'issued');
SELECT custodian.require_minimum('cn.tax.invoice', 'app.invoice', '{address}', '5 years', 'Law A, article 1', clock => 'issued');
SELECT custodian.require_minimum('cn.tax.invoice', 'app.invoice', '{address}', '1825 days', 'Law A, article 1', clock => 'issued');
SELECT custodian.require_minimum('cn.tax.invoice', 'app.invoice', '{address}', '10 years', 'Law A, article 2', clock => 'issued');
SELECT custodian.require_minimum('cn.tax.invoice', 'app.invoice', '{issued}', '10 years', 'Law A, article 2');
SELECT custodian.require_minimum('cn.tax.invoice', 'app.customer', '{country}', '10 years', 'Law A, article 2');
SELECT custodian.require_minimum('cn.tax.invoice', 'app.invoice', '{}', '10 years', 'Law A, article 2');
SELECT custodian.require_minimum('cn.tax.invoice', 'app.invoice', '{address}', '10 years', ' ');
SELECT name, period, citation FROM custodian.minimums;
-- tagging again keeps the minimum, and an owner cannot drop it
SET ROLE regress_tag_owner;
SELECT custodian.tag_column('app.invoice', 'address', 'user.contact', '{shop.account}', clock => 'customer_fk.seen');
SELECT custodian.tag_column('app.invoice', 'address', 'user.contact', '{shop.account}', clock => 'customer_fk.seen', sensitivity => 'sensitive');
SECURITY LABEL FOR custodian ON COLUMN app.invoice.address IS
    '{"category":"user.contact","sensitivity":"sensitive","purposes":["shop.account"],"clock":"customer_fk.seen"}';
SELECT relation, column_name, sensitivity, minimums FROM custodian.tags WHERE minimums <> '{}';

--
-- Ending a purpose, permitting a publication
--
SELECT custodian.end_purpose('shop.marketing');
SELECT custodian.permit_publication('pub', '{de}', 'assessed');
SET ROLE regress_tag_steward;
SELECT custodian.end_purpose('shop.nothing');
SELECT custodian.end_purpose('shop.marketing', '2001-01-01 00:00+00');
SELECT custodian.end_purpose('shop.marketing');
SELECT custodian.define_purpose('shop.marketing', 'consent', '2 years', required => false);
SELECT custodian.permit_publication('pub', '{eu,de,de}', 'assessed');
SELECT custodian.permit_publication('pub', '{de,eu}', 'assessed');
SELECT custodian.permit_publication('pub', '{DE}', 'assessed');
SELECT custodian.permit_publication('pub', '{}', 'assessed');
SELECT custodian.permit_publication('pub', '{de}', '');
SELECT publication, regions, reason FROM custodian.publication_permits;
SELECT custodian.forbid_publication('pub');
SELECT custodian.forbid_publication('pub');
SELECT name, ended_at = '2001-01-01 00:00+00' AS ended_then FROM custodian.purposes WHERE ended_at IS NOT NULL;

--
-- Labels follow renames, and go with what they are on
--
SET ROLE regress_tag_owner;
ALTER TABLE app.invoice RENAME TO bill;
ALTER TABLE app.bill RENAME COLUMN address TO place;
SELECT relation, column_name, kind FROM custodian.tags WHERE relation = 'app.bill'::regclass ORDER BY 2;
-- what they name is followed, too: a clock's column, a foreign key, the columns of a subject
ALTER TABLE app.customer RENAME COLUMN seen TO "last.seen";
ALTER TABLE app.customer RENAME COLUMN id TO no;
ALTER TABLE app.customer RENAME COLUMN created TO seen;
ALTER TABLE app.bill RENAME CONSTRAINT customer_fk TO buyer;
ALTER TABLE app.bill RENAME COLUMN customer_id TO buyer_id;
ALTER TABLE app.bill RENAME COLUMN issued TO "Issued";
SELECT relation, column_name, clock, collected, subject_key, subject_via FROM custodian.tags
WHERE kind <> 'cleared' ORDER BY 1, 2;
SELECT label FROM pg_seclabel WHERE objoid = 'app.bill'::regclass AND objsubid > 0;
ALTER TABLE app.bill DROP COLUMN place;
SELECT relation, column_name, kind FROM custodian.tags WHERE relation = 'app.bill'::regclass ORDER BY 2;
DROP TABLE app.bill;

--
-- Hostile names
--
RESET ROLE;
CREATE SCHEMA "sch""ema; DROP TABLE x" AUTHORIZATION regress_tag_owner;
SET ROLE regress_tag_owner;
CREATE TABLE "sch""ema; DROP TABLE x"."tab'le""; --" ("col""; DROP" text, "Имя 名" text,
    "a123456789012345678901234567890123456789012345678901234567890xx" text, "at.time" timestamptz, "{""x"":1}" text);
SELECT custodian.tag_column('"sch""ema; DROP TABLE x"."tab''le""; --"', 'col"; DROP', 'user.name', '{shop.account}', on_expiry => '{"constant":"''; DROP TABLE x; --"}');
SELECT custodian.tag_column('"sch""ema; DROP TABLE x"."tab''le""; --"', 'Имя 名', 'user.name', '{shop.account}', clock => '"at.time"');
SELECT custodian.tag_column('"sch""ema; DROP TABLE x"."tab''le""; --"', 'a123456789012345678901234567890123456789012345678901234567890xx', 'user.name', '{shop.account}');
SELECT custodian.tag_column('"sch""ema; DROP TABLE x"."tab''le""; --"', 'a123456789012345678901234567890123456789012345678901234567890xxx', 'user.name', '{shop.account}');
SELECT custodian.tag_column('"sch""ema; DROP TABLE x"."tab''le""; --"', '{"x":1}', 'user.name", "x":"', '{shop.account}');
SELECT custodian.tag_table('"sch""ema; DROP TABLE x"."tab''le""; --"', clock => 'at.time');
SELECT custodian.tag_table('"sch""ema; DROP TABLE x"."tab''le""; --"', clock => '"at.time"');
SELECT relation, column_name, kind, on_expiry, clock FROM custodian.tags WHERE relation::text LIKE '%ema%' ORDER BY 1, 2;
DROP TABLE "sch""ema; DROP TABLE x"."tab'le""; --";

--
-- Partitions and children: a parent's tag governs, a child may tighten
--
CREATE TABLE app.event (id int, ip inet, at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE app.event_1 PARTITION OF app.event FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
SELECT custodian.tag_column('app.event', 'ip', 'user.device.ip_address', '{shop.account,shop.marketing}', on_expiry => 'network');
SELECT custodian.tag_table('app.event', clock => 'at', on_expiry => 'delete');
SELECT custodian.tag_column('app.event_1', 'ip', 'user.device.ip_address', '{shop.account}');
SELECT custodian.tag_column('app.event_1', 'ip', 'user.device', '{shop.account}', on_expiry => 'set_null');
SELECT custodian.tag_table('app.event_1', clock => 'at', on_expiry => 'keep');
RESET ROLE;
SELECT custodian.clear_column('app.event_1', 'ip');
-- a restore may bring a label that asks for less: it has no effect, and is found
SECURITY LABEL FOR custodian ON COLUMN app.event_1.ip IS '{"not_personal":true}';
SELECT code, object, problem FROM custodian.check() WHERE code LIKE 'tag-overruled';
SELECT custodian.untag_column('app.event_1', 'ip');
SELECT code, object, problem FROM custodian.check() WHERE code LIKE 'tag-overruled';

-- what leaves its parent takes the tags with it
SET ROLE regress_tag_owner;
CREATE TABLE app.event_2 PARTITION OF app.event FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
CREATE TABLE app.event_3 PARTITION OF app.event FOR VALUES FROM ('2022-01-01') TO ('2023-01-01');
CREATE TABLE app.person (name text, at timestamptz);
CREATE TABLE app.employee (room text) INHERITS (app.person);
SELECT custodian.tag_column('app.person', 'name', 'user.name', '{shop.account,shop.marketing}', on_expiry => 'set_null', clock => 'at');
SELECT custodian.tag_column('app.employee', 'name', 'user.name', '{shop.account}');
SET ROLE regress_tag_stranger;
ALTER TABLE app.event DETACH PARTITION app.event_2;
SET ROLE regress_tag_owner;
ALTER TABLE app.event DETACH PARTITION app.event_2;
ALTER TABLE app.event DETACH PARTITION app.event_3 CONCURRENTLY;
ALTER TABLE app.employee NO INHERIT app.person;
SELECT relation, column_name, kind, purposes, on_expiry, clock FROM custodian.tags
WHERE relation IN ('app.event_2'::regclass, 'app.event_3'::regclass, 'app.employee'::regclass) ORDER BY 1, 2;
ALTER TABLE app.event ATTACH PARTITION app.event_2 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
ALTER TABLE app.event DETACH PARTITION app.event_2;
DROP TABLE app.event_2, app.event_3, app.employee, app.person;
RESET ROLE;

--
-- A label that does not parse, which only a damaged catalog can bring, does not break the view
--
UPDATE pg_seclabel SET label = 'damaged' WHERE objoid = 'app.customer'::regclass AND objsubid = 2;
SELECT column_name, kind, category, problem FROM custodian.tags WHERE problem IS NOT NULL;
SELECT code, object, problem FROM custodian.check() WHERE code = 'tag-malformed';
SET ROLE regress_tag_owner;
SELECT custodian.tag_column('app.customer', 'email', 'user.contact.email', '{shop.account}');
RESET ROLE;
SELECT custodian.tag_column('app.customer', 'email', 'user.contact.email', '{shop.account}');
SELECT column_name, kind, category, problem FROM custodian.tags WHERE relation = 'app.customer'::regclass AND column_name = 'email';

--
-- Every change is an epoch and a ledger entry, and nothing else is
--
SELECT change, object, count(*) FROM custodian.epoch GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) = (SELECT count(*) FROM custodian.ledger WHERE kind ~ '^(tag|policy)\.') AS all_in_ledger FROM custodian.epoch;
BEGIN;
SELECT custodian.untag_table('app.customer');
ROLLBACK;
SELECT count(*) FROM custodian.tags WHERE relation = 'app.customer'::regclass AND kind = 'table';

-- Without the extension in the database, labels are checked all the same.
DROP EXTENSION pg_custodian;
SECURITY LABEL FOR custodian ON COLUMN app.customer.phone IS '{"category":"x"}';
SECURITY LABEL FOR custodian ON COLUMN app.customer.phone IS
    '{"category":"user.contact.phone_number","sensitivity":"personal","purposes":["shop.account"]}';
CREATE EXTENSION pg_custodian;
SELECT relation, column_name FROM custodian.tags WHERE column_name = 'phone';

ALTER SYSTEM RESET custodian.steward_role;
SELECT pg_reload_conf();
DROP SCHEMA app CASCADE;
DROP SCHEMA "sch""ema; DROP TABLE x" CASCADE;
DROP ROLE regress_tag_owner, regress_tag_stranger, regress_tag_steward;
