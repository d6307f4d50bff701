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
    /// Settings of the server that ship data or blind the guard.
    Settings,
    /// What ends flows that run.
    Sentinel,
    /// Copies of tagged data into columns that nobody has tagged.
    Copy,
    /// What lets the other gates warn for a while.
    BreakGlass,
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
            Gate::Settings => "settings",
            Gate::Sentinel => "sentinel",
            Gate::Copy => "copy",
            Gate::BreakGlass => "break-glass",
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

impl Key {
    /// The event as which several of a role's are told when there is no room for each: what they have in common. A
    /// ledger may have counted some of them already, when they were told as one while it took them.
    fn summary(&self) -> Key {
        Key {
            peer: Text::EMPTY,
            region: Text::EMPTY,
            object: Text::EMPTY,
            reason: Text::new(SUMMARY),
            ..*self
        }
    }
}

/// The reason of several events that are told as one.
const SUMMARY: &str = "several: this role had more different events than there was room for";

impl Slot {
    /// Adds the occurrences of another event.
    fn merge(&mut self, other: &Slot) {
        self.count = self.count.saturating_add(other.count);
        self.first_at = self.first_at.min(other.first_at);
        self.last_at = self.last_at.max(other.last_at);
    }
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
    /// What was handed over then: occurrences, the first and the last of them.
    handed: (u64, i64, i64),
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

impl Filter<'_> {
    fn takes(&self, slot: &Slot, now: i64) -> bool {
        let key = &slot.key;
        let unbound = key.database == 0 && key.database_name.as_str().is_empty();
        let own = if key.database == 0 {
            !unbound && key.database_name.as_str() == self.database_name
        } else {
            key.database == self.database
        };
        let orphan = slot.first_at.saturating_add(ORPHAN) <= now;
        own || (self.also_unbound && (unbound || orphan))
    }
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

crate::pg::shared::plain!(
    enum Gate {
        Login,
        Replication,
        Ddl,
        Access,
        Settings,
        Sentinel,
        Copy,
        BreakGlass,
        Row,
        Policy,
    }
    enum Outcome {
        Refused,
        Warned,
    }
);
crate::pg::shared::plain!(
    struct Text<N: usize> { len, bytes }
    struct Key { gate, outcome, database, database_name, role, peer, region, object, reason }
    struct Slot { key, used, count, first_at, last_at, handed_at, handed }
    struct Started { at, crashes }
    struct Ring { slots, lost, lost_handed, started, announced }
);

impl Ring {
    pub const fn new(started_at: i64, crashes: u32) -> Self {
        let slot = Slot {
            key: Key::EMPTY,
            used: false,
            count: 0,
            first_at: 0,
            last_at: 0,
            handed_at: 0,
            handed: (0, 0, 0),
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

    /// Counts an occurrence. With every slot waiting to be handed over, the role that has most of them gives one up:
    /// two of its events are told as one that says so. Where nothing can be told like that, it is counted as lost.
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
                    handed: (0, 0, 0),
                }
            }
            None => self.make_room(key, now),
        }
    }

    /// The role with most of the slots, and how many they are; and how many `role` has.
    fn shares(&self, role: &Text<64>) -> (Text<64>, usize, usize) {
        // For each role its first slot, and the number of its slots.
        let mut counts = [0u16; SLOTS];
        let mut largest = 0;
        let mut own = 0;
        for index in 0..SLOTS {
            let of = &self.slots[index].key.role;
            if of == role {
                own += 1;
            }
            let first = (0..index)
                .find(|first| counts[*first] > 0 && self.slots[*first].key.role == *of)
                .unwrap_or(index);
            counts[first] += 1;
            if counts[first] > counts[largest] {
                largest = first;
            }
        }
        (
            self.slots[largest].key.role,
            usize::from(counts[largest]),
            own,
        )
    }

    /// Counts an occurrence of an event that has no slot, while every slot waits to be handed over.
    fn make_room(&mut self, key: &Key, now: i64) {
        let (largest, most, own) = self.shares(&key.role);
        // Who has as many as anybody else gives up its own.
        let gives = if own >= most { key.role } else { largest };
        let new = Slot {
            key: *key,
            used: true,
            count: 1,
            first_at: now,
            last_at: now,
            handed_at: 0,
            handed: (0, 0, 0),
        };
        if gives == key.role {
            let summary = key.summary();
            let same = self.slots.iter_mut().rev().find(|slot| slot.key == summary);
            if let Some(slot) = same {
                slot.merge(&new);
                return;
            }
            // One of its kind becomes the summary, with the new one in it.
            if let Some(slot) = self
                .slots
                .iter_mut()
                .rev()
                .find(|slot| slot.key.summary() == summary)
            {
                slot.key = summary;
                slot.handed_at = 0;
                slot.merge(&new);
                return;
            }
        }
        match self.fold(&gives) {
            Some(free) => self.slots[free] = new,
            None => self.lost = self.lost.saturating_add(1),
        }
    }

    /// Tells two events of the role as one, and returns the slot that this frees.
    fn fold(&mut self, role: &Text<64>) -> Option<usize> {
        for index in (0..SLOTS).rev() {
            let slot = self.slots[index];
            let summary = slot.key.summary();
            if slot.key.role != *role || slot.key == summary {
                continue;
            }
            let other = (0..SLOTS)
                .find(|other| self.slots[*other].key == summary)
                .or_else(|| (0..index).find(|other| self.slots[*other].key.summary() == summary));
            let Some(other) = other else {
                continue;
            };
            let into = &mut self.slots[other];
            if into.key != summary {
                into.key = summary;
                into.handed_at = 0;
            }
            into.merge(&slot);
            return Some(index);
        }
        None
    }

    /// What waits to be handed over. Nothing is removed: see [`Ring::handed`].
    pub fn pending(&self, filter: Filter, now: i64) -> Handover {
        let fresh = |slot: &Slot| {
            filter.repeats || slot.handed_at == 0 || slot.handed_at.saturating_add(REPEAT) <= now
        };
        let mut events: Vec<Pending> = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| {
                slot.used && slot.count > 0 && filter.takes(slot, now) && fresh(slot)
            })
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

    /// What was handed over at `since` or later: whoever has an older snapshot does not see it in the ledger.
    pub fn handed_since(&self, filter: Filter, since: i64, now: i64) -> Vec<Pending> {
        let handed = self.slots.iter().enumerate();
        handed
            .filter(|(_, slot)| slot.used && slot.handed_at >= since && slot.handed.0 > 0)
            .filter(|(_, slot)| filter.takes(slot, now))
            .map(|(index, slot)| Pending {
                index,
                key: slot.key,
                count: slot.handed.0,
                first_at: slot.handed.1,
                last_at: slot.handed.2,
            })
            .collect()
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
            slot.handed = (event.count, event.first_at, event.last_at);
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
#[path = "ring_tests.rs"]
mod tests;
