//! The bounded, deduplicated store of the guard's events, as it lies in shared memory: fixed size, no
//! pointers. Pure: no server, no clock of its own; the caller holds the lock and says what time it is.

/// Events of different kinds that are kept until they are handed over to a ledger.
pub const SLOTS: usize = 256;

/// Microseconds after which a repeated event is handed over again. A refused standby comes back every five
/// seconds for as long as nobody stops it; the ledger gets a line per hour from it, with a count.
pub const REPEAT: i64 = 3_600_000_000;

/// Microseconds after which an event of a database where nobody collects is handed to whoever takes events
/// of no database.
pub const ORPHAN: i64 = 600_000_000;

/// Text of at most `N` bytes; what is longer is cut at a character and ends in an ellipsis.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize> {
    len: u16,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    pub const EMPTY: Self = Text {
        len: 0,
        bytes: [0; N],
    };

    pub fn new(text: &str) -> Self {
        const ELLIPSIS: &str = "…";
        let mut stored = Self::EMPTY;
        let (kept, tail) = if text.len() <= N {
            (text, "")
        } else {
            let mut end = N.saturating_sub(ELLIPSIS.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            (&text[..end], ELLIPSIS)
        };
        for byte in kept.bytes().chain(tail.bytes()).take(N) {
            // A null byte has no place in the server's text.
            stored.bytes[usize::from(stored.len)] = if byte == 0 { b' ' } else { byte };
            stored.len += 1;
        }
        stored
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }
}

/// What refused or warned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Gate {
    Login,
    Replication,
    Ddl,
    Access,
    /// What ends flows that run.
    Sentinel,
    /// The row guard: legal holds and statutory minimums.
    Row,
    /// What only stewards, or owners, may decide: tags, purposes, minimums, holds, approvals.
    Policy,
}

impl Gate {
    pub const fn as_str(self) -> &'static str {
        match self {
            Gate::Login => "login",
            Gate::Replication => "replication",
            Gate::Ddl => "ddl",
            Gate::Access => "access",
            Gate::Sentinel => "sentinel",
            Gate::Row => "row",
            Gate::Policy => "policy",
        }
    }
}

/// What happened to the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// It was refused.
    Refused,
    /// It was let through, and would have been refused by `on`.
    Warned,
}

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Refused => "refused",
            Outcome::Warned => "warned",
        }
    }
}

/// What makes two events the same event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub gate: Gate,
    pub outcome: Outcome,
    /// OID of the database, 0 when it is not known.
    pub database: u32,
    /// Name of the database, for events that precede the knowledge of its OID; empty for none.
    pub database_name: Text<64>,
    pub role: Text<64>,
    pub peer: Text<96>,
    pub region: Text<64>,
    pub object: Text<192>,
    pub reason: Text<320>,
}

impl Key {
    const EMPTY: Self = Key {
        gate: Gate::Login,
        outcome: Outcome::Warned,
        database: 0,
        database_name: Text::EMPTY,
        role: Text::EMPTY,
        peer: Text::EMPTY,
        region: Text::EMPTY,
        object: Text::EMPTY,
        reason: Text::EMPTY,
    };
}

/// Occurrences of one event. Times are microseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy)]
struct Slot {
    key: Key,
    used: bool,
    /// Occurrences that no ledger has yet.
    count: u64,
    first_at: i64,
    last_at: i64,
    /// When it was last handed over, 0 for never.
    handed_at: i64,
}

/// Whose events are meant.
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a> {
    pub database: u32,
    pub database_name: &'a str,
    /// Those of no database too, and those that nobody came for.
    pub also_unbound: bool,
    /// Those too that were handed over less than [`REPEAT`] ago.
    pub repeats: bool,
}

/// Occurrences of one event that no ledger has yet.
#[derive(Clone, Copy)]
pub struct Pending {
    index: usize,
    pub key: Key,
    pub count: u64,
    pub first_at: i64,
    pub last_at: i64,
}

/// When the memory was set up, and how often that was after a crash since the server was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    pub at: i64,
    pub crashes: u32,
}

/// What a ledger is about to take.
pub struct Handover {
    database: u32,
    pub events: Vec<Pending>,
    /// The start of the store, for a ledger that does not have it yet.
    pub started: Option<Started>,
    /// Lost occurrences that no ledger mentions yet.
    pub lost: u64,
}

impl Handover {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.started.is_none() && self.lost == 0
    }
}

/// Databases whose ledgers have the start of the store, at most.
const DATABASES: usize = 64;

/// The store itself.
#[derive(Clone, Copy)]
pub struct Ring {
    slots: [Slot; SLOTS],
    /// Occurrences for which there was no room, and how many of them a ledger mentions.
    lost: u64,
    lost_handed: u64,
    started: Started,
    /// The databases whose ledgers have the start.
    announced: [u32; DATABASES],
}

impl Ring {
    pub const fn new(started_at: i64, crashes: u32) -> Self {
        let slot = Slot {
            key: Key::EMPTY,
            used: false,
            count: 0,
            first_at: 0,
            last_at: 0,
            handed_at: 0,
        };
        Ring {
            slots: [slot; SLOTS],
            lost: 0,
            lost_handed: 0,
            started: Started {
                at: started_at,
                crashes,
            },
            announced: [0; DATABASES],
        }
    }

    /// Occurrences for which there was no room since the memory was set up.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Counts an occurrence. With every slot waiting to be handed over it is counted as lost.
    pub fn record(&mut self, key: &Key, now: i64) {
        let mut room: Option<usize> = None;
        for index in 0..SLOTS {
            let slot = &mut self.slots[index];
            if slot.used && slot.key == *key {
                if slot.count == 0 {
                    slot.first_at = now;
                }
                slot.count = slot.count.saturating_add(1);
                slot.last_at = now;
                return;
            }
            if slot.used && slot.count > 0 {
                continue;
            }
            // Free slots first, then the one whose event was handed over longest ago.
            let age = |slot: &Slot| if slot.used { slot.handed_at } else { i64::MIN };
            if room.is_none_or(|best| age(&self.slots[index]) < age(&self.slots[best])) {
                room = Some(index);
            }
        }
        match room {
            Some(index) => {
                self.slots[index] = Slot {
                    key: *key,
                    used: true,
                    count: 1,
                    first_at: now,
                    last_at: now,
                    handed_at: 0,
                }
            }
            None => self.lost = self.lost.saturating_add(1),
        }
    }

    /// What waits to be handed over. Nothing is removed: see [`Ring::handed`].
    pub fn pending(&self, filter: Filter, now: i64) -> Handover {
        let mine = |slot: &Slot| {
            let key = &slot.key;
            let unbound = key.database == 0 && key.database_name.as_str().is_empty();
            let own = if key.database == 0 {
                !unbound && key.database_name.as_str() == filter.database_name
            } else {
                key.database == filter.database
            };
            let orphan = slot.first_at.saturating_add(ORPHAN) <= now;
            own || (filter.also_unbound && (unbound || orphan))
        };
        let fresh = |slot: &Slot| {
            filter.repeats || slot.handed_at == 0 || slot.handed_at.saturating_add(REPEAT) <= now
        };
        let mut events: Vec<Pending> = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.used && slot.count > 0 && mine(slot) && fresh(slot))
            .map(|(index, slot)| Pending {
                index,
                key: slot.key,
                count: slot.count,
                first_at: slot.first_at,
                last_at: slot.last_at,
            })
            .collect();
        events.sort_by_key(|event| event.first_at);
        let announced = self.announced.contains(&filter.database) || !self.announced.contains(&0);
        Handover {
            database: filter.database,
            events,
            started: (!announced).then_some(self.started),
            lost: if filter.also_unbound {
                self.lost.saturating_sub(self.lost_handed)
            } else {
                0
            },
        }
    }

    /// Takes off what a ledger now has. Occurrences that came in the meantime stay.
    pub fn handed(&mut self, handover: &Handover, now: i64) {
        for event in &handover.events {
            let slot = &mut self.slots[event.index];
            if !slot.used || slot.key != event.key {
                continue;
            }
            slot.count = slot.count.saturating_sub(event.count);
            slot.first_at = event.last_at;
            slot.handed_at = now;
        }
        if handover.started == Some(self.started)
            && let Some(free) = self.announced.iter_mut().find(|database| **database == 0)
        {
            *free = handover.database;
        }
        self.lost_handed = self.lost_handed.saturating_add(handover.lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(database: u32, object: &str) -> Key {
        Key {
            gate: Gate::Ddl,
            outcome: Outcome::Refused,
            database,
            role: Text::new("app"),
            object: Text::new(object),
            ..Key::EMPTY
        }
    }

    fn filter(database: u32) -> Filter<'static> {
        Filter {
            database,
            database_name: "shop",
            also_unbound: false,
            repeats: false,
        }
    }

    fn ring() -> Box<Ring> {
        Box::new(Ring::new(0, 0))
    }

    #[test]
    fn text_is_cut_at_a_character() {
        assert_eq!(Text::<8>::new("abc").as_str(), "abc");
        assert_eq!(Text::<8>::new("abcdefgh").as_str(), "abcdefgh");
        assert_eq!(Text::<8>::new("abcdefghi").as_str(), "abcde…");
        assert_eq!(Text::<8>::new("öööööö").as_str(), "öö…");
        assert_eq!(Text::<8>::new("a\0b").as_str(), "a b");
    }

    #[test]
    fn the_same_event_is_counted_once() {
        let mut ring = ring();
        ring.record(&key(1, "a"), 10);
        ring.record(&key(1, "b"), 11);
        ring.record(&key(1, "a"), 12);
        let pending = ring.pending(filter(1), 20).events;
        assert_eq!(pending.len(), 2);
        assert_eq!(
            (pending[0].count, pending[0].first_at, pending[0].last_at),
            (2, 10, 12)
        );
        assert_eq!(pending[1].count, 1);
        assert!(ring.pending(filter(2), 20).events.is_empty());
    }

    #[test]
    fn what_was_not_handed_over_is_still_there() {
        let mut ring = ring();
        ring.record(&key(1, "a"), 10);
        let first = ring.pending(filter(1), 20);
        ring.record(&key(1, "a"), 21);
        assert_eq!(ring.pending(filter(1), 22).events[0].count, 2);
        ring.handed(&first, 23);
        let force = Filter {
            repeats: true,
            ..filter(1)
        };
        let rest = ring.pending(force, 24).events;
        assert_eq!((rest[0].count, rest[0].last_at), (1, 21));
        assert!(ring.pending(filter(1), 24).events.is_empty());
        assert_eq!(ring.pending(filter(1), 23 + REPEAT).events.len(), 1);
    }

    #[test]
    fn handing_over_twice_takes_off_once() {
        let mut ring = ring();
        ring.record(&key(1, "a"), 10);
        let pending = ring.pending(filter(1), 20);
        ring.handed(&pending, 21);
        ring.handed(&pending, 22);
        ring.record(&key(1, "a"), 23);
        let force = Filter {
            repeats: true,
            ..filter(1)
        };
        assert_eq!(ring.pending(force, 24).events[0].count, 1);
        assert_eq!(ring.pending(force, 24).events[0].first_at, 23);
    }

    #[test]
    fn overflow_is_counted_and_handed_over_slots_are_reused() {
        let mut ring = ring();
        for number in 0..SLOTS + 3 {
            ring.record(&key(1, &number.to_string()), number as i64);
        }
        assert_eq!(ring.lost(), 3);
        let pending = ring.pending(filter(1), 1000);
        assert_eq!((pending.events.len(), pending.lost), (SLOTS, 0));
        let mut one = ring.pending(filter(1), 1000);
        one.events.truncate(1);
        ring.handed(&one, 1000);
        ring.record(&key(1, "new"), 1001);
        ring.record(&key(1, "newer"), 1002);
        assert_eq!(ring.lost(), 4);
    }

    #[test]
    fn unbound_and_orphaned_events_go_to_the_one_that_is_told_so() {
        let mut ring = ring();
        ring.record(&key(0, "physical standby"), 10);
        ring.record(&key(7, "database without the extension"), 11);
        let mut named = key(0, "login");
        named.database_name = Text::new("shop");
        ring.record(&named, 12);
        assert_eq!(ring.pending(filter(1), 20).events.len(), 1);
        let all = Filter {
            also_unbound: true,
            ..filter(1)
        };
        assert_eq!(ring.pending(all, 20).events.len(), 2);
        assert_eq!(ring.pending(all, 11 + ORPHAN).events.len(), 3);
    }

    #[test]
    fn the_start_is_told_to_each_ledger_once_and_losses_to_one() {
        let mut ring = Box::new(Ring::new(5, 1));
        let started = Some(Started { at: 5, crashes: 1 });
        for number in 0..SLOTS + 2 {
            ring.record(&key(9, &number.to_string()), 0);
        }
        let all = Filter {
            also_unbound: true,
            ..filter(1)
        };
        let first = ring.pending(all, 20);
        assert_eq!((first.started, first.lost), (started, 2));
        ring.handed(&first, 20);
        let second = ring.pending(all, 21);
        assert_eq!((second.started, second.lost), (None, 0));
        assert!(second.is_empty());
        assert_eq!(ring.pending(filter(2), 21).started, started);
        for database in 2..=DATABASES as u32 + 1 {
            let handover = ring.pending(filter(database), 22);
            ring.handed(&handover, 22);
        }
        assert_eq!(ring.pending(filter(1000), 23).started, None);
    }
}
