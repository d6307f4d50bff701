-- Evidence: the keys of this database, and the ledger as stewards read it.

-- The extension's own keys. A dump carries their names and not the keys: see custodian.export_keys().
SELECT custodian.create_missing_keys();

-- Anybody may name these views; whoever is no steward gets an error and no row. The barrier keeps a reader's
-- own functions from seeing rows before that was asked.

CREATE VIEW custodian.ledger WITH (security_barrier) AS
SELECT e.entry,
       (b.body ->> 'at')::timestamptz AS at,
       b.body ->> 'kind' AS kind,
       (b.body ->> 'epoch')::bigint AS epoch,
       b.body ->> 'actor' AS actor,
       b.body ->> 'object' AS object,
       b.body -> 'detail' AS detail,
       l.block
FROM custodian.ledger_entry e
CROSS JOIN LATERAL (SELECT custodian.ledger_body(e.body) AS body OFFSET 0) b
LEFT JOIN custodian.ledger_leaf l USING (entry)
WHERE custodian.require_steward('read the ledger');
COMMENT ON VIEW custodian.ledger IS 'what was decided and done; block is NULL until an entry is sealed. For stewards';

CREATE VIEW custodian.guard_events WITH (security_barrier) AS
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
COMMENT ON VIEW custodian.guard_events IS 'what the guard refused, or would have refused: from the ledger, and what has not reached it yet. For stewards';
