-- From version 0.1.0 to 0.2.0. Whatever changes the SQL surface is added here too, in the same words as in the files
-- that a new installation runs: functions as `cargo pgrx schema` writes them. The test of upgrades compares an upgraded
-- database with a new one, object by object.
--
-- Tables get their columns at the end: a new column of an existing table stands last in bootstrap.sql as well.

SET LOCAL search_path = pg_catalog, pg_temp;

-- Lawful bases
CREATE TABLE custodian.lawful_basis (
    jurisdiction  text NOT NULL CHECK (jurisdiction ~ '^[a-z0-9_]+$'),
    basis         text NOT NULL CHECK (basis ~ '^[a-z0-9_]+$'),
    valid_from    date NOT NULL CHECK (isfinite(valid_from)),
    valid_to      date CHECK (isfinite(valid_to) AND valid_to > valid_from),
    consent_based boolean NOT NULL,
    citation      text NOT NULL,
    meaning       text NOT NULL,
    seeded        boolean NOT NULL DEFAULT false,
    recorded_at   timestamptz, -- NULL: it came with the extension
    PRIMARY KEY (jurisdiction, basis, valid_from, seeded)
);
COMMENT ON TABLE custodian.lawful_basis IS 'versions of lawful bases: the one with the latest valid_from counts; seeded ones come with the extension';
ALTER TABLE custodian.lawful_basis ENABLE ROW LEVEL SECURITY;
SELECT pg_catalog.pg_extension_config_dump('custodian.lawful_basis', 'WHERE NOT seeded');

INSERT INTO custodian.lawful_basis (jurisdiction, basis, valid_from, consent_based, citation, meaning, seeded) VALUES
    ('cn', 'consent', '2021-11-01', true, 'PIPL art. 13(1)(1)', 'the individual consented', true),
    ('cn', 'separate_consent', '2021-11-01', true, 'PIPL art. 13(1)(1) with art. 29', 'the individual consented separately, as for sensitive personal data', true),
    ('cn', 'guardian_consent', '2021-11-01', true, 'PIPL art. 13(1)(1) with art. 31', 'a parent or other guardian of a minor under 14 consented', true),
    ('cn', 'contract', '2021-11-01', false, 'PIPL art. 13(1)(2)', 'necessary to conclude or perform a contract with the individual, or for human resources management under lawful rules', true),
    ('cn', 'legal_obligation', '2021-11-01', false, 'PIPL art. 13(1)(3)', 'necessary for statutory duties or obligations', true),
    ('cn', 'emergency', '2021-11-01', false, 'PIPL art. 13(1)(4)', 'necessary in a public health emergency, or to protect life, health or property in an emergency', true),
    ('cn', 'public_interest', '2021-11-01', false, 'PIPL art. 13(1)(5)', 'news reporting and supervision by public opinion, within reason', true),
    ('cn', 'disclosed', '2021-11-01', false, 'PIPL art. 13(1)(6)', 'disclosed by the individual, or otherwise lawfully, within reason', true),
    ('cn', 'other_law', '2021-11-01', false, 'PIPL art. 13(1)(7)', 'another case provided by law or administrative regulation', true),
    ('eu', 'consent', '2018-05-25', true, 'GDPR art. 6(1)(a)', 'the data subject consented', true),
    ('eu', 'explicit_consent', '2018-05-25', true, 'GDPR art. 6(1)(a) with art. 9(2)(a)', 'the data subject consented explicitly, as for special categories of personal data', true),
    ('eu', 'contract', '2018-05-25', false, 'GDPR art. 6(1)(b)', 'necessary for a contract with the data subject, or for steps before one at the subject''s request', true),
    ('eu', 'legal_obligation', '2018-05-25', false, 'GDPR art. 6(1)(c)', 'necessary for a legal obligation of the controller', true),
    ('eu', 'vital_interests', '2018-05-25', false, 'GDPR art. 6(1)(d)', 'necessary to protect the vital interests of a person', true),
    ('eu', 'public_task', '2018-05-25', false, 'GDPR art. 6(1)(e)', 'necessary for a task in the public interest or official authority', true),
    ('eu', 'legitimate_interests', '2018-05-25', false, 'GDPR art. 6(1)(f)', 'necessary for legitimate interests that the subject''s do not override', true),
    ('gb', 'consent', '2021-01-01', true, 'UK GDPR art. 6(1)(a)', 'the data subject consented', true),
    ('gb', 'explicit_consent', '2021-01-01', true, 'UK GDPR art. 6(1)(a) with art. 9(2)(a)', 'the data subject consented explicitly, as for special categories of personal data', true),
    ('gb', 'contract', '2021-01-01', false, 'UK GDPR art. 6(1)(b)', 'necessary for a contract with the data subject, or for steps before one at the subject''s request', true),
    ('gb', 'legal_obligation', '2021-01-01', false, 'UK GDPR art. 6(1)(c)', 'necessary for a legal obligation of the controller', true),
    ('gb', 'vital_interests', '2021-01-01', false, 'UK GDPR art. 6(1)(d)', 'necessary to protect the vital interests of a person', true),
    ('gb', 'public_task', '2021-01-01', false, 'UK GDPR art. 6(1)(e)', 'necessary for a task in the public interest or official authority', true),
    ('gb', 'legitimate_interests', '2021-01-01', false, 'UK GDPR art. 6(1)(f)', 'necessary for legitimate interests that the subject''s do not override', true);

CREATE VIEW custodian.lawful_bases AS
SELECT DISTINCT ON (b.jurisdiction, b.basis, b.valid_from)
       b.jurisdiction, b.basis, b.citation, b.meaning, b.consent_based, b.valid_from, b.valid_to, b.seeded,
       b.recorded_at
FROM custodian.lawful_basis b
ORDER BY b.jurisdiction, b.basis, b.valid_from, b.seeded;
COMMENT ON VIEW custodian.lawful_bases IS 'lawful bases by jurisdiction; of several versions the one with the latest valid_from that has come counts';

CREATE VIEW custodian.lawful_basis_versions AS
SELECT b.jurisdiction, b.basis, b.citation, b.meaning, b.consent_based, b.valid_from, b.valid_to, b.seeded, b.recorded_at
FROM custodian.lawful_basis b;
COMMENT ON VIEW custodian.lawful_basis_versions IS 'all versions of lawful bases on record, also one that came with the extension and that a steward''s of the same valid_from has replaced';

CREATE FUNCTION custodian."define_lawful_basis"(
	"jurisdiction" TEXT,
	"basis" TEXT,
	"citation" TEXT,
	"consent_based" bool,
	"meaning" TEXT DEFAULT NULL,
	"valid_from" date DEFAULT NULL,
	"valid_to" date DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'define_lawful_basis_wrapper';

REVOKE ALL ON custodian.lawful_basis, custodian.lawful_bases, custodian.lawful_basis_versions FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.define_lawful_basis(text, text, text, boolean, text, date, date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.define_lawful_basis(text, text, text, boolean, text, date, date) TO PUBLIC;
GRANT SELECT ON custodian.lawful_bases, custodian.lawful_basis_versions TO PUBLIC;

-- Findings and waivers, and the columns of the schedule of retention
CREATE FUNCTION custodian."check_all"() RETURNS TABLE (
	"severity" TEXT,
	"code" TEXT,
	"object" TEXT,
	"problem" TEXT,
	"remedy" TEXT,
	"waiver" bigint,
	"owner" TEXT,
	"waived_until" timestamp with time zone
)
STRICT
LANGUAGE c
AS 'MODULE_PATHNAME', 'check_all_wrapper';

CREATE FUNCTION custodian."revoke_waiver"(
	"waiver" bigint,
	"reason" TEXT
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'revoke_waiver_wrapper';

CREATE FUNCTION custodian."waive"(
	"code" TEXT,
	"object" TEXT,
	"reason" TEXT,
	"owner" TEXT,
	"expires" timestamp with time zone
) RETURNS bigint
LANGUAGE c
AS 'MODULE_PATHNAME', 'waive_wrapper';

CREATE FUNCTION custodian."scheduled_columns"() RETURNS TABLE (
	"relation" oid,
	"column_name" TEXT,
	"category" TEXT,
	"sensitivity" TEXT,
	"rule" TEXT,
	"name" TEXT,
	"clock" TEXT,
	"on_expiry" TEXT
)
STRICT STABLE
LANGUAGE c
AS 'MODULE_PATHNAME', 'scheduled_columns_wrapper';

CREATE TABLE custodian.waiver (
    waiver        bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    code          text NOT NULL,
    object        text NOT NULL,
    reason        text NOT NULL,
    owner         text NOT NULL,
    expires_at    timestamptz NOT NULL CHECK (isfinite(expires_at)),
    waived_at     timestamptz NOT NULL DEFAULT now(),
    waived_by     text NOT NULL DEFAULT session_user,
    revoked_at    timestamptz,
    revoked_by    text,
    revoke_reason text
);
COMMENT ON TABLE custodian.waiver IS 'findings that a steward took off the list of custodian.check() until a day';
ALTER TABLE custodian.waiver ENABLE ROW LEVEL SECURITY;
SELECT pg_catalog.pg_extension_config_dump('custodian.waiver', '');
SELECT pg_catalog.pg_extension_config_dump('custodian.waiver_waiver_seq', '');

CREATE VIEW custodian.waivers WITH (security_barrier) AS
SELECT w.waiver, w.code, w.object, w.reason, w.owner, w.expires_at, w.waived_at, w.waived_by, w.revoked_at, w.revoked_by,
       w.revoke_reason
FROM custodian.waiver w
WHERE custodian.require_steward('read waivers');
COMMENT ON VIEW custodian.waivers IS 'waived findings, the revoked and expired ones too: for stewards';

REVOKE ALL ON custodian.waiver, custodian.waivers FROM PUBLIC;
REVOKE ALL ON SEQUENCE custodian.waiver_waiver_seq FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.check_all() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.revoke_waiver(bigint, text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.scheduled_columns() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.waive(text, text, text, text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.check_all() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.revoke_waiver(bigint, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.scheduled_columns() TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.waive(text, text, text, text, timestamptz) TO PUBLIC;
GRANT SELECT ON custodian.waivers TO PUBLIC;

-- Paths inside documents
DROP FUNCTION custodian.tag_column(regclass, text, text, text[], text, text[], text, text);
CREATE FUNCTION custodian."tag_column"(
	"rel" regclass,
	"column_name" TEXT,
	"category" TEXT,
	"purposes" TEXT[],
	"sensitivity" TEXT DEFAULT 'personal',
	"residency" TEXT[] DEFAULT NULL,
	"on_expiry" TEXT DEFAULT NULL,
	"clock" TEXT DEFAULT NULL,
	"path" TEXT[] DEFAULT NULL,
	"tls" bool DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'tag_column_or_path_wrapper';
DROP FUNCTION custodian.untag_column(regclass, text);
CREATE FUNCTION custodian."untag_column"(
	"rel" regclass,
	"column_name" TEXT,
	"path" TEXT[] DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'untag_column_or_path_wrapper';
REVOKE EXECUTE ON FUNCTION custodian.tag_column(regclass, text, text, text[], text, text[], text, text, text[], boolean),
                           custodian.untag_column(regclass, text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.tag_column(regclass, text, text, text[], text, text[], text, text, text[], boolean) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.untag_column(regclass, text, text[]) TO PUBLIC;

-- Subscriptions that the row guard disabled
CREATE TABLE custodian.stopped_subscription (
    subscription oid PRIMARY KEY,
    stopped_at   timestamptz NOT NULL DEFAULT now(),
    relation     text NOT NULL,
    hold         bigint,
    matter       text,
    minimum      text
);
COMMENT ON TABLE custodian.stopped_subscription IS 'subscriptions that were disabled, since they would have changed kept rows';
ALTER TABLE custodian.stopped_subscription ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON custodian.stopped_subscription FROM PUBLIC;

-- Transfers and lanes
CREATE TABLE custodian.transfer (
    transfer        text PRIMARY KEY CHECK (transfer ~ '^[a-z0-9_]+(\.[a-z0-9_]+)+$'),
    receiver        text NOT NULL,
    contact         text NOT NULL,
    organisation    text NOT NULL,
    region          text NOT NULL,
    purposes        text[] NOT NULL,
    categories      text[] NOT NULL,
    method          text NOT NULL,
    safeguards      text NOT NULL,
    risks           text NOT NULL,
    rights_channel  text NOT NULL,
    basis           text NOT NULL,
    notice          text NOT NULL,
    valid_until     timestamptz NOT NULL,
    consent_column  text,
    residencies     text[] NOT NULL,
    registered_by   text NOT NULL DEFAULT session_user,
    registered_at   timestamptz NOT NULL DEFAULT now(),
    approved_by     text,
    approved_at     timestamptz,
    approval_reason text,
    revoked_by      text,
    revoked_at      timestamptz,
    revoke_reason   text,
    CHECK (approved_by <> registered_by),
    CHECK ((approved_by IS NULL) = (approved_at IS NULL))
);
COMMENT ON TABLE custodian.transfer IS 'movements of data to another region or organisation, with all that must be on record before';

CREATE TABLE custodian.lane (
    lane            bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    transfer        text NOT NULL,
    role            text NOT NULL,
    network         inet,
    issuer          text,
    database        text NOT NULL,
    slot            text NOT NULL,
    plugin          text NOT NULL,
    publications    text[] NOT NULL,
    opened_by       text NOT NULL DEFAULT session_user,
    opened_at       timestamptz NOT NULL DEFAULT now(),
    closed_by       text,
    closed_at       timestamptz,
    close_reason    text,
    sent_until      pg_lsn,
    recall_notice   text,
    CHECK (network IS NOT NULL OR issuer IS NOT NULL)
);
COMMENT ON TABLE custodian.lane IS 'technical openings for transfers; sent_until is what the receiver had confirmed when the lane was closed';

SELECT pg_catalog.pg_extension_config_dump('custodian.transfer', '');
SELECT pg_catalog.pg_extension_config_dump('custodian.lane', '');
SELECT pg_catalog.pg_extension_config_dump('custodian.lane_lane_seq', '');

ALTER TABLE custodian.transfer ENABLE ROW LEVEL SECURITY;
ALTER TABLE custodian.lane ENABLE ROW LEVEL SECURITY;

CREATE VIEW custodian.transfers WITH (security_barrier) AS
SELECT t.transfer,
       CASE WHEN t.revoked_at IS NOT NULL THEN 'revoked'
            WHEN t.valid_until <= pg_catalog.now() THEN 'expired'
            WHEN t.approved_at IS NULL THEN 'registered'
            ELSE 'approved' END AS state,
       t.receiver, t.contact, t.organisation, t.region, t.purposes, t.categories, t.method, t.safeguards, t.risks,
       t.rights_channel, t.basis, t.notice, t.valid_until, t.consent_column, t.residencies, t.registered_by,
       t.registered_at, t.approved_by, t.approved_at, t.approval_reason, t.revoked_by, t.revoked_at, t.revoke_reason
FROM ONLY custodian.transfer t
WHERE custodian.require_steward('read transfers');
COMMENT ON VIEW custodian.transfers IS 'transfers with all that is on record about them: for stewards';

CREATE VIEW custodian.lanes WITH (security_barrier) AS
SELECT l.lane, l.transfer,
       CASE WHEN l.closed_at IS NOT NULL THEN 'closed'
            WHEN l.database <> pg_catalog.current_database() THEN 'foreign'
            WHEN t.approved_at IS NOT NULL AND t.revoked_at IS NULL AND t.valid_until > pg_catalog.now() THEN 'open'
            ELSE 'suspended' END AS state,
       l.role, l.network, l.issuer, l.database, l.slot, l.plugin, l.publications, l.opened_by, l.opened_at, l.closed_by,
       l.closed_at, l.close_reason, l.sent_until, l.recall_notice
FROM ONLY custodian.lane l LEFT JOIN ONLY custodian.transfer t ON t.transfer = l.transfer
WHERE custodian.require_steward('read lanes');
COMMENT ON VIEW custodian.lanes IS 'openings for transfers; suspended: the transfer has expired; foreign: made for a database of another name. For stewards';

CREATE FUNCTION custodian."approve_transfer"(
	"transfer" TEXT,
	"reason" TEXT
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'approve_transfer_wrapper';

CREATE FUNCTION custodian."close_lane"(
	"lane" bigint,
	"reason" TEXT,
	"recall_notice" TEXT DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'close_lane_wrapper';

CREATE FUNCTION custodian."open_lane"(
	"transfer" TEXT,
	"role_name" TEXT,
	"slot" TEXT,
	"publications" TEXT[],
	"network" inet DEFAULT NULL,
	"issuer" TEXT DEFAULT NULL,
	"database" TEXT DEFAULT NULL,
	"plugin" TEXT DEFAULT 'pgoutput'
) RETURNS bigint
LANGUAGE c
AS 'MODULE_PATHNAME', 'open_lane_wrapper';

CREATE FUNCTION custodian."publication_filter"(
	"rel" regclass,
	"transfer" TEXT
) RETURNS TEXT
STABLE
LANGUAGE c
AS 'MODULE_PATHNAME', 'publication_filter_wrapper';

CREATE FUNCTION custodian."register_transfer"(
	"transfer" TEXT,
	"receiver" TEXT,
	"contact" TEXT,
	"organisation" TEXT,
	"region" TEXT,
	"purposes" TEXT[],
	"categories" TEXT[],
	"method" TEXT,
	"safeguards" TEXT,
	"risks" TEXT,
	"rights_channel" TEXT,
	"basis" TEXT,
	"notice" TEXT,
	"valid_until" timestamp with time zone,
	"consent_column" TEXT DEFAULT NULL,
	"residencies" TEXT[] DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'register_transfer_wrapper';

CREATE FUNCTION custodian."revoke_transfer"(
	"transfer" TEXT,
	"reason" TEXT,
	"recall_notice" TEXT DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'revoke_transfer_wrapper';

REVOKE ALL ON custodian.transfer, custodian.lane, custodian.transfers, custodian.lanes FROM PUBLIC;
REVOKE ALL ON SEQUENCE custodian.lane_lane_seq FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.approve_transfer(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.approve_transfer(text, text) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.close_lane(bigint, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.close_lane(bigint, text, text) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.open_lane(text, text, text, text[], inet, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.open_lane(text, text, text, text[], inet, text, text, text) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.publication_filter(regclass, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.publication_filter(regclass, text) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.register_transfer(text, text, text, text, text, text[], text[], text, text, text, text, text, text, timestamptz, text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.register_transfer(text, text, text, text, text, text[], text[], text, text, text, text, text, text, timestamptz, text, text[]) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.revoke_transfer(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.revoke_transfer(text, text, text) TO PUBLIC;
GRANT SELECT ON custodian.lanes, custodian.transfers TO PUBLIC;

-- Rotation of keys
ALTER TABLE custodian.key_ref ADD COLUMN rotated_at timestamptz;
CREATE FUNCTION custodian."rotate_pseudonym_key"() RETURNS TEXT
STRICT
LANGUAGE c
AS 'MODULE_PATHNAME', 'rotate_pseudonym_key_wrapper';
REVOKE EXECUTE ON FUNCTION custodian.rotate_pseudonym_key() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.rotate_pseudonym_key() TO PUBLIC;

-- Finding personal data
CREATE FUNCTION custodian."review_coverage"(
	"rel" regclass DEFAULT NULL,
	"sample_rows" INT DEFAULT 0
) RETURNS TABLE (
	"relation" regclass,
	"columns" bigint,
	"tagged" bigint,
	"cleared" bigint,
	"unreviewed" bigint,
	"looks_personal" bigint,
	"personal_columns" TEXT[]
)
LANGUAGE c
AS 'MODULE_PATHNAME', 'review_coverage_wrapper';

CREATE FUNCTION custodian."suggest_tags"(
	"rel" regclass,
	"sample_rows" INT DEFAULT 1000
) RETURNS TABLE (
	"column_name" TEXT,
	"category" TEXT,
	"sensitivity" TEXT,
	"state" TEXT,
	"evidence" TEXT,
	"matched" bigint,
	"sampled" bigint,
	"ratio" double precision,
	"suggestion" TEXT
)
LANGUAGE c
AS 'MODULE_PATHNAME', 'suggest_tags_wrapper';

CREATE VIEW custodian.coverage AS
SELECT c.relation, c.columns, c.tagged, c.cleared, c.unreviewed, c.looks_personal, c.personal_columns
FROM custodian.review_coverage() c;
COMMENT ON VIEW custodian.coverage IS 'how far the columns of each table were reviewed, and which of the others look personal by name, type or comment';

REVOKE ALL ON custodian.coverage FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.review_coverage(regclass, integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.suggest_tags(regclass, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.review_coverage(regclass, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.suggest_tags(regclass, integer) TO PUBLIC;
GRANT SELECT ON custodian.coverage TO PUBLIC;

-- What laws demand beside minimums: suspensions of claim defences, and maximums
-- No foreign key to minimums: a restore with several jobs loads them in any order.
CREATE TABLE custodian.suspension (
    minimum      text NOT NULL,
    suspended_at timestamptz NOT NULL CHECK (isfinite(suspended_at)),
    resumed_at   timestamptz CHECK (isfinite(resumed_at) AND resumed_at >= suspended_at),
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    recorded_by  text NOT NULL DEFAULT session_user,
    PRIMARY KEY (minimum, suspended_at)
);
COMMENT ON TABLE custodian.suspension IS 'when the period of a claim defence did not run';

CREATE TABLE custodian.maximum (
    name       text PRIMARY KEY CHECK (name ~ '^[a-z0-9_]+(\.[a-z0-9_]+)+$'),
    period     interval NOT NULL CHECK (period > '0'),
    citation   text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE custodian.maximum IS 'laws that limit for how long purposes cover a cell';

ALTER TABLE custodian.suspension ENABLE ROW LEVEL SECURITY;
ALTER TABLE custodian.maximum ENABLE ROW LEVEL SECURITY;
SELECT pg_catalog.pg_extension_config_dump('custodian.suspension', '');
SELECT pg_catalog.pg_extension_config_dump('custodian.maximum', '');

CREATE VIEW custodian.suspensions AS
SELECT s.minimum AS defence, s.suspended_at, s.resumed_at, s.recorded_at, s.recorded_by
FROM custodian.suspension s;
COMMENT ON VIEW custodian.suspensions IS 'when the periods of claim defences did not run';

CREATE VIEW custodian.maximums AS
SELECT m.name, m.period, m.citation, m.created_at, m.created_by
FROM custodian.maximum m;
COMMENT ON VIEW custodian.maximums IS 'laws that limit for how long purposes cover a cell';

-- Publications whose subscribers dispose by themselves. No personal values.

CREATE TABLE custodian.subscriber_disposal (
    publication name PRIMARY KEY,
    reason      text NOT NULL,
    declared_by text NOT NULL DEFAULT session_user,
    declared_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE custodian.subscriber_disposal IS 'publications whose subscribers dispose by themselves, so that partitions may be dropped without a DELETE that tells them';
ALTER TABLE custodian.subscriber_disposal ENABLE ROW LEVEL SECURITY;
SELECT pg_catalog.pg_extension_config_dump('custodian.subscriber_disposal', '');

CREATE VIEW custodian.subscriber_disposals AS
SELECT d.publication, d.reason, d.declared_by, d.declared_at
FROM custodian.subscriber_disposal d;
COMMENT ON VIEW custodian.subscriber_disposals IS 'publications whose subscribers dispose by themselves, as a steward declared';

CREATE FUNCTION custodian."declare_subscriber_disposal"(
	"publication" TEXT,
	"reason" TEXT
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'declare_subscriber_disposal_wrapper';

CREATE FUNCTION custodian."withdraw_subscriber_disposal"(
	"publication" TEXT
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'withdraw_subscriber_disposal_wrapper';

REVOKE ALL ON custodian.subscriber_disposal, custodian.subscriber_disposals FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.declare_subscriber_disposal(text, text), custodian.withdraw_subscriber_disposal(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.declare_subscriber_disposal(text, text), custodian.withdraw_subscriber_disposal(text) TO PUBLIC;
GRANT SELECT ON custodian.subscriber_disposals TO PUBLIC;

ALTER TABLE custodian.minimum ADD COLUMN enforcement text NOT NULL DEFAULT 'refuse' CHECK (enforcement IN ('refuse', 'warn'));

CREATE OR REPLACE VIEW custodian.minimums AS
SELECT m.name, m.period, m.citation, m.defence,
       (SELECT s.suspended_at FROM custodian.suspension s
        WHERE s.minimum OPERATOR(pg_catalog.=) m.name AND s.resumed_at IS NULL
        ORDER BY s.suspended_at LIMIT 1) AS suspended_at,
       m.created_at, m.created_by, m.enforcement
FROM custodian.minimum m;
COMMENT ON VIEW custodian.minimums IS 'laws that forbid destruction before a date, and claim defences';

-- Consents of subjects
-- The order of the first columns is known to src/subject/lend.rs, which reads the table by its index: so text compares
-- by bytes.
CREATE TABLE custodian.consent (
    subject_kind text COLLATE pg_catalog."C" NOT NULL,
    subject_key  text[] COLLATE pg_catalog."C" NOT NULL,
    purpose      text COLLATE pg_catalog."C" NOT NULL,
    granted_at   timestamptz NOT NULL CHECK (isfinite(granted_at)),
    withdrawn_at timestamptz CHECK (isfinite(withdrawn_at) AND withdrawn_at >= granted_at),
    evidence     text,
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    recorded_by  text NOT NULL DEFAULT session_user,
    PRIMARY KEY (purpose, subject_kind, subject_key, granted_at)
);
COMMENT ON TABLE custodian.consent IS 'when subjects gave and withdrew consent to purposes';
CREATE INDEX consent_withdrawn ON custodian.consent (purpose, subject_kind, subject_key) WHERE withdrawn_at IS NOT NULL;
ALTER TABLE custodian.consent ENABLE ROW LEVEL SECURITY;
SELECT pg_catalog.pg_extension_config_dump('custodian.consent', '');

CREATE VIEW custodian.consents WITH (security_barrier) AS
SELECT c.subject_kind, c.subject_key, c.purpose, c.granted_at, c.withdrawn_at, c.evidence, c.recorded_at, c.recorded_by
FROM custodian.consent c
WHERE custodian.require_steward('read consents');
COMMENT ON VIEW custodian.consents IS 'consents, the withdrawn ones too. It shows subject keys: for stewards';

CREATE FUNCTION custodian."record_consent"(
	"kind" TEXT,
	"key" TEXT[],
	"purpose" TEXT,
	"at" timestamp with time zone DEFAULT NULL,
	"evidence" TEXT DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'record_consent_wrapper';

CREATE FUNCTION custodian."withdraw_consent"(
	"kind" TEXT,
	"key" TEXT[],
	"purpose" TEXT,
	"at" timestamp with time zone DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'withdraw_consent_wrapper';

CREATE FUNCTION custodian."sweep_consent"(
	"kind" TEXT,
	"purpose" TEXT,
	"key" TEXT[],
	"at" timestamp with time zone
) RETURNS TEXT
STRICT STABLE PARALLEL UNSAFE  COST 20
LANGUAGE c
AS 'MODULE_PATHNAME', 'sweep_consent_wrapper';

CREATE FUNCTION custodian."sweep_consents"(
	"kind" TEXT,
	"purpose" TEXT,
	"key" TEXT[]
) RETURNS TEXT
STRICT STABLE PARALLEL UNSAFE  COST 20
LANGUAGE c
AS 'MODULE_PATHNAME', 'sweep_consents_wrapper';

CREATE FUNCTION custodian."declare_defence"(
	"name" TEXT,
	"rel" regclass,
	"columns" TEXT[],
	"period" interval,
	"citation" TEXT,
	"clock" TEXT DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'declare_defence_wrapper';

CREATE FUNCTION custodian."suspend_defence"(
	"name" TEXT,
	"at" timestamp with time zone DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'suspend_defence_wrapper';

CREATE FUNCTION custodian."resume_defence"(
	"name" TEXT,
	"at" timestamp with time zone DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'resume_defence_wrapper';

CREATE FUNCTION custodian."enforce_minimum"(
	"name" TEXT,
	"enforcement" TEXT
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'enforce_minimum_wrapper';

CREATE FUNCTION custodian."require_maximum"(
	"name" TEXT,
	"rel" regclass,
	"columns" TEXT[],
	"period" interval,
	"citation" TEXT,
	"clock" TEXT DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'require_maximum_wrapper';

REVOKE ALL ON custodian.consent, custodian.consents, custodian.suspension, custodian.suspensions, custodian.maximum,
    custodian.maximums FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.record_consent(text, text[], text, timestamptz, text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.withdraw_consent(text, text[], text, timestamptz) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.sweep_consent(text, text, text[], timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.sweep_consent(text, text, text[], timestamptz) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.sweep_consents(text, text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.sweep_consents(text, text, text[]) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.declare_defence(text, regclass, text[], interval, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.declare_defence(text, regclass, text[], interval, text, text) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.suspend_defence(text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.suspend_defence(text, timestamptz) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.resume_defence(text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.resume_defence(text, timestamptz) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.enforce_minimum(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.enforce_minimum(text, text) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.require_maximum(text, regclass, text[], interval, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.require_maximum(text, regclass, text[], interval, text, text) TO PUBLIC;
GRANT SELECT ON custodian.consents, custodian.suspensions, custodian.maximums TO PUBLIC;

-- What is overdue, counted now; the view of what the worker found is below, after what it reads
CREATE FUNCTION custodian."overdue_now"(
	"rel" regclass DEFAULT NULL
) RETURNS TABLE (
	"relation" regclass,
	"column_names" TEXT[],
	"action" TEXT,
	"rows" bigint,
	"overdue_since" timestamp with time zone,
	"why" TEXT
)
LANGUAGE c
AS 'MODULE_PATHNAME', 'overdue_now_wrapper';

REVOKE EXECUTE ON FUNCTION custodian.overdue_now(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.overdue_now(regclass) TO PUBLIC;

-- The policy as one document, and as it was at every epoch
CREATE TABLE custodian.policy_record (
    kind     text NOT NULL,
    name     text NOT NULL,
    epoch    bigint NOT NULL,
    document jsonb,
    PRIMARY KEY (kind, name, epoch)
);
COMMENT ON TABLE custodian.policy_record IS 'declared things as they were from an epoch on, in the words and names of that time; without a document: gone';
ALTER TABLE custodian.policy_record ENABLE ROW LEVEL SECURITY;

CREATE FUNCTION custodian."export_policy"() RETURNS jsonb
STRICT STABLE
LANGUAGE c
AS 'MODULE_PATHNAME', 'export_policy_wrapper';

CREATE FUNCTION custodian."apply_policy"(
	"policy" jsonb,
	"dry_run" bool DEFAULT true
) RETURNS TABLE (
	"object" TEXT,
	"change" TEXT,
	"before" jsonb,
	"after" jsonb,
	"loosens" bool
)
LANGUAGE c
AS 'MODULE_PATHNAME', 'apply_policy_wrapper';

CREATE FUNCTION custodian."policy_as_of"(
	"at" timestamp with time zone
) RETURNS jsonb
STABLE
LANGUAGE c
AS 'MODULE_PATHNAME', 'policy_as_of_wrapper';

CREATE FUNCTION custodian."policy_of_epoch"(
	"epoch" bigint
) RETURNS jsonb
STABLE
LANGUAGE c
AS 'MODULE_PATHNAME', 'policy_of_epoch_wrapper';

CREATE FUNCTION custodian."record_policy"() RETURNS bigint
STRICT
LANGUAGE c
AS 'MODULE_PATHNAME', 'record_policy_wrapper';

REVOKE ALL ON custodian.policy_record FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.export_policy(), custodian.apply_policy(jsonb, boolean),
    custodian.policy_as_of(timestamptz), custodian.policy_of_epoch(bigint), custodian.record_policy() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.export_policy(), custodian.apply_policy(jsonb, boolean),
    custodian.policy_as_of(timestamptz), custodian.policy_of_epoch(bigint), custodian.record_policy() TO PUBLIC;

CREATE FUNCTION custodian."simulate"(
	"policy" jsonb
) RETURNS TABLE (
	"relation" regclass,
	"column_names" TEXT[],
	"action" TEXT,
	"reason" TEXT,
	"rows_now" bigint,
	"rows_then" bigint
)
LANGUAGE c
AS 'MODULE_PATHNAME', 'simulate_wrapper';

CREATE FUNCTION custodian."estimate_preview"(
	"rel" regclass DEFAULT NULL,
	"as_of" timestamp with time zone DEFAULT NULL
) RETURNS TABLE (
	"relation" regclass,
	"column_names" TEXT[],
	"action" TEXT,
	"reason" TEXT,
	"rows" bigint,
	"estimated" bool
)
LANGUAGE c
AS 'MODULE_PATHNAME', 'estimate_preview_wrapper';

REVOKE EXECUTE ON FUNCTION custodian.simulate(jsonb), custodian.estimate_preview(regclass, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.simulate(jsonb), custodian.estimate_preview(regclass, timestamptz) TO PUBLIC;

-- A parallel restore loads holds and the names of held tables in any order.
ALTER TABLE custodian.hold DROP CONSTRAINT hold_relation_fkey;

-- The schedule of retention
CREATE VIEW custodian.retention_schedule AS
SELECT s.relation::pg_catalog.regclass AS relation, s.column_name, s.category, s.sensitivity,
       CASE WHEN m.defence THEN 'defence' ELSE s.rule END AS rule,
       s.name,
       coalesce(p.period, m.period, x.period) AS period,
       s.clock,
       p.basis,
       p.jurisdiction,
       coalesce(b.citation, m.citation, x.citation) AS citation,
       s.on_expiry AS disposal,
       p.ended_at
FROM custodian.scheduled_columns() s
LEFT JOIN custodian.purposes p ON s.rule = 'purpose' AND p.name = s.name
LEFT JOIN custodian.minimum m ON s.rule = 'minimum' AND m.name = s.name
LEFT JOIN custodian.maximum x ON s.rule = 'maximum' AND x.name = s.name
LEFT JOIN LATERAL (
    SELECT v.citation FROM custodian.lawful_basis v
    WHERE v.jurisdiction = p.jurisdiction AND v.basis = p.basis AND v.valid_from <= CURRENT_DATE
    ORDER BY v.valid_from DESC, v.seeded LIMIT 1) b ON true;
COMMENT ON VIEW custodian.retention_schedule IS 'each tagged column with each purpose, minimum, claim defence and maximum that its tag names: for how long, from which clock, on which basis or law, and what becomes of it. period is NULL for a name that is not defined';

REVOKE ALL ON custodian.retention_schedule FROM PUBLIC;
GRANT SELECT ON custodian.retention_schedule TO PUBLIC;

-- What was in force, from when to when
CREATE TABLE custodian.enforcement (
    span                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    began_at            timestamptz NOT NULL,
    seen_at             timestamptz NOT NULL,
    disposal            text NOT NULL,
    enforce_login       text NOT NULL,
    enforce_replication text NOT NULL,
    enforce_ddl         text NOT NULL,
    enforce_access      text NOT NULL,
    minimum_guard       text NOT NULL,
    armed               boolean NOT NULL,
    enforce_settings    text NOT NULL
);
COMMENT ON TABLE custodian.enforcement IS 'what was in force from when to when, as the scheduler saw it';
ALTER TABLE custodian.enforcement ENABLE ROW LEVEL SECURITY;

CREATE VIEW custodian.enforcement_uptime AS
SELECT e.began_at,
       e.seen_at AS until,
       true AS working,
       e.disposal, e.enforce_login, e.enforce_replication, e.enforce_ddl, e.enforce_access, e.minimum_guard, e.armed,
       e.enforce_settings
FROM custodian.enforcement e
UNION ALL
SELECT g.seen_at, g.next_at, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM (SELECT e.seen_at, lead(e.began_at) OVER (ORDER BY e.span) AS next_at FROM custodian.enforcement e) g
WHERE g.next_at > g.seen_at
ORDER BY 1, 2;
COMMENT ON VIEW custodian.enforcement_uptime IS 'periods and what was in force in them; working is false where no scheduler with the library was there. Exact to ten minutes at the end of a period';

REVOKE ALL ON custodian.enforcement, custodian.enforcement_uptime FROM PUBLIC;
REVOKE ALL ON SEQUENCE custodian.enforcement_span_seq FROM PUBLIC;
GRANT SELECT ON custodian.enforcement_uptime TO PUBLIC;

-- Dependents that go with their rows
CREATE FUNCTION custodian."declare_dependents"(
	"rel" regclass,
	"dependents" TEXT[]
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'declare_dependents_wrapper';
REVOKE EXECUTE ON FUNCTION custodian.declare_dependents(regclass, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.declare_dependents(regclass, text[]) TO PUBLIC;

-- Watermarks and what lowers them
ALTER TABLE custodian.watermark ADD COLUMN generation bigint NOT NULL DEFAULT 0,
    ADD COLUMN again jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN again_at timestamptz NOT NULL DEFAULT '-infinity',
    -- Relations whose rows kept rows of the leaf; NULL: not known.
    ADD COLUMN referring oid[];

CREATE TABLE custodian.reopening (
    reopening    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation     oid NOT NULL,
    -- The rows whose column, which is some table's clock, lies between these; NULL: has no value, or an infinite one.
    clock        text,
    low          timestamptz,
    high         timestamptz,
    cause        text NOT NULL,
    at           timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE custodian.reopening IS 'relations of which rows that sweeps have passed may be due: those with such values of a clock, or all';
ALTER TABLE custodian.reopening ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON custodian.reopening, custodian.reopening_reopening_seq FROM PUBLIC;

-- Triggers of the extension call it for rows that are written with a clock in the past; to fire they need no EXECUTE
-- privilege.
CREATE FUNCTION custodian.late_row() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'custodian_late_row';
COMMENT ON FUNCTION custodian.late_row() IS 'has a table looked at again from where a row was written behind its watermark';

CREATE VIEW custodian.watermarks AS
SELECT w.leaf::pg_catalog.regclass AS leaf,
       nullif(w.cutoff, '-infinity') AS swept_until,
       nullif(w.audited_at, '-infinity') AS audited_at,
       nullif(w.audited_at, '-infinity')
           + pg_catalog.current_setting('custodian.audit_interval', true)::pg_catalog.interval AS next_audit_at,
       -- After INSERT and after UPDATE.
       (SELECT pg_catalog.bit_or(t.tgtype::integer) & 20 = 20 FROM pg_catalog.pg_trigger t
        WHERE t.tgrelid = w.leaf AND t.tgfoid = 'custodian.late_row()'::pg_catalog.regprocedure AND t.tgenabled = 'A') IS TRUE
       -- After UPDATE, DELETE and TRUNCATE of what keeps rows.
       AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_class c
           WHERE c.oid = ANY (w.referring)
             AND (SELECT pg_catalog.bit_or(t.tgtype::integer) & 56 = 56 FROM pg_catalog.pg_trigger t
                  WHERE t.tgrelid = c.oid AND t.tgfoid = 'custodian.late_row()'::pg_catalog.regprocedure AND t.tgenabled = 'A') IS NOT TRUE
       ) AS watched
FROM custodian.watermark w
WHERE (w.cutoff > '-infinity' OR w.audited_at > '-infinity') AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = w.leaf);
COMMENT ON VIEW custodian.watermarks IS 'up to where each table or partition was swept, when everything in it was last looked at, and whether triggers watch for rows written behind that; leaves that have not been swept are not listed';

REVOKE EXECUTE ON FUNCTION custodian.late_row() FROM PUBLIC;
GRANT SELECT ON custodian.watermarks TO PUBLIC;

-- Rows that could not be disposed of
CREATE TABLE custodian.quarantine (
    leaf            oid NOT NULL,
    columns         text[] NOT NULL,
    action          text NOT NULL,
    tid             tid NOT NULL,
    sqlstate        text NOT NULL,
    relation_name   text,
    constraint_name text,
    failures        integer NOT NULL DEFAULT 1,
    first_tried_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_tried_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    retry_at        timestamptz NOT NULL,
    PRIMARY KEY (leaf, columns, action, tid)
);
COMMENT ON TABLE custodian.quarantine IS 'rows that could not be disposed of, until they are tried again';
ALTER TABLE custodian.quarantine ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON custodian.quarantine FROM PUBLIC;

CREATE VIEW custodian.quarantined_rows AS
SELECT q.leaf::pg_catalog.regclass AS leaf, q.tid, q.columns, q.action, q.sqlstate, q.relation_name, q.constraint_name,
       q.failures, q.first_tried_at, q.last_tried_at, q.retry_at
FROM custodian.quarantine q
WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = q.leaf);
COMMENT ON VIEW custodian.quarantined_rows IS 'rows that are due and could not be disposed of: where each lies (ctid), the SQLSTATE, relation and constraint of the error, and when it is tried again; never a value';
GRANT SELECT ON custodian.quarantined_rows TO PUBLIC;

-- Pauses, and what stops disposal by itself
-- What the last round noted of the server's circumstances: one row.
CREATE TABLE custodian.heartbeat (
    one               boolean PRIMARY KEY DEFAULT true CHECK (one),
    round_at          timestamptz NOT NULL,
    boot              text,
    uptime            bigint NOT NULL,
    system_identifier bigint NOT NULL,
    timeline          bigint NOT NULL,
    directory         text,
    ledger_block      bigint,
    ledger_hash       bytea
);
COMMENT ON TABLE custodian.heartbeat IS 'clock, boot, timeline, data directory and head of the ledger at the last round, by which jumps and restores are told';

CREATE TABLE custodian.pause (
    relation  oid PRIMARY KEY, -- 0 is every table
    cause     text NOT NULL,
    reason    text NOT NULL,
    paused_by text NOT NULL DEFAULT session_user,
    paused_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE custodian.pause IS 'tables whose disposal a steward has paused, or the scheduler by itself';
ALTER TABLE custodian.heartbeat ENABLE ROW LEVEL SECURITY;
CREATE INDEX obstacle_run ON custodian.obstacle (run_id);
CREATE INDEX run_finished ON custodian.run ((coalesce(finished_at, 'infinity')));
CREATE INDEX run_open ON custodian.run (run_id) WHERE state IN ('waiting', 'approved', 'running', 'interrupted');
ALTER TABLE custodian.pause ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON custodian.heartbeat, custodian.pause FROM PUBLIC;

CREATE VIEW custodian.pauses AS
SELECT CASE WHEN p.relation <> 0 THEN p.relation::pg_catalog.regclass END AS relation, p.cause, p.reason, p.paused_by, p.paused_at
FROM custodian.pause p;
COMMENT ON VIEW custodian.pauses IS 'pauses of disposal that are in force; relation is NULL for every table, cause is not "paused" where the scheduler stopped by itself';
GRANT SELECT ON custodian.pauses TO PUBLIC;

CREATE FUNCTION custodian."pause"(
	"reason" TEXT,
	"rel" regclass DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'pause_wrapper';
CREATE FUNCTION custodian."resume"(
	"reason" TEXT,
	"rel" regclass DEFAULT NULL
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'resume_wrapper';
REVOKE EXECUTE ON FUNCTION custodian.pause(text, regclass), custodian.resume(text, regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.pause(text, regclass), custodian.resume(text, regclass) TO PUBLIC;

-- The rules file, and break-glass
CREATE FUNCTION custodian."break_glass"(
	"reason" TEXT,
	"second_person" TEXT,
	"duration" interval
) RETURNS VOID
LANGUAGE c
AS 'MODULE_PATHNAME', 'break_glass_wrapper';

CREATE FUNCTION custodian."check_rules"(
	"rules" TEXT
) RETURNS TABLE (
	"line_number" INT,
	"error" TEXT
)
IMMUTABLE STRICT PARALLEL SAFE
LANGUAGE c
AS 'MODULE_PATHNAME', 'check_rules_wrapper';

CREATE FUNCTION custodian."end_break_glass"() RETURNS VOID
STRICT
LANGUAGE c
AS 'MODULE_PATHNAME', 'end_break_glass_wrapper';

CREATE FUNCTION custodian."suggest_rules"() RETURNS TABLE (
	"line" TEXT,
	"why" TEXT,
	"events" bigint
)
STRICT
LANGUAGE c
AS 'MODULE_PATHNAME', 'suggest_rules_wrapper';

REVOKE EXECUTE ON FUNCTION custodian.break_glass(text, text, interval) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.check_rules(text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.end_break_glass() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.suggest_rules() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.check_rules(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.suggest_rules() TO PUBLIC;

CREATE FUNCTION custodian."read_region_files"() RETURNS TABLE (
	"line_number" INT,
	"kind" TEXT,
	"arguments" TEXT[],
	"region" TEXT,
	"organisation" TEXT,
	"error" TEXT,
	"loaded" bool,
	"file_name" TEXT
)
STRICT STABLE PARALLEL RESTRICTED
LANGUAGE c
AS 'MODULE_PATHNAME', 'read_region_files_wrapper';
CREATE OR REPLACE VIEW custodian.region_rules AS
    SELECT line_number, kind AS type, arguments, region, organisation, error, loaded, file_name
    FROM custodian.read_region_files();
COMMENT ON VIEW custodian.region_rules IS 'each line of the region rules file, and of files that it includes, as it is now, with what is wrong with it and whether it is in force';
DROP FUNCTION custodian.read_region_rules();
REVOKE EXECUTE ON FUNCTION custodian.read_region_files() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.read_region_files() TO PUBLIC;

CREATE FUNCTION custodian."settings_gate"() RETURNS TEXT
STRICT STABLE
LANGUAGE c
AS 'MODULE_PATHNAME', 'settings_gate_wrapper';
CREATE OR REPLACE VIEW custodian.status AS
SELECT s.*, custodian.settings_gate() AS enforce_settings FROM custodian.status_row() s;
REVOKE EXECUTE ON FUNCTION custodian.settings_gate() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.settings_gate() TO PUBLIC;

CREATE FUNCTION custodian."would_end"(
	"rules" TEXT DEFAULT NULL
) RETURNS TABLE (
	"flow" TEXT,
	"pid" INT,
	"role" TEXT,
	"peer" TEXT,
	"reason" TEXT
)
LANGUAGE c
AS 'MODULE_PATHNAME', 'would_end_wrapper';
REVOKE EXECUTE ON FUNCTION custodian.would_end(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.would_end(text) TO PUBLIC;

-- Erasures of subjects, whom the digest names only for whoever has its key. The order of columns and the collation are
-- known to src/subject/lend_erasures.rs, which reads the table by its index.
CREATE TABLE custodian.erasure (
    subject_kind text COLLATE pg_catalog."C" NOT NULL,
    digest       text COLLATE pg_catalog."C" NOT NULL,
    erased_at    timestamptz NOT NULL CHECK (isfinite(erased_at)),
    epoch        bigint NOT NULL,
    reason       text NOT NULL,
    erased_by    text NOT NULL DEFAULT session_user,
    PRIMARY KEY (subject_kind, digest, erased_at)
);
COMMENT ON TABLE custodian.erasure IS 'which subjects were erased and when, each as a keyed digest of its kind and key';
ALTER TABLE custodian.erasure ENABLE ROW LEVEL SECURITY;
SELECT pg_catalog.pg_extension_config_dump('custodian.erasure', '');

CREATE VIEW custodian.erasures WITH (security_barrier) AS
SELECT e.subject_kind, e.digest, e.erased_at, e.epoch, e.reason, e.erased_by
FROM custodian.erasure e
WHERE custodian.require_steward('read erasures');
COMMENT ON VIEW custodian.erasures IS 'erasures of subjects, each named by a keyed digest: for stewards';

-- What the last look for data of erased subjects found. It is about this database: no dump carries it.
CREATE TABLE custodian.erasure_look (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    looked_at timestamptz NOT NULL,
    tables    jsonb NOT NULL
);
COMMENT ON TABLE custodian.erasure_look IS 'when data of erased subjects was last looked for, and how many rows there were by table';
ALTER TABLE custodian.erasure_look ENABLE ROW LEVEL SECURITY;

CREATE FUNCTION custodian."erase_subject"(
	"kind" TEXT,
	"key" TEXT[],
	"reason" TEXT
) RETURNS TABLE (
	"relation" regclass,
	"column_names" TEXT[],
	"action" TEXT,
	"reason" TEXT,
	"rows" bigint,
	"until" timestamp with time zone,
	"citation" TEXT
)
LANGUAGE c
AS 'MODULE_PATHNAME', 'erase_subject_wrapper';

CREATE FUNCTION custodian."preview_erasure"(
	"kind" TEXT,
	"key" TEXT[]
) RETURNS TABLE (
	"relation" regclass,
	"column_names" TEXT[],
	"action" TEXT,
	"reason" TEXT,
	"rows" bigint,
	"until" timestamp with time zone,
	"citation" TEXT
)
LANGUAGE c
AS 'MODULE_PATHNAME', 'preview_erasure_wrapper';

CREATE FUNCTION custodian."repeat_erasures"() RETURNS TABLE (
	"relation" regclass,
	"column_names" TEXT[],
	"action" TEXT,
	"reason" TEXT,
	"rows" bigint,
	"until" timestamp with time zone,
	"citation" TEXT
)
STRICT
LANGUAGE c
AS 'MODULE_PATHNAME', 'repeat_erasures_wrapper';

CREATE FUNCTION custodian."find_returned"() RETURNS TABLE (
	"relation" regclass,
	"rows" bigint
)
STRICT
LANGUAGE c
AS 'MODULE_PATHNAME', 'find_returned_wrapper';

CREATE FUNCTION custodian."sweep_erased"(
	"kind" TEXT,
	"key" TEXT[],
	"began" timestamp with time zone[],
	"at" timestamp with time zone
) RETURNS bool
STRICT STABLE PARALLEL UNSAFE  COST 30
LANGUAGE c
AS 'MODULE_PATHNAME', 'sweep_erased_wrapper';

CREATE FUNCTION custodian."sweep_erasures"(
	"kind" TEXT,
	"key" TEXT[]
) RETURNS TEXT
STRICT STABLE PARALLEL UNSAFE  COST 30
LANGUAGE c
AS 'MODULE_PATHNAME', 'sweep_erasures_wrapper';

REVOKE ALL ON custodian.erasure, custodian.erasures, custodian.erasure_look FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.sweep_erased(text, text[], timestamptz[], timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.sweep_erased(text, text[], timestamptz[], timestamptz) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.sweep_erasures(text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.sweep_erasures(text, text[]) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.erase_subject(text, text[], text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.preview_erasure(text, text[]) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.repeat_erasures() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.repeat_erasures() TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.find_returned() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.find_returned() TO PUBLIC;
GRANT SELECT ON custodian.erasures TO PUBLIC;

-- Pace and progress of sweeps
CREATE TABLE custodian.backlog (
    relation      oid PRIMARY KEY,
    plan          text NOT NULL,
    overdue_since timestamptz NOT NULL,
    measured_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE custodian.backlog IS 'tables of which rows are due, and since when the oldest of them, by the plan it was measured for';
ALTER TABLE custodian.backlog ENABLE ROW LEVEL SECURITY;
CREATE TABLE custodian.counter (
    name          text NOT NULL,
    relation_name text NOT NULL,
    label         text NOT NULL,
    value         double precision NOT NULL,
    PRIMARY KEY (name, relation_name, label)
);
COMMENT ON TABLE custodian.counter IS 'sums that only grow, by table, for custodian.metrics';
ALTER TABLE custodian.counter ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON custodian.backlog, custodian.counter FROM PUBLIC;

ALTER TABLE custodian.run
    ADD COLUMN wal_bytes bigint NOT NULL DEFAULT 0,
    ADD COLUMN waited interval NOT NULL DEFAULT '0',
    ADD COLUMN waits_for text,
    ADD COLUMN at_leaf text,
    ADD COLUMN at_action text,
    ADD COLUMN blocks_done bigint,
    ADD COLUMN blocks_total bigint,
    ADD COLUMN day date,
    ADD COLUMN rows_of_day bigint NOT NULL DEFAULT 0,
    ADD COLUMN phase text,
    ADD COLUMN retries bigint NOT NULL DEFAULT 0;
ALTER TABLE custodian.run_item
    ADD COLUMN way text,
    ADD COLUMN passed_to bigint,
    ADD COLUMN filenode oid,
    ADD COLUMN root oid;

CREATE OR REPLACE VIEW custodian.runs AS
SELECT r.run_id,
       (SELECT c.oid FROM pg_catalog.pg_class c WHERE c.oid = r.relation)::pg_catalog.regclass AS relation,
       r.relation_name,
       r.state,
       r.cutoff,
       r.epoch,
       r.reason,
       r.rows_planned,
       r.rows_done,
       r.table_rows,
       r.batches,
       (SELECT count(*) FROM custodian.obstacle o WHERE o.run_id = r.run_id) AS obstacles,
       r.sqlstate,
       r.planned_at,
       r.started_at,
       r.finished_at,
       r.approved_by,
       r.approved_at,
       r.approval_reason,
       r.wal_bytes,
       r.waited,
       (SELECT pg_catalog.string_agg(i.way, E'\n' ORDER BY i.item) FROM custodian.run_item i WHERE i.run_id = r.run_id) AS way,
       r.retries,
       coalesce(r.finished_at, CASE WHEN r.state = 'running' THEN clock_timestamp() END) - r.started_at AS duration
FROM custodian.run r;
COMMENT ON VIEW custodian.runs IS 'sweeps of one table each: observed, waiting for approval, running, done; relation is NULL when the table is gone; the duration is from the first start to the end, or until now while it runs, with waits and interruptions';

CREATE OR REPLACE VIEW custodian.run_items AS
SELECT i.run_id, i.item, i.leaf, i.columns, i.action, i.reason, i.planned, i.done, i.way
FROM custodian.run_item i;
COMMENT ON VIEW custodian.run_items IS 'what a run does on one leaf: rows planned and rows done, and which way it goes over the leaf, and why';

CREATE VIEW custodian.progress AS
SELECT r.run_id,
       (SELECT c.oid FROM pg_catalog.pg_class c WHERE c.oid = r.relation)::pg_catalog.regclass AS relation,
       r.relation_name,
       r.state,
       CASE WHEN r.waits_for IS NOT NULL THEN 'waiting' ELSE coalesce(r.phase, 'starting') END AS phase,
       r.at_leaf AS leaf,
       r.at_action AS action,
       r.blocks_done,
       r.blocks_total,
       r.rows_planned,
       r.rows_done,
       r.rows_done / nullif(extract(epoch FROM clock_timestamp() - r.started_at), 0)::double precision AS rows_per_second,
       greatest(
           CASE WHEN r.rows_done > 0 THEN clock_timestamp() + (clock_timestamp() - r.started_at)
               * (greatest(r.rows_planned - r.rows_done, 0)::double precision / r.rows_done) END,
           CASE WHEN day.rows > 0 AND r.rows_planned - r.rows_done > day.rows - day.used THEN
               (day.today + pg_catalog.ceil((r.rows_planned - r.rows_done - greatest(day.rows - day.used, 0))
                   / day.rows::double precision)::integer)::pg_catalog.timestamp AT TIME ZONE 'UTC' END) AS estimated_end,
       r.waits_for,
       r.waited,
       r.wal_bytes,
       r.started_at
FROM custodian.run r
CROSS JOIN (
    SELECT clock.today,
           coalesce(pg_catalog.current_setting('custodian.max_rows_per_day', true)::bigint, 0) AS rows,
           (SELECT coalesce(sum(d.rows_of_day), 0)::bigint FROM custodian.run d WHERE d.day = clock.today) AS used
    FROM (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date AS today) clock) day
WHERE r.state = 'running' OR r.waits_for IS NOT NULL;
COMMENT ON VIEW custodian.progress IS 'sweeps that run, or wait for a window or the next day: where each is, how fast, and for what it waits. The phase is starting, dropping partitions, retrying rows (of the quarantine), choosing the way, disposing, verifying (whether anything due is left) or waiting. The rate counts from the first start, pauses included; the estimated end goes by it, and by custodian.max_rows_per_day as if the table had all rows of the day to itself';

CREATE VIEW custodian.metrics AS
SELECT 'custodian_rows_disposed_total'::text AS name, pg_catalog.jsonb_build_object('relation', d.relation_name) AS labels,
       sum(d.rows)::double precision AS value
FROM (SELECT r.relation_name, r.rows_done::double precision AS rows FROM custodian.run r
      UNION ALL SELECT c.relation_name, c.value FROM custodian.counter c WHERE c.name = 'rows_disposed') d
GROUP BY d.relation_name
UNION ALL
SELECT 'custodian_wal_bytes_total', pg_catalog.jsonb_build_object('relation', c.relation_name), c.value
FROM custodian.counter c WHERE c.name = 'wal_bytes'
UNION ALL
SELECT 'custodian_waited_seconds_total', pg_catalog.jsonb_build_object('relation', c.relation_name, 'reason', c.label), c.value
FROM custodian.counter c WHERE c.name = 'waited_seconds'
UNION ALL
SELECT 'custodian_batch_duration_seconds_bucket', pg_catalog.jsonb_build_object('relation', c.relation_name, 'le', c.label),
       sum(c.value) OVER (PARTITION BY c.relation_name ORDER BY c.label::double precision)
FROM custodian.counter c WHERE c.name = 'batches'
UNION ALL
SELECT 'custodian_batch_duration_seconds_sum', pg_catalog.jsonb_build_object('relation', c.relation_name), c.value
FROM custodian.counter c WHERE c.name = 'batch_seconds'
UNION ALL
SELECT 'custodian_batch_duration_seconds_count', pg_catalog.jsonb_build_object('relation', c.relation_name), sum(c.value)
FROM custodian.counter c WHERE c.name = 'batches' GROUP BY c.relation_name
UNION ALL
SELECT 'custodian_runs_total', pg_catalog.jsonb_build_object('relation', c.relation_name, 'state', c.label), c.value
FROM custodian.counter c WHERE c.name = 'runs'
UNION ALL
SELECT 'custodian_runs', pg_catalog.jsonb_build_object('state', r.state), count(*)::double precision
FROM custodian.run r GROUP BY r.state
UNION ALL
SELECT 'custodian_oldest_overdue_age_seconds', pg_catalog.jsonb_build_object('relation', pg_catalog.concat(n.nspname, '.', c.relname)),
       extract(epoch FROM clock_timestamp()
           + coalesce(nullif(pg_catalog.current_setting('custodian.clock_offset', true), '')::pg_catalog.interval, '0')
           - b.overdue_since)::double precision
FROM custodian.backlog b
JOIN pg_catalog.pg_class c ON c.oid = b.relation
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
UNION ALL
SELECT 'custodian_last_success_timestamp_seconds', '{}', extract(epoch FROM s.last_success)::double precision
FROM custodian.status_row() s
UNION ALL
SELECT 'custodian_quarantined_rows', pg_catalog.jsonb_build_object('leaf', q.leaf::pg_catalog.regclass), count(*)::double precision
FROM custodian.quarantine q GROUP BY q.leaf
UNION ALL
SELECT 'custodian_overdue_rows', pg_catalog.jsonb_build_object('relation', r.relation_name),
       greatest(r.rows_planned - r.rows_done, 0)::double precision
FROM custodian.run r
WHERE r.state <> 'done' AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = r.relation)
  AND r.run_id = (SELECT max(l.run_id) FROM custodian.run l WHERE l.relation = r.relation AND l.state <> 'superseded')
UNION ALL
SELECT 'custodian_backlog_age_seconds', pg_catalog.jsonb_build_object('relation', r.relation_name),
       extract(epoch FROM clock_timestamp() - (
           SELECT min(f.planned_at) FROM custodian.run f
           WHERE f.relation = r.relation AND f.state <> 'superseded' AND f.run_id <= r.run_id
             AND f.run_id > coalesce((SELECT max(d.run_id) FROM custodian.run d
                                      WHERE d.relation = r.relation AND d.state = 'done' AND d.run_id < r.run_id), 0)))::double precision
FROM custodian.run r
WHERE r.state <> 'done' AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = r.relation)
  AND r.run_id = (SELECT max(l.run_id) FROM custodian.run l WHERE l.relation = r.relation AND l.state <> 'superseded')
UNION ALL
SELECT 'custodian_paused', '{}', count(*)::double precision FROM custodian.pause
UNION ALL
SELECT 'custodian_last_success_age_seconds', '{}',
       extract(epoch FROM clock_timestamp() - s.last_success)::double precision
FROM custodian.status_row() s;
COMMENT ON VIEW custodian.metrics IS 'one row per measure, for exporters: name, labels, value. What ends in _total, _bucket, _sum or _count only grows; batch durations and waits are added every few seconds and at the end of a run';
GRANT SELECT ON custodian.metrics, custodian.progress TO PUBLIC;

-- What would make sweeps cheaper
CREATE VIEW custodian.advice AS
WITH RECURSIVE tagged AS (
    SELECT DISTINCT s.relation, s.column_name, s.clock, s.on_expiry FROM custodian.scheduled_columns() s
), tree AS (
    SELECT t.relation AS root, t.relation AS leaf FROM tagged t
    UNION SELECT e.root, i.inhrelid FROM tree e JOIN pg_catalog.pg_inherits i ON i.inhparent = e.leaf
), leaf AS (
    SELECT e.root, c.oid, c.oid::pg_catalog.regclass AS relation, n.nspname, c.relname, pg_catalog.pg_relation_size(c.oid) AS size,
           coalesce((SELECT o.option_value::integer FROM pg_catalog.pg_options_to_table(c.reloptions) o
                     WHERE o.option_name = 'fillfactor'), 100) AS fillfactor,
           pg_catalog.pg_stat_get_tuples_updated(c.oid) AS updated, pg_catalog.pg_stat_get_tuples_hot_updated(c.oid) AS hot,
           pg_catalog.pg_stat_get_numscans(c.oid) AS scans
    FROM tree e JOIN pg_catalog.pg_class c ON c.oid = e.leaf AND c.relkind = 'r'
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE pg_catalog.pg_relation_size(c.oid) >= 8388608
), clock AS (
    SELECT DISTINCT l.oid, a.attname, a.attnum, s.correlation
    FROM leaf l JOIN tagged t ON t.relation = l.root
    JOIN pg_catalog.pg_attribute a ON a.attrelid = l.oid AND a.attname = t.clock AND NOT a.attisdropped
    LEFT JOIN pg_catalog.pg_stats s ON s.schemaname = l.nspname AND s.tablename = l.relname AND s.attname = a.attname AND NOT s.inherited
    WHERE NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_am m ON m.oid = x.relam
        WHERE i.indrelid = l.oid AND i.indisvalid AND i.indpred IS NULL
          AND (m.amname = 'btree' AND i.indkey[0] = a.attnum OR m.amname = 'brin' AND a.attnum = ANY (i.indkey)))
), masked AS (
    SELECT DISTINCT l.oid, a.attname, a.attnum
    FROM leaf l JOIN tagged t ON t.relation = l.root AND t.on_expiry <> 'delete'
    JOIN pg_catalog.pg_attribute a ON a.attrelid = l.oid AND a.attname = t.column_name AND NOT a.attisdropped
)
SELECT l.relation, 'clock-index'::text AS advice,
       pg_catalog.format('No index leads to the rows whose %I has passed: each count reads the table.', k.attname) AS reason,
       pg_catalog.format('CREATE INDEX CONCURRENTLY ON %s USING %s (%I)', l.relation,
                         CASE WHEN abs(k.correlation) >= 0.9 THEN 'brin' ELSE 'btree' END, k.attname) AS ddl,
       pg_catalog.jsonb_build_object('table_bytes', l.size, 'sequential_scans', l.scans, 'correlation', k.correlation) AS measured
FROM leaf l JOIN clock k ON k.oid = l.oid
UNION ALL
SELECT l.relation, 'fillfactor', 'Pages are filled to the last byte: a row whose cells are rewritten moves to another page, and all indexes follow.',
       pg_catalog.format('ALTER TABLE %s SET (fillfactor = 90)', l.relation),
       pg_catalog.jsonb_build_object('updated', l.updated, 'hot', l.hot, 'hot_share', round(l.hot::numeric / nullif(l.updated, 0), 3))
FROM leaf l
WHERE l.fillfactor = 100 AND EXISTS (SELECT FROM masked m WHERE m.oid = l.oid) AND l.hot < 0.9 * l.updated
UNION ALL
SELECT l.relation, 'index-on-rewritten-column',
       pg_catalog.format('Rewriting %s changes this index, and keeps the update from being HOT.',
                         (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(m.attname), ', ' ORDER BY m.attnum) FROM masked m
                          WHERE m.oid = l.oid AND m.attnum = ANY (i.indkey))),
       CASE WHEN NOT i.indisunique THEN pg_catalog.format('DROP INDEX CONCURRENTLY %s', i.indexrelid::pg_catalog.regclass) END,
       pg_catalog.jsonb_build_object('index', i.indexrelid::pg_catalog.regclass::text, 'scans', pg_catalog.pg_stat_get_numscans(i.indexrelid),
                                     'index_bytes', pg_catalog.pg_relation_size(i.indexrelid), 'updated', l.updated, 'hot', l.hot,
                                     'hot_share', round(l.hot::numeric / nullif(l.updated, 0), 3))
FROM leaf l JOIN pg_catalog.pg_index i ON i.indrelid = l.oid JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_am a ON a.oid = x.relam
    AND (a.amname <> 'brin' OR pg_catalog.current_setting('server_version_num')::integer < 160000)
WHERE EXISTS (SELECT FROM masked m WHERE m.oid = l.oid AND m.attnum = ANY (i.indkey));
COMMENT ON VIEW custodian.advice IS 'what would make sweeps of a table of 8 MB or more cheaper: an index on the clock, room in its pages, or one index less on a rewritten column; with the statement, and what the server has measured so far. It proposes; whether the application needs an index is for you to say';
REVOKE ALL ON custodian.advice FROM PUBLIC;
GRANT SELECT ON custodian.advice TO PUBLIC;

-- What the worker found overdue
-- It commits, so it is a procedure, and may have no settings of its own.
CREATE PROCEDURE custodian.sweep(rel regclass DEFAULT NULL) LANGUAGE c AS 'MODULE_PATHNAME', 'custodian_sweep';
COMMENT ON PROCEDURE custodian.sweep(regclass) IS 'Disposes of what is due in a table and its partitions, or in every tagged table, in batches that each commit, by a background worker: as the scheduler does it, whatever custodian.disposal is, with the same fuse, pauses and quarantine. Waits until it is through, and tells the number of rows by a NOTICE. A table whose own tag says "disposal" off or observe is left alone. A cancel ends it after the batches that have committed. A partition alone is refused (42809): sweep_now() takes one. For stewards.';
REVOKE EXECUTE ON PROCEDURE custodian.sweep(regclass) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE custodian.sweep(regclass) TO PUBLIC;

CREATE VIEW custodian.overdue AS
SELECT (SELECT c.oid FROM pg_catalog.pg_class c WHERE c.oid = r.relation)::pg_catalog.regclass AS relation,
       r.relation_name,
       r.state,
       greatest(r.rows_planned - r.rows_done, 0) AS rows,
       (SELECT count(*) FROM custodian.obstacle o WHERE o.run_id = r.run_id) AS obstacles,
       stuck.rows AS quarantined,
       coalesce((SELECT 'paused: ' || p.reason FROM custodian.pause p WHERE p.relation IN (0, r.relation)
                 ORDER BY p.relation LIMIT 1),
       'waits for ' || r.waits_for,
       CASE r.state
           WHEN 'observed' THEN 'counted only: disposal is observe, or keys are missing'
           WHEN 'waiting' THEN 'waits for an approval'
           WHEN 'approved' THEN 'approved, goes in the next round of the worker'
           WHEN 'running' THEN 'is being disposed of'
           WHEN 'interrupted' THEN 'interrupted, goes on in the next round of the worker'
           ELSE 'could not be disposed of'
       END || coalesce(': ' || r.reason, ': SQLSTATE ' || r.sqlstate, '')) AS why,
       r.run_id,
       r.cutoff AS due_at,
       (SELECT min(f.planned_at) FROM custodian.run f
        WHERE f.relation = r.relation AND f.state <> 'superseded' AND f.run_id <= r.run_id
          AND f.run_id > coalesce((SELECT max(d.run_id) FROM custodian.run d
                                   WHERE d.relation = r.relation AND d.state = 'done' AND d.run_id < r.run_id), 0)) AS found_at
FROM custodian.run r
JOIN (SELECT l.relation, max(l.run_id) AS run_id FROM custodian.run l WHERE l.state <> 'superseded' GROUP BY l.relation) newest
  USING (run_id)
CROSS JOIN LATERAL (
    SELECT count(*) AS rows FROM custodian.quarantine q
    WHERE q.leaf = r.relation OR q.leaf IN (SELECT t.relid FROM pg_catalog.pg_partition_tree(r.relation) t)) stuck
WHERE r.state <> 'done' OR stuck.rows > 0 OR EXISTS (SELECT FROM custodian.obstacle o WHERE o.run_id = r.run_id);
COMMENT ON VIEW custodian.overdue IS 'per table what the worker found due and has not disposed of, and why: as of its last round, from its own records. due_at is the moment it was counted for, found_at when the first run of this backlog was planned';

REVOKE ALL ON custodian.overdue FROM PUBLIC;
GRANT SELECT ON custodian.overdue TO PUBLIC;

-- Maximums and declared dependents in the view of tags. For a moment it stands on nothing, so that views which
-- users made on it stay.
CREATE OR REPLACE VIEW custodian.tags AS
SELECT NULL::pg_catalog.regclass AS relation,
       NULL::pg_catalog.text AS column_name,
       NULL::pg_catalog.text AS kind,
       NULL::pg_catalog.text AS category,
       NULL::pg_catalog.text AS sensitivity,
       NULL::pg_catalog.text[] AS purposes,
       NULL::pg_catalog.text[] AS residency,
       NULL::pg_catalog.text AS on_expiry,
       NULL::pg_catalog.text AS clock,
       NULL::pg_catalog.text[] AS minimums,
       NULL::pg_catalog.text AS subject_kind,
       NULL::pg_catalog.text[] AS subject_key,
       NULL::pg_catalog.text[] AS subject_via,
       NULL::pg_catalog.text AS collected,
       NULL::pg_catalog.text AS null_clock,
       NULL::pg_catalog.text AS residency_column,
       NULL::pg_catalog.text AS disposal,
       NULL::pg_catalog.text AS problem
WHERE false;
DROP FUNCTION custodian.read_tags();
CREATE FUNCTION custodian."read_tags"() RETURNS TABLE (
	"relation" oid,
	"column_name" TEXT,
	"kind" TEXT,
	"category" TEXT,
	"sensitivity" TEXT,
	"purposes" TEXT[],
	"residency" TEXT[],
	"on_expiry" TEXT,
	"clock" TEXT,
	"minimums" TEXT[],
	"subject_kind" TEXT,
	"subject_key" TEXT[],
	"subject_via" TEXT[],
	"collected" TEXT,
	"null_clock" TEXT,
	"residency_column" TEXT,
	"disposal" TEXT,
	"problem" TEXT,
	"maximums" TEXT[],
	"dependents" TEXT[]
)
STRICT STABLE
LANGUAGE c
AS 'MODULE_PATHNAME', 'read_tags_wrapper';
REVOKE EXECUTE ON FUNCTION custodian.read_tags() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.read_tags() TO PUBLIC;
CREATE OR REPLACE VIEW custodian.tags AS
SELECT relation::pg_catalog.regclass AS relation, column_name, kind, category, sensitivity, purposes, residency,
       on_expiry, clock, minimums, subject_kind, subject_key, subject_via, collected, null_clock,
       residency_column, disposal, problem, maximums, dependents
FROM custodian.read_tags();
COMMENT ON VIEW custodian.tags IS 'tags of tables and columns as declared; kind is column, path, document, derived, table or cleared';

-- An event that moves into the ledger is shown at every moment.
CREATE OR REPLACE VIEW custodian.guard_events WITH (security_barrier) AS
SELECT (b.body -> 'detail' ->> 'first_at')::timestamptz AS at,
       (b.body -> 'detail' ->> 'last_at')::timestamptz AS last_at,
       (b.body -> 'detail' ->> 'count')::bigint AS count,
       b.body -> 'detail' ->> 'gate' AS gate,
       pg_catalog.substr(b.body ->> 'kind', 7) AS outcome,
       b.body -> 'detail' ->> 'role' AS role,
       b.body -> 'detail' ->> 'peer' AS peer,
       b.body -> 'detail' ->> 'region' AS region,
       b.body ->> 'object' AS object,
       b.body -> 'detail' ->> 'reason' AS reason
FROM custodian.ledger_entry e
CROSS JOIN LATERAL (SELECT custodian.ledger_body(e.body) AS body OFFSET 0) b
WHERE custodian.require_steward('read the guard''s events')
  AND b.body ->> 'kind' IN ('guard.refused', 'guard.warned')
-- One that moves into the ledger at this moment comes from both.
UNION
SELECT at, last_at, count, gate, outcome, role, peer, region, object, reason
FROM custodian.pending_events();

-- Partitions on their way out: noted before they are detached, so that a crash leaves none half way.
CREATE TABLE custodian.partition_drop (
    leaf      oid PRIMARY KEY,
    leaf_name text NOT NULL,
    parent    oid NOT NULL,
    -- What was above it, nearest first.
    above     oid[] NOT NULL,
    bound     text NOT NULL,
    -- Its own labels before it was detached, by attribute number.
    labels    jsonb NOT NULL,
    run_id    bigint NOT NULL,
    item      integer NOT NULL,
    planned   bigint NOT NULL,
    began_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Why it was not dropped, and when that may be tried again.
    sqlstate  text,
    retry_at  timestamptz
);
COMMENT ON TABLE custodian.partition_drop IS 'partitions that are being detached and dropped, and those that were put back after an error';
ALTER TABLE custodian.partition_drop ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON custodian.partition_drop FROM PUBLIC;

-- Archive lanes
CREATE TABLE custodian.archive_lane (
    lane           bigint PRIMARY KEY DEFAULT pg_catalog.nextval('custodian.lane_lane_seq'),
    transfer       text NOT NULL,
    command        text NOT NULL CHECK (command <> ''),
    region         text NOT NULL,
    organisation   text NOT NULL,
    database       text NOT NULL,
    opened_by      text NOT NULL DEFAULT session_user,
    opened_at      timestamptz NOT NULL DEFAULT now(),
    closed_by      text,
    closed_at      timestamptz,
    close_reason   text,
    archived_until text,
    recall_notice  text
);
COMMENT ON TABLE custodian.archive_lane IS 'openings for archive_command to ship WAL outside; archived_until is the last file that was archived when the lane was closed';
ALTER TABLE custodian.archive_lane ENABLE ROW LEVEL SECURITY;
SELECT pg_catalog.pg_extension_config_dump('custodian.archive_lane', '');

CREATE VIEW custodian.archive_lanes WITH (security_barrier) AS
SELECT a.lane, a.transfer,
       CASE WHEN a.closed_at IS NOT NULL THEN 'closed'
            WHEN a.database <> pg_catalog.current_database() THEN 'foreign'
            WHEN t.approved_at IS NOT NULL AND t.revoked_at IS NULL AND t.valid_until > pg_catalog.now() THEN 'open'
            ELSE 'suspended' END AS state,
       a.command, a.region, a.organisation, a.database, a.opened_by, a.opened_at, a.closed_by, a.closed_at, a.close_reason,
       a.archived_until, a.recall_notice
FROM ONLY custodian.archive_lane a LEFT JOIN ONLY custodian.transfer t ON t.transfer = a.transfer
WHERE custodian.require_steward('read archive lanes');
COMMENT ON VIEW custodian.archive_lanes IS 'openings for archive_command to ship WAL outside, which count while each database of the cluster has one; states as in custodian.lanes. For stewards';

CREATE FUNCTION custodian."open_archive_lane"(
	"transfer" TEXT,
	"command" TEXT
) RETURNS bigint
LANGUAGE c
AS 'MODULE_PATHNAME', 'open_archive_lane_wrapper';
REVOKE ALL ON custodian.archive_lane, custodian.archive_lanes FROM PUBLIC;
GRANT SELECT ON custodian.archive_lanes TO PUBLIC;
REVOKE EXECUTE ON FUNCTION custodian.open_archive_lane(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.open_archive_lane(text, text) TO PUBLIC;

-- For what a row may be used
CREATE FUNCTION custodian."explain_purposes"(
	"rel" regclass,
	"key" jsonb,
	"as_of" timestamp with time zone DEFAULT NULL
) RETURNS TABLE (
	"column_name" TEXT,
	"purpose" TEXT,
	"usable" bool,
	"until" timestamp with time zone,
	"explanation" TEXT
)
LANGUAGE c
AS 'MODULE_PATHNAME', 'explain_purposes_wrapper';
REVOKE EXECUTE ON FUNCTION custodian.explain_purposes(regclass, jsonb, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.explain_purposes(regclass, jsonb, timestamptz) TO PUBLIC;

-- The policy together with what no document declares: for whoever asks what was in force.

-- What holds named before a rename, until the transaction that renamed it began. Dumped with them.
CREATE TABLE custodian.hold_former_name (
    hold     bigint NOT NULL,
    until    timestamptz NOT NULL DEFAULT now(),
    nspname  name NOT NULL,
    relname  name NOT NULL,
    matching jsonb,
    PRIMARY KEY (hold, until)
);
COMMENT ON TABLE custodian.hold_former_name IS 'the names of tables and columns that holds were placed on, as they were until they were renamed';
ALTER TABLE custodian.hold_former_name ENABLE ROW LEVEL SECURITY;
SELECT pg_catalog.pg_extension_config_dump('custodian.hold_former_name', '');

CREATE VIEW custodian.former_hold_names WITH (security_barrier) AS
SELECT f.hold, f.until, pg_catalog.quote_ident(f.nspname) || '.' || pg_catalog.quote_ident(f.relname) AS relation, f.matching AS match
FROM custodian.hold_former_name f
WHERE custodian.require_steward('read legal holds');
COMMENT ON VIEW custodian.former_hold_names IS 'what legal holds named until a table or column was renamed. It shows values that holds match by: for stewards';
REVOKE ALL ON custodian.hold_former_name, custodian.former_hold_names FROM PUBLIC;
GRANT SELECT ON custodian.former_hold_names TO PUBLIC;

CREATE FUNCTION custodian.full_policy_as_of(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE
BEGIN ATOMIC
SELECT custodian.policy_as_of(full_policy_as_of.at) || pg_catalog.jsonb_build_object(
    'holds', (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
                   'hold', h.hold, 'matter', h.matter, 'scope', h.scope, 'relation', coalesce(f.relation, h.relation),
                   'subject_kind', h.subject_kind, 'subject_key', h.subject_key, 'match', coalesce(f.match, h.match),
                   'reason', h.reason, 'approver', h.approver, 'review_on', h.review_on, 'placed_at', h.placed_at,
                   'placed_by', h.placed_by)) ORDER BY h.hold), '[]')
        FROM custodian.holds h
        LEFT JOIN LATERAL (SELECT n.relation, n.match FROM custodian.former_hold_names n
                           WHERE n.hold = h.hold AND n.until > full_policy_as_of.at ORDER BY n.until LIMIT 1) f ON true
        WHERE h.placed_at <= full_policy_as_of.at AND (h.released_at IS NULL OR h.released_at > full_policy_as_of.at)),
    'waivers', (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                   'waiver', w.waiver, 'code', w.code, 'object', w.object, 'reason', w.reason, 'owner', w.owner,
                   'expires_at', w.expires_at, 'waived_at', w.waived_at, 'waived_by', w.waived_by) ORDER BY w.waiver), '[]')
        FROM custodian.waivers w
        WHERE w.waived_at <= full_policy_as_of.at AND w.expires_at > full_policy_as_of.at
          AND (w.revoked_at IS NULL OR w.revoked_at > full_policy_as_of.at)),
    'lawful_bases', (
        SELECT coalesce(pg_catalog.jsonb_object_agg(j.jurisdiction, j.bases), '{}')
        FROM (SELECT v.jurisdiction, pg_catalog.jsonb_object_agg(v.basis, pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
                         'citation', v.citation, 'meaning', v.meaning, 'consent_based', v.consent_based,
                         'valid_from', v.valid_from, 'valid_to', v.valid_to, 'recorded_at', v.recorded_at))) AS bases
              FROM (SELECT DISTINCT ON (b.jurisdiction, b.basis) b.*, d.day
                    FROM custodian.lawful_basis_versions b, (SELECT (full_policy_as_of.at AT TIME ZONE 'UTC')::date AS day) d
                    WHERE b.valid_from <= d.day AND (b.seeded OR b.recorded_at <= full_policy_as_of.at)
                    ORDER BY b.jurisdiction, b.basis, b.valid_from DESC, b.seeded) v
              WHERE v.valid_to IS NULL OR v.valid_to > v.day
              GROUP BY v.jurisdiction) j),
    'transfers', (
        SELECT coalesce(pg_catalog.jsonb_object_agg(t.transfer, pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
                   'state', CASE WHEN t.revoked_at <= full_policy_as_of.at THEN 'revoked'
                                 WHEN t.valid_until <= full_policy_as_of.at THEN 'expired'
                                 WHEN t.approved_at <= full_policy_as_of.at THEN 'approved'
                                 ELSE 'registered' END,
                   'receiver', t.receiver, 'contact', t.contact, 'organisation', t.organisation, 'region', t.region,
                   'purposes', t.purposes, 'categories', t.categories, 'method', t.method, 'safeguards', t.safeguards,
                   'risks', t.risks, 'rights_channel', t.rights_channel, 'basis', t.basis, 'notice', t.notice,
                   'valid_until', t.valid_until, 'consent_column', t.consent_column, 'residencies', t.residencies,
                   'registered_at', t.registered_at, 'registered_by', t.registered_by,
                   'approved_at', CASE WHEN t.approved_at <= full_policy_as_of.at THEN t.approved_at END,
                   'approved_by', CASE WHEN t.approved_at <= full_policy_as_of.at THEN t.approved_by END))), '{}')
        FROM custodian.transfers t
        WHERE t.registered_at <= full_policy_as_of.at),
    'lanes', (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
                   'lane', l.lane, 'transfer', l.transfer,
                   'state', CASE WHEN l.database <> pg_catalog.current_database() THEN 'foreign'
                                 WHEN t.approved_at <= full_policy_as_of.at AND t.valid_until > full_policy_as_of.at
                                      AND (t.revoked_at IS NULL OR t.revoked_at > full_policy_as_of.at) THEN 'open'
                                 ELSE 'suspended' END,
                   'role', l.role, 'network', l.network, 'issuer', l.issuer,
                   'database', l.database, 'slot', l.slot, 'plugin', l.plugin, 'publications', l.publications,
                   'opened_at', l.opened_at, 'opened_by', l.opened_by)) ORDER BY l.lane), '[]')
        FROM custodian.lanes l LEFT JOIN custodian.transfers t ON t.transfer = l.transfer
        WHERE l.opened_at <= full_policy_as_of.at AND (l.closed_at IS NULL OR l.closed_at > full_policy_as_of.at)),
    'archive_lanes', (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                   'lane', a.lane, 'transfer', a.transfer,
                   'state', CASE WHEN a.database <> pg_catalog.current_database() THEN 'foreign'
                                 WHEN t.approved_at <= full_policy_as_of.at AND t.valid_until > full_policy_as_of.at
                                      AND (t.revoked_at IS NULL OR t.revoked_at > full_policy_as_of.at) THEN 'open'
                                 ELSE 'suspended' END,
                   'command', a.command, 'region', a.region,
                   'organisation', a.organisation, 'database', a.database, 'opened_at', a.opened_at, 'opened_by', a.opened_by)
                   ORDER BY a.lane), '[]')
        FROM custodian.archive_lanes a LEFT JOIN custodian.transfers t ON t.transfer = a.transfer
        WHERE a.opened_at <= full_policy_as_of.at AND (a.closed_at IS NULL OR a.closed_at > full_policy_as_of.at)));
END;
COMMENT ON FUNCTION custodian.full_policy_as_of(timestamptz) IS 'the document of policy_as_of() with the legal holds, waivers, lawful bases, transfers and lanes of that moment, which apply_policy() does not take. It shows subject keys: for stewards';
REVOKE EXECUTE ON FUNCTION custodian.full_policy_as_of(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION custodian.full_policy_as_of(timestamptz) TO PUBLIC;

-- The policy as it is becomes the first record of its history. It reads everything above.
SELECT custodian.record_policy();

-- Comments of functions, written from their docstrings by tests/integration/tests/comments.rs.
COMMENT ON ROUTINE custodian.apply_policy IS 'Makes the declared policy what a document says, and returns the difference, one row for each change: the object, what happens to it, how it was and will be, and whether data may stay longer or go further than before. All changes are made, or none. With dry_run (the default) none is; the document is checked all the same.';
COMMENT ON ROUTINE custodian.approve_run IS 'Approves a run that waits. It then executes with its own cutoff, in the next round of the scheduler or in custodian.sweep_now(). reason goes to the ledger. For stewards.';
COMMENT ON ROUTINE custodian.approve_transfer IS 'Approves a transfer. Only a data steward may, and not the one who registered it: both are known by the role they connected as. It opens nothing yet; see custodian.open_lane().';
COMMENT ON ROUTINE custodian.break_glass IS 'Lets the gates of the region guard warn instead of refusing, for duration (at most 8 hours), in the whole cluster and from this moment, whether or not the transaction commits. Only a superuser may who is connected over the unix socket. second_person is the role of somebody else who knows of it. What passes meanwhile is recorded as warned. It ends by itself, by custodian.end_break_glass(), and with a restart of the server. Holds and minimums are not touched by it.';
COMMENT ON ROUTINE custodian.check IS 'Everything that is wrong and that a person must see: one row each, errors first, with what to do. What a steward has waived is left out: custodian.check_all() shows that as well. For stewards and members of pg_monitor.';
COMMENT ON ROUTINE custodian.check_all IS 'What custodian.check() says, and what it leaves out: a finding that is waived has the waiver''s number, who answers for it, and when it ends. For stewards and members of pg_monitor.';
COMMENT ON ROUTINE custodian.check_peer IS 'What the region rules in force say about a peer with this address, with a verified certificate of this issuer and subject (distinguished names as in pg_stat_ssl), that connects as role_name. Without any of them: about a connection over the unix socket. The role defaults to the session''s. Nothing is recorded. Fails with SQLSTATE 55000 when the library is not preloaded.';
COMMENT ON ROUTINE custodian.check_rules IS 'What is wrong with the text of a rules file, line by line; no row when it would be used. From a shell: psql -v rules="$(cat file)" <<< "SELECT * FROM custodian.check_rules(:''rules'')".';
COMMENT ON ROUTINE custodian.clear_column IS 'Clears a column: reviewed, and no personal data. Only a data steward may; a cleared column may cross every border, and is never disposed of by itself.';
COMMENT ON ROUTINE custodian.close_lane IS 'Closes a lane; what runs on it is ended within seconds. Only a data steward may. The last position that the receiver confirmed stays on record, and in recall_notice what it was told about the data that it has. The slot stays: drop it, or it keeps WAL. Of an archive lane the last file that was archived stays on record; the server stops archiving within seconds.';
COMMENT ON ROUTINE custodian.create_missing_keys IS 'Makes a key for each use that has none; returns how many were made. CREATE EXTENSION calls it once. For superusers.';
COMMENT ON ROUTINE custodian.declare_defence IS 'Declares a claim defence: columns are kept for a limitation period, so that claims can be answered. Only a data steward may.';
COMMENT ON ROUTINE custodian.declare_dependents IS 'Declares which untagged tables do not keep rows of a tagged one from being deleted. Only a data steward may.';
COMMENT ON ROUTINE custodian.declare_subscriber_disposal IS 'Declares that the subscribers of a publication dispose of data by themselves, by policies of their own: its partitions are dropped whole once all of their rows are due, though no subscriber is told of that. Only a data steward may.';
COMMENT ON ROUTINE custodian.define_lawful_basis IS 'Adds a lawful basis, or a new version of one, to those that purposes may rest on. Only a data steward may.';
COMMENT ON ROUTINE custodian.define_purpose IS 'Defines a purpose, or changes the period of one that exists. Only a data steward may.';
COMMENT ON ROUTINE custodian.end_break_glass IS 'Ends break-glass before its time. The gates refuse again from this moment. Only a superuser may who is connected over the unix socket.';
COMMENT ON ROUTINE custodian.end_purpose IS 'Ends a purpose: from at on it covers nothing. Only a data steward may. NULL means now, by the extension''s clock; a purpose that has ended stays so, an end that is still to come can be moved.';
COMMENT ON ROUTINE custodian.enforce_minimum IS 'Says what a user''s own statement meets that would destroy what a statutory minimum keeps: refuse, as for every new minimum, or warn: it passes with a WARNING, which is recorded as refusals are. Only a data steward may.';
COMMENT ON ROUTINE custodian.erase_subject IS 'Erases a subject, in the caller''s transaction: optional purposes, and those by consent, count as ended for it in every table whose tag names its kind. Required purposes, minimums, claim defences and legal holds keep what they keep. The rights to call it are the application''s: the DBA grants EXECUTE.';
COMMENT ON ROUTINE custodian.estimate_preview IS 'A preview that does not read all of a big table: of a leaf of more than 32 MB it looks at that much, in blocks taken at random, and multiplies. estimated says where it did; smaller leaves are counted. What few rows are due for may not be met by the sample, and then is not listed. Arguments and rights are those of preview.';
COMMENT ON ROUTINE custodian.explain_purposes IS 'For what each tagged cell of one row may be used at as_of (now, by default): one row for each cell and purpose, since a purpose ends for use at its own date although the cell stays for another one, a minimum or a hold. usable is NULL where it cannot be told: a clock is missing although the tag calls that a violation, a consent is needed and the tag does not say whose, or the tag is not resolved (then purpose is NULL as well). A purpose by consent without one on record is not usable, nor is one whose lawful basis has ended or is none (basis-invalid of check()), although sweeps keep the cell; a law is not asked about days before it was in force. until is the end, or, once it is over, when that was. Arguments and rights are those of explain_row; values of cells are never shown.';
COMMENT ON ROUTINE custodian.explain_row IS 'Why each tagged cell of one row is kept or due at as_of (now, by default): its state (active, blocked, due, disposed, held, unresolved), what decides it, until when (for a due cell: since when), the law cited, and an explanation. key names the row by columns and values, such as {"id": 42}, and must fit exactly one. Values of cells are never shown. For the table''s owner and stewards.';
COMMENT ON ROUTINE custodian.export_keys IS 'The keys of this database, as text for custodian.import_keys(). Whoever has it can link every pseudonym to its value again. For superusers.';
COMMENT ON ROUTINE custodian.export_policy IS 'Everything that is declared in this database, as one document: purposes with every period they had, laws, the labels of tables and columns, permitted publications, and those whose subscribers dispose by themselves. By names, never by OIDs; two exports of the same policy are equal. Legal holds, consents and keys are not in it: they are about persons and matters, and are kept where they are; nor are lawful bases that stewards added. A label that cannot be read is left out, with a warning.';
COMMENT ON ROUTINE custodian.find_returned IS 'Counts, by table, the rows of erased subjects that are there again, or still, and that the erasure lets nothing keep: what repeat_erasures would dispose of. A row counts once for each way in which it would change. For data stewards.';
COMMENT ON ROUTINE custodian.forbid_publication IS 'Takes back the permission for a publication. Only a data steward may. The publication itself stays as it is: drop it, or the subscription, to end a flow that runs.';
COMMENT ON ROUTINE custodian.import_keys IS 'Stores the keys of a text of custodian.export_keys(); returns how many this database did not have yet. A key that its configuration does not know, or whose fingerprint differs, is refused. For superusers.';
COMMENT ON ROUTINE custodian.install_row_guard IS 'Puts the row guard''s triggers on every table that legal holds or statutory minimums concern and that lacks them, and takes them off where nothing needs them. The extension does so by itself when holds, tags, keys or partitions change and while a dump is restored; custodian.check() says when it is needed. For data stewards. Waits for the transactions that write to a table that needs a trigger.';
COMMENT ON ROUTINE custodian.ledger_body IS 'The body of a ledger entry, NULL when its fields are not what the extension writes: an entry that was edited must not hide the others.';
COMMENT ON ROUTINE custodian.ledger_head IS 'The end of the sealed ledger, to be kept where the administrators of this server cannot write: v1:block:hash:entries:unsealed. The last number counts entries that are in no block yet, for which this head does not vouch. For stewards.';
COMMENT ON ROUTINE custodian.open_archive_lane IS 'Opens a lane for an approved transfer by which archive_command may ship WAL to where the rules of the region do not let it. Only a data steward may. Returns the lane''s number; custodian.close_lane() closes it.';
COMMENT ON ROUTINE custodian.open_lane IS 'Opens a lane for an approved transfer: the one role, network and/or certificate issuer, database, slot, output plugin and publications by which logical replication may leave. Only a data steward may. Returns the lane''s number.';
COMMENT ON ROUTINE custodian.overdue_now IS 'What is past its time and still there, now: one row for each disposal that is due, and one (keep) for each legal hold and each referring table that keeps rows after their time. overdue_since is when the oldest of the rows became due under the policy in force; it may have been earlier by a thirtieth of the time since then, or by a minute. why says why it is still there. What a law keeps is not overdue.';
COMMENT ON ROUTINE custodian.pause IS 'Pauses disposal of a table with its partitions, or of every table when rel is NULL, until custodian.resume(). A batch that runs is waited for; when the call returns and its transaction commits, no other begins. Planning and counting go on. reason goes to the ledger. For stewards.';
COMMENT ON ROUTINE custodian.pending_events IS 'Events of the guard that wait for the ledger of this database, or of none, and those that it took since this transaction began, which may not see them there. For stewards.';
COMMENT ON ROUTINE custodian.permit_publication IS 'Permits a publication to carry tagged columns to subscribers in these regions. Only a data steward may.';
COMMENT ON ROUTINE custodian.place_hold IS 'Places a legal hold and returns its number. It lies on a subject (subject_kind, subject_key), on a table (rel) or on the rows of a table whose columns have given values (rel, match, as in ''{"invoice_no":["A1","A2"]}'': all columns, any of the values). Held rows cannot be deleted, truncated, dropped or detached, and their tagged columns, and those the hold finds them by, cannot be changed, by anybody, until the hold is released; it never expires by itself.';
COMMENT ON ROUTINE custodian.policy_as_of IS 'The policy that was in force at a moment, in full: that of the last epoch before it, by the server''s own clock.';
COMMENT ON ROUTINE custodian.policy_of_epoch IS 'The policy of an epoch in full, as export_policy() gave it then: with the names of that time. Epochs that one transaction began came into force together, with the last of them. 0 is the policy before the first change.';
COMMENT ON ROUTINE custodian.preview IS 'What the policy asks for at as_of (now, by default), without doing any of it: one row for each disposal that is due, one for each other table whose rows go along, and one for each reason why cells or rows that no purpose covers are kept back. A row that goes is counted once, under its own table where that was asked for as well. rel limits it to one table or partition, whose owner the caller must be; stewards see every table, others those they own. Counts run with the rights of each leaf''s owner; one that fails is a row that says why.';
COMMENT ON ROUTINE custodian.preview_erasure IS 'What erase_subject would answer, without touching anything. A row that only rows of another table keep, which are themselves the subject''s and go, counts as going. The rights to call it are the application''s: the DBA grants EXECUTE.';
COMMENT ON ROUTINE custodian.publication_filter IS 'The row filter that a publication of a table needs under a transfer, to be put between the parentheses of CREATE PUBLICATION … FOR TABLE … WHERE (…). It is true when any row may go.';
COMMENT ON ROUTINE custodian.read_region_files IS 'Each line of the region rules file, and of files that it includes, that is neither empty nor a comment, as the files are now: its number, the type of the rule, its other words, the region and organisation it assigns, what is wrong with it, whether the same line is in force (loaded), and the included file that it stands in. A file that cannot be read is one row with an error.';
COMMENT ON ROUTINE custodian.read_tags IS 'The labels of all tables and columns, as they were declared, with typed fields. A label that cannot be parsed says so in problem. A path inside documents has a row of its own, named column.key.key.';
COMMENT ON ROUTINE custodian.record_consent IS 'Records that a subject consented to a purpose. The rights to call it are the application''s: the DBA grants EXECUTE.';
COMMENT ON ROUTINE custodian.record_policy IS 'Records the policy as it is, where it was changed by other means than functions and statements: by a restore, or a superuser''s edit of a table. Returns the epoch that it is recorded under, NULL when everything was. The worker does the same within a minute. Only a data steward may.';
COMMENT ON ROUTINE custodian.register_transfer IS 'Registers a transfer of personal data to another region or organisation. Only a data steward may. It opens nothing: another steward approves it, and a lane is opened for it then.';
COMMENT ON ROUTINE custodian.release_hold IS 'Releases a legal hold. Its record stays. What it kept back and is due goes with the next sweep.';
COMMENT ON ROUTINE custodian.repeat_erasures IS 'Carries out the erasures on record once more, without waiting for sweeps, which do the same in their time: for rows of erased subjects that a restore or an import brought back, and for what something kept when the subject was erased and nothing keeps now. For data stewards.';
COMMENT ON ROUTINE custodian.require_maximum IS 'Requires that no purpose covers columns for longer than a law allows. Only a data steward may.';
COMMENT ON ROUTINE custodian.require_minimum IS 'Requires that columns are kept for a period that a law demands. Only a data steward may.';
COMMENT ON ROUTINE custodian.require_steward IS 'True for a steward, an error for everybody else; views of what only stewards may see ask it first. action completes "must be a data steward to …".';
COMMENT ON ROUTINE custodian.resume IS 'Ends a pause of a table, or of every table when rel is NULL; pauses of single tables stay then. Where the scheduler paused by itself, since the clock jumped or the cluster was restored, this is the approval to go on, and reason goes to the ledger with it. For stewards.';
COMMENT ON ROUTINE custodian.resume_defence IS 'Resumes the period of a claim defence that was suspended, from at (now, by default). Only a data steward may.';
COMMENT ON ROUTINE custodian.review_coverage IS 'One row for each table, its partitions included: how many columns it has, how many are tagged, cleared and unreviewed, and which of the unreviewed look personal. With sample_rows, also by the values of so many rows of each table, which reads every table that is asked for; without, by names, types and comments alone, from catalogs. Stewards see all tables, members of pg_monitor too where no values are read, others those they own.';
COMMENT ON ROUTINE custodian.revoke_transfer IS 'Revokes a transfer and closes its lanes; what runs on them is ended within seconds. Only a data steward may. recall_notice says what the receiver was told about the data that it has.';
COMMENT ON ROUTINE custodian.revoke_waiver IS 'Ends a waiver before it expires: the finding is reported again. Only a data steward may; reason goes to the ledger.';
COMMENT ON ROUTINE custodian.rotate_pseudonym_key IS 'Makes a new key for the method hmac and returns its id: pseudonyms are made with it from now on. Those that earlier keys made stay as they are and are still recognised, since their keys stay; equal values get different pseudonyms before and after. For data stewards.';
COMMENT ON ROUTINE custodian.scheduled_columns IS 'Each tagged column, and each tagged path inside documents, with each purpose, minimum and maximum that its tag names; tags are those in force, ancestors'' merged with a relation''s own. on_expiry is the column''s method, or delete where it goes with its row alone.';
COMMENT ON ROUTINE custodian.seal_ledger IS 'Moves the guard''s events into the ledger and seals it now, rather than in the scheduler''s next round; returns the number of the last block, 0 for an empty ledger. In a subtransaction (a block with an EXCEPTION clause) events are left for the scheduler. For stewards.';
COMMENT ON ROUTINE custodian.settings_gate IS 'The mode of the gate for settings that ship data: off, warn or on. Works for everybody.';
COMMENT ON ROUTINE custodian.simulate IS 'What a changed policy would make due at once, or due no longer, without changing anything: the lines of preview() that would be others, with the rows of each now and then. policy is a document as apply_policy() takes it. Rows are counted as a preview counts them; NULL where that failed, or nothing is counted. For stewards.';
COMMENT ON ROUTINE custodian.status_row IS 'The one row of custodian.status. Works without preloading and for everybody.';
COMMENT ON ROUTINE custodian.suggest_rules IS 'Lines for the rules file that would say where peers are whose region was unknown when the guard warned about or refused them, with why and how often that was. REGION and ORGANISATION are for you to fill in: a file that still has them is not used. For stewards.';
COMMENT ON ROUTINE custodian.suggest_tags IS 'The columns of a table that look personal and are not tagged: by their names and comments, in English and Chinese, by their types, and by the values of up to sample_rows rows, at most 100,000, 0 for none. Columns that were cleared are told as well.';
COMMENT ON ROUTINE custodian.suspend_defence IS 'Suspends the period of a claim defence from at (now, by default) until resume_defence. Only a data steward may. Suspended time does not count: the defence keeps cells for as much longer, unless it had lapsed for them before. What was disposed already does not come back.';
COMMENT ON ROUTINE custodian.sweep_consent IS 'What a subject''s consent to a purpose is at a moment: given, withdrawn, or none on record. Answers only inside a sweep or preview of this backend, for what it decides by: 42501 otherwise.';
COMMENT ON ROUTINE custodian.sweep_consents IS 'When a subject gave and withdrew consent to a purpose, in a form for the extension alone. Answers as sweep_consent does.';
COMMENT ON ROUTINE custodian.sweep_erased IS 'Whether a subject was erased by the moment at, and after each of the moments at which a row of it began: a row without one of them is not known to be what was erased. Answers only inside a sweep or preview of this backend, for what it decides by: 42501 otherwise.';
COMMENT ON ROUTINE custodian.sweep_erasures IS 'When a subject was erased, in a form for the extension alone. Answers as sweep_erased does.';
COMMENT ON ROUTINE custodian.sweep_is_pseudonym IS 'Whether a value is a pseudonym that a key of this database made. Answers only inside a sweep or preview of this backend: 42501 otherwise. 55000 while a key is missing.';
COMMENT ON ROUTINE custodian.sweep_now IS 'Disposes of what is due in a table and its partitions, in one partition, or in every tagged table, in the caller''s transaction; returns the rows per table and action. A partition''s rows take those along that refer to each other with them in a circle, wherever these are. It needs neither the worker nor custodian.disposal = on, but a table whose own tag says "disposal" off or observe is left alone. The fuse applies: where it would blow, the error is 55000, unless a run of the table was approved, which is then executed with its own cutoff, unless only a partition is asked for. Makes the transaction''s constraints immediate. Waits for other transactions that called it, or erased subjects in one of the tables. For stewards.';
COMMENT ON ROUTINE custodian.sweep_pseudonym IS 'The keyed pseudonym of a value. Answers only inside a sweep of this backend: 42501 otherwise. 55000 while a key is missing.';
COMMENT ON ROUTINE custodian.tag_column IS 'Tags a column as personal data, held for purposes.';
COMMENT ON ROUTINE custodian.tag_table IS 'Tags a table: what its periods run from, whom its rows are about, and what becomes of a row whose cells are all past. The tag is what the arguments say: one that is left out is not in it.';
COMMENT ON ROUTINE custodian.untag_column IS 'Removes the label of a column: it counts as unreviewed again. With path, only the tag of that path inside its documents. Only a data steward may.';
COMMENT ON ROUTINE custodian.untag_table IS 'Removes the label of a table, but not those of its columns: without the table''s clock they are kept, and reported, unless they have one of their own. Only a data steward may.';
COMMENT ON ROUTINE custodian.verify_ledger IS 'Lists what contradicts the ledger, against a head that was exported before; no row means verified. Without a head the ledger is checked against itself only: that finds every edit, deletion, insertion and reordering, but neither a ledger whose end was cut off nor one that was rewritten as a whole. Entries that no block holds yet are not vouched for; custodian.ledger_head() counts them. That it was verified, and the outcome, is itself an entry, except on a standby and in read-only transactions. For stewards.';
COMMENT ON ROUTINE custodian.waive IS 'Takes a finding off custodian.check() until expires, and returns the waiver''s number. Only a data steward may.';
COMMENT ON ROUTINE custodian.withdraw_consent IS 'Records that a subject withdrew its consent to a purpose: from then on the purpose covers the subject''s cells no more, unless it consents again. The rights to call it are the application''s: the DBA grants EXECUTE.';
COMMENT ON ROUTINE custodian.withdraw_subscriber_disposal IS 'Takes back that the subscribers of a publication dispose by themselves: its partitions are emptied by DELETE again, before they are dropped. Only a data steward may.';
COMMENT ON ROUTINE custodian.would_end IS 'What runs now and would be ended, with why: under the text of a rules file in rules, or under the file as it is now, and with tags, transfers and lanes as the transaction sees them. So a change can be made, looked at and rolled back. That is replication that the guard''s sentinel would end, archiving on lanes that would stop, sessions that would be outside: these go on, but are refused what must stay; and, of this database, subscriptions that would be disabled, and foreign servers that could not be used. It happens while the gate is on; in warn this is what would. Lanes of other databases cannot be read: a walsender on one is shown when the rules would put its peer into another place. pid is null for what is no session; peer is the name of a subscription or server then. For stewards and members of pg_monitor.';
