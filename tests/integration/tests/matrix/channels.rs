//! Ways for data to leave: how each is tried, what it would bring, and which gate answers for it.
//!
//! Texts may hold: `{dir}`, a directory of this attempt alone; `{card}`, the canary; `{email}`, what a lane may carry; `{host}`, the peer's address;
//! `{server}`, a foreign server that leads to the peer; `{word}`, the peer's kind in one word; `{slot}`, the slot of the peer's lane; `{lsn}`, a position behind the canary;
//! `{socket}`, `{port}` and `{near}`, an address inside, of the node; `{root}`, a directory that all attempts share.

use Asks::*;
use Brings::{Card, Nothing, Published};
use Gate::*;
use Run::{Program, Replication as Walsender, Sql, Standby};

/// The gates, as `custodian.guard_events` calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Login,
    Replication,
    Ddl,
    Settings,
    Access,
}

impl Gate {
    pub const fn name(self) -> &'static str {
        match self {
            Login => "login",
            Replication => "replication",
            Ddl => "ddl",
            Settings => "settings",
            Access => "access",
        }
    }
}

/// What a channel asks of the node: it decides who may have it, and which gate answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// A walsender of the whole cluster.
    Physical,
    /// A walsender in a database, for something that no lane says. To a peer that has a lane this gate answers.
    Logical(Gate),
    /// A walsender in a database, for exactly what the peer's lane says, if it has one.
    TheLane,
    /// An ordinary session.
    Session(Gate),
    /// The same, for rows that say that they may be in region `eu`, by a query that is proved to read no others.
    RowsOfEu(Gate),
    /// That the node itself connects to the peer.
    Destination(Gate),
    /// That the node itself writes to a place, which a line of the rules may name.
    Named(Gate),
    /// What is unlawful whoever asks for it.
    Never(Gate),
}

/// What arrives when it passes: the proof that the search would find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brings {
    /// The canary, a value of a column that no lane carries.
    Card,
    /// A value of the column that the lanes carry. By a lane only that may arrive.
    Published,
    /// No value.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// Statements, through psql.
    Sql(&'static str),
    /// A command of a walsender in the database, through psql.
    Replication(&'static str),
    /// A program of PostgreSQL with its arguments.
    Program(&'static str, &'static [&'static str]),
    /// A server that follows as a standby.
    Standby,
}

#[derive(Debug)]
pub struct Channel {
    pub name: &'static str,
    pub group: &'static str,
    pub asks: Asks,
    pub brings: Brings,
    pub run: Run,
    /// Statements that run inside before each attempt, and after it.
    pub before: &'static str,
    pub after: &'static str,
    /// Whether the program fails where it is let in, too: what it brings is the proof then.
    pub ragged: bool,
    /// Whether the standby is asked.
    pub of_standby: bool,
}

const fn channel(
    group: &'static str,
    name: &'static str,
    asks: Asks,
    brings: Brings,
    run: Run,
) -> Channel {
    Channel {
        name,
        group,
        asks,
        brings,
        run,
        before: "",
        after: "",
        ragged: false,
        of_standby: false,
    }
}

impl Channel {
    const fn before(mut self, sql: &'static str) -> Self {
        self.before = sql;
        self
    }

    const fn after(mut self, sql: &'static str) -> Self {
        self.after = sql;
        self
    }

    const fn ragged(mut self) -> Self {
        self.ragged = true;
        self
    }

    const fn of_standby(mut self) -> Self {
        self.of_standby = true;
        self
    }
}

const WHOLE: &str = "Replication of the whole cluster";
const CHANGES: &str = "Logical replication";
const READS: &str = "Reads by a session";
const WRITES: &str = "Reads by statements that write or define";
const TELLS: &str = "Values in errors, notices, statistics and texts of statements";
const FILES: &str = "Files, pages, large objects and slots by functions";
/// One row may be in the region and nowhere else, the other in `eu`.
const ABROAD: &str =
    "UPDATE abroad SET card = CASE place WHEN 'eu' THEN '{email}' ELSE '{card}' END";
pub const OPENS: &str = "Connections that the node opens";
pub const SHIPS: &str = "Settings and places that ship data";
pub const GROWS: &str = "Publications and programs";

const BACKUP: &[&str] = &["-D", "-", "-Ft", "-X", "none", "--checkpoint=fast"];
const WAL: &[&str] = &["-D", "{dir}", "--no-loop", "--endpos={lsn}"];
const DROP: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'tried%'";
const KEEP_SLOT: &str = "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')
    WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{slot}')";
const LARGE: &str = "SELECT lo_put(4711, 0, convert_to('{card}', 'UTF8'))";

pub const CHANNELS: &[Channel] = &[
    // First, while there is little WAL to follow.
    channel(WHOLE, "a standby that follows", Physical, Card, Standby),
    channel(WHOLE, "a standby that follows a standby", Physical, Card, Standby).of_standby(),
    channel(WHOLE, "`pg_basebackup`", Physical, Card, Program("pg_basebackup", BACKUP)),
    channel(WHOLE, "`pg_basebackup` of a standby", Physical, Card, Program("pg_basebackup", BACKUP)).of_standby(),
    channel(WHOLE, "`pg_receivewal`", Physical, Card, Program("pg_receivewal", WAL)),
    channel(WHOLE, "`pg_receivewal` of a standby", Physical, Card, Program("pg_receivewal", WAL)).of_standby(),
    channel(WHOLE, "`CREATE_REPLICATION_SLOT … PHYSICAL`", Physical, Nothing,
        Program("pg_receivewal", &["--create-slot", "--slot=tried"])).after(DROP),
    channel(CHANGES, "what the lane says: `pgoutput`, its slot, its publication", TheLane, Published,
        Program("pg_recvlogical", &["-d", "postgres", "--slot={slot}", "--start", "--no-loop", "-f", "-", "--endpos={lsn}",
            "-o", "proto_version=1", "-o", "publication_names=contacts"])),
    channel(CHANGES, "what the lane says: the initial copy of a published table", TheLane, Published,
        Walsender("COPY public.customer (id, email, plan) TO STDOUT")),
    channel(CHANGES, "what the lane says: making its slot", TheLane, Nothing,
        Program("pg_recvlogical", &["-d", "postgres", "--slot={slot}", "-P", "pgoutput", "--create-slot"]))
        .before("SELECT pg_drop_replication_slot('{slot}')").after(KEEP_SLOT),
    channel(CHANGES, "another slot", Logical(Replication), Card,
        Program("pg_recvlogical", &["-d", "postgres", "--slot=other", "--start", "--no-loop", "-f", "-", "--endpos={lsn}",
            "-o", "proto_version=1", "-o", "publication_names=everything"])),
    channel(CHANGES, "another publication", Logical(Replication), Card,
        Program("pg_recvlogical", &["-d", "postgres", "--slot={slot}", "--start", "--no-loop", "-f", "-", "--endpos={lsn}",
            "-o", "proto_version=1", "-o", "publication_names=everything"])),
    channel(CHANGES, "a publication more", Logical(Replication), Published,
        Program("pg_recvlogical", &["-d", "postgres", "--slot={slot}", "--start", "--no-loop", "-f", "-", "--endpos={lsn}",
            "-o", "proto_version=1", "-o", "publication_names=contacts,harmless"])),
    channel(CHANGES, "logical messages with the publication", Logical(Replication), Published,
        Program("pg_recvlogical", &["-d", "postgres", "--slot={slot}", "--start", "--no-loop", "-f", "-", "--endpos={lsn}",
            "-o", "proto_version=1", "-o", "publication_names=contacts", "-o", "messages=true"])),
    channel(CHANGES, "a slot with `test_decoding`", Logical(Replication), Card,
        Program("pg_recvlogical", &["-d", "postgres", "--slot=existing", "--start", "--no-loop", "-f", "-", "--endpos={lsn}"])),
    channel(CHANGES, "a slot with `wal2json`", Logical(Replication), Card,
        Program("pg_recvlogical", &["-d", "postgres", "--slot=json", "--start", "--no-loop", "-f", "-", "--endpos={lsn}"])),
    channel(CHANGES, "making a slot with `test_decoding`", Logical(Replication), Nothing,
        Program("pg_recvlogical", &["-d", "postgres", "--slot=tried", "-P", "test_decoding", "--create-slot"])).after(DROP),
    channel(CHANGES, "making a slot of another name", Logical(Replication), Nothing,
        Program("pg_recvlogical", &["-d", "postgres", "--slot=tried2", "-P", "pgoutput", "--create-slot"])).after(DROP),
    channel(CHANGES, "`BASE_BACKUP` in a session of logical replication", Logical(Replication), Card,
        Walsender("BASE_BACKUP (CHECKPOINT 'fast')")).ragged(),
    channel(CHANGES, "a physical slot in a session of logical replication", Logical(Replication), Nothing,
        Walsender("CREATE_REPLICATION_SLOT tried PHYSICAL")).after(DROP),
    channel(CHANGES, "COPY of a column that the publication does not carry", Logical(Access), Card,
        Walsender("COPY public.customer (card) TO STDOUT")),
    channel(CHANGES, "SELECT in a session of logical replication", Logical(Access), Card,
        Walsender("SELECT card FROM customer")),

    channel(READS, "SELECT", Session(Access), Card, Sql("SELECT card FROM customer")),
    channel(READS, "SELECT on a standby", Session(Access), Card, Sql("SELECT card FROM customer")).of_standby(),
    channel(READS, "SELECT of the whole row", Session(Access), Card, Sql("SELECT customer FROM customer")),
    channel(READS, "SELECT … FOR UPDATE", Session(Access), Card, Sql("SELECT card FROM customer FOR UPDATE")),
    channel(READS, "SELECT of an unreviewed column", Session(Access), Nothing, Sql("SELECT note FROM unreviewed")),
    channel(READS, "SELECT of a partitioned table", Session(Access), Card, Sql("SELECT card FROM parts"))
        .before("UPDATE parts SET card = '{card}'"),
    channel(READS, "SELECT of a partition, tagged on its parent", Session(Access), Card, Sql("SELECT card FROM parts_1"))
        .before("UPDATE parts SET card = '{card}'"),
    channel(READS, "a condition in WHERE", Session(Access), Nothing, Sql("SELECT 1 WHERE EXISTS (SELECT FROM customer WHERE card LIKE 'a%')")),
    channel(READS, "count(*)", Session(Access), Nothing, Sql("SELECT count(*) FROM customer")),
    channel(READS, "cursor", Session(Access), Card, Sql("BEGIN; DECLARE c CURSOR FOR SELECT card FROM customer; FETCH ALL IN c; COMMIT")),
    channel(READS, "prepared statement", Session(Access), Card, Sql("PREPARE q AS SELECT card FROM customer; EXECUTE q")),
    channel(READS, "view", Session(Access), Card, Sql("SELECT card FROM a_view")),
    channel(READS, "materialized view", Session(Access), Card, Sql("SELECT card FROM a_matview"))
        .before("REFRESH MATERIALIZED VIEW a_matview"),
    channel(READS, "SQL function", Session(Access), Card, Sql("SELECT read_sql()")),
    channel(READS, "PL/pgSQL function", Session(Access), Card, Sql("SELECT read_plpgsql()")),
    channel(READS, "SECURITY DEFINER function", Session(Access), Card, Sql("SELECT read_definer()")),
    channel(READS, "DO", Session(Access), Card, Sql("DO $$ BEGIN RAISE NOTICE '%', (SELECT min(card) FROM customer); END $$")),
    channel(READS, "`query_to_xml()`", Session(Access), Card, Sql("SELECT query_to_xml('SELECT card FROM customer', true, false, '')")),
    channel(READS, "`table_to_xml()`", Session(Access), Card, Sql("SELECT table_to_xml('customer', true, false, '')")),
    channel(READS, "`ts_stat()`", Session(Access), Card, Sql("SELECT word FROM ts_stat('SELECT array_to_tsvector(ARRAY[card]) FROM customer')")),
    channel(READS, "EXPLAIN ANALYZE", Session(Access), Nothing, Sql("EXPLAIN ANALYZE SELECT card FROM customer")),
    channel(READS, "LISTEN", Session(Access), Nothing, Sql("LISTEN news")),
    channel(READS, "foreign table", Session(Access), Card, Sql("SELECT card FROM a_foreign")),
    channel(READS, "foreign partition", Session(Access), Card, Sql("SELECT card FROM split"))
        .before("UPDATE split_there SET card = '{card}'"),
    channel(READS, "rows of region eu, of a table whose rows say where they may be", RowsOfEu(Access), Published,
        Sql("SELECT card FROM abroad WHERE place = 'eu'")).before(ABROAD),
    channel(READS, "these rows on a standby", RowsOfEu(Access), Published, Sql("SELECT card FROM abroad WHERE place = 'eu'"))
        .before(ABROAD).of_standby(),
    channel(READS, "these rows, with a function that tells what it sees", RowsOfEu(Access), Published,
        Sql("SELECT 1 FROM abroad WHERE tell(card) AND place = 'eu'")).before(ABROAD),
    channel(READS, "these rows, COPY of a query TO STDOUT", RowsOfEu(Access), Published,
        Sql("COPY (SELECT card FROM abroad WHERE place IN ('eu')) TO STDOUT")).before(ABROAD),
    channel(READS, "rows that say where they may be, without a condition", Session(Access), Card, Sql("SELECT card FROM abroad")).before(ABROAD),
    channel(READS, "EXPLAIN ANALYZE, with the condition", Session(Access), Nothing,
        Sql("EXPLAIN ANALYZE SELECT card FROM abroad WHERE place = 'eu'")),
    channel(READS, "COPY of a table TO STDOUT", Session(Access), Card, Sql("COPY customer (card) TO STDOUT")),
    channel(READS, "COPY of a query TO STDOUT", Session(Access), Card, Sql("COPY (SELECT card FROM customer) TO STDOUT")),
    channel(READS, "COPY in binary", Session(Access), Card, Sql("COPY customer (card) TO STDOUT (FORMAT binary)")),
    channel(READS, "as `bytea`", Session(Access), Card, Sql("SELECT card::bytea FROM customer")),
    channel(READS, "`encode()` in base64", Session(Access), Card, Sql("SELECT encode(repeat('x', 50 + id)::bytea || card::bytea, 'base64') FROM customer")),
    channel(READS, "`\\copy`", Session(Access), Card, Sql("\\copy customer (card) to '{dir}/copied'")),
    channel(READS, "COPY to a file of the server", Session(Access), Card, Sql("COPY customer TO '{dir}/written'")),
    channel(READS, "COPY to a program", Session(Access), Card, Sql("COPY customer TO PROGRAM 'cat > {dir}/written'")),
    channel(READS, "`pg_dump`", Session(Access), Card, Program("pg_dump", &["-t", "customer"])),
    channel(READS, "`pg_dump -Fc`", Session(Access), Card, Program("pg_dump", &["-Fc", "-Z0", "-t", "customer", "-f", "{dir}/dump"])),
    channel(READS, "`pg_dumpall`", Session(Access), Card, Program("pg_dumpall", &["--exclude-database=other", "-f", "{dir}/dump"])),

    channel(WRITES, "UPDATE … RETURNING", Session(Access), Card, Sql("BEGIN; UPDATE customer SET plan = 'x' RETURNING card; ROLLBACK")),
    channel(WRITES, "UPDATE", Session(Access), Nothing, Sql("BEGIN; UPDATE customer SET plan = 'x' WHERE id = 1; ROLLBACK")),
    channel(WRITES, "DELETE … RETURNING", Session(Access), Card, Sql("BEGIN; DELETE FROM customer RETURNING card; ROLLBACK")),
    channel(WRITES, "INSERT … ON CONFLICT DO UPDATE", Session(Access), Card,
        Sql("BEGIN; INSERT INTO customer (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET plan = 'x' RETURNING card; ROLLBACK")),
    channel(WRITES, "MERGE", Session(Access), Nothing,
        Sql("BEGIN; MERGE INTO customer c USING (SELECT 1 AS id) s ON c.id = s.id WHEN MATCHED THEN DELETE; ROLLBACK")),
    channel(WRITES, "INSERT … SELECT", Session(Access), Card,
        Sql("BEGIN; CREATE TEMP TABLE t (card text); INSERT INTO t SELECT card FROM customer; TABLE t; ROLLBACK")),
    channel(WRITES, "CREATE TABLE AS", Session(Access), Card, Sql("BEGIN; CREATE TABLE t AS SELECT card FROM customer; TABLE t; ROLLBACK")),
    channel(WRITES, "SELECT INTO", Session(Access), Card, Sql("BEGIN; SELECT card INTO t FROM customer; TABLE t; ROLLBACK")),
    channel(WRITES, "CREATE MATERIALIZED VIEW", Session(Access), Card,
        Sql("BEGIN; CREATE MATERIALIZED VIEW m AS SELECT card FROM customer; TABLE m; ROLLBACK")),
    channel(WRITES, "writing to a foreign partition", Session(Access), Nothing,
        Sql("INSERT INTO split SELECT 1, card FROM customer")),
    channel(WRITES, "UPDATE … RETURNING of rows that say where they may be", Session(Access), Card,
        Sql("BEGIN; UPDATE abroad SET place = place RETURNING card; ROLLBACK")).before(ABROAD),
    channel(WRITES, "writing to a foreign table", Session(Access), Nothing, Sql("INSERT INTO sink SELECT card FROM customer")),

    channel(TELLS, "error of a cast", Session(Access), Card, Sql(
        "DO $$ BEGIN PERFORM card::int FROM customer; EXCEPTION WHEN invalid_text_representation THEN RAISE NOTICE '%', SQLERRM; END $$")),
    channel(TELLS, "error of ALTER COLUMN … USING", Session(Access), Card, Sql(
        "DO $$ BEGIN ALTER TABLE loose ALTER card TYPE int USING card::int;
         EXCEPTION WHEN invalid_text_representation THEN RAISE NOTICE '%', SQLERRM; END $$"))
        .before("UPDATE loose SET card = '{card}'"),
    channel(TELLS, "function in a new CHECK", Session(Access), Card,
        Sql("BEGIN; ALTER TABLE customer ADD CHECK (tell(card)); ROLLBACK")),
    channel(TELLS, "function in a generated column", Session(Access), Card,
        Sql("BEGIN; ALTER TABLE customer ADD told bool GENERATED ALWAYS AS (tell(card)) STORED; ROLLBACK")),
    channel(TELLS, "function in a CHECK of a domain", Session(Access), Card,
        Sql("BEGIN; ALTER DOMAIN kind ADD CHECK (tell(VALUE)); ROLLBACK")).before("UPDATE of_domain SET card = '{card}'"),
    channel(TELLS, "error of CREATE UNIQUE INDEX", Session(Access), Card, Sql(
        "DO $$ DECLARE d text; BEGIN CREATE UNIQUE INDEX ON customer (card);
         EXCEPTION WHEN unique_violation THEN GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL; RAISE NOTICE '%', d; END $$")),
    channel(TELLS, "function in CREATE INDEX", Session(Access), Card, Sql("BEGIN; CREATE INDEX ON customer (tell(card)); ROLLBACK")),
    channel(TELLS, "function in CREATE STATISTICS", Session(Access), Card,
        Sql("BEGIN; CREATE STATISTICS told ON (tell(card)), plan FROM customer; ANALYZE customer; ROLLBACK")),
    channel(TELLS, "`pg_stats`", Session(Access), Card, Sql("SELECT most_common_vals FROM pg_stats WHERE tablename = 'customer'"))
        .before("ANALYZE customer"),
    channel(TELLS, "`pg_stats_ext`", Session(Access), Card,
        Sql("SELECT most_common_vals FROM pg_stats_ext WHERE tablename = 'customer'")).before("ANALYZE customer"),
    channel(TELLS, "`pg_statistic`", Session(Access), Card, Sql("SELECT stavalues1 FROM pg_statistic WHERE starelid = 'customer'::regclass"))
        .before("ANALYZE customer"),
    channel(TELLS, "statements of other sessions in `pg_stat_activity`", Session(Access), Card,
        Sql("SELECT query FROM pg_stat_activity")).before("UPDATE customer SET card = '{card}'"),

    channel(FILES, "`pg_read_binary_file()`", Session(Access), Card,
        Sql("SELECT pg_read_binary_file(pg_relation_filepath('customer'))")).before("CHECKPOINT"),
    channel(FILES, "`pg_read_file()`", Session(Access), Nothing, Sql("SELECT pg_read_file('PG_VERSION')")),
    channel(FILES, "COPY from a file of the server", Session(Access), Nothing,
        Sql("BEGIN; CREATE TEMP TABLE t (l text); COPY t FROM '/etc/hostname'; ROLLBACK")),
    channel(FILES, "`get_raw_page()` of pageinspect", Session(Access), Card, Sql("SELECT get_raw_page('customer', 0)"))
        .before("VACUUM FULL customer"),
    channel(FILES, "`dblink()` to the node itself", Session(Access), Card, Sql(
        "SELECT * FROM dblink('host={socket} port={port} user=postgres dbname=postgres', 'SELECT card FROM customer') AS (card text)")),
    channel(FILES, "`lo_get()`", Session(Access), Card, Sql("SELECT lo_get(4711)")).before(LARGE),
    channel(FILES, "`lo_export()`", Session(Access), Card, Sql("SELECT lo_export(4711, '{dir}/large')")).before(LARGE),
    channel(FILES, "`\\lo_export`", Session(Access), Card, Sql("\\lo_export 4711 '{dir}/large'")).before(LARGE),
    channel(FILES, "`pg_largeobject`", Session(Access), Card, Sql("SELECT data FROM pg_largeobject")).before(LARGE),
    channel(FILES, "`pg_logical_slot_get_changes()`", Session(Replication), Card,
        Sql("SELECT data FROM pg_logical_slot_get_changes('existing', NULL, NULL)")),
    channel(FILES, "`pg_logical_slot_peek_binary_changes()`", Session(Replication), Card, Sql(
        "SELECT data FROM pg_logical_slot_peek_binary_changes('other', NULL, NULL, 'proto_version', '1', 'publication_names', 'everything')")),
    channel(FILES, "`pg_create_logical_replication_slot()`", Session(Replication), Nothing,
        Sql("SELECT pg_create_logical_replication_slot('tried', 'test_decoding')")).after(DROP),

    channel(OPENS, "CREATE SERVER of postgres_fdw", Destination(Ddl), Nothing,
        Sql("BEGIN; CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{host}'); ROLLBACK")),
    channel(OPENS, "ALTER SERVER", Destination(Ddl), Nothing, Sql("BEGIN; ALTER SERVER near OPTIONS (SET host '{host}'); ROLLBACK")),
    // It goes as far as the connection, to a port where nobody is, or to a schema that is not there.
    channel(OPENS, "IMPORT FOREIGN SCHEMA", Destination(Ddl), Nothing, Sql(
        "DO $$ BEGIN IMPORT FOREIGN SCHEMA nowhere FROM SERVER {server} INTO public;
         EXCEPTION WHEN sqlclient_unable_to_establish_sqlconnection OR fdw_schema_not_found THEN NULL; END $$")),
    channel(OPENS, "CREATE USER MAPPING", Destination(Ddl), Nothing,
        Sql("BEGIN; CREATE USER MAPPING FOR maker SERVER {server} OPTIONS (user 'x', password 'y'); ROLLBACK")),
    channel(OPENS, "ALTER USER MAPPING", Destination(Ddl), Nothing,
        Sql("BEGIN; ALTER USER MAPPING FOR PUBLIC SERVER {server} OPTIONS (SET user 'x'); ROLLBACK")),
    channel(OPENS, "CREATE SUBSCRIPTION", Destination(Ddl), Nothing, Sql(
        "BEGIN; CREATE SUBSCRIPTION s CONNECTION 'host={host} dbname=x' PUBLICATION p WITH (connect = false, slot_name = NONE); ROLLBACK")),
    channel(OPENS, "ALTER SUBSCRIPTION … CONNECTION", Destination(Ddl), Nothing, Sql(
        "BEGIN; CREATE SUBSCRIPTION s CONNECTION 'host={near} dbname=x' PUBLICATION p WITH (connect = false, slot_name = NONE); \
         ALTER SUBSCRIPTION s CONNECTION 'host={host} dbname=x'; ROLLBACK")),
    channel(OPENS, "a list of hosts, of which one is inside", Destination(Ddl), Nothing, Sql(
        "BEGIN; CREATE SUBSCRIPTION s CONNECTION 'host={near},{host} dbname=x' PUBLICATION p WITH (connect = false, slot_name = NONE); ROLLBACK")),
    channel(OPENS, "`primary_conninfo`", Destination(Settings), Nothing, Sql("ALTER SYSTEM SET primary_conninfo = 'host={host}'"))
        .after("ALTER SYSTEM RESET primary_conninfo"),

    channel(SHIPS, "`archive_command`", Named(Settings), Nothing, Sql("ALTER SYSTEM SET archive_command = 'ship {word} %p'"))
        .after("ALTER SYSTEM RESET archive_command"),
    channel(SHIPS, "CREATE TABLESPACE", Named(Ddl), Nothing, Sql("CREATE TABLESPACE tried LOCATION '{root}/{word}'"))
        .after("DROP TABLESPACE IF EXISTS tried"),
];

/// What is unlawful whoever asks for it, and wherever from.
pub const NEVER: &[Channel] = &[
    channel(
        OPENS,
        "a subscription whose host is a name",
        Never(Ddl),
        Nothing,
        Sql(
            "BEGIN; CREATE SUBSCRIPTION s CONNECTION 'host=db.example.com' PUBLICATION p WITH (connect = false, slot_name = NONE); ROLLBACK",
        ),
    ),
    channel(
        OPENS,
        "a subscription by a service file",
        Never(Ddl),
        Nothing,
        Sql(
            "BEGIN; CREATE SUBSCRIPTION s CONNECTION 'service=away' PUBLICATION p WITH (connect = false, slot_name = NONE); ROLLBACK",
        ),
    ),
    channel(
        SHIPS,
        "a command that no line of the rules has",
        Never(Settings),
        Nothing,
        Sql("ALTER SYSTEM SET restore_command = 'curl'"),
    )
    .after("ALTER SYSTEM RESET restore_command"),
    channel(
        SHIPS,
        "the log to syslog",
        Never(Settings),
        Nothing,
        Sql("ALTER SYSTEM SET log_destination = 'syslog'"),
    )
    .after("ALTER SYSTEM RESET log_destination"),
    channel(
        SHIPS,
        "files of the log outside the data directory",
        Never(Settings),
        Nothing,
        Sql("ALTER SYSTEM SET log_directory = '/mnt/log'"),
    )
    .after("ALTER SYSTEM RESET log_directory"),
    channel(
        SHIPS,
        "starting without the library",
        Never(Settings),
        Nothing,
        Sql("ALTER SYSTEM SET shared_preload_libraries = ''"),
    )
    .after("ALTER SYSTEM RESET shared_preload_libraries"),
    channel(
        GROWS,
        "publication of a table",
        Never(Ddl),
        Nothing,
        Sql("BEGIN; CREATE PUBLICATION p FOR TABLE customer; ROLLBACK"),
    ),
    channel(
        GROWS,
        "publication of a column",
        Never(Ddl),
        Nothing,
        Sql("BEGIN; CREATE PUBLICATION p FOR TABLE customer (id, card); ROLLBACK"),
    ),
    channel(
        GROWS,
        "publication of all tables",
        Never(Ddl),
        Nothing,
        Sql("BEGIN; CREATE PUBLICATION p FOR ALL TABLES; ROLLBACK"),
    ),
    channel(
        GROWS,
        "publication of a schema",
        Never(Ddl),
        Nothing,
        Sql("BEGIN; CREATE PUBLICATION p FOR TABLES IN SCHEMA public; ROLLBACK"),
    ),
    channel(
        GROWS,
        "publication of a partition, by its root",
        Never(Ddl),
        Nothing,
        Sql(
            "BEGIN; CREATE PUBLICATION p FOR TABLE parts WITH (publish_via_partition_root); ROLLBACK",
        ),
    ),
    channel(
        GROWS,
        "a table more in a publication",
        Never(Ddl),
        Nothing,
        Sql("BEGIN; ALTER PUBLICATION harmless ADD TABLE customer; ROLLBACK"),
    ),
    channel(
        GROWS,
        "a column more in a published table",
        Never(Ddl),
        Nothing,
        Sql("BEGIN; ALTER TABLE cleared ADD COLUMN more text; ROLLBACK"),
    ),
    channel(
        GROWS,
        "a new table in a published schema",
        Never(Ddl),
        Nothing,
        Sql("BEGIN; CREATE TABLE open.more (note text); ROLLBACK"),
    ),
    channel(
        GROWS,
        "a table moved into a published schema",
        Never(Ddl),
        Nothing,
        Sql("BEGIN; ALTER TABLE unreviewed SET SCHEMA open; ROLLBACK"),
    ),
    channel(
        GROWS,
        "a tag on a published column",
        Never(Ddl),
        Nothing,
        Sql(
            "BEGIN; SELECT custodian.tag_column('cleared', 'note', 'user.name', '{shop.orders}', residency => '{cn}'); ROLLBACK",
        ),
    ),
    channel(
        GROWS,
        "CREATE EXTENSION of one that reaches the network or runs programs",
        Never(Ddl),
        Nothing,
        Sql("BEGIN; CREATE EXTENSION adminpack; ROLLBACK"),
    ),
    channel(
        GROWS,
        "a foreign table that runs a program",
        Never(Ddl),
        Nothing,
        Sql(
            "BEGIN; CREATE FOREIGN TABLE f (l text) SERVER files OPTIONS (program 'cat'); ROLLBACK",
        ),
    ),
];

/// All of both.
pub fn all() -> impl Iterator<Item = &'static Channel> {
    CHANNELS.iter().chain(NEVER)
}
