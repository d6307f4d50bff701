-- Whether everything runs as it should.

CREATE VIEW custodian.status AS SELECT * FROM custodian.status_row();
COMMENT ON VIEW custodian.status IS 'one row: library, worker, modes, region, keys, epoch';

CREATE VIEW custodian.metrics AS
SELECT 'custodian_rows_disposed'::text AS name, pg_catalog.jsonb_build_object('relation', r.relation_name) AS labels,
       sum(r.rows_done)::double precision AS value
FROM custodian.run r GROUP BY r.relation_name
UNION ALL
SELECT 'custodian_wal_bytes', pg_catalog.jsonb_build_object('relation', r.relation_name), sum(r.wal_bytes)::double precision
FROM custodian.run r GROUP BY r.relation_name
UNION ALL
SELECT 'custodian_waited_seconds', pg_catalog.jsonb_build_object('relation', r.relation_name),
       extract(epoch FROM sum(r.waited))::double precision
FROM custodian.run r GROUP BY r.relation_name
UNION ALL
SELECT 'custodian_runs', pg_catalog.jsonb_build_object('state', r.state), count(*)::double precision
FROM custodian.run r GROUP BY r.state
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
COMMENT ON VIEW custodian.metrics IS 'one row per measure, for exporters: name, labels, value; sums are over the runs that are on record';
