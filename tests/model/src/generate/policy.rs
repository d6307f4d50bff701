//! Purposes, laws, consents, erasures and holds.

use std::collections::BTreeMap;

use super::times;
use super::values::{moment, period};
use super::{Features, Tape};
use crate::calendar::{DAY, HOUR, day_number};
use crate::world::{Consent, Erasure, Hold, Minimum, Policy, Purpose, World};

pub(super) fn policy(tape: &mut Tape, features: Features) -> Policy {
    let mut policy = Policy::default();
    for at in 0..1 + tape.pick(3) {
        let mut periods = vec![(day_number(2018, 1, 1) * DAY, period(tape))];
        for year in [2020, 2022] {
            if tape.chance(30) {
                periods.push((day_number(year, 1, 31) * DAY, period(tape)));
            }
        }
        policy.purposes.insert(
            format!("m.p{at}"),
            Purpose {
                consent_based: features.consents && tape.chance(40),
                required: tape.chance(50),
                periods,
                ended: tape.some(15, moment),
            },
        );
    }
    for at in 0..tape.pick(3) {
        let defence = tape.some(40, |tape| {
            let mut suspensions = Vec::new();
            if features.tolling && tape.chance(60) {
                let start = moment(tape);
                let end = start + tape.one(&[1, 30, 365, 800]) * DAY;
                suspensions.push((start, Some(end)));
                if tape.chance(40) {
                    let again = end + tape.one(&[0, 1, 100]) * DAY;
                    suspensions.push((again, tape.some(50, |_| again + 90 * DAY)));
                }
            } else if features.tolling && tape.chance(20) {
                suspensions.push((moment(tape), None));
            }
            suspensions
        });
        let period = period(tape);
        policy
            .minimums
            .insert(format!("m.law{at}"), Minimum { period, defence });
    }
    if features.maximums {
        for at in 0..tape.pick(2) {
            let period = period(tape);
            policy.maximums.insert(format!("m.max{at}"), period);
        }
    }
    policy
}

pub(super) fn subjects(world: &World) -> Vec<(String, Vec<String>)> {
    world
        .rows
        .iter()
        .filter_map(|row| world.subject(row))
        .collect()
}

pub(super) fn consent(tape: &mut Tape, world: &World) -> Option<Consent> {
    let subjects = subjects(world);
    let purposes: Vec<&String> = world
        .policy
        .purposes
        .iter()
        .filter(|(_, purpose)| purpose.consent_based)
        .map(|(name, _)| name)
        .collect();
    if subjects.is_empty() || purposes.is_empty() {
        return None;
    }
    let (kind, key) = tape.one(&subjects);
    let granted = moment(tape);
    Some(Consent {
        kind,
        key,
        purpose: tape.one(&purposes).clone(),
        granted,
        withdrawn: tape.some(60, |tape| granted + tape.one(&[1, 40, 400, 2000]) * DAY),
    })
}

pub(super) fn erasure(tape: &mut Tape, world: &World) -> Option<Erasure> {
    let subjects = subjects(world);
    if subjects.is_empty() {
        return None;
    }
    let (kind, key) = tape.one(&subjects);
    // Often close to the moment at which some row began.
    let times = times(world);
    let at = match tape.pick(3) {
        0 if !times.is_empty() => tape.one(&times) + tape.one(&[0, HOUR, -HOUR, DAY]),
        _ => moment(tape),
    };
    Some(Erasure { kind, key, at })
}

pub(super) fn hold(tape: &mut Tape, world: &World) -> Option<Hold> {
    match tape.pick(3) {
        0 => {
            let subjects = subjects(world);
            if subjects.is_empty() {
                return None;
            }
            let (kind, key) = tape.one(&subjects);
            Some(Hold::Subject { kind, key })
        }
        1 => Some(Hold::Table {
            table: tape.pick(world.tables.len()),
        }),
        _ => {
            let table = tape.pick(world.tables.len());
            let mut matching = BTreeMap::new();
            for column in ["c1", "c2"] {
                if matching.is_empty() || tape.chance(30) {
                    let mut values = vec![format!("v{}", tape.pick(3))];
                    if tape.chance(30) {
                        values.push("v2".to_owned());
                    }
                    matching.insert(column.to_owned(), values);
                }
            }
            let has = |column: &String| world.tables[table].column(column).is_some();
            matching
                .keys()
                .all(has)
                .then_some(Hold::Rows { table, matching })
        }
    }
}
