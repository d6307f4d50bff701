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
