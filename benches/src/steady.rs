//! What the extension costs while little or nothing is due, and how it grows.

use std::fs;
use std::time::{Duration, Instant};

use integration::{Cluster, Result, Sql, poll};
use postgres::Client;

use crate::arena::{self, Sizes};
use crate::result::{Figure, Target};

/// A table with an index on its clock. `expired` rows stand together at its beginning; `shells` of ten rows are shells:
/// expired and already anonymized. A row has a text of `width` bytes.
fn table(rows: u64, expired: u64, shells: u64, width: u32) -> String {
    format!(
        "CREATE TABLE visit (id bigint PRIMARY KEY, ip text, page text, seen timestamptz NOT NULL);
         INSERT INTO visit
         SELECT n, CASE WHEN n % 10 < {shells} THEN NULL ELSE '10.0.0.' || n % 250 END, repeat('x', {width}),
                CASE WHEN n <= {expired} OR n % 10 < {shells} THEN now() - interval '300 days' ELSE now() END
         FROM generate_series(1, {rows}) n;
         CREATE INDEX ON visit (seen);
         CREATE EXTENSION pg_custodian;
         SELECT custodian.define_purpose('shop.visit', 'contract', '200 days')"
    )
}

/// Tags of that table: its rows go, or with shells its cells.
fn tags(shells: u64) -> String {
    let (row, cell) = if shells == 0 {
        (", on_expiry => 'delete'", "")
    } else {
        ("", ", on_expiry => 'set_null'")
    };
    format!(
        "SELECT custodian.tag_table('visit', clock => 'seen'{row});
         SELECT custodian.tag_column('visit', 'ip', 'user.device.ip_address', '{{shop.visit}}'{cell})"
    )
}

/// Seconds of one round of the scheduler, from the signal until it says that it succeeded.
fn round(node: &Cluster, client: &mut Client) -> Result<f64> {
    arena::wait_for_scheduler(client)?;
    let before = client.text("SELECT clock_timestamp()")?;
    node.reload()?;
    let took = poll(600, || {
        let text = client
            .text(&format!(
                "SELECT extract(epoch FROM last_success - '{before}') FROM custodian.status"
            ))
            .ok()?;
        text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0)
    });
    took.ok_or_else(|| "no round ended".into())
}

/// Buffers of the table and its indexes that were asked for, since the statistics were reset.
fn buffers(client: &mut Client) -> Result<f64> {
    arena::seconds(
        client,
        "SELECT sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read + idx_blks_hit, 0)) FROM pg_statio_user_tables
         WHERE relname = 'visit'",
    )
}

/// Buffers of all relations, those of the system among them, that anybody in the database asked for.
fn all_buffers(client: &mut Client) -> Result<f64> {
    arena::seconds(
        client,
        "SELECT blks_read + blks_hit FROM pg_stat_database WHERE datname = current_database()",
    )
}

/// How long the scheduler takes at most to report its statistics, which it does when it goes idle.
const REPORTED: Duration = Duration::from_millis(1500);

/// `sweep_nothing`: buffers of a table and its indexes that a round with nothing due reads; the baseline is a bare DELETE that
/// finds nothing. What the round reads of all relations of the database is in the note.
///
/// # Errors
/// If a statement fails.
pub fn nothing(sizes: Sizes) -> Result<Vec<Figure>> {
    let node = arena::cluster("nothing", &[], &["custodian.audit_interval = '30d'"])?;
    node.alter_system("custodian.disposal", "on")?;
    let small = sizes.rows / 10;
    let mut figures = Vec::new();
    for shells in [0, 9] {
        let (mut values, mut baselines) = (Vec::new(), Vec::new());
        let (mut medians, mut all) = (Vec::new(), Vec::new());
        for rows in [small, sizes.rows] {
            let name = format!("nothing_{shells}_{rows}");
            arena::prepare(&node, &name, &[&table(rows, 0, shells, 40), &tags(shells)])?;
            let mut client = node.client_as("postgres", &name)?;
            // The first round looks at everything and sets the watermark.
            round(&node, &mut client)?;
            round(&node, &mut client)?;
            let mut counts = Vec::new();
            for _ in 0..sizes.pairs {
                let before = buffers(&mut client)?;
                let of_all = all_buffers(&mut client)?;
                round(&node, &mut client)?;
                std::thread::sleep(REPORTED);
                all.push(all_buffers(&mut client)? - of_all);
                counts.push(buffers(&mut client)? - before);

                let before = buffers(&mut client)?;
                client
                    .batch_execute("DELETE FROM visit WHERE seen <= now() - interval '400 days'")?;
                std::thread::sleep(REPORTED);
                client.batch_execute("SELECT pg_stat_force_next_flush()")?;
                baselines.push(buffers(&mut client)? - before);
            }
            medians.push(crate::result::median(&counts));
            values.extend(counts);
            drop(client);
            arena::remove(&node, &name)?;
        }
        figures.push(Figure {
            name: format!("sweep_nothing_{}pct_shells", shells * 10),
            unit: "buffers of the table and its indexes",
            target: Target::AtMost(100.0),
            values,
            baselines,
            note: format!(
                "rounds at a tenth of the rows and at all of them; of all relations of the database, catalogs and what asked for this \
                 among them, {:.0} buffers",
                crate::result::median(&all)
            ),
        });
        figures.push(Figure {
            name: format!("sweep_nothing_{}pct_difference", shells * 10),
            unit: "buffers of the table and its indexes",
            target: Target::AtMost(8.0),
            values: vec![medians[1] - medians[0]],
            baselines: vec![medians[0]],
            note: "ten times the rows against once".to_owned(),
        });
    }
    Ok(figures)
}

/// Up to this many blocks a sweep counts a table, and looks at it again afterwards: both of `growth` are larger.
const SMALL: f64 = 4096.0;

/// `growth`: seconds for the same expired rows in a table of ten times the rows, over those in the smaller one. Both are so
/// large that a sweep does the same with them.
///
/// # Errors
/// If a statement fails, or the smaller table is too small for that.
pub fn growth(sizes: Sizes) -> Result<Vec<Figure>> {
    const WIDTH: u32 = 200;
    let node = arena::cluster("growth", &[], &[])?;
    let small = (sizes.rows / 10).max(200_000);
    let expired = small / 4;
    let of = ["small", "large"];
    arena::prepare(&node, of[0], &[&table(small, expired, 0, WIDTH)])?;
    arena::prepare(&node, of[1], &[&table(small * 10, expired, 0, WIDTH)])?;
    let blocks = arena::seconds(
        &mut node.client_as("postgres", of[0])?,
        "SELECT pg_relation_size('visit') / 8192",
    )?;
    if blocks <= SMALL {
        return Err(format!("the smaller table has {blocks} blocks").into());
    }
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    for pair in 0..sizes.pairs {
        let mut took = [0.0, 0.0];
        for side in arena::in_turn(pair) {
            let mut client = arena::copy(&node, of[side], "run", &tags(0))?;
            took[side] = arena::sweep(&node, &mut client, 1)?;
        }
        values.push(took[1] / took[0]);
        baselines.push(took[0]);
    }
    Ok(vec![Figure {
        name: "growth".to_owned(),
        unit: "time relative to a table of a tenth of the rows",
        target: Target::AtMost(1.2),
        values,
        baselines,
        note: format!(
            "{expired} expired rows of {small}, in {blocks} blocks, and of ten times as many"
        ),
    }])
}

/// Bytes of memory of a process that are its own: without shared buffers and files.
fn own_memory(pid: i32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024.0)
}

const MIB: f64 = 1024.0 * 1024.0;

/// `policy_many`: one round with 1,000 tagged tables, 20 purposes and 10,000 holds, and the scheduler's memory.
///
/// # Errors
/// If a statement fails.
pub fn policy_many(sizes: Sizes) -> Result<Vec<Figure>> {
    let node = arena::cluster("policy-many", &[], &["max_locks_per_transaction = 4096"])?;
    node.exec("CREATE ROLE counsel")?;
    arena::prepare(
        &node,
        "many",
        &[
            // Labels before the extension, as a dump restores them: each call of a function that tags reads the policy again.
            r#"DO $$ BEGIN FOR n IN 1..1000 LOOP
                EXECUTE format('CREATE TABLE t%s (id bigint PRIMARY KEY, email text, seen timestamptz NOT NULL)', n);
                EXECUTE format('INSERT INTO t%s SELECT g, ''u'' || g, now() FROM generate_series(1, 10) g', n);
                EXECUTE format('CREATE INDEX ON t%s (seen)', n);
                EXECUTE format('SECURITY LABEL FOR custodian ON TABLE t%s IS %L', n,
                    '{"subject":{"kind":"customer","key":["id"]},"clock":"seen","on_expiry":"delete"}');
                EXECUTE format('SECURITY LABEL FOR custodian ON COLUMN t%s.email IS %L', n,
                    format('{"category":"user.contact.email","sensitivity":"personal","purposes":["shop.p%s"]}', n % 20 + 1));
             END LOOP; END $$"#,
            "CREATE EXTENSION pg_custodian",
            "SELECT custodian.define_purpose('shop.p' || n, 'contract', n * interval '100 days') FROM generate_series(1, 20) n",
            "SELECT custodian.place_hold('m0', approver => 'counsel', review_on => '2099-01-01', reason => 'court',
                                         subject_kind => 'customer', subject_key => '{0}')",
            // The others at once: each call looks at every table, which is not what is measured here.
            "INSERT INTO custodian.hold (matter, scope, subject_kind, subject_key, reason, approver, review_on)
             SELECT 'm' || n, 'subject', 'customer', ARRAY[n::text], 'court', 'counsel', '2099-01-01' FROM generate_series(1, 9999) n",
        ],
    )?;
    arena::prepare(&node, "empty", &["CREATE EXTENSION pg_custodian"])?;
    node.alter_system("custodian.disposal", "on")?;
    let mut rounds = [Vec::new(), Vec::new()];
    let mut memory = [0.0, 0.0];
    for (side, database) in ["empty", "many"].into_iter().enumerate() {
        let mut client = node.client_as("postgres", database)?;
        round(&node, &mut client)?;
        for _ in 0..sizes.pairs {
            rounds[side].push(round(&node, &mut client)?);
        }
        let pid: i32 = client
            .text("SELECT worker_pid FROM custodian.status")?
            .parse()
            .map_err(|_| "no scheduler")?;
        memory[side] = own_memory(pid).ok_or("the scheduler's memory cannot be read")?;
    }
    let [empty, values] = rounds;
    Ok(vec![
        Figure {
            name: "policy_many_round".to_owned(),
            unit: "seconds",
            target: Target::AtMost(1.0),
            values,
            baselines: empty,
            note: "1,000 tables, 20 purposes, 10,000 holds, nothing due; the baseline is a database without tags beside it"
                .to_owned(),
        },
        Figure {
            name: "policy_many_memory".to_owned(),
            unit: "MiB",
            target: Target::AtMost(64.0),
            values: vec![memory[1] / MIB],
            baselines: vec![memory[0] / MIB],
            note: "memory of the scheduler that is not shared; the baseline is that of a database without tags".to_owned(),
        },
    ])
}

/// `worker_rss`: growth of a sweep worker's own memory over at least 2,000 batches.
///
/// # Errors
/// If a statement fails.
pub fn worker_memory(sizes: Sizes) -> Result<Vec<Figure>> {
    let node = arena::cluster("memory", &[], &["custodian.batch_target = '1ms'"])?;
    arena::prepare(
        &node,
        "prepared",
        &[&table(sizes.rows, sizes.rows, 0, 40), &tags(0)],
    )?;
    let mut client = node.client_as("postgres", "prepared")?;
    arena::wait_for_scheduler(&mut client)?;
    node.alter_system("custodian.disposal", "on")?;
    let (mut first, mut last, mut batches) = (None, None, 0_i64);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1200) {
        let text = client.text(
            "SELECT coalesce((SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_custodian sweep' LIMIT 1), 0), batches, state
             FROM custodian.runs ORDER BY run_id DESC LIMIT 1",
        )?;
        let fields: Vec<&str> = text.split('|').collect();
        if let [pid, count, state] = fields.as_slice() {
            batches = count.parse().unwrap_or(batches);
            if let Some(memory) = pid.parse().ok().and_then(own_memory) {
                if batches >= 50 && first.is_none() {
                    first = Some(memory);
                }
                last = Some(memory);
            }
            if *state != "running" {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let growth = match (first, last) {
        (Some(first), Some(last)) if batches >= 2000 => vec![(last - first) / MIB],
        _ => vec![],
    };
    Ok(vec![Figure {
        name: "worker_rss".to_owned(),
        unit: "MiB of growth",
        target: Target::AtMost(2.0),
        values: growth,
        baselines: first.iter().map(|memory| memory / MIB).collect(),
        note: format!("{batches} batches; without 2,000 there is no figure"),
    }])
}
