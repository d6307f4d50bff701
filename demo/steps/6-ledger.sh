# Step 6: the evidence.

step_6() {
    headline 'Step 6: the ledger lists all of it, and verifies against a head that was exported before'
    until_is 'the last refusal of step 5 reached the ledger' 60 \
        "SELECT count(*) > 0 FROM custodian.ledger WHERE kind = 'guard.refused' AND object = 'define a purpose'" t
    run_sql postgres 'SELECT custodian.seal_ledger()'
    HEAD=$(value 'SELECT custodian.ledger_head()')
    say "exported, to a place that this server cannot write: $HEAD"
    show li_steward "SELECT kind, count(*), min(at)::timestamptz(0) AS first, max(at)::timestamptz(0) AS last FROM custodian.ledger GROUP BY kind ORDER BY kind"
    local kind
    for kind in policy.purpose tag. hold. run. guard.refused guard.warned; do
        positive "entries of kind $kind" "$(value "SELECT count(*) FROM custodian.ledger WHERE starts_with(kind, '$kind')")"
    done
    say 'refused attempts, although their transactions were rolled back:'
    show li_steward "SELECT entry, at::timestamptz(0), detail ->> 'role' AS role, detail ->> 'gate' AS gate, object, left(detail ->> 'reason', 80) AS reason
  FROM custodian.ledger WHERE kind = 'guard.refused' ORDER BY entry"
    local object
    for object in 'physical replication' 'logical replication' 'publication contacts' app.account app.device app.orders \
        'remove the tag of column app.account.email' 'define a purpose'; do
        positive "refused and in the ledger: $object" \
            "$(value "SELECT count(*) FROM custodian.ledger WHERE kind = 'guard.refused' AND object = '$object'")"
    done

    is 'entries that hold a personal value' 0 "$(value "SELECT count(*) FROM custodian.ledger_entry WHERE body ~ 'zqcanary'")"
    run_sql li_steward "SELECT custodian.define_purpose('shop.survey', 'consent', '30 days', required => false)"
    is 'problems against the exported head, after more was written' 0 "$(value "SELECT count(*) FROM custodian.verify_ledger('$HEAD')")"

    local entry
    entry=$(value "SELECT max(entry) FROM custodian.ledger WHERE kind = 'guard.refused'")
    say "a superuser edits entry $entry"
    show postgres "UPDATE custodian.ledger_entry SET body = replace(body, 'guard.refused', 'guard.allowed') WHERE entry = $entry"
    show postgres "SELECT * FROM custodian.verify_ledger('$HEAD')"
    is 'the entry that verification names' "$entry" "$(value "SELECT string_agg(DISTINCT entry::text, ',') FROM custodian.verify_ledger('$HEAD') WHERE entry IS NOT NULL")"
    shown 'the ledger lists decisions, runs and refused attempts; it verifies against a head exported before, and an edited entry is found and named'
}

summary() {
    case $PRELOAD in
        *pgaudit*) say 'pgaudit logs statements with their values, so the log of the primary is not searched for personal values' ;;
        *) is 'lines with a personal value in the log of the primary' 0 "$(grep -c zqcanary "$WORK/primary.log" || true)" ;;
    esac
    headline 'Shown'
    local line
    for line in "${SHOWN[@]}"; do printf ' * %s\n' "$line"; done
    printf '\n%s checks held in %s s (%s, %s).\n' "$CHECKS" "$SECONDS" "$("$PG_CONFIG" --version)" "$NETWORK"
}
