# Step 2: disposal is switched on; the fuse, the approval, and what stays.

step_2() {
    headline 'Step 2: disposal is switched on, and the fuse stops the backlog until it is approved'
    setting custodian.disposal on
    until_is 'runs that wait for approval' 120 "SELECT count(*) FROM custodian.runs WHERE state = 'waiting'" 5
    show li_steward "SELECT run_id, relation, state, rows_planned, table_rows, reason FROM custodian.runs WHERE state = 'waiting' ORDER BY run_id"
    is 'nothing has been touched: digest of all rows' "$BEFORE" "$(fingerprint)"

    say 'the steward compares with the preview, and approves'
    show li_steward "SELECT custodian.approve_run(run_id, 'first backlog, as previewed') FROM custodian.runs WHERE state = 'waiting'"
    until_is 'runs that are done' 300 "SELECT count(DISTINCT relation) FROM custodian.runs WHERE state = 'done' AND rows_done > 0" 5
    show li_steward "SELECT run_id, relation, state, rows_planned, rows_done, batches, approved_by, finished_at - started_at AS took
  FROM custodian.runs WHERE state = 'done' AND rows_done > 0 ORDER BY run_id"

    run_sql postgres "CREATE TABLE demo.done AS SELECT r.relation::text AS relation, i.columns AS column_names, i.action, sum(i.done) AS rows
        FROM custodian.run_items AS i JOIN custodian.runs AS r USING (run_id) WHERE r.state = 'done' AND i.done > 0 GROUP BY 1, 2, 3" \
        'GRANT SELECT ON demo.done TO li_steward'
    show li_steward "SELECT relation, column_names, action, p.rows AS previewed, d.rows AS disposed
  FROM (SELECT relation::text, column_names, action, sum(rows) AS rows FROM demo.preview WHERE action <> 'keep' GROUP BY 1, 2, 3) AS p
  FULL JOIN demo.done AS d USING (relation, column_names, action) ORDER BY relation, action, column_names"
    is 'differences between the preview and what was disposed' 0 "$(value "SELECT count(*)
  FROM (SELECT relation::text, column_names, action, sum(rows) AS rows FROM demo.preview WHERE action <> 'keep' GROUP BY 1, 2, 3) AS p
  FULL JOIN demo.done AS d USING (relation, column_names, action) WHERE p.rows IS DISTINCT FROM d.rows")"

    say 'what is left, by plain SQL:'
    is 'log rows older than six months' 0 \
        "$(value "SELECT count(*) FROM app.app_log WHERE happened_at + interval '6 months' <= now() AND account_id <> 4711")"
    is 'pages seen more than 90 days ago' 0 \
        "$(value "SELECT count(page_url) FROM app.app_log WHERE happened_at + interval '90 days' <= now() AND account_id <> 4711")"
    positive 'pages seen since' "$(value "SELECT count(page_url) FROM app.app_log WHERE happened_at + interval '90 days' > now()")"
    is 'e-mail addresses of users not seen for a year' 0 \
        "$(value "SELECT count(email) FROM app.account WHERE last_seen_at + interval '1 year' <= now() AND account_id <> 4711")"
    is 'orders' 8000 "$(value 'SELECT count(*) FROM app.orders')"
    is 'orders with the buyer and the amount that tax law keeps' 8000 \
        "$(value 'SELECT count(*) FROM app.orders WHERE buyer_name IS NOT NULL AND amount IS NOT NULL')"
    positive 'rows of the held customer in the log, all older than 700 days' \
        "$(value "SELECT count(*) FROM app.app_log WHERE account_id = 4711 AND happened_at < now() - interval '700 days' AND page_url IS NOT NULL")"

    say 'why is this still here? The customer of the court, and an order of three years ago:'
    show li_steward "SELECT column_name, state, decided_by, until, explanation FROM custodian.explain_row('app.account', '{\"account_id\": 4711}')"
    is 'the e-mail address of customer 4711 is held by the matter' 'held|t' "$(value "SELECT state, decided_by || explanation ~ '2026-civ-0417'
        FROM custodian.explain_row('app.account', '{\"account_id\": 4711}') WHERE column_name = 'email'")"
    local order
    order=$(value "SELECT order_id FROM app.orders WHERE account_id <> 4711 AND ordered_at + interval '2 years' <= now() ORDER BY order_id LIMIT 1")
    show li_steward "SELECT column_name, state, decided_by, until, citation FROM custodian.explain_row('app.orders', '{\"order_id\": $order}')"
    is 'its amount is blocked by the law' 'blocked|t' "$(value "SELECT state, citation ~ 'Article 29'
        FROM custodian.explain_row('app.orders', '{\"order_id\": $order}') WHERE column_name = 'amount'")"
    is 'its delivery address is gone' disposed "$(value "SELECT state FROM custodian.explain_row('app.orders', '{\"order_id\": $order}') WHERE column_name = 'ship_address'")"
    shown 'the fuse stopped the backlog before its first row; approved, it disposed exactly what the preview said'
    shown 'a legal hold and a statutory minimum kept their rows, and explain_row names them'
}
