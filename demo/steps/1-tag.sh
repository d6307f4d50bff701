# Step 1: purposes, tags, and a preview that touches nothing.

step_1() {
    headline 'Step 1: purposes are defined, columns are tagged, and a preview tells what is due'
    run_sql postgres 'CREATE EXTENSION pg_custodian'
    until_is 'the worker of this database started by itself' 60 'SELECT worker_alive FROM custodian.status' t
    say 'the policy, by a data steward: demo/policy.sql'
    psql_as li_steward -1 -f "$WORK/policy.sql" >/dev/null
    show li_steward 'SELECT name, basis, period, required FROM custodian.purposes ORDER BY name'
    show li_steward 'SELECT relation, column_name, category, purposes, residency, on_expiry FROM custodian.tags ORDER BY relation::text, column_name NULLS FIRST'
    show postgres "SELECT provider, objtype, objname, label FROM pg_seclabels WHERE objname = 'app.account.email'"
    is 'tagged columns' 13 "$(value "SELECT count(*) FROM pg_seclabels WHERE provider = 'custodian' AND objtype = 'column'
        AND label LIKE '%purposes%'")"
    # Three years of data are due at once: disposal is behind until step 2 switches it on.
    is 'problems that are errors' none "$(value "SELECT coalesce(string_agg(concat_ws(' ', code, object, problem), '; '), 'none')
        FROM custodian.check() WHERE severity = 'error' AND code <> 'disposal-behind'")"

    say 'what keeps data whatever its age: a court asks for one customer, tax law for the orders (policy.sql)'
    run_sql li_steward "SELECT custodian.place_hold('2026-civ-0417', approver => 'general_counsel', review_on => current_date + 180,
        reason => 'order of the court of first instance', subject_kind => 'customer', subject_key => '{4711}')"

    is 'custodian.disposal' observe "$(value 'SHOW custodian.disposal')"
    BEFORE=$(fingerprint)
    run_sql postgres 'CREATE TABLE demo.preview AS SELECT * FROM custodian.preview()' \
        'GRANT USAGE ON SCHEMA demo TO li_steward' 'GRANT SELECT ON demo.preview TO li_steward'
    show li_steward 'SELECT relation, column_names, action, reason, rows FROM custodian.preview() ORDER BY relation::text, action, rows DESC'

    say 'counted by plain SQL, to compare:'
    is 'log rows older than six months, but for the held customer, are to be deleted' \
        "$(value "SELECT count(*) FROM app.app_log WHERE happened_at + interval '6 months' <= now() AND account_id <> 4711")" \
        "$(value "SELECT sum(rows) FROM demo.preview WHERE relation = 'app.app_log'::regclass AND action = 'delete row'")"
    is 'delivery addresses older than 180 days, but for the held customer, are to be set to null' \
        "$(value "SELECT count(*) FROM app.orders WHERE ordered_at + interval '180 days' <= now() AND account_id <> 4711")" \
        "$(value "SELECT max(rows) FROM demo.preview WHERE relation = 'app.orders'::regclass AND action = 'set null'")"
    until_is 'the worker planned every table, and only observed' 120 \
        "SELECT count(DISTINCT relation) FROM custodian.runs WHERE state = 'observed'" 5
    is 'nothing has been touched: digest of all rows' "$BEFORE" "$(fingerprint)"
    shown 'purposes and tags, shown by psql; a preview per table, column, action and reason; nothing touched while observing'
}
