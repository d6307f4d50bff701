//! Deleting and anonymizing, against the one bare statement that does the same.

use integration::{Cluster, Result, Sql};

use crate::arena::{self, Sizes};
use crate::result::{Figure, Target};

/// Days after which a row goes.
const PERIOD: u32 = 200;

/// Where the expired tenth of the rows is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Scattered,
    Together,
}

/// A table of seven columns and two secondary indexes, a tenth of its rows expired.
fn table(rows: u64, place: Place, fillfactor: u32) -> String {
    // A fixed permutation decides which rows are expired, so that each run sees the same table.
    let expired = match place {
        Place::Scattered => format!("(n * 7919) % {rows} < {rows} / 10"),
        Place::Together => format!("n <= {rows} / 10"),
    };
    format!(
        "CREATE TABLE customer (id bigint NOT NULL, email text, phone text, city text, note text, score int,
                                seen timestamptz NOT NULL) WITH (fillfactor = {fillfactor});
         INSERT INTO customer
         SELECT n, 'user' || n || '@example.com', '+8613' || lpad(n::text, 9, '0'), 'city ' || n % 300, repeat('x', 60), n % 100,
                now() - interval '1 hour' * ((n * 31) % 4000) - CASE WHEN {expired} THEN interval '250 days' ELSE '0' END
         FROM generate_series(1::bigint, {rows}) n;
         ALTER TABLE customer ADD PRIMARY KEY (id);
         CREATE INDEX ON customer (seen);
         CREATE INDEX ON customer (city);
         CREATE EXTENSION pg_custodian;
         SELECT custodian.define_purpose('shop.account', 'contract', '{PERIOD} days')"
    )
}

const DELETES: &str = "
    SELECT custodian.tag_table('customer', clock => 'seen', on_expiry => 'delete');
    SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.account}');
    SELECT custodian.tag_column('customer', 'phone', 'user.contact.phone_number', '{shop.account}')";

const ANONYMIZES: &str = "
    SELECT custodian.tag_table('customer', clock => 'seen');
    SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.account}', on_expiry => 'set_null');
    SELECT custodian.tag_column('customer', 'phone', 'user.contact.phone_number', '{shop.account}', on_expiry => 'set_null')";

fn bare(deletes: bool) -> String {
    let condition = format!("seen <= now() - interval '{PERIOD} days'");
    if deletes {
        format!("DELETE FROM customer WHERE {condition}")
    } else {
        format!("UPDATE customer SET email = NULL, phone = NULL WHERE {condition}")
    }
}

/// Pairs of a bare statement and a sweep over copies of one database, in turn first; the ratio of their speeds.
fn pairs(node: &Cluster, of: &str, sizes: Sizes, deletes: bool) -> Result<(Vec<f64>, Vec<f64>)> {
    let tags = if deletes { DELETES } else { ANONYMIZES };
    let (mut ratios, mut baselines) = (Vec::new(), Vec::new());
    let expired = sizes.rows as f64 / 10.0;
    for pair in 0..sizes.pairs {
        let mut took = [0.0, 0.0];
        for side in [pair % 2, 1 - pair % 2] {
            let mut client = arena::copy(node, of, "run", tags)?;
            took[side] = if side == 0 {
                arena::timed(&mut client, &bare(deletes))?
            } else {
                arena::sweep(node, &mut client, 1)?
            };
            let left = client.text(&if deletes {
                format!("SELECT count(*) FROM customer WHERE seen <= now() - interval '{PERIOD} days'")
            } else {
                format!(
                    "SELECT count(*) FROM customer
                     WHERE seen <= now() - interval '{PERIOD} days' AND (email IS NOT NULL OR phone IS NOT NULL)"
                )
            })?;
            if left != "0" {
                return Err(format!("{left} rows were left").into());
            }
        }
        ratios.push(took[0] / took[1]);
        baselines.push(expired / took[0]);
    }
    arena::remove(node, "run")?;
    Ok((ratios, baselines))
}

fn figure(
    name: &str,
    target: f64,
    (values, baselines): (Vec<f64>, Vec<f64>),
    note: &str,
) -> Figure {
    Figure {
        name: name.to_owned(),
        unit: "speed relative to one bare statement",
        target: Target::AtLeast(target),
        values,
        baselines,
        note: note.to_owned(),
    }
}

/// `delete_scattered_1w`, `delete_contiguous_1w`: rows per second against one bare DELETE.
///
/// # Errors
/// If a statement fails.
pub fn delete(sizes: Sizes, place: Place) -> Result<Vec<Figure>> {
    let node = arena::cluster("delete", &[], &[])?;
    arena::prepare(&node, "prepared", &[&table(sizes.rows, place, 100)])?;
    let measured = pairs(&node, "prepared", sizes, true)?;
    Ok(vec![match place {
        Place::Scattered => figure("delete_scattered_1w", 1.0, measured, ""),
        Place::Together => figure("delete_contiguous_1w", 0.95, measured, ""),
    }])
}

/// `delete_2w`: two workers on one table against the bare DELETE.
///
/// # Errors
/// If a statement fails.
pub fn delete_two(sizes: Sizes) -> Result<Vec<Figure>> {
    let node = arena::cluster("delete-two", &[], &[])?;
    if !two_workers(&node)? {
        return Ok(vec![figure(
            "delete_2w",
            1.6,
            (vec![], vec![]),
            NO_PARALLEL,
        )]);
    }
    arena::prepare(
        &node,
        "prepared",
        &[&table(sizes.rows, Place::Scattered, 100)],
    )?;
    let measured = pairs(&node, "prepared", sizes, true)?;
    Ok(vec![figure("delete_2w", 1.6, measured, "")])
}

const NO_PARALLEL: &str = "this version sweeps a table with one worker";

/// The setting that says how many workers sweep one table.
const WORKERS: &str = "custodian.max_sweep_workers_per_table";

fn two_workers(node: &Cluster) -> Result<bool> {
    let has = arena::has_setting(node, WORKERS)?;
    if has {
        node.alter_system(WORKERS, "2")?;
    }
    Ok(has)
}

/// `anonymize_1w` and `anonymize_2w` at fillfactor 100 and 90: two of seven columns against one bare UPDATE.
///
/// # Errors
/// If a statement fails.
pub fn anonymize(sizes: Sizes) -> Result<Vec<Figure>> {
    let node = arena::cluster("anonymize", &[], &[])?;
    let mut figures = Vec::new();
    for fillfactor in [100, 90] {
        let of = format!("prepared_{fillfactor}");
        arena::prepare(
            &node,
            &of,
            &[&table(sizes.rows, Place::Scattered, fillfactor)],
        )?;
        let measured = pairs(&node, &of, sizes, false)?;
        figures.push(figure(
            &format!("anonymize_1w_ff{fillfactor}"),
            1.0,
            measured,
            "",
        ));
    }
    if two_workers(&node)? {
        for fillfactor in [100, 90] {
            let measured = pairs(&node, &format!("prepared_{fillfactor}"), sizes, false)?;
            figures.push(figure(
                &format!("anonymize_2w_ff{fillfactor}"),
                1.5,
                measured,
                "",
            ));
        }
    } else {
        figures.push(figure("anonymize_2w", 1.5, (vec![], vec![]), NO_PARALLEL));
    }
    Ok(figures)
}

fn wal(client: &mut postgres::Client) -> Result<f64> {
    arena::seconds(client, "SELECT pg_current_wal_insert_lsn() - '0/0'")
}

/// `wal_per_row`: WAL bytes of the server per row, ours over the bare statement's; a checkpoint is before each.
///
/// # Errors
/// If a statement fails.
pub fn wal_per_row(sizes: Sizes) -> Result<Vec<Figure>> {
    let node = arena::cluster("wal", &[], &[])?;
    let mut figures = Vec::new();
    for (name, tags, deletes) in [("delete", DELETES, true), ("anonymize", ANONYMIZES, false)] {
        let of = format!("prepared_{name}");
        arena::prepare(&node, &of, &[&table(sizes.rows, Place::Scattered, 100)])?;
        let (mut values, mut baselines) = (Vec::new(), Vec::new());
        for _ in 0..sizes.pairs.min(3) {
            let mut bytes = [0.0, 0.0];
            for (side, bytes) in bytes.iter_mut().enumerate() {
                let mut client = arena::copy(&node, &of, "run", tags)?;
                arena::wait_for_scheduler(&mut client)?;
                client.batch_execute("CHECKPOINT")?;
                let before = wal(&mut client)?;
                if side == 0 {
                    client.batch_execute(&bare(deletes))?;
                } else {
                    arena::sweep(&node, &mut client, 1)?;
                }
                *bytes = wal(&mut client)? - before;
            }
            values.push(bytes[1] / bytes[0]);
            baselines.push(bytes[0] / (sizes.rows as f64 / 10.0));
        }
        arena::remove(&node, "run")?;
        figures.push(Figure {
            name: format!("wal_per_row_{name}"),
            unit: "WAL bytes relative to one bare statement",
            target: Target::AtMost(1.02),
            values,
            baselines,
            note: String::new(),
        });
    }
    Ok(figures)
}
