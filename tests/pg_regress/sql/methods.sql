-- Methods: which fit which type, what they write, and what constraints say to it.
CREATE EXTENSION pg_custodian;
ALTER SYSTEM SET custodian.max_disposal_fraction = 1;
SELECT pg_reload_conf();
\c -
SHOW custodian.max_disposal_fraction;
SET client_min_messages = warning;
CREATE SCHEMA "hostile; --";
SET search_path = public, "hostile; --";
CREATE EXTENSION citext;
SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
CREATE TYPE mood AS ENUM ('fine');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN "hostile; --"."a""b'c" AS varchar(80);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN full_text AS text NOT NULL;

--
-- Every type with every method: fits, or why not
--
CREATE TABLE every (
    "text" text, "varchar(5)" varchar(5), "varchar(62)" varchar(62), "char(5)" char(5), "bpchar" bpchar, "citext" citext,
    "name" name, "smallint" smallint, "int" int, "bigint" bigint, "numeric" numeric, "numeric(3,1)" numeric(3,1),
    "numeric(2,2)" numeric(2,2), "numeric(2,-2)" numeric(2,-2), "real" real, "float" float8, "boolean" boolean, "date" date,
    "time" time, "timestamp" timestamp, "timestamptz" timestamptz, "timestamptz(0)" timestamptz(0), "interval" interval,
    "inet" inet, "cidr" cidr, "macaddr" macaddr, "uuid" uuid, "bytea" bytea, "json" json, "jsonb" jsonb, "text[]" text[],
    "int[]" int[], "enum" mood, "composite" pair, "point" point, "int4range" int4range, "money" money, "xml" xml,
    "a ""b"" c; DROP" "hostile; --"."a""b'c", "positive" positive, "full_text" full_text,
    "not null" text NOT NULL, "identity" int GENERATED ALWAYS AS IDENTITY, "generated" text GENERATED ALWAYS AS (upper("text")) STORED,
    "unique" text UNIQUE, "unique nulls equal" text UNIQUE NULLS NOT DISTINCT, "serial" serial, clock timestamptz);
SELECT custodian.tag_table('every', clock => 'clock');
CREATE FUNCTION fit(method text, col text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE message text;
BEGIN
    PERFORM custodian.tag_column('every', col, 'user', '{shop.account}', on_expiry => method);
    RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION
    WHEN SQLSTATE 'ZZ000' THEN RETURN 'fits';
    WHEN invalid_parameter_value THEN
        GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
        RETURN regexp_replace(message, '^method .* does not fit column "' || regexp_replace(col, '([][()"])', '\\\1', 'g') || '": ', '');
END $$;
\pset format unaligned
\pset tuples_only on
SELECT m.method, string_agg(a.attname, ', ' ORDER BY a.attnum) FILTER (WHERE f = 'fits') AS fits
FROM unnest('{set_null,hmac,network,"{\"prefix\":1}","{\"mask\":1}","{\"generalize\":10}","{\"truncate\":\"month\"}","{\"truncate\":\"year\"}"}'::text[])
     WITH ORDINALITY AS m (method, n),
     pg_attribute a, LATERAL fit(m.method, a.attname) f
WHERE a.attrelid = 'every'::regclass AND a.attnum > 0
GROUP BY m.n, m.method ORDER BY m.n;
SELECT a.attname, m.method, f
FROM unnest('{set_null,hmac,"{\"mask\":1}","{\"generalize\":10}"}'::text[]) WITH ORDINALITY AS m (method, n),
     pg_attribute a, LATERAL fit(m.method, a.attname) f
WHERE a.attrelid = 'every'::regclass AND a.attnum > 0 AND f NOT IN ('fits') AND f NOT LIKE 'its type is %'
ORDER BY a.attnum, m.n;
-- constants
SELECT a.attname, c.value, fit(jsonb_build_object('constant', c.value)::text, a.attname)
FROM (VALUES ('text', ''), ('text', 'it''s'), ('varchar(5)', '12345'), ('varchar(5)', '123456'), ('char(5)', 'ab'), ('citext', 'X'),
             ('smallint', '-32768'), ('smallint', '32768'), ('bigint', '9223372036854775807'), ('numeric', '1.50'), ('numeric', 'NaN'),
             ('numeric(3,1)', '99.9'), ('numeric(3,1)', '100'), ('real', '1.5'), ('boolean', 'true'), ('boolean', 'yes'),
             ('date', '1970-01-01'), ('date', '1970-02-30'), ('date', 'today'), ('timestamp', '1970-01-01 00:00:00'), ('timestamptz', '1970-01-01T00:00:00Z'),
             ('timestamptz', 'now'), ('inet', '0.0.0.0'), ('cidr', '10.0.0.0/8'), ('cidr', '10.0.0.1/8'),
             ('uuid', '00000000-0000-0000-0000-000000000000'), ('uuid', '0'), ('bytea', '\x'), ('bytea', '\x00ff'), ('bytea', 'abc'),
             ('json', '{}'), ('jsonb', '{"a": 1}'), ('jsonb', '{'), ('jsonb', '"\u0000"'), ('text[]', '{}'), ('enum', 'fine'), ('positive', '1'),
             ('positive', '0'), ('full_text', ''), ('a "b" c; DROP', 'x'), ('unique', 'x')) AS c (col, value)
JOIN pg_attribute a ON a.attrelid = 'every'::regclass AND a.attname = c.col
ORDER BY a.attnum, c.value;
\pset format aligned
\pset tuples_only off

--
-- What they write; a second sweep finds nothing, and neither do the last values that a type has
--
CREATE TABLE cell (id int PRIMARY KEY, v5 varchar(5), c5 char(5), ci citext, s smallint, b bigint, n numeric, n31 numeric(3,1), r real, f float8,
                   d date, t timestamp(3), tz timestamptz, i inet, ci6 cidr, dom "a""b'c", j jsonb, h text, clock date);
SELECT custodian.tag_table('cell', clock => 'clock');
SELECT count(custodian.tag_column('cell', c.name, 'user', '{shop.account}', on_expiry => c.method))
FROM (VALUES ('v5', '{"mask":2}'), ('c5', '{"prefix":2}'), ('ci', '{"mask":1}'), ('s', '{"generalize":100}'), ('b', '{"generalize":1000}'),
             ('n', '{"generalize":10}'), ('n31', '{"generalize":30}'), ('r', '{"generalize":7}'), ('f', '{"generalize":7}'),
             ('d', '{"truncate":"year"}'), ('t', '{"truncate":"month"}'), ('tz', '{"truncate":"year"}'), ('i', 'network'), ('ci6', 'network'),
             ('dom', '{"constant":"x"}'), ('j', '{"constant":"{\"a\": 1}"}'), ('h', 'hmac')) AS c (name, method);
INSERT INTO cell VALUES
    (1, 'abcde', 'abc', 'Abc', 1234, 1234567, 47.50, 47.5, 47.5, 47.5, '2024-07-15', '2024-07-15 12:34:56.789', '2024-01-01 00:30+02',
     '10.1.2.3', '2001:db8:1:2::/64', 'secret', '{"b":2}', 'Wang', '2020-01-01'),
    (2, '', '', '', -32768, -9223372036854775808, -1e40, -99.9, 'NaN', '-Infinity', 'infinity', '-infinity', 'infinity',
     '::1', '::/0', '', 'null', '', '2020-01-01'),
    (3, '*****', ' ', '*', 0, 0, 'NaN', 0, 3e38, -1e300, '4714-11-24 BC', '4714-11-24 00:00:00 BC', '4714-11-24 00:00:00+00 BC',
     '0.0.0.0/0', '0.0.0.0/0', 'x', '{"a":1.0}', NULL, '2020-01-01'),
    (4, NULL, NULL, NULL, NULL, NULL, 'Infinity', NULL, -16777215, 9007199254740991, '5874897-12-31', '294276-12-31 23:59:59.999', '294276-12-31 23:59:59+00',
     '255.255.255.255/31', NULL, NULL, NULL, 'ps1.00000000.00000000000000000000000000000000.0000000000000000', '2020-01-01');
SELECT * FROM custodian.sweep_now('cell');
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
\x on
SELECT id, v5, c5, ci, s, b, n, n31, r, f, d, t, tz, i, ci6, dom, j, regexp_replace(h, 'ps1[.][0-9a-f.]{58}', 'PSEUDONYM') AS h FROM cell ORDER BY id;
\x off
SELECT h = 'ps1.00000000.00000000000000000000000000000000.0000000000000000' AS a_forged_pseudonym_stays FROM cell WHERE id = 4;
SELECT column_names, action, rows FROM custodian.preview('cell');
SET custodian.clock_offset = '1d';
SELECT * FROM custodian.sweep_now('cell');
RESET custodian.clock_offset;

-- What has no method of its own kind, and paths inside documents
CREATE TABLE further (id int PRIMARY KEY, u uuid, un uuid, b bytea, bn bytea, ta text[], ia int[], j jsonb, clock date);
SELECT custodian.tag_table('further', clock => 'clock');
SELECT count(custodian.tag_column('further', c.name, 'user', '{shop.account}', on_expiry => c.method, path => c.path::text[]))
FROM (VALUES ('u', '{"constant":"00000000-0000-0000-0000-000000000000"}', NULL), ('un', 'set_null', NULL),
             ('b', '{"constant":"\\x00ff"}', NULL), ('bn', 'set_null', NULL), ('ta', 'set_null', NULL), ('ia', 'set_null', NULL),
             ('j', 'set_null', '{contact,email}'), ('j', '{"constant":"0"}', '{score}'), ('j', 'hmac', '{name}'),
             ('j', '{"prefix":2}', '{zip}'), ('j', '{"mask":1}', '{phone}'), ('j', '{"generalize":10}', '{age}')) AS c (name, method, path);
INSERT INTO further VALUES
    (1, '6ecd8c99-4036-403d-bf84-cf8400f67836', '6ecd8c99-4036-403d-bf84-cf8400f67836', '\x01', '\x02', '{a,NULL}', '{1,2}',
     '{"contact": {"email": "e", "x": 1}, "score": 7, "name": "Wang", "zip": "12345", "phone": "13800", "age": 47, "y": [1]}', '2020-01-01'),
    (2, '00000000-0000-0000-0000-000000000000', NULL, '\x00ff', NULL, '{}', '{}', '{"contact": {"email": null}, "score": {"s": 1}, "name": "", "zip": "", "age": -1}', '2020-01-01'),
    (3, NULL, NULL, '\x', '\x', NULL, '{{1,2},{3,4}}', '{"contact": "none", "name": null, "phone": "**0", "age": 0}', '2020-01-01'),
    (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2020-01-01');
SELECT * FROM custodian.sweep_now('further');
SELECT id, u, un, b, bn, ta, ia, jsonb_set(j, '{name}', CASE WHEN j ->> 'name' LIKE 'ps1.%' THEN '"PSEUDONYM"' ELSE j -> 'name' END, false) AS j FROM further ORDER BY id;
SELECT column_name, state FROM custodian.explain_row('further', '{"id": 1}') WHERE state <> 'disposed';
CREATE TEMP TABLE before AS SELECT id, ctid AS place, f::text AS content FROM further f;
SET custodian.clock_offset = '1d';
SELECT * FROM custodian.preview('further');
SELECT * FROM custodian.sweep_now('further');
RESET custodian.clock_offset;
SELECT count(*) AS untouched FROM before JOIN further f USING (id) WHERE f.ctid = place AND f::text = content;

--
-- Unique constraints and indexes, over several columns, of a part of the rows, and exclusion constraints: a method that may make
-- equal what must differ is refused, and one that came before them is a finding
--
CREATE TABLE alone (id int PRIMARY KEY, a text, b text, c text, d int4range, e text, f text, clock date,
                    UNIQUE (a, b), EXCLUDE USING gist (d WITH &&), EXCLUDE (e WITH =) WHERE (id > 0));
CREATE UNIQUE INDEX ON alone (c) WHERE id > 0;
CREATE UNIQUE INDEX ON alone (lower(f));
SELECT custodian.tag_table('alone', clock => 'clock');
CREATE FUNCTION fit_alone(col text, method text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM custodian.tag_column('alone', col, 'user', '{shop.account}', on_expiry => method);
    RETURN 'fits';
EXCEPTION WHEN invalid_parameter_value THEN RETURN SQLERRM;
END $$;
SELECT col, method, fit_alone(col, method)
FROM unnest('{a,b,c,e,f}'::text[]) AS col, unnest('{"{\"constant\":\"x\"}","{\"prefix\":1}",set_null}'::text[]) AS method;
SELECT fit_alone('d', 'set_null');
INSERT INTO alone VALUES (1, 'a1', 'b', 'c1', '[1,2)', 'e1', 'f1', '2020-01-01'), (2, 'a2', 'b', 'c2', '[2,3)', 'e2', 'f2', '2020-01-01');
SELECT rows FROM custodian.sweep_now('alone');
SELECT * FROM alone ORDER BY id;
-- Later: what was right becomes wrong, and the cell is kept.
CREATE TABLE later (id int PRIMARY KEY, a text, b text, c text, d text, e text, f text, clock date);
SELECT custodian.tag_table('later', clock => 'clock');
SELECT count(custodian.tag_column('later', col, 'user', '{shop.account}', on_expiry => '{"constant":"x"}')) FROM unnest('{a,b,c,d,e,f}'::text[]) AS col;
INSERT INTO later VALUES (1, 'a', 'b', 'c', 'd', 'e', NULL, '2020-01-01');
SELECT count(*) FROM custodian.check() WHERE code = 'tag-unresolved' AND object LIKE 'public.later%';
CREATE UNIQUE INDEX ON later (a, b);
CREATE UNIQUE INDEX ON later (c) WHERE id > 0;
ALTER TABLE later ADD EXCLUDE (d WITH =);
CREATE TABLE named (name text PRIMARY KEY);
INSERT INTO named VALUES ('e');
ALTER TABLE later ADD FOREIGN KEY (e) REFERENCES named;
SELECT object, problem FROM custodian.check() WHERE code = 'tag-unresolved' AND object LIKE 'public.later%' ORDER BY 1;
SELECT column_name, state FROM custodian.explain_row('later', '{"id": 1}');
-- An identity, and a generated column, where a tag was
ALTER TABLE later ADD n int NOT NULL DEFAULT 1;
SELECT custodian.tag_column('later', 'n', 'user', '{shop.account}', on_expiry => '{"constant":"0"}');
ALTER TABLE later ALTER n DROP DEFAULT, ALTER n ADD GENERATED ALWAYS AS IDENTITY;
ALTER TABLE later DROP f, ADD f text GENERATED ALWAYS AS (upper(b)) STORED;
SELECT custodian.tag_column('later', 'f', 'user', '{shop.account}', on_expiry => '{"constant":"x"}');
SECURITY LABEL FOR custodian ON COLUMN later.f IS
    '{"category":"user","sensitivity":"personal","purposes":["shop.account"],"on_expiry":"set_null"}';
SELECT object, problem FROM custodian.check() WHERE code = 'tag-unresolved' AND object ~ 'later[.][fn]' ORDER BY 1;
SELECT * FROM custodian.sweep_now('later');
SELECT * FROM later;
DROP TABLE further, alone, later, named;

--
-- CHECK constraints and domains: decided where the server's own code can tell
--
CREATE TABLE checked (
    id int PRIMARY KEY,
    present text CHECK (present IS NOT NULL),
    either text, other text, CONSTRAINT one_of_them CHECK (either IS NOT NULL OR other IS NOT NULL),
    short text CHECK (char_length(short) < 5),
    listed text CONSTRAINT "a""list" CHECK (listed IN ('a', 'b')),
    lax text CHECK (lax IS NULL OR other = 'x'),
    volatile text CHECK (volatile <> now()::text),
    positive positive, clock date);
CREATE FUNCTION spy(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RAISE WARNING ''spy as %'', current_user; RETURN true; END';
ALTER TABLE checked ADD spied text CHECK (spy(spied));
SELECT custodian.tag_table('checked', clock => 'clock');
CREATE FUNCTION fit_checked(col text, method text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM custodian.tag_column('checked', col, 'user', '{shop.account}', on_expiry => method);
    RETURN 'fits' || coalesce((SELECT ', and ' || code FROM custodian.check() WHERE object = 'public.checked.' || col AND code = 'check-constraint'), '');
EXCEPTION WHEN invalid_parameter_value THEN RETURN SQLERRM;
END $$;
SELECT fit_checked('present', 'set_null');
SELECT fit_checked('present', '{"constant":"x"}');
SELECT fit_checked('either', 'set_null');
SELECT fit_checked('short', '{"constant":"gone"}');
SELECT fit_checked('short', '{"constant":"removed"}');
SELECT fit_checked('short', 'hmac');
SELECT fit_checked('listed', 'set_null');
SELECT fit_checked('listed', '{"constant":"c"}');
SELECT fit_checked('listed', '{"constant":"b"}');
SELECT fit_checked('lax', 'set_null');
SELECT fit_checked('lax', '{"constant":"c"}');
SELECT fit_checked('volatile', '{"constant":"c"}');
SELECT fit_checked('spied', 'set_null');
SELECT fit_checked('positive', 'set_null');
SELECT fit_checked('positive', '{"constant":"0"}');
SELECT fit_checked('positive', '{"constant":"7"}');
-- One that arrives later, on a partition or child too, makes the tag unresolved.
ALTER TABLE checked ADD CONSTRAINT later CHECK (listed <> 'b') NOT VALID;
CREATE TABLE checked_child (CHECK (short <> 'gone')) INHERITS (checked);
SELECT object, problem FROM custodian.check() WHERE code = 'tag-unresolved' ORDER BY 1;
INSERT INTO checked (id, present, either, listed, clock) VALUES (1, 'p', 'e', 'a', '2020-01-01');
SELECT column_name, state FROM custodian.explain_row('checked', '{"id":1}');
ALTER SYSTEM RESET custodian.max_disposal_fraction;
SELECT pg_reload_conf();
