//! `make bench`: measures the extension on real clusters, each figure against a baseline in the same minutes, prints a
//! table, and writes one JSON object per figure. Arguments select measures by a part of their names.

mod arena;
mod disposal;
mod hooks;
mod peers;
mod result;
mod steady;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use arena::Sizes;
use disposal::Place;
use integration::Result;
use result::{Figure, Run, Target};

type Measure = fn(Sizes) -> Result<Vec<Figure>>;

const MEASURES: &[(&str, Measure)] = &[
    ("delete_scattered_1w", |sizes| {
        disposal::delete(sizes, Place::Scattered)
    }),
    ("delete_contiguous_1w", |sizes| {
        disposal::delete(sizes, Place::Together)
    }),
    ("delete_2w", disposal::delete_two),
    ("anonymize", disposal::anonymize),
    ("wal_per_row", disposal::wal_per_row),
    ("sweep_nothing", steady::nothing),
    ("growth", steady::growth),
    ("foreground_p99", peers::foreground),
    ("hook_instructions", hooks::instructions_per_statement),
    ("hook_cpu", |sizes| hooks::cpu_per_transaction(sizes.pairs)),
    ("policy_many", steady::policy_many),
    ("vs_pg_cron", peers::cron),
    ("vs_partman", peers::partman),
    ("worker_rss", steady::worker_memory),
];

fn results() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    target.join("bench/results.jsonl")
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let sizes = Sizes::from_environment();
    let file = results();
    let _ = std::fs::remove_file(&file);
    let chosen: Vec<_> = MEASURES
        .iter()
        .filter(|(name, _)| {
            wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()))
        })
        .collect();
    if chosen.is_empty() {
        eprintln!("no measure has such a name");
        return ExitCode::FAILURE;
    }
    let run = Run::new(sizes.rows);
    println!(
        "{} rows, {} pairs, commit {}",
        sizes.rows, sizes.pairs, run.commit
    );
    println!("{}", Figure::head());
    let mut broken = 0;
    let start = Instant::now();
    let count = chosen.len();
    for (at, (name, measure)) in chosen.into_iter().enumerate() {
        let minutes = start.elapsed().as_secs() / 60;
        eprintln!("{} of {count}: {name}, {minutes} min so far", at + 1);
        match measure(sizes).and_then(|figures| {
            for figure in &figures {
                println!("{}", figure.row());
                figure.store(&file, &run)?;
            }
            Ok(())
        }) {
            Ok(()) => {}
            Err(error) => {
                broken += 1;
                println!("{name:<32} could not be measured: {error}");
            }
        }
    }
    let seconds = start.elapsed().as_secs();
    let all = Figure {
        name: "total_time".to_owned(),
        unit: "seconds",
        target: Target::AtMost(2400.0),
        values: vec![seconds as f64],
        baselines: vec![],
        note: format!("{count} of {} measures, {broken} broken", MEASURES.len()),
    };
    println!("{}", all.row());
    if let Err(error) = all.store(&file, &run) {
        broken += 1;
        println!("{error}");
    }
    println!(
        "raw figures: {}, after {} min {} s",
        file.display(),
        seconds / 60,
        seconds % 60
    );
    if broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
