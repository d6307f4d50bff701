//! What a changed policy would do, told before it is made; and previews that read a part of a big table.

use integration::{Cluster, Result, Sql, quote_literal};

const SHOP: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE TABLE customer (id bigint PRIMARY KEY, email text, name text, ip inet, seen timestamptz NOT NULL);
    CREATE TABLE invoice (id bigint PRIMARY KEY, customer_id bigint REFERENCES customer, buyer text, at timestamptz NOT NULL);
    CREATE TABLE visit (id bigint, page text, at timestamptz NOT NULL) PARTITION BY RANGE (id);
    CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM (0) TO (50);
    CREATE TABLE visit_2 PARTITION OF visit FOR VALUES FROM (50) TO (1000);
    INSERT INTO customer SELECT n, 'u' || n, 'name ' || n, '10.1.2.3', now() - n * interval '10 days' FROM generate_series(1, 100) n;
    INSERT INTO invoice SELECT n, n, 'buyer ' || n, now() - n * interval '10 days' FROM generate_series(60, 90) n;
    INSERT INTO visit SELECT n, 'page ' || n, now() - n * interval '10 days' FROM generate_series(1, 100) n;
    SELECT custodian.define_purpose('shop.account', 'contract', '400 days');
    SELECT custodian.define_purpose('shop.ads', 'contract', '100 days');
    SELECT custodian.define_purpose('shop.books', 'legal_obligation', '500 days');
    SELECT custodian.tag_table('customer', clock => 'seen', subject_kind => 'customer', subject_key => '{id}', on_expiry => 'delete');
    SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.account}', on_expiry => 'set_null');
    SELECT custodian.tag_column('customer', 'ip', 'user.device.ip_address', '{shop.ads}', on_expiry => 'network');
    SELECT custodian.tag_table('invoice', clock => 'at', subject_kind => 'customer', subject_via => '{customer_id}', on_expiry => 'delete');
    SELECT custodian.tag_column('invoice', 'buyer', 'user.name', '{shop.books}');
    SELECT custodian.require_minimum('cn.tax', 'invoice', '{buyer}', '800 days', 'Law A');
    SELECT custodian.place_hold('case 1', 'counsel', current_date + 30, 'court', subject_kind => 'customer', subject_key => '{95}');";

/// One with everything that a document can change.
const CHANGED: &str = r#"{
    "purposes": {
        "shop.account": {"period": "300 days"},
        "shop.ads": {"ended_at": "2020-01-01T00:00:00Z"},
        "shop.visits": {"basis": "contract", "period": "200 days"}},
    "minimums": {"cn.tax": {"period": "850 days"}, "cn.names": {"period": "950 days", "citation": "Law B"}},
    "maximums": {"cn.limit": {"period": "700 days", "citation": "Law M"}},
    "tables": {
        "public.customer": {"columns": {
            "name": {"category": "user.name", "sensitivity": "personal", "purposes": ["shop.account"],
                     "on_expiry": "set_null", "minimums": [{"name": "cn.names"}]}}},
        "public.invoice": {"columns": {
            "buyer": {"category": "user.name", "sensitivity": "personal", "purposes": ["shop.books", "shop.account"],
                      "minimums": [{"name": "cn.tax"}], "maximums": [{"name": "cn.limit"}]}}},
        "public.visit": {"tag": {"clock": "at"}, "columns": {
            "page": {"category": "user.behavior", "sensitivity": "personal", "purposes": ["shop.visits"],
                     "on_expiry": {"prefix": 4}}}}}}"#;

fn node(name: &str) -> Result<Cluster> {
    let node = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 3600")
        .start()?;
    node.exec("CREATE ROLE counsel; CREATE ROLE alice LOGIN")?;
    node.exec(SHOP)?;
    Ok(node)
}

const LINES: &str = "relation::text, column_names, action, reason";

#[test]
fn a_simulation_tells_what_the_preview_shows_once_the_document_is_applied() -> Result<()> {
    let node = node("simulate")?;
    let mut client = node.client()?;
    let document = quote_literal(CHANGED);
    let before =
        client.text("SELECT custodian.export_policy(), (SELECT count(*) FROM custodian.epoch)")?;
    client.batch_execute(&format!(
        "CREATE TEMP TABLE old AS SELECT {LINES}, rows FROM custodian.preview();
         CREATE TEMP TABLE told AS SELECT {LINES}, rows_now, rows_then FROM custodian.simulate({document})"
    ))?;
    assert_eq!(
        client.text("SELECT custodian.export_policy(), (SELECT count(*) FROM custodian.epoch)")?,
        before,
        "nothing was changed"
    );
    client.batch_execute(&format!(
        "SELECT custodian.apply_policy({document}, dry_run => false);
         CREATE TEMP TABLE new AS SELECT {LINES}, rows FROM custodian.preview();
         CREATE TEMP TABLE came AS
         SELECT relation, column_names, action, reason, coalesce(old.rows, 0) AS rows_now, coalesce(new.rows, 0) AS rows_then
         FROM old FULL JOIN new USING (relation, column_names, action, reason)
         WHERE coalesce(old.rows, 0) <> coalesce(new.rows, 0)"
    ))?;
    assert_eq!(
        client.text("(TABLE told EXCEPT TABLE came) UNION ALL (TABLE came EXCEPT TABLE told)")?,
        ""
    );
    // What would be due, and what would not be any more, in each table.
    assert_eq!(
        client.text(
            "SELECT relation, action, sum(rows_now), sum(rows_then) FROM told WHERE action <> 'keep'
             GROUP BY 1, 2 ORDER BY 1, 2"
        )?,
        "customer|delete row|40|5\ncustomer|keep network|50|94\ncustomer|set null|20|65\n\
         invoice|delete row|11|6\nvisit|keep prefix|0|81"
    );
    Ok(())
}

#[test]
fn a_simulation_of_nothing_new_is_empty_and_a_wrong_document_is_refused() -> Result<()> {
    let node = node("simulate-refused")?;
    let mut client = node.client()?;
    assert_eq!(
        client.text("SELECT * FROM custodian.simulate(custodian.export_policy())")?,
        ""
    );
    assert_eq!(client.text("SELECT * FROM custodian.simulate('{}')")?, "");
    for (document, sqlstate) in [
        ("NULL", "22023"),
        ("'{\"purposes\": {\"shop.x\": {}}}'", "22023"),
        ("'{\"tables\": {\"public.none\": {}}}'", "42704"),
    ] {
        let error = client.refused(&format!("SELECT * FROM custodian.simulate({document})"));
        assert_eq!(error.sqlstate(), sqlstate, "{error}");
    }
    // A document could ask about consents of anybody's subjects: it is for stewards.
    let mut alice = node.client_as("alice", "postgres")?;
    alice.batch_execute("CREATE TEMP TABLE mine (id int)")?;
    assert_eq!(
        alice
            .refused("SELECT * FROM custodian.simulate('{}')")
            .sqlstate(),
        "42501"
    );
    Ok(())
}

#[test]
fn an_estimate_says_that_it_is_one_and_small_tables_are_counted() -> Result<()> {
    let node = node("estimate")?;
    let mut client = node.client()?;
    // One row on each page: 48 MB.
    client.batch_execute(
        "CREATE TABLE big (id int, filler text, mail text, at timestamptz) WITH (fillfactor = 10);
         ALTER TABLE big ALTER COLUMN filler SET STORAGE PLAIN;
         INSERT INTO big SELECT n, repeat('x', 900), 'm', CASE WHEN n % 2 = 0 THEN '2020-01-01'::timestamptz ELSE now() END
         FROM generate_series(1, 6000) n;
         SELECT custodian.tag_table('big', clock => 'at');
         SELECT custodian.tag_column('big', 'mail', 'user.contact.email', '{shop.account}', on_expiry => 'set_null')",
    )?;
    assert_eq!(
        client.text("SELECT pg_relation_size('big') / 8192 > 4096")?,
        "t"
    );
    assert_eq!(
        client.text("SELECT rows FROM custodian.preview('big')")?,
        "3000"
    );
    assert_eq!(
        client.text(
            "SELECT rows BETWEEN 2700 AND 3300, estimated FROM custodian.estimate_preview('big')"
        )?,
        "t|t"
    );
    let same = "SELECT rows FROM custodian.estimate_preview('big')";
    assert_eq!(
        client.text(same)?,
        client.text(same)?,
        "the same blocks are looked at"
    );
    let lines = "SELECT relation, column_names, action, reason, rows FROM custodian";
    assert_eq!(
        client.text(&format!("{lines}.estimate_preview('customer')"))?,
        client.text(&format!("{lines}.preview('customer')"))?
    );
    assert_eq!(
        client.text("SELECT DISTINCT estimated FROM custodian.estimate_preview('customer')")?,
        "f"
    );
    let mut alice = node.client_as("alice", "postgres")?;
    assert_eq!(
        alice
            .refused("SELECT * FROM custodian.estimate_preview('big')")
            .sqlstate(),
        "42501"
    );
    assert_eq!(
        alice.text("SELECT count(*) FROM custodian.estimate_preview()")?,
        "0"
    );
    Ok(())
}
