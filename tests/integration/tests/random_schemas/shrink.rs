//! Makes a story that fails smaller: which of its rows, holds, consents, erasures and changes can be left out.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use retention_model::world::{Value, World};

use crate::dress::PIECES;

/// Something of a story that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The row with this id.
    Row(usize),
    Hold(usize),
    Consent(usize),
    Erasure(usize),
    /// The change that is thought of as this one, from 0.
    Change(usize),
    /// The change of tables that is thought of as this one.
    Step(usize),
    /// The change of tags and laws that is thought of as this one.
    Label(usize),
    /// A piece of what the world looks like in SQL: keys of several types, generated columns, domains, partitions of
    /// partitions, and how users go about it, from 0.
    Dress(usize),
}

/// A story: the seed of its choices, and what is left out of it. Written `1000017 without row-3 change-0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    pub seed: u64,
    pub without: BTreeSet<Part>,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (kind, number) = match self {
            Part::Row(number) => ("row", number),
            Part::Hold(number) => ("hold", number),
            Part::Consent(number) => ("consent", number),
            Part::Erasure(number) => ("erasure", number),
            Part::Change(number) => ("change", number),
            Part::Step(number) => ("step", number),
            Part::Label(number) => ("label", number),
            Part::Dress(number) => ("dress", number),
        };
        write!(f, "{kind}-{number}")
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Part, String> {
        let wrong = || format!("\"{text}\" is no part of a story");
        let (kind, number) = text.split_once('-').ok_or_else(wrong)?;
        let number = number.parse().map_err(|_| wrong())?;
        match kind {
            "row" => Ok(Part::Row(number)),
            "hold" => Ok(Part::Hold(number)),
            "consent" => Ok(Part::Consent(number)),
            "erasure" => Ok(Part::Erasure(number)),
            "change" => Ok(Part::Change(number)),
            "step" => Ok(Part::Step(number)),
            "label" => Ok(Part::Label(number)),
            "dress" => Ok(Part::Dress(number)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.seed)?;
        if !self.without.is_empty() {
            write!(f, " without")?;
        }
        self.without
            .iter()
            .try_for_each(|part| write!(f, " {part}"))
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Case, String> {
        let mut words = text.split_whitespace();
        let seed = words.next().and_then(|word| word.parse().ok());
        let seed = seed.ok_or_else(|| format!("\"{text}\" does not begin with a seed"))?;
        let without = match words.next() {
            None => BTreeSet::new(),
            Some("without") => words.map(str::parse).collect::<Result<_, _>>()?,
            Some(other) => return Err(format!("\"{other}\" instead of \"without\"")),
        };
        Ok(Case { seed, without })
    }
}

/// What can be left out of a story that begins with this world and in which `changes` things happen.
pub fn parts(world: &World, changes: usize) -> Vec<Part> {
    let ids = world.rows.iter().filter_map(|row| match row.value("id") {
        Value::Text(id) => id.parse().ok(),
        _ => None,
    });
    let policy = &world.policy;
    (0..changes)
        .map(Part::Change)
        .chain((0..changes).map(Part::Step))
        .chain((0..changes).map(Part::Label))
        .chain((0..PIECES).map(Part::Dress))
        .chain((0..policy.holds.len()).map(Part::Hold))
        .chain((0..policy.consents.len()).map(Part::Consent))
        .chain((0..policy.erasures.len()).map(Part::Erasure))
        .chain(ids.map(Part::Row))
        .collect()
}

fn retain<T>(items: &mut Vec<T>, keep: impl Fn(usize) -> bool) {
    let mut at = 0;
    items.retain(|_| {
        at += 1;
        keep(at - 1)
    });
}

/// Takes these parts out of a world. What referred to a row that is left out refers to nothing.
pub fn leave_out(world: &mut World, without: &BTreeSet<Part>) {
    let is_out = |world: &World, row: usize| match world.rows[row].value("id") {
        Value::Text(id) => id.parse().is_ok_and(|id| without.contains(&Part::Row(id))),
        _ => false,
    };
    let out: Vec<bool> = (0..world.rows.len())
        .map(|row| is_out(world, row))
        .collect();
    for child in 0..world.rows.len() {
        for key in world.foreign_keys.clone() {
            let dangles = (0..world.rows.len()).any(|parent| {
                out[parent] && world.refers(&key, &world.rows[child], &world.rows[parent])
            });
            if dangles {
                for column in &key.columns {
                    world.rows[child].values.insert(column.clone(), Value::Null);
                }
            }
        }
    }
    retain(&mut world.rows, |at| !out[at]);
    let policy = &mut world.policy;
    retain(&mut policy.holds, |at| !without.contains(&Part::Hold(at)));
    retain(&mut policy.consents, |at| {
        !without.contains(&Part::Consent(at))
    });
    retain(&mut policy.erasures, |at| {
        !without.contains(&Part::Erasure(at))
    });
}

/// What can be left out of `parts` so that it still fails, found in at most `attempts` trials: halves first, then ever
/// smaller pieces (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002).
pub fn shrink(
    parts: &[Part],
    attempts: usize,
    mut fails: impl FnMut(&BTreeSet<Part>) -> bool,
) -> BTreeSet<Part> {
    let mut without = BTreeSet::new();
    let mut left = attempts;
    let mut size = parts.len().div_ceil(2);
    while size > 0 {
        let mut removed = false;
        let kept: Vec<Part> = parts
            .iter()
            .copied()
            .filter(|part| !without.contains(part))
            .collect();
        for piece in kept.chunks(size) {
            if left == 0 {
                return without;
            }
            left -= 1;
            let mut fewer = without.clone();
            fewer.extend(piece);
            if fails(&fewer) {
                without = fewer;
                removed = true;
            }
        }
        // Single parts are tried again for as long as that helps: one may have needed another.
        size = match size {
            1 if removed => 1,
            1 => 0,
            _ => size.div_ceil(2),
        };
    }
    without
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Part> {
        let changes = (0..5).map(Part::Change);
        let rows = (1..=20).map(Part::Row);
        changes
            .chain([Part::Hold(0), Part::Hold(1)])
            .chain(rows)
            .collect()
    }

    /// What is left of `all()`.
    fn rest(without: &BTreeSet<Part>) -> Vec<Part> {
        let all = all().into_iter();
        all.filter(|part| !without.contains(part)).collect()
    }

    #[test]
    fn only_what_a_failure_needs_is_left() {
        let needed = [Part::Change(3), Part::Hold(1), Part::Row(7), Part::Row(20)];
        let without = shrink(&all(), 1000, |without| {
            needed.iter().all(|part| !without.contains(part))
        });
        assert_eq!(rest(&without), needed);
    }

    #[test]
    fn what_can_only_go_after_something_else_goes() {
        // Row 1 is needed for as long as row 2 is there.
        let without = shrink(&all(), 1000, |without| {
            let has = |part| !without.contains(&part);
            has(Part::Row(9)) && (has(Part::Row(1)) || !has(Part::Row(2)))
        });
        assert_eq!(rest(&without), [Part::Row(9)]);
    }

    #[test]
    fn trials_are_bounded_and_what_is_found_still_fails() {
        for attempts in 0..40 {
            let mut trials = 0;
            let fails = |without: &BTreeSet<Part>| !without.contains(&Part::Row(13));
            let without = shrink(&all(), attempts, |without| {
                trials += 1;
                fails(without)
            });
            assert!(trials <= attempts && fails(&without));
        }
    }

    #[test]
    fn nothing_is_left_out_where_nothing_smaller_fails() {
        assert!(shrink(&all(), 1000, |_| false).is_empty());
    }

    #[test]
    fn a_case_is_read_as_it_is_written() {
        let case = Case {
            seed: 1_000_017,
            without: BTreeSet::from([
                Part::Row(3),
                Part::Change(0),
                Part::Erasure(1),
                Part::Step(2),
                Part::Label(3),
                Part::Dress(4),
            ]),
        };
        assert_eq!(case.to_string().parse(), Ok(case));
        let whole = Case {
            seed: 5,
            ..Case::default()
        };
        assert_eq!("5".parse(), Ok(whole));
        for wrong in ["", "x", "5 row-3", "5 without row", "5 without table-1"] {
            assert!(wrong.parse::<Case>().is_err(), "{wrong}");
        }
    }
}
