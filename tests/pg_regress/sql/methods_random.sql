-- Methods on many random values of each type: a method leaves what it should, recognises all that it left, and so
-- leaves it alone.
CREATE EXTENSION pg_custodian;
ALTER SYSTEM SET custodian.max_disposal_fraction = 1;
SELECT pg_reload_conf();
\c -
SHOW custodian.max_disposal_fraction;
SET client_min_messages = warning;
CREATE EXTENSION citext;
SET TimeZone = 'UTC';
SELECT setseed(0.42);
-- Texts of hostile characters, of length 0 to 12
CREATE FUNCTION any_text() RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(string_agg(substr(E'ab*. \'"\\\n\t$%é中😀' || chr(127) || chr(1), 1 + (random() * 17)::int % 18, 1), ''), '')
    FROM generate_series(1, (random() * 12)::int) $$;
-- Numbers of every magnitude
CREATE FUNCTION any_number() RETURNS numeric LANGUAGE sql VOLATILE AS $$
    SELECT round(((random() - 0.5) * 10 ^ (random() * 18))::numeric, (random() * 4)::int) $$;
CREATE TABLE many (
    id int PRIMARY KEY, prefix text, mask text, masked_char char(12), masked_citext citext, pseudonym text, small smallint, big bigint,
    num numeric, num92 numeric(9,2), real real, float float8, day date, stamp timestamp, stamptz timestamptz(3), ip inet, net cidr, doc jsonb,
    clock date);
INSERT INTO many
SELECT n, any_text(), any_text(), any_text(), any_text(), any_text(), (any_number() % 32768)::smallint, (any_number() % 9000000000000000000)::bigint,
       any_number(), (any_number() % 9999999)::numeric(9,2), any_number()::real, any_number()::float8,
       date '2000-01-01' + (any_number() % 500000)::int, timestamp '2000-01-01' + (any_number() % 100000)::int * interval '1 day 1.5 seconds',
       timestamptz '2000-01-01' + (any_number() % 100000)::int * interval '1 day 1.5 seconds',
       CASE WHEN n % 2 = 0 THEN set_masklen(inet '0.0.0.0' + (random() * 4294967295)::bigint, (random() * 32)::int)
            ELSE set_masklen(inet '2001:db8::' + (random() * 1e18)::bigint, (random() * 128)::int) END,
       network(set_masklen(inet '0.0.0.0' + (random() * 4294967295)::bigint, (random() * 32)::int)),
       jsonb_build_object('text', any_text(), 'number', any_number(), 'gone', any_text(), 'any', CASE n % 5
           WHEN 0 THEN to_jsonb(any_number()) WHEN 1 THEN to_jsonb(any_text()) WHEN 2 THEN jsonb_build_array(any_text())
           WHEN 3 THEN jsonb_build_object('text', any_text()) ELSE 'true' END),
       '2020-01-01'
FROM generate_series(1, 3000) n;
CREATE TABLE was AS TABLE many;
SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
SELECT custodian.tag_table('many', clock => 'clock');
SELECT count(custodian.tag_column('many', t.name, 'user', '{shop.account}', on_expiry => t.method))
FROM (VALUES ('prefix', '{"prefix":3}'), ('mask', '{"mask":2}'), ('masked_char', '{"mask":2}'), ('masked_citext', '{"mask":2}'), ('pseudonym', 'hmac'),
             ('small', '{"generalize":7}'), ('big', '{"generalize":1000}'), ('num', '{"generalize":30}'), ('num92', '{"generalize":9}'),
             ('real', '{"generalize":10}'), ('float', '{"generalize":10}'), ('day', '{"truncate":"month"}'), ('stamp', '{"truncate":"year"}'),
             ('stamptz', '{"truncate":"month"}'), ('ip', 'network'), ('net', 'network')) AS t (name, method);
SELECT count(custodian.tag_column('many', 'doc', 'user', '{shop.account}', on_expiry => t.method, path => t.path))
FROM (VALUES ('{text}'::text[], '{"mask":1}'), ('{number}', '{"generalize":10}'), ('{gone}', 'set_null'), ('{any}', '{"prefix":2}')) AS t (path, method);
SELECT sum(rows) > 2900 AS swept FROM custodian.sweep_now('many');

-- Recognised, all of it
SELECT * FROM custodian.preview('many');
SELECT DISTINCT x.state FROM many m TABLESAMPLE SYSTEM (2) REPEATABLE (1), custodian.explain_row('many', jsonb_build_object('id', m.id)) x;

-- And what it should be
SELECT bool_and(m.prefix = left(w.prefix, 3)) AS prefix,
       bool_and(char_length(m.mask) = char_length(w.mask) AND rtrim(left(m.mask, -2), '*') = ''
                AND (CASE WHEN char_length(w.mask) > 2 THEN right(m.mask, 2) = right(w.mask, 2) ELSE rtrim(m.mask, '*') = '' END)) AS mask,
       bool_and(char_length(m.masked_char) = char_length(w.masked_char)) AS masked_char,
       bool_and(char_length(m.masked_citext::text) = char_length(w.masked_citext::text)) AS masked_citext,
       bool_and(m.pseudonym ~ '^ps1[.][0-9a-f]{8}[.][0-9a-f]{32}[.][0-9a-f]{16}$') AND count(DISTINCT m.pseudonym) = count(DISTINCT w.pseudonym) AS pseudonym,
       bool_and(m.small % 7 = 0 AND w.small - m.small BETWEEN 0 AND 6 OR m.small = -32768) AS small,
       bool_and(m.big % 1000 = 0 AND w.big - m.big BETWEEN 0 AND 999) AS big,
       bool_and(m.num % 30 = 0 AND w.num - m.num >= 0 AND w.num - m.num < 30) AS num,
       bool_and(m.num92 % 9 = 0 AND w.num92 - m.num92 >= 0 AND w.num92 - m.num92 < 9) AS num92,
       bool_and(CASE WHEN abs(w.real) < 16777216 THEN m.real::numeric % 10 = 0 OR abs(m.real) > 999990 ELSE m.real = w.real END) AS real,
       bool_and(CASE WHEN abs(w.float) < 9007199254740992 THEN m.float = floor(w.float / 10) * 10 ELSE m.float = w.float END) AS float,
       bool_and(m.day = date_trunc('month', w.day::timestamp)) AS day, bool_and(m.stamp = date_trunc('year', w.stamp)) AS stamp,
       bool_and(m.stamptz = date_trunc('month', w.stamptz, 'UTC')) AS stamptz,
       bool_and(m.ip >>= w.ip AND masklen(m.ip) = least(masklen(w.ip), CASE family(w.ip) WHEN 4 THEN 24 ELSE 48 END) AND m.ip = network(m.ip)) AS ip,
       bool_and(m.net >>= w.net AND masklen(m.net) = least(masklen(w.net), 24)) AS net,
       bool_and(NOT m.doc ? 'gone' AND (m.doc ->> 'number')::numeric % 10 = 0 AND char_length(m.doc ->> 'text') = char_length(w.doc ->> 'text')
                AND m.doc -> 'any' = to_jsonb(left(w.doc ->> 'any', 2))) AS doc
FROM many m JOIN was w USING (id) \gx
ALTER SYSTEM RESET custodian.max_disposal_fraction;
SELECT pg_reload_conf();
