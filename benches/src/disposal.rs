//! Deleting and anonymizing, against the one bare statement that does the same.

use integration::{Cluster, Result, Sql};

use crate::arena::{self, Sizes};
use crate::result::{Figure, Target, median};

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
         CREATE INDEX ON customer (city)"
    )
}

fn extension() -> String {
    format!(
        "CREATE EXTENSION pg_custodian;
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

/// Two servers with the same table: bare statements run on one without the library, and sweeps on one with it.
struct Sides {
    nodes: [Cluster; 2],
}

impl Sides {
    fn start(name: &str) -> Result<Self> {
        Ok(Sides {
            nodes: [
                arena::bare(&format!("{name}-bare"), &[])?,
                arena::cluster(name, &[], &[])?,
            ],
        })
    }

    fn ours(&self) -> &Cluster {
        &self.nodes[1]
    }

    fn prepare(&self, database: &str, table: &str) -> Result<()> {
        arena::prepare(&self.nodes[0], database, &[table])?;
        arena::prepare(&self.nodes[1], database, &[table, &extension()])
    }

    fn remove(&self) -> Result<()> {
        self.nodes
            .iter()
            .try_for_each(|node| arena::remove(node, "run"))
    }
}

/// What pairs came to.
struct Measured {
    ratios: Vec<f64>,
    baselines: Vec<f64>,
    note: String,
}

impl Measured {
    fn nothing(why: &str) -> Self {
        Measured {
            ratios: vec![],
            baselines: vec![],
            note: why.to_owned(),
        }
    }
}

/// How many batches helpers have done, as they say in the log.
fn batches_of_helpers(node: &Cluster) -> u64 {
    let log = node.log();
    let said = log
        .lines()
        .filter_map(|line| line.split_once("a helper of pg_custodian run "));
    let counts = said.filter_map(|(_, rest)| {
        let (_, rest) = rest.split_once(" did ")?;
        rest.split_once(" batches")?.0.parse::<u64>().ok()
    });
    counts.sum()
}

/// Pairs of a bare statement and a sweep over copies of one database, in turn first; the ratio of their speeds. With `helped`
/// it is an error where no helper had a part in a sweep.
fn pairs(sides: &Sides, of: &str, sizes: Sizes, deletes: bool, helped: bool) -> Result<Measured> {
    let tags = if deletes { DELETES } else { ANONYMIZES };
    let (mut ratios, mut baselines) = (Vec::new(), Vec::new());
    let (mut short, mut by_helpers) = (Vec::new(), Vec::new());
    let expired = sizes.rows as f64 / 10.0;
    for pair in 0..sizes.pairs {
        let mut took = [0.0, 0.0];
        for side in arena::in_turn(pair) {
            let node = &sides.nodes[side];
            let mut client = arena::copy(node, of, "run", if side == 0 { "" } else { tags })?;
            took[side] = if side == 0 {
                arena::timed(&mut client, &bare(deletes))?
            } else {
                if helped {
                    // What helpers say is not for everybody.
                    client.batch_execute("ALTER DATABASE run SET log_min_messages = debug1")?;
                }
                let before = batches_of_helpers(node);
                let took = arena::sweep(node, &mut client, 1)?;
                if helped {
                    let batches = batches_of_helpers(node) - before;
                    if batches == 0 {
                        return Err("no helper had a part in the sweep".into());
                    }
                    by_helpers.push(batches as f64);
                }
                short.extend(arena::short_batches(&mut client)?);
                took
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
    sides.remove()?;
    let mut note = format!("{:.1}% of the batches within 0.1 s", 100.0 * median(&short));
    if helped {
        note.push_str(&format!(", {:.0} of them by helpers", median(&by_helpers)));
    }
    Ok(Measured {
        ratios,
        baselines,
        note,
    })
}

fn figure(name: &str, target: f64, measured: Measured) -> Figure {
    Figure {
        name: name.to_owned(),
        unit: "speed relative to one bare statement",
        target: Target::AtLeast(target),
        values: measured.ratios,
        baselines: measured.baselines,
        note: measured.note,
    }
}

/// `delete_scattered_1w`, `delete_contiguous_1w`: rows per second against one bare DELETE.
///
/// # Errors
/// If a statement fails.
pub fn delete(sizes: Sizes, place: Place) -> Result<Vec<Figure>> {
    let sides = Sides::start("delete")?;
    sides.prepare("prepared", &table(sizes.rows, place, 100))?;
    let measured = pairs(&sides, "prepared", sizes, true, false)?;
    Ok(vec![match place {
        Place::Scattered => figure("delete_scattered_1w", 1.0, measured),
        Place::Together => figure("delete_contiguous_1w", 0.95, measured),
    }])
}

/// `delete_2w`: two workers on one table against the bare DELETE.
///
/// # Errors
/// If a statement fails, or one worker did everything.
pub fn delete_two(sizes: Sizes) -> Result<Vec<Figure>> {
    let sides = Sides::start("delete-two")?;
    if !two_workers(sides.ours())? {
        let measured = Measured::nothing(NO_PARALLEL);
        return Ok(vec![figure("delete_2w", 1.6, measured)]);
    }
    sides.prepare("prepared", &table(sizes.rows, Place::Scattered, 100))?;
    let measured = pairs(&sides, "prepared", sizes, true, true)?;
    Ok(vec![figure("delete_2w", 1.6, measured)])
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
/// If a statement fails, or one worker did everything that two were for.
pub fn anonymize(sizes: Sizes) -> Result<Vec<Figure>> {
    let sides = Sides::start("anonymize")?;
    let mut figures = Vec::new();
    for fillfactor in [100, 90] {
        let of = format!("prepared_{fillfactor}");
        sides.prepare(&of, &table(sizes.rows, Place::Scattered, fillfactor))?;
        let measured = pairs(&sides, &of, sizes, false, false)?;
        let name = format!("anonymize_1w_ff{fillfactor}");
        figures.push(figure(&name, 1.0, measured));
    }
    if two_workers(sides.ours())? {
        for fillfactor in [100, 90] {
            let of = format!("prepared_{fillfactor}");
            let measured = pairs(&sides, &of, sizes, false, true)?;
            let name = format!("anonymize_2w_ff{fillfactor}");
            figures.push(figure(&name, 1.5, measured));
        }
    } else {
        let measured = Measured::nothing(NO_PARALLEL);
        figures.push(figure("anonymize_2w", 1.5, measured));
    }
    Ok(figures)
}

fn wal(client: &mut postgres::Client) -> Result<f64> {
    arena::seconds(client, "SELECT pg_current_wal_insert_lsn() - '0/0'")
}

/// `wal_per_row`: WAL bytes of the server per row, ours over those of the bare statement on a server without the library; a
/// checkpoint is before each.
///
/// # Errors
/// If a statement fails.
pub fn wal_per_row(sizes: Sizes) -> Result<Vec<Figure>> {
    let sides = Sides::start("wal")?;
    let mut figures = Vec::new();
    for (name, tags, deletes) in [("delete", DELETES, true), ("anonymize", ANONYMIZES, false)] {
        let of = format!("prepared_{name}");
        sides.prepare(&of, &table(sizes.rows, Place::Scattered, 100))?;
        let (mut values, mut baselines) = (Vec::new(), Vec::new());
        for pair in 0..sizes.pairs {
            let mut bytes = [0.0, 0.0];
            for side in arena::in_turn(pair) {
                let node = &sides.nodes[side];
                let mut client = arena::copy(node, &of, "run", if side == 0 { "" } else { tags })?;
                if side == 1 {
                    arena::wait_for_scheduler(&mut client)?;
                }
                client.batch_execute("CHECKPOINT")?;
                let before = wal(&mut client)?;
                if side == 0 {
                    client.batch_execute(&bare(deletes))?;
                } else {
                    arena::sweep(node, &mut client, 1)?;
                }
                bytes[side] = wal(&mut client)? - before;
            }
            values.push(bytes[1] / bytes[0]);
            baselines.push(bytes[0] / (sizes.rows as f64 / 10.0));
        }
        sides.remove()?;
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
