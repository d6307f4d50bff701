-- Consents, claim defences and maximums: what they cover, what ends it, and who may say so.
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SET client_min_messages = warning;
CREATE EXTENSION pg_custodian;
CREATE ROLE consent_app;
CREATE ROLE consent_owner;
CREATE SCHEMA con AUTHORIZATION consent_owner;
GRANT USAGE ON SCHEMA con TO consent_app;
SET ROLE consent_owner;
CREATE TABLE con.device (id int PRIMARY KEY, model text);
CREATE TABLE con.customer (
    shop text,
    no int,
    device int REFERENCES con.device,
    seen_at timestamptz,
    email text,
    phone text,
    note text,
    PRIMARY KEY (shop, no)
);
INSERT INTO con.device VALUES (1, 'm1');
INSERT INTO con.customer VALUES
    ('a', 1, 1, '2021-01-01', 'e1', 'p1', 'n1'),
    ('a', 2, 1, '2021-01-01', 'e2', 'p2', 'n2'),
    ('b', 1, NULL, '2021-01-01', 'e3', 'p3', 'n3');
RESET ROLE;
SELECT custodian.define_purpose('con.mail', 'consent', '10 years', required => false);
SELECT custodian.define_purpose('con.account', 'contract', '1 year');
SET ROLE consent_owner;
SELECT custodian.tag_table('con.customer', clock => 'seen_at', subject_kind => 'customer', subject_key => '{shop,no}');
SELECT custodian.tag_column('con.customer', 'email', 'user.contact.email', '{con.mail}', on_expiry => 'set_null');
SELECT custodian.tag_column('con.customer', 'phone', 'user.contact.phone_number', '{con.account}', on_expiry => 'set_null');
SELECT custodian.tag_column('con.customer', 'note', 'user.content', '{con.mail}', on_expiry => 'set_null');
RESET ROLE;

-- To record consents is for applications that the DBA trusts with it.
SET ROLE consent_app;
SELECT custodian.record_consent('customer', '{a,1}', 'con.mail');
RESET ROLE;
GRANT EXECUTE ON FUNCTION custodian.record_consent, custodian.withdraw_consent TO consent_app;
SET ROLE consent_app;
SELECT custodian.record_consent('customer', '{a,0001}', 'con.mail', '2021-02-01', 'form 7');
SELECT custodian.withdraw_consent('customer', '{a,1}', 'con.mail', '2021-03-01');
SELECT custodian.record_consent('customer', '{b,1}', 'con.mail', '2021-02-01');
-- Mistakes change nothing.
SELECT custodian.record_consent('customer', '{a}', 'con.mail');
SELECT custodian.record_consent('customer', '{a,x}', 'con.mail');
SELECT custodian.record_consent('customer', '{a,NULL}', 'con.mail');
SELECT custodian.record_consent('robot', '{1}', 'con.mail');
SELECT custodian.record_consent('customer', '{a,1}', 'con.account');
SELECT custodian.record_consent('customer', '{a,1}', 'con.unknown');
SELECT custodian.record_consent('customer', '{a,1}', 'con.mail', 'infinity');
SELECT custodian.withdraw_consent('customer', '{a,1}', 'con.mail', now() + interval '1 day');
SELECT custodian.withdraw_consent('customer', '{a,1}', NULL);
-- Reading them is for stewards, and for sweeps.
SELECT * FROM custodian.consents;
SELECT * FROM custodian.consent;
SELECT custodian.sweep_consent('customer', 'con.mail', '{a,1}', now());
SELECT custodian.sweep_consents('customer', 'con.mail', '{a,1}');
RESET ROLE;
SELECT subject_kind, subject_key, purpose, granted_at, withdrawn_at, evidence, recorded_by = session_user AS by_session
FROM custodian.consents ORDER BY subject_key;

-- The owner of the table learns what a decision needs, and no more.
SET ROLE consent_owner;
SELECT column_names, action, reason, rows FROM custodian.preview('con.customer', '2021-06-01') ORDER BY 2, 3;
SELECT column_name, state, decided_by, until, explanation FROM custodian.explain_row('con.customer', '{"shop":"a","no":1}', '2021-02-15');
SELECT column_name, state, decided_by, until, explanation FROM custodian.explain_row('con.customer', '{"shop":"a","no":1}', '2021-06-01');
SELECT column_name, state, decided_by, until, explanation FROM custodian.explain_row('con.customer', '{"shop":"a","no":2}', '2021-06-01');
SELECT column_name, state, decided_by, until, explanation FROM custodian.explain_row('con.customer', '{"shop":"b","no":1}', '2021-06-01');
RESET ROLE;

-- Consent given again covers again; a withdrawal without a consent counts.
SELECT custodian.record_consent('customer', '{a,1}', 'con.mail', '2021-07-01');
SELECT custodian.withdraw_consent('customer', '{a,2}', 'con.mail', '2021-07-01');
SELECT column_names, action, reason, rows FROM custodian.preview('con.customer', '2021-08-01') ORDER BY 2, 3;
SELECT kind, object, detail ->> 'subject_kind' AS subject_kind, detail ? 'subject_digest' AS digest, detail ->> 'at' AS at
FROM custodian.ledger WHERE kind LIKE 'consent.%' ORDER BY entry;
SELECT count(*) FROM custodian.ledger WHERE detail::text LIKE '%{a,%';


-- A claim defence keeps, is told from a minimum, and does not run while it is suspended.
SELECT custodian.declare_defence('cn.claim', 'con.customer', '{phone}', '2 years', 'Civil Code art. 188');
SELECT custodian.require_minimum('cn.claim', 'con.customer', '{phone}', '2 years', 'Civil Code art. 188');
SELECT custodian.suspend_defence('cn.other');
SELECT custodian.resume_defence('cn.claim');
SELECT custodian.suspend_defence('cn.claim', '2022-06-01');
SELECT custodian.suspend_defence('cn.claim', '2022-07-01');
SELECT custodian.resume_defence('cn.claim', '2022-05-01');
SELECT name, defence, suspended_at FROM custodian.minimums;
SELECT column_name, state, decided_by, until, citation, explanation FROM custodian.explain_row('con.customer', '{"shop":"a","no":2}', '2023-02-01') WHERE column_name = 'phone';
SELECT custodian.resume_defence('cn.claim', '2022-06-11');
SELECT custodian.suspend_defence('cn.claim', '2022-06-11');
SELECT defence, suspended_at, resumed_at FROM custodian.suspensions;
SELECT column_name, state, decided_by, until, citation, explanation FROM custodian.explain_row('con.customer', '{"shop":"a","no":2}', '2023-01-01') WHERE column_name = 'phone';
SELECT state FROM custodian.explain_row('con.customer', '{"shop":"a","no":2}', '2023-01-11') WHERE column_name = 'phone';
SET ROLE consent_owner;
SELECT custodian.suspend_defence('cn.claim');
SELECT custodian.declare_defence('cn.claim2', 'con.customer', '{phone}', '2 years', 'x');
SELECT custodian.require_maximum('cn.max', 'con.customer', '{phone}', '2 years', 'x');
RESET ROLE;

-- A maximum ends every purpose, and no minimum: the conflict is told.
SELECT custodian.require_maximum('eu.max', 'con.customer', '{note}', '2 years', 'Law B, article 3');
SELECT custodian.require_maximum('eu.max', 'con.customer', '{note}', '3 years', 'Law B, article 3');
SELECT custodian.require_maximum('eu.max', 'con.customer', '{note}', '18 months', 'Law B, article 3');
SELECT name, period, citation FROM custodian.maximums;
SELECT column_name, state, decided_by, until, citation, explanation FROM custodian.explain_row('con.customer', '{"shop":"b","no":1}', '2022-08-01') WHERE column_name = 'note';
SELECT custodian.require_minimum('cn.min', 'con.customer', '{note}', '5 years', 'Law A, article 1');
SELECT column_name, state, decided_by, until, citation, explanation FROM custodian.explain_row('con.customer', '{"shop":"b","no":1}', '2022-08-01') WHERE column_name = 'note';
SELECT column_names, action, reason, rows FROM custodian.preview('con.customer', '2022-08-01') ORDER BY 2, 3;
SELECT severity, object, problem FROM custodian.check() WHERE code = 'maximum-below-minimum';

-- Devices are subjects too; a purpose by consent on a table that names no subject is a finding.
SELECT custodian.tag_table('con.device', clock => 'device_seen', subject_kind => 'device', subject_key => '{id}');
ALTER TABLE con.device ADD seen date DEFAULT '2021-01-01';
SELECT custodian.tag_table('con.device', clock => 'seen', null_clock => 'not_started');
SELECT custodian.tag_column('con.device', 'model', 'user.device', '{con.mail}', on_expiry => 'set_null');
SELECT severity, object, problem FROM custodian.check() WHERE code = 'consent-without-subject';
SELECT custodian.tag_table('con.device', clock => 'seen', null_clock => 'not_started', subject_kind => 'device', subject_key => '{id}');
SELECT custodian.withdraw_consent('device', '{1}', 'con.mail', '2021-02-01');
SELECT column_name, state, explanation FROM custodian.explain_row('con.device', '{"id":1}', '2021-03-01');
