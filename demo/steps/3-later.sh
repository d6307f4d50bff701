# Step 3: what becomes due afterwards goes unasked.

step_3() {
    headline 'Step 3: rows that become due afterwards go unasked'
    local logs pages
    logs="FROM app.app_log WHERE happened_at + interval '6 months' <= now() + interval '3 days' AND account_id <> 4711"
    pages="FROM app.app_log WHERE happened_at + interval '90 days' <= now() + interval '3 days' AND account_id <> 4711"
    show li_steward "SELECT relation, column_names, action, rows FROM custodian.preview('app.app_log', as_of => now() + interval '3 days') WHERE action <> 'keep'"
    positive 'log rows that will be six months old in three days' "$(value "SELECT count(*) $logs")"
    positive 'pages that will be 90 days old in three days' "$(value "SELECT count(page_url) $pages")"
    say 'the clock of the extension is moved by three days; nobody asks for anything else'
    local from=$SECONDS
    setting custodian.clock_offset 3d
    until_is 'log rows older than six months' 120 "SELECT count(*) $logs" 0
    until_is 'pages older than 90 days' 120 "SELECT count(page_url) $pages" 0
    until_is 'tables with a run of that day that is done' 120 "SELECT count(DISTINCT relation) FROM custodian.runs
        WHERE state = 'done' AND rows_done > 0 AND cutoff > now() + interval '1 day'" 5
    until_is 'runs that go on' 60 "SELECT count(*) FROM custodian.runs WHERE state IN ('approved', 'running')" 0 quiet
    say "gone after $((SECONDS - from)) s; custodian.naptime is $(value 'SHOW custodian.naptime')"
    show li_steward "SELECT run_id, relation, state, rows_planned, rows_done, approved_by, cutoff FROM custodian.runs
 WHERE cutoff > now() + interval '1 day' AND rows_planned > 0 ORDER BY run_id"
    is 'runs that waited for somebody' 0 "$(value "SELECT count(*) FROM custodian.runs WHERE state = 'waiting'")"
    setting custodian.clock_offset 0
    shown 'rows that became due afterwards went by themselves'
}
