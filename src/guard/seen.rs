//! Reads that a session was let through, so that they are not examined each time.
//!
//! [`Passed`] says so of what a statement asks for, as it stands in its range table: looking there takes no memory and no look
//! into a catalog, since each statement does it. [`Seen`] says in mode `warn` of a relation and the columns that count that they
//! were examined, and recorded where `on` would refuse them: that is done once per session. Pure.

use std::cell::Cell;
use std::collections::HashSet;

/// Under what a read was examined: what has another stamp is examined again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Of the rules in force, from 1.
    pub generation: u64,
    /// Of the catalogs, as far as this session has heard.
    pub invalidations: u64,
    /// Whether the gate was in mode `on`, and not in `warn`.
    pub on: bool,
    /// Until when break-glass lasts, or 0: what passes while it does is recorded each time that it is begun.
    pub break_glass: i64,
}

impl Stamp {
    /// No rules have this generation.
    const NEVER: Stamp = Stamp {
        generation: 0,
        invalidations: 0,
        on: false,
        break_glass: 0,
    };
}

/// Words in a set of columns: enough for the first 120.
pub const WORDS: usize = 2;

/// What a statement asks for of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub relation: u32,
    /// The rights that it needs.
    pub required: u32,
    /// Whether it sets columns of rows that are there.
    pub updates: bool,
    /// The columns that it reads, as the server's set of them.
    pub columns: [u64; WORDS],
}

/// Reads that may be remembered at once; one takes the place of another that falls on its slot.
const SLOTS: usize = 128;

/// Reads that passed, whatever the conditions of the statement, and would again.
pub struct Passed {
    stamp: Cell<Stamp>,
    reads: [Cell<Read>; SLOTS],
}

impl Passed {
    /// No statement asks for anything of relation 0.
    const NONE: Read = Read {
        relation: 0,
        required: 0,
        updates: false,
        columns: [0; WORDS],
    };

    pub const fn new() -> Self {
        Passed {
            stamp: Cell::new(Stamp::NEVER),
            reads: [const { Cell::new(Self::NONE) }; SLOTS],
        }
    }

    /// Whether what is here counts now.
    #[inline]
    pub fn is_of(&self, stamp: Stamp) -> bool {
        self.stamp.get() == stamp
    }

    #[inline]
    fn slot(&self, read: &Read) -> &Cell<Read> {
        // Relations have OIDs that follow each other, and columns the low bits: the product spreads both.
        let mixed = u64::from(read.relation) ^ read.columns[0] ^ (u64::from(read.required) << 32);
        let at = mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SLOTS.ilog2());
        &self.reads[at as usize % SLOTS]
    }

    /// Whether this read passed before.
    #[inline]
    pub fn has(&self, read: &Read) -> bool {
        self.slot(read).get() == *read
    }

    /// Remembers a read that was examined under a stamp, and forgets those under another.
    pub fn remember(&self, stamp: Stamp, read: Read) {
        if !self.is_of(stamp) {
            for slot in &self.reads {
                slot.set(Self::NONE);
            }
            self.stamp.set(stamp);
        }
        self.slot(&read).set(read);
    }
}

/// What this session has read already, by relation and the columns that count: a rollout then costs a look-up per statement.
#[derive(Default)]
pub struct Seen {
    stamp: Option<Stamp>,
    reads: HashSet<(u32, Option<Vec<i16>>)>,
}

impl Seen {
    /// Reads remembered at most; then it begins anew.
    const MAX: usize = 4096;

    /// Whether this read was examined before.
    pub fn knows(&mut self, stamp: Stamp, relation: u32, read: &Option<Vec<i16>>) -> bool {
        if self.stamp != Some(stamp) {
            self.stamp = Some(stamp);
            self.reads.clear();
        }
        self.reads.contains(&(relation, read.clone()))
    }

    pub fn remember(&mut self, relation: u32, read: Option<Vec<i16>>) {
        if self.reads.len() >= Self::MAX {
            self.reads.clear();
        }
        self.reads.insert((relation, read));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Stamp = Stamp {
        generation: 1,
        invalidations: 7,
        on: false,
        break_glass: 0,
    };

    fn read(relation: u32, columns: u64) -> Read {
        Read {
            relation,
            required: 2,
            updates: false,
            columns: [columns, 0],
        }
    }

    #[test]
    fn only_the_very_read_that_passed_is_known() {
        let passed = Passed::new();
        passed.remember(NOW, read(16_400, 1 << 8));
        assert!(passed.has(&read(16_400, 1 << 8)));
        let others = [
            read(16_401, 1 << 8),
            read(16_400, 1 << 9),
            read(16_400, 1 << 8 | 1 << 9),
            Read {
                required: 8,
                ..read(16_400, 1 << 8)
            },
            Read {
                updates: true,
                ..read(16_400, 1 << 8)
            },
            Read {
                columns: [1 << 8, 1],
                ..read(16_400, 1 << 8)
            },
        ];
        for other in others {
            assert!(!passed.has(&other), "{other:?}");
        }
    }

    #[test]
    fn nothing_is_known_before_a_read_passed() {
        let passed = Passed::new();
        for generation in 1..4 {
            assert!(!passed.is_of(Stamp {
                generation,
                ..Stamp::NEVER
            }));
        }
        assert!(!passed.has(&read(16_400, 0)));
    }

    #[test]
    fn other_rules_catalogs_or_mode_make_all_of_it_unknown() {
        let others = [
            Stamp {
                generation: 2,
                ..NOW
            },
            Stamp {
                invalidations: 8,
                ..NOW
            },
            Stamp { on: true, ..NOW },
        ];
        for later in others {
            let passed = Passed::new();
            passed.remember(NOW, read(16_400, 1));
            assert!(passed.is_of(NOW) && !passed.is_of(later));
            passed.remember(later, read(16_500, 1));
            assert!(passed.is_of(later) && !passed.is_of(NOW));
            assert!(!passed.has(&read(16_400, 1)) && passed.has(&read(16_500, 1)));
        }
    }

    #[test]
    fn more_reads_than_slots_lose_some_and_confuse_none() {
        let passed = Passed::new();
        for relation in 16_384..17_384 {
            passed.remember(NOW, read(relation, 1 << 8));
        }
        let kept = (16_384..17_384)
            .filter(|relation| passed.has(&read(*relation, 1 << 8)))
            .count();
        assert!((SLOTS / 2..=SLOTS).contains(&kept), "{kept}");
        assert!((17_384..18_384).all(|relation| !passed.has(&read(relation, 1 << 8))));
    }

    #[test]
    fn a_read_is_examined_again_when_rules_or_catalogs_changed() {
        let mut seen = Seen::default();
        assert!(!seen.knows(NOW, 16_400, &Some(vec![1])));
        seen.remember(16_400, Some(vec![1]));
        assert!(seen.knows(NOW, 16_400, &Some(vec![1])));
        assert!(!seen.knows(NOW, 16_400, &None));
        let later = Stamp {
            invalidations: 8,
            ..NOW
        };
        assert!(!seen.knows(later, 16_400, &Some(vec![1])));
        assert!(!seen.knows(NOW, 16_400, &Some(vec![1])));
    }
}
