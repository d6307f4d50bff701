//! Random policies on real tables: what sweeps leave is compared with an independent model of the rules, row by row
//! and cell by cell, with users' statements and policy changes running beside.
//!
//! `CUSTODIAN_SCHEMAS` says how many schemas are made (beside the 20 of the worker), `CUSTODIAN_MODEL_SEED` makes others.
//! What fails is told again with fewer rows, holds, consents, erasures and changes, and the smallest story that still
//! fails is printed, as `1000017 without row-3 change-0`; `CUSTODIAN_SCHEMA_SEED` tells that one alone, also one of
//! the worker's, whose seeds end with 500000 and more. What turned out to be a bug is kept in `regressions/`, one story to a file that is named after it, and
//! told first.

mod dress;
mod further;
mod overlap;
mod possible;
mod present;
mod preview;
mod read;
mod relabel;
mod session;
mod shrink;
mod sql;
mod story;
mod structure;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use integration::{Cluster, Error, Result, poll};

use overlap::Overlaps;
use retention_model::relabel::KINDS;
use retention_model::world::Hold;
use session::Place;
use shrink::Case;
use story::{Story, Totals};

/// What each must occur in some schemas, but for those of the worker. Rows that move to another partition of a partition
/// are counted, but too rare to be asked for.
const FEATURES: [&str; 32] = [
    "natural keys",
    "keys of two types",
    "generated clocks",
    "generated texts",
    "columns generated beside",
    "texts of other types",
    "clocks of domains",
    "partitions of partitions",
    "partitions of partitions by the clock",
    "rows named from above",
    "other styles of dates",
    "DETACH",
    "ATTACH",
    "NO INHERIT",
    "INHERIT",
    "new partitions",
    "new columns",
    "new tagged columns",
    "columns that go",
    "tagged columns that go",
    "clocks that go",
    "tagged primary keys",
    "tagged foreign keys",
    "emptied foreign keys",
    "emptied numbers",
    "partitions of a second level",
    "tags of a second level",
    "tags of both levels",
    "a second level that deletes rows",
    "DETACH of a second level",
    "a raised minimum that goes on keeping",
    "time that passes up to where a change matters",
];

/// How often a story that fails is told again to make it smaller.
const ATTEMPTS: usize = 40;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number")),
    )
}

/// The choices of a seed (SplitMix64).
fn tape(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::new();
    for _ in 0..150 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((word ^ (word >> 31)).to_be_bytes());
    }
    bytes
}

/// The choices of what a seed's world looks like in SQL, and of how its tables change.
fn more(seed: u64) -> Vec<u8> {
    tape(!seed)
}

/// The choices of what a seed's schema has beyond that.
fn beyond(seed: u64) -> Vec<u8> {
    tape(seed.rotate_left(17))
}

/// The choices of how tags and laws change in a seed's story: with others the rest stays what it is.
fn labels(seed: u64) -> Vec<u8> {
    tape(seed.rotate_left(31))
}

fn cluster(name: &str, conf: &[&str]) -> Result<Cluster> {
    let mut builder = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("deadlock_timeout = 100ms");
    for line in conf {
        builder = builder.conf(line);
    }
    let node = builder.start()?;
    node.exec("CREATE EXTENSION pg_custodian; CREATE ROLE app; CREATE ROLE counsel")?;
    Ok(node)
}

/// Schemas that share a database. What a policy costs grows with it, and hundreds of schemas at once would measure that.
const PER_DATABASE: u32 = 3;

/// Removes a database of schemas that are told, and makes the next one.
fn another_database(node: &Cluster, database: &mut String, seed: u64) -> Result<()> {
    if !database.is_empty() {
        node.exec(&format!("DROP DATABASE {database} WITH (FORCE)"))?;
    }
    *database = format!("from{seed}");
    // The template is free once the scheduler that looked into it has left.
    let made = poll(30, || {
        node.exec(&format!("CREATE DATABASE {database} TEMPLATE prepared"))
            .ok()
    });
    made.ok_or_else(|| "the template stayed in use".into())
}

/// Tells a story in a database that has no schema of its name.
fn tell(node: &Cluster, database: &str, case: &Case) -> Result<Totals> {
    Story::new(
        case,
        [&tape(case.seed), &more(case.seed), &labels(case.seed)],
    )
    .tell(Place { node, database })
}

/// Tells a story that failed with ever less in it, each time in a new database, and says the smallest that still fails.
fn smallest(node: &Cluster, database: &mut String, case: &Case, why: Error) -> String {
    let mut last = why;
    let parts = Story::new(
        case,
        [&tape(case.seed), &more(case.seed), &labels(case.seed)],
    )
    .parts();
    let fewer = shrink::shrink(&parts, ATTEMPTS, |without| {
        let mut smaller = case.clone();
        smaller.without.extend(without);
        if another_database(node, database, case.seed).is_err() {
            return false;
        }
        match tell(node, database, &smaller) {
            Ok(_) => false,
            Err(why) => {
                last = why;
                true
            }
        }
    });
    let mut smaller = case.clone();
    smaller.without.extend(fewer);
    format!("story {case}; the smallest that still fails: {smaller}\n{last}")
}

/// The stories that were once told wrongly, with their names.
fn regressions() -> Result<Vec<(String, Case)>> {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/random_schemas/regressions"
    );
    let mut stories = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|kind| kind == "story") {
            let case = std::fs::read_to_string(&path)?.parse()?;
            stories.push((path.display().to_string(), case));
        }
    }
    stories.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(stories)
}

/// What the generator makes of a seed can change: then the story of that name would be another one.
#[test]
fn named_stories_are_still_about_what_their_names_say() -> Result<()> {
    let mut told = 0;
    for (path, case) in regressions()? {
        let bytes = [tape(case.seed), more(case.seed), labels(case.seed)];
        let story = Story::new(&case, [&bytes[0], &bytes[1], &bytes[2]]);
        let world = story.world();
        let something_is_due = !possible::is_at_rest(world);
        let name = path.rsplit('/').next().unwrap_or_default();
        let is_about = match name {
            "a-hold-on-a-subject-of-two-columns.story" => world
                .policy
                .holds
                .iter()
                .any(|hold| matches!(hold, Hold::Subject { key, .. } if key.len() == 2)),
            // Rows of an untagged table go with those of one whose purposes ask for consents.
            "what-goes-along-is-counted-without-consents.story" => {
                world.tables.iter().any(|table| {
                    let with_consents = table.cells.values().flat_map(|tag| &tag.purposes);
                    table
                        .tag
                        .as_ref()
                        .is_some_and(|tag| tag.delete && !tag.dependents.is_empty())
                        && with_consents
                            .filter_map(|name| world.policy.purposes.get(name))
                            .any(|purpose| purpose.consent_based)
                })
            }
            _ => return Err(format!("{name} does not say here what it is about").into()),
        };
        assert!(is_about && something_is_due, "{name}: {world:#?}");
        told += 1;
    }
    assert!(told > 0);
    Ok(())
}

#[test]
fn sweeps_of_random_schemas_leave_what_the_model_says() -> Result<()> {
    let node = cluster("random", &["custodian.disposal = off"])?;
    node.exec("CREATE DATABASE prepared")?;
    node.client_as("postgres", "prepared")?
        .batch_execute("CREATE EXTENSION pg_custodian")?;
    let first = 1_000_000 * number("CUSTODIAN_MODEL_SEED").unwrap_or(1);
    let (alone, mut cases) = known(false)?;
    if !alone {
        let seeds = first..first + number("CUSTODIAN_SCHEMAS").unwrap_or(480);
        cases.extend(seeds.map(|seed| Case {
            seed,
            ..Case::default()
        }));
    }
    let next = AtomicUsize::new(0);
    let failures: Mutex<Vec<String>> = Mutex::default();
    let totals = Mutex::new(story::Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut database = String::new();
                // How many more stories the database takes. One that is kept has a database of its own, since its schema
                // may have the name of another.
                let mut room = 0;
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let seed = case.seed;
                    let is_kept = !case.without.is_empty();
                    if room == 0 || is_kept {
                        if let Err(why) = another_database(&node, &mut database, seed) {
                            if let Ok(mut failures) = failures.lock() {
                                failures.push(format!("no database for seed {seed}: {why}"));
                            }
                            break;
                        }
                        room = PER_DATABASE;
                    }
                    room -= 1;
                    let outcome = tell(&node, &database, case).map_err(|why| {
                        eprintln!("story {case} differs: {why}");
                        smallest(&node, &mut database, case, why)
                    });
                    if is_kept || outcome.is_err() {
                        room = 0;
                    }
                    match (outcome, totals.lock(), failures.lock()) {
                        (Ok(told), Ok(mut totals), _) => totals.add(&told),
                        (Err(why), _, Ok(mut failures)) => failures.push(why),
                        _ => break,
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    assert!(
        failures.is_empty(),
        "{} schemas differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
    let totals = totals.into_inner().unwrap_or_default();
    println!("{totals:?}");
    // Enough has happened for the comparison to mean something.
    if cases.len() >= 400 {
        assert!(totals.deleted > 200 && totals.disposed > 200, "{totals:?}");
        assert!(totals.beside > 400 && totals.refused > 10, "{totals:?}");
        let Overlaps {
            statements,
            of_policy,
        } = totals.overlaps;
        assert!(statements > 100 && of_policy > 100, "{totals:?}");
        assert!(totals.judged > 50 && totals.previewed > 10, "{totals:?}");
        assert!(totals.previewed_cells > 50, "{totals:?}");
        for feature in FEATURES.into_iter().chain(KINDS) {
            let seen = totals.seen.get(feature).copied().unwrap_or(0);
            assert!(seen > 0, "{feature}: {totals:?}");
        }
    }
    Ok(())
}

/// Whether a story is the worker's, by its seed.
fn is_of_worker(case: &Case) -> bool {
    case.seed % 1_000_000 >= 500_000
}

/// The stories of the environment, or those that were once told wrongly, of the worker or not.
fn known(of_worker: bool) -> Result<(bool, Vec<Case>)> {
    let alone = std::env::var("CUSTODIAN_SCHEMA_SEED").ok();
    let mut cases: Vec<Case> = match &alone {
        Some(text) => vec![text.parse()?],
        None => regressions()?.into_iter().map(|(_, case)| case).collect(),
    };
    cases.retain(|case| is_of_worker(case) == of_worker);
    Ok((alone.is_some(), cases))
}

fn told(case: &Case) -> present::Told {
    present::Told {
        case: case.clone(),
        tape: tape(case.seed),
        more: more(case.seed),
        labels: labels(case.seed),
    }
}

/// Tells a story of the worker's alone, in a database of its own.
fn tell_alone(
    node: &Cluster,
    case: &Case,
    patience: u64,
) -> std::result::Result<Totals, present::Failures> {
    let database = "alone";
    node.exec(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"))?;
    node.exec(&format!("CREATE DATABASE {database}"))?;
    node.client_as("postgres", database)
        .and_then(|mut client| Ok(client.batch_execute("CREATE EXTENSION pg_custodian")?))?;
    let place = Place { node, database };
    present::tell(place, &[told(case)], patience)
}

/// The same as `smallest()`, for a story of the worker's that failed beside others.
fn smallest_of_worker(node: &Cluster, failure: present::Failure) -> String {
    let Some(case) = failure.case else {
        return failure.why.to_string();
    };
    let mut last = None;
    let mut fails = |case: &Case| match tell_alone(node, case, present::PATIENCE_ALONE) {
        Ok(_) => false,
        Err(mut failures) => {
            last = failures.0.pop();
            true
        }
    };
    if !fails(&case) {
        return format!("story {case}, which does not fail alone:\n{}", failure.why);
    }
    let fewer = shrink::shrink(&present::parts(&told(&case)), ATTEMPTS / 2, |without| {
        let mut smaller = case.clone();
        smaller.without.extend(without);
        fails(&smaller)
    });
    let mut smaller = case.clone();
    smaller.without.extend(fewer);
    let why = last.map_or(failure.why, |failure| failure.why);
    format!("story {case}; the smallest that still fails: {smaller}\n{why}")
}

#[test]
fn the_worker_leaves_in_random_schemas_what_the_model_says() -> Result<()> {
    // No clock is moved, so that watermarks count, and no pass looks at everything but the first ones.
    let node = cluster(
        "worker",
        &[
            "custodian.naptime = 1s",
            "custodian.disposal = on",
            "custodian.audit_interval = 1d",
        ],
    )?;
    let mut failures = Vec::new();
    let (alone, cases) = known(true)?;
    for case in &cases {
        if let Err(found) = tell_alone(&node, case, present::PATIENCE) {
            failures.extend(found.0);
        }
    }
    let first = 1_000_000 * number("CUSTODIAN_MODEL_SEED").unwrap_or(1) + 500_000;
    let last = first
        + if alone {
            0
        } else {
            number("CUSTODIAN_WORKER_SCHEMAS").unwrap_or(20)
        };
    let stories: Vec<present::Told> = (first..last)
        .map(|seed| {
            told(&Case {
                seed,
                ..Case::default()
            })
        })
        .collect();
    let place = Place {
        node: &node,
        database: "postgres",
    };
    let totals = present::tell(place, &stories, present::PATIENCE).unwrap_or_else(|found| {
        failures.extend(found.0);
        Totals::default()
    });
    let failures: Vec<String> = failures
        .into_iter()
        .map(|failure| smallest_of_worker(&node, failure))
        .collect();
    assert!(
        failures.is_empty(),
        "{} schemas differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
    println!("{totals:?}");
    if stories.len() >= 20 {
        assert!(totals.deleted + totals.disposed > 20, "{totals:?}");
        assert!(totals.beside > 20 && totals.judged > 5, "{totals:?}");
        let Overlaps {
            statements,
            of_policy,
        } = totals.overlaps;
        assert!(statements > 0 && of_policy > 0, "{totals:?}");
        assert!(totals.refused > 5 && totals.trespasses > 5, "{totals:?}");
    }
    Ok(())
}
