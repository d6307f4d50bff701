//! The nodes of one mode: a primary and a standby in region cn, with everything that the channels try to get at.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Write;

use integration::{Certs, Cluster, Net, Result, Sql, quote_literal};
use postgres::Client;

use crate::follower::Follower;
use crate::peers::{
    self, AUTHORITIES, CLOSED, IN_OTHER_DATABASE, INTRUDER, LANES, PEERS, PLACES, Place,
};
use crate::rule::Mode;

/// Where primary and standby are.
const PRIMARY: &str = "cn-a";
const STANDBY: &str = "cn-e";

const KINDS_OF_DIRECTORIES: [&str; 4] = ["inside", "outside", "vendor", "unknown"];

pub struct Stage {
    /// For what runs before and after an attempt.
    client: RefCell<Client>,
    /// For questions about events, so that it is not the last statement of the other.
    watcher: RefCell<Client>,
    pub attempts: Cell<u32>,
    pub follower: RefCell<Follower>,
    pub standby: Cluster,
    pub node: Cluster,
    pub certs: Certs,
    pub net: Option<Net>,
    pub has_wal2json: bool,
}

fn rules(net: Option<&Net>, root: &str) -> String {
    let mut rules =
        String::from("region cn\nregion eu\nregion us\nlocal postgres\nlocal p_local\n");
    if let Some(net) = net {
        for node in [PRIMARY, STANDBY] {
            let _ = writeln!(rules, "node {} cn shop", net.at(node).address());
        }
        let _ = writeln!(rules, "network {}/32 cn shop", net.at(STANDBY).address());
        for (place, line) in PLACES {
            let host = format!("{}/32", net.at(place).address());
            let _ = writeln!(
                rules,
                "{}",
                line.unwrap_or("# {} is unknown").replace("{}", &host)
            );
        }
    }
    for (authority, place) in AUTHORITIES {
        if let Some(place) = place {
            let _ = writeln!(rules, "issuer \"{}\" {place}", Certs::issuer_dn(authority));
        }
    }
    for (kind, place) in [
        ("inside", "cn shop"),
        ("outside", "eu shop"),
        ("vendor", "cn vendor"),
    ] {
        // Without a network the organisation of the node is not known, and another one is not told from it.
        let _ = writeln!(rules, "setting archive_command \"ship {kind} %p\" {place}");
        let _ = writeln!(rules, "tablespace \"{root}/{kind}\" {place}");
    }
    for extension in ["dblink", "postgres_fdw", "file_fdw"] {
        let _ = writeln!(rules, "extension {extension}");
    }
    rules
}

const TABLES: &str = "
CREATE TABLE customer (id int PRIMARY KEY, email text, card text, plan text);
INSERT INTO customer SELECT i, 'none', 'none', 'basic' FROM generate_series(1, 3) i;
CREATE TABLE unreviewed (note text);
CREATE TABLE cleared (id int PRIMARY KEY, note text);
CREATE SCHEMA open;
CREATE TABLE parts (id int, card text) PARTITION BY LIST (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
INSERT INTO parts VALUES (1, 'none');
CREATE TABLE abroad (place text NOT NULL, card text);
INSERT INTO abroad VALUES ('cn', 'none'), ('eu', 'none');
CREATE TABLE split_there (id int, card text);
INSERT INTO split_there VALUES (1, 'none');
CREATE TABLE split (id int, card text) PARTITION BY LIST (id);
CREATE VIEW a_view AS SELECT card FROM customer;
CREATE MATERIALIZED VIEW a_matview AS SELECT card FROM customer;
CREATE FUNCTION read_sql() RETURNS SETOF text LANGUAGE sql AS 'SELECT card FROM customer';
CREATE FUNCTION read_plpgsql() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT min(card) FROM customer); END';
CREATE FUNCTION read_definer() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT card FROM customer';
CREATE FUNCTION tell(value text) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', value; RETURN true; END $$;
CREATE STATISTICS together (mcv) ON card, plan FROM customer;
CREATE TABLE sink_here (card text);
CREATE TABLE loose (card text);
INSERT INTO loose VALUES ('none');
CREATE DOMAIN kind AS text;
CREATE TABLE of_domain (card kind);
INSERT INTO of_domain VALUES ('none');
SELECT lo_from_bytea(4711, 'none');
SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.orders}', residency => '{cn}');
SELECT custodian.tag_column('customer', 'card', 'user.financial', '{shop.orders}', residency => '{cn}');
SELECT custodian.tag_column('loose', 'card', 'user.financial', '{shop.orders}', residency => '{cn}');
SELECT custodian.tag_column('of_domain', 'card', 'user.financial', '{shop.orders}', residency => '{cn}');
SELECT custodian.tag_column('parts', 'card', 'user.financial', '{shop.orders}', residency => '{cn}');
SELECT custodian.tag_column('split', 'card', 'user.financial', '{shop.orders}', residency => '{cn}');
SELECT custodian.tag_column('abroad', 'card', 'user.financial', '{shop.orders}', residency => '{cn}');
SELECT custodian.tag_table('abroad', residency_column => 'place');
SELECT custodian.clear_column(t, c) FROM (VALUES ('abroad', 'place'), ('split', 'id'), ('customer', 'id'), ('customer', 'plan'), ('cleared', 'id'), ('cleared', 'note'),
                                                 ('parts', 'id')) AS v (t, c);
CREATE PUBLICATION everything FOR TABLE customer;
CREATE PUBLICATION harmless FOR TABLE cleared;
CREATE PUBLICATION schema FOR TABLES IN SCHEMA open;
";

const REGISTER: &str = "SELECT custodian.register_transfer('shop.support', receiver => 'Acme GmbH', contact => 'privacy@acme.example',
    organisation => 'acme', region => 'eu', purposes => '{shop.orders}', categories => '{user.contact}', method => 'support',
    safeguards => 'standard contract no. 7', risks => 'assessed 2026-01, low', rights_channel => 'https://acme.example/rights',
    basis => 'contract', notice => 'privacy policy of 2026-01-01, section 4', valid_until => now() + interval '1 day')";

/// A database of the same transfer, with another publication of the same name. Who may open lanes there comes back.
fn other_database(node: &Cluster) -> Result<Client> {
    node.create_database("other")?.batch_execute(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE cleared (id int PRIMARY KEY);
         SELECT custodian.clear_column('cleared', 'id');
         SELECT custodian.define_purpose('shop.orders', 'contract', '1 year')",
    )?;
    node.client_as("lawyer", "other")?.batch_execute(REGISTER)?;
    let mut officer = node.client_as("officer", "other")?;
    officer.batch_execute(
        "SELECT custodian.approve_transfer('shop.support', 'board of 2026-02');
         CREATE PUBLICATION contacts FOR TABLE cleared",
    )?;
    Ok(officer)
}

/// Foreign servers that lead to the peers, from before the gates were on. They are another's: what stands is not what is asked here.
fn servers(node: &Cluster, net: Option<&Net>) -> Result<()> {
    let places: BTreeSet<(String, Place)> = PEERS
        .iter()
        .map(|peer| (peer.place.server(), peer.place))
        .collect();
    let mut maker = node.client_as("maker", "postgres")?;
    for (server, place) in places {
        let host = match (place, net) {
            (Place::At(place), Some(net)) => net.at(place).address().to_string(),
            (Place::At(_), None) => continue,
            (Place::Loopback, _) => "127.0.0.1".to_owned(),
            (Place::Socket, _) => node.socket_dir().display().to_string(),
        };
        maker.batch_execute(&format!(
            "CREATE SERVER {server} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{host}', port '{}', dbname 'postgres');
             CREATE USER MAPPING FOR PUBLIC SERVER {server} OPTIONS (user 'maker', password_required 'false')",
            node.port()
        ))?;
    }
    Ok(())
}

fn policy(node: &Cluster, near: &str) -> Result<()> {
    for extension in [
        "pg_custodian",
        "pageinspect",
        "dblink",
        "postgres_fdw",
        "file_fdw",
    ] {
        node.exec(&format!("CREATE EXTENSION {extension}"))?;
    }
    for role in peers::roles() {
        node.exec(&format!("CREATE ROLE {role} LOGIN SUPERUSER REPLICATION"))?;
    }
    node.exec(&format!("ALTER ROLE {INTRUDER} PASSWORD 'nobody knows'"))?;
    for role in ["maker", "lawyer", "officer"] {
        node.exec(&format!("CREATE ROLE {role} LOGIN SUPERUSER"))?;
    }
    node.exec(TABLES)?;
    let (socket, port) = (node.socket_dir().display(), node.port());
    node.exec(&format!(
        "CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{socket}', port '{port}', dbname 'postgres');
         CREATE USER MAPPING FOR PUBLIC SERVER loop OPTIONS (user 'postgres', password_required 'false');
         CREATE FOREIGN TABLE a_foreign (card text) SERVER loop OPTIONS (table_name 'customer');
         CREATE FOREIGN TABLE split_1 PARTITION OF split FOR VALUES IN (1) SERVER loop OPTIONS (table_name 'split_there');
         CREATE FOREIGN TABLE sink (card text) SERVER loop OPTIONS (table_name 'sink_here');
         CREATE SERVER near FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{near}');
         CREATE SERVER files FOREIGN DATA WRAPPER file_fdw"
    ))?;
    node.client_as("lawyer", "postgres")?
        .batch_execute(REGISTER)?;
    let mut officer = node.client_as("officer", "postgres")?;
    officer.batch_execute(
        "SELECT custodian.approve_transfer('shop.support', 'board of 2026-02');
         CREATE PUBLICATION contacts FOR TABLE customer (id, email, plan)",
    )?;
    let mut elsewhere = other_database(node)?;
    for (role, from) in LANES {
        let opener = match role {
            IN_OTHER_DATABASE => &mut elsewhere,
            _ => &mut officer,
        };
        let lane = opener.text(&format!(
            "SELECT custodian.open_lane('shop.support', '{role}', 'slot_{role}', '{{contacts}}', {from})"
        ))?;
        if role == CLOSED {
            officer.text(&format!(
                "SELECT custodian.close_lane({lane}, 'for the test')"
            ))?;
        }
        node.text(&format!(
            "SELECT pg_create_logical_replication_slot('slot_{role}', 'pgoutput')"
        ))?;
    }
    for (slot, plugin) in [("existing", "test_decoding"), ("other", "pgoutput")] {
        node.text(&format!(
            "SELECT pg_create_logical_replication_slot('{slot}', '{plugin}')"
        ))?;
    }
    Ok(())
}

impl Stage {
    /// Makes the nodes, with all gates in this mode.
    pub fn new(mode: Mode) -> Result<Self> {
        let net = match Net::available() {
            Ok(()) => {
                let mut places = vec![PRIMARY];
                places.extend(
                    PLACES
                        .map(|(place, _)| place)
                        .iter()
                        .filter(|place| place.starts_with("cn")),
                );
                places.push(STANDBY);
                places.extend(
                    PLACES
                        .map(|(place, _)| place)
                        .iter()
                        .filter(|place| !place.starts_with("cn")),
                );
                Some(Net::new(&places)?)
            }
            Err(_) => None,
        };
        let certs = Certs::new(&AUTHORITIES.map(|(authority, _)| authority))?;
        let mut builder = Cluster::builder("node")
            .preload("pg_custodian")
            .conf("log_line_prefix = '%m [%p] %e %q%u@%d '")
            .conf("max_replication_slots = 20")
            .conf("max_wal_senders = 20")
            .conf("autovacuum = off")
            .conf("custodian.disposal = off")
            .hba("local all,replication intruder scram-sha-256")
            .hba("host all,replication intruder all scram-sha-256")
            .tls(&certs, "cn")?;
        builder = match &net {
            Some(net) => builder.place(net.at(PRIMARY)).conf(&format!(
                "listen_addresses = '{},127.0.0.1'",
                net.at(PRIMARY).address()
            )),
            None => builder.loopback().conf("custodian.region = 'cn'"),
        };
        let node = builder.start()?;
        let root = node.dir().display().to_string();
        for kind in KINDS_OF_DIRECTORIES {
            let directory = node.dir().join(kind);
            std::fs::create_dir(&directory)?;
            integration::host::give(&directory)?;
        }
        node.write_file("custodian_regions.conf", &rules(net.as_ref(), &root))?;
        node.reload()?;
        let near = net.as_ref().map_or("192.0.2.1".to_owned(), |net| {
            net.at("cn-b").address().to_string()
        });
        let library = format!(
            "{}/wal2json.so",
            integration::host::pg_config("--pkglibdir")?
        );
        let has_wal2json = std::path::Path::new(&library).exists();
        // Newer minor releases know a list of output plugins that anybody may use.
        let listed = "SELECT setting FROM pg_settings WHERE name = 'output_plugin_libraries'";
        let plugins = node.text(listed)?;
        if !plugins.is_empty() {
            node.exec(&format!(
                "ALTER SYSTEM SET output_plugin_libraries = {plugins}, wal2json"
            ))?;
            node.reload()?;
        }
        policy(&node, &near)?;
        servers(&node, net.as_ref())?;
        if has_wal2json {
            node.text("SELECT pg_create_logical_replication_slot('json', 'wal2json')")?;
        }
        node.alter_system(
            "custodian.enforce",
            if mode == Mode::On { "on" } else { "warn" },
        )?;
        let mut standby = node
            .standby("standby")
            .copy_locally()
            .conninfo("sslmode=disable");
        standby = match &net {
            Some(net) => standby.place(net.at(STANDBY)).conf(&format!(
                "listen_addresses = '{},127.0.0.1'",
                net.at(STANDBY).address()
            )),
            None => standby
                .loopback()
                .conninfo(&format!("host={}", node.socket_dir().display())),
        };
        let standby = standby.start()?;
        let follower = Follower::new(&node)?;
        node.wait_for_catchup(&standby, 60)?;
        Ok(Self {
            client: RefCell::new(node.client()?),
            watcher: RefCell::new(node.client()?),
            attempts: Cell::new(0),
            follower: RefCell::new(follower),
            standby,
            node,
            certs,
            net,
            has_wal2json,
        })
    }

    /// An address inside, for lists of hosts.
    pub fn near(&self) -> String {
        self.net.as_ref().map_or("192.0.2.1".to_owned(), |net| {
            net.at("cn-b").address().to_string()
        })
    }

    /// Runs one statement inside.
    pub fn inside(&self, sql: &str) -> Result<String> {
        self.client.borrow_mut().text(sql)
    }

    /// How often any gate has objected to this role; DDL and settings to anybody. A copy into untagged columns is recorded
    /// whoever makes it.
    pub fn objections(&self, of_standby: bool, role: &str) -> Result<u64> {
        self.sum(
            of_standby,
            &format!(
                "gate <> 'copy' AND (role = {} OR gate IN ('ddl', 'settings'))",
                quote_literal(role)
            ),
        )
    }

    /// How often this gate has had this outcome for this role; for DDL and settings, for anybody.
    pub fn events(&self, of_standby: bool, gate: &str, outcome: &str, role: &str) -> Result<u64> {
        self.sum(
            of_standby,
            &format!(
                "gate = {} AND outcome = {} AND (role = {} OR gate IN ('ddl', 'settings'))",
                quote_literal(gate),
                quote_literal(outcome),
                quote_literal(role)
            ),
        )
    }

    fn sum(&self, of_standby: bool, condition: &str) -> Result<u64> {
        let sql =
            format!("SELECT coalesce(sum(count), 0) FROM custodian.guard_events WHERE {condition}");
        let count = if of_standby {
            self.standby.text(&sql)?
        } else {
            self.watcher.borrow_mut().text(&sql)?
        };
        count
            .parse()
            .map_err(|e| integration::Error::new(format!("{count}: {e}")))
    }
}
