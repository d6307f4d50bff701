//! Which periods of a purpose's history count for a row, and which cover outlasts another. Pure.

use crate::policy::model::{Cover, CoverPeriod};
use crate::policy::period::{Instant, Period};

/// `one` ends no later than `other`, whatever they are counted from.
fn no_longer(one: Period, other: Period) -> bool {
    one.months <= other.months && one.days <= other.days && one.micros <= other.micros
}

/// The periods that count, from a history that is oldest first, and whether it was ever lengthened.
///
/// The effective period of a row is the shortest in force since it was collected. A period that was replaced
/// counts for rows collected before that moment; where a later one is no longer it need not be looked at, since
/// the later one counts for every such row too. Without a collection date each period counts for every row.
pub fn counting(history: &[(Instant, Period)], collected: bool) -> (Vec<CoverPeriod>, bool) {
    let mut counting: Vec<CoverPeriod> = Vec::new();
    let mut lengthened = false;
    for (at, (since, period)) in history.iter().enumerate() {
        let later = &history[at + 1..];
        if later.iter().any(|(_, later)| no_longer(*later, *period)) {
            continue;
        }
        lengthened |= !later.is_empty();
        let shorter_before = !collected
            && counting
                .iter()
                .any(|earlier| no_longer(earlier.period, *period));
        if shorter_before {
            continue;
        }
        counting.push(CoverPeriod {
            period: *period,
            since: *since,
            collected_before: match later.first() {
                Some((since, _)) if collected => Some(*since),
                _ => None,
            },
        });
    }
    (counting, lengthened)
}

/// `one` surely ends no earlier than `other`.
pub fn outlasts(one: &Cover, other: &Cover) -> bool {
    if one.clock != other.clock || one.ended_at.is_some() && one.ended_at != other.ended_at {
        return false;
    }
    // A withdrawal may end it before.
    if one.consent.is_some() && one != other {
        return false;
    }
    if one.ends_on_erasure && !other.ends_on_erasure {
        return false;
    }
    if one == other {
        return true;
    }
    match (one.periods.as_slice(), other.periods.as_slice()) {
        ([one], [other]) => no_longer(other.period, one.period),
        _ => one.periods == other.periods && one.collected == other.collected,
    }
}
