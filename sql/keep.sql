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
