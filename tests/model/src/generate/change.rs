//! What happens next.

use super::policy::{consent, erasure, hold};
use super::rows::{point, row};
use super::values::{clock_value, period, text_value};
use super::{Features, Tape};
use crate::calendar::HOUR;
use crate::change::Change;
use crate::world::{Column, Erasure, Kind, World};

/// One thing that happens next; none where the tape asks for what cannot be.
pub fn change(tape: &mut Tape, world: &World, features: Features) -> Option<Change> {
    let policy = &world.policy;
    let purposes: Vec<&String> = policy.purposes.keys().collect();
    let minimums: Vec<&String> = policy.minimums.keys().collect();
    match tape.pick(13) {
        0 => Some(Change::Later(tape.one(&[1, 24, 24 * 31, 24 * 400]) * HOUR)),
        1 => Some(Change::Period(tape.one(&purposes).clone(), period(tape))),
        2 => Some(Change::End(tape.one(&purposes).clone())),
        3 => hold(tape, world).map(Change::Place),
        4 => (!policy.holds.is_empty()).then(|| Change::Release(tape.pick(policy.holds.len()))),
        5 if features.consents => {
            let mut consent = consent(tape, world)?;
            (consent.granted, consent.withdrawn) = (world.now, None);
            Some(Change::Consent(consent))
        }
        6 => (!policy.consents.is_empty())
            .then(|| Change::Withdraw(tape.pick(policy.consents.len()))),
        7 if features.tolling && !minimums.is_empty() => {
            let name = tape.one(&minimums);
            let running = policy.minimums[name].defence.as_ref()?;
            // Nobody suspends or resumes before what is on record already, which may lie in the future.
            match running.last() {
                Some((start, None)) => (*start <= world.now).then(|| Change::Resume(name.clone())),
                Some((_, Some(end))) => (*end <= world.now).then(|| Change::Suspend(name.clone())),
                None => Some(Change::Suspend(name.clone())),
            }
        }
        8 | 9 if !world.rows.is_empty() => {
            let at = tape.pick(world.rows.len());
            let columns: Vec<&Column> = world.tables[world.rows[at].table]
                .columns
                .iter()
                .filter(|column| column.kind != Kind::Key)
                .collect();
            let column = tape.one(&columns);
            let value = match column.kind {
                Kind::Text | Kind::Path => text_value(tape, column.not_null),
                kind => clock_value(tape, kind),
            };
            Some(Change::Update(at, column.name.clone(), value))
        }
        10 => {
            let leaves: Vec<usize> = (0..world.tables.len())
                .filter(|at| !world.tables[*at].partitioned)
                .collect();
            let table = tape.one(&leaves);
            let mut row = row(tape, world, table);
            point(tape, world, &mut row);
            Some(Change::Insert(row))
        }
        12 if !world.rows.is_empty() => Some(Change::Delete(tape.pick(world.rows.len()))),
        11 if features.erasures => {
            let Erasure { kind, key, .. } = erasure(tape, world)?;
            Some(Change::Erase(kind, key))
        }
        _ => None,
    }
}
