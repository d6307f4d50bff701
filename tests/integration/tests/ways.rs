//! Which way a sweep goes over a table, and that it says so.

use integration::{Cluster, Result, poll};

/// A table of which the rows are due for which the condition on their number `n` holds.
fn table(name: &str, due: &str, index: &str) -> String {
    format!(
        "CREATE TABLE {name} (id bigint PRIMARY KEY, email text, note text, seen timestamptz NOT NULL);
         INSERT INTO {name} SELECT n, n || '@example.com', repeat('x', 200),
             now() - CASE WHEN {due} THEN interval '100 days' ELSE interval '1 day' END
         FROM generate_series(1, 10000) n;
         {index};
         SELECT custodian.tag_table('{name}', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('{name}', 'email', 'user.contact.email', '{{test.account}}')"
    )
}

/// They lie together at its beginning.
const BEGINNING: &str = "n <= 1000";

#[test]
fn an_index_on_the_clock_is_followed_where_it_leads_to_few_blocks_and_runs_say_why() -> Result<()> {
    let node = Cluster::builder("ways")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.disposal = on")
        .start()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    node.exec("SELECT custodian.define_purpose('test.account', 'contract', '50 days')")?;
    node.exec(&table(
        "by_btree",
        BEGINNING,
        "CREATE INDEX ON by_btree (seen, id)",
    ))?;
    node.exec(&table(
        "by_brin",
        BEGINNING,
        "CREATE INDEX ON by_brin USING brin (seen) WITH (pages_per_range = 4)",
    ))?;
    // Neither leads to all rows.
    node.exec(&table(
        "by_none",
        BEGINNING,
        "CREATE INDEX ON by_none (seen) WHERE id > 5; CREATE INDEX ON by_none (id, seen)",
    ))?;
    // Every block has rows that are due: few, or most.
    node.exec(&table(
        "everywhere",
        "n % 3 = 0",
        "CREATE INDEX ON everywhere (seen)",
    ))?;
    node.exec(&table(
        "mostly",
        "n % 3 <> 0",
        "CREATE INDEX ON mostly (seen)",
    ))?;
    // A trigger may do anything to other rows.
    node.exec(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
    )?;
    for (table_name, due) in [("scripted", "n % 3 = 0"), ("scripted_beginning", BEGINNING)] {
        node.exec(&table(
            table_name,
            due,
            &format!(
                "CREATE INDEX ON {table_name} (seen);
                 CREATE TRIGGER nothing BEFORE DELETE ON {table_name} FOR EACH ROW EXECUTE FUNCTION nothing()"
            ),
        ))?;
    }
    let done = poll(120, || {
        let runs = "SELECT count(DISTINCT relation) FROM custodian.runs WHERE state = 'done'";
        (node.text(runs).ok()? == "7").then_some(())
    });
    assert!(
        done.is_some(),
        "{}",
        node.text("SELECT * FROM custodian.runs")?
    );
    let due = |table: &str| {
        node.text(&format!(
            "SELECT count(*) FROM {table} WHERE seen < now() - interval '50 days'"
        ))
    };
    let ways = |table: &str| {
        node.text(&format!(
            "SELECT DISTINCT regexp_replace(way, '\\d+', 'N', 'g') FROM custodian.runs
             WHERE relation = '{table}'::regclass AND way LIKE '%{table}%' ORDER BY 1 LIMIT 1"
        ))
    };
    for table in [
        "by_btree",
        "by_brin",
        "by_none",
        "everywhere",
        "mostly",
        "scripted",
        "scripted_beginning",
    ] {
        assert_eq!(due(table)?, "0", "{table}");
    }
    assert_eq!(
        ways("by_btree")?,
        "Index Block Ranges using by_btree_seen_id_idx on public.by_btree  (blocks=N of N, ranges=N)\n  \
         Reason: by_btree_seen_id_idx leads to N of N blocks"
    );
    assert_eq!(
        ways("by_brin")?,
        "Index Block Ranges using by_brin_seen_idx on public.by_brin  (blocks=N of N, ranges=N)\n  \
         Reason: by_brin_seen_idx leads to N of N blocks"
    );
    assert_eq!(
        ways("by_none")?,
        "Block Range Pass on public.by_none  (blocks=N)\n  Reason: no index begins with seen"
    );
    assert_eq!(
        ways("everywhere")?,
        "Index Places using everywhere_seen_idx on public.everywhere  (rows=N, blocks=N of N)\n  \
         Reason: everywhere_seen_idx leads to no more than one in N rows"
    );
    assert_eq!(
        ways("mostly")?,
        "Block Range Pass on public.mostly  (blocks=N)\n  \
         Reason: mostly_seen_idx leads to more than N of N blocks, and more than one in N rows"
    );
    assert_eq!(
        ways("scripted")?,
        "Block Range Pass on public.scripted  (blocks=N)\n  \
         Reason: scripted_seen_idx leads to more than N of N blocks, and triggers, rules or a circle of foreign keys \
         have all rows of a block looked at"
    );
    assert_eq!(
        ways("scripted_beginning")?,
        "Index Block Ranges using scripted_beginning_seen_idx on public.scripted_beginning  (blocks=N of N, ranges=N)\n  \
         Reason: scripted_beginning_seen_idx leads to N of N blocks"
    );
    places(&node)
}

/// Rows that were changed have other places than the index names, or none of theirs: each is found, and judged as it is.
fn places(node: &Cluster) -> Result<()> {
    let sum = |table: &str| {
        node.text(&format!(
            "SELECT count(*), count(email), sum(id), count(*) FILTER (WHERE seen < now() - interval '50 days') FROM {table}"
        ))
    };
    let create = |name: &str| {
        node.exec(&format!(
            "CREATE TABLE {name} (id bigint PRIMARY KEY, email text, note text, seen timestamptz NOT NULL) WITH (fillfactor = 40);
             INSERT INTO {name} SELECT n, n || '@example.com', repeat('x', 200),
                 now() - CASE WHEN n % 3 = 0 THEN interval '100 days' ELSE interval '1 day' END
             FROM generate_series(1, 6000) n;
             CREATE INDEX ON {name} (seen)"
        ))?;
        // Versions in the same block, some twice; renewed ones elsewhere; and places that were vacuumed and taken again.
        node.exec(&format!(
            "UPDATE {name} SET note = 'changed' WHERE id % 2 = 0"
        ))?;
        node.exec(&format!(
            "UPDATE {name} SET note = 'again' WHERE id % 4 = 0"
        ))?;
        node.exec(&format!("UPDATE {name} SET seen = now() WHERE id % 30 = 0"))?;
        node.exec(&format!("DELETE FROM {name} WHERE id % 50 = 1"))?;
        node.exec(&format!("VACUUM {name}"))?;
        node.exec(&format!(
            "INSERT INTO {name} SELECT 10000 + n, 'a', 'b', now() - interval '100 days' * (n % 2) FROM generate_series(1, 100) n"
        ))?;
        node.exec(&format!(
            "UPDATE {name} SET note = 'once more' WHERE id % 8 = 0"
        ))
    };
    create("deleted")?;
    create("emptied")?;
    // It keeps a row, and is asked for each.
    node.exec("CREATE TABLE referring (deleted bigint REFERENCES deleted); INSERT INTO referring VALUES (12)")?;
    // One that is due when the batch sees it, and not any more when it could have its lock.
    let mut renewing = node.client()?;
    renewing.batch_execute(
        "BEGIN; UPDATE deleted SET seen = now() WHERE id = 3; UPDATE emptied SET seen = now() WHERE id = 3",
    )?;
    let stays = "id <> 3 AND id <> 12 AND seen < now() - interval '50 days'";
    let expected = [
        node.text(&format!(
            "SELECT count(*), count(email), sum(id), 1 FROM deleted WHERE NOT ({stays})"
        ))?,
        node.text("SELECT count(*), count(*) FILTER (WHERE id = 3 OR seen > now() - interval '50 days'), sum(id), count(*) FILTER (WHERE id <> 3 AND seen < now() - interval '50 days') FROM emptied")?,
    ];
    node.exec(
        "SELECT custodian.tag_table('deleted', clock => 'seen', on_expiry => 'delete');
         SELECT custodian.tag_column('deleted', 'email', 'user.contact.email', '{test.account}');
         SELECT custodian.tag_table('emptied', clock => 'seen');
         SELECT custodian.tag_column('emptied', 'email', 'user.contact.email', '{test.account}', on_expiry => 'set_null')",
    )?;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'";
    let waiting = poll(120, || (node.text(waits).ok()? != "0").then_some(()));
    renewing.batch_execute("COMMIT")?;
    assert!(waiting.is_some(), "no batch came to the row that is locked");
    let done = poll(120, || {
        let now = [sum("deleted").ok()?, sum("emptied").ok()?];
        (now == expected).then_some(())
    });
    assert!(
        done.is_some(),
        "expected {expected:?}, found {} and {}\n{}",
        sum("deleted")?,
        sum("emptied")?,
        node.text("SELECT * FROM custodian.runs")?
    );
    let ways = "SELECT count(DISTINCT relation) FROM custodian.runs
                WHERE relation IN ('deleted'::regclass, 'emptied'::regclass) AND way LIKE '%Index Places%'";
    assert_eq!(node.text(ways)?, "2");
    Ok(())
}
