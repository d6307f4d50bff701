# Nodes: PostgreSQL clusters in a temporary directory, each in a network namespace of its own where the
# machine can make them, otherwise all on the loopback interface with one certificate per region.
#
#   primary   region cn, organisation shop
#   standby   region cn, organisation shop
#   outside   region eu, organisation vendor: anything that peer can reach

NS_PREFIX=pgc$$
NETWORK=
PORT=5432

# ---- network -----------------------------------------------------------------------------------------

make_network() {
    case ${DEMO_NETWORK:-} in
        certificates) say 'asked for certificates instead of network namespaces' ;;
        *) if make_namespaces 2>"$WORK/namespaces.txt"; then NETWORK=namespaces; return; fi
           drop_namespaces
           [ "${DEMO_NETWORK:-}" != namespaces ] || failed 'network namespaces' 'three of them' "$(cat "$WORK/namespaces.txt")"
           say "this machine cannot make network namespaces: $(tail -n 1 "$WORK/namespaces.txt")" ;;
    esac
    say 'instead, all nodes are on the loopback interface, and each region has its own certificate authority'
    NETWORK=certificates
    make_certificates
}

make_namespaces() {
    local node
    for node in primary standby outside; do
        ip netns add "$NS_PREFIX-$node" || return
        ip -n "$NS_PREFIX-$node" link set lo up || return
    done
    link standby cn 10.86.1.1 10.86.1.2 || return
    link outside eu 10.33.1.1 10.33.1.2 || return
    PRIMARY_FOR_standby=10.86.1.1
    PRIMARY_FOR_outside=10.33.1.1
}

# link NODE NAME PRIMARY_ADDRESS NODE_ADDRESS: a cable between the primary and another node.
link() {
    ip -n "$NS_PREFIX-primary" link add "$2" type veth peer name primary netns "$NS_PREFIX-$1" || return
    ip -n "$NS_PREFIX-primary" addr add "$3/24" dev "$2" || return
    ip -n "$NS_PREFIX-$1" addr add "$4/24" dev primary || return
    ip -n "$NS_PREFIX-primary" link set "$2" up || return
    ip -n "$NS_PREFIX-$1" link set primary up
}

drop_namespaces() {
    local node
    for node in primary standby outside; do
        ip netns del "$NS_PREFIX-$node" 2>/dev/null || true
    done
}

make_certificates() {
    local dir=$WORK/certs region
    mkdir "$dir"
    command -v openssl >/dev/null || failed 'certificates' 'the program openssl' 'it is not installed'
    for region in cn eu; do
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
            -subj "/O=Demo/CN=Region $region CA" -keyout "$dir/ca-$region.key" -out "$dir/ca-$region.crt" 2>/dev/null
    done
    make_certificate cn server
    make_certificate cn standby
    make_certificate eu outside
    cat "$dir"/ca-*.crt >"$dir/all.crt"
    chown -R postgres: "$dir"
    chmod 600 "$dir"/*.key
    PRIMARY_FOR_standby=127.0.0.1
    PRIMARY_FOR_outside=127.0.0.1
    PORT=$(free_port)
    STANDBY_PORT=$(free_port)
    OUTSIDE_PORT=$(free_port)
}

# make_certificate REGION NAME
make_certificate() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/O=Demo/CN=$2" \
        -keyout "$dir/$2.key" -out "$dir/$2.csr" 2>/dev/null
    openssl x509 -req -in "$dir/$2.csr" -CA "$dir/ca-$1.crt" -CAkey "$dir/ca-$1.key" -CAcreateserial \
        -days 2 -out "$dir/$2.crt" 2>/dev/null
}

# A port of the loopback interface that nobody uses now.
free_port() {
    perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); bind(S, sockaddr_in(0, INADDR_LOOPBACK));
        print +(sockaddr_in(getsockname(S)))[0]'
}

# at NODE COMMAND…: runs it as user postgres, in the node's namespace if there is one.
at() {
    local node=$1
    shift
    if [ "$NETWORK" = namespaces ]; then
        ip netns exec "$NS_PREFIX-$node" runuser -u postgres -- "$@"
    else
        runuser -u postgres -- "$@"
    fi
}

# conninfo NODE [DATABASE]: how that node reaches the primary over the network.
conninfo() {
    local host=PRIMARY_FOR_$1
    printf 'host=%s port=%s user=replicator application_name=%s connect_timeout=10' "${!host}" "$PORT" "$1"
    [ -z "${2:-}" ] || printf ' dbname=%s' "$2"
    [ "$NETWORK" = namespaces ] || printf ' sslmode=require sslcert=%s sslkey=%s' "$WORK/certs/$1.crt" "$WORK/certs/$1.key"
}

# ---- clusters ----------------------------------------------------------------------------------------

# socket_port NODE: the port that the node's own server listens on.
socket_port() {
    if [ "$NETWORK" = namespaces ]; then echo 5432; return; fi
    case $1 in
        primary) echo "$PORT" ;;
        standby) echo "$STANDBY_PORT" ;;
        *) echo "$OUTSIDE_PORT" ;;
    esac
}

region_of() {
    case $1 in primary | standby) echo cn ;; *) echo eu ;; esac
}

# new_cluster NODE
new_cluster() {
    at "$1" mkdir -p "$WORK/$1"
    at "$1" "$BIN/initdb" -D "$WORK/$1/data" -U postgres -A trust -E UTF8 --locale=C --no-sync --no-instructions >"$WORK/initdb.txt" 2>&1 ||
        failed "initdb of $1" 'success' "$(cat "$WORK/initdb.txt")"
    cat >>"$WORK/$1/data/postgresql.conf" <<CONF
listen_addresses = '$([ "$NETWORK" = namespaces ] && echo '*' || echo 127.0.0.1)'
fsync = off
full_page_writes = off
wal_level = logical
max_wal_size = 2GB
max_worker_processes = 16
max_replication_slots = 10
max_wal_senders = 10
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %b %q%u@%d '
wal_retrieve_retry_interval = '1s'
CONF
    printf 'local all all trust\nlocal replication all trust\n' >"$WORK/$1/data/pg_hba.conf"
    if [ "$NETWORK" = namespaces ]; then
        printf 'host all all all trust\nhost replication all all trust\n' >>"$WORK/$1/data/pg_hba.conf"
    else
        printf 'hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\nhostssl replication all 127.0.0.1/32 trust clientcert=verify-ca\n' \
            >>"$WORK/$1/data/pg_hba.conf"
        cat >>"$WORK/$1/data/postgresql.conf" <<CONF
ssl = on
ssl_cert_file = '$WORK/certs/server.crt'
ssl_key_file = '$WORK/certs/server.key'
ssl_ca_file = '$WORK/certs/all.crt'
CONF
    fi
}

# start NODE [DATA]: starts the server of a node; DATA is the directory under WORK/NODE, by default `data`.
start() {
    local node=$1 data=$WORK/$1/${2:-data} options
    options="-p $(socket_port "$node") -k $WORK/$node -c cluster_name=$node"
    # The region of a node belongs outside the data directory, since a base backup copies that. With namespaces
    # the node's own addresses and the rules file say it.
    if [ "$NETWORK" = certificates ] && grep -q pg_custodian "$data/postgresql.conf"; then
        options+=" -c custodian.region=$(region_of "$node")"
    fi
    STARTED+=("$data")
    at "$node" "$BIN/pg_ctl" start -D "$data" -w -t 120 -l "$WORK/$node.log" -o "$options" >"$WORK/pg_ctl.txt" 2>&1 ||
        failed "start of $node" 'a running server' "$(cat "$WORK/pg_ctl.txt"; tail -n 20 "$WORK/$node.log")"
}

# stop NODE [DATA]
stop() {
    at "$1" "$BIN/pg_ctl" stop -D "$WORK/$1/${2:-data}" -w -t 60 -m fast >"$WORK/pg_ctl.txt" 2>&1 ||
        failed "stop of $1" 'a stopped server' "$(cat "$WORK/pg_ctl.txt")"
}

# node_sql NODE DATABASE QUERY: on the node's own server, over its unix socket.
node_sql() {
    at "$1" "$BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -h "$WORK/$1" -p "$(socket_port "$1")" -U postgres -d "$2" -c "$3"
}

stop_all() {
    local data pid
    for data in "${STARTED[@]}"; do
        if [ -f "$data/postmaster.pid" ]; then
            runuser -u postgres -- "$BIN/pg_ctl" stop -D "$data" -w -t 20 -m immediate >/dev/null 2>&1 || {
                pid=$(head -n 1 "$data/postmaster.pid" 2>/dev/null) && kill -KILL "$pid" 2>/dev/null
            } || true
        fi
    done
}

# The rules file: one file for every node, in the manner of pg_hba.conf.
write_rules() {
    if [ "$NETWORK" = namespaces ]; then
        cat <<'RULES'
# what     where          region  organisation
region     cn
region     eu
node       10.86.1.1      cn      shop
node       10.86.1.2      cn      shop
network    10.86.0.0/16   cn      shop
network    10.33.0.0/16   eu      vendor
local      all
residency  cn
RULES
    else
        cat <<'RULES'
# what     who                          region  organisation
region     cn
region     eu
issuer     "/O=Demo/CN=Region cn CA"     cn      shop
issuer     "/O=Demo/CN=Region eu CA"     eu      vendor
local      all
residency  cn
RULES
    fi
}
