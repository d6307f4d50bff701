-- What laws demand beside minimums: suspensions of claim defences, and maximums.

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
