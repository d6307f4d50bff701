//! The region guard on foreign tables whose server the rules do not allow any more: statements that use them are refused
//! inside as well, whichever way the table is reached, and so are user mappings. One node, which is its own remote server.

use integration::{Cluster, Result, Sql};

/// A value of a tagged column. It must not reach the remote side.
const CANARY: &str = "canary-4711@example.com";

fn set_rules(node: &Cluster, more: &str) -> Result<()> {
    node.write_file(
        "custodian_regions.conf",
        &format!("region cn\nregion eu\nlocal postgres\nextension postgres_fdw\n{more}"),
    )?;
    node.reload()
}

/// A node with a remote table `sink` behind the server `there`, which is allowed: it leads to the node's own socket.
fn node() -> Result<Cluster> {
    let node = Cluster::builder("foreign")
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .conf("custodian.enforce = 'on'")
        .start()?;
    set_rules(&node, "")?;
    node.exec("CREATE EXTENSION pg_custodian; CREATE EXTENSION postgres_fdw")?;
    node.create_database("remote")?.batch_execute(
        "CREATE TABLE sink (id int, email text); CREATE TABLE seen (id int, email text)",
    )?;
    node.exec(
        "CREATE TABLE customer (id int PRIMARY KEY, email text, plan text);
         SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.orders}', residency => '{cn}');
         SELECT custodian.clear_column('customer', c) FROM unnest('{id,plan}'::text[]) c",
    )?;
    node.exec(&format!(
        "INSERT INTO customer VALUES (1, '{CANARY}', 'basic');
         CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{}', port '{}', dbname 'remote');
         CREATE USER MAPPING FOR postgres SERVER there OPTIONS (user 'postgres');
         CREATE FOREIGN TABLE sink (id int, email text) SERVER there;
         CREATE TABLE spread (id int, email text) PARTITION BY RANGE (id);
         CREATE TABLE near PARTITION OF spread FOR VALUES FROM (0) TO (100);
         CREATE FOREIGN TABLE far PARTITION OF spread FOR VALUES FROM (100) TO (200) SERVER there OPTIONS (table_name 'seen');
         CREATE VIEW over_sink AS SELECT id FROM sink;
         CREATE FUNCTION ship() RETURNS void LANGUAGE sql AS 'INSERT INTO sink SELECT id, email FROM customer'",
        node.socket_dir().display(),
        node.port()
    ))?;
    Ok(node)
}

/// Statements that would hand values to the server.
const STATEMENTS: [&str; 15] = [
    "INSERT INTO sink SELECT id, email FROM customer",
    "INSERT INTO sink VALUES (1, 'x')",
    "SELECT ship()",
    "SELECT count(*) FROM sink WHERE email = 'canary-4711@example.com'",
    "SELECT count(*) FROM over_sink",
    "SELECT count(*) FROM customer c JOIN sink s USING (email)",
    "UPDATE sink SET email = c.email FROM customer c WHERE c.id = sink.id",
    "DELETE FROM sink",
    "COPY (SELECT * FROM sink) TO STDOUT",
    "INSERT INTO spread SELECT id + 100, email FROM customer",
    "UPDATE spread SET id = id + 100",
    "SELECT count(*) FROM spread",
    "TRUNCATE sink",
    "TRUNCATE customer, sink",
    "TRUNCATE spread",
];

#[test]
fn a_foreign_table_is_used_only_while_the_rules_allow_its_server() -> Result<()> {
    let node = node()?;
    let mut remote = node.client_as("postgres", "remote")?;
    let mut client = node.client()?;

    // Allowed: it is used as any other table, prepared statements too.
    client.batch_execute("PREPARE again AS INSERT INTO sink SELECT id, email FROM customer; EXECUTE again; DELETE FROM sink")?;
    client.batch_execute("INSERT INTO spread VALUES (1, 'near'), (101, 'far')")?;
    assert_eq!(remote.text("SELECT email FROM seen")?, "far");
    client.batch_execute("TRUNCATE sink, far")?;
    assert_eq!(remote.text("SELECT count(*) FROM seen")?, "0");
    remote.batch_execute("INSERT INTO seen VALUES (101, 'far')")?;

    // The rules change: the node knows nobody on its socket but its own superuser by another name.
    client.batch_execute("CREATE ROLE owner SUPERUSER; ALTER SERVER there OWNER TO owner")?;
    for statement in STATEMENTS.iter().chain(&["EXECUTE again"]) {
        let error = client.refused(statement);
        let text = error.to_string();
        assert_eq!(error.sqlstate(), "42501", "{statement}: {text}");
        assert!(
            text.contains("do not allow its server \"there\"") && text.contains("HINT"),
            "{statement}: {text}"
        );
        assert!(!text.contains(CANARY), "{statement}: {text}");
    }
    // What reaches no foreign table works, on the same partitioned table as well.
    client.batch_execute("INSERT INTO near VALUES (2, 'near'); DELETE FROM near WHERE id = 2")?;
    client.batch_execute("BEGIN; TRUNCATE near; TRUNCATE ONLY customer; ROLLBACK")?;
    assert_eq!(
        client.text("SELECT count(*) FROM spread WHERE id < 50")?,
        "1"
    );
    // A row lock asks for the right to UPDATE, and moves no row.
    assert_eq!(
        client.text("SELECT email FROM spread WHERE id < 50 FOR UPDATE")?,
        "near"
    );
    assert_eq!(
        remote.text("SELECT (SELECT count(*) FROM sink), (SELECT count(*) FROM seen)")?,
        "0|1"
    );
    assert_eq!(
        client.text(
            "SELECT string_agg(DISTINCT object, ',' ORDER BY object) FROM custodian.guard_events
             WHERE gate = 'access' AND outcome = 'refused'"
        )?,
        "public.far,public.sink"
    );

    // In warn it passes, and is recorded.
    node.alter_system("custodian.enforce_access", "warn")?;
    node.text("SELECT ship()")?;
    assert_eq!(remote.text("SELECT email FROM sink")?, CANARY);
    assert_eq!(
        node.text(
            "SELECT DISTINCT object FROM custodian.guard_events WHERE gate = 'access' AND outcome = 'warned'"
        )?,
        "public.sink"
    );
    Ok(())
}

#[test]
fn user_mappings_are_judged_by_their_server() -> Result<()> {
    let node = node()?;
    set_rules(&node, "network 192.0.2.0/24 cn\n")?;
    node.exec(
        "CREATE ROLE app; CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '192.0.2.7');
         CREATE USER MAPPING FOR app SERVER elsewhere OPTIONS (user 'app')",
    )?;
    set_rules(&node, "network 192.0.2.0/24 eu\n")?;
    let mut client = node.client()?;
    for statement in [
        "CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (user 'app')",
        "ALTER USER MAPPING FOR app SERVER elsewhere OPTIONS (ADD password 'secret')",
    ] {
        let text = client.refused(statement).to_string();
        assert!(text.contains("foreign server \"elsewhere\""), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
    // To take one away ships nothing.
    client.batch_execute("DROP USER MAPPING FOR app SERVER elsewhere")?;
    Ok(())
}
