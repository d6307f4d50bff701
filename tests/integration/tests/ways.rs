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
    // Every block has a row that is due.
    node.exec(&table(
        "everywhere",
        "n % 3 = 0",
        "CREATE INDEX ON everywhere (seen)",
    ))?;
    let done = poll(120, || {
        let runs = "SELECT count(DISTINCT relation) FROM custodian.runs WHERE state = 'done'";
        (node.text(runs).ok()? == "4").then_some(())
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
    for table in ["by_btree", "by_brin", "by_none", "everywhere"] {
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
        "Block Range Pass on public.everywhere  (blocks=N)\n  \
         Reason: everywhere_seen_idx leads to more than N of N blocks"
    );
    Ok(())
}
