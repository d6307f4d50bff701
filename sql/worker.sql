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
       r.approval_reason
FROM custodian.run r;
COMMENT ON VIEW custodian.runs IS 'sweeps of one table each: observed, waiting for approval, running, done; relation is NULL when the table is gone';

CREATE VIEW custodian.run_items AS
SELECT i.run_id, i.item, i.leaf, i.columns, i.action, i.reason, i.planned, i.done
FROM custodian.run_item i;
COMMENT ON VIEW custodian.run_items IS 'what a run does on one leaf: rows planned and rows done';
