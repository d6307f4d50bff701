-- Legal holds and the row guard.

-- Internal triggers of the extension call it; to fire they need no EXECUTE privilege.
CREATE FUNCTION custodian.row_guard() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'custodian_row_guard';
COMMENT ON FUNCTION custodian.row_guard() IS 'refuses what would destroy rows that legal holds or statutory minimums keep';

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

CREATE VIEW custodian.holds WITH (security_barrier) AS
SELECT h.hold, h.matter, h.scope,
       CASE WHEN r.ref IS NOT NULL THEN pg_catalog.quote_ident(r.nspname) || '.' || pg_catalog.quote_ident(r.relname) END AS relation,
       h.subject_kind, h.subject_key, h.matching AS match, h.reason, h.approver, h.review_on,
       h.placed_at, h.placed_by, h.released_at, h.released_by, h.release_approver, h.release_reason
FROM custodian.hold h
LEFT JOIN custodian.relation_ref r ON r.ref = h.relation
WHERE custodian.require_steward('read legal holds');
COMMENT ON VIEW custodian.holds IS 'legal holds, the released ones too. It shows subject keys: for stewards';

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
