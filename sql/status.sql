-- Whether everything runs as it should.

CREATE VIEW custodian.status AS
SELECT s.*, custodian.settings_gate() AS enforce_settings FROM custodian.status_row() s;
COMMENT ON VIEW custodian.status IS 'one row: library, worker, modes, region, keys, epoch';

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
