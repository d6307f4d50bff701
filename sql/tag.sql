-- What is declared, for everyone to see: none of it is personal data.

CREATE VIEW custodian.tags AS
SELECT relation::pg_catalog.regclass AS relation, column_name, kind, category, sensitivity, purposes, residency,
       on_expiry, clock, minimums, subject_kind, subject_key, subject_via, collected, null_clock,
       residency_column, disposal, problem, maximums, dependents
FROM custodian.read_tags();
COMMENT ON VIEW custodian.tags IS 'tags of tables and columns as declared; kind is column, path, document, derived, table or cleared';

CREATE VIEW custodian.purposes AS
SELECT p.name, p.basis, p.jurisdiction, p.required, h.period, h.in_force_since,
       (SELECT pg_catalog.count(*) FROM custodian.purpose_period c WHERE c.purpose OPERATOR(pg_catalog.=) p.name) AS periods,
       p.ended_at, p.description, p.created_at, p.created_by
FROM custodian.purpose p
LEFT JOIN LATERAL (
    SELECT c.period, c.in_force_since FROM custodian.purpose_period c
    WHERE c.purpose OPERATOR(pg_catalog.=) p.name ORDER BY c.in_force_since DESC LIMIT 1) h ON true;
COMMENT ON VIEW custodian.purposes IS 'why data is held: the period in force, and how many periods there were';

CREATE VIEW custodian.minimums AS
SELECT m.name, m.period, m.citation, m.defence,
       (SELECT s.suspended_at FROM custodian.suspension s
        WHERE s.minimum OPERATOR(pg_catalog.=) m.name AND s.resumed_at IS NULL
        ORDER BY s.suspended_at LIMIT 1) AS suspended_at,
       m.created_at, m.created_by, m.enforcement
FROM custodian.minimum m;
COMMENT ON VIEW custodian.minimums IS 'laws that forbid destruction before a date, and claim defences';

CREATE VIEW custodian.publication_permits AS
SELECT p.publication, p.regions, p.reason, p.permitted_by, p.permitted_at
FROM custodian.publication_permit p;
COMMENT ON VIEW custodian.publication_permits IS 'publications of tagged columns that a steward allowed';
