-- What is due, what is kept and why: preview and explain_row. Every clock is given relative to a fixed day.
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SET client_min_messages = warning;
CREATE EXTENSION pg_custodian;
CREATE SCHEMA plan;
CREATE ROLE plan_owner;
GRANT USAGE, CREATE ON SCHEMA plan TO plan_owner;
SET ROLE plan_owner;

-- Three kinds of clock, several purposes, NULL clocks.
CREATE TABLE plan.account (
    id int PRIMARY KEY,
    seen_at timestamptz,
    born date,
    name text,
    email text,
    ip inet
);
CREATE TABLE plan.orders (
    id int PRIMARY KEY,
    account_id int REFERENCES plan.account,
    ordered_at timestamp,
    address text,
    invoice_no text
);
CREATE TABLE plan.item (
    order_id int NOT NULL REFERENCES plan.orders ON DELETE CASCADE,
    line int,
    note text,
    PRIMARY KEY (order_id, line)
);
INSERT INTO plan.account VALUES
    (1, '2021-01-31 00:00Z', '1990-05-17', 'n1', 'e1', '10.1.2.3'),
    (2, '2023-06-30 12:00Z', '1991-05-17', 'n2', 'e2', '2001:db8:1:2:3:4:5:6'),
    (3, '2024-05-31 00:00Z', '1992-05-17', 'n3', 'e3', '10.1.2.0/24'),
    (4, NULL, '1993-05-17', 'n4', 'e4', NULL),
    (5, 'infinity', NULL, 'n5', NULL, '10.9.9.9'),
    (6, '-infinity', NULL, 'n6', NULL, '10.9.9.9');
INSERT INTO plan.orders VALUES
    (10, 1, '2021-02-01', 'a10', 'A1'),
    (11, 1, '2016-02-01', 'a11', 'A2'),
    (12, 2, '2023-07-01', 'a12', 'A3'),
    (13, NULL, '2015-07-01', 'a13', 'A4');
INSERT INTO plan.item VALUES (10, 1, 'x'), (10, 2, 'y'), (11, 1, 'z'), (13, 1, 'w');
RESET ROLE;

SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
SELECT custodian.define_purpose('shop.marketing', 'contract', '3 years');
SELECT custodian.define_purpose('shop.order', 'contract', '2 years');
SELECT custodian.define_purpose('shop.security', 'contract', '1 month');

SET ROLE plan_owner;
SELECT custodian.tag_table('plan.account', clock => 'seen_at', subject_kind => 'customer', subject_key => '{id}', on_expiry => 'delete');
SELECT custodian.tag_column('plan.account', 'name', 'user.name', '{shop.account}');
SELECT custodian.tag_column('plan.account', 'email', 'user.contact.email', '{shop.account,shop.marketing}', on_expiry => 'set_null');
SELECT custodian.tag_column('plan.account', 'ip', 'user.device.ip_address', '{shop.security}', on_expiry => 'network');
SELECT custodian.tag_column('plan.account', 'born', 'user.demographic.date_of_birth', '{shop.account}', on_expiry => '{"truncate":"year"}');
SELECT custodian.tag_table('plan.orders', clock => 'ordered_at', subject_kind => 'customer', subject_via => '{account_id}', on_expiry => 'delete');
SELECT custodian.tag_column('plan.orders', 'address', 'user.contact.address', '{shop.order}', on_expiry => 'set_null');
SELECT custodian.tag_column('plan.orders', 'invoice_no', 'user.financial', '{shop.order}');
SELECT custodian.tag_table('plan.item', clock => 'item_order_id_fkey.ordered_at', subject_kind => 'customer', subject_via => '{order_id}', on_expiry => 'delete');
SELECT custodian.tag_column('plan.item', 'note', 'user.content', '{shop.order}');
RESET ROLE;

-- A month after 31 January 2021 is 28 February; the account of 2023 is past shop.account, not shop.marketing.
SELECT * FROM custodian.preview('plan.account', '2024-06-15Z') ORDER BY 3, 4, 2;
SELECT * FROM custodian.preview('plan.account', '2021-02-27 23:59:59Z') ORDER BY 3, 4, 2;
SELECT * FROM custodian.preview('plan.account', '2021-02-28Z') ORDER BY 3, 4, 2;
-- Orders go with their items; accounts wait for orders that stay.
SELECT * FROM custodian.preview('plan.orders', '2024-06-15Z') ORDER BY 3, 4, 2;
SELECT * FROM custodian.preview('plan.item', '2024-06-15Z') ORDER BY 3, 4, 2;
SELECT * FROM custodian.preview('plan.item', '2023-01-31 23:59:59Z') ORDER BY 3, 4, 2;

-- A minimum blocks the columns that name it and so the row; the rest goes on time.
SELECT custodian.require_minimum('cn.tax.invoice', 'plan.orders', '{invoice_no}', '10 years', 'Art. 62 of the Tax Collection Law');
SELECT * FROM custodian.preview('plan.orders', '2024-06-15Z') ORDER BY 3, 4, 2;
SELECT * FROM custodian.preview('plan.account', '2024-06-15Z') ORDER BY 3, 4, 2;
SELECT * FROM custodian.explain_row('plan.orders', '{"id": 11}', '2024-06-15Z');
SELECT * FROM custodian.explain_row('plan.item', '{"order_id": 10, "line": 2}', '2024-06-15Z');

-- Holds: on a subject, over one and two foreign keys; on rows; on a table.
INSERT INTO custodian.hold (matter, scope, subject_kind, subject_key, reason, approver, review_on)
VALUES ('M1', 'subject', 'customer', '{1}', 'suit', 'counsel', '2030-01-01');
SELECT * FROM custodian.preview('plan.orders', '2024-06-15Z') ORDER BY 3, 4, 2;
SELECT * FROM custodian.preview('plan.item', '2024-06-15Z') ORDER BY 3, 4, 2;
SELECT column_name, state, decided_by FROM custodian.explain_row('plan.account', '{"id": 1}', '2024-06-15Z');
INSERT INTO custodian.relation_ref (ref, nspname, relname) VALUES (900, 'plan', 'orders');
INSERT INTO custodian.hold (matter, scope, relation, matching, reason, approver, review_on)
VALUES ('M2', 'rows', 900, '{"invoice_no": ["A2", "A4"]}', 'suit', 'counsel', '2030-01-01');
SELECT * FROM custodian.preview('plan.orders', '2027-06-15Z') ORDER BY 3, 4, 2;
SELECT column_name, state, decided_by FROM custodian.explain_row('plan.orders', '{"id": 13}', '2027-06-15Z');
UPDATE custodian.hold SET released_at = now() WHERE matter IN ('M1', 'M2');
INSERT INTO custodian.hold (matter, scope, relation, reason, approver, review_on)
VALUES ('M3', 'table', 900, 'suit', 'counsel', '2030-01-01');
SELECT * FROM custodian.preview('plan.orders', '2034-06-15Z') ORDER BY 3, 4, 2;
UPDATE custodian.hold SET released_at = now();

-- Explanations.
SELECT * FROM custodian.explain_row('plan.orders', '{"id": 13}', '2027-06-15Z');
SELECT * FROM custodian.explain_row('plan.account', '{"id": 1}', '2024-06-15Z');
SELECT * FROM custodian.explain_row('plan.account', '{"id": 2}', '2024-06-15Z');
SELECT * FROM custodian.explain_row('plan.account', '{"id": 4}', '2024-06-15Z');
SELECT * FROM custodian.explain_row('plan.account', '{"id": 77}', '2024-06-15Z');
SELECT * FROM custodian.explain_row('plan.account', '{"born": null}', '2024-06-15Z');
SELECT * FROM custodian.explain_row('plan.account', '{"nothing": 1}', '2024-06-15Z');
SELECT * FROM custodian.explain_row('plan.item', '{"order_id": 10}', '2024-06-15Z');
SELECT * FROM custodian.explain_row('plan.account', '{"id": "secret value"}', '2024-06-15Z');
SELECT * FROM custodian.explain_row('plan.account', '[]', 'infinity');
SELECT * FROM custodian.explain_row('pg_class', '{"oid": 1}', '2024-06-15Z');

-- Not the owner, no steward.
CREATE ROLE plan_other;
GRANT USAGE ON SCHEMA plan TO plan_other;
SET ROLE plan_other;
SELECT count(*) FROM custodian.preview();
SELECT * FROM custodian.preview('plan.account');
SELECT * FROM custodian.explain_row('plan.account', '{"id": 1}', '2024-06-15Z');
SELECT custodian.sweep_pseudonym('x');
SELECT custodian.sweep_is_pseudonym('x');
RESET ROLE;

-- A purpose that has ended ends its cover at once, whatever the clock.
BEGIN;
SELECT custodian.end_purpose('shop.marketing', '2023-01-01Z');
SELECT * FROM custodian.preview('plan.account', '2024-06-15Z') ORDER BY 3, 4, 2;
ROLLBACK;

-- Partitions over two levels, a clock that is the partition key, names that need quoting, a partition of another owner.
SET ROLE plan_owner;
CREATE TABLE plan."Log ""of"" it; DROP" (
    "at'" timestamptz NOT NULL,
    "%I $1 personal" text,
    kind int
) PARTITION BY RANGE ("at'");
CREATE TABLE plan."p 2020" PARTITION OF plan."Log ""of"" it; DROP" FOR VALUES FROM ('2020-01-01Z') TO ('2021-01-01Z') PARTITION BY LIST (kind);
CREATE TABLE plan."p 2020'1" PARTITION OF plan."p 2020" FOR VALUES IN (1);
CREATE TABLE plan."p 2020'2" PARTITION OF plan."p 2020" FOR VALUES IN (2);
CREATE TABLE plan."p 2021" PARTITION OF plan."Log ""of"" it; DROP" FOR VALUES FROM ('2021-01-01Z') TO ('2022-01-01Z');
INSERT INTO plan."Log ""of"" it; DROP"
SELECT '2020-01-01Z'::timestamptz + n * interval '10 days', 'v' || n, 1 + n % 2 FROM generate_series(0, 60) AS n;
SELECT custodian.tag_table('plan."Log ""of"" it; DROP"', clock => 'at''', on_expiry => 'delete');
SELECT custodian.tag_column('plan."Log ""of"" it; DROP"', '%I $1 personal', 'user.behavior', '{shop.account}');
SELECT relation, column_names, action, reason, rows FROM custodian.preview('plan."Log ""of"" it; DROP"', '2022-01-01Z');
SELECT relation, action, rows FROM custodian.preview('plan."p 2020"', '2022-01-01Z');
SELECT relation, action, rows FROM custodian.preview('plan."p 2020''2"', '2022-01-01Z');
SELECT column_name, state FROM custodian.explain_row('plan."p 2020''1"', '{"%I $1 personal": "v2"}', '2024-06-15Z');
RESET ROLE;
ALTER TABLE plan."p 2020'2" OWNER TO plan_other;
SELECT relation, action, rows FROM custodian.preview('plan."Log ""of"" it; DROP"', '2022-01-01Z');

-- A clock in a table that the owner may not read is a row that says so, not an error.
CREATE TABLE plan.parent (id int PRIMARY KEY, at timestamptz);
GRANT REFERENCES ON plan.parent TO plan_owner;
SET ROLE plan_owner;
CREATE TABLE plan.child (id int PRIMARY KEY, parent_id int REFERENCES plan.parent, v text);
SELECT custodian.tag_table('plan.child', clock => 'child_parent_id_fkey.at');
SELECT custodian.tag_column('plan.child', 'v', 'user.content', '{shop.account}', on_expiry => 'set_null');
SELECT relation, action, reason, rows FROM custodian.preview('plan.child', '2030-01-01Z');
RESET ROLE;
GRANT SELECT ON plan.parent TO plan_owner;
INSERT INTO plan.parent VALUES (1, '2020-01-01Z'), (2, NULL);
INSERT INTO plan.child VALUES (1, 1, 'a'), (2, 2, 'b'), (3, NULL, 'c');
SELECT relation, action, reason, rows FROM custodian.preview('plan.child', '2030-01-01Z');

-- The owner's own code runs when a query on the table is planned, and gains nothing by a steward's preview.
SET ROLE plan_owner;
CREATE FUNCTION plan.trap(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RAISE WARNING 'trap: user %, superuser %', current_user, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
    BEGIN
        PERFORM set_config('role', 'none', false);
        RAISE WARNING 'trap: role reset';
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE WARNING 'trap: %', SQLERRM;
    END;
    RETURN $1;
END $$;
CREATE TABLE plan.trapped (id int, at timestamptz, v text);
INSERT INTO plan.trapped SELECT n, '2020-01-01Z', 'v' FROM generate_series(1, 3) AS n;
SELECT custodian.tag_table('plan.trapped', clock => 'at');
SELECT custodian.tag_column('plan.trapped', 'v', 'user.content', '{shop.account}', on_expiry => '{"constant":"gone"}');
ALTER TABLE plan.trapped ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY trap ON plan.trapped USING (false);
SET client_min_messages = error;
CREATE INDEX ON plan.trapped (at) WHERE plan.trap('c') = 'c';
\c -
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SELECT relation, action, reason, rows FROM custodian.preview('plan.trapped', '2030-01-01Z');
SELECT column_name, state FROM custodian.explain_row('plan.trapped', '{"id": 1}', '2030-01-01Z');
SELECT current_user = session_user AS unchanged;
SET client_min_messages = warning;

-- Pseudonyms: recognised, whoever made them; other text of that form is not.
CREATE TABLE plan.person (id int PRIMARY KEY, at date, v text UNIQUE, short varchar(20));
INSERT INTO plan.person VALUES (1, '2020-01-01', 'someone', 's'), (2, '2020-01-01', 'ps1.00000000.' || repeat('0', 32) || '.' || repeat('0', 16), 's'), (3, 'infinity', 'x', 's'), (4, '5874897-01-01', 'y', 's');
SELECT custodian.tag_table('plan.person', clock => 'at');
SELECT custodian.tag_column('plan.person', 'v', 'user.name', '{shop.account}', on_expiry => 'hmac');
-- The tag function refuses a method that does not fit; a label that says so all the same is kept.
SELECT custodian.tag_column('plan.person', 'short', 'user.name', '{shop.account}', on_expiry => 'hmac');
SECURITY LABEL FOR custodian ON COLUMN plan.person.short IS '{"category":"user.name","sensitivity":"personal","purposes":["shop.account"],"on_expiry":"hmac"}';
SELECT relation, column_names, action, reason, rows FROM custodian.preview('plan.person', '2030-01-01Z') ORDER BY action, reason;

SELECT severity, code, object, problem FROM custodian.check()
WHERE object LIKE 'plan.%' AND code <> 'residency-unknown' ORDER BY object, code;

-- A held row whose every cell and which itself would go is counted once.
CREATE TABLE plan.visitor (id int PRIMARY KEY, name text, seen_at timestamptz NOT NULL);
INSERT INTO plan.visitor VALUES (7, 'a', '2020-01-01Z'), (8, 'b', '2020-01-01Z');
SELECT custodian.tag_table('plan.visitor', clock => 'seen_at', subject_kind => 'visitor', subject_key => '{id}', on_expiry => 'delete');
SELECT custodian.tag_column('plan.visitor', 'name', 'user.name', '{shop.account}', on_expiry => 'set_null');
INSERT INTO custodian.hold (matter, scope, subject_kind, subject_key, reason, approver, review_on)
VALUES ('M4', 'subject', 'visitor', '{7}', 'suit', 'counsel', '2030-01-01');
SELECT * FROM custodian.preview('plan.visitor', '2030-01-01Z') ORDER BY 3, 4, 2;
UPDATE custodian.hold SET released_at = now() WHERE matter = 'M4';

SELECT custodian.untag_column('plan.orders', 'invoice_no');
DROP SCHEMA plan CASCADE;
DELETE FROM custodian.hold;
DELETE FROM custodian.relation_ref WHERE ref = 900;
DROP EXTENSION pg_custodian;
DROP ROLE plan_owner, plan_other;
