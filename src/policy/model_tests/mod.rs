//! The compiler and the evaluation against an independent reading of the rules (`tests/model`): worlds are made
//! at random, with changes over time, and every cell and row is compared.
//!
//! `CUSTODIAN_MODEL_CASES` says how many worlds each of the tests makes, `CUSTODIAN_MODEL_SEED` (a number) makes
//! others than those of the default seed. A failure shrinks, prints its world, and is kept in
//! `proptest-regressions/policy/model_tests/`. Which broken rules these worlds find is said in `docs/model.md`.

mod adapter;
mod columns;
mod regressions;

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{
    Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
};
use retention_model::change::Change;
use retention_model::generate::{self, Features, Tape};
use retention_model::relabel::KINDS;
use retention_model::{State as Expected, World};

use crate::policy::evaluate::Action;
use crate::policy::model::State;
use adapter::{Adapter, Compiled};

/// Worlds per test by default; there are five tests.
const CASES: u32 = 20_000;

const REGRESSIONS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/proptest-regressions/policy/model_tests/tapes.txt"
);

/// What compiler and evaluation know of so far.
const FEATURES: Features = Features::ALL;

fn same(expected: Expected, found: State) -> bool {
    matches!(
        (expected, found),
        (Expected::Active, State::Active)
            | (Expected::Blocked, State::Blocked)
            | (Expected::Due, State::Due)
            | (Expected::Disposed, State::Disposed)
            | (Expected::Held, State::Held)
            | (Expected::Unresolved, State::Unresolved)
    )
}

/// Compares every cell and row of the world; says the first difference.
fn compare(world: &World, compiled: &Compiled) -> Result<(), String> {
    let adapter = Adapter::new(world, compiled);
    let decision = world.decide();
    let in_turn = adapter.goes_in_turn();
    for (at, cells) in decision.states.iter().enumerate() {
        let row = &world.rows[at];
        // What a request does not concern is not looked at.
        if !world.is_concerned(row) {
            continue;
        }
        let verdicts = adapter.verdicts(row);
        let names: Vec<&str> = verdicts
            .iter()
            .map(|verdict| verdict.column.as_str())
            .collect();
        let expected: Vec<&str> = cells.keys().map(String::as_str).collect();
        if names != expected {
            return Err(format!("row {at}: cells {names:?} instead of {expected:?}"));
        }
        let goes = decision.deleted.contains(&at);
        for verdict in &verdicts {
            let expected = cells[&verdict.column];
            if !same(expected, verdict.state) {
                return Err(format!(
                    "row {at}, {}: {:?} instead of {expected:?}",
                    verdict.column, verdict.state
                ));
            }
            let deletes = verdict.action == Action::DeleteRow;
            if deletes && !goes || goes && !deletes && !in_turn {
                return Err(format!("row {at}: deleted {deletes} instead of {goes}"));
            }
            let rewritten = expected == Expected::Due
                && world.governing(row.table).cells[&verdict.column]
                    .method
                    .is_some();
            if rewritten {
                let method = &world.governing(row.table).cells[&verdict.column].method;
                let left = adapter.left(row, &verdict.column);
                if left != *method {
                    return Err(format!(
                        "row {at}, {}: its method leaves {left:?} instead of {method:?}",
                        verdict.column
                    ));
                }
            }
            if !deletes && (verdict.action == Action::Rewrite) != rewritten {
                return Err(format!(
                    "row {at}, {}: {:?} of a cell that is {expected:?}",
                    verdict.column, verdict.action
                ));
            }
        }
    }
    Ok(())
}

/// Makes a world from the tape and lets `changes` things happen in it, with a sweep before each.
fn check(tape: &[u8], changes: usize) -> Result<(), String> {
    let mut tape = Tape::new(tape);
    let mut world = generate::world(&mut tape, FEATURES);
    let mut happened = Vec::new();
    let compiled = Compiled::new(&world);
    compare(&world, &compiled).map_err(|why| format!("{why}\n{world:#?}"))?;
    for _ in 0..changes {
        if tape.chance(70) {
            (world, _) = world.sweep();
            happened.push("a sweep".to_owned());
        }
        if let Some(change) = generate::change(&mut tape, &world, FEATURES) {
            if let Change::Erase(kind, key) = &change {
                let mut asked = world.clone();
                asked.request = Some((kind.clone(), key.clone()));
                compare(&asked, &compiled)
                    .map_err(|why| format!("{why}\nwhen {change:?} is asked of {asked:#?}"))?;
            }
            world.apply(&change);
            happened.push(format!("{change:?}"));
        }
        compare(&world, &compiled)
            .map_err(|why| format!("{why}\nafter {}\n{world:#?}", happened.join(", then ")))?;
    }
    Ok(())
}

/// The same of a world whose tags say what they seldom say, in which nothing happens.
fn check_rare(tape: &[u8]) -> Result<(), String> {
    let mut tape = Tape::new(tape);
    let mut world = generate::world(&mut tape, FEATURES);
    generate::rare(&mut tape, &mut world, FEATURES);
    compare(&world, &Compiled::new(&world)).map_err(|why| format!("{why}\n{world:#?}"))
}

/// How often a kind of change must have mattered.
const ENOUGH: u32 = 10;

/// How often each kind of change of tags and laws was made in worlds with rows, and how often it changed the state of a cell
/// or which rows go, as far as that was counted.
type Kinds = BTreeMap<&'static str, (u32, u32)>;

/// Makes a world from the tape and lets `changes` things happen in it, most of them to tags and laws whose cells have rows.
/// With choices of its own: those of `check()` stay what they are for the tapes that are kept.
fn check_relabelled(tape: &[u8], changes: usize, kinds: &mut Kinds) -> Result<(), String> {
    let mut tape = Tape::new(tape);
    let mut world = generate::world(&mut tape, FEATURES);
    let mut happened = Vec::new();
    let mut compiled = Compiled::new(&world);
    for _ in 0..changes {
        if tape.chance(30) {
            (world, _) = world.sweep();
            happened.push("a sweep".to_owned());
        }
        let next = if tape.chance(70) {
            generate::relabel(&mut tape, &world, FEATURES)
        } else {
            generate::change(&mut tape, &world, FEATURES)
        };
        let Some(change) = next else {
            continue;
        };
        if let Some(kind) = change.of_labels(&world) {
            let (made, mattered) = kinds.entry(kind).or_default();
            *made += 1;
            // Deciding takes time, and a few are enough.
            if *mattered < ENOUGH {
                let before = world.decide();
                world.apply(&change);
                *mattered += u32::from(before != world.decide());
            } else {
                world.apply(&change);
            }
            compiled = Compiled::new(&world);
        } else {
            world.apply(&change);
        }
        happened.push(format!("{change:?}"));
        compare(&world, &compiled)
            .map_err(|why| format!("{why}\nafter {}\n{world:#?}", happened.join(", then ")))?;
    }
    Ok(())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number"))
    })
}

/// Runs a check of tapes on as many of them as are asked for; gives how many.
fn run_with(stream: u64, check: impl Fn(&[u8]) -> Result<(), String>) -> u32 {
    let cases = number("CUSTODIAN_MODEL_CASES").map_or(CASES, |cases| {
        u32::try_from(cases).expect("CUSTODIAN_MODEL_CASES fits 32 bits")
    });
    let seed = number("CUSTODIAN_MODEL_SEED").unwrap_or(1);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&stream.to_le_bytes());
    let config = Config {
        cases,
        max_shrink_iters: 30_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
        source_file: Some(file!()),
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let result = runner.run(&vec(any::<u8>(), 0..900), |tape| {
        check(&tape)
            .map_err(|why| TestCaseError::fail(format!("{why}\ntape: {}", hex::encode(&tape))))
    });
    match result {
        Ok(()) => cases,
        Err(TestError::Fail(why, _)) => panic!("with seed {seed}: {why}"),
        Err(TestError::Abort(why)) => panic!("with seed {seed}: {why}"),
    }
}

fn run(stream: u64, changes: usize) {
    run_with(stream, |tape| check(tape, changes));
}

#[test]
fn random_worlds_are_decided_as_the_model_says() {
    run(1, 0);
}

#[test]
fn more_random_worlds_are_decided_as_the_model_says() {
    run_with(2, check_rare);
}

#[test]
fn random_worlds_in_which_things_happen_are_decided_as_the_model_says() {
    run(3, 2);
}

#[test]
fn random_worlds_in_which_much_happens_are_decided_as_the_model_says() {
    run(4, 5);
}

#[test]
fn random_worlds_whose_tags_and_laws_change_are_decided_as_the_model_says() {
    let kinds = RefCell::new(Kinds::new());
    let cases = run_with(5, |tape| check_relabelled(tape, 3, &mut kinds.borrow_mut()));
    let kinds = kinds.into_inner();
    println!("{kinds:?}");
    // Enough has happened for the comparison to mean something. What data is has no part in it.
    for kind in KINDS.iter().filter(|_| cases >= 10_000) {
        let (made, mattered) = kinds.get(kind).copied().unwrap_or_default();
        let matters = !kind.contains("category");
        assert!(
            made > 20 && (mattered >= ENOUGH) == matters,
            "{kind}: {kinds:?}"
        );
    }
}
