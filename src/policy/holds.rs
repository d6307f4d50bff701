//! The holds of a policy: there may be thousands, nearly all on subjects of a few kinds.

use std::cell::OnceCell;
use std::ops::Deref;

use crate::policy::model::{Hold, HoldScope};

/// Holds that have not been released.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    all: Vec<Hold>,
    /// See [`Holds::kinds`]: asked for with each table.
    kinds: OnceCell<Vec<Hold>>,
}

impl Holds {
    /// Of the holds those that tell which statements the others ask for: of holds on subjects one of each kind of subject
    /// and number of values. Statements for these are those for all, but for the values.
    pub fn kinds(&self) -> &[Hold] {
        self.kinds.get_or_init(|| {
            let mut kinds: Vec<(&str, usize)> = Vec::new();
            let mut holds = Vec::new();
            for hold in &self.all {
                if let HoldScope::Subject { kind, key } = &hold.scope {
                    let this = (kind.as_str(), key.len());
                    if kinds.contains(&this) {
                        continue;
                    }
                    kinds.push(this);
                }
                holds.push(hold.clone());
            }
            holds
        })
    }
}

impl Deref for Holds {
    type Target = [Hold];

    fn deref(&self) -> &[Hold] {
        &self.all
    }
}

impl<'a> IntoIterator for &'a Holds {
    type Item = &'a Hold;
    type IntoIter = std::slice::Iter<'a, Hold>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

impl From<Vec<Hold>> for Holds {
    fn from(all: Vec<Hold>) -> Holds {
        Holds {
            all,
            kinds: OnceCell::new(),
        }
    }
}

impl FromIterator<Hold> for Holds {
    fn from_iter<I: IntoIterator<Item = Hold>>(holds: I) -> Holds {
        Vec::from_iter(holds).into()
    }
}

impl PartialEq for Holds {
    fn eq(&self, other: &Holds) -> bool {
        self.all == other.all
    }
}

impl Eq for Holds {}

#[cfg(test)]
mod tests {
    use super::*;

    impl Holds {
        pub fn push(&mut self, hold: Hold) {
            self.kinds.take();
            self.all.push(hold);
        }

        pub fn first_mut(&mut self) -> Option<&mut Hold> {
            self.kinds.take();
            self.all.first_mut()
        }
    }

    fn subject(id: i64, kind: &str, key: &[&str]) -> Hold {
        Hold {
            id,
            matter: format!("m{id}"),
            scope: HoldScope::Subject {
                kind: kind.to_owned(),
                key: key.iter().map(|part| (*part).to_owned()).collect(),
            },
        }
    }

    #[test]
    fn one_hold_of_each_kind_and_number_of_values_and_all_others_tell_the_statements() {
        let table = |id| Hold {
            id,
            matter: "m".to_owned(),
            scope: HoldScope::Table { table: 7 },
        };
        let holds: Holds = [
            subject(1, "user", &["1"]),
            subject(2, "user", &["2"]),
            table(3),
            table(4),
            subject(5, "user", &["1", "2"]),
            subject(6, "device", &["1"]),
            subject(7, "device", &["2"]),
        ]
        .into_iter()
        .collect();
        let ids: Vec<i64> = holds.kinds().iter().map(|hold| hold.id).collect();
        assert_eq!(ids, [1, 3, 4, 5, 6]);
        assert_eq!(holds.len(), 7);
    }
}
