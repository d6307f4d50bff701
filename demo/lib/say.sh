# Output and checks. Every check counts; the first that does not hold ends the story.

CHECKS=0
SHOWN=()

headline() {
    printf '\n%s\n== %s\n%s\n' "$RULE" "$*" "$RULE"
}
RULE=$(printf '=%.0s' {1..100})

say() {
    printf '%s\n' "-- $*"
}

# Marks something as shown; the summary lists it.
shown() {
    SHOWN+=("$*")
}

held() {
    CHECKS=$((CHECKS + 1))
    printf '   ok: %s\n' "$*"
}

# failed WHAT EXPECTED CAME
failed() {
    {
        printf '\nFAILED: %s\n  expected: %s\n  came:     %s\n' "$1" "$2" "$3"
    } >&2
    exit 1
}

# is WHAT EXPECTED CAME
is() {
    if [ "$2" = "$3" ]; then held "$1: $3"; else failed "$1" "$2" "$3"; fi
}

# positive WHAT NUMBER
positive() {
    case $2 in
        '' | *[!0-9]*) failed "$1" 'a number above 0' "$2" ;;
    esac
    if [ "$2" -gt 0 ]; then held "$1: $2"; else failed "$1" 'a number above 0' "$2"; fi
}

# contains WHAT TEXT FILE
contains() {
    if grep -qF -- "$2" "$3"; then held "$1"; else failed "$1" "the text '$2'" "$(cat "$3")"; fi
}

# ---- SQL on the primary ------------------------------------------------------------------------------

# psql_as ROLE [arguments of psql]: on the primary, over its unix socket.
psql_as() {
    local role=$1
    shift
    at primary "$BIN/psql" -X -q -v ON_ERROR_STOP=1 -h "$WORK/primary" -p "$PORT" -U "$role" -d "${DB:-shop}" "$@"
}

# value QUERY: its result, unaligned, as the superuser.
value() {
    psql_as postgres -At -c "$1"
}

# run_sql ROLE SQL…: statements whose output does not matter.
run_sql() {
    local role=$1
    shift
    local args=()
    for sql in "$@"; do args+=(-c "$sql"); done
    psql_as "$role" "${args[@]}" >/dev/null
}

# show ROLE QUERY: the query and psql's own output.
show() {
    printf '\nshop=> %s\n' "$2"
    psql_as "$1" -P pager=off -P null='(null)' -c "$2"
}

# setting NAME VALUE [NAME VALUE…]: ALTER SYSTEM on the primary, with one reload, and waits until it is in force.
setting() {
    local args=() names=() name wanted
    while [ $# -gt 0 ]; do
        say "ALTER SYSTEM SET $1 = '$2'"
        args+=(-c "ALTER SYSTEM SET $1 = '$2'")
        names+=("$1=$2")
        shift 2
    done
    psql_as postgres "${args[@]}" -c 'SELECT pg_reload_conf()' >/dev/null
    for name in "${names[@]}"; do
        wanted=${name#*=}
        until_is "${name%%=*} is in force" 30 "SELECT current_setting('${name%%=*}')" "$wanted" quiet
    done
}

# until_is WHAT SECONDS QUERY EXPECTED [quiet]: polls until the query says so.
until_is() {
    local end=$((SECONDS + $2)) came=
    while :; do
        came=$(value "$3" 2>&1) || true
        [ "$came" = "$4" ] && break
        [ "$SECONDS" -lt "$end" ] || failed "$1 (within $2 s)" "$4" "$came"
        sleep 0.3
    done
    [ "${5:-}" = quiet ] || held "$1: $came"
}

# refused ROLE SQLSTATE TEXT SQL…: the statements are refused with that state and a message that has TEXT in it.
# The statements run in one session, the last one is the refused one. psql's own output is shown.
refused() {
    local role=$1 state=$2 text=$3 sql args=() out=$WORK/refused.txt
    shift 3
    printf '\n'
    for sql in "$@"; do
        printf 'shop=> %s\n' "$sql"
        args+=(-c "$sql")
    done
    psql_as "$role" -v ON_ERROR_STOP=0 "${args[@]}" -c '\echo SQLSTATE :SQLSTATE' >"$out" 2>&1
    cat "$out"
    contains "refused with SQLSTATE $state" "SQLSTATE $state" "$out"
    contains "the message names '$text'" "$text" "$out"
    grep -qE '^HINT:|must be ' "$out" || failed 'a hint that says what to do, or who may' 'HINT, or must be' "$(cat "$out")"
}
