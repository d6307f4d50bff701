//! Copies of tagged columns have derived tags at once: they drive the guard, and never disposal.

use integration::{Cluster, Result, Sql, wait_for_answer};

/// A node that knows the role `postgres` on its socket, and no other: `away` is from outside, a superuser even.
fn node() -> Result<Cluster> {
    let node = Cluster::builder("derived")
        .preload("pg_custodian")
        .conf("custodian.region = 'cn'")
        .file(
            "custodian_regions.conf",
            "region cn\nregion eu\nlocal postgres\n",
        )
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec("CREATE ROLE away LOGIN SUPERUSER; CREATE ROLE shop LOGIN; GRANT CREATE ON SCHEMA public TO shop")?;
    node.exec(
        "SELECT custodian.define_purpose('shop.account', 'contract', '1 year');
         CREATE TABLE customer (id int PRIMARY KEY, email text, born date, plan text, note text);
         CREATE TABLE visit (customer int, address inet);
         ALTER TABLE customer OWNER TO shop;
         GRANT ALL ON customer, visit TO shop;
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.account}', residency => '{cn,eu}');
         SELECT custodian.tag_column('customer', 'born', 'user.demographic.date_of_birth', '{shop.account}', 'sensitive', '{cn}');
         SELECT custodian.tag_column('visit', 'address', 'user.device.ip_address', '{shop.account}', residency => '{eu}');
         SELECT custodian.clear_column('customer', c) FROM unnest('{id,plan}'::text[]) c;
         SELECT custodian.clear_column('visit', 'customer');
         INSERT INTO customer VALUES (1, 'canary', '2000-01-01', 'basic', 'x')",
    )?;
    Ok(node)
}

/// What a relation's columns are derived to be: category, sensitivity and residency of each.
fn derived(client: &mut impl Sql, relation: &str) -> Result<String> {
    client.text(&format!(
        "SELECT column_name || ': ' || category || ' ' || sensitivity || ' ' || coalesce(residency::text, 'unstated')
         FROM custodian.tags WHERE relation = '{relation}'::regclass AND kind = 'derived' ORDER BY 1"
    ))
}

/// Statements that make the relation `copy`, with the tags that it has then.
const COPIES: [(&str, &str); 20] = [
    (
        "CREATE TABLE copy AS SELECT id, email, plan FROM customer",
        "email: user.contact.email personal {cn,eu}",
    ),
    (
        "SELECT id, email INTO copy FROM customer",
        "email: user.contact.email personal {cn,eu}",
    ),
    // What chooses the rows narrows the regions, and adds no category.
    (
        "CREATE TABLE copy AS SELECT email FROM customer WHERE born < '2001-01-01'",
        "email: user.contact.email personal {cn}",
    ),
    (
        "CREATE TABLE copy AS SELECT email FROM customer WHERE note IS NULL",
        "email: user.contact.email personal unstated",
    ),
    // Several sources together.
    (
        "CREATE TABLE copy AS SELECT upper(email) || born AS both FROM customer",
        "both: user.contact.email, user.demographic.date_of_birth sensitive {cn}",
    ),
    (
        "CREATE TABLE copy (a, b) AS SELECT plan, address FROM customer JOIN visit ON customer.id = visit.customer",
        "b: user.device.ip_address personal {eu}",
    ),
    (
        "CREATE TABLE copy AS SELECT born::text || address FROM customer, visit",
        "?column?: user.demographic.date_of_birth, user.device.ip_address sensitive {}",
    ),
    // Through subqueries, WITH, set operations, joins with USING, aggregates, whole rows and RETURNING.
    (
        "CREATE TABLE copy AS SELECT x.e FROM (SELECT email AS e FROM customer OFFSET 0) x",
        "e: user.contact.email personal {cn,eu}",
    ),
    (
        "CREATE TABLE copy AS WITH RECURSIVE w(n, e) AS (SELECT 1, email FROM customer UNION ALL SELECT n + 1, e FROM w WHERE n < 2) SELECT e, n FROM w",
        "e: user.contact.email personal {cn,eu}",
    ),
    (
        "CREATE TABLE copy AS SELECT plan AS p FROM customer UNION SELECT email FROM customer",
        "p: user.contact.email personal {cn,eu}",
    ),
    (
        "CREATE TABLE copy AS SELECT email FROM customer FULL JOIN (SELECT email, 1 AS one FROM customer) y USING (email)",
        "email: user.contact.email personal {cn,eu}",
    ),
    (
        "CREATE TABLE copy AS SELECT plan, (SELECT max(c.email) FROM customer c WHERE c.id = o.id) AS e FROM customer o",
        "e: user.contact.email personal {cn,eu}",
    ),
    (
        "CREATE TABLE copy AS SELECT to_jsonb(c) AS doc FROM customer c",
        "doc: user.contact.email, user.demographic.date_of_birth sensitive unstated",
    ),
    (
        "CREATE TABLE copy AS WITH d AS (DELETE FROM customer WHERE false RETURNING email) SELECT * FROM d",
        "email: user.contact.email personal {cn,eu}",
    ),
    (
        "CREATE TABLE copy AS SELECT word FROM customer, regexp_split_to_table(email, '@') word",
        "word: user.contact.email personal {cn,eu}",
    ),
    // What a function of a user reads is not known.
    (
        "CREATE TABLE copy AS SELECT mine(email) AS e FROM customer",
        "e: user.contact.email personal unstated",
    ),
    (
        "CREATE TABLE copy AS EXECUTE prepared",
        "email: user.contact.email personal {cn,eu}",
    ),
    (
        "EXPLAIN (ANALYZE, COSTS OFF) CREATE TABLE copy AS SELECT email FROM customer",
        "email: user.contact.email personal {cn,eu}",
    ),
    (
        "CREATE TABLE copy (LIKE customer INCLUDING ALL, extra int)",
        "born: user.demographic.date_of_birth sensitive {cn}\nemail: user.contact.email personal {cn,eu}",
    ),
    (
        "CREATE SCHEMA part CREATE TABLE copy (LIKE public.customer)",
        "born: user.demographic.date_of_birth sensitive {cn}\nemail: user.contact.email personal {cn,eu}",
    ),
];

#[test]
fn copies_are_tagged_by_what_they_are_made_of() -> Result<()> {
    let node = node()?;
    let mut client = node.client()?;
    client.batch_execute(
        "CREATE FUNCTION mine(x text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT x';
         PREPARE prepared AS SELECT email FROM customer",
    )?;
    for (statement, expected) in COPIES {
        client.batch_execute(statement)?;
        let copy = if statement.contains("SCHEMA part") {
            "part.copy"
        } else {
            "public.copy"
        };
        assert_eq!(derived(&mut client, copy)?, expected, "{statement}");
        client.batch_execute(&format!("DROP TABLE {copy}"))?;
    }
    // What was prepared reads the view, and the table of the search path, of now.
    client.batch_execute(
        "CREATE VIEW shown AS SELECT plan AS x FROM customer; CREATE SCHEMA first;
         CREATE TABLE first.customer (id int, email text, address inet);
         SELECT custodian.tag_column('first.customer', 'email', 'user.name', '{shop.account}', residency => '{eu}');
         PREPARE of_view AS SELECT x FROM shown; PREPARE of_path AS SELECT email FROM customer;
         CREATE OR REPLACE VIEW shown AS SELECT email AS x FROM customer; SET search_path = first, public",
    )?;
    for (prepared, expected) in [
        ("of_view", "x: user.contact.email personal {cn,eu}"),
        ("of_path", "email: user.name personal {eu}"),
    ] {
        client.batch_execute(&format!("CREATE TABLE copy AS EXECUTE {prepared}"))?;
        assert_eq!(derived(&mut client, "copy")?, expected, "{prepared}");
        client.batch_execute("DROP TABLE copy")?;
    }
    client.batch_execute("RESET search_path")?;
    // Nothing personal, a temporary table, a table that is there already, and what is only explained.
    for statement in [
        "CREATE TABLE copy AS SELECT id, plan, note, count(*) FROM customer GROUP BY 1",
        "CREATE TEMP TABLE copy AS SELECT email FROM customer",
        "CREATE TABLE copy (email text); CREATE TABLE IF NOT EXISTS copy AS SELECT email FROM customer",
        "EXPLAIN CREATE TABLE copy AS SELECT email FROM customer; CREATE TABLE copy (email text)",
    ] {
        client.batch_execute(statement)?;
        assert_eq!(derived(&mut client, "copy")?, "", "{statement}");
        client.batch_execute("DROP TABLE copy")?;
    }
    Ok(())
}

#[test]
fn what_a_statement_that_failed_would_have_derived_is_written_nowhere() -> Result<()> {
    let node = node()?;
    // Somebody who owns nothing, and may read what the copy would be made of.
    node.exec("CREATE ROLE reader LOGIN; GRANT CREATE ON SCHEMA public TO reader; GRANT SELECT ON customer TO reader")?;
    let mut reader = node.client_as("reader", "postgres")?;
    let mut shop = node.client_as("shop", "postgres")?;
    let columns = |n: usize| (0..n).map(|i| format!(", id AS i{i}")).collect::<String>();
    for n in 0..30 {
        let fails = format!(
            "CREATE TABLE copy AS SELECT email, 1 / (id - 1) AS x{} FROM customer",
            columns(n)
        );
        assert_eq!(reader.refused(&fails).sqlstate(), "22012");
    }
    shop.batch_execute("CREATE TABLE copy (email text, x int)")?;
    node.exec(
        "SELECT custodian.tag_column('copy', 'email', 'user.name', '{shop.account}', residency => '{cn}')",
    )?;
    // Statements of other kinds, some of which lie in memory where one that failed lay.
    for n in 0..60 {
        for prepare in [
            "PREPARE p AS",
            "PREPARE longer_name AS",
            "PREPARE p(int) AS",
        ] {
            reader.batch_execute(&format!(
                "{prepare} SELECT email{} FROM customer",
                columns(n)
            ))?;
            reader.batch_execute("DEALLOCATE ALL")?;
        }
    }
    assert_eq!(derived(&mut reader, "copy")?, "");
    assert_eq!(
        node.text("SELECT category FROM custodian.tags WHERE relation = 'copy'::regclass AND kind = 'column'")?,
        "user.name"
    );
    Ok(())
}

#[test]
fn a_copy_in_an_open_transaction_does_not_hold_up_the_policy() -> Result<()> {
    let node = node()?;
    let mut shop = node.client_as("shop", "postgres")?;
    shop.batch_execute(
        "BEGIN; CREATE TABLE copy AS SELECT email FROM customer; CREATE TABLE gone AS SELECT email FROM customer;
         CREATE MATERIALIZED VIEW view AS SELECT email FROM customer; REFRESH MATERIALIZED VIEW view;
         CREATE TABLE alike (LIKE customer); SAVEPOINT s; CREATE TABLE undone AS SELECT email FROM customer;
         ROLLBACK TO s; DROP TABLE gone",
    )?;
    // Waiting would be an error.
    node.exec(
        "SET lock_timeout = '5s'; SELECT custodian.define_purpose('shop.other', 'contract', '1 year')",
    )?;
    assert_eq!(
        node.text("SELECT change FROM custodian.epoch ORDER BY epoch DESC LIMIT 1")?,
        "policy.purpose_defined"
    );
    shop.batch_execute("COMMIT")?;
    // Then there is an epoch, with the policy of then, and the ledger has each.
    wait_for_answer(
        &node,
        "SELECT change FROM custodian.epoch ORDER BY epoch DESC LIMIT 1",
        "policy.recorded",
    );
    assert_eq!(
        node.text(
            "SELECT count(*) FROM jsonb_path_query(
                 custodian.policy_of_epoch((SELECT max(epoch) FROM custodian.epoch)), 'strict $.**.derived')"
        )?,
        "3"
    );
    assert_eq!(
        node.text(
            "SELECT object FROM custodian.ledger WHERE kind = 'tag.added'
                 AND object ~ '(copy|view|alike|undone)[.]' ORDER BY 1"
        )?,
        "public.alike.born\npublic.alike.email\npublic.copy.email\npublic.view.email"
    );
    Ok(())
}

#[test]
fn a_derived_tag_drives_the_guard_and_not_disposal_until_a_steward_confirms_it() -> Result<()> {
    let node = node()?;
    node.exec(
        "CREATE VIEW born AS SELECT email, born AS b FROM customer;
         CREATE TABLE copy AS SELECT email, plan FROM customer;
         ALTER TABLE copy OWNER TO shop;
         CREATE MATERIALIZED VIEW births AS SELECT b, 1 AS one FROM born",
    )?;
    let mut inside = node.client()?;
    assert_eq!(
        derived(&mut inside, "births")?,
        "b: user.demographic.date_of_birth sensitive {cn}"
    );
    // It is no plan of disposal, and a finding.
    assert_eq!(
        inside
            .text("SELECT count(*) FROM custodian.preview() WHERE relation = 'copy'::regclass")?,
        "0"
    );
    let findings = "SELECT object FROM custodian.check() WHERE code = 'tag-derived' ORDER BY 1";
    assert_eq!(inside.text(findings)?, "public.births.b\npublic.copy.email");

    node.alter_system("custodian.enforce", "on")?;
    let mut away = node.client_as("away", "postgres")?;
    for (query, column) in [
        (
            "SELECT email FROM copy",
            "copy.email (user.contact.email, residency cn, eu)",
        ),
        (
            "SELECT b FROM births",
            "births.b (user.demographic.date_of_birth, residency cn)",
        ),
    ] {
        let refused = format!("{:?}", away.refused(query));
        assert!(refused.contains(column), "{refused}");
    }

    // The owner of the copy may not say that it is something else; a steward may.
    let mut shop = node.client_as("shop", "postgres")?;
    for change in [
        "SELECT custodian.clear_column('copy', 'email')",
        "SELECT custodian.untag_column('copy', 'email')",
        "SELECT custodian.tag_column('copy', 'email', 'user.name', '{shop.account}', residency => '{cn,eu}')",
        r#"SECURITY LABEL FOR custodian ON COLUMN copy.email IS '{"derived":{"categories":["user.name"],"sensitivity":"personal"}}'"#,
    ] {
        assert_eq!(shop.refused(change).sqlstate(), "42501", "{change}");
    }
    shop.batch_execute(
        r#"SECURITY LABEL FOR custodian ON COLUMN copy.email IS
             '{"derived":{"categories":["user.contact.email"],"sensitivity":"sensitive","residency":["cn"]}}'"#,
    )?;
    inside.batch_execute(
        "SELECT custodian.tag_column('copy', 'email', 'user.contact.email', '{shop.account}', residency => '{cn}')",
    )?;
    // Nothing is disposed of in a materialized view, so it takes no tag; but it can be cleared, which a refresh leaves.
    let refused =
        inside.refused("SELECT custodian.tag_column('births', 'b', 'user.name', '{shop.account}')");
    assert_eq!(refused.sqlstate(), "42809");
    inside.batch_execute("SELECT custodian.clear_column('births', 'b')")?;
    inside.batch_execute("REFRESH MATERIALIZED VIEW births")?;
    assert_eq!(inside.text(findings)?, "");

    // A refresh goes by the tags of now.
    inside.batch_execute("SELECT custodian.untag_column('births', 'b')")?;
    inside.batch_execute("SELECT custodian.tag_column('customer', 'born', 'user.demographic', '{shop.account}', 'sensitive', '{cn}')")?;
    inside.batch_execute("REFRESH MATERIALIZED VIEW births")?;
    assert_eq!(
        derived(&mut inside, "births")?,
        "b: user.demographic sensitive {cn}"
    );
    Ok(())
}

#[test]
fn rows_inserted_into_untagged_columns_are_a_finding() -> Result<()> {
    let node = node()?;
    node.exec(
        "CREATE TABLE heap (who text, plan text);
         CREATE TABLE kept (who text);
         SELECT custodian.tag_column('kept', 'who', 'user.contact.email', '{shop.account}', residency => '{cn}');
         INSERT INTO heap (plan) VALUES ('x');
         INSERT INTO heap (plan) SELECT plan FROM customer;
         INSERT INTO kept SELECT email FROM customer",
    )?;
    let findings =
        "SELECT object || ': ' || problem FROM custodian.check() WHERE code = 'copy-untagged'";
    assert_eq!(node.text(findings)?, "");
    node.exec(
        "CREATE FUNCTION copy() RETURNS void LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO heap (who) SELECT lower(email) FROM customer; END $$",
    )?;
    node.text("SELECT copy() FROM generate_series(1, 2)")?;
    assert_eq!(
        node.text(findings)?,
        "public.heap.who: It has no label. INSERT fills it from public.customer.email, which is tagged."
    );
    node.exec(
        "SELECT custodian.tag_column('heap', 'who', 'user.contact.email', '{shop.account}')",
    )?;
    assert_eq!(node.text(findings)?, "");
    // The statement in a single row, by a subquery.
    node.exec("ALTER TABLE heap ADD COLUMN more text; INSERT INTO heap (more) VALUES ((SELECT max(email) FROM customer))")?;
    assert!(node.text(findings)?.starts_with("public.heap.more: "));

    // A name that is too long for an event, and more columns than there is room for: the others are told all the same.
    let long = "N".repeat(63);
    node.exec(&format!(
        "CREATE SCHEMA \"{long}\"; CREATE TABLE \"{long}\".\"{long}\" (\"{long}\" text, other text);
         INSERT INTO \"{long}\".\"{long}\" (\"{long}\") SELECT email FROM customer"
    ))?;
    let found = node.text(findings)?;
    assert!(
        found.contains(&format!("{long}\": It has no label.")),
        "{found}"
    );
    let columns = (0..600).map(|n| format!("c{n} text")).collect::<Vec<_>>();
    node.exec(&format!(
        "CREATE TABLE wide ({}); DO $$ BEGIN FOR n IN 0 .. 599 LOOP
             EXECUTE format('INSERT INTO wide (c%s) SELECT email FROM customer', n); END LOOP; END $$",
        columns.join(", ")
    ))?;
    assert_eq!(
        node.text("SELECT code, object FROM custodian.check() WHERE code = 'copies-untold' OR object LIKE '%.more' ORDER BY 1")?,
        "copies-untold|INSERT\ncopy-untagged|public.heap.more"
    );
    Ok(())
}
