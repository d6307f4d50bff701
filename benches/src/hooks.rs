//! What the preloaded library costs statements that have nothing to do with tagged data.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use integration::{Cluster, Result, Sql, poll};
use postgres::{Client, Statement};

use crate::arena::{self, Sizes};
use crate::result::{Figure, Target, median};

const ACCOUNTS: u32 = 10_000;

/// What the statements work on, none of it tagged.
const SCHEMA: &str = "
    CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL, filler text);
    INSERT INTO account SELECT n, 0, repeat('x', 80) FROM generate_series(1, 10000) n;
    CREATE TABLE history (id int, delta int, at timestamptz DEFAULT now())";

/// Tags on other tables, one of them with a guard on its rows.
const TAGS: [&str; 2] = [
    "CREATE EXTENSION pg_custodian",
    "CREATE TABLE customer (id bigint PRIMARY KEY, email text, seen timestamptz NOT NULL);
     SELECT custodian.define_purpose('shop.account', 'contract', '200 days');
     SELECT custodian.tag_table('customer', clock => 'seen', on_expiry => 'delete');
     SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{shop.account}');
     SELECT custodian.require_minimum('law.a', 'customer', '{email}', '300 days', 'Law A, article 1')",
];

/// Rules that take the session for the node's own.
const RULES: &str = "region cn\nregion eu\nnetwork 10.8.0.0/16 cn\nlocal all\n";

/// The server that is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Without the library.
    Without,
    Preloaded,
    /// With tags on other tables.
    Tagged,
    /// With tags on other tables, and all gates on; the session is inside.
    Guarded,
}

impl Kind {
    fn is_tagged(self) -> bool {
        matches!(self, Kind::Tagged | Kind::Guarded)
    }
}

/// Switches all gates on.
fn guard(node: &Cluster) -> Result<()> {
    node.write_file("custodian_regions.conf", RULES)?;
    node.alter_system("custodian.region", "cn")?;
    node.alter_system("custodian.enforce", "on")
}

/// Instructions per statement that a backend under callgrind executes: the difference between many and few statements,
/// so that what a session costs is left out.
fn instructions(node: &Cluster, dir: &Path, what: Work) -> Result<f64> {
    let mut counts = Vec::new();
    for repeats in [200, 1200] {
        let mut client = node.client()?;
        let pid = client.text("SELECT pg_backend_pid()")?;
        what.run(&mut client, repeats)?;
        drop(client);
        let file = dir.join(format!("cg.{pid}"));
        let total = poll(120, || {
            let text = fs::read_to_string(&file).ok()?;
            let line = text
                .lines()
                .rev()
                .find(|line| line.starts_with("totals:"))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        });
        counts.push(total.ok_or_else(|| format!("there is no {}", file.display()))?);
    }
    Ok((counts[1] - counts[0]) / 1000.0)
}

#[derive(Clone, Copy)]
enum Work {
    Select,
    Update,
    Insert,
    Copy,
}

impl Work {
    const ALL: [(&'static str, Work); 4] = [
        ("select", Work::Select),
        ("update", Work::Update),
        ("insert", Work::Insert),
        ("copy_row", Work::Copy),
    ];

    fn statement(self, client: &mut Client) -> Result<Option<Statement>> {
        let sql = match self {
            Work::Select => "SELECT balance FROM account WHERE id = $1",
            Work::Update => "UPDATE account SET balance = balance + 1 WHERE id = $1",
            Work::Insert => "INSERT INTO history (id, delta) VALUES ($1, 1)",
            Work::Copy => return Ok(None),
        };
        Ok(Some(client.prepare(sql)?))
    }

    fn run(self, client: &mut Client, repeats: i32) -> Result<()> {
        match self.statement(client)? {
            Some(statement) => {
                for n in 0..repeats {
                    client.execute(&statement, &[&(n % 10_000 + 1)])?;
                }
            }
            None => {
                use std::io::Write;
                let mut writer = client.copy_in("COPY history (id, delta) FROM STDIN")?;
                for n in 0..repeats {
                    writeln!(writer, "{n}\t1")?;
                }
                writer.finish()?;
            }
        }
        Ok(())
    }
}

/// Instructions of each work on a server of the kind that is made for it.
fn instructions_of(kind: Kind) -> Result<Vec<f64>> {
    let mut builder = Cluster::builder("callgrind")
        .conf("autovacuum = off")
        .conf("max_worker_processes = 8");
    if kind != Kind::Without {
        builder = builder
            .preload("pg_custodian")
            .conf("custodian.naptime = '1h'")
            .conf("custodian.disposal = off");
    }
    let node = builder.start()?;
    node.exec(SCHEMA)?;
    node.exec("VACUUM ANALYZE account")?;
    if kind.is_tagged() {
        for statements in TAGS {
            node.exec(statements)?;
        }
    }
    if kind == Kind::Guarded {
        guard(&node)?;
    }
    node.stop(integration::Stop::Fast)?;
    let dir = node.dir().to_owned();
    node.start_under(&[
        "valgrind".to_owned(),
        "--tool=callgrind".to_owned(),
        "--trace-children=yes".to_owned(),
        format!("--callgrind-out-file={}/cg.%p", dir.display()),
        "--log-file=/dev/null".to_owned(),
    ])?;
    let counts = Work::ALL.map(|(_, work)| instructions(&node, &dir, work));
    counts.into_iter().collect()
}

/// `hook_instructions`: per prepared point SELECT, UPDATE, INSERT and per row of COPY; with the library, with tags on other
/// tables, and with all gates on as well. The same work on another server has been seen
/// to take one in a hundred more, so there are several.
///
/// # Errors
/// If a server does not start under callgrind, or a statement fails.
pub fn instructions_per_statement(sizes: Sizes) -> Result<Vec<Figure>> {
    let kinds = [
        ("preloaded", Kind::Preloaded),
        ("tagged", Kind::Tagged),
        ("guarded", Kind::Guarded),
    ];
    let mut figures: Vec<Figure> = kinds
        .iter()
        .flat_map(|(suffix, _)| {
            Work::ALL.map(|(name, _)| format!("hook_instructions_{name}_{suffix}"))
        })
        .map(|name| Figure {
            name,
            unit: "instructions relative to a server without the library",
            target: Target::AtMost(1.01),
            values: Vec::new(),
            baselines: Vec::new(),
            note: String::new(),
        })
        .collect();
    for _ in 0..sizes.pairs {
        let without = instructions_of(Kind::Without)?;
        let mut with = Vec::new();
        for (_, kind) in kinds {
            with.extend(instructions_of(kind)?);
        }
        let without = without.into_iter().cycle();
        for (figure, (with, without)) in figures.iter_mut().zip(with.into_iter().zip(without)) {
            figure.values.push(with / without);
            figure.baselines.push(without);
        }
    }
    Ok(figures)
}

/// Nanoseconds on a processor that a process has had.
fn cpu(pid: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    text.split_whitespace()
        .next()
        .and_then(|first| first.parse().ok())
        .ok_or_else(|| "the kernel keeps no schedstat".into())
}

/// A session of a server, with the transactions of pgbench: point reads, or the like of TPC-B.
struct Session {
    client: Client,
    pid: String,
    read: Statement,
    write: [Statement; 2],
    next: i32,
}

impl Session {
    fn new(node: &Cluster) -> Result<Self> {
        let mut client = node.client()?;
        let pid = client.text("SELECT pg_backend_pid()")?;
        Ok(Session {
            read: client.prepare("SELECT balance FROM account WHERE id = $1")?,
            write: [
                client.prepare("UPDATE account SET balance = balance + 1 WHERE id = $1")?,
                client.prepare("INSERT INTO history (id, delta) VALUES ($1, 1)")?,
            ],
            client,
            pid,
            next: 0,
        })
    }

    /// Nanoseconds of the backend per transaction, over a slice of time.
    fn slice(&mut self, writes: bool, length: Duration) -> Result<f64> {
        let before = cpu(&self.pid)?;
        let start = Instant::now();
        let mut transactions = 0.0;
        while start.elapsed() < length {
            for _ in 0..50 {
                self.next = (self.next * 37 + 11) % ACCOUNTS.cast_signed();
                let id = self.next + 1;
                if writes {
                    let mut transaction = self.client.transaction()?;
                    transaction.execute(&self.write[0], &[&id])?;
                    transaction.query(&self.read, &[&id])?;
                    transaction.execute(&self.write[1], &[&id])?;
                    transaction.commit()?;
                } else {
                    self.client.query(&self.read, &[&id])?;
                }
                transactions += 1.0;
            }
        }
        Ok((cpu(&self.pid)? - before) / transactions)
    }
}

/// Half the width of a 95% interval around the median of ratios, by resampling with a fixed sequence.
fn interval(values: &[f64]) -> f64 {
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut medians: Vec<f64> = (0..2000)
        .map(|_| {
            let sample: Vec<f64> = values
                .iter()
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    values[(state % values.len() as u64) as usize]
                })
                .collect();
            median(&sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[1949] - medians[50]) / 2.0
}

/// `hook_cpu`: processor time of the backend per transaction, with the library, tags and all gates on against without, both
/// servers up, in alternating slices; two servers without it are the control. The target is the control's interval and 2% more.
///
/// # Errors
/// If a statement fails.
pub fn cpu_per_transaction(pairs: usize) -> Result<Vec<Figure>> {
    let mut nodes = Vec::new();
    for kind in [Kind::Without, Kind::Without, Kind::Guarded] {
        let node = if kind == Kind::Without {
            arena::bare("cpu-bare", &["fsync = off"])?
        } else {
            arena::cluster("cpu-ours", &[], &["fsync = off"])?
        };
        node.exec(SCHEMA)?;
        node.exec("VACUUM ANALYZE account")?;
        if kind == Kind::Guarded {
            for statements in TAGS {
                node.exec(statements)?;
            }
            guard(&node)?;
        }
        nodes.push(node);
    }
    let mut figures = Vec::new();
    for (name, writes) in [("select", false), ("tpcb_like", true)] {
        let mut sessions = Vec::new();
        for node in &nodes {
            sessions.push(Session::new(node)?);
        }
        for session in &mut sessions {
            session.slice(writes, Duration::from_secs(1))?;
        }
        let (mut control, mut ours, mut baselines) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..pairs.max(5) * 2 {
            let mut spent = Vec::new();
            for session in &mut sessions {
                spent.push(session.slice(writes, Duration::from_secs(2))?);
            }
            control.push(spent[1] / spent[0]);
            ours.push(spent[2] / spent[0]);
            baselines.push(spent[0]);
        }
        let bound = median(&control) + interval(&control) + 0.02;
        figures.push(Figure {
            name: format!("hook_cpu_{name}"),
            unit: "processor time relative to a server without the library",
            target: Target::AtMost((bound * 1000.0).round() / 1000.0),
            note: format!(
                "control {:.3} ± {:.3}, ours ± {:.3}",
                median(&control),
                interval(&control),
                interval(&ours)
            ),
            values: ours,
            baselines,
        });
    }
    Ok(figures)
}
