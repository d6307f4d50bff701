//! What must be on record of a transfer, and who must say so, before a lane can be opened.

use integration::{Cluster, Result, Sql};

/// The arguments of a registration that is complete, but for the name.
const REGISTRATION: &str = "receiver => 'Acme GmbH', contact => 'privacy@acme.example', organisation => 'acme',
    region => 'eu', purposes => '{shop.orders}', categories => '{user.contact}', method => 'storage for support',
    safeguards => 'standard contract no. 7', risks => 'assessed 2026-01, low', rights_channel => 'https://acme.example/rights',
    basis => 'contract', notice => 'privacy policy of 2026-01-01, section 4'";

#[test]
fn a_transfer_needs_a_complete_record_and_two_people() -> Result<()> {
    let node = Cluster::builder("record").preload("pg_custodian").start()?;
    node.exec(
        "CREATE ROLE steward; CREATE ROLE lawyer LOGIN; CREATE ROLE officer LOGIN; GRANT steward TO lawyer, officer;
         CREATE ROLE app LOGIN; CREATE ROLE eu_sub LOGIN REPLICATION; CREATE EXTENSION pg_custodian",
    )?;
    node.alter_system("custodian.steward_role", "steward")?;
    node.exec("SELECT custodian.define_purpose('shop.orders', 'contract', '1 year')")?;
    let mut lawyer = node.client_as("lawyer", "postgres")?;
    let mut officer = node.client_as("officer", "postgres")?;
    let mut app = node.client_as("app", "postgres")?;
    let complete = format!("{REGISTRATION}, valid_until => now() + interval '1 hour'");

    let arguments: Vec<(&str, &str)> = complete
        .split(",\n")
        .flat_map(|line| line.split("', "))
        .filter_map(|argument| argument.trim().split_once(" => "))
        .collect();
    assert_eq!(arguments.len(), 13, "{arguments:?}");
    for (field, _) in &arguments {
        let others: Vec<String> = arguments
            .iter()
            .map(|(name, value)| {
                let closed = value.starts_with('\'') && !value.ends_with('\'');
                let value = if name == field {
                    "NULL".to_owned()
                } else if closed {
                    format!("{value}'")
                } else {
                    (*value).to_owned()
                };
                format!("{name} => {value}")
            })
            .collect();
        let refused = lawyer.refused(&format!(
            "SELECT custodian.register_transfer('shop.eu', {})",
            others.join(", ")
        ));
        assert_eq!(refused.sqlstate(), "22023", "{field}: {refused}");
        assert!(
            refused.to_string().contains(&format!("Missing: {field}.")),
            "{field}: {refused}"
        );
    }
    let register = format!("SELECT custodian.register_transfer('shop.eu', {complete})");
    assert_eq!(app.refused(&register).sqlstate(), "42501");
    lawyer.batch_execute(&register)?;
    assert_eq!(lawyer.refused(&register).sqlstate(), "42710");

    let open =
        "SELECT custodian.open_lane('shop.eu', 'eu_sub', 'sub', '{p}', network => '192.0.2.0/24')";
    assert_eq!(officer.refused(open).sqlstate(), "55000");
    let approve = "SELECT custodian.approve_transfer('shop.eu', 'board')";
    assert_eq!(app.refused(approve).sqlstate(), "42501");
    assert_eq!(lawyer.refused(approve).sqlstate(), "42501");
    assert_eq!(
        lawyer
            .refused(&format!("SET ROLE steward; {approve}"))
            .sqlstate(),
        "42501"
    );
    lawyer.batch_execute("RESET ROLE")?;
    officer.batch_execute(approve)?;
    assert_eq!(officer.refused(approve).sqlstate(), "55000");

    for (arguments, sqlstate) in [
        ("'shop.eu', 'eu_sub', 'sub', '{p}'", "22023"),
        (
            "'shop.eu', 'eu_sub', 'sub', '{p}', network => '0.0.0.0/0'",
            "22023",
        ),
        (
            "'shop.eu', 'eu_sub', 'sub', '{p}', network => '192.0.2.1', plugin => 'wal2json'",
            "22023",
        ),
        (
            "'shop.eu', 'eu_sub', 'sub', '{p}', network => '192.0.2.1', database => 'other'",
            "22023",
        ),
        (
            "'shop.eu', 'eu_sub', 'sub', '{}', network => '192.0.2.1'",
            "22023",
        ),
        (
            "'shop.eu', 'nobody', 'sub', '{p}', network => '192.0.2.1'",
            "42704",
        ),
        (
            "'shop.us', 'eu_sub', 'sub', '{p}', network => '192.0.2.1'",
            "42704",
        ),
        (
            "'shop.eu', 'eu_sub', 'sub', '{p}', network => '192.0.2.1'",
            "55000",
        ),
    ] {
        let refused = officer.refused(&format!("SELECT custodian.open_lane({arguments})"));
        assert_eq!(refused.sqlstate(), sqlstate, "{arguments}: {refused}");
    }
    node.exec(
        "CREATE TABLE t (id int); SELECT custodian.clear_column('t', 'id');
         CREATE PUBLICATION p FOR TABLE t; CREATE PUBLICATION everything FOR ALL TABLES;
         CREATE PUBLICATION schema FOR TABLES IN SCHEMA public",
    )?;
    for never in ["everything", "schema"] {
        assert_eq!(
            officer
                .refused(&open.replace("{p}", &format!("{{{never}}}")))
                .sqlstate(),
            "55000"
        );
    }
    let lane = officer.text(open)?;
    assert_eq!(
        app.refused("SELECT * FROM custodian.lanes").sqlstate(),
        "42501"
    );
    assert_eq!(
        app.refused("SELECT * FROM custodian.transfers").sqlstate(),
        "42501"
    );
    assert_eq!(
        officer.text("SELECT lane, state, network, plugin FROM custodian.lanes")?,
        format!("{lane}|open|192.0.2.0/24|pgoutput")
    );
    officer.batch_execute(
        "SELECT custodian.revoke_transfer('shop.eu', 'contract ended', 'letter of 2026-03')",
    )?;
    assert_eq!(
        officer.text("SELECT state, close_reason, recall_notice FROM custodian.lanes")?,
        "closed|contract ended|letter of 2026-03"
    );
    assert_eq!(
        officer.text("SELECT state FROM custodian.transfers")?,
        "revoked"
    );
    assert_eq!(
        node.text(
            "SELECT string_agg(change, ' ' ORDER BY epoch) FROM custodian.epoch WHERE change LIKE 'transfer.%' OR change LIKE 'lane.%'"
        )?,
        "transfer.registered transfer.approved lane.opened transfer.revoked lane.closed"
    );
    Ok(())
}

#[test]
fn a_row_of_an_inheriting_table_is_no_transfer() -> Result<()> {
    let node = Cluster::builder("inheriting")
        .preload("pg_custodian")
        .start()?;
    node.exec(
        "CREATE ROLE steward; CREATE ROLE lawyer LOGIN; CREATE ROLE officer LOGIN; GRANT steward TO lawyer, officer;
         CREATE ROLE eu_sub LOGIN REPLICATION; CREATE EXTENSION pg_custodian; CREATE TABLE t (id int)",
    )?;
    node.alter_system("custodian.steward_role", "steward")?;
    node.exec(
        "SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
         SELECT custodian.clear_column('t', 'id'); CREATE PUBLICATION p FOR TABLE t",
    )?;
    let mut lawyer = node.client_as("lawyer", "postgres")?;
    let mut officer = node.client_as("officer", "postgres")?;
    for name in ["shop.eu", "shop.copy"] {
        lawyer.batch_execute(&format!(
            "SELECT custodian.register_transfer('{name}', {REGISTRATION}, valid_until => now() + interval '1 hour')"
        ))?;
    }
    officer.batch_execute("SELECT custodian.approve_transfer('shop.copy', 'board')")?;
    let open = |transfer: &str| {
        format!(
            "SELECT custodian.open_lane('{transfer}', 'eu_sub', 'sub', '{{p}}', network => '192.0.2.0/24')"
        )
    };
    officer.batch_execute(&open("shop.copy"))?;
    // Rows that somebody keeps below the tables, under names that are registered and that are not.
    node.exec(
        "CREATE SCHEMA below;
         CREATE TABLE below.transfer () INHERITS (custodian.transfer);
         CREATE TABLE below.lane () INHERITS (custodian.lane);
         CREATE TABLE below.permit () INHERITS (custodian.publication_permit);
         INSERT INTO below.transfer SELECT * FROM ONLY custodian.transfer;
         UPDATE below.transfer SET transfer = 'shop.forged' WHERE transfer = 'shop.copy';
         INSERT INTO below.lane SELECT * FROM ONLY custodian.lane;
         UPDATE below.lane SET transfer = 'shop.eu';
         INSERT INTO below.permit (publication, regions, reason) VALUES ('everything', '{cn,eu}', 'none')",
    )?;
    assert_eq!(
        officer.text("SELECT transfer, state FROM custodian.transfers ORDER BY 1")?,
        "shop.copy|approved\nshop.eu|registered"
    );
    assert_eq!(
        officer.text("SELECT transfer, state FROM custodian.lanes")?,
        "shop.copy|open"
    );
    assert_eq!(officer.refused(&open("shop.forged")).sqlstate(), "42704");
    // What the functions change is the row itself.
    let kept = "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) || (SELECT md5(string_agg(l::text, '')) FROM below.lane l) FROM below.transfer t";
    let before = node.text(kept)?;
    officer.batch_execute("SELECT custodian.approve_transfer('shop.eu', 'board')")?;
    officer.batch_execute("SELECT custodian.revoke_transfer('shop.eu', 'contract ended')")?;
    assert_eq!(node.text(kept)?, before);
    // The lane below, which names this transfer, was not closed as one of it either.
    assert_eq!(
        node.text("SELECT string_agg(change, ' ' ORDER BY epoch) FROM custodian.epoch WHERE change LIKE 'lane.%'")?,
        "lane.opened"
    );
    // Nor is a permission there one.
    node.alter_system("custodian.enforce", "on")?;
    let refused = node
        .client()?
        .refused("CREATE PUBLICATION everything FOR ALL TABLES");
    assert_eq!(refused.sqlstate(), "42501", "{refused}");
    Ok(())
}
