-- Clocks: what a date, a timestamp and a timestamptz mean, whatever the session's time zone is; clocks in other tables;
-- keys of several columns, natural keys, no key; subjects that are devices.
SET client_min_messages = warning;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
CREATE EXTENSION pg_custodian;
CREATE SCHEMA clock;
CREATE ROLE clock_counsel;
SELECT custodian.define_purpose('app.day', 'contract', '1 day');
SELECT custodian.define_purpose('app.month', 'contract', '1 month');

-- Summer time began in New York on 2024-03-10 at 07:00 UTC: that local day had 23 hours.
CREATE TABLE clock.kinds (id int PRIMARY KEY, d date, t timestamp, z timestamptz, a text, b text, c text);
INSERT INTO clock.kinds VALUES (1, '2024-03-10', '2024-03-10 06:30', '2024-03-10 06:30Z', 'a', 'b', 'c');
SELECT custodian.tag_table('clock.kinds');
SELECT custodian.tag_column('clock.kinds', 'a', 'user.content', '{app.day}', clock => 'd', on_expiry => 'set_null');
SELECT custodian.tag_column('clock.kinds', 'b', 'user.content', '{app.day}', clock => 't', on_expiry => 'set_null');
SELECT custodian.tag_column('clock.kinds', 'c', 'user.content', '{app.day}', clock => 'z', on_expiry => 'set_null');
CREATE FUNCTION clock.due(as_of timestamptz) RETURNS text LANGUAGE sql AS $$
    SELECT COALESCE(string_agg(column_name, ',' ORDER BY column_name), 'none')
    FROM custodian.explain_row('clock.kinds', '{"id": 1}', as_of) WHERE state = 'due'
$$;
-- Each line is the same in every zone: a day is 24 hours, a date begins at 00:00 UTC, a timestamp is UTC.
SET TimeZone = 'UTC';
SELECT at, clock.due(at::timestamptz)
FROM (VALUES ('2024-03-10 23:59:59Z'), ('2024-03-11 00:00:00Z'), ('2024-03-11 06:29:59Z'), ('2024-03-11 06:30:00Z')) AS m (at);
SET TimeZone = 'America/New_York';
SELECT at, clock.due(at::timestamptz)
FROM (VALUES ('2024-03-10 23:59:59Z'), ('2024-03-11 00:00:00Z'), ('2024-03-11 06:29:59Z'), ('2024-03-11 06:30:00Z')) AS m (at);
SET TimeZone = 'Asia/Shanghai';
SELECT at, clock.due(at::timestamptz)
FROM (VALUES ('2024-03-10 23:59:59Z'), ('2024-03-11 00:00:00Z'), ('2024-03-11 06:29:59Z'), ('2024-03-11 06:30:00Z')) AS m (at);
SET TimeZone = 'Pacific/Apia';
SELECT at, clock.due(at::timestamptz)
FROM (VALUES ('2024-03-10 23:59:59Z'), ('2024-03-11 00:00:00Z'), ('2024-03-11 06:29:59Z'), ('2024-03-11 06:30:00Z')) AS m (at);
SET TimeZone = 'UTC';
-- A month is added to the date in UTC: 31 January and a month is 29 February, in a zone where it is still the 30th, too.
UPDATE clock.kinds SET z = '2024-01-31 01:00Z';
SELECT custodian.tag_column('clock.kinds', 'c', 'user.content', '{app.month}', clock => 'z', on_expiry => 'set_null');
SET TimeZone = 'America/New_York';
SELECT at, clock.due(at::timestamptz) FROM (VALUES ('2024-02-29 00:59:59Z'), ('2024-02-29 01:00:00Z')) AS m (at);
SET TimeZone = 'UTC';
-- A clock of another type is refused.
SELECT custodian.tag_column('clock.kinds', 'c', 'user.content', '{app.month}', clock => 'id', on_expiry => 'set_null');
SELECT custodian.tag_column('clock.kinds', 'c', 'user.content', '{app.month}', clock => 'nothing', on_expiry => 'set_null');

-- A clock over two ways to the same table: which one is to be said.
CREATE TABLE clock.address (country text, code text, left_at timestamptz, PRIMARY KEY (country, code));
CREATE TABLE clock.parcel (
    sender_country text, sender_code text, receiver_country text, receiver_code text, label text,
    CONSTRAINT sender FOREIGN KEY (sender_country, sender_code) REFERENCES clock.address,
    CONSTRAINT receiver FOREIGN KEY (receiver_country, receiver_code) REFERENCES clock.address
);
INSERT INTO clock.address VALUES ('CN', '100000', '2020-01-01Z'), ('CN', '200000', NULL);
INSERT INTO clock.parcel VALUES ('CN', '100000', 'CN', '200000', 'x'), ('CN', '200000', 'CN', '100000', 'y'), ('CN', '100000', NULL, NULL, 'x');
SELECT custodian.tag_table('clock.parcel', clock => 'address.left_at');
SELECT custodian.tag_table('clock.parcel', clock => 'sender.left_at', on_expiry => 'delete');
-- No primary key: rows are found all the same, equal ones both.
SELECT custodian.tag_column('clock.parcel', 'label', 'user.content', '{app.day}');
SELECT action, reason, rows FROM custodian.preview('clock.parcel', '2030-01-01Z') ORDER BY 1, 2;
SELECT column_name, state, until FROM custodian.explain_row('clock.parcel', '{"label": "y"}', '2030-01-01Z');
SELECT custodian.explain_row('clock.parcel', '{"label": "x"}', '2030-01-01Z');

-- A natural key of two columns says the subject, which is a device and nobody's account.
CREATE TABLE clock.device (vendor text, serial text, seen_at timestamptz NOT NULL, name text, PRIMARY KEY (vendor, serial));
CREATE TABLE clock.reading (vendor text, serial text, at timestamptz, place text,
                            FOREIGN KEY (vendor, serial) REFERENCES clock.device);
INSERT INTO clock.device VALUES ('v', '1', '2020-01-01Z', 'n'), ('v', '2', '2020-01-01Z', 'n');
INSERT INTO clock.reading VALUES ('v', '1', '2020-01-01Z', 'p'), ('v', '2', '2020-01-01Z', 'p'), ('v', '2', '2020-01-01Z', 'p');
SELECT custodian.tag_table('clock.device', clock => 'seen_at', subject_kind => 'device', subject_key => '{vendor,serial}', on_expiry => 'delete');
SELECT custodian.tag_column('clock.device', 'name', 'user.device', '{app.day}');
SELECT custodian.tag_table('clock.reading', clock => 'at', subject_kind => 'device', subject_via => '{vendor,serial}', on_expiry => 'delete');
SELECT custodian.tag_column('clock.reading', 'place', 'user.location', '{app.day}');
SELECT custodian.place_hold('D1', 'clock_counsel', '2100-01-01', 'a recall', subject_kind => 'device', subject_key => '{v,2}') AS hold \gset
SELECT relation, action, reason, rows FROM custodian.preview(NULL, '2030-01-01Z')
WHERE relation IN ('clock.device'::regclass, 'clock.reading'::regclass) ORDER BY relation::text, action, reason;
SELECT column_name, state, decided_by FROM custodian.explain_row('clock.device', '{"vendor": "v", "serial": "2"}', '2030-01-01Z');
SELECT custodian.release_hold(:hold, 'clock_counsel', 'over');

-- The clock is a superuser's to move, and moves for the session alone.
SET ROLE clock_counsel;
SET custodian.clock_offset = '1d';
RESET ROLE;
CREATE TABLE clock.moved (id int, at timestamptz, a text);
INSERT INTO clock.moved VALUES (1, now() - interval '23 hours', 'a');
SELECT custodian.tag_table('clock.moved', clock => 'at');
SELECT custodian.tag_column('clock.moved', 'a', 'user.content', '{app.day}', on_expiry => 'set_null');
SELECT state FROM custodian.explain_row('clock.moved', '{"id": 1}');
SET custodian.clock_offset = '2h';
SELECT state FROM custodian.explain_row('clock.moved', '{"id": 1}');
SELECT action, rows FROM custodian.preview('clock.moved');
\c -
SET client_min_messages = warning;
SELECT state FROM custodian.explain_row('clock.moved', '{"id": 1}');

DROP SCHEMA clock CASCADE;
DELETE FROM custodian.hold;
DROP EXTENSION pg_custodian;
DROP ROLE clock_counsel;
