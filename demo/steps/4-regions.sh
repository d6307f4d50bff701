# Step 4: a standby in the region, and five ways out of it: first in warn, then in on.

step_4() {
    headline 'Step 4: nodes inside and outside the region'
    inside_standby
    outside_cluster
    local late=zqcanary-late

    say 'custodian.enforce = warn: everything passes, and is recorded as what would have been refused'
    is 'custodian.enforce' warn "$(value 'SHOW custodian.enforce')"
    run_sql postgres 'CREATE PUBLICATION everything FOR TABLE app.account, app.orders'
    attempts warn
    local way
    for way in base_backup standby subscription recvlogical dump; do
        is "warn lets it through: $way" passed "$(cat "$WORK/warn/$way.verdict")"
    done
    positive 'bytes of tagged data that reached the other region, in warn: lines with zqcanary' "$(canaries warn)"
    show_events warned

    say 'custodian.enforce = on'
    setting custodian.enforce on
    run_sql postgres "UPDATE app.account SET email = 'user1.$late@mail.example' WHERE account_id = (SELECT min(account_id) FROM app.account WHERE email IS NOT NULL)"
    attempts on
    for way in base_backup standby subscription recvlogical dump; do
        is "refused: $way" refused "$(cat "$WORK/on/$way.verdict")"
        grep -m 4 -E 'FATAL|ERROR|error:|DETAIL|HINT' "$WORK/on/$way.txt" | sed 's/^/        /'
        contains "its error says where the peer is" 'region "eu"' "$WORK/on/$way.txt"
        grep -q 'HINT' "$WORK/on/$way.txt" || failed "a remedy in the error of $way" HINT "$(cat "$WORK/on/$way.txt")"
    done
    is 'lines with tagged data in all that the other region received, in on' 0 "$(canaries on)"
    is 'files outside the region with what was written since' 0 \
        "$({ grep -rlaF "$late" "$WORK/outside" "$WORK/on" || true; } | wc -l)"
    show_events refused
    say 'the standby in the region: its connection is cut, and it comes back'
    local pid
    pid=$(value "SELECT pid FROM pg_stat_replication WHERE application_name = 'standby'")
    run_sql postgres "SELECT pg_terminate_backend($pid)"
    until_is 'the standby in the region replicates' 60 \
        "SELECT state FROM pg_stat_replication WHERE application_name = 'standby' AND pid <> $pid" streaming
    until_is_standby "SELECT count(*) FROM app.account WHERE email LIKE '%$late%'" 1
    shown "an in-region standby replicates; pg_basebackup, a physical standby, CREATE SUBSCRIPTION, pg_recvlogical and pg_dump from outside pass in warn, recorded, and are refused in on ($NETWORK)"
}

inside_standby() {
    say 'a standby inside the region'
    at standby mkdir -p "$WORK/standby"
    at standby "$BIN/pg_basebackup" -d "$(conninfo standby)" -D "$WORK/standby/data" -X stream -c fast -R --no-sync
    start standby
    until_is 'the standby in the region replicates' 60 "SELECT state FROM pg_stat_replication WHERE application_name = 'standby'" streaming
    until_is_standby 'SELECT count(*) FROM app.orders' 8000
    show postgres "SELECT application_name, client_addr, state, sync_state FROM pg_stat_replication"
}

# until_is_standby QUERY EXPECTED
until_is_standby() {
    local end=$((SECONDS + 60)) came=
    while :; do
        came=$(node_sql standby shop "$1" 2>&1) || true
        [ "$came" = "$2" ] && break
        [ "$SECONDS" -lt "$end" ] || failed "on the standby: $1" "$2" "$came"
        sleep 0.3
    done
    held "on the standby: $1: $came"
}

# A cluster of somebody else, without the extension, with empty tables to subscribe into.
outside_cluster() {
    new_cluster outside
    start outside
    at outside "$BIN/createdb" -h "$WORK/outside" -p "$(socket_port outside)" -U postgres shop
    at outside "$BIN/psql" -X -q -v ON_ERROR_STOP=1 -h "$WORK/outside" -p "$(socket_port outside)" -U postgres -d shop \
        -f "$WORK/schema.sql" >/dev/null
}

# attempts MODE: five ways to get the data from outside; what each received and said is in WORK/MODE.
attempts() {
    local dir=$WORK/$1
    at outside mkdir -p "$dir"
    capture_start "$dir/wire"
    attempt "$1" base_backup
    attempt "$1" standby
    attempt "$1" subscription
    attempt "$1" recvlogical
    attempt "$1" dump
    capture_stop "$dir/wire"
}

# attempt MODE NAME
attempt() {
    say "$1: $2"
    if "try_$2" "$WORK/$1" "$1" >"$WORK/$1/$2.txt" 2>&1; then echo passed; else echo refused; fi >"$WORK/$1/$2.verdict"
}

try_base_backup() {
    at outside "$BIN/pg_basebackup" -d "$(conninfo outside)" -D "$1/base" -X fetch -c fast -R --no-sync -w
}

# A physical standby. In `on` the copy is the one that warn let through; it is to get nothing newer.
try_standby() {
    local seen=1 end=$((SECONDS + 40))
    if [ "$2" = warn ]; then at outside cp -a "$1/base" "$WORK/outside/standby"; fi
    : >"$WORK/outside-standby.log"
    chown postgres: "$WORK/outside-standby.log"
    at outside "$BIN/pg_ctl" start -D "$WORK/outside/standby" -w -t 60 -l "$WORK/outside-standby.log" \
        -o "-p $(outside_standby_port) -k $WORK/outside -c cluster_name=outside -c shared_preload_libraries= -c hot_standby=on" || return
    STARTED+=("$WORK/outside/standby")
    while [ "$SECONDS" -lt "$end" ]; do
        if [ "$(value "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'outside'")" = 1 ]; then seen=0; break; fi
        if grep -q 'FATAL:.*could not connect\|FATAL:.*could not start WAL\|FATAL:.*could not receive' "$WORK/outside-standby.log"; then break; fi
        sleep 0.5
    done
    at outside "$BIN/pg_ctl" stop -D "$WORK/outside/standby" -w -t 60 -m fast
    cat "$WORK/outside-standby.log"
    return "$seen"
}

outside_standby_port() {
    if [ "$NETWORK" = namespaces ]; then echo 5433; else free_port; fi
}

try_subscription() {
    local end=$((SECONDS + 60)) rows=0
    node_sql outside shop 'TRUNCATE app.account CASCADE'
    node_sql outside shop "CREATE SUBSCRIPTION from_cn CONNECTION '$(conninfo outside shop)' PUBLICATION everything" || return
    while [ "$SECONDS" -lt "$end" ]; do
        rows=$(node_sql outside shop 'SELECT count(*) FROM app.account')
        [ "$rows" = 0 ] || break
        sleep 0.5
    done
    node_sql outside shop 'DROP SUBSCRIPTION from_cn'
    echo "rows that arrived: $rows"
    [ "$rows" != 0 ]
}

try_recvlogical() {
    local slot=from_$2 lsn
    at outside "$BIN/pg_recvlogical" -d "$(conninfo outside shop)" --slot "$slot" --create-slot --plugin test_decoding -w || return
    run_sql postgres "UPDATE app.account SET phone = phone WHERE account_id IN (SELECT account_id FROM app.account WHERE email IS NOT NULL ORDER BY 1 LIMIT 20)"
    lsn=$(value 'SELECT pg_current_wal_lsn()')
    at outside timeout 60 "$BIN/pg_recvlogical" -d "$(conninfo outside shop)" --slot "$slot" --start --endpos "$lsn" -f "$1/changes.txt" -n -w
    at outside "$BIN/pg_recvlogical" -d "$(conninfo outside shop)" --slot "$slot" --drop-slot -w
    grep -q zqcanary "$1/changes.txt"
}

try_dump() {
    at outside "$BIN/pg_dump" -d "$(conninfo outside shop)" -w -f "$1/dump.sql"
}

# canaries MODE: lines with tagged data in all files that the attempts of this mode left, and on the wire.
canaries() {
    { grep -rahF zqcanary "$WORK/$1" || true; } | wc -l
}

# What arrives in the namespace of the outside peer, byte by byte. Over TLS there is nothing to read.
capture_start() {
    [ "$NETWORK" = namespaces ] || return 0
    : >"$WORK/capture.txt"
    ip netns exec "$NS_PREFIX-outside" perl "$WORK/capture.pl" "$1" >"$WORK/capture.txt" 2>&1 &
    CAPTURE=$!
    local end=$((SECONDS + 20))
    until grep -q capturing "$WORK/capture.txt"; do
        [ "$SECONDS" -lt "$end" ] || failed 'capture of the wire' capturing "$(cat "$WORK/capture.txt")"
        sleep 0.1
    done
}

capture_stop() {
    [ -n "$CAPTURE" ] || return 0
    sleep 0.5
    kill "$CAPTURE"
    wait "$CAPTURE" || true
    CAPTURE=
    say "captured on the wire: $(stat -c %s "$1") bytes"
}

# show_events OUTCOME: what the guard recorded about each of the five ways, and nothing about the standby inside.
show_events() {
    local wanted=access,ddl,login,replication
    if [ "$1" = refused ]; then wanted=access,login; fi
    until_is "gates that recorded what they $1" 60 \
        "SELECT string_agg(DISTINCT gate, ',' ORDER BY gate) FROM custodian.guard_events WHERE outcome = '$1'" "$wanted"
    show li_steward "SELECT gate, outcome, role, peer, region, regexp_replace(object, '_[0-9]{4}_[0-9]{2}$|[0-9]+_sync_[0-9_]+', '*') AS object, sum(count) AS times
  FROM custodian.guard_events WHERE outcome = '$1' GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY gate, object"
    is 'events about peers inside the region' 0 "$(value "SELECT count(*) FROM custodian.guard_events WHERE region = 'cn' AND peer <> 'unix socket'")"
}
