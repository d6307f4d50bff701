-- Enforcement uptime: what was in force, from when to when.

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
