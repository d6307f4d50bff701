-- The worker: what it planned and did. No personal values: names of tables and columns, counts, error codes.

CREATE VIEW custodian.runs AS
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

CREATE VIEW custodian.run_items AS
SELECT i.run_id, i.item, i.leaf, i.columns, i.action, i.reason, i.planned, i.done, i.way
FROM custodian.run_item i;
COMMENT ON VIEW custodian.run_items IS 'what a run does on one leaf: rows planned and rows done, and which way it goes over the leaf, and why';

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

CREATE VIEW custodian.quarantined_rows AS
SELECT q.leaf::pg_catalog.regclass AS leaf, q.tid, q.columns, q.action, q.sqlstate, q.relation_name, q.constraint_name,
       q.failures, q.first_tried_at, q.last_tried_at, q.retry_at
FROM custodian.quarantine q
WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = q.leaf);
COMMENT ON VIEW custodian.quarantined_rows IS 'rows that are due and could not be disposed of: where each lies (ctid), the SQLSTATE, relation and constraint of the error, and when it is tried again; never a value';

CREATE VIEW custodian.pauses AS
SELECT CASE WHEN p.relation <> 0 THEN p.relation::pg_catalog.regclass END AS relation, p.cause, p.reason, p.paused_by, p.paused_at
FROM custodian.pause p;
COMMENT ON VIEW custodian.pauses IS 'pauses of disposal that are in force; relation is NULL for every table, cause is not "paused" where the scheduler stopped by itself';

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

-- It commits, so it is a procedure, and may have no settings of its own.
CREATE PROCEDURE custodian.sweep(rel regclass DEFAULT NULL) LANGUAGE c AS 'MODULE_PATHNAME', 'custodian_sweep';
COMMENT ON PROCEDURE custodian.sweep(regclass) IS 'Disposes of what is due in a table and its partitions, or in every tagged table, in batches that each commit, by a background worker: as the scheduler does it, whatever custodian.disposal is, with the same fuse, pauses and quarantine. Waits until it is through, and tells the number of rows by a NOTICE. A table whose own tag says "disposal" off or observe is left alone. A cancel ends it after the batches that have committed. A partition alone is refused (42809): sweep_now() takes one. For stewards.';
