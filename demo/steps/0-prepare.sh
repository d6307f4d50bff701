# The primary, its application and its data.

prepare() {
    headline 'A primary with an application on it'
    say "server: $("$PG_CONFIG" --version), shared_preload_libraries = '$PRELOAD'"
    make_network
    say "nodes: $NETWORK"
    new_cluster primary
    cat >>"$WORK/primary/data/postgresql.conf" <<CONF
shared_preload_libraries = '$PRELOAD'
custodian.steward_role = 'data_steward'
custodian.naptime = '2s'
CONF
    case $PRELOAD in *pgaudit*) echo "pgaudit.log = 'all'" >>"$WORK/primary/data/postgresql.conf" ;; esac
    write_rules >"$WORK/primary/data/custodian_regions.conf"
    chown postgres: "$WORK/primary/data/custodian_regions.conf"
    say 'custodian_regions.conf:'
    cat "$WORK/primary/data/custodian_regions.conf"
    start primary
    DB=postgres run_sql postgres 'CREATE DATABASE shop'
    run_sql postgres 'CREATE ROLE data_steward' 'CREATE ROLE li_steward LOGIN IN ROLE data_steward' \
        'CREATE ROLE general_counsel LOGIN' \
        'CREATE ROLE intern LOGIN' 'CREATE ROLE replicator LOGIN REPLICATION BYPASSRLS IN ROLE pg_read_all_data'
    say 'the application: demo/schema.sql'
    psql_as postgres -1 -f "$WORK/schema.sql" >/dev/null
    run_sql postgres 'CREATE ROLE shop_app LOGIN IN ROLE app_owner' 'GRANT USAGE ON SCHEMA app TO intern, li_steward' \
        'GRANT SELECT ON ALL TABLES IN SCHEMA app TO intern, li_steward'
    say 'three years of data: demo/data.sql'
    psql_as postgres -1 -f "$WORK/data.sql" >/dev/null
    show postgres "SELECT t.relname AS table, t.relowner::regrole AS owner, count(i.inhrelid) AS partitions,
       (xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM app.%I', t.relname), false, true, '')))[1] AS rows
  FROM pg_class AS t LEFT JOIN pg_inherits AS i ON i.inhparent = t.oid
 WHERE t.relnamespace = 'app'::regnamespace AND t.relkind IN ('r', 'p') AND NOT t.relispartition
 GROUP BY t.oid ORDER BY 1"
    is 'rows in all' 238200 "$(value 'SELECT (SELECT count(*) FROM app.account) + (SELECT count(*) FROM app.device)
        + (SELECT count(*) FROM app.app_log) + (SELECT count(*) FROM app.orders)
        + (SELECT count(*) FROM app.order_item) + (SELECT count(*) FROM app.product)')"
}

# A digest of all data of the application.
fingerprint() {
    value "SELECT md5(string_agg(d, '' ORDER BY t)) FROM (
        SELECT 'account' AS t, md5(string_agg(a::text, '' ORDER BY account_id)) AS d FROM app.account AS a
        UNION ALL SELECT 'device', md5(string_agg(a::text, '' ORDER BY device_id)) FROM app.device AS a
        UNION ALL SELECT 'app_log', md5(string_agg(a::text, '' ORDER BY log_id)) FROM app.app_log AS a
        UNION ALL SELECT 'orders', md5(string_agg(a::text, '' ORDER BY order_id)) FROM app.orders AS a
        UNION ALL SELECT 'order_item', md5(string_agg(a::text, '' ORDER BY order_item_id)) FROM app.order_item AS a) AS x"
}
