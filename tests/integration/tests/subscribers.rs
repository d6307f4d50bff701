//! Publications whose subscribers dispose by themselves: as declared, partitions that they carry are dropped whole, and the
//! subscriber's own sweep takes the rows there.

use integration::{
    Cluster, Result, Sql, quote_literal, wait_for_answer, wait_for_two_rounds, wait_until,
};

fn cluster(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.drop_partitions = on")
        .conf("custodian.enforce = off")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE visit (id bigint, ip text, seen timestamptz NOT NULL, PRIMARY KEY (id, seen)) PARTITION BY RANGE (seen);
         CREATE TABLE visit_now PARTITION OF visit FOR VALUES FROM ('2022-01-01') TO ('2100-01-01');
         SELECT custodian.define_purpose('shop.visit', 'contract', '90 days');
         SELECT custodian.tag_table('visit', subject_kind => 'visitor', subject_key => '{id}', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('visit', 'ip', 'user.device.ip_address', '{shop.visit}');
         SELECT custodian.pause('not yet', 'visit')",
    )?;
    Ok(node)
}

const RESUME: &str = "SELECT custodian.resume('now', 'visit')";

/// The partition of a year that is over.
fn partition(year: u32) -> String {
    format!(
        "CREATE TABLE visit_{year} PARTITION OF visit FOR VALUES FROM ('{year}-01-01') TO ('{}-01-01');",
        year + 1
    )
}

/// Forty visits in that year.
fn visits(year: u32) -> String {
    format!(
        "INSERT INTO visit SELECT n, '10.0.0.' || n, '{year}-03-01' FROM generate_series(1, 40) n"
    )
}

/// What became of the partition of a year.
fn items(year: u32) -> String {
    format!(
        "SELECT string_agg(concat_ws(' ', action, done), '; ' ORDER BY run_id, item)
         FROM custodian.run_items WHERE leaf = 'public.visit_{year}'"
    )
}

/// Waits until a subscriber has what the publisher has written so far.
fn caught_up(publisher: &Cluster, subscriber: &Cluster, beat: u32) -> Result<()> {
    publisher.exec(&format!("INSERT INTO visit VALUES ({beat}, 'beat', now())"))?;
    wait_until("the subscriber has applied everything", 90, || {
        subscriber
            .text(&format!("SELECT count(*) FROM visit WHERE id = {beat}"))
            .is_ok_and(|count| count == "1")
    });
    Ok(())
}

#[test]
fn a_partition_is_dropped_where_every_publication_of_it_is_declared_and_the_subscriber_sweeps()
-> Result<()> {
    let publisher = cluster("publisher")?;
    let subscriber = cluster("subscriber")?;
    subscriber.exec(&[partition(2018), partition(2019), partition(2020)].concat())?;
    publisher.exec(&partition(2018))?;
    publisher
        .exec("CREATE PUBLICATION shipped FOR TABLE visit WITH (publish_via_partition_root)")?;
    subscriber.exec(&format!(
        "CREATE SUBSCRIPTION shipped CONNECTION {} PUBLICATION shipped",
        quote_literal(&publisher.conninfo("postgres", "postgres"))
    ))?;
    publisher.exec(&visits(2018))?;
    caught_up(&publisher, &subscriber, 1001)?;
    const OLD: &str = "SELECT count(*) FROM visit WHERE seen < '2022-01-01'";
    assert_eq!(subscriber.text(OLD)?, "40");

    // Nothing is declared: the rows are deleted, here and there, where nothing is swept yet.
    publisher.exec(RESUME)?;
    wait_for_answer(&publisher, "SELECT to_regclass('visit_2018')", "");
    assert_eq!(
        publisher.text(&items(2018))?,
        "delete row 40; drop partition 0"
    );
    caught_up(&publisher, &subscriber, 1002)?;
    assert_eq!(subscriber.text(OLD)?, "0");

    // Declared for one of two publications: the same.
    publisher.exec(
        "SELECT custodian.pause('not yet', 'visit');
         SELECT custodian.declare_subscriber_disposal('shipped', 'it has sweeps of its own');
         CREATE PUBLICATION everything FOR TABLES IN SCHEMA public",
    )?;
    publisher.exec(&[partition(2019), visits(2019)].concat())?;
    caught_up(&publisher, &subscriber, 1003)?;
    assert_eq!(subscriber.text(OLD)?, "40");
    publisher.exec(RESUME)?;
    wait_for_answer(&publisher, "SELECT to_regclass('visit_2019')", "");
    assert_eq!(
        publisher.text(&items(2019))?,
        "delete row 40; drop partition 0"
    );
    caught_up(&publisher, &subscriber, 1004)?;
    assert_eq!(subscriber.text(OLD)?, "0");

    // For each of them: it is dropped, and nobody tells the subscriber.
    publisher.exec(
        "SELECT custodian.pause('not yet', 'visit');
         SELECT custodian.declare_subscriber_disposal('everything', 'nobody subscribes')",
    )?;
    publisher.exec(&[partition(2020), visits(2020)].concat())?;
    caught_up(&publisher, &subscriber, 1005)?;
    publisher.exec(RESUME)?;
    wait_for_answer(&publisher, "SELECT to_regclass('visit_2020')", "");
    assert_eq!(publisher.text(&items(2020))?, "drop partition 40");
    caught_up(&publisher, &subscriber, 1006)?;
    assert_eq!(subscriber.text(OLD)?, "40");
    // Its own sweep takes them.
    subscriber.exec(RESUME)?;
    wait_for_answer(&subscriber, OLD, "0");
    wait_for_answer(&subscriber, &items(2020), "drop partition 40");
    caught_up(&publisher, &subscriber, 1007)
}

#[test]
fn what_is_withdrawn_while_a_partition_leaves_puts_it_back() -> Result<()> {
    let node = cluster("withdrawn")?;
    node.exec(&partition(2020))?;
    node.exec(&visits(2020))?;
    node.exec(
        "CREATE PUBLICATION shipped FOR TABLE visit;
         SELECT custodian.declare_subscriber_disposal('shipped', 'it has sweeps of its own')",
    )?;
    // As long as somebody may look at the table as it was, the partition is not detached.
    let mut user = node.client()?;
    user.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM visit")?;
    node.exec(RESUME)?;
    wait_for_answer(
        &node,
        "SELECT count(*) FROM pg_inherits WHERE inhdetachpending",
        "1",
    );
    node.exec("SELECT custodian.withdraw_subscriber_disposal('shipped')")?;
    drop(user);
    wait_for_answer(&node, "SELECT to_regclass('visit_2020')", "");
    assert_eq!(
        node.text("SELECT string_agg(DISTINCT kind, ' ') FROM custodian.ledger WHERE kind ~ '^partition.put'")?,
        "partition.put_back"
    );
    assert_eq!(
        node.text("SELECT sum(done) FROM custodian.run_items WHERE action = 'delete row'")?,
        "40"
    );
    Ok(())
}

const DECLARED: &str =
    "SELECT publication, reason FROM custodian.subscriber_disposals ORDER BY publication";

#[test]
fn a_declaration_is_a_stewards_and_follows_its_publication() -> Result<()> {
    let node = cluster("declared")?;
    node.exec("CREATE ROLE other LOGIN; GRANT CREATE ON DATABASE postgres TO other")?;
    let mut client = node.client()?;
    for (sql, sqlstate) in [
        ("('nothing', 'because')", "42704"),
        ("('Shipped', ' ')", "22023"),
        ("(NULL, 'because')", "22023"),
    ] {
        let refused = client.refused(&format!(
            "SELECT custodian.declare_subscriber_disposal{sql}"
        ));
        assert_eq!(refused.sqlstate(), sqlstate, "{sql}");
    }
    node.exec("CREATE PUBLICATION \"Shipped\" FOR TABLE visit WITH (publish = 'insert')")?;
    const SILENT: &str =
        "SELECT count(*) FROM custodian.check() WHERE code = 'subscribers-keep-data'";
    assert_eq!(node.text(SILENT)?, "1");
    let mut other = node.client_as("other", "postgres")?;
    for sql in [
        "SELECT custodian.declare_subscriber_disposal('Shipped', 'because')",
        "SELECT custodian.withdraw_subscriber_disposal('Shipped')",
    ] {
        assert_eq!(other.refused(sql).sqlstate(), "42501", "{sql}");
    }
    const WITHDRAW: &str = "SELECT custodian.withdraw_subscriber_disposal('Shipped')";
    assert_eq!(client.refused(WITHDRAW).sqlstate(), "42704");
    node.exec("SELECT custodian.declare_subscriber_disposal('Shipped', 'it sweeps')")?;
    assert_eq!(node.text(DECLARED)?, "Shipped|it sweeps");
    // It is no finding any more that the rows stay there.
    assert_eq!(node.text(SILENT)?, "0");
    node.exec(WITHDRAW)?;
    assert_eq!(node.text(SILENT)?, "1");

    // As a document.
    const DOCUMENT: &str = r#"'{"subscriber_disposals": {"Shipped": {"reason": "sweeps"}}}'"#;
    assert_eq!(
        node.text(&format!(
            "SELECT object, change, loosens FROM custodian.apply_policy({DOCUMENT}, dry_run => false)"
        ))?,
        "subscriber disposal Shipped|declare|t"
    );
    assert_eq!(node.text(DECLARED)?, "Shipped|sweeps");
    assert_eq!(
        node.text(
            "SELECT custodian.export_policy() -> 'subscriber_disposals',
                    (SELECT count(*) FROM custodian.apply_policy(custodian.export_policy(), dry_run => false))"
        )?,
        r#"{"Shipped": {"reason": "sweeps"}}|0"#
    );
    let none = DOCUMENT.replace("Shipped", "nothing");
    let refused = client.refused(&format!(
        "SELECT * FROM custodian.apply_policy({none}, dry_run => false)"
    ));
    assert_eq!(refused.sqlstate(), "42704");

    // It follows a rename, also of one that was declared and is gone, and another one of the name begins without.
    node.exec(
        "ALTER PUBLICATION \"Shipped\" RENAME TO sent;
         CREATE PUBLICATION \"Shipped\" FOR TABLE visit WITH (publish = 'insert')",
    )?;
    assert_eq!(node.text(DECLARED)?, "sent|sweeps");
    assert_eq!(
        node.text("SELECT problem ~ '\"Shipped\"' FROM custodian.check() WHERE code = 'subscribers-keep-data'")?,
        "t"
    );
    node.exec("DROP PUBLICATION sent; CREATE PUBLICATION sent FOR TABLE visit")?;
    assert_eq!(node.text(DECLARED)?, "");
    // With its owner.
    node.exec(
        "ALTER PUBLICATION sent OWNER TO postgres;
         SELECT custodian.declare_subscriber_disposal('sent', 'sweeps')",
    )?;
    other.batch_execute("CREATE PUBLICATION others")?;
    node.exec(
        "SELECT custodian.declare_subscriber_disposal('others', 'sweeps'); DROP OWNED BY other",
    )?;
    assert_eq!(node.text(DECLARED)?, "sent|sweeps");
    node.exec("BEGIN; DROP PUBLICATION sent; ROLLBACK")?;
    assert_eq!(node.text(DECLARED)?, "sent|sweeps");

    assert_eq!(
        node.text(
            "SELECT string_agg(concat_ws(' ', substring(kind FROM '[a-z]+$'), object), ', ' ORDER BY entry)
             FROM custodian.ledger WHERE kind ~ 'subscriber'"
        )?,
        "declared Shipped, withdrawn Shipped, declared Shipped, renamed sent, withdrawn sent, declared sent, \
         declared others, withdrawn others"
    );
    wait_for_two_rounds(&node);
    Ok(())
}
