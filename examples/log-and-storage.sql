-- A published privacy policy on account and log information, storage and region, clause by clause.
--
-- Every sentence of the policy that a database can keep is here as SQL that runs; those that this version cannot
-- keep yet are named as such (NOT YET). Where the policy names no period, the one below is an example of what its
-- owner would have to decide. This is no legal advice.
--
-- log-and-storage.json is the policy that this declares, as one document for custodian.apply_policy().

CREATE EXTENSION pg_custodian;

CREATE ROLE app_owner NOLOGIN;
CREATE SCHEMA app AUTHORIZATION app_owner;
SET ROLE app_owner;
CREATE TABLE app.account (
    id bigint PRIMARY KEY, telephone text, email text,
    registered_at timestamptz NOT NULL, last_seen_at timestamptz NOT NULL);
CREATE TABLE app.log (
    id bigint NOT NULL, account_id bigint NOT NULL REFERENCES app.account ON DELETE CASCADE,
    happened_at timestamptz NOT NULL, device text, cookie_id text, browsed text, clicked text,
    PRIMARY KEY (id, happened_at)) PARTITION BY RANGE (happened_at);
CREATE TABLE app.log_past PARTITION OF app.log FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE app.log_now PARTITION OF app.log DEFAULT;
INSERT INTO app.account VALUES
    (1, '13800000001', 'a@example.com', now() - interval '3 years', now() - interval '1 day'),
    (2, '13800000002', 'b@example.com', now() - interval '3 years', now() - interval '2 years');
INSERT INTO app.log VALUES
    (1, 1, now() - interval '1 day', 'phone', 'c-1', '/mountains', 'download'),
    (2, 1, now() - interval '100 days', 'phone', 'c-1', '/lakes', 'download'),
    (3, 2, now() - interval '2 years', 'tablet', 'c-2', '/cities', NULL);
RESET ROLE;

-- "Personal information refers to various personal information provided to us when you register your account or
-- use our services, such as telephone number, e-mail, etc."
SELECT custodian.define_purpose('app.account', 'contract', '1 year', description => 'the account');
SELECT custodian.tag_table('app.account', clock => 'last_seen_at', collected => 'registered_at',
    subject_kind => 'user', subject_key => '{id}', on_expiry => 'delete');
SELECT custodian.tag_column('app.account', 'telephone', 'user.contact.phone_number', '{app.account}',
    residency => '{cn}', on_expiry => 'set_null');
SELECT custodian.tag_column('app.account', 'email', 'user.contact.email', '{app.account}',
    residency => '{cn}', on_expiry => 'set_null');

-- "Log information … including your device information, browsing information and click information … to provide you
-- with personalized user experience and ensure service security."
--
-- Two purposes with two periods: what only the personalized experience needs goes first.
SELECT custodian.define_purpose('app.personalized', 'consent', '90 days', required => false,
    description => 'personalized user experience');
SELECT custodian.define_purpose('app.security', 'legal_obligation', '180 days', description => 'service security');
SELECT custodian.tag_table('app.log', clock => 'happened_at', collected => 'happened_at',
    subject_kind => 'user', subject_via => '{account_id}', on_expiry => 'delete');
SELECT custodian.tag_column('app.log', 'device', 'user.device', '{app.security,app.personalized}', residency => '{cn}');
SELECT custodian.tag_column('app.log', 'cookie_id', 'user.device.cookie_id', '{app.security,app.personalized}',
    residency => '{cn}', on_expiry => 'hmac');
SELECT custodian.tag_column('app.log', 'browsed', 'user.behavior.browsing_history', '{app.personalized}',
    residency => '{cn}', on_expiry => 'set_null');
SELECT custodian.tag_column('app.log', 'clicked', 'user.behavior', '{app.personalized}',
    residency => '{cn}', on_expiry => 'set_null');
-- "You can deny or manage the use of cookies, identifiers or related technologies": the purpose rests on consent, and ends
-- with it. Account 1 consented, and takes it back; what service security needs stays until its own time.
SELECT custodian.record_consent('user', '{1}', 'app.personalized', now() - interval '3 years');
DO $$
DECLARE
    due CONSTANT text := $q$ SELECT coalesce(sum(rows), 0) FROM custodian.preview('app.log')
                             WHERE action <> 'keep' AND 'browsed' = ANY (column_names) AND 'device' <> ALL (column_names) $q$;
    before bigint;
    after bigint;
BEGIN
    EXECUTE due INTO before;
    PERFORM custodian.withdraw_consent('user', '{1}', 'app.personalized', now() - interval '1 hour');
    EXECUTE due INTO after;
    -- Of account 1, what was browsed 100 days ago was due already; now that of yesterday is, too.
    IF before <> 1 OR after <> 2 THEN
        RAISE 'withdrawal is not kept: % before, % after', before, after;
    END IF;
END
$$;

-- 2.1 "We will store your information … including local storage …, database and server log."
-- The database's part. The server log is PostgreSQL's own: messages of the extension hold no personal values.

-- "Generally, we will only store your personal information within the time necessary to achieve the purpose of the
-- service or under the conditions specified by laws and regulations."
SELECT relation, column_names, action, reason, rows FROM custodian.preview() ORDER BY relation::text, action;

-- 2.2 "We will store the user's personal information collected in China in accordance with laws and regulations. At
-- present, we will not transmit or store your personal information across borders."
--
-- Residency {cn} on every column above; with the rules file of docs/dba.md and custodian.enforce = on, standbys,
-- backups, slots, subscriptions and reads from elsewhere are refused. A publication is refused whoever subscribes:
ALTER SYSTEM SET custodian.enforce_ddl = 'on';
SELECT pg_reload_conf();
SELECT pg_sleep(1);
DO $$
BEGIN
    CREATE PUBLICATION abroad FOR TABLE app.account;
    RAISE 'the publication should have been refused';
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'refused: %', SQLERRM;
END
$$;
-- "If cross-border transmission or storage is required in the future, we will inform you of the purpose, receiver,
-- security assurance measures and security risks …, and obtain your consent."
--
-- Such a transfer is put on record with these fields before anything may go. It opens nothing by itself: another steward
-- approves it, a lane is opened for it, and its publication sends only rows whose subject consented (docs/guard.md).
ALTER TABLE app.account ADD COLUMN agreed_abroad boolean NOT NULL DEFAULT false;
SELECT custodian.clear_column('app.account', 'agreed_abroad');
SELECT custodian.register_transfer('app.support_de',
    receiver => 'Example GmbH', contact => 'privacy@example.com', organisation => 'example', region => 'de',
    purposes => '{app.account}', categories => '{user.contact}', method => 'display to support staff',
    safeguards => 'standard contract of 2026-02-01', risks => 'assessment of 2026-01-15: low',
    rights_channel => 'https://example.com/rights', basis => 'consent', notice => 'notice of 2026-03-01',
    valid_until => now() + interval '1 year', consent_column => 'agreed_abroad', residencies => '{cn}');
DO $$
BEGIN
    CREATE PUBLICATION support FOR TABLE app.account (id, email);
    RAISE 'a transfer that nobody approved should open nothing';
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'refused: %', SQLERRM;
END
$$;

-- 2.3 "When the operation of our products or services stops, we will notify you …, and delete your personal
-- information or anonymize within a reasonable period of time, unless otherwise provided by laws and regulations."
--
-- Ending the purposes makes everything due that they covered; what a law keeps, stays. Notifying is not the
-- database's task.
BEGIN;
SELECT custodian.end_purpose('app.account');
SELECT custodian.end_purpose('app.personalized');
SELECT custodian.end_purpose('app.security');
SELECT relation, action, rows FROM custodian.preview() ORDER BY relation::text, action;
DO $$
BEGIN
    IF EXISTS (SELECT FROM custodian.explain_row('app.account', '{"id": 1}') WHERE state <> 'due') THEN
        RAISE 'the policy is not kept';
    END IF;
END
$$;
ROLLBACK;

-- "We only use these data ourselves and do not share them with any third party.": the rules file names the
-- organisation that runs each network; a peer of another organisation is refused.

-- "We may share your personal information in accordance with … the mandatory requirements of the competent
-- government departments … such as subpoena or investigation letter."
-- A hold keeps what a letter names, with its matter. NOT YET: a record of what was handed over.
CREATE ROLE legal LOGIN;
SELECT custodian.place_hold('2026-letter-4', approver => 'legal', review_on => current_date + 180,
    reason => 'investigation letter', subject_kind => 'user', subject_key => '{2}') > 0;
DO $$
BEGIN
    IF EXISTS (SELECT FROM custodian.explain_row('app.account', '{"id": 2}') WHERE state <> 'held') THEN
        RAISE 'the policy is not kept';
    END IF;
END
$$;
