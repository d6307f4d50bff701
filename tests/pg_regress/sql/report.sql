-- Reports: findings and waivers, the schedule of retention.
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SET client_min_messages = warning;
CREATE EXTENSION pg_custodian;
CREATE ROLE regress_report_owner;
CREATE ROLE regress_report_steward;
ALTER SYSTEM SET custodian.steward_role = 'regress_report_steward';
SELECT pg_reload_conf();
\c -
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SET client_min_messages = warning;
CREATE SCHEMA app AUTHORIZATION regress_report_owner;
SET ROLE regress_report_owner;
CREATE TABLE app.customer (id int PRIMARY KEY, email text, phone text, country text, seen timestamptz) PARTITION BY RANGE (id);
CREATE TABLE app.customer_1 PARTITION OF app.customer FOR VALUES FROM (0) TO (1000);
CREATE TABLE app.invoice (id int PRIMARY KEY, buyer text, issued date, paid date);
RESET ROLE;
SELECT custodian.define_purpose('shop.account', 'contract', '3 years');
SELECT custodian.define_purpose('shop.letters', 'consent', '1 year', 'eu', required => false);
SELECT custodian.define_purpose('shop.books', 'legal_obligation', '5 years');
SELECT custodian.tag_table('app.customer', clock => 'seen', on_expiry => 'delete');
SELECT custodian.tag_column('app.customer', 'email', 'user.contact.email', '{shop.account,shop.letters}', on_expiry => 'set_null');
SELECT custodian.tag_column('app.customer', 'phone', 'user.contact.phone_number', '{shop.account}');
SELECT custodian.tag_table('app.invoice', clock => 'issued');
SELECT custodian.tag_column('app.invoice', 'buyer', 'user.name', '{shop.books}', on_expiry => '{"prefix":1}');
SELECT custodian.require_minimum('cn.tax', 'app.invoice', '{buyer}', '10 years', 'Law A, article 1', clock => 'paid');
SELECT custodian.end_purpose('shop.letters', '2020-01-01');

SET ROLE regress_report_owner;
SELECT relation, column_name, category, sensitivity, rule, name, period, clock, basis, jurisdiction, citation, disposal, ended_at
FROM custodian.retention_schedule ORDER BY 1, 2, 5, 6;
RESET ROLE;

-- A finding, and who may waive it
SELECT custodian.define_purpose('shop.more', 'consent', '1 year');
SELECT severity, code, object FROM custodian.check() WHERE code = 'consent-required';
SET ROLE regress_report_owner;
SELECT custodian.waive('consent-required', 'shop.more', 'known', 'regress_report_owner', now() + '1 day');
SELECT * FROM custodian.waivers;
SELECT * FROM custodian.waiver;
SELECT * FROM custodian.check_all();
SELECT custodian.revoke_waiver(1, 'why not');
SET ROLE regress_report_steward;
SELECT custodian.waive('consent-required', 'shop.more', 'known', 'regress_report_nobody', now() + '1 day');
SELECT custodian.waive('consent-required', 'shop.more', ' ', 'regress_report_owner', now() + '1 day');
SELECT custodian.waive('consent-required', 'shop.more', 'known', 'regress_report_owner', NULL);
SELECT custodian.waive('consent-required', 'shop.more', 'known', 'regress_report_owner', now());
SELECT custodian.waive('consent-required', 'shop.more', 'known', 'regress_report_owner', 'infinity');
SELECT custodian.waive('consent-required', 'shop.more', 'known', 'regress_report_owner', now() + '367 days');
SELECT custodian.waive('consent-required', 'shop.none', 'known', 'regress_report_owner', now() + '1 day');
SELECT custodian.waive('consent-required', 'shop.more', 'known', 'regress_report_owner', now() + '10 days') AS waiver \gset
SELECT custodian.waive('consent-required', 'shop.more', 'again', 'regress_report_owner', now() + '1 day');
SELECT code, object, reason, owner, waived_by = session_user AS waived_by, revoked_at FROM custodian.waivers;
SELECT count(*) FROM custodian.check() WHERE code = 'consent-required';
SELECT object, owner, waived_until > now() AS until FROM custodian.check_all() WHERE code = 'consent-required';

-- It is back when the waiver expires, and when it is revoked.
RESET ROLE;
SET custodian.clock_offset = '11d';
SELECT count(*) FROM custodian.check() WHERE code = 'consent-required';
SELECT custodian.revoke_waiver(:waiver, 'too late');
RESET custodian.clock_offset;
SELECT count(*) FROM custodian.check() WHERE code = 'consent-required';
SELECT custodian.revoke_waiver(:waiver, NULL);
SELECT custodian.revoke_waiver(NULL, 'fixed');
SELECT custodian.revoke_waiver(-1, 'fixed');
SELECT custodian.revoke_waiver(:waiver, 'fixed');
SELECT custodian.revoke_waiver(:waiver, 'fixed');
SELECT count(*) FROM custodian.check() WHERE code = 'consent-required';
SELECT kind, object, detail - 'expires' - 'waiver' AS detail FROM custodian.ledger WHERE kind LIKE 'finding.%' ORDER BY entry;

-- Maximums and claim defences are in the schedule. Tags and rows that do not say where their data may be
SELECT custodian.require_maximum('cn.log', 'app.customer', '{email}', '6 months', 'Law B, article 2');
SELECT custodian.declare_defence('cn.claims', 'app.invoice', '{buyer}', '3 years', 'Civil Code, article 188', clock => 'issued');
SELECT column_name, rule, name, period, clock, citation FROM custodian.retention_schedule
WHERE rule IN ('maximum', 'defence') ORDER BY 1, 2;
SELECT custodian.tag_table('app.customer', clock => 'seen', on_expiry => 'delete', residency_column => 'country');
INSERT INTO app.customer SELECT n, n, n, CASE WHEN n > 250 THEN 'cn' END, now() FROM generate_series(1, 999) n;
ANALYZE app.customer;
SELECT severity, code, object, problem FROM custodian.check() WHERE code LIKE 'residency-%' ORDER BY code;
